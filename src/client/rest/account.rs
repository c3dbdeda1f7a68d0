//! REST calls about the caller's identity and API key.

use super::RestClient;
use crate::client::blocking_call::RestRequest;
use crate::credentials::claims::{Claims, JWT_PREFIX};
use crate::error::{Error, ErrorKind, Result};
use crate::http::{Endpoint, endpoint};
use crate::types::{ApiKeyInfo, Identity};

impl RestClient {
    /// Reads the caller's identity from the claims of the token that requests carry (PROTOCOL §1.4); the API has no
    /// endpoint for it.
    ///
    /// # Errors
    /// [`Incompatible`](crate::ErrorKind::Incompatible) if the credential is an API key that was not exchanged for a
    /// token, or a token of another issuer. Otherwise as for [`RestClient`].
    ///
    /// # Blocking
    /// For one request, at most `Timeouts::exchange`, if a token has to be fetched; the first call may also fetch the
    /// server's flags, see [`RestClient`]. Otherwise it does not block.
    pub fn whoami(&self) -> Result<Identity> {
        self.caller.run("RestClient.whoami", |_| {
            let http = &self.caller.session().http;
            let credential = http.credential()?;
            let claims = Claims::read(credential.expose()).filter(|claims| {
                // An exchanged token comes from the server. A token from the caller may come from another issuer.
                http.auth().is_exchanged(&credential)
                    || claims.iss.as_deref().is_some_and(|issuer| issuer.starts_with("passport-"))
            });
            match claims {
                Some(claims) => identity(claims),
                None => Err(Error::new(
                    ErrorKind::Incompatible,
                    "the identity is unknown: it is read from a token of the Tinker service, but the credential is an \
                     API key that was not exchanged for a token, or a token of another issuer",
                )),
            }
        })
    }

    /// Reads the properties of the API key (PROTOCOL §3.1 #4).
    ///
    /// # Errors
    /// A credential that is not an API key (nothing is sent), [`Auth`](crate::ErrorKind::Auth), and as for
    /// [`RestClient`].
    ///
    /// # Blocking
    /// For one request; see [`RestClient`].
    pub fn get_api_key_info(&self) -> Result<ApiKeyInfo> {
        let request = self.key_request(&endpoint::API_KEY)?;
        self.caller.run_without_flags("RestClient.get_api_key_info", |call| call.json(&request))
    }

    /// Revokes the API key of this client. Later calls of the client fail.
    ///
    /// # Errors
    /// As for [`get_api_key_info`](Self::get_api_key_info).
    ///
    /// # Blocking
    /// For one request; see [`RestClient`].
    pub fn revoke_api_key(&self) -> Result<()> {
        let request = self.key_request(&endpoint::REVOKE_API_KEY)?;
        self.caller.run_without_flags("RestClient.revoke_api_key", |call| call.answer(&request).map(|_| ()))
    }

    /// Makes a request that carries the API key itself instead of a token.
    fn key_request(&self, endpoint: &'static Endpoint) -> Result<RestRequest> {
        if self.caller.session().http.auth().raw()?.expose().starts_with(JWT_PREFIX) {
            return Err(Error::invalid("api_key", "is a token, not an API key"));
        }
        let mut request = RestRequest::new(endpoint, endpoint.path());
        request.call.raw_credential = true;
        Ok(request)
    }
}

fn identity(claims: Claims) -> Result<Identity> {
    Ok(Identity {
        user_urn: claims.sub.ok_or_else(|| Error::new(ErrorKind::Decode, "the token has no claim `sub`"))?,
        org_urn: claims.org_id.map(|id| format!("tml:organization:{id}")),
        email: claims.email,
    })
}

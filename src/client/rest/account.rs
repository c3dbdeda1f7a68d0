//! Who is asking, and with which key.

use super::RestClient;
use crate::client::asking::Ask;
use crate::credentials::claims::{Claims, JWT_PREFIX};
use crate::error::{Error, ErrorKind, Result};
use crate::http::{Endpoint, endpoint};
use crate::session::incomplete;
use crate::types::{ApiKeyInfo, Identity};

impl RestClient {
    /// Whom the credential stands for: what the token says that requests carry (PROTOCOL §1.4). There is no endpoint for
    /// it.
    ///
    /// # Errors
    /// [`Incompatible`](crate::ErrorKind::Incompatible) if there is no token to read: the server takes API keys as they
    /// are, and the credential is one, or a token of somebody else's. Otherwise as for [`RestClient`].
    ///
    /// # Blocking
    /// If a token has to be fetched, for one request, at most `Timeouts::exchange`. Not at all otherwise.
    pub fn whoami(&self) -> Result<Identity> {
        self.asker.run("RestClient.whoami", |_| {
            let http = &self.asker.session().http;
            let credential = http.credential()?;
            let claims = Claims::read(credential.expose()).filter(|it| {
                // A token that was exchanged comes from the server; one that the caller gave may come from anywhere.
                http.auth().is_exchanged(&credential)
                    || it.iss.as_deref().is_some_and(|it| it.starts_with("passport-"))
            });
            match claims {
                Some(claims) => identity(claims),
                None => Err(Error::new(
                    ErrorKind::Incompatible,
                    "nothing says whom the credential stands for: this server takes it as it is, and it is no token of \
                     the service",
                )),
            }
        })
    }

    /// What the server knows of the API key (PROTOCOL §3.1 #4).
    ///
    /// # Errors
    /// A credential that is no API key (nothing is sent), [`Auth`](crate::ErrorKind::Auth), and as for [`RestClient`].
    ///
    /// # Blocking
    /// For one request; see [`RestClient`].
    pub fn get_api_key_info(&self) -> Result<ApiKeyInfo> {
        let ask = self.about_key(&endpoint::API_KEY)?;
        self.asker.run_unprepared("RestClient.get_api_key_info", |it| it.json(&ask))
    }

    /// Revokes the API key with which this client works. Nothing else of this client will work afterwards.
    ///
    /// # Errors
    /// As for [`get_api_key_info`](Self::get_api_key_info).
    ///
    /// # Blocking
    /// For one request; see [`RestClient`].
    pub fn revoke_api_key(&self) -> Result<()> {
        let ask = self.about_key(&endpoint::REVOKE_API_KEY)?;
        self.asker.run_unprepared("RestClient.revoke_api_key", |it| it.answer(&ask).map(|_| ()))
    }

    /// A request that carries the key itself, whatever token stands for it elsewhere.
    fn about_key(&self, endpoint: &'static Endpoint) -> Result<Ask> {
        if self.asker.session().http.auth().raw()?.expose().starts_with(JWT_PREFIX) {
            return Err(Error::invalid("api_key", "is a token, not an API key"));
        }
        let mut ask = Ask::new(endpoint, endpoint.path());
        ask.call.raw_credential = true;
        Ok(ask)
    }
}

fn identity(claims: Claims) -> Result<Identity> {
    Ok(Identity {
        user_urn: claims.sub.ok_or_else(|| incomplete("the user"))?,
        org_urn: claims.org_id.map(|it| format!("tml:organization:{it}")),
        email: claims.email,
    })
}

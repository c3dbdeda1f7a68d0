//! What the server wants of its clients (PROTOCOL §3.1).

use std::time::Duration;

use crate::config::{Config, SDK_VERSION};
use crate::error::{Error, Result};
use crate::http::{Call, Http, Lane};
use crate::sync::CancelToken;
use crate::wire::json::{ClientConfig, ClientConfigRequest, DynamicConfig};

/// The server's flags; the documented defaults where it does not say.
#[derive(Clone, Debug, Default)]
pub(crate) struct Flags {
    pub(crate) config: ClientConfig,
    pub(crate) dynamic: DynamicConfig,
}

/// Asks for the flags. Servers that do not offer them get the defaults.
pub(super) fn fetch(http: &Http, config: &Config, cancel: &CancelToken) -> Result<Flags> {
    let request = ClientConfigRequest { sdk_version: SDK_VERSION.into() };
    let call = Call::post(Lane::Session, "/api/v1/client/config", &request)?;
    let client: ClientConfig = or_default(http.json(&call, cancel))?;
    heed(http, &client);
    let mut call = Call::post(Lane::Session, "/api/v1/client/dynamic_config", &request)?;
    call.timeout = Some(config.timeouts.heartbeat);
    let dynamic = or_default(http.json(&call, cancel))?;
    Ok(Flags { config: client, dynamic })
}

/// Has requests made as the flags want them.
pub(super) fn heed(http: &Http, client: &ClientConfig) {
    if client.pjwt_auth_enabled {
        http.auth().use_tokens();
    }
    // A number that is no time says nothing.
    if let Ok(window) = Duration::try_from_secs_f64(client.billing_exception_max_pause_duration_sec) {
        http.set_billing_window(window);
    }
}

fn or_default<T: Default>(result: Result<T>) -> Result<T> {
    match result {
        Err(error) if is_not_offered(&error) => Ok(T::default()),
        other => other,
    }
}

/// The endpoint does not exist on this server.
pub(crate) fn is_not_offered(error: &Error) -> bool {
    matches!(error.http_status(), Some(404 | 405))
}

//! What the server wants of its clients (PROTOCOL §3.1).

use std::time::Duration;

use crate::config::Config;
use crate::error::{Error, Result};
use crate::http::{Call, Http, Lane};
use crate::policy::offered::{Names, Word, judge};
use crate::sync::CancelToken;
use crate::wire::json::{ClientConfig, ClientConfigRequest, DynamicConfig};

/// The server's flags; the documented defaults where it does not say.
#[derive(Clone, Debug, Default)]
pub(crate) struct Flags {
    pub(crate) config: ClientConfig,
    /// Those that may change while the session lives.
    pub(crate) dynamic: DynamicConfig,
    /// The server has such flags, so that asking again makes sense.
    pub(crate) is_dynamic: bool,
}

/// Asks for the flags. Servers that do not offer them get the defaults.
pub(super) fn fetch(http: &Http, config: &Config, cancel: &CancelToken) -> Result<Flags> {
    let request = ClientConfigRequest { sdk_version: config.sdk_version.clone() };
    let call = Call::post(Lane::Session, "/api/v1/client/config", &request)?;
    let client: ClientConfig = offered(http.json(&call, cancel))?.unwrap_or_default();
    heed(http, &client)?;
    let dynamic = offered(http.json(&dynamic_call(config)?, cancel))?;
    Ok(Flags { config: client, is_dynamic: dynamic.is_some(), dynamic: dynamic.unwrap_or_default() })
}

/// Has requests made as the flags want them.
pub(super) fn heed(http: &Http, client: &ClientConfig) -> Result<()> {
    http.auth().adapt(client.pjwt_auth_enabled, client.credential_default_source == "credential_cmd")?;
    // A number that is no time says nothing.
    if let Ok(window) = Duration::try_from_secs_f64(client.billing_exception_max_pause_duration_sec) {
        http.set_billing_window(window);
    }
    Ok(())
}

/// Asks once more for the flags that may change. `None` if the server does not offer them any more.
pub(super) fn fetch_dynamic(
    http: &Http,
    config: &Config,
    cancel: &CancelToken,
) -> Result<Option<DynamicConfig>> {
    offered(http.json(&dynamic_call(config)?.once(config.timeouts.heartbeat), cancel))
}

fn dynamic_call(config: &Config) -> Result<Call> {
    let request = ClientConfigRequest { sdk_version: config.sdk_version.clone() };
    let mut call = Call::post(Lane::Session, "/api/v1/client/dynamic_config", &request)?;
    call.timeout = Some(config.timeouts.heartbeat);
    Ok(call)
}

/// `None` from a server that does not have the endpoint.
fn offered<T>(result: Result<T>) -> Result<Option<T>> {
    match result {
        Err(error) if is_not_offered(&error) => Ok(None),
        other => other.map(Some),
    }
}

/// A 404 is about the thing that was named, and the endpoint exists.
pub(crate) fn names_what_is_missing(error: &Error) -> bool {
    let detail = error.message().split_once(": ").map_or("", |it| it.1);
    let word = error.http_status().map(|it| judge(it, detail, Names::Something));
    word == Some(Word::Present)
}

/// The endpoint does not exist on this server.
pub(crate) fn is_not_offered(error: &Error) -> bool {
    matches!(error.http_status(), Some(404 | 405))
}

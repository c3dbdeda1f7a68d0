//! What the server wants of its clients (PROTOCOL §3.1).

use std::time::Duration;

use crate::config::Config;
use crate::error::{Error, ErrorKind, Phase, Result, Sent};
use crate::http::{Call, Http, Lane, endpoint};
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
    /// The server does not tell any flags, as those of the time before protobuf.
    pub(crate) are_missing: bool,
    /// The server could not be asked, so that these are the defaults. They are asked for again.
    pub(crate) are_assumed: bool,
}

/// How long the flags are asked for before work begins without them.
const PATIENCE: Duration = Duration::from_secs(20);

/// Asks for the flags. Servers that do not offer them get the defaults; so do, for the time being, those that are in no
/// state to tell, because every flag has a default.
pub(super) fn fetch(http: &Http, config: &Config, cancel: &CancelToken) -> Result<Flags> {
    let mut call = config_call(config)?;
    call.budget = Some(PATIENCE.min(config.timeouts.submit));
    match learn(http, config, &call, cancel) {
        Err(error) if is_passing(&error) && http.auth().can_do_without_tokens() => {
            log::warn!(
                target: "tinkex",
                "the server does not tell its flags, so the documented ones hold until it does, and the credential is sent \
                 as it is: {error}"
            );
            Ok(Flags { are_assumed: true, ..Flags::default() })
        }
        other => other,
    }
}

/// Asks once for the flags that were assumed until now.
pub(super) fn fetch_late(http: &Http, config: &Config, cancel: &CancelToken) -> Result<Flags> {
    learn(http, config, &config_call(config)?.once(config.timeouts.heartbeat), cancel)
}

fn learn(http: &Http, config: &Config, call: &Call, cancel: &CancelToken) -> Result<Flags> {
    let client: Option<ClientConfig> = offered(http.json(call, cancel))?;
    let are_missing = client.is_none();
    let client = client.unwrap_or_default();
    heed(http, &client)?;
    let flags = Flags { config: client, are_missing, ..Flags::default() };
    match fetch_dynamic(http, config, cancel) {
        Ok(dynamic) => {
            Ok(Flags { is_dynamic: dynamic.is_some(), dynamic: dynamic.unwrap_or_default(), ..flags })
        }
        Err(error) if is_passing(&error) => {
            log::warn!(target: "tinkex", "the server does not tell the flags that may change: {error}");
            // Zero is the shortest interval that there is.
            let dynamic = DynamicConfig { refresh_interval_sec: 0.0, ..DynamicConfig::default() };
            Ok(Flags { is_dynamic: true, dynamic, ..flags })
        }
        Err(error) => Err(error),
    }
}

/// The server is there, and may do better later. A wrong address or a refused credential is the caller's affair.
fn is_passing(error: &Error) -> bool {
    let never_arrived = matches!(
        error.kind(),
        ErrorKind::Connection { sent: Sent::No } | ErrorKind::Timeout(Phase::Resolve | Phase::Connect)
    );
    // A circuit that is open says what the caller wanted to hear.
    error.is_retryable() && !never_arrived && *error.kind() != ErrorKind::CircuitOpen
}

fn config_call(config: &Config) -> Result<Call> {
    let request = ClientConfigRequest { sdk_version: config.sdk_version.clone() };
    Call::post(Lane::Session, &endpoint::CLIENT_CONFIG, &request)
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

/// Asks once for the flags that may change. `None` if the server does not offer them.
pub(super) fn fetch_dynamic(
    http: &Http,
    config: &Config,
    cancel: &CancelToken,
) -> Result<Option<DynamicConfig>> {
    let request = ClientConfigRequest { sdk_version: config.sdk_version.clone() };
    let call = Call::post(Lane::Session, &endpoint::CLIENT_DYNAMIC_CONFIG, &request)?;
    offered(http.json(&call.once(config.timeouts.heartbeat), cancel))
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
    let detail = error.detail().unwrap_or_default();
    let word = error.http_status().map(|status| judge(status, detail, Names::Something));
    word == Some(Word::Present)
}

/// The endpoint does not exist on this server.
pub(crate) fn is_not_offered(error: &Error) -> bool {
    matches!(error.http_status(), Some(404 | 405))
}

//! The server's flags (PROTOCOL §3.1) and their refresh. Also the message formats that the server has proved to
//! support.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::config::Config;
use crate::error::{Error, Result};
use crate::http::{Call, Http, Lane, endpoint};
use crate::policy::endpoints::{Names, Presence, presence};
use crate::policy::forms::{Form, Forms, Next, Outcome};
use crate::policy::resubmit::may_assume_flags;
use crate::sync::task::{Turn, Work};
use crate::sync::{CancelToken, Mutex, unwind};
use crate::wire::json::{ClientConfig, ClientConfigRequest, DynamicConfig};

use super::{Job, Session};

/// The server's flags, with the documented defaults for missing ones.
#[derive(Clone, Debug, Default)]
pub(crate) struct Flags {
    pub(crate) config: ClientConfig,
    /// Flags that may change during the session.
    pub(crate) dynamic: DynamicConfig,
    /// The server has dynamic flags. They are fetched again at intervals.
    pub(crate) is_dynamic: bool,
    /// The server lacks the endpoint of the flags. Servers without support for protobuf lack it.
    pub(crate) are_missing: bool,
    /// The flags could not be fetched: these are the defaults, and the fetch is repeated.
    pub(crate) are_assumed: bool,
}

/// Shortest pause between two fetches.
const SHORTEST_INTERVAL: Duration = Duration::from_secs(10);
/// Longest pause between two fetches, whatever interval the server names.
const LONGEST_INTERVAL: Duration = Duration::from_secs(24 * 3600);
/// Time limit of the first fetch, after which the defaults apply.
const FETCH_BUDGET: Duration = Duration::from_secs(20);

/// Fetches all flags. For a server without the endpoint, returns the defaults. If the server was reached but the fetch
/// failed and may succeed later, returns the defaults, which apply until the next fetch. This requires a credential
/// that can be sent without tokens.
pub(super) fn fetch(http: &Http, config: &Config, cancel: &CancelToken) -> Result<Flags> {
    let mut call = config_call(config)?;
    call.budget = Some(FETCH_BUDGET.min(config.timeouts.submit));
    match fetch_all(http, config, &call, cancel) {
        Err(error) if may_assume_flags(&error) && http.auth().can_do_without_tokens() => {
            log::warn!(
                target: "tinkex",
                "the server's flags could not be fetched; until they are, the documented defaults apply and the credential \
                 is sent without exchanging it for a token: {error}"
            );
            Ok(Flags { are_assumed: true, ..Flags::default() })
        }
        other => other,
    }
}

/// Fetches all flags with one attempt, to replace assumed ones.
pub(super) fn fetch_assumed(http: &Http, config: &Config, cancel: &CancelToken) -> Result<Flags> {
    fetch_all(http, config, &config_call(config)?.once(config.timeouts.heartbeat), cancel)
}

fn fetch_all(http: &Http, config: &Config, call: &Call, cancel: &CancelToken) -> Result<Flags> {
    let client: Option<ClientConfig> = none_without_endpoint(http.json(call, cancel))?;
    let are_missing = client.is_none();
    let client = client.unwrap_or_default();
    apply(http, &client)?;
    let flags = Flags { config: client, are_missing, ..Flags::default() };
    match fetch_dynamic(http, config, cancel) {
        Ok(dynamic) => {
            Ok(Flags { is_dynamic: dynamic.is_some(), dynamic: dynamic.unwrap_or_default(), ..flags })
        }
        Err(error) if may_assume_flags(&error) => {
            log::warn!(target: "tinkex", "the server's dynamic flags could not be fetched: {error}");
            // An interval of 0 is raised to the shortest interval, so that the next fetch follows soon.
            let dynamic = DynamicConfig { refresh_interval_sec: 0.0, ..DynamicConfig::default() };
            Ok(Flags { is_dynamic: true, dynamic, ..flags })
        }
        Err(error) => Err(error),
    }
}

fn config_call(config: &Config) -> Result<Call> {
    let request = ClientConfigRequest { sdk_version: config.sdk_version.clone() };
    Call::post(Lane::Session, &endpoint::CLIENT_CONFIG, &request)
}

/// Applies the flags that concern authentication and payment.
pub(super) fn apply(http: &Http, client: &ClientConfig) -> Result<()> {
    http.auth().adapt(client.pjwt_auth_enabled, client.credential_default_source == "credential_cmd")?;
    // Ignore values that are not durations, such as NaN.
    if let Ok(window) = Duration::try_from_secs_f64(client.billing_exception_max_pause_duration_sec) {
        http.set_billing_window(window);
    }
    Ok(())
}

/// Fetches the dynamic flags with one attempt. `None` if the server lacks the endpoint.
pub(super) fn fetch_dynamic(
    http: &Http,
    config: &Config,
    cancel: &CancelToken,
) -> Result<Option<DynamicConfig>> {
    let request = ClientConfigRequest { sdk_version: config.sdk_version.clone() };
    let call = Call::post(Lane::Session, &endpoint::CLIENT_DYNAMIC_CONFIG, &request)?;
    none_without_endpoint(http.json(&call.once(config.timeouts.heartbeat), cancel))
}

/// Maps the error of a missing endpoint to `None`.
fn none_without_endpoint<T>(result: Result<T>) -> Result<Option<T>> {
    match result {
        Err(error) if lacks_endpoint(&error) => Ok(None),
        other => other.map(Some),
    }
}

/// Returns whether an answer shows that the endpoint exists. A 404 then means that the requested object does not exist.
pub(crate) fn is_about_resource(error: &Error) -> bool {
    let detail = error.detail().unwrap_or_default();
    let found = error.http_status().map(|status| presence(status, detail, Names::Something));
    found == Some(Presence::Present)
}

/// Returns whether an error shows that the server lacks the endpoint.
pub(crate) fn lacks_endpoint(error: &Error) -> bool {
    matches!(error.http_status(), Some(404 | 405))
}

/// Refreshes the dynamic flags (PROTOCOL §3.1 #2). If the flags are assumed, fetches all flags to replace them.
pub(super) struct FlagRefresh;

impl Work for FlagRefresh {
    type Owner = Session;

    /// Waits for one interval, then fetches. Idle if there is nothing to refresh or the session ends.
    fn turn(&self, session: &Arc<Session>) -> Turn {
        let known = session.known_flags();
        if !known.are_assumed && !known.is_dynamic {
            return Turn::Idle;
        }
        let pause = if known.are_assumed { SHORTEST_INTERVAL } else { interval(&known) };
        if session.clock.tick(pause, &session.cancel).is_err() {
            return Turn::Idle;
        }
        // After an error, or a panic in code of the user, the known flags stay in use.
        if known.are_assumed {
            match unwind::catch(|| fetch_assumed(&session.http, &session.config, &session.cancel)).flatten() {
                Ok(flags) => {
                    log::info!(target: "tinkex", "the server's flags were fetched and replace the defaults");
                    session.apply(&Arc::new(flags));
                }
                Err(error) => {
                    log::debug!(target: "tinkex", "the server's flags still could not be fetched: {error}");
                }
            }
        } else {
            match unwind::catch(|| fetch_dynamic(&session.http, &session.config, &session.cancel)).flatten() {
                Ok(dynamic) => {
                    let is_dynamic = dynamic.is_some();
                    let (config, dynamic) = (known.config.clone(), dynamic.unwrap_or_default());
                    let flags = Flags { config, dynamic, is_dynamic, ..*known };
                    *session.flags.lock() = Some(Arc::new(flags));
                }
                Err(error) => {
                    log::debug!(target: "tinkex", "the server's dynamic flags could not be fetched and stay as they were: {error}")
                }
            }
        }
        Turn::Again
    }

    fn lost(&self, session: &Arc<Session>, error: &Error) {
        if !session.cancel.is_cancelled() {
            log::warn!(target: "tinkex", "the server's flags are not fetched again until the next heartbeat: {error}");
        }
    }
}

fn interval(flags: &Flags) -> Duration {
    let wanted = Duration::try_from_secs_f64(flags.dynamic.refresh_interval_sec);
    wanted.unwrap_or(SHORTEST_INTERVAL).clamp(SHORTEST_INTERVAL, LONGEST_INTERVAL)
}

impl Session {
    /// Starts the refresh if the flags are dynamic or assumed. If the system refuses the thread, the next heartbeat
    /// tries again.
    pub(super) fn start_flag_refresh(self: &Arc<Self>) {
        let flags = self.known_flags();
        if flags.is_dynamic || flags.are_assumed {
            let _ = self.flag_refresh.wake(self, &self.pool[Job::Refresh]);
        }
    }
}

/// Message formats that the server has proved to support, beyond what its flags say.
#[derive(Debug, Default)]
pub(crate) struct ServerFormats {
    reports_loss: AtomicBool,
    forms: Mutex<Forms>,
}

impl ServerFormats {
    /// Returns whether the server has once reported the sum of a loss. Then the sum need not be computed here.
    pub(crate) fn reports_loss(&self) -> bool {
        self.reports_loss.load(Ordering::Relaxed)
    }

    /// Records that the server reported the sum of a loss.
    pub(crate) fn note_loss(&self) {
        self.reports_loss.store(true, Ordering::Relaxed);
    }

    /// Records that the server lacks an endpoint that every server with protobuf has.
    pub(crate) fn note_old(&self) {
        self.forms.lock().note_old();
    }

    /// Decides the message format (JSON or protobuf) in which a part of a pass (one request of `forward` or
    /// `forward_backward`) is sent next. `tried` lists the formats in which this part was sent so far, each with its
    /// outcome.
    pub(crate) fn next(&self, tried: &[(Form, Outcome)]) -> Next {
        let mut forms = self.forms.lock();
        let before = forms.known();
        let next = forms.next(tried);
        let learnt = forms.known().filter(|_| before.is_none());
        drop(forms);
        if learnt == Some(Form::Json) {
            log::info!(target: "tinkex", "the server does not read protobuf: passes are sent as JSON");
        }
        next
    }
}

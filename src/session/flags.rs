//! The server's flags (PROTOCOL §3.1), their refresh, and what else is known of the messages that it understands.

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

/// The flags are not fetched more often than this.
const SHORTEST_INTERVAL: Duration = Duration::from_secs(10);
/// Nor less often, even if the server names a longer interval.
const LONGEST_INTERVAL: Duration = Duration::from_secs(24 * 3600);
/// Time limit of fetching the flags; after it work begins without them.
const PATIENCE: Duration = Duration::from_secs(20);

/// Asks for the flags. Servers that do not offer them get the defaults; so do, for the time being, those that are in no
/// state to tell, because every flag has a default.
pub(super) fn fetch(http: &Http, config: &Config, cancel: &CancelToken) -> Result<Flags> {
    let mut call = config_call(config)?;
    call.budget = Some(PATIENCE.min(config.timeouts.submit));
    match learn(http, config, &call, cancel) {
        Err(error) if may_assume_flags(&error) && http.auth().can_do_without_tokens() => {
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
    apply(http, &client)?;
    let flags = Flags { config: client, are_missing, ..Flags::default() };
    match fetch_dynamic(http, config, cancel) {
        Ok(dynamic) => {
            Ok(Flags { is_dynamic: dynamic.is_some(), dynamic: dynamic.unwrap_or_default(), ..flags })
        }
        Err(error) if may_assume_flags(&error) => {
            log::warn!(target: "tinkex", "the server does not tell the flags that may change: {error}");
            // Zero is the shortest interval that there is.
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

/// Applies the flags that are about requests in general.
pub(super) fn apply(http: &Http, client: &ClientConfig) -> Result<()> {
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
    let found = error.http_status().map(|it| presence(it, detail, Names::Something));
    found == Some(Presence::Present)
}

/// The endpoint does not exist on this server.
pub(crate) fn is_not_offered(error: &Error) -> bool {
    matches!(error.http_status(), Some(404 | 405))
}

/// Fetches the flags again that may change (PROTOCOL §3.1 #2), or that the server did not tell at first.
pub(super) struct FlagRefresh;

impl Work for FlagRefresh {
    type Owner = Session;

    /// Waits for one interval, then fetches. Idle if the server has no such flags, or the session ends.
    fn turn(&self, session: &Arc<Session>) -> Turn {
        let known = session.known_flags();
        if !known.are_assumed && !known.is_dynamic {
            return Turn::Idle;
        }
        let pause = if known.are_assumed { SHORTEST_INTERVAL } else { interval(&known) };
        if session.clock.tick(pause, &session.cancel).is_err() {
            return Turn::Idle;
        }
        // A panic in foreign code, or a failure, leaves everything as it was.
        if known.are_assumed {
            match unwind::catch(|| fetch_late(&session.http, &session.config, &session.cancel)).flatten() {
                Ok(flags) => {
                    log::info!(target: "tinkex", "the server tells its flags again");
                    session.apply(&Arc::new(flags));
                }
                Err(error) => {
                    log::debug!(target: "tinkex", "the server still does not tell its flags: {error}");
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
                Err(error) => log::debug!(target: "tinkex", "the server's flags stay as they were: {error}"),
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
    /// Starts the refresh of the flags, if the server has any that may change or has not told them yet. Without a thread they stay
    /// as they are, and the next heartbeat tries again.
    pub(super) fn refresh_flags(self: &Arc<Self>) {
        let flags = self.known_flags();
        if flags.is_dynamic || flags.are_assumed {
            let _ = self.flag_refresh.wake(self, &self.pool[Job::Refresh]);
        }
    }
}

/// What is known of the messages that the server understands and sends, beyond its flags.
#[derive(Debug, Default)]
pub(crate) struct Dialect {
    reports_loss: AtomicBool,
    forms: Mutex<Forms>,
}

impl Dialect {
    /// Whether the server is known to report the sum of a loss, so that nothing has to be kept to compute it.
    pub(crate) fn reports_loss(&self) -> bool {
        self.reports_loss.load(Ordering::Relaxed)
    }

    /// The server reported the sum of a loss.
    pub(crate) fn note_loss(&self) {
        self.reports_loss.store(true, Ordering::Relaxed);
    }

    /// The server lacks an endpoint that is as old as protobuf.
    pub(crate) fn note_old(&self) {
        self.forms.lock().note_old();
    }

    /// What to do about a part of a pass that was sent in these forms with these outcomes.
    pub(crate) fn next(&self, tried: &[(Form, Outcome)]) -> Next {
        let mut forms = self.forms.lock();
        let before = forms.known();
        let next = forms.next(tried);
        let learnt = forms.known().filter(|_| before.is_none());
        drop(forms);
        if learnt == Some(Form::Json) {
            log::info!(target: "tinkex", "passes are sent as JSON, which is what this server reads");
        }
        next
    }
}

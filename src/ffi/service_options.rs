//! `tinkex_service_options`: the settings of a service client.

use std::ffi::{c_char, c_void};
use std::ptr;
use std::sync::Arc;
use std::time::Duration;

use super::border::{self, Fault, Result, text};
use super::constants::{PAUSE_FAIL, PAUSE_WAIT, PAUSE_WAIT_AT_MOST};
use super::object::{self, Kind, Object, User};
use super::observer::{EventObserver, Receiver};
use super::options::{self, Holder, Sticky};
use super::queue::tinkex_queue;
use super::{tinkex_event_fn, tinkex_release_fn};
use crate::config::{CircuitBreaker, PausePolicy, Threads, Timeouts};
use crate::{Metrics, ServiceClient, ServiceClientBuilder};

pub type tinkex_service_options = Object<ServiceOptions>;

#[derive(Default)]
pub struct ServiceOptions(Sticky<Settings>);

impl Kind for ServiceOptions {
    const NAME: &'static str = "service_options";
}

impl Holder for ServiceOptions {
    type Options = Settings;

    fn sticky(&self) -> &Sticky<Settings> {
        &self.0
    }
}

/// The settings that were made, for a builder. Missing ones come from the environment or a default.
#[derive(Clone, Default)]
pub(super) struct Settings {
    base_url: Option<String>,
    api_key: Option<String>,
    credential_command: Option<String>,
    project_id: Option<String>,
    display_name: Option<String>,
    sdk_version: Option<String>,
    tags: Vec<String>,
    metadata: Vec<(String, String)>,
    headers: Vec<(String, String)>,
    proxy: Option<String>,
    no_proxy: bool,
    ca_bundle: Option<String>,
    timeouts: Timeouts,
    unbounded_operations: bool,
    threads: Threads,
    allow_any_key: bool,
    dense_tensors: bool,
    telemetry: Option<bool>,
    without_metrics: bool,
    pause: PausePolicy,
    breaker: Option<CircuitBreaker>,
    observer: Option<Arc<Receiver>>,
    observer_queue: Option<Arc<Receiver>>,
}

impl Settings {
    fn set_timeout(&mut self, name: &str, time: Duration) -> Result<()> {
        const NAMES: [&str; 11] = [
            "connect",
            "first_contact",
            "exchange",
            "poll",
            "heartbeat",
            "submit",
            "silence",
            "operation",
            "close",
            "finish",
            "credential_command",
        ];
        let timeouts = &mut self.timeouts;
        *match name {
            "connect" => &mut timeouts.connect,
            "first_contact" => &mut timeouts.first_contact,
            "exchange" => &mut timeouts.exchange,
            "poll" => &mut timeouts.poll,
            "heartbeat" => &mut timeouts.heartbeat,
            "submit" => &mut timeouts.submit,
            "silence" => &mut timeouts.silence,
            "operation" => &mut timeouts.operation,
            "close" => &mut timeouts.close,
            "finish" => &mut timeouts.finish,
            "credential_command" => &mut timeouts.credential_command,
            _ => return Err(Fault::name("timeout of a service", name, &NAMES)),
        } = time;
        Ok(())
    }

    fn set_flag(&mut self, name: &str, on: bool) -> Result<()> {
        const NAMES: [&str; 6] =
            ["allow_any_key", "dense_tensors", "telemetry", "unbounded_operations", "metrics", "no_proxy"];
        match name {
            "allow_any_key" => self.allow_any_key = on,
            "dense_tensors" => self.dense_tensors = on,
            "telemetry" => self.telemetry = Some(on),
            "unbounded_operations" => self.unbounded_operations = on,
            "metrics" => self.without_metrics = !on,
            "no_proxy" => self.no_proxy = on,
            _ => return Err(Fault::name("flag of a service", name, &NAMES)),
        }
        Ok(())
    }

    fn set_number(&mut self, name: &str, value: f64) -> Result<()> {
        const NAMES: [&str; 4] = ["max_in_flight", "mailbox", "stack_size", "idle_ms"];
        if !NAMES.contains(&name) {
            return Err(Fault::name("number of a service", name, &NAMES));
        }
        // Whole numbers are exact up to this one.
        const LARGEST: f64 = 9_007_199_254_740_992.0;
        let path = format!("threads.{name}");
        if !(0.0..=LARGEST).contains(&value) || value.fract() != 0.0 {
            let text = format!("`{path}` must be a whole number from 0, and is {value}");
            return Err(Fault::invalid(path, text));
        }
        let whole = value as u64;
        let size = || {
            usize::try_from(whole)
                .map_err(|_| Fault::invalid(&*path, format!("`{path}` is too large: {whole}")))
        };
        match name {
            "max_in_flight" => self.threads.max_in_flight = size()?,
            "mailbox" => self.threads.mailbox = size()?,
            "stack_size" => self.threads.stack_size = size()?,
            _ => self.threads.idle = Duration::from_millis(whole),
        }
        Ok(())
    }

    fn set_text(&mut self, name: &str, value: &str) -> Result<()> {
        const NAMES: [&str; 2] = ["display_name", "sdk_version"];
        match name {
            "display_name" => self.display_name = Some(value.into()),
            "sdk_version" => self.sdk_version = Some(value.into()),
            _ => return Err(Fault::name("text of a service", name, &NAMES)),
        }
        Ok(())
    }

    fn builder(self) -> ServiceClientBuilder {
        let mut timeouts = self.timeouts;
        if self.unbounded_operations {
            timeouts.operation = Duration::MAX;
        }
        let mut builder = ServiceClient::builder()
            .allow_any_key(self.allow_any_key)
            .dense_tensors(self.dense_tensors)
            .default_headers_overrides(self.headers)
            .timeouts(|it| *it = timeouts)
            .threads(|it| *it = self.threads)
            .pause_policy(self.pause);
        /// Applies the settings that were made.
        macro_rules! apply {
            ($($setting:ident => $method:ident),+) => {
                $(if let Some(value) = self.$setting {
                    builder = builder.$method(value);
                })+
            };
        }
        apply!(base_url => base_url, api_key => api_key, credential_command => credential_command,
            project_id => project_id, display_name => display_name, sdk_version => sdk_version, proxy => proxy,
            ca_bundle => ca_bundle, telemetry => telemetry);
        if self.no_proxy {
            builder = builder.no_proxy();
        }
        if !self.tags.is_empty() {
            builder = builder.tags(self.tags);
        }
        for (key, value) in self.metadata {
            builder = builder.user_metadata(key, value);
        }
        if self.without_metrics {
            builder = builder.metrics(Metrics::disabled());
        }
        if let Some(breaker) = self.breaker {
            builder = builder.circuit_breaker(|it| *it = breaker);
        }
        let receivers: Vec<_> = self.observer.into_iter().chain(self.observer_queue).collect();
        if !receivers.is_empty() {
            builder = builder.observer(Arc::new(EventObserver(receivers)));
        }
        builder
    }
}

/// A builder with the settings. NULL has all settings from the environment or a default.
///
/// # Errors
/// The first mistake of the setters.
///
/// # Safety
/// As for [`object::get`].
pub(super) unsafe fn builder(options: *const tinkex_service_options) -> Result<ServiceClientBuilder> {
    // SAFETY: promised by the caller.
    Ok(unsafe { options::read(options) }?.builder())
}

/// Sets a text.
///
/// # Safety
/// As for [`text`].
unsafe fn fill(setting: &mut Option<String>, value: *const c_char, name: &str) -> Result<()> {
    // SAFETY: promised by the caller.
    *setting = Some(unsafe { text(value, name) }?.into());
    Ok(())
}

/// A time above zero.
fn positive(ms: i64, path: &str) -> Result<Duration> {
    match u64::try_from(ms) {
        Ok(ms @ 1..) => Ok(Duration::from_millis(ms)),
        _ => Err(Fault::invalid(path, format!("`{path}` must be above 0 ms, and is {ms} ms"))),
    }
}

/// A number from 1.
fn counted(n: i32, path: &str) -> Result<u32> {
    match u32::try_from(n) {
        Ok(n @ 1..) => Ok(n),
        _ => Err(Fault::invalid(path, format!("`{path}` must be at least 1, and is {n}"))),
    }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn tinkex_service_options_new() -> *mut tinkex_service_options {
    border::value(ptr::null_mut(), || Ok(Object::make(ServiceOptions::default())))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn tinkex_service_options_free(options: *mut *mut tinkex_service_options) {
    // SAFETY: see the header.
    unsafe { object::free(options) }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn tinkex_service_options_set_base_url(
    options: *mut tinkex_service_options,
    url: *const c_char,
) {
    // SAFETY: see the header.
    unsafe {
        options::set(options, |it| {
            fill(&mut it.base_url, url, "url")?;
            // In Rust an empty text means the default. Here it is rather a mistake, after which the key would be sent to
            // the wrong server.
            if it.base_url.as_ref().is_some_and(|url| url.trim().is_empty()) {
                let text = "`url` is empty: leave it out to use TINKER_BASE_URL or the Tinker service";
                return Err(Fault::invalid("base_url", text));
            }
            Ok(())
        })
    }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn tinkex_service_options_set_api_key(
    options: *mut tinkex_service_options,
    key: *const c_char,
) {
    // SAFETY: see the header.
    unsafe { options::set(options, |it| fill(&mut it.api_key, key, "key")) }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn tinkex_service_options_set_credential_command(
    options: *mut tinkex_service_options,
    command: *const c_char,
) {
    // SAFETY: see the header.
    unsafe { options::set(options, |it| fill(&mut it.credential_command, command, "command")) }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn tinkex_service_options_set_project(
    options: *mut tinkex_service_options,
    project_id: *const c_char,
) {
    // SAFETY: see the header.
    unsafe { options::set(options, |it| fill(&mut it.project_id, project_id, "project_id")) }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn tinkex_service_options_add_tag(
    options: *mut tinkex_service_options,
    tag: *const c_char,
) {
    // SAFETY: see the header.
    unsafe {
        options::set(options, |it| {
            it.tags.push(text(tag, "tag")?.into());
            Ok(())
        });
    }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn tinkex_service_options_add_metadata(
    options: *mut tinkex_service_options,
    key: *const c_char,
    value: *const c_char,
) {
    // SAFETY: see the header.
    unsafe {
        options::set(options, |it| {
            it.metadata.push((text(key, "key")?.into(), text(value, "value")?.into()));
            Ok(())
        });
    }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn tinkex_service_options_add_header(
    options: *mut tinkex_service_options,
    name: *const c_char,
    value: *const c_char,
) {
    // SAFETY: see the header.
    unsafe {
        options::set(options, |it| {
            it.headers.push((text(name, "name")?.into(), text(value, "value")?.into()));
            Ok(())
        });
    }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn tinkex_service_options_set_proxy(
    options: *mut tinkex_service_options,
    url: *const c_char,
) {
    // SAFETY: see the header.
    unsafe { options::set(options, |it| fill(&mut it.proxy, url, "url")) }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn tinkex_service_options_set_ca_bundle(
    options: *mut tinkex_service_options,
    path: *const c_char,
) {
    // SAFETY: see the header.
    unsafe { options::set(options, |it| fill(&mut it.ca_bundle, path, "path")) }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn tinkex_service_options_set_text(
    options: *mut tinkex_service_options,
    name: *const c_char,
    value: *const c_char,
) {
    // SAFETY: see the header.
    unsafe { options::set(options, |it| it.set_text(text(name, "name")?, text(value, "value")?)) }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn tinkex_service_options_set_timeout(
    options: *mut tinkex_service_options,
    name: *const c_char,
    ms: i64,
) {
    // SAFETY: see the header.
    unsafe {
        options::set(options, |it| {
            let name = text(name, "name")?;
            it.set_timeout(name, positive(ms, &format!("timeouts.{name}"))?)
        });
    }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn tinkex_service_options_set_number(
    options: *mut tinkex_service_options,
    name: *const c_char,
    value: f64,
) {
    // SAFETY: see the header.
    unsafe { options::set(options, |it| it.set_number(text(name, "name")?, value)) }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn tinkex_service_options_set_flag(
    options: *mut tinkex_service_options,
    name: *const c_char,
    on: i32,
) {
    // SAFETY: see the header.
    unsafe { options::set(options, |it| it.set_flag(text(name, "name")?, on != 0)) }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn tinkex_service_options_set_pause(
    options: *mut tinkex_service_options,
    policy: i32,
    ms: i64,
) {
    // SAFETY: see the header.
    unsafe {
        options::set(options, |it| {
            it.pause = match policy {
                PAUSE_WAIT => PausePolicy::Wait,
                PAUSE_WAIT_AT_MOST => PausePolicy::WaitAtMost(positive(ms, "pause_policy.ms")?),
                PAUSE_FAIL => PausePolicy::Fail,
                _ => {
                    let text = format!("`policy` must be one of the constants TINKEX_PAUSE_*, not {policy}");
                    return Err(Fault::invalid("policy", text));
                }
            };
            Ok(())
        });
    }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn tinkex_service_options_set_breaker(
    options: *mut tinkex_service_options,
    failures: i32,
    reset_ms: i64,
    trials: i32,
) {
    // SAFETY: see the header.
    unsafe {
        options::set(options, |it| {
            it.breaker = Some(CircuitBreaker {
                failures: counted(failures, "circuit_breaker.failures")?,
                reset: positive(reset_ms, "circuit_breaker.reset")?,
                trials: counted(trials, "circuit_breaker.trials")?,
            });
            Ok(())
        });
    }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn tinkex_service_options_set_observer(
    options: *mut tinkex_service_options,
    observer: tinkex_event_fn,
    user: *mut c_void,
    release: tinkex_release_fn,
) {
    // Released by the last owner: these options, their services, or this call if it fails.
    let mut user = Some(User::new(user, release));
    // Dropped outside of the lock of the options, because it may call a function of C code.
    let mut replaced = None;
    // SAFETY: see the header.
    unsafe {
        options::set(options, |it| {
            let function = observer.ok_or_else(|| Fault::null("observer"))?;
            let receiver = user.take().map(|user| Receiver::callback(function, user));
            replaced = std::mem::replace(&mut it.observer, receiver);
            Ok(())
        });
    }
    border::drop_caught((user, replaced));
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn tinkex_service_options_set_observer_queue(
    options: *mut tinkex_service_options,
    queue: *mut tinkex_queue,
    tag: u64,
) {
    // SAFETY: see the header.
    unsafe {
        options::set(options, |it| {
            it.observer_queue = Some(Receiver::queue(object::get(queue)?, tag));
            Ok(())
        });
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::super::code;
    use super::*;

    #[test]
    fn the_first_mistake_of_a_setter_is_reported_with_its_place() {
        let check = |change: fn(&mut Settings) -> Result<()>, code: code::Code| {
            let options = ServiceOptions::default();
            options.0.change(change);
            options.0.change(|it| it.set_number("none", 0.0));
            assert_eq!(options.0.read(|_| Ok(())).unwrap_err().code(), code);
        };
        check(|it| it.set_timeout("conect", Duration::ZERO), code::NAME);
        check(|it| it.set_number("mailbox", f64::NAN), code::INVALID_INPUT);
        check(|it| it.set_number("mailbox", 0.5), code::INVALID_INPUT);
        check(|it| it.set_flag("Telemetry", true), code::NAME);
        check(|_| positive(0, "x").map(drop), code::INVALID_INPUT);
        check(|_| counted(-1, "x").map(drop), code::INVALID_INPUT);
    }
}

//! `tinkex_server_options`: settings of the embedded engine.

use std::ffi::c_char;

use super::border::{self, Result};
use super::object::{self, Kind, Object};
use super::options::{self, Holder, Sticky};

pub type tinkex_server_options = Object<ServerSettings>;

#[derive(Default)]
pub struct ServerSettings {
    sticky: Sticky<Settings>,
}

impl Kind for ServerSettings {
    const NAME: &'static str = "server_options";
}

impl Holder for ServerSettings {
    type Options = Settings;

    fn sticky(&self) -> &Sticky<Settings> {
        &self.sticky
    }
}

/// The settings; empty in a build without the engine.
#[derive(Clone, Default)]
pub struct Settings {
    #[cfg(feature = "local")]
    pub(super) options: crate::local::Options,
}

#[cfg(feature = "local")]
mod setters {
    use std::time::Duration;

    use super::{Result, Settings};
    use crate::ffi::border::{Fault, unsigned};

    /// The engine's only model.
    const MODEL: &str = "tinkex/nano";

    const TEXTS: [&str; 5] = ["data_dir", "listen", "api_key", "allowed_host", "alias"];
    const NUMBERS: [&str; 20] = [
        "port",
        "seed",
        "threads",
        "samplers_in_memory",
        "max_disk_bytes",
        "max_models",
        "max_sessions",
        "max_samplers",
        "max_waiting_requests",
        "long_poll_ms",
        "max_connections",
        "idle_timeout_ms",
        "stall_timeout_ms",
        "announce_above",
        "session_timeout_ms",
        "pause_after_ms",
        "sample_use_retrieve_futures",
        "sample_join_sampling_session",
        "pjwt_auth_enabled",
        "sample_cancel_enabled",
    ];

    impl Settings {
        /// Sets a text. `allowed_host` and `alias` may be set several times, each time to one more value.
        pub(super) fn set_text(&mut self, name: &str, value: &str) -> Result<()> {
            let options = &mut self.options;
            match name {
                "data_dir" => options.data_dir = Some(value.into()),
                "listen" => {
                    let invalid =
                        |_| Fault::invalid(name, format!("`{name}` must be an IP address, is {value:?}"));
                    options.listen = value.parse().map_err(invalid)?;
                }
                "api_key" => options.api_key = Some(value.into()),
                "allowed_host" => options.allowed_hosts.push(value.into()),
                "alias" => drop(options.aliases.insert(value.into(), MODEL.into())),
                _ => return Err(Fault::name("text of a server", name, &TEXTS)),
            }
            Ok(())
        }

        /// Sets a number, a time in milliseconds, or a flag: 0 or another number.
        pub(super) fn set_number(&mut self, name: &str, value: f64) -> Result<()> {
            let options = &mut self.options;
            let time = || whole(value, name).map(Duration::from_millis);
            let flag = value != 0.0;
            match name {
                "port" => options.port = whole(value, name)?,
                "seed" => options.seed = whole(value, name)?,
                "threads" => options.threads = whole(value, name)?,
                "samplers_in_memory" => options.samplers_in_memory = whole(value, name)?,
                "max_disk_bytes" => options.max_disk_bytes = Some(whole(value, name)?),
                "max_models" => options.max_models = whole(value, name)?,
                "max_sessions" => options.max_sessions = whole(value, name)?,
                "max_samplers" => options.max_samplers = whole(value, name)?,
                "max_waiting_requests" => options.max_waiting_requests = whole(value, name)?,
                "long_poll_ms" => options.long_poll = time()?,
                "max_connections" => options.max_connections = whole(value, name)?,
                "idle_timeout_ms" => options.idle_timeout = time()?,
                "stall_timeout_ms" => options.stall_timeout = time()?,
                "announce_above" => options.announce_above = whole(value, name)?,
                "session_timeout_ms" => options.session_timeout = time()?,
                "pause_after_ms" => options.pause_after = time()?,
                "sample_use_retrieve_futures" => options.sample_use_retrieve_futures = flag,
                "sample_join_sampling_session" => options.sample_join_sampling_session = flag,
                "pjwt_auth_enabled" => options.pjwt_auth_enabled = flag,
                "sample_cancel_enabled" => options.sample_cancel_enabled = flag,
                _ => return Err(Fault::name("number of a server", name, &NUMBERS)),
            }
            Ok(())
        }
    }

    /// A whole number from 0 that C passes as a double.
    fn whole<N: TryFrom<i64>>(value: f64, name: &str) -> Result<N> {
        /// Above it a double does not hold every whole number.
        const LARGEST: f64 = (1u64 << 53) as f64;
        if value.fract() == 0.0 && value.abs() <= LARGEST {
            // Exact, because of the check.
            unsigned(value as i64, name)
        } else {
            Err(Fault::invalid(name, format!("`{name}` must be a whole number up to 2^53, is {value}")))
        }
    }

    #[cfg(test)]
    #[allow(clippy::unwrap_used)]
    mod tests {
        use super::*;
        use crate::ffi::code;

        #[test]
        fn each_setting_has_its_name_and_its_range() {
            let mut settings = Settings::default();
            let text = |name: &str| if name == "listen" { "::1" } else { "x" };
            TEXTS.iter().for_each(|name| settings.set_text(name, text(name)).unwrap());
            NUMBERS.iter().for_each(|name| settings.set_number(name, 1.0).unwrap());
            let options = &settings.options;
            assert_eq!((options.port, options.long_poll), (1, Duration::from_millis(1)));
            assert_eq!(options.aliases["x"], MODEL);
            assert!(options.listen.is_ipv6());
            assert_eq!(settings.set_text("listen", "localhost").unwrap_err().code(), code::INVALID_INPUT);
            for wrong in [-1.0, 0.5, f64::NAN, f64::INFINITY, 1e300, 65536.0] {
                let fault = settings.set_number("port", wrong).unwrap_err();
                assert_eq!(fault.code(), code::INVALID_INPUT, "{wrong}");
            }
            assert_eq!(settings.set_number("ports", 1.0).unwrap_err().code(), code::NAME);
            assert_eq!(settings.set_text("dir", "x").unwrap_err().code(), code::NAME);
        }
    }
}

#[cfg(not(feature = "local"))]
impl Settings {
    fn set_text(&mut self, _: &str, _: &str) -> Result<()> {
        Err(super::server::unsupported())
    }

    fn set_number(&mut self, _: &str, _: f64) -> Result<()> {
        Err(super::server::unsupported())
    }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn tinkex_server_options_new() -> *mut tinkex_server_options {
    border::value(std::ptr::null_mut(), || Ok(Object::make(ServerSettings::default())))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn tinkex_server_options_free(options: *mut *mut tinkex_server_options) {
    // SAFETY: see the header.
    unsafe { object::free(options) }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn tinkex_server_options_set_text(
    options: *mut tinkex_server_options,
    name: *const c_char,
    value: *const c_char,
) {
    // SAFETY: see the header.
    unsafe {
        options::set(options, |it| it.set_text(border::text(name, "name")?, border::text(value, "value")?));
    }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn tinkex_server_options_set_number(
    options: *mut tinkex_server_options,
    name: *const c_char,
    value: f64,
) {
    // SAFETY: see the header.
    unsafe {
        options::set(options, |it| it.set_number(border::text(name, "name")?, value));
    }
}

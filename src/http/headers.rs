//! The headers of requests (PROTOCOL §1.5).

use std::borrow::Cow;
use std::time::Duration;

use crate::config::Config;
use crate::error::words::presentable;

use super::{Answer, Body, Call};

pub(super) const USER_AGENT: &str = concat!("tinkex/Rust ", env!("CARGO_PKG_VERSION"));

/// Makes a new idempotency key, by which a server recognises repetitions of a request.
pub(crate) fn idempotency_key() -> String {
    format!("tinkex-{}", uuid4())
}

/// Makes a random UUID (version 4).
pub(crate) fn uuid4() -> String {
    let bits = fastrand::u128(..);
    let bits = (bits & !(0xf << 76) & !(0x3 << 62)) | (0x4 << 76) | (0x2 << 62);
    let hex = format!("{bits:032x}");
    format!("{}-{}-{}-{}-{}", &hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..])
}

/// All headers of one attempt.
pub(super) fn all(
    call: &Call,
    config: &Config,
    key: &str,
    retry: u32,
    timeout: Duration,
    credential: &str,
) -> Vec<(Cow<'static, str>, String)> {
    let accept = if call.protobuf { "application/x-protobuf" } else { "application/json" };
    let mut all = vec![
        ("X-API-Key", credential.to_string()),
        ("Accept", accept.to_string()),
        ("User-Agent", USER_AGENT.to_string()),
        ("X-Stainless-Package-Version", config.sdk_version.clone()),
        ("X-Stainless-OS", os().to_string()),
        ("X-Stainless-Arch", arch().to_string()),
        ("X-Stainless-Runtime", "tinkex".to_string()),
        ("X-Stainless-Runtime-Version", env!("CARGO_PKG_VERSION").to_string()),
        ("x-stainless-retry-count", retry.to_string()),
        ("x-stainless-read-timeout", seconds(timeout)),
    ];
    if call.endpoint.method() != "GET" {
        all.push(("X-Idempotency-Key", key.to_string()));
        let content_type = match call.body {
            Body::Protobuf { .. } => "application/x-protobuf",
            Body::Json(_) | Body::Empty => "application/json",
        };
        all.push(("Content-Type", content_type.to_string()));
    }
    if let Body::Protobuf { zstd: true, .. } = call.body {
        all.push(("Content-Encoding", "zstd".to_string()));
    }
    if let Some(method) = call.sdk_method {
        all.push(("x-sdk-version", config.sdk_version.clone()));
        all.push(("x-sdk-method", method.to_string()));
    }
    if let Some((id, secret)) = &config.cloudflare {
        all.push(("CF-Access-Client-Id", id.expose().to_string()));
        all.push(("CF-Access-Client-Secret", secret.expose().to_string()));
    }
    if let Some(trace) = &call.trace {
        all.push(("traceparent", trace.traceparent.clone()));
        all.extend(trace.tracestate.iter().map(|state| ("tracestate", state.clone())));
    }
    all.extend(call.headers.iter().cloned());
    let mut all: Vec<_> = all.into_iter().map(|(name, value)| (Cow::Borrowed(name), value)).collect();
    for (name, value) in &config.overrides {
        all.retain(|(own, _)| !own.eq_ignore_ascii_case(name));
        all.push((Cow::Owned(name.clone()), value.expose().to_string()));
    }
    all
}

/// Returns whether the server rejects the token and wants a new one (PROTOCOL §1.4).
pub(super) fn rejects_token(answer: &Answer) -> bool {
    answer.status == 401
        && answer.header("www-authenticate").is_some_and(|it| it.contains("error=\"invalid_token\""))
}

pub(super) fn log_deprecation(answer: &Answer, path: &str) {
    if let Some(note) = answer.header("x-deprecation-note") {
        let level = match answer.header("x-deprecation-level") {
            Some("error") => log::Level::Error,
            _ => log::Level::Warn,
        };
        log::log!(target: "tinkex", level, "{path}: {}", presentable(note));
    }
}

fn seconds(timeout: Duration) -> String {
    let seconds = timeout.as_secs_f64();
    if seconds.fract() == 0.0 { format!("{seconds:.0}") } else { format!("{seconds:.1}") }
}

/// Name of the operating system in the headers and in telemetry.
pub(crate) fn os() -> &'static str {
    match std::env::consts::OS {
        "linux" => "Linux",
        "macos" => "MacOS",
        "windows" => "Windows",
        "freebsd" => "FreeBSD",
        "openbsd" => "OpenBSD",
        "ios" => "iOS",
        "android" => "Android",
        _ => "Unknown",
    }
}

fn arch() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "x64",
        "x86" => "x32",
        "aarch64" => "arm64",
        "arm" => "arm",
        _ => "unknown",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_uuid_has_the_form_of_version_4() {
        for _ in 0..100 {
            let id = uuid4();
            let bytes = id.as_bytes();
            assert_eq!((id.len(), bytes[14], bytes[8], bytes[13]), (36, b'4', b'-', b'-'), "{id}");
            assert!(matches!(bytes[19], b'8' | b'9' | b'a' | b'b'), "{id}");
        }
    }
}

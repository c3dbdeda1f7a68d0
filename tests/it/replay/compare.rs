//! Compares a request of this crate with its exchange, that is, with the recorded request of the official SDK.

use tinkex::testing::Seen;

use super::exceptions::How;
use super::message;
use super::recording::{Class, Exchange, TELEMETRY};

/// Headers that servers read (PROTOCOL §1.5) and whose values must be the recorded ones.
const HEADERS: [&str; 11] = [
    "accept",
    "content-type",
    "content-encoding",
    "x-api-key",
    "x-sdk-version",
    "x-sdk-method",
    "x-stainless-retry-count",
    "x-stainless-read-timeout",
    "x-tinker-request-iteration",
    "x-tinker-request-type",
    "x-tinker-sampling-backpressure",
];

/// Headers that must be present exactly if they were recorded. Their values differ in each run and are not compared.
const PRESENT: [&str; 2] = ["x-idempotency-key", "x-tinker-create-promise-roundtrip-time"];

/// Lists the differences between a request and its exchange. `how` is the permitted difference, which is not listed.
pub(crate) fn differences(seen: &Seen, exchange: &Exchange, how: Option<How>) -> Vec<String> {
    let mut differences = Vec::new();
    let mut same = |what: &str, ours: &dyn ToString, recorded: &dyn ToString| {
        let (ours, recorded) = (ours.to_string(), recorded.to_string());
        if ours != recorded {
            differences.push(format!("{what} is {ours:.2000}, recorded was {recorded:.2000}"));
        }
    };
    same("method", &seen.method, &exchange.method);
    same("path", &seen.path, &exchange.path);
    // The two clients write timeouts differently: "45" and "45.0".
    let text = |it: Option<&str>| it.unwrap_or("absent").trim_end_matches(".0").to_string();
    for name in HEADERS {
        // Heartbeats and telemetry are sent by timers. The test advances the clock while they are sent, which changes
        // the timeout in this header. So do not compare it.
        let moves = name == "x-stainless-read-timeout" && exchange.class() == Class::Timer;
        let only_key = matches!(how, Some(How::OnlyKey)) && name != "x-api-key";
        if !moves && !only_key {
            same(name, &text(seen.header(name)), &text(exchange.header(name)));
        }
    }
    for name in PRESENT {
        same(name, &seen.header(name).is_some(), &exchange.header(name).is_some());
    }
    let mut message = exchange.message.clone();
    if let Some(How::Field(field, ours)) = how {
        message::put(&mut message, field, ours);
    }
    // Telemetry is compared at the end, by `telemetry::assert_alike`.
    if exchange.path != TELEMETRY {
        for (field, ours, recorded) in message::differences(&message::of(seen), &message) {
            same(&field, &ours, &recorded);
        }
    }
    differences
}

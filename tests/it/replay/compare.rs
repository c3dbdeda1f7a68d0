//! One request beside the exchange that it repeats.

use tinkex::testing::Seen;

use super::exceptions::How;
use super::message;
use super::recording::{Class, Exchange, TELEMETRY};

/// The headers that servers read (PROTOCOL §1.5) and that say the same in every client.
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

/// The headers that have another value each time.
const PRESENT: [&str; 2] = ["x-idempotency-key", "x-tinker-create-promise-roundtrip-time"];

/// Every difference between a request and the exchange that it repeats, but for what the table of exceptions allows.
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
    // Timeouts may be written as whole numbers or not.
    let text = |it: Option<&str>| it.unwrap_or("absent").trim_end_matches(".0").to_string();
    for name in HEADERS {
        // Of a request that time has caused, time may pass while it is sent, because this test moves the clock.
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
    // What telemetry reports is each client's own; its form is compared at the end.
    if exchange.path != TELEMETRY {
        for (field, ours, recorded) in message::differences(&message::of(seen), &message) {
            same(&field, &ours, &recorded);
        }
    }
    differences
}

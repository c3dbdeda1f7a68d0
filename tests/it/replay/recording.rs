//! Reads the exchanges recorded in `tests/data/wire`. An exchange is a request of the official SDK with its answer. A
//! promise is an answer with a request id, for which the client then polls until the result is ready.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use serde_json::Value;
use tinkex::transport::Answer;

use super::message;

/// One request of the official SDK and its answer.
pub(crate) struct Exchange {
    /// Number in the recording.
    pub(crate) n: u64,
    pub(crate) method: String,
    pub(crate) path: String,
    pub(crate) request_headers: Value,
    /// Decoded message of the request; see [`message::read`].
    pub(crate) message: Value,
    /// Decoded body of the answer, as recorded.
    pub(crate) response: Value,
    pub(crate) answer: Answer,
}

/// Class of a request. It decides in which order the request must arrive.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Class {
    /// Sent by a call of the program. All calls arrive in the recorded order, except those in a group with
    /// [`AnyOrder`](super::exceptions::How::AnyOrder).
    Call,
    /// Polls the result of a promise. The polls of one promise arrive after the promise, in the recorded order.
    Poll,
    /// Sent by a timer. Arrives in any order.
    Timer,
}

/// Path of heartbeats, which a timer sends.
pub(crate) const HEARTBEAT: &str = "/api/v1/session_heartbeat";
/// Path of telemetry, which a timer sends.
pub(crate) const TELEMETRY: &str = "/api/v1/telemetry";

pub(crate) fn class(path: &str) -> Class {
    match path {
        "/api/v1/retrieve_future" => Class::Poll,
        HEARTBEAT | TELEMETRY => Class::Timer,
        _ => Class::Call,
    }
}

/// Reads all exchanges of a recording.
pub(crate) fn read(file: &str) -> Vec<Exchange> {
    let path = format!("{}/tests/data/wire/{file}", env!("CARGO_MANIFEST_DIR"));
    let text = std::fs::read_to_string(path).unwrap();
    text.lines().map(|it| Exchange::read(serde_json::from_str(it).unwrap())).collect()
}

impl Exchange {
    fn read(line: Value) -> Self {
        let text = |key: &str| line[key].as_str().unwrap().to_string();
        // Drop the recorded length: the JSON body is serialized again here, possibly with another length.
        let headers = line["response_headers"]
            .as_object()
            .unwrap()
            .iter()
            .filter(|(name, _)| *name != "content-length");
        let status = line["status"].as_u64().unwrap().try_into().unwrap();
        let answer = headers.fold(Answer::new(status), |answer, (name, value)| {
            answer.with_header(name, value.as_str().unwrap())
        });
        let request_headers = line["request_headers"].clone();
        // If the body of the request was compressed, the recording holds the decompressed body.
        let message = message::read(request_headers["content-type"].as_str(), &bytes(&line["request_body"]));
        let response = &line["response_body"];
        Exchange {
            n: line["n"].as_u64().unwrap(),
            method: text("method"),
            path: text("path"),
            request_headers,
            message,
            response: response.get("decoded").unwrap_or(response).clone(),
            answer: answer.with_body(bytes(response)),
        }
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.request_headers[name].as_str()
    }

    pub(crate) fn class(&self) -> Class {
        class(&self.path)
    }

    /// The request id whose result a poll asks for.
    pub(crate) fn polled_id(&self) -> Option<&str> {
        (self.class() == Class::Poll).then(|| self.message["request_id"].as_str().unwrap())
    }

    /// The request id in the answer to a call, if the answer is a promise.
    pub(crate) fn promised_id(&self) -> Option<&str> {
        (self.class() == Class::Call).then(|| self.response["request_id"].as_str()).flatten()
    }
}

/// Restores the bytes of a body. For protobuf, the recording holds the bytes (base64) and the decoded message.
fn bytes(body: &Value) -> Bytes {
    match (body.get("_b64"), body) {
        (Some(text), _) => STANDARD.decode(text.as_str().unwrap()).unwrap().into(),
        (None, Value::Null) => Bytes::new(),
        (None, Value::String(text)) => text.clone().into(),
        (None, other) => other.to_string().into(),
    }
}

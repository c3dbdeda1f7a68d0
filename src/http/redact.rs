//! Keeps what must not be seen out of what the server says. A server or a proxy that repeats a credential in the text of
//! an error would otherwise put it into every log that shows the error.

use std::sync::Arc;

use bytes::Bytes;

use super::transport::{Answer, Broken};
use crate::secret::Secret;
use crate::sync::Mutex;

/// Stands for a secret.
const MARK: &str = "***";
/// What is shorter is no secret that anybody could keep, and too likely to be a part of ordinary words.
const SHORTEST: usize = 8;
/// Tokens change; so many of them are remembered.
const MOST: usize = 64;
/// Results may be large. What is said about an error is not.
const LARGEST_SUCCESS: usize = 1 << 20;

/// Knows the secrets of one client.
pub(crate) struct Redactor {
    state: Mutex<State>,
}

struct State {
    /// Forms of the secrets that stay, then those of the tokens, the oldest first.
    forms: Vec<Arc<str>>,
    n_fixed: usize,
    /// The same, the longest first, because one may be a part of another.
    sorted: Arc<Vec<Arc<str>>>,
}

impl Redactor {
    /// Keeps these out of sight for ever.
    pub(crate) fn new<'a>(fixed: impl IntoIterator<Item = &'a Secret>) -> Self {
        let mut state = State { forms: Vec::new(), n_fixed: 0, sorted: Arc::default() };
        for secret in fixed {
            state.add(secret);
            state.n_fixed = state.forms.len();
        }
        Redactor { state: Mutex::new(state) }
    }

    /// Keeps this out of sight from now on.
    pub(crate) fn learn(&self, secret: &Secret) {
        self.state.lock().add(secret);
    }

    fn known(&self) -> Arc<Vec<Arc<str>>> {
        self.state.lock().sorted.clone()
    }

    /// An answer without any secret. What is a success and no text is left as it is.
    pub(crate) fn answer(&self, mut answer: Answer) -> Answer {
        let known = self.known();
        for (_, value) in &mut answer.headers {
            if let Some(clean) = clean(&known, value) {
                *value = clean;
            }
        }
        let is_success = (200..300).contains(&answer.status);
        if is_success && (answer.is_protobuf() || LARGEST_SUCCESS < answer.body.len()) {
            return answer;
        }
        let clean = match std::str::from_utf8(&answer.body) {
            Ok(text) => clean(&known, text),
            Err(_) => clean(&known, &String::from_utf8_lossy(&answer.body)),
        };
        if let Some(clean) = clean {
            answer.body = Bytes::from(clean);
        }
        answer
    }

    /// The reason why there is no answer, without any secret.
    pub(crate) fn broken(&self, mut broken: Broken) -> Broken {
        if let Broken::Connection { message, .. }
        | Broken::Garbage { message }
        | Broken::Unsendable { message } = &mut broken
        {
            let known = self.known();
            if let Some(clean) = clean(&known, message) {
                *message = clean;
            }
        }
        broken
    }
}

impl State {
    fn add(&mut self, secret: &Secret) {
        let text = secret.expose();
        if text.len() < SHORTEST || self.forms.iter().any(|it| **it == *text) {
            return;
        }
        let quoted = serde_json::Value::from(text).to_string();
        let in_json = quoted.strip_prefix('"').and_then(|it| it.strip_suffix('"')).unwrap_or(text);
        self.forms.push(text.into());
        if in_json != text {
            self.forms.push(in_json.into());
        }
        let surplus = self.forms.len().saturating_sub(self.n_fixed + MOST);
        self.forms.drain(self.n_fixed..self.n_fixed + surplus);
        let mut sorted = self.forms.clone();
        sorted.sort_by_key(|it| std::cmp::Reverse(it.len()));
        self.sorted = Arc::new(sorted);
    }
}

/// The text without secrets, if there are any in it.
fn clean(known: &[Arc<str>], text: &str) -> Option<String> {
    let mut cleaned: Option<String> = None;
    for secret in known {
        let now = cleaned.as_deref().unwrap_or(text);
        if now.contains(&**secret) {
            cleaned = Some(now.replace(&**secret, MARK));
        }
    }
    cleaned
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Sent;

    fn redactor() -> Redactor {
        let secrets = ["tml-0123456789", "pass\"word", "short"].map(Secret::new);
        let redactor = Redactor::new(&secrets);
        redactor.learn(&Secret::new("tml-0123456789-and-more"));
        redactor
    }

    fn body(status: u16, body: &str) -> String {
        let answer =
            redactor().answer(Answer { status, body: Bytes::from(body.to_string()), ..Answer::default() });
        String::from_utf8_lossy(&answer.body).into_owned()
    }

    #[test]
    fn a_secret_is_taken_out_of_bodies_headers_and_reasons() {
        assert_eq!(body(401, "bad key tml-0123456789, not tml-0123456789-and-more"), "bad key ***, not ***");
        assert_eq!(body(200, r#"{"error":"pass\"word is short"}"#), r#"{"error":"*** is short"}"#);
        let headers = vec![("x-note".to_string(), "for tml-0123456789".to_string())];
        let answer = redactor().answer(Answer { headers, ..Answer::default() });
        assert_eq!(answer.headers[0].1, "for ***");
        let broken = Broken::Connection { sent: Sent::No, message: "no tml-0123456789".into() };
        match redactor().broken(broken) {
            Broken::Connection { message, .. } => assert_eq!(message, "no ***"),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn what_holds_no_secret_stays_as_it_is() {
        for text in ["", "tml-", "short", r#"{"a":1}"#] {
            assert_eq!(body(500, text), text);
        }
        let headers = vec![("content-type".to_string(), "application/x-protobuf".to_string())];
        let bytes = Bytes::from_static(b"\x0etml-0123456789");
        let answer = redactor().answer(Answer { status: 200, headers, body: bytes.clone() });
        assert_eq!(answer.body, bytes, "a changed length would break the message");
    }

    #[test]
    fn the_newest_tokens_are_remembered_and_what_is_fixed_stays() {
        let redactor = redactor();
        for i in 0..1000 {
            redactor.learn(&Secret::new(format!("token-{i:04}")));
        }
        let body = Bytes::from_static(b"token-0999 tml-0123456789 token-0001");
        let answer = redactor.answer(Answer { status: 400, body, ..Answer::default() });
        assert_eq!(answer.body, "*** *** token-0001");
    }
}

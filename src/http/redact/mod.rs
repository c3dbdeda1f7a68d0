//! Removes secrets from texts of the server. A server or a proxy may repeat a credential in the text of an error, which
//! would put it into every log that shows the error.
//!
//! A secret may be written with escapes (of JSON, URLs or HTML) or in base64. [`view`] decodes escapes and keeps the
//! position of each byte in the original text. [`forms`] searches the decoded text for secrets. What is found is
//! replaced in the original text, so that the rest of it stays unchanged.

mod forms;
mod view;

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;

use super::transport::{Answer, Broken};
use crate::credentials::Secret;
use crate::error::Error;
use crate::sync::Mutex;

use forms::Forms;
use view::View;

/// The text that replaces a secret.
const MARK: &str = "***";
/// Number of tokens that are remembered. Tokens are renewed from time to time.
const MOST_TOKENS: usize = 64;
/// Number of secrets of single calls that are remembered.
const MOST_HIDDEN: usize = 4096;
/// Larger bodies of successful answers are not searched: they are results, not messages.
const LARGEST_SUCCESS: usize = 1 << 20;

/// The part of a secret that is removed.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Part {
    /// Only the whole secret. Used for results, which may contain a few characters of the secret by chance.
    Whole,
    /// Each piece of the secret with at least [`forms::WINDOW`] characters. A shorter secret only where it is a
    /// separate word. Used for errors.
    Any,
}

/// Removes the secrets of one client from texts.
pub(crate) struct Redactor {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// Secrets of the configuration.
    fixed: Vec<Secret>,
    /// Secrets of single calls, oldest first.
    hidden: Vec<Secret>,
    /// Tokens, oldest first.
    tokens: Vec<Secret>,
    forms: Arc<Forms>,
}

impl Redactor {
    /// Creates a redactor for the secrets of the configuration, which are never forgotten.
    pub(crate) fn new<'a>(fixed: impl IntoIterator<Item = &'a Secret>) -> Self {
        let mut state = State::default();
        for secret in fixed {
            state.add(secret, |it| (&mut it.fixed, usize::MAX));
        }
        Redactor { state: Mutex::new(state) }
    }

    /// Adds a token, or a credential that the credential command printed. It is forgotten after [`MOST_TOKENS`] newer
    /// ones.
    pub(crate) fn learn(&self, token: &Secret) {
        self.state.lock().add(token, |it| (&mut it.tokens, MOST_TOKENS));
    }

    /// Adds a secret of one call. It is forgotten after [`MOST_HIDDEN`] newer ones.
    pub(crate) fn hide(&self, secret: &Secret) {
        self.state.lock().add(secret, |it| (&mut it.hidden, MOST_HIDDEN));
    }

    fn forms(&self) -> Arc<Forms> {
        self.state.lock().forms.clone()
    }

    /// Removes secrets from the headers and the body of an answer. Large and binary bodies of successful answers are
    /// left unchanged.
    pub(crate) fn answer(&self, mut answer: Answer) -> Answer {
        let forms = self.forms();
        let is_error = 400 <= answer.status;
        let part = if is_error { Part::Any } else { Part::Whole };
        for (_, value) in &mut answer.headers {
            if let Some(clean) = clean(&forms, value, part) {
                *value = clean;
            }
        }
        if answer.is_success() && (answer.is_protobuf() || LARGEST_SUCCESS < answer.body.len()) {
            return answer;
        }
        let text = String::from_utf8_lossy(&answer.body);
        if let Some(clean) = clean(&forms, &text, part) {
            answer.body = Bytes::from(clean);
        }
        answer
    }

    /// Removes secrets from the description of a failed exchange.
    pub(crate) fn broken(&self, mut broken: Broken) -> Broken {
        if let Broken::Connection { message, .. }
        | Broken::InvalidHttp { message }
        | Broken::WrongPeer { message }
        | Broken::Unsendable { message } = &mut broken
            && let Some(clean) = clean(&self.forms(), message, Part::Any)
        {
            *message = clean;
        }
        broken
    }

    /// Removes secrets and parts of them from an error.
    pub(crate) fn error(&self, error: Error) -> Error {
        let forms = self.forms();
        error.reworded(&|it| clean(&forms, it, Part::Any))
    }
}

impl State {
    /// Adds a secret to a list. If the list is full, its oldest entry is dropped.
    fn add(&mut self, secret: &Secret, list: impl Fn(&mut State) -> (&mut Vec<Secret>, usize)) {
        let is_known = [&self.fixed, &self.hidden, &self.tokens].into_iter().any(|it| it.contains(secret));
        if secret.expose().len() < forms::SHORTEST || is_known {
            return;
        }
        let (secrets, most) = list(self);
        secrets.push(secret.clone());
        if secrets.len() <= most {
            Arc::make_mut(&mut self.forms).add(secret.expose());
            return;
        }
        secrets.remove(0);
        let all = [&self.fixed, &self.hidden, &self.tokens].into_iter().flatten();
        self.forms = Arc::new(Forms::of(all.map(Secret::expose)));
    }
}

/// Removes secrets from a text. `None` if it contains none.
fn clean(forms: &Forms, text: &str, part: Part) -> Option<String> {
    /// Number of texts that are searched: the original and up to three decoded ones. JSON within JSON within a URL has
    /// three layers of escapes.
    const LAYERS: usize = 4;
    let mut found = Vec::new();
    let mut view = Some(View::of(text));
    for _ in 0..LAYERS {
        let Some(layer) = view else { break };
        forms.find(layer.bytes(), part == Part::Any, |range| found.push(layer.origin(range)));
        view = layer.decoded();
    }
    (!found.is_empty()).then(|| without(text, found))
}

/// Replaces each range by [`MARK`].
fn without(text: &str, mut ranges: Vec<Range<usize>>) -> String {
    ranges.sort_by_key(|range| range.start);
    let mut clean = String::with_capacity(text.len());
    let mut at = 0;
    let mut ranges = ranges.into_iter().peekable();
    while let Some(mut range) = ranges.next() {
        while let Some(next) = ranges.next_if(|it| it.start <= range.end) {
            range.end = range.end.max(next.end);
        }
        while !text.is_char_boundary(range.start) {
            range.start -= 1;
        }
        clean.push_str(&text[at..range.start.max(at)]);
        clean.push_str(MARK);
        at = range.end;
        while !text.is_char_boundary(at) {
            at += 1;
        }
    }
    clean.push_str(&text[at..]);
    clean
}

#[cfg(test)]
mod tests {
    use base64::Engine;
    use base64::engine::general_purpose::STANDARD;

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
    fn a_secret_is_removed_from_bodies_headers_and_reasons() {
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
    fn a_secret_is_found_in_every_encoding() {
        let secret = "tml-0123456789";
        let json: String = secret.chars().map(|it| format!("\\u{:04x}", it as u32)).collect();
        let twice = json.replace('\\', "\\\\");
        let percent: String = secret.bytes().map(|it| format!("%{it:02X}")).collect();
        let html: String = secret.chars().map(|it| format!("&#{};", it as u32)).collect();
        let base64 = |it: String| STANDARD.encode(it);
        for written in [
            json.clone(),
            twice,
            percent.replace('%', "%25"),
            percent,
            html,
            secret.to_uppercase(),
            base64(secret.into()),
            base64(format!("user:{secret}")),
            base64(format!("u:{secret}:and more")).replace('=', ""),
            secret[3..].into(),
            secret[..9].into(),
        ] {
            let said = body(500, &format!(r#"{{"detail":"key {written} is bad"}}"#));
            let hidden = said.replace("***", "");
            assert!(said.contains("***") && said.ends_with(r#" is bad"}"#), "{written}: {said}");
            assert!(!hidden.contains("12345") && hidden.len() < 48, "{written}: {said}");
        }
        // From results the whole secret is removed, in any encoding, but not its parts, which may occur there by
        // chance.
        assert_eq!(body(200, &format!(r#"{{"error":"{json}"}}"#)), r#"{"error":"***"}"#);
        assert_eq!(body(200, r#"{"id":"0123456789"}"#), r#"{"id":"0123456789"}"#);
    }

    #[test]
    fn a_secret_of_one_call_is_not_displaced_by_tokens() {
        let redactor = redactor();
        redactor.hide(&Secret::new("a-word-of-one-call"));
        for i in 0..1000 {
            redactor.learn(&Secret::new(format!("token-{i:04}")));
        }
        let error = redactor.error(Error::decode("no a-word-of-one-call here"));
        assert_eq!(error.message(), "no *** here");
    }

    #[test]
    fn a_short_secret_is_removed_from_errors_where_it_is_a_word() {
        assert_eq!(body(401, "bad key short"), "bad key ***");
        assert_eq!(
            body(401, r#"{"detail":"bad key: \"short\", shorter"}"#),
            r#"{"detail":"bad key: \"***\", shorter"}"#
        );
        assert_eq!(redactor().error(Error::decode("key=short.")).message(), "key=***.");
        assert_eq!(body(200, r#"{"word":"short"}"#), r#"{"word":"short"}"#);
        // Words of one to three characters are too common to be removed.
        let answer = Answer { status: 401, body: Bytes::from_static(b"bad key abc"), ..Answer::default() };
        assert_eq!(Redactor::new(&[Secret::new("abc")]).answer(answer).body, "bad key abc");
    }

    #[test]
    fn a_mark_never_cuts_a_character() {
        let redactor = Redactor::new(&[Secret::new("pässwörter")]);
        let answer = |text: &str| Answer { status: 400, body: text.to_string().into(), ..Answer::default() };
        assert_eq!(redactor.answer(answer("äpässwörterö")).body, "ä***ö".as_bytes());
        let cut = redactor.answer(answer("ö sswörter ö"));
        assert_eq!(cut.body, "ö *** ö".as_bytes());
    }

    #[test]
    fn a_text_without_secrets_stays_unchanged() {
        for text in ["", "tml-", "shortly", "x-short", r#"{"a":1}"#] {
            assert_eq!(body(500, text), text);
        }
        let headers = vec![("content-type".to_string(), "application/x-protobuf".to_string())];
        let bytes = Bytes::from_static(b"\x0etml-0123456789");
        let answer = redactor().answer(Answer { status: 200, headers, body: bytes.clone() });
        assert_eq!(answer.body, bytes, "a changed length would break the message");
    }

    #[test]
    fn the_newest_tokens_and_the_fixed_secrets_are_remembered() {
        let redactor = redactor();
        for i in 0..1000 {
            redactor.learn(&Secret::new(format!("token-{i:04}")));
        }
        let body = Bytes::from_static(b"token-0999 tml-0123456789 token-0001");
        let answer = redactor.answer(Answer { status: 400, body, ..Answer::default() });
        assert_eq!(answer.body, "*** *** token-0001");
    }
}

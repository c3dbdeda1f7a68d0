//! Which credential a client uses (PROTOCOL §1.3). What is read and run for it is told from outside.

use std::time::SystemTime;

use crate::claims::{self, JWT_PREFIX};
use crate::error::{Error, ErrorKind, Result};
use crate::secret::Secret;

/// Every API key begins with this.
const KEY_PREFIX: &str = "tml-";

/// Everything that a credential could come from.
#[derive(Clone, Debug, Default)]
pub(crate) struct Credentials {
    /// Given explicitly, or else `TINKER_API_KEY`.
    pub(crate) candidate: Option<Secret>,
    /// A candidate of any form will do.
    pub(crate) any_key: bool,
    /// A line for the shell that prints a credential. A secret, because it may contain one.
    pub(crate) command: Option<Secret>,
    /// The default key of the user's file.
    pub(crate) stored: Option<Secret>,
}

/// What a credential does come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Source {
    /// It is this one.
    Fixed(Secret),
    /// It is printed by this command, which is run whenever one is needed.
    Command(Secret),
}

impl Credentials {
    /// The source to use. A server may insist on the command, which only a JWT outranks then.
    pub(crate) fn source(&self, command_only: bool) -> Result<Source> {
        let command = self.command.clone().map(Source::Command);
        let candidate = self.candidate.as_ref();
        if let Some(jwt) = candidate.filter(|it| it.expose().starts_with(JWT_PREFIX)) {
            self.check(jwt, "the API key")?;
            return Ok(Source::Fixed(jwt.clone()));
        }
        if command_only {
            return command.ok_or_else(|| {
                Error::config(
                    "the server takes credentials from a credential command only: set TINKER_CREDENTIAL_CMD or call \
                     ServiceClientBuilder::credential_command",
                )
            });
        }
        if let Some(key) = candidate {
            return match (self.check(key, "the API key"), command) {
                (Ok(()), _) => Ok(Source::Fixed(key.clone())),
                // Not even the beginning is right, so that it is probably no key at all.
                (Err(_), Some(command)) if !key.expose().starts_with(KEY_PREFIX) => Ok(command),
                (Err(error), _) => Err(error),
            };
        }
        match (command, &self.stored) {
            (Some(command), _) => Ok(command),
            (None, Some(key)) => {
                self.check(key, "the stored default key")?;
                Ok(Source::Fixed(key.clone()))
            }
            (None, None) => Err(Error::config(
                "no API key: set TINKER_API_KEY or call ServiceClientBuilder::api_key, or set TINKER_CREDENTIAL_CMD, \
                 or store a default key in ~/.tinker/credentials.json",
            )),
        }
    }

    /// Whether a text could be a credential at all, and has not expired.
    pub(crate) fn check(&self, credential: &Secret, whose: &str) -> Result<()> {
        let text = credential.expose();
        if text.is_empty() || text.chars().any(|it| it.is_control() || it.is_whitespace()) {
            return Err(Error::config(format!("{whose} is empty or contains white space")));
        }
        if !self.any_key && !text.starts_with(KEY_PREFIX) && !text.starts_with(JWT_PREFIX) {
            return Err(Error::config(format!(
                "{whose} starts neither with {KEY_PREFIX} nor with {JWT_PREFIX}; for a server that takes any key, call \
                 ServiceClientBuilder::allow_any_key"
            )));
        }
        claims::check_expiry(text, whose, SystemTime::now())
    }

    /// The credential in what a command printed.
    pub(crate) fn printed(&self, output: &[u8]) -> Result<Secret> {
        const WHOSE: &str = "what the credential command printed";
        let auth = |it: Error| Error::new(ErrorKind::Auth, it.message());
        let Ok(text) = std::str::from_utf8(output) else {
            return Err(Error::new(ErrorKind::Auth, format!("{WHOSE} is not text")));
        };
        if text.trim().is_empty() {
            let text = "the credential command printed nothing: run it by hand to see what is wrong";
            return Err(Error::new(ErrorKind::Auth, text));
        }
        let credential = Secret::new(text.trim());
        self.check(&credential, WHOSE).map_err(auth)?;
        Ok(credential)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use base64::Engine;
    use base64::engine::general_purpose::URL_SAFE_NO_PAD;

    const EXPIRED: &str = r#"{"exp":1000}"#;

    fn secret(text: &str) -> Option<Secret> {
        (!text.is_empty()).then(|| Secret::new(text))
    }

    #[test]
    fn the_credential_is_resolved_in_the_order_of_the_protocol() {
        let (fixed, run, none) = ("fixed", "command", "error");
        for (candidate, command, stored, command_only, expected) in [
            ("eyJx", "c", "tml-s", true, (fixed, "eyJx")),
            ("eyJx", "", "", false, (fixed, "eyJx")),
            ("tml-a", "c", "tml-s", true, (run, "c")),
            ("tml-a", "", "tml-s", true, (none, "credential command only")),
            ("", "", "tml-s", true, (none, "credential command only")),
            ("tml-a", "c", "tml-s", false, (fixed, "tml-a")),
            ("sk-1", "c", "tml-s", false, (run, "c")),
            ("sk-1", "", "tml-s", false, (none, "starts neither with tml- nor with eyJ")),
            ("tml-a b", "c", "", false, (none, "white space")),
            ("", "c", "tml-s", false, (run, "c")),
            ("", "", "tml-s", false, (fixed, "tml-s")),
            ("", "", "sk-s", false, (none, "the stored default key starts neither")),
            ("", "", "", false, (none, "no API key: set TINKER_API_KEY")),
        ] {
            let credentials = Credentials {
                candidate: secret(candidate),
                any_key: false,
                command: secret(command),
                stored: secret(stored),
            };
            let found = credentials.source(command_only);
            let found = match &found {
                Ok(Source::Fixed(it)) => (fixed, it.expose()),
                Ok(Source::Command(it)) => (run, it.expose()),
                Err(error) => (none, error.message()),
            };
            let what = format!("{candidate:?} {command:?} {stored:?} {command_only}: {found:?}");
            assert_eq!(found.0, expected.0, "{what}");
            assert!(found.1.contains(expected.1), "{what}");
        }
    }

    #[test]
    fn a_key_of_any_form_is_used_if_the_caller_allows_it() {
        let credentials = Credentials { candidate: secret("sk-1"), any_key: true, ..Default::default() };
        assert_eq!(credentials.source(false).expect("a key"), Source::Fixed(Secret::new("sk-1")));
    }

    #[test]
    fn an_expired_token_is_refused_here_whatever_it_came_from() {
        let jwt = format!("eyJ.{}.x", URL_SAFE_NO_PAD.encode(EXPIRED));
        let given = Credentials { candidate: secret(&jwt), command: secret("c"), ..Default::default() };
        let error = given.source(false).expect_err("expired");
        assert!(*error.kind() == ErrorKind::Auth && error.message().contains("expired"), "{error}");
        let error = given.printed(format!("{jwt}\n").as_bytes()).expect_err("expired");
        assert!(*error.kind() == ErrorKind::Auth && error.message().contains("expired"), "{error}");
        assert!(!error.to_string().contains(&jwt));
    }

    #[test]
    fn what_a_command_prints_is_trimmed_and_checked() {
        let credentials = Credentials::default();
        assert_eq!(credentials.printed(b" tml-a\r\n").expect("a key").expose(), "tml-a");
        for (output, problem) in [
            (&b" \n"[..], "printed nothing"),
            (b"\xff", "is not text"),
            (b"tml-a\ntml-b", "white space"),
            (b"password: hunter2", "white space"),
            (b"hunter2", "starts neither"),
        ] {
            let error = credentials.printed(output).expect_err("no credential");
            assert!(error.message().contains(problem), "{error}");
            assert!(*error.kind() == ErrorKind::Auth && !error.to_string().contains("hunter2"), "{error}");
        }
    }
}

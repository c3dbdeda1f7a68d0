//! Chooses and checks the credential (PROTOCOL §1.3). Other modules read files and run commands.

use std::time::SystemTime;

use super::Secret;
use super::claims::{self, JWT_PREFIX};
use crate::error::{Error, ErrorKind, Result};

/// Prefix of API keys.
const KEY_PREFIX: &str = "tml-";

/// All possible sources of the credential.
#[derive(Clone, Debug, Default)]
pub(crate) struct Credentials {
    /// The API key or JWT set in the builder, or else that of `TINKER_API_KEY`.
    pub(crate) candidate: Option<Secret>,
    /// Accepts keys that begin with neither `tml-` nor `eyJ`.
    pub(crate) any_key: bool,
    /// A shell command line that prints a credential. It is a secret because the line itself may contain a credential.
    pub(crate) command: Option<Secret>,
    /// The default key of the user's credential file.
    pub(crate) stored: Option<Secret>,
}

/// The source of the credential in use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Source {
    /// Always this credential.
    Fixed(Secret),
    /// The output of this command, which is run each time a credential is needed.
    Command(Secret),
}

impl Credentials {
    /// Chooses the source. With `command_only`, which some servers require in their flags, only a JWT or the command is
    /// accepted.
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
                    "the server accepts only credentials from a credential command: set TINKER_CREDENTIAL_CMD or call \
                     ServiceClientBuilder::credential_command",
                )
            });
        }
        if let Some(key) = candidate {
            return match (self.check(key, "the API key"), command) {
                (Ok(()), _) => Ok(Source::Fixed(key.clone())),
                // Text without the prefix of a key is probably not a key: use the command instead.
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

    /// Checks the characters, the length and the prefix of a credential, and the expiry of a JWT. `name` names the
    /// credential in errors.
    pub(crate) fn check(&self, credential: &Secret, name: &str) -> Result<()> {
        /// Limit in bytes: a header line must fit into the smallest output buffer of a connection (4 KiB).
        const LONGEST: usize = 4000;
        let text = credential.expose();
        if text.is_empty() {
            return Err(Error::config(format!("{name} is empty")));
        }
        if text.chars().any(|c| c.is_control() || c.is_whitespace()) {
            return Err(Error::config(format!("{name} contains white space or control characters")));
        }
        if LONGEST < text.len() {
            let n = text.len();
            return Err(Error::config(format!("{name} has {n} bytes; credentials have at most {LONGEST}")));
        }
        if !self.any_key && !text.starts_with(KEY_PREFIX) && !text.starts_with(JWT_PREFIX) {
            return Err(Error::config(format!(
                "{name} must start with {KEY_PREFIX} or {JWT_PREFIX}; for a server that takes any key, call \
                 ServiceClientBuilder::allow_any_key"
            )));
        }
        claims::check_expiry(text, name, SystemTime::now())
    }

    /// Reads the credential from the output of the command.
    pub(crate) fn printed(&self, output: &[u8]) -> Result<Secret> {
        const NAME: &str = "the output of the credential command";
        let auth = |error: Error| Error::new(ErrorKind::Auth, error.message());
        let Ok(text) = std::str::from_utf8(output) else {
            return Err(Error::new(ErrorKind::Auth, format!("{NAME} is not valid UTF-8")));
        };
        if text.trim().is_empty() {
            let text = "the credential command printed nothing: run it in a shell to see its errors";
            return Err(Error::new(ErrorKind::Auth, text));
        }
        let credential = Secret::new(text.trim());
        self.check(&credential, NAME).map_err(auth)?;
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
            ("tml-a", "", "tml-s", true, (none, "only credentials from a credential command")),
            ("", "", "tml-s", true, (none, "only credentials from a credential command")),
            ("tml-a", "c", "tml-s", false, (fixed, "tml-a")),
            ("sk-1", "c", "tml-s", false, (run, "c")),
            ("sk-1", "", "tml-s", false, (none, "must start with tml- or eyJ")),
            ("tml-a b", "c", "", false, (none, "white space")),
            ("", "c", "tml-s", false, (run, "c")),
            ("", "", "tml-s", false, (fixed, "tml-s")),
            ("", "", "sk-s", false, (none, "the stored default key must start with")),
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
            let case = format!("{candidate:?} {command:?} {stored:?} {command_only}: {found:?}");
            assert_eq!(found.0, expected.0, "{case}");
            assert!(found.1.contains(expected.1), "{case}");
        }
    }

    #[test]
    fn a_key_of_any_form_is_used_if_the_caller_allows_it() {
        let credentials = Credentials { candidate: secret("sk-1"), any_key: true, ..Default::default() };
        assert_eq!(credentials.source(false).expect("a key"), Source::Fixed(Secret::new("sk-1")));
    }

    #[test]
    fn an_expired_token_from_any_source_is_refused() {
        let jwt = format!("eyJ.{}.x", URL_SAFE_NO_PAD.encode(EXPIRED));
        let given = Credentials { candidate: secret(&jwt), command: secret("c"), ..Default::default() };
        let error = given.source(false).expect_err("expired");
        assert!(*error.kind() == ErrorKind::Auth && error.message().contains("expired"), "{error}");
        let error = given.printed(format!("{jwt}\n").as_bytes()).expect_err("expired");
        assert!(*error.kind() == ErrorKind::Auth && error.message().contains("expired"), "{error}");
        assert!(!error.to_string().contains(&jwt));
    }

    #[test]
    fn the_output_of_the_command_is_trimmed_and_checked() {
        let credentials = Credentials::default();
        assert_eq!(credentials.printed(b" tml-a\r\n").expect("a key").expose(), "tml-a");
        for (output, problem) in [
            (&b" \n"[..], "printed nothing"),
            (b"\xff", "is not valid UTF-8"),
            (b"tml-a\ntml-b", "white space"),
            (b"password: hunter2", "white space"),
            (b"hunter2", "must start with"),
            (&[b'x'; 20_000], "has 20000 bytes"),
        ] {
            let error = credentials.printed(output).expect_err("no credential");
            assert!(error.message().contains(problem), "{error}");
            assert!(*error.kind() == ErrorKind::Auth && !error.to_string().contains("hunter2"), "{error}");
        }
    }
}

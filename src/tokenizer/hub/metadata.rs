//! The headers in which the hub describes a file.

use ring::digest;

use crate::error::{Error, Result, words};
use crate::http::Answer;
use crate::tokenizer::hf_cache::is_commit;

/// Longest etag that is accepted as the name of a file.
const LONGEST_ETAG: usize = 128;

/// The properties of a file, gathered over the answers of the hub itself. A storage server to which the hub redirects
/// does not count: its etag is another one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Metadata {
    /// The commit of the revision (`X-Repo-Commit`).
    pub(super) commit: Option<String>,
    /// The etag of the file: the SHA-256 of a large file, another text for a small one.
    etag: Option<String>,
    /// `X-Linked-Etag` of an answer, which takes precedence over `ETag`.
    has_linked_etag: bool,
    /// Length in bytes.
    size: Option<u64>,
}

impl Metadata {
    /// Reads one answer of the hub. Of several answers, the last one counts.
    pub(super) fn read(&mut self, answer: &Answer) {
        if let Some(commit) = answer.header("x-repo-commit").map(str::trim).filter(|it| is_commit(it)) {
            self.commit = Some(commit.to_ascii_lowercase());
        }
        if let Some(etag) = answer.header("x-linked-etag") {
            (self.etag, self.has_linked_etag) = (Some(plain(etag)), true);
        } else if let Some(etag) = answer.header("etag").filter(|_| !self.has_linked_etag) {
            self.etag = Some(plain(etag));
        }
        let number = |name: &str| answer.header(name)?.trim().parse().ok().filter(|size| 0_u64 < *size);
        // The `Content-Length` of a redirect is that of its own body. Some servers answer HEAD with a length of 0.
        let own = number("content-length").filter(|_| answer.is_success() && self.size.is_none());
        self.size = number("x-linked-size").or(own).or(self.size);
    }

    /// The etag, as the name of the file in the folder `blobs`.
    pub(super) fn blob_name(&self) -> Result<&str> {
        let is_valid = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | '=');
        match self.etag.as_deref() {
            Some(etag)
                if !etag.is_empty()
                    && etag.len() <= LONGEST_ETAG
                    && !etag.starts_with('.')
                    && etag.chars().all(is_valid) =>
            {
                Ok(etag)
            }
            Some(etag) => {
                Err(not_a_hub(&format!("the etag {:?} cannot name a file", words::presentable(etag))))
            }
            None => Err(not_a_hub("the answer has no header ETag")),
        }
    }

    /// True if a file of this length may be the file.
    pub(super) fn fits(&self, n_bytes: u64) -> bool {
        self.size.is_none_or(|size| size == n_bytes)
    }

    /// Checks a downloaded file.
    ///
    /// # Errors
    /// The length or the SHA-256 is not the one that the hub states.
    pub(super) fn check(&self, body: &[u8]) -> Result<()> {
        if let Some(size) = self.size.filter(|size| *size != body.len() as u64) {
            let text = format!("the file has {} bytes, but the hub states {size}", body.len());
            return Err(Error::decode(format!("{text}: the download was cut or changed; try again")));
        }
        let stated =
            self.etag.as_deref().filter(|it| it.len() == 64 && it.bytes().all(|c| c.is_ascii_hexdigit()));
        let Some(stated) = stated else { return Ok(()) };
        let found = sha256(body);
        if found.eq_ignore_ascii_case(stated) {
            return Ok(());
        }
        let text = format!("the file has the SHA-256 {found}, but the hub states {stated}");
        Err(Error::decode(format!("{text}: the download was changed on its way; try again")))
    }
}

/// The SHA-256 of bytes in hexadecimal digits.
pub(super) fn sha256(bytes: &[u8]) -> String {
    digest::digest(&digest::SHA256, bytes).as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The error of a server whose answers lack what the hub sends.
pub(super) fn not_a_hub(problem: &str) -> Error {
    Error::decode(format!(
        "the server does not answer like the Hugging Face hub: {problem}; check HF_ENDPOINT"
    ))
}

/// An etag without quotes and without the mark of weak ones.
fn plain(etag: &str) -> String {
    let etag = etag.trim();
    etag.strip_prefix("W/").unwrap_or(etag).trim_matches('"').to_string()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

    fn of(answers: &[&[(&str, &str)]]) -> Metadata {
        let mut metadata = Metadata::default();
        for headers in answers {
            let status = if headers.iter().any(|(name, _)| *name == "location") { 302 } else { 200 };
            let answer =
                headers.iter().fold(Answer::new(status), |it, (name, value)| it.with_header(name, *value));
            metadata.read(&answer);
        }
        metadata
    }

    #[test]
    fn headers_of_large_files_take_precedence_over_those_of_the_answer_itself() {
        let small = of(&[&[("ETag", "W/\"abc\""), ("Content-Length", "5"), ("X-Repo-Commit", COMMIT)]]);
        assert_eq!(
            (small.blob_name().unwrap(), small.size, small.commit.as_deref()),
            ("abc", Some(5), Some(COMMIT))
        );
        let large = of(&[&[
            ("ETag", "\"other\""),
            ("X-Linked-Etag", "\"big\""),
            ("X-Linked-Size", "900"),
            ("Content-Length", "70"),
            ("Location", "https://cdn"),
        ]]);
        assert_eq!((large.blob_name().unwrap(), large.size), ("big", Some(900)));
        // A renamed repository: the hub redirects to itself.
        let renamed = of(&[
            &[("Content-Length", "70"), ("location", "/new")],
            &[("X-Linked-Etag", "big"), ("X-Linked-Size", "900"), ("location", "https://cdn")],
        ]);
        assert_eq!((renamed.blob_name().unwrap(), renamed.size), ("big", Some(900)));
        assert_eq!(of(&[&[("X-Repo-Commit", "main"), ("Content-Length", "0")]]), Metadata::default());
    }

    #[test]
    fn an_etag_that_cannot_name_a_file_is_refused() {
        for etag in ["", "\"\"", "../x", "a/b", "a b", ".x", "a\u{e9}", &"x".repeat(129)] {
            let error = of(&[&[("etag", etag)]]).blob_name().unwrap_err().to_string();
            assert!(error.contains("HF_ENDPOINT") && error.contains("cannot name a file"), "{etag}: {error}");
        }
        assert!(Metadata::default().blob_name().unwrap_err().to_string().contains("no header ETag"));
    }

    #[test]
    fn length_and_digest_of_a_file_are_checked_where_the_hub_states_them() {
        let digest = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert_eq!(sha256(b"abc"), digest);
        let checked = |etag: &str, size: &str, body: &[u8]| {
            of(&[&[("X-Linked-Etag", etag), ("X-Linked-Size", size)]]).check(body)
        };
        assert!(checked(digest, "3", b"abc").is_ok());
        assert!(checked("0123456789", "", b"abc").is_ok());
        let error = checked(digest, "3", b"abd").unwrap_err().to_string();
        assert!(error.contains(digest), "{error}");
        for size in ["2", "4"] {
            let error = checked(digest, size, b"abc").unwrap_err().to_string();
            assert!(error.contains(&format!("has 3 bytes, but the hub states {size}")), "{error}");
        }
    }
}

//! The errors of answers that refuse a file.

use crate::error::{Error, ErrorKind, words};
use crate::http::Answer;

/// The error of an answer that is neither a success nor a redirect. `page` is the web page of the repository.
pub(super) fn refusal(answer: &Answer, page: &str, revision: &str, has_token: bool) -> Error {
    let error = answer.facts().error();
    let request_id = answer.header("x-request-id").map(str::to_string);
    let error = error.with(|context| context.request_id = request_id);
    let said = answer.header("x-error-message").map(words::presentable).filter(|said| !said.is_empty());
    let said = said.or_else(|| error.detail().map(str::to_string));
    let said = said.map_or_else(String::new, |said| format!(": {said}"));
    let status = answer.status;
    let (kind, text) = match (status, answer.header("x-error-code").unwrap_or_default()) {
        (401 | 403, _) if has_token => (
            error.kind().clone(),
            format!(
                "the hub refuses access (HTTP {status}{said}): check the name, that the token (HF_TOKEN) is valid and \
                 may read gated repositories, and that its account has accepted the licence on {page}"
            ),
        ),
        (401 | 403, _) => (
            error.kind().clone(),
            format!(
                "the hub refuses access (HTTP {status}{said}): check the name; if the model is gated or private, \
                 accept its licence on {page} and set HF_TOKEN to a token of that account"
            ),
        ),
        (404, "RevisionNotFound") => {
            (ErrorKind::NotFound, format!("the repository {page} has no revision {revision:?}"))
        }
        (404, "RepoNotFound") => (ErrorKind::NotFound, format!("the repository {page} does not exist")),
        (300..=399, _) => (
            ErrorKind::Status { code: status },
            format!("HTTP {status}: the server redirects and names no place; check HF_ENDPOINT"),
        ),
        _ => (error.kind().clone(), format!("the hub answered with HTTP {status}{said}")),
    };
    error.renamed(kind, text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_says_what_the_hub_said_and_what_to_do() {
        let page = "https://huggingface.co/org/name";
        for (status, code, message, has_token, kind, parts) in [
            (
                401,
                "GatedRepo",
                "Access is restricted",
                false,
                "Auth",
                &["Access is restricted", "accept its", "HF_TOKEN"][..],
            ),
            (401, "RepoNotFound", "", false, "Auth", &["check the name", page]),
            (403, "GatedRepo", "", true, "Permission", &["the token (HF_TOKEN) is valid", page]),
            (404, "RepoNotFound", "", true, "NotFound", &["does not exist", page]),
            (404, "RevisionNotFound", "", true, "NotFound", &["no revision \"v1\""]),
            (404, "EntryNotFound", "no file", true, "NotFound", &["HTTP 404: no file"]),
            (429, "", "", true, "RateLimited", &["HTTP 429"]),
            (503, "", "maintenance", true, "Status", &["HTTP 503: maintenance"]),
            (302, "", "", true, "Status", &["names no place"]),
        ] {
            let answer =
                Answer::new(status).with_header("X-Error-Code", code).with_header("X-Error-Message", message);
            let error = refusal(&answer.with_header("X-Request-Id", "r-1"), page, "v1", has_token);
            let text = error.to_string();
            assert!(parts.iter().all(|part| text.contains(part)), "{text}");
            assert_eq!((error.kind().name(), error.http_status()), (kind, Some(status)), "{text}");
            assert_eq!(error.request_id(), Some("r-1"));
        }
        let body = Answer::new(500).with_body(r#"{"error":"out of order"}"#);
        assert!(refusal(&body, page, "v1", false).to_string().contains("HTTP 500: out of order"));
    }
}

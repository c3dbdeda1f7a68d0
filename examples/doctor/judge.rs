//! What a server's refusal says of a check: does it not offer this, or is something broken?

use tinkex::{Category, Error, ErrorKind};

/// How much a check needs.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Need {
    /// No server can do without it.
    Core,
    /// An endpoint that servers of the family may lack.
    Endpoint,
    /// An option of a verb that servers may lack. The words are the names by which a refusal may call it.
    Option(&'static [&'static str]),
    /// An endpoint that servers may lack, asked about something that does not exist: to be refused is right.
    Probe,
}

/// How a check ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mark {
    Ok,
    NotOffered,
    Broken,
}

/// What is known of a refusal.
pub(crate) struct Refusal<'a> {
    pub(crate) kind: &'a ErrorKind,
    pub(crate) status: Option<u16>,
    /// Everything that was said, without the verb and the address.
    pub(crate) words: String,
}

impl<'a> Refusal<'a> {
    pub(crate) fn of(error: &'a Error) -> Self {
        let chain: Vec<&Error> = std::iter::successors(Some(error), |it| it.cause()).collect();
        let words: Vec<&str> = chain.iter().map(|it| it.message()).collect();
        // The innermost error is the one that the server caused.
        let kind = chain.last().map_or(error.kind(), |it| it.kind());
        Refusal { kind, status: error.http_status(), words: words.join(": ") }
    }
}

/// Decides.
pub(crate) fn judge(need: Need, refusal: &Refusal<'_>) -> Mark {
    let status = refusal.status.unwrap_or(0);
    let is_failure =
        matches!(refusal.kind, ErrorKind::RequestFailed { category: Category::User | Category::Unknown });
    match need {
        Need::Core => Mark::Broken,
        _ if *refusal.kind == ErrorKind::Incompatible => Mark::NotOffered,
        // Whoever answers 404 to a question about a thing that does not exist has the endpoint, unless these are the words
        // of the family's framework for an unknown path.
        Need::Probe if status == 404 && !refusal.words.contains("HTTP 404: Not Found") => Mark::Ok,
        Need::Probe if matches!(status, 400 | 403 | 409 | 422) => Mark::Ok,
        Need::Endpoint | Need::Probe if matches!(status, 403 | 404 | 405 | 501) => Mark::NotOffered,
        Need::Option(names) if is_failure || matches!(status, 400 | 422) => {
            let said = plain(&refusal.words);
            match names.iter().any(|it| said.contains(&plain(it))) {
                true => Mark::NotOffered,
                false => Mark::Broken,
            }
        }
        _ => Mark::Broken,
    }
}

/// As words are compared: `top-k`, `topK` and `top_k` are the same.
fn plain(text: &str) -> String {
    text.chars().filter(char::is_ascii_alphanumeric).map(|it| it.to_ascii_lowercase()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_refusal_that_names_what_was_asked_for_says_that_it_is_not_offered() {
        use Mark::*;
        use Need::*;
        const TOPK: Need = Option(&["topk_prompt_logprobs"]);
        const DRO: Need = Option(&["dro", "loss_fn"]);
        let status = |code| ErrorKind::Status { code };
        let failed = |category| ErrorKind::RequestFailed { category };
        let timeout = ErrorKind::Timeout(tinkex::Phase::Total);
        for (need, kind, code, words, mark) in [
            // A core verb is never optional.
            (Core, ErrorKind::NotFound, 404, "HTTP 404: Not Found", Broken),
            (Core, ErrorKind::Incompatible, 404, "this server does not offer it", Broken),
            (Core, status(405), 405, "HTTP 405: Method Not Allowed", Broken),
            (Core, status(422), 422, "HTTP 422: seed: extra inputs are not permitted", Broken),
            // An endpoint may be missing or closed, but it may not fail.
            (
                Endpoint,
                ErrorKind::Incompatible,
                404,
                "this server does not offer GET sessions (HTTP 404)",
                NotOffered,
            ),
            (Endpoint, ErrorKind::Incompatible, 0, "this server does not offer GET sessions", NotOffered),
            (Endpoint, ErrorKind::NotFound, 404, "HTTP 404: Not Found", NotOffered),
            (Endpoint, status(405), 405, "HTTP 405: Method Not Allowed", NotOffered),
            (Endpoint, status(501), 501, "HTTP 501: not implemented", NotOffered),
            (Endpoint, ErrorKind::Permission, 403, "HTTP 403: needs the role for billing", NotOffered),
            (Endpoint, status(500), 500, "HTTP 500: oops", Broken),
            (Endpoint, status(400), 400, "HTTP 400: bad", Broken),
            (Endpoint, status(422), 422, "HTTP 422: body.limit: field required", Broken),
            (Endpoint, timeout.clone(), 0, "no answer in time", Broken),
            (Endpoint, ErrorKind::Decode, 200, "not JSON", Broken),
            (Endpoint, ErrorKind::Auth, 401, "HTTP 401: who are you?", Broken),
            // An option is refused by name.
            (TOPK, status(400), 400, "HTTP 400: topk_prompt_logprobs is not supported", NotOffered),
            (TOPK, status(422), 422, "HTTP 422: body.topk-prompt-logprobs: extra inputs", NotOffered),
            (TOPK, failed(Category::User), 0, "topKPromptLogprobs: no", NotOffered),
            (TOPK, failed(Category::Unknown), 0, "topk_prompt_logprobs: no", NotOffered),
            (TOPK, failed(Category::Server), 0, "topk_prompt_logprobs: index out of range", Broken),
            (TOPK, status(400), 400, "HTTP 400: bad request", Broken),
            (TOPK, ErrorKind::NotFound, 404, "HTTP 404: topk_prompt_logprobs", Broken),
            (TOPK, status(500), 500, "HTTP 500: topk_prompt_logprobs", Broken),
            (
                DRO,
                status(422),
                422,
                "HTTP 422: loss_fn: input should be 'cross_entropy' or 'ppo'",
                NotOffered,
            ),
            (DRO, status(400), 400, "HTTP 400: unknown loss function DRO", NotOffered),
            (DRO, timeout, 0, "dro took too long", Broken),
            // To be told that a thing does not exist is an answer.
            (Probe, ErrorKind::NotFound, 404, "HTTP 404: this project does not exist", Ok),
            (Probe, ErrorKind::NotFound, 404, "HTTP 404: Not Found; others say the same", NotOffered),
            (Probe, status(400), 400, "HTTP 400: not external", Ok),
            (Probe, status(422), 422, "HTTP 422: project_id: not a project", Ok),
            (Probe, ErrorKind::Permission, 403, "HTTP 403: not your project", Ok),
            (Probe, status(405), 405, "HTTP 405: Method Not Allowed", NotOffered),
            (Probe, ErrorKind::Incompatible, 405, "this server does not offer it (HTTP 405)", NotOffered),
            (Probe, status(500), 500, "HTTP 500: oops", Broken),
        ] {
            let refusal = Refusal { kind: &kind, status: (0 < code).then_some(code), words: words.into() };
            assert_eq!(judge(need, &refusal), mark, "{need:?}: {words}");
        }
    }
}

//! Decides from the server's error if a failed check is marked as not offered or as broken.

use tinkex::{Category, Error, ErrorKind};

/// What a check tests. This decides which errors of the server are acceptable.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Need {
    /// A method that must work with every server.
    Core,
    /// An endpoint that a server may lack.
    Endpoint,
    /// An option that a server may lack. A refusal that contains one of these names is about the option.
    Option(&'static [&'static str]),
    /// An endpoint that a server may lack, called with an object that does not exist: the right answer is a refusal of
    /// this object.
    Probe,
}

/// Outcome of a check.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mark {
    Ok,
    NotOffered,
    Broken,
}

impl Mark {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Mark::Ok => "ok",
            Mark::NotOffered => "not offered",
            Mark::Broken => "broken",
        }
    }
}

/// Facts about the error of a failed check.
pub(crate) struct Refusal<'a> {
    pub(crate) kind: &'a ErrorKind,
    pub(crate) status: Option<u16>,
    /// Messages of the error and its causes, without the name of the method and the URL.
    pub(crate) message: String,
}

impl<'a> Refusal<'a> {
    pub(crate) fn of(error: &'a Error) -> Self {
        let chain: Vec<&Error> = std::iter::successors(Some(error), |it| it.cause()).collect();
        let messages: Vec<&str> = chain.iter().map(|error| error.message()).collect();
        // The innermost error tells what the server answered.
        let kind = chain.last().map_or(error.kind(), |error| error.kind());
        Refusal { kind, status: error.http_status(), message: messages.join(": ") }
    }
}

/// Decides the mark of a failed check.
pub(crate) fn judge(need: Need, refusal: &Refusal<'_>) -> Mark {
    let status = refusal.status.unwrap_or(0);
    let is_failure =
        matches!(refusal.kind, ErrorKind::RequestFailed { category: Category::User | Category::Unknown });
    match need {
        Need::Core => Mark::Broken,
        _ if *refusal.kind == ErrorKind::Incompatible => Mark::NotOffered,
        // A 404 with a specific message is about the missing object, so the endpoint exists. If the endpoint is
        // missing, the message is "Not Found": the servers' web framework sends it for an unknown path.
        Need::Probe if status == 404 && !refusal.message.contains("HTTP 404: Not Found") => Mark::Ok,
        Need::Probe if matches!(status, 400 | 403 | 409 | 422) => Mark::Ok,
        Need::Endpoint | Need::Probe if matches!(status, 403 | 404 | 405 | 501) => Mark::NotOffered,
        Need::Option(names) if is_failure || matches!(status, 400 | 422) => {
            let message = normalized(&refusal.message);
            if names.iter().any(|name| message.contains(&normalized(name))) {
                Mark::NotOffered
            } else {
                Mark::Broken
            }
        }
        _ => Mark::Broken,
    }
}

/// Keeps only letters and digits, in lower case, so that `top-k`, `topK` and `top_k` compare equal.
fn normalized(text: &str) -> String {
    text.chars().filter(char::is_ascii_alphanumeric).map(|it| it.to_ascii_lowercase()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_option_is_not_offered_only_if_the_refusal_names_it() {
        use Mark::*;
        use Need::*;
        const TOPK: Need = Option(&["topk_prompt_logprobs"]);
        const DRO: Need = Option(&["dro", "loss_fn"]);
        let status = |code| ErrorKind::Status { code };
        let failed = |category| ErrorKind::RequestFailed { category };
        let timeout = ErrorKind::Timeout(tinkex::Phase::Total);
        for (need, kind, code, message, mark) in [
            // A core method is never optional.
            (Core, ErrorKind::NotFound, 404, "HTTP 404: Not Found", Broken),
            (Core, ErrorKind::Incompatible, 404, "this server does not offer it", Broken),
            (Core, status(405), 405, "HTTP 405: Method Not Allowed", Broken),
            (Core, status(422), 422, "HTTP 422: seed: extra inputs are not permitted", Broken),
            // An endpoint may be missing or forbidden, but it must not fail in another way.
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
            // An error about the missing object shows that the endpoint works.
            (Probe, ErrorKind::NotFound, 404, "HTTP 404: this project does not exist", Ok),
            (Probe, ErrorKind::NotFound, 404, "HTTP 404: Not Found; others say the same", NotOffered),
            (Probe, status(400), 400, "HTTP 400: not external", Ok),
            (Probe, status(422), 422, "HTTP 422: project_id: not a project", Ok),
            (Probe, ErrorKind::Permission, 403, "HTTP 403: not your project", Ok),
            (Probe, status(405), 405, "HTTP 405: Method Not Allowed", NotOffered),
            (Probe, ErrorKind::Incompatible, 405, "this server does not offer it (HTTP 405)", NotOffered),
            (Probe, status(500), 500, "HTTP 500: oops", Broken),
        ] {
            let refusal =
                Refusal { kind: &kind, status: (0 < code).then_some(code), message: message.into() };
            assert_eq!(judge(need, &refusal), mark, "{need:?}: {message}");
        }
    }
}

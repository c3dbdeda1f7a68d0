//! Which endpoints a server lacks, remembered so that each is asked for once.

use std::collections::BTreeSet;

/// What a refusal may be about, besides the endpoint itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Names {
    /// The request names nothing that could be missing, such as a list of everything.
    Nothing,
    /// It names something, such as a session, that may not exist.
    Something,
    /// It names something, but its address cannot be an unknown one: what is named stands in the body, or the server itself
    /// gave the id a moment ago.
    NoPath,
}

/// What a refusal says of an endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Word {
    /// The server does not have it.
    Absent,
    /// The server hardly has it; sure enough to say so, but not to never ask again.
    Likely,
    /// The server does not have it, or it does not have what was named.
    Unclear,
    /// The server has it.
    Present,
}

/// What servers say of an unknown path by themselves, in lower case: the words of their frameworks, or nothing. Whoever
/// looked for something and did not find it says what.
const SAYS_NOTHING: [&str; 5] = ["", "not found", "404 page not found", "{}", "null"];

/// What an answer's status says of the endpoint that gave it. 405 is never about a thing that is missing; 404 may be. `body`
/// tells a little more: the words of the family's framework for an unknown path.
pub(crate) fn judge(status: u16, detail: &str, names: Names) -> Word {
    match (status, names) {
        (405, _) | (404, Names::Nothing) => Word::Absent,
        (404, Names::Something) if detail == "Not Found" => Word::Unclear,
        (404, Names::NoPath) if SAYS_NOTHING.contains(&detail.to_ascii_lowercase().as_str()) => Word::Likely,
        _ => Word::Present,
    }
}

/// The endpoints that one server is known to have or to lack. Servers do not lose endpoints while a client lives, and one
/// that gains some is a new server.
#[derive(Debug, Default)]
pub(crate) struct Offered {
    absent: BTreeSet<&'static str>,
    present: BTreeSet<&'static str>,
}

impl Offered {
    /// Whether there is no use in asking.
    pub(crate) fn lacks(&self, endpoint: &'static str) -> bool {
        self.absent.contains(endpoint)
    }

    /// The server said that it does not have an endpoint.
    pub(crate) fn note_absent(&mut self, endpoint: &'static str) {
        self.absent.insert(endpoint);
    }

    /// The server did what an endpoint is for.
    pub(crate) fn note_present(&mut self, endpoint: &'static str) {
        self.present.insert(endpoint);
    }

    /// What a refusal says of an endpoint, which is noted if it is certain. One that once did its work is there.
    pub(crate) fn judge(&mut self, endpoint: &'static str, status: u16, detail: &str, names: Names) -> Word {
        match judge(status, detail, names) {
            _ if self.present.contains(endpoint) => Word::Present,
            Word::Absent => {
                self.note_absent(endpoint);
                Word::Absent
            }
            word => word,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_cannot_be_a_missing_thing_says_that_an_endpoint_is_absent() {
        use Names::*;
        for (status, detail, names, word) in [
            (405, "Method Not Allowed", Nothing, Word::Absent),
            (405, "", Something, Word::Absent),
            (405, "", NoPath, Word::Absent),
            (404, "Not Found", Nothing, Word::Absent),
            (404, "whatever", Nothing, Word::Absent),
            (404, "Not Found", Something, Word::Unclear),
            (404, "Not Found", NoPath, Word::Likely),
            (404, "", NoPath, Word::Likely),
            (404, "Model not found", Something, Word::Present),
            (404, "Model not found", NoPath, Word::Present),
            (400, "Not Found", Nothing, Word::Present),
            (400, "Not Found", NoPath, Word::Present),
            (403, "", Nothing, Word::Present),
            (410, "", Nothing, Word::Present),
            (501, "", Nothing, Word::Present),
        ] {
            assert_eq!(judge(status, detail, names), word, "{status} {detail:?} {names:?}");
        }
    }

    #[test]
    fn an_absent_endpoint_is_remembered_and_no_other() {
        let mut offered = Offered::default();
        assert!(!offered.lacks("GET sessions"));
        offered.judge("GET sessions", 404, "Not Found", Names::Nothing);
        assert!(offered.lacks("GET sessions") && !offered.lacks("POST sessions/search"));
        // What is only likely is asked again.
        offered.judge("POST create_model", 404, "Not Found", Names::NoPath);
        offered.judge("GET sessions/{id}", 404, "Not Found", Names::Something);
        assert!(!offered.lacks("POST create_model") && !offered.lacks("GET sessions/{id}"));
    }

    #[test]
    fn an_endpoint_that_did_its_work_is_there_whatever_it_says_later() {
        let mut offered = Offered::default();
        offered.note_present("GET samplers/{id}");
        for names in [Names::Nothing, Names::Something, Names::NoPath] {
            let word = offered.judge("GET samplers/{id}", 404, "Not Found", names);
            assert_eq!(word, Word::Present, "{names:?}");
        }
        assert!(!offered.lacks("GET samplers/{id}"));
    }
}

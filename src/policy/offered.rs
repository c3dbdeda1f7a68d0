//! Which endpoints a server lacks, remembered so that each is asked for once.

use std::collections::BTreeSet;

/// What a refusal may be about, besides the endpoint itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Names {
    /// The request names nothing that could be missing, such as a list of everything.
    Nothing,
    /// It names something, such as a session, that may not exist.
    Something,
}

/// What a refusal says of an endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Word {
    /// The server does not have it.
    Absent,
    /// The server does not have it, or it does not have what was named.
    Unclear,
    /// The server has it.
    Present,
}

/// What an answer's status says of the endpoint that gave it. 405 is never about a thing that is missing; 404 may be. `body`
/// tells a little more: the words of the family's framework for an unknown path.
pub(crate) fn judge(status: u16, detail: &str, names: Names) -> Word {
    match (status, names) {
        (405, _) | (404, Names::Nothing) => Word::Absent,
        (404, Names::Something) if detail == "Not Found" => Word::Unclear,
        _ => Word::Present,
    }
}

/// The endpoints that one server is known to lack. Servers do not lose endpoints while a client lives, and one that gains
/// some is a new server.
#[derive(Debug, Default)]
pub(crate) struct Offered {
    absent: BTreeSet<&'static str>,
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
            (404, "Not Found", Nothing, Word::Absent),
            (404, "whatever", Nothing, Word::Absent),
            (404, "Not Found", Something, Word::Unclear),
            (404, "Model not found", Something, Word::Present),
            (400, "Not Found", Nothing, Word::Present),
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
        offered.note_absent("GET sessions");
        assert!(offered.lacks("GET sessions") && !offered.lacks("POST sessions/search"));
    }
}

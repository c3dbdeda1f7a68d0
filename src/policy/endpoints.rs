//! Endpoints that a server may lack: classifies refusals and remembers absent endpoints, so that an absent endpoint is
//! called only once.

use std::collections::BTreeSet;

/// Objects that a refusal may be about, besides the endpoint itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Names {
    /// The request names no object, for example a list of everything.
    Nothing,
    /// The path names an object, such as a session, that may not exist.
    Something,
    /// The request names an object, but a missing object cannot make the path unknown: the name is in the body, or the
    /// server has just assigned the id in the path.
    NoPath,
}

/// Conclusion from a refusal about the presence of an endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Presence {
    /// The server lacks the endpoint.
    Absent,
    /// The server probably lacks the endpoint. This is reported, but not remembered.
    ProbablyAbsent,
    /// The server lacks the endpoint or the named object.
    Unclear,
    /// The server has the endpoint.
    Present,
}

/// Error texts, in lower case, that web frameworks send for an unknown path. An endpoint that does not find an object
/// sends an error text that names the object.
const FRAMEWORK_TEXTS: [&str; 5] = ["", "not found", "404 page not found", "{}", "null"];

/// Concludes from the status and the error text (`detail`) of a refusal whether the endpoint exists. A 405 is never
/// about a missing object; a 404 may be.
pub(crate) fn presence(status: u16, detail: &str, names: Names) -> Presence {
    match (status, names) {
        (405, _) | (404, Names::Nothing) => Presence::Absent,
        (404, Names::Something) if detail == "Not Found" => Presence::Unclear,
        (404, Names::NoPath) if FRAMEWORK_TEXTS.contains(&detail.to_ascii_lowercase().as_str()) => {
            Presence::ProbablyAbsent
        }
        _ => Presence::Present,
    }
}

/// The endpoints that one server is known to have or to lack. Entries are kept for the life of the client.
#[derive(Debug, Default)]
pub(crate) struct Endpoints {
    absent: BTreeSet<&'static str>,
    present: BTreeSet<&'static str>,
}

impl Endpoints {
    /// The server is known to lack the endpoint.
    pub(crate) fn lacks(&self, endpoint: &'static str) -> bool {
        self.absent.contains(endpoint)
    }

    /// Records that the server lacks the endpoint.
    pub(crate) fn note_absent(&mut self, endpoint: &'static str) {
        self.absent.insert(endpoint);
    }

    /// Records that a call of the endpoint succeeded.
    pub(crate) fn note_present(&mut self, endpoint: &'static str) {
        self.present.insert(endpoint);
    }

    /// As [`presence`]; also records the endpoint if it is certainly absent. An endpoint counts as present once a call
    /// of it has succeeded.
    pub(crate) fn note_refusal(
        &mut self,
        endpoint: &'static str,
        status: u16,
        detail: &str,
        names: Names,
    ) -> Presence {
        match presence(status, detail, names) {
            _ if self.present.contains(endpoint) => Presence::Present,
            Presence::Absent => {
                self.note_absent(endpoint);
                Presence::Absent
            }
            presence => presence,
        }
    }
}

/// Returns true if a refused `load_weights` may mean that the server cannot create a model from a checkpoint in one
/// step. The caller then tries the three separate steps (PROTOCOL §11). A 404 that names the missing object is about
/// the checkpoint, not about the endpoint.
pub(crate) fn may_lack_one_step_load(status: Option<u16>, is_about_resource: bool) -> bool {
    match status {
        Some(404) => !is_about_resource,
        Some(status) => matches!(status, 405 | 422),
        None => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refused_load_is_tried_in_three_steps_unless_it_is_about_the_checkpoint() {
        for (status, is_about_resource, expected) in [
            (Some(404), false, true),
            (Some(404), true, false),
            (Some(405), true, true),
            (Some(422), true, true),
            (Some(400), false, false),
            (Some(409), false, false),
            (Some(500), false, false),
            (None, false, false),
        ] {
            let found = may_lack_one_step_load(status, is_about_resource);
            assert_eq!(found, expected, "{status:?} {is_about_resource}");
        }
    }

    #[test]
    fn an_endpoint_is_absent_only_if_the_refusal_cannot_be_about_an_object() {
        use Names::*;
        for (status, detail, names, expected) in [
            (405, "Method Not Allowed", Nothing, Presence::Absent),
            (405, "", Something, Presence::Absent),
            (405, "", NoPath, Presence::Absent),
            (404, "Not Found", Nothing, Presence::Absent),
            (404, "whatever", Nothing, Presence::Absent),
            (404, "Not Found", Something, Presence::Unclear),
            (404, "Not Found", NoPath, Presence::ProbablyAbsent),
            (404, "", NoPath, Presence::ProbablyAbsent),
            (404, "Model not found", Something, Presence::Present),
            (404, "Model not found", NoPath, Presence::Present),
            (400, "Not Found", Nothing, Presence::Present),
            (400, "Not Found", NoPath, Presence::Present),
            (403, "", Nothing, Presence::Present),
            (410, "", Nothing, Presence::Present),
            (501, "", Nothing, Presence::Present),
        ] {
            assert_eq!(presence(status, detail, names), expected, "{status} {detail:?} {names:?}");
        }
    }

    #[test]
    fn an_absent_endpoint_is_remembered_and_no_other() {
        let mut endpoints = Endpoints::default();
        assert!(!endpoints.lacks("GET sessions"));
        endpoints.note_refusal("GET sessions", 404, "Not Found", Names::Nothing);
        assert!(endpoints.lacks("GET sessions") && !endpoints.lacks("POST sessions/search"));
        // Other conclusions are not remembered.
        endpoints.note_refusal("POST create_model", 404, "Not Found", Names::NoPath);
        endpoints.note_refusal("GET sessions/{id}", 404, "Not Found", Names::Something);
        assert!(!endpoints.lacks("POST create_model") && !endpoints.lacks("GET sessions/{id}"));
    }

    #[test]
    fn an_endpoint_with_a_successful_call_is_present_whatever_it_answers_later() {
        let mut endpoints = Endpoints::default();
        endpoints.note_present("GET samplers/{id}");
        for names in [Names::Nothing, Names::Something, Names::NoPath] {
            let presence = endpoints.note_refusal("GET samplers/{id}", 404, "Not Found", names);
            assert_eq!(presence, Presence::Present, "{names:?}");
        }
        assert!(!endpoints.lacks("GET samplers/{id}"));
    }
}

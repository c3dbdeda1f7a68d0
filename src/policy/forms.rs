//! Detects the form in which a server reads passes (messages of `forward` and `forward_backward`): protobuf, or JSON on
//! servers without protobuf (PROTOCOL §3.3).
//!
//! No endpoint reports the form, so the first pass tries both forms. When a pass has been accepted, the form is known,
//! and each later refusal is about the content of the message.

/// The form of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Form {
    /// Used by the official service.
    Protobuf,
    /// Used by old servers. Has no fields for the provenance of the data (`types::Provenance`).
    Json,
}

/// Outcome of a message in one form.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// The server accepted it.
    Accepted,
    /// The server does not support the form: unsupported media type, or no such endpoint.
    Unsupported,
    /// The server refused the content. Some servers send the same status if they cannot parse the bytes.
    Refused,
    /// The server failed. Some servers also fail if they cannot parse the bytes.
    Failed,
    /// The server already has a request with this id and other bytes. If the message was sent in the other form before,
    /// the server has probably accepted that attempt.
    Conflict,
    /// Any other outcome. It says nothing about the form.
    Other,
}

/// Statuses that may be about the form. While the form is unknown, they are not retried with the same bytes.
const ABOUT_FORM: &[u16] = &[400, 415, 422, 500, 501];
/// The status of a request whose id the server knows with other bytes.
const CONFLICT: &[u16] = &[409];
const ABOUT_FORM_OR_CONFLICT: &[u16] = &[400, 409, 415, 422, 500, 501];

impl Outcome {
    /// Outcome of a failed message, given the status of the answer, if any.
    pub(crate) fn of_failure(form: Form, status: Option<u16>) -> Self {
        match (status, form) {
            (Some(415), _) => Outcome::Unsupported,
            // In JSON, a forward pass has a separate endpoint, which the server may lack.
            (Some(404 | 405), Form::Json) => Outcome::Unsupported,
            (Some(400 | 422), _) => Outcome::Refused,
            (Some(500 | 501), _) => Outcome::Failed,
            (Some(409), _) => Outcome::Conflict,
            _ => Outcome::Other,
        }
    }
}

/// The next action for a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Next {
    /// Send it in this form. The statuses in `final_on` are not retried.
    Send { form: Form, final_on: &'static [u16] },
    /// Report the outcome of the attempt with this index.
    Report(usize),
}

/// Knowledge about the form that a server reads.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Forms {
    known: Option<Form>,
    /// The server is probably older than protobuf; try JSON first.
    is_old: bool,
}

impl Forms {
    /// Records that the server lacks an endpoint that is as old as protobuf, and therefore probably lacks protobuf.
    pub(crate) fn note_old(&mut self) {
        self.is_old = true;
    }

    /// The form, once it is known.
    pub(crate) fn known(self) -> Option<Form> {
        self.known
    }

    /// Decides the next action for a message. `tried` are the attempts so far, the latest last. Records the form if the
    /// attempts show it.
    pub(crate) fn next(&mut self, tried: &[(Form, Outcome)]) -> Next {
        let (next, found) = self.decide(tried);
        self.known = self.known.or(found);
        next
    }

    fn decide(self, tried: &[(Form, Outcome)]) -> (Next, Option<Form>) {
        use Form::*;
        use Outcome::*;
        let send = |form, final_on| (Next::Send { form, final_on }, None);
        let last = tried.len().saturating_sub(1);
        let report = (Next::Report(last), None);
        match *tried {
            [.., (form, Accepted)] => return (Next::Report(last), Some(form)),
            [.., (_, Conflict), _] => return report,
            // The server had accepted the attempt in the first form, although its answer was a failure or was lost.
            // Repeat that attempt: the server recognizes a repetition only by the same bytes.
            [.., (first, _), (second, Conflict)] if first != second => return send(first, &[]),
            _ => {}
        }
        if let Some(known) = self.known {
            // Another message may have found the form while this one was in flight.
            return match tried.last() {
                Some((form, Unsupported | Refused | Failed)) if *form != known => send(known, CONFLICT),
                Some(_) => report,
                None => send(known, &[]),
            };
        }
        match *tried {
            [] => {
                if self.is_old {
                    send(Json, &[])
                } else {
                    send(Protobuf, ABOUT_FORM)
                }
            }
            [(Protobuf, Unsupported | Refused | Failed)] => send(Json, ABOUT_FORM_OR_CONFLICT),
            // A server that does not support JSON must read protobuf.
            [(Json, Unsupported)] => send(Protobuf, &[]),
            // Both forms failed. The refusal in protobuf is more likely about the content: report that attempt.
            [(Protobuf, Unsupported | Refused), (Json, Unsupported | Failed)] => (Next::Report(0), None),
            // Either the server reads JSON, cannot parse protobuf, and refuses the content; or it reads protobuf,
            // failed for a moment, and cannot parse JSON. A second attempt in protobuf decides.
            [(Protobuf, Failed), (Json, Refused)] => send(Protobuf, ABOUT_FORM),
            [(Protobuf, Failed), (Json, Refused), (Protobuf, Failed)] => (Next::Report(1), Some(Json)),
            // The server itself is failing: send in protobuf with the usual retries.
            [(Protobuf, Failed), (Json, Unsupported | Failed)] => send(Protobuf, &[]),
            _ => report,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Form::*;
    use super::Outcome::*;
    use super::*;

    const NOTHING: &[u16] = &[];

    /// Sends a message with these outcomes. Returns the forms of the attempts, the index of the reported outcome, and
    /// the known form.
    fn deliver(forms: &mut Forms, outcomes: &[Outcome]) -> (Vec<Form>, usize, Option<Form>) {
        let mut tried = Vec::new();
        loop {
            match forms.next(&tried) {
                Next::Send { form, .. } => {
                    let outcome = outcomes.get(tried.len()).copied();
                    tried.push((form, outcome.unwrap_or_else(|| panic!("one attempt too many: {tried:?}"))));
                }
                Next::Report(i) => {
                    assert_eq!(tried.len(), outcomes.len(), "too few attempts: {tried:?}");
                    return (tried.into_iter().map(|attempt| attempt.0).collect(), i, forms.known());
                }
            }
        }
    }

    #[test]
    fn the_first_pass_detects_the_form() {
        const P: Form = Protobuf;
        const J: Form = Json;
        /// Outcomes of the attempts; forms of the attempts; index of the reported attempt; form that is then known.
        type Row = (&'static [Outcome], &'static [Form], usize, Option<Form>);
        let new: [Row; 16] = [
            (&[Accepted], &[P], 0, Some(P)),
            (&[Other], &[P], 0, None),
            // A server that reads only JSON answers to protobuf in one of three ways.
            (&[Failed, Accepted], &[P, J], 1, Some(J)),
            (&[Refused, Accepted], &[P, J], 1, Some(J)),
            (&[Unsupported, Accepted], &[P, J], 1, Some(J)),
            // A server that reads only JSON, with content that it refuses.
            (&[Failed, Refused, Failed], &[P, J, P], 1, Some(J)),
            (&[Refused, Refused], &[P, J], 1, None),
            (&[Unsupported, Refused], &[P, J], 1, None),
            // A server that reads protobuf, with content that it refuses.
            (&[Refused, Unsupported], &[P, J], 0, None),
            (&[Refused, Failed], &[P, J], 0, None),
            // A server that reads protobuf and fails for a moment.
            (&[Failed, Unsupported, Accepted], &[P, J, P], 2, Some(P)),
            (&[Failed, Failed, Failed], &[P, J, P], 2, None),
            (&[Failed, Refused, Accepted], &[P, J, P], 2, Some(P)),
            (&[Failed, Other], &[P, J], 1, None),
            // A server that reads both forms and failed after it had accepted the pass.
            (&[Failed, Conflict, Accepted], &[P, J, P], 2, Some(P)),
            (&[Failed, Conflict, Conflict], &[P, J, P], 2, None),
        ];
        for (outcomes, sent, stands, known) in new {
            assert_eq!(
                deliver(&mut Forms::default(), outcomes),
                (sent.to_vec(), stands, known),
                "{outcomes:?}"
            );
        }
        let old: [Row; 5] = [
            (&[Accepted], &[J], 0, Some(J)),
            (&[Refused], &[J], 0, None),
            (&[Failed], &[J], 0, None),
            (&[Unsupported, Accepted], &[J, P], 1, Some(P)),
            (&[Unsupported, Refused], &[J, P], 1, None),
        ];
        for (outcomes, sent, stands, known) in old {
            let mut forms = Forms::default();
            forms.note_old();
            assert_eq!(deliver(&mut forms, outcomes), (sent.to_vec(), stands, known), "{outcomes:?}");
        }
    }

    #[test]
    fn once_the_form_is_known_each_refusal_is_about_the_content() {
        for (known, other) in [(Protobuf, Json), (Json, Protobuf)] {
            let mut forms = Forms { known: Some(known), is_old: false };
            for outcome in [Accepted, Unsupported, Refused, Failed, Conflict, Other] {
                assert_eq!(deliver(&mut forms, &[outcome]), (vec![known], 0, Some(known)));
                assert_eq!(forms.next(&[]), Next::Send { form: known, final_on: &[] });
            }
            // A message that was in flight in the other form is sent in the known form.
            for outcome in [Unsupported, Refused, Failed] {
                let next = forms.next(&[(other, outcome)]);
                assert_eq!(next, Next::Send { form: known, final_on: CONFLICT });
            }
            // The server had accepted the message in the other form.
            let next = forms.next(&[(other, Failed), (known, Conflict)]);
            assert_eq!(next, Next::Send { form: other, final_on: &[] });
            for outcome in [Accepted, Unsupported, Refused, Failed, Conflict, Other] {
                let tried = [(other, Failed), (known, Conflict), (other, outcome)];
                assert_eq!(forms.next(&tried), Next::Report(2), "{outcome:?}");
            }
            assert_eq!(forms.next(&[(other, Other)]), Next::Report(0));
            assert_eq!(forms.next(&[(other, Accepted)]), Next::Report(0));
            assert_eq!(forms.known(), Some(known));
        }
    }

    #[test]
    fn statuses_that_may_be_about_the_form_are_not_retried_while_another_form_is_left_to_try() {
        let final_on = |forms: &mut Forms, tried: &[(Form, Outcome)]| match forms.next(tried) {
            Next::Send { final_on, .. } => final_on,
            Next::Report(_) => panic!("no attempt"),
        };
        let mut forms = Forms::default();
        assert_eq!(final_on(&mut forms, &[]), ABOUT_FORM);
        assert_eq!(final_on(&mut forms, &[(Protobuf, Failed)]), ABOUT_FORM_OR_CONFLICT);
        assert_eq!(final_on(&mut forms, &[(Protobuf, Failed), (Json, Refused)]), ABOUT_FORM);
        assert_eq!(final_on(&mut forms, &[(Protobuf, Failed), (Json, Failed)]), NOTHING);
        assert_eq!(final_on(&mut forms, &[(Protobuf, Failed), (Json, Conflict)]), NOTHING);
        forms.note_old();
        assert_eq!(final_on(&mut forms, &[]), NOTHING);
    }

    #[test]
    fn each_status_has_its_outcome() {
        for (form, status, outcome) in [
            (Protobuf, Some(415), Unsupported),
            (Protobuf, Some(400), Refused),
            (Protobuf, Some(422), Refused),
            (Protobuf, Some(500), Failed),
            (Protobuf, Some(501), Failed),
            (Protobuf, Some(409), Conflict),
            (Json, Some(409), Conflict),
            (Protobuf, Some(404), Other),
            (Protobuf, Some(503), Other),
            (Protobuf, None, Other),
            (Json, Some(404), Unsupported),
            (Json, Some(405), Unsupported),
            (Json, Some(422), Refused),
        ] {
            assert_eq!(Outcome::of_failure(form, status), outcome, "{form:?} {status:?}");
        }
    }
}

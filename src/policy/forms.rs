//! In which form a pass is sent: protobuf, or JSON to servers that read nothing else (PROTOCOL §3.3).
//!
//! Nothing says which of the two a server reads, so that the first pass finds it out. Once a pass was accepted, the form is
//! known, and every refusal is about the content.

/// The form of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Form {
    /// The form of the official service.
    Protobuf,
    /// The form of old servers. It has no place for provenance.
    Json,
}

/// What became of a message in one form.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// The server took it.
    Accepted,
    /// The server does not read such messages, or not there.
    Unread,
    /// The server says that the content is wrong, which is also what it may say of bytes that it cannot read.
    Judged,
    /// The server failed, as some do at bytes that they cannot read.
    Failed,
    /// Anything else, which says nothing of the form.
    Other,
}

/// The statuses that may be about the form. While the form is not known they are not worth another try of the same bytes.
pub(crate) const ABOUT_FORM: &[u16] = &[400, 415, 422, 500, 501];

impl Outcome {
    /// What a failed message says, by the status of the answer if there was one.
    pub(crate) fn refused(form: Form, status: Option<u16>) -> Self {
        match (status, form) {
            (Some(415), _) => Outcome::Unread,
            // The two forms of a forward pass go to different addresses.
            (Some(404 | 405), Form::Json) => Outcome::Unread,
            (Some(400 | 422), _) => Outcome::Judged,
            (Some(500 | 501), _) => Outcome::Failed,
            _ => Outcome::Other,
        }
    }
}

/// What is to be done next about a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Next {
    /// Send it in this form; unless `patient`, what may be about the form is not tried again.
    Send { form: Form, patient: bool },
    /// The outcome with this number is the message's.
    Stand(usize),
}

/// What is known of the forms that a server reads.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Forms {
    known: Option<Form>,
    /// The server is of a time before protobuf.
    is_old: bool,
}

impl Forms {
    /// The server lacks an endpoint that came with protobuf.
    pub(crate) fn note_old(&mut self) {
        self.is_old = true;
    }

    /// What is known.
    pub(crate) fn known(self) -> Option<Form> {
        self.known
    }

    /// What to do about a message that was sent in these forms with these outcomes, the latest last; what this says of the
    /// server is noted.
    pub(crate) fn next(&mut self, tried: &[(Form, Outcome)]) -> Next {
        let (next, learnt) = self.decide(tried);
        self.known = self.known.or(learnt);
        next
    }

    fn decide(self, tried: &[(Form, Outcome)]) -> (Next, Option<Form>) {
        use Form::*;
        use Outcome::*;
        let send = |form, patient| (Next::Send { form, patient }, None);
        let last = tried.len().saturating_sub(1);
        let stand = (Next::Stand(last), None);
        if let Some(&(form, Accepted)) = tried.last() {
            return (Next::Stand(last), Some(form));
        }
        if let Some(known) = self.known {
            // Another message may have found it out while this one was under way.
            return match tried.last() {
                Some((form, Unread | Judged | Failed)) if *form != known => send(known, true),
                Some(_) => stand,
                None => send(known, true),
            };
        }
        match *tried {
            [] => {
                if self.is_old {
                    send(Json, true)
                } else {
                    send(Protobuf, false)
                }
            }
            [(Protobuf, Unread | Judged | Failed)] => send(Json, false),
            // Whoever refuses JSON as such must read something else.
            [(Json, Unread)] => send(Protobuf, true),
            // Both certainly refused: the better judge is the one that read the content.
            [(Protobuf, Unread | Judged), (Json, Unread | Failed)] => (Next::Stand(0), None),
            // Was the failure about the form, and the refusal about the content? Or was it a moment's failure, of a server that
            // reads no JSON?
            [(Protobuf, Failed), (Json, Judged)] => send(Protobuf, false),
            [(Protobuf, Failed), (Json, Judged), (Protobuf, Failed)] => (Next::Stand(1), Some(Json)),
            // It is the server's bad moment, which may pass.
            [(Protobuf, Failed), (Json, Unread | Failed)] => send(Protobuf, true),
            _ => stand,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Form::*;
    use super::Outcome::*;
    use super::*;

    /// Has messages meet the outcomes; returns the forms in which the last one was sent, the number of the outcome that stands,
    /// and what is known in the end.
    fn walk(forms: &mut Forms, outcomes: &[Outcome]) -> (Vec<Form>, usize, Option<Form>) {
        let mut tried = Vec::new();
        loop {
            match forms.next(&tried) {
                Next::Send { form, .. } => {
                    let outcome = outcomes.get(tried.len()).copied();
                    tried.push((form, outcome.unwrap_or_else(|| panic!("a further try: {tried:?}"))));
                }
                Next::Stand(i) => {
                    assert_eq!(tried.len(), outcomes.len(), "too few tries: {tried:?}");
                    return (tried.into_iter().map(|it| it.0).collect(), i, forms.known());
                }
            }
        }
    }

    #[test]
    fn the_first_pass_finds_out_what_the_server_reads() {
        const P: Form = Protobuf;
        const J: Form = Json;
        /// Outcomes of the tries; their forms; which stands; what is known then.
        type Row = (&'static [Outcome], &'static [Form], usize, Option<Form>);
        let new: [Row; 14] = [
            (&[Accepted], &[P], 0, Some(P)),
            (&[Other], &[P], 0, None),
            // A server that reads JSON alone says so in one of three ways.
            (&[Failed, Accepted], &[P, J], 1, Some(J)),
            (&[Judged, Accepted], &[P, J], 1, Some(J)),
            (&[Unread, Accepted], &[P, J], 1, Some(J)),
            // The same server, and content that it refuses.
            (&[Failed, Judged, Failed], &[P, J, P], 1, Some(J)),
            (&[Judged, Judged], &[P, J], 1, None),
            (&[Unread, Judged], &[P, J], 1, None),
            // A server that reads protobuf, and content that it refuses.
            (&[Judged, Unread], &[P, J], 0, None),
            (&[Judged, Failed], &[P, J], 0, None),
            // A server that reads protobuf, in a bad moment.
            (&[Failed, Unread, Accepted], &[P, J, P], 2, Some(P)),
            (&[Failed, Failed, Failed], &[P, J, P], 2, None),
            (&[Failed, Judged, Accepted], &[P, J, P], 2, Some(P)),
            (&[Failed, Other], &[P, J], 1, None),
        ];
        for (outcomes, sent, stands, known) in new {
            assert_eq!(walk(&mut Forms::default(), outcomes), (sent.to_vec(), stands, known), "{outcomes:?}");
        }
        let old: [Row; 5] = [
            (&[Accepted], &[J], 0, Some(J)),
            (&[Judged], &[J], 0, None),
            (&[Failed], &[J], 0, None),
            (&[Unread, Accepted], &[J, P], 1, Some(P)),
            (&[Unread, Judged], &[J, P], 1, None),
        ];
        for (outcomes, sent, stands, known) in old {
            let mut forms = Forms::default();
            forms.note_old();
            assert_eq!(walk(&mut forms, outcomes), (sent.to_vec(), stands, known), "{outcomes:?}");
        }
    }

    #[test]
    fn what_is_known_stays_and_every_refusal_is_then_about_the_content() {
        for (known, other) in [(Protobuf, Json), (Json, Protobuf)] {
            let mut forms = Forms { known: Some(known), is_old: false };
            for outcome in [Accepted, Unread, Judged, Failed, Other] {
                assert_eq!(walk(&mut forms, &[outcome]), (vec![known], 0, Some(known)));
                assert_eq!(forms.next(&[]), Next::Send { form: known, patient: true });
            }
            // A message that was under way in the other form when it was found out is sent again.
            for outcome in [Unread, Judged, Failed] {
                let next = forms.next(&[(other, outcome)]);
                assert_eq!(next, Next::Send { form: known, patient: true });
            }
            assert_eq!(forms.next(&[(other, Other)]), Next::Stand(0));
            assert_eq!(forms.next(&[(other, Accepted)]), Next::Stand(0));
            assert_eq!(forms.known(), Some(known));
        }
    }

    #[test]
    fn only_a_try_that_is_followed_by_another_form_is_impatient() {
        let patience = |forms: &mut Forms, tried: &[(Form, Outcome)]| match forms.next(tried) {
            Next::Send { patient, .. } => patient,
            Next::Stand(_) => panic!("nothing was sent"),
        };
        let mut forms = Forms::default();
        assert!(!patience(&mut forms, &[]));
        assert!(!patience(&mut forms, &[(Protobuf, Failed)]));
        assert!(!patience(&mut forms, &[(Protobuf, Failed), (Json, Judged)]));
        assert!(patience(&mut forms, &[(Protobuf, Failed), (Json, Failed)]));
        forms.note_old();
        assert!(patience(&mut forms, &[]));
    }

    #[test]
    fn each_status_says_its_part() {
        for (form, status, outcome) in [
            (Protobuf, Some(415), Unread),
            (Protobuf, Some(400), Judged),
            (Protobuf, Some(422), Judged),
            (Protobuf, Some(500), Failed),
            (Protobuf, Some(501), Failed),
            (Protobuf, Some(404), Other),
            (Protobuf, Some(503), Other),
            (Protobuf, None, Other),
            (Json, Some(404), Unread),
            (Json, Some(405), Unread),
            (Json, Some(422), Judged),
        ] {
            assert_eq!(Outcome::refused(form, status), outcome, "{form:?} {status:?}");
        }
    }
}

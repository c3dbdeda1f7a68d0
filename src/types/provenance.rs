//! Origin of the tokens of an example.

use crate::error::{Error, Result};

/// Origin of the tokens of an example (PROTOCOL §6.4). The spans of each list follow the order of the tokens, without
/// gaps. The sequence ids are valid only within the session that sampled the sequences.
///
/// # Example: a prompt of three tokens and a sample of two
/// ```
/// use tinkex::types::{Datum, Provenance, ProvenanceSpan};
///
/// // The input leaves out the last token of the sequence, the targets leave out the first.
/// let input = vec![ProvenanceSpan::prompt("seq-1", 0, 3), ProvenanceSpan::sampled("seq-1", 0, 1)];
/// let targets = vec![ProvenanceSpan::prompt("seq-1", 1, 2), ProvenanceSpan::sampled("seq-1", 0, 2)];
/// let provenance = Provenance::new(input, targets);
/// let datum = Datum::cross_entropy(&[1, 2, 3], &[4, 5]).with_provenance(provenance);
/// assert_eq!(datum.provenance.unwrap().model_input.len(), 2);
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Provenance {
    /// Spans of the model's input; their lengths add up to its length.
    pub model_input: Vec<ProvenanceSpan>,
    /// Spans of the target tokens; their lengths add up to that of `target_tokens`, which must have one dimension.
    pub loss_fn_inputs: Vec<ProvenanceSpan>,
}

/// A range of the tokens of one sampled sequence.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ProvenanceSpan {
    /// Part of the sequence.
    pub origin: Origin,
    /// Id of the sequence, as the sample reported it. Not empty.
    pub sequence_id: String,
    /// Index of the first token within the part, from 0.
    pub offset: u64,
    /// Number of tokens.
    pub length: u64,
}

/// Part of a sequence.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Origin {
    /// Tokens of the prompt.
    Prompt,
    /// Sampled tokens.
    Sampled,
}

impl ProvenanceSpan {
    /// A span of the prompt of a sequence.
    pub fn prompt(sequence_id: impl Into<String>, offset: u64, length: u64) -> Self {
        ProvenanceSpan { origin: Origin::Prompt, sequence_id: sequence_id.into(), offset, length }
    }

    /// A span of the sampled tokens of a sequence.
    pub fn sampled(sequence_id: impl Into<String>, offset: u64, length: u64) -> Self {
        ProvenanceSpan { origin: Origin::Sampled, sequence_id: sequence_id.into(), offset, length }
    }

    fn validate(&self, path: &str) -> Result<()> {
        if self.sequence_id.is_empty() {
            return Err(Error::invalid(format!("{path}.sequence_id"), "is empty"));
        }
        match self.offset.checked_add(self.length) {
            Some(end) if end <= i64::MAX as u64 => Ok(()),
            _ => Err(Error::invalid(path, "ends after 2^63 - 1")),
        }
    }
}

impl Provenance {
    /// A provenance of the spans of the model's input and of the target tokens.
    pub fn new(model_input: Vec<ProvenanceSpan>, loss_fn_inputs: Vec<ProvenanceSpan>) -> Self {
        Provenance { model_input, loss_fn_inputs }
    }

    /// Refuses spans that do not cover an input of `n_tokens` tokens and targets of the shape `targets`. `n_tokens` is
    /// `None` if the length of the input is unknown, because it has images.
    pub(crate) fn validate(
        &self,
        path: &str,
        n_tokens: Option<usize>,
        targets: Option<&[usize]>,
    ) -> Result<()> {
        let n_targets = match targets {
            Some([n]) => Some(*n),
            _ => return Err(Error::invalid(path, "needs target_tokens of one dimension")),
        };
        for (name, spans, n) in [
            ("model_input", &self.model_input, n_tokens),
            ("loss_fn_inputs", &self.loss_fn_inputs, n_targets),
        ] {
            let path = format!("{path}.{name}");
            spans.iter().enumerate().try_for_each(|(i, span)| span.validate(&format!("{path}[{i}]")))?;
            let sum = spans.iter().try_fold(0u64, |sum, span| sum.checked_add(span.length));
            if let Some(n) = n
                && sum != Some(n as u64)
            {
                let sum = sum.map_or("more than 2^64".to_string(), |sum| sum.to_string());
                return Err(Error::invalid(path, format!("covers {sum} tokens instead of {n}")));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::{Datum, TensorData};

    #[test]
    fn spans_must_cover_the_input_and_the_targets() {
        let span = ProvenanceSpan::sampled;
        let good = || Provenance {
            model_input: vec![ProvenanceSpan::prompt("s", 0, 3), span("s", 0, 1)],
            loss_fn_inputs: vec![span("s", 5, 0), span("t", 7, 4)],
        };
        let datum = || Datum::cross_entropy(&[1, 2, 3], &[4, 5]);
        datum().with_provenance(good()).validate("d").expect("a tiling");
        let refused = |datum: Datum| {
            datum.validate("d").expect_err("a refusal").violation().expect("a path").path.clone()
        };
        let with = |change: fn(&mut Provenance)| {
            let mut provenance = good();
            change(&mut provenance);
            refused(datum().with_provenance(provenance))
        };
        assert_eq!(with(|it| it.model_input[0].length = 2), "d.provenance.model_input");
        assert_eq!(with(|it| it.loss_fn_inputs.clear()), "d.provenance.loss_fn_inputs");
        assert_eq!(
            with(|it| it.model_input[1].sequence_id.clear()),
            "d.provenance.model_input[1].sequence_id"
        );
        assert_eq!(with(|it| it.loss_fn_inputs[1].offset = u64::MAX), "d.provenance.loss_fn_inputs[1]");
        let mut bare = datum().with_provenance(good());
        bare.loss_fn_inputs.clear();
        assert_eq!(refused(bare), "d.provenance");
        let wide = TensorData::from(vec![1i64; 8]).with_shape([4, 2]).expect("a shape");
        assert_eq!(refused(datum().with("target_tokens", wide).with_provenance(good())), "d.provenance");
    }
}

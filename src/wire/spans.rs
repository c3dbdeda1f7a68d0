//! Conversion of provenance spans to and from protobuf (PROTOCOL §5, §6.4). A span says that a range of a datum's
//! tokens comes from the prompt or from the sampled tokens of a sequence.

use crate::error::{Error, Result};
use crate::types::{Origin, Provenance, ProvenanceSpan};

use super::proto::{ProvenanceSpan as Proto, SequenceRange, Span};

pub(super) fn write(spans: &[ProvenanceSpan]) -> impl Iterator<Item = Proto> {
    spans.iter().map(|span| {
        // The casts cannot overflow: validation has limited both numbers to less than 2^63.
        let (offset, length) = (span.offset as i64, span.length as i64);
        let range = SequenceRange { sequence_id: span.sequence_id.clone(), offset, length };
        let span = match span.origin {
            Origin::Prompt => Span::PromptTokens(range),
            Origin::Sampled => Span::SampledTokens(range),
        };
        Proto { span: Some(span) }
    })
}

/// Reads the two span lists of a datum. `path` is the path of the datum in errors.
pub(super) fn read(
    model_input: Vec<Proto>,
    loss_fn_inputs: Vec<Proto>,
    path: &str,
) -> Result<Option<Provenance>> {
    if model_input.is_empty() && loss_fn_inputs.is_empty() {
        return Ok(None);
    }
    let list = |spans: Vec<Proto>, name: &str| -> Result<Vec<ProvenanceSpan>> {
        let read = |(i, span)| read_span(span, &format!("{path}.{name}[{i}]"));
        spans.into_iter().enumerate().map(read).collect()
    };
    Ok(Some(Provenance {
        model_input: list(model_input, "model_input_spans")?,
        loss_fn_inputs: list(loss_fn_inputs, "loss_fn_input_spans")?,
    }))
}

fn read_span(span: Proto, path: &str) -> Result<ProvenanceSpan> {
    let (origin, range) = match span.span {
        Some(Span::PromptTokens(range)) => (Origin::Prompt, range),
        Some(Span::SampledTokens(range)) => (Origin::Sampled, range),
        None => return Err(Error::decode(format!("{path} is a span of an unknown kind"))),
    };
    let count = |n: i64| {
        u64::try_from(n).map_err(|_| Error::decode(format!("{path} has a negative offset or length: {n}")))
    };
    let (offset, length) = (count(range.offset)?, count(range.length)?);
    Ok(ProvenanceSpan { origin, sequence_id: range.sequence_id, offset, length })
}

#[cfg(test)]
mod tests {
    use super::super::train::{decode_forward_backward_request, encode_forward_backward};
    use super::*;
    use crate::types::{Datum, LossFn};

    #[test]
    fn spans_are_read_as_they_were_written() {
        let provenance = Provenance {
            model_input: vec![ProvenanceSpan::prompt("s", 0, 3), ProvenanceSpan::sampled("s", 2, 1)],
            loss_fn_inputs: vec![ProvenanceSpan::sampled("t", 0, 4)],
        };
        let data = [Datum::cross_entropy(&[1, 2, 3], &[4, 5]).with_provenance(provenance), Datum::default()];
        let loss = LossFn::StableReinforce.into();
        let bytes = encode_forward_backward("m", 1, &data, &loss, false, false).expect("bytes");
        let call = decode_forward_backward_request(&bytes).expect("a request");
        assert_eq!((call.data, call.loss), (data.to_vec(), loss));
    }

    #[test]
    fn spans_of_an_unknown_kind_and_negative_offsets_are_refused() {
        let range = |offset| SequenceRange { sequence_id: "s".into(), offset, length: 1 };
        for wrong in [None, Some(Span::PromptTokens(range(-1)))] {
            read(vec![Proto { span: wrong }], vec![], "data[0]").expect_err("a refusal");
        }
    }
}

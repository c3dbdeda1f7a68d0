//! Examples for policy-gradient losses.

use crate::error::{Error, Result};

use super::{Datum, ModelInput, Origin, Provenance, ProvenanceSpan};

/// Constructors named after losses. Each makes exactly the inputs that its loss reads (PROTOCOL §7), because servers
/// refuse further inputs: examples for [`LossFn::CrossEntropy`](super::LossFn::CrossEntropy) have `weights`, the
/// examples here do not.
///
/// `completion` holds the tokens sampled after `prompt`. `logprobs` and `advantages` have one value for each token of
/// the completion. Tokens of the prompt get the advantage 0, so that they are not trained on.
///
/// # Log-probabilities and temperature
/// `logprobs` are the values that the sampler reported,
/// [`SampledSequence::logprobs`](super::SampledSequence::logprobs). They are the log-probabilities at temperature 1,
/// independent of the [`temperature`](super::SamplingParams::temperature), [`top_k`](super::SamplingParams::top_k) and
/// [`top_p`](super::SamplingParams::top_p) of the sample. A training pass also computes them at temperature 1. The
/// ratio `r = exp(logp − q)`, with `logp` from the pass and `q` from the sampler, is therefore 1 if the model has not
/// changed, even if the sample was taken at another temperature. But tokens sampled at another temperature do not
/// follow the distribution that is trained, which biases the gradients. To avoid this bias, sample at temperature 1
/// without `top_k` and `top_p`.
impl Datum {
    /// An example for [`LossFn::ImportanceSampling`](super::LossFn::ImportanceSampling): `target_tokens`, `logprobs`,
    /// `advantages`.
    ///
    /// # Errors
    /// `logprobs` or `advantages` of another length than `completion`.
    ///
    /// # Example: reward short samples
    /// ```
    /// # #[cfg(feature = "local")] {
    /// # let server = tinkex::local::Server::start(Default::default())?;
    /// # let service = tinkex::ServiceClient::builder().base_url(server.url()).api_key(server.api_key()).build()?;
    /// # let training = service.create_lora_training_client("tinkex/nano", Default::default())?;
    /// use tinkex::types::{AdamParams, Datum, LossFn, ModelInput, SamplingParams};
    ///
    /// let prompt = [72, 105];
    /// let sampler = training.save_weights_and_get_sampling_client()?;
    /// let params = SamplingParams { max_tokens: Some(4), ..Default::default() };
    /// let answer = sampler.sample(&ModelInput::from_ints(prompt), 2, &params).wait()?;
    /// let mut data = Vec::new();
    /// for sequence in &answer.sequences {
    ///     let advantage = if sequence.tokens.len() < 4 { 1.0 } else { -0.1 };
    ///     let logprobs = sequence.logprobs.as_deref().unwrap_or_default();
    ///     let advantages = vec![advantage; sequence.tokens.len()];
    ///     data.push(Datum::importance_sampling(&prompt, &sequence.tokens, logprobs, &advantages)?);
    /// }
    /// training.forward_backward(data, LossFn::ImportanceSampling).wait()?;
    /// training.optim_step(AdamParams::default()).wait()?;
    /// # }
    /// # Ok::<(), tinkex::Error>(())
    /// ```
    pub fn importance_sampling(
        prompt: &[i32],
        completion: &[i32],
        logprobs: &[f32],
        advantages: &[f32],
    ) -> Result<Self> {
        let shape = Shape { prompt: prompt.len(), completion: completion.len() };
        let logprobs = shape.rows("logprobs", logprobs)?;
        let advantages = shape.rows("advantages", advantages)?;
        let datum = targets(prompt, completion);
        Ok(datum.with("logprobs", logprobs).with("advantages", advantages))
    }

    /// An example for [`LossFn::Ppo`](super::LossFn::Ppo): the inputs of
    /// [`importance_sampling`](Self::importance_sampling). The clip thresholds are options of the loss,
    /// [`LossFn::with`](super::LossFn::with).
    ///
    /// # Errors
    /// As for [`importance_sampling`](Self::importance_sampling).
    ///
    /// # Example: a completion of two tokens
    /// ```
    /// use tinkex::types::Datum;
    ///
    /// let datum = Datum::ppo(&[1, 2], &[3, 4], &[-0.5, -1.0], &[1.0, 1.0])?;
    /// assert_eq!(datum.model_input.to_ints()?, [1, 2, 3]);
    /// assert_eq!(datum.loss_fn_inputs["target_tokens"].as_i64(), Some(&[2, 3, 4][..]));
    /// assert_eq!(datum.loss_fn_inputs["logprobs"].as_f32(), Some(&[0.0, -0.5, -1.0][..]));
    /// assert_eq!(datum.loss_fn_inputs["advantages"].as_f32(), Some(&[0.0, 1.0, 1.0][..]));
    /// # Ok::<(), tinkex::Error>(())
    /// ```
    pub fn ppo(prompt: &[i32], completion: &[i32], logprobs: &[f32], advantages: &[f32]) -> Result<Self> {
        Datum::importance_sampling(prompt, completion, logprobs, advantages)
    }

    /// An example for [`LossFn::Cispo`](super::LossFn::Cispo): the inputs of
    /// [`importance_sampling`](Self::importance_sampling).
    ///
    /// # Errors
    /// As for [`importance_sampling`](Self::importance_sampling).
    ///
    /// # Example: one advantage for all tokens
    /// ```
    /// use tinkex::types::Datum;
    ///
    /// let datum = Datum::cispo(&[1, 2], &[3, 4], &[-0.5, -1.0], &[0.25; 2])?;
    /// assert_eq!(datum.loss_fn_inputs.len(), 3);
    /// # Ok::<(), tinkex::Error>(())
    /// ```
    pub fn cispo(prompt: &[i32], completion: &[i32], logprobs: &[f32], advantages: &[f32]) -> Result<Self> {
        Datum::importance_sampling(prompt, completion, logprobs, advantages)
    }

    /// An example for [`LossFn::Dro`](super::LossFn::Dro): the inputs of
    /// [`importance_sampling`](Self::importance_sampling). The quadratic term of this loss includes the positions of
    /// the prompt, so the constructor also needs the sampler's log-probabilities of the prompt: one for each token,
    /// `None` for the first, as [`SampleResponse::prompt_logprobs`](super::SampleResponse::prompt_logprobs) and
    /// [`SamplingClient::compute_logprobs`](crate::SamplingClient::compute_logprobs) report them.
    ///
    /// # Errors
    /// As for [`importance_sampling`](Self::importance_sampling); also `prompt_logprobs` of another length than
    /// `prompt`, or with a missing value after the first one.
    ///
    /// # Example: a prompt of two tokens
    /// ```
    /// use tinkex::types::Datum;
    ///
    /// let datum = Datum::dro(&[1, 2], &[None, Some(-3.0)], &[3, 4], &[-0.5, -1.0], &[1.0, 1.0])?;
    /// assert_eq!(datum.loss_fn_inputs["logprobs"].as_f32(), Some(&[-3.0, -0.5, -1.0][..]));
    /// # Ok::<(), tinkex::Error>(())
    /// ```
    pub fn dro(
        prompt: &[i32],
        prompt_logprobs: &[Option<f32>],
        completion: &[i32],
        logprobs: &[f32],
        advantages: &[f32],
    ) -> Result<Self> {
        let datum = Datum::importance_sampling(prompt, completion, logprobs, advantages)?;
        check_len("prompt_logprobs", prompt_logprobs.len(), prompt.len(), "prompt")?;
        let mut all = Vec::with_capacity(prompt.len() + completion.len());
        for (i, logprob) in prompt_logprobs.iter().enumerate().skip(1) {
            let missing =
                || Error::invalid(format!("prompt_logprobs[{i}]"), "is missing; dro needs all but the first");
            all.push(logprob.ok_or_else(missing)?);
        }
        all.extend(logprobs.iter().skip(usize::from(prompt.is_empty())));
        Ok(datum.with("logprobs", all))
    }

    /// An example for [`LossFn::Gspo`](super::LossFn::Gspo): the inputs of
    /// [`importance_sampling`](Self::importance_sampling), and a `sequence_ratio_mask` of 1 on the completion and 0 on
    /// the prompt, so that the ratio of the sequence is computed from the tokens of the completion only.
    ///
    /// # Errors
    /// As for [`importance_sampling`](Self::importance_sampling).
    ///
    /// # Example: a completion of two tokens
    /// ```
    /// use tinkex::types::Datum;
    ///
    /// let datum = Datum::gspo(&[1, 2], &[3, 4], &[-0.5, -1.0], &[1.0, 1.0])?;
    /// assert_eq!(datum.loss_fn_inputs["sequence_ratio_mask"].as_f32(), Some(&[0.0, 1.0, 1.0][..]));
    /// # Ok::<(), tinkex::Error>(())
    /// ```
    pub fn gspo(prompt: &[i32], completion: &[i32], logprobs: &[f32], advantages: &[f32]) -> Result<Self> {
        let shape = Shape { prompt: prompt.len(), completion: completion.len() };
        let mask = shape.rows("sequence_ratio_mask", &vec![1.0; completion.len()])?;
        let datum = Datum::importance_sampling(prompt, completion, logprobs, advantages)?;
        Ok(datum.with("sequence_ratio_mask", mask))
    }

    /// An example for [`LossFn::StableReinforce`](super::LossFn::StableReinforce): `target_tokens`, `advantages`, and
    /// the provenance, which names the sampled sequence. Sample the sequence in the same session in which you train,
    /// with [`record_stability_info`](crate::SamplingClient::record_stability_info). `sequence_id` is the id of the
    /// sequence, [`SampledSequence::sequence_id`](super::SampledSequence::sequence_id).
    ///
    /// # Errors
    /// `advantages` of another length than `completion`; an empty `sequence_id`.
    ///
    /// # Example: the origin of the tokens
    /// ```
    /// use tinkex::types::{Datum, ProvenanceSpan};
    ///
    /// let datum = Datum::stable_reinforce(&[1, 2, 3], &[4, 5], &[1.0, 1.0], "seq-1")?;
    /// let provenance = datum.provenance.unwrap();
    /// assert_eq!(
    ///     provenance.model_input,
    ///     [ProvenanceSpan::prompt("seq-1", 0, 3), ProvenanceSpan::sampled("seq-1", 0, 1)]
    /// );
    /// # Ok::<(), tinkex::Error>(())
    /// ```
    pub fn stable_reinforce(
        prompt: &[i32],
        completion: &[i32],
        advantages: &[f32],
        sequence_id: &str,
    ) -> Result<Self> {
        if sequence_id.is_empty() {
            return Err(Error::invalid("sequence_id", "is empty"));
        }
        let shape = Shape { prompt: prompt.len(), completion: completion.len() };
        let advantages = shape.rows("advantages", advantages)?;
        let provenance = shape.provenance(sequence_id);
        Ok(targets(prompt, completion).with("advantages", advantages).with_provenance(provenance))
    }
}

/// Makes an example of a prompt and a completion. All tokens but the last are the input, all tokens but the first are
/// the targets.
pub(super) fn targets(prompt: &[i32], completion: &[i32]) -> Datum {
    let all: Vec<i32> = prompt.iter().chain(completion).copied().collect();
    let n = all.len().saturating_sub(1);
    Datum::new(ModelInput::from_ints(&all[..n])).with("target_tokens", all.get(1..).unwrap_or_default())
}

/// Lengths of a prompt and a completion.
#[derive(Clone, Copy)]
struct Shape {
    prompt: usize,
    completion: usize,
}

impl Shape {
    /// Extends values of the completion to one value for each target: 0 for targets within the prompt.
    fn rows(self, name: &str, values: &[f32]) -> Result<Vec<f32>> {
        check_len(name, values.len(), self.completion, "completion")?;
        let mut rows = vec![0.0; self.prompt.saturating_sub(1)];
        // Without a prompt, the first token of the completion is not a target.
        rows.extend(values.iter().skip(usize::from(self.prompt == 0)));
        Ok(rows)
    }

    fn provenance(self, id: &str) -> Provenance {
        // The last token of the sequence is not an input, and the first is not a target.
        let n = (self.prompt + self.completion).saturating_sub(1);
        let read = n.min(self.prompt);
        let first = usize::from(self.prompt == 0);
        let span = |origin, offset: usize, length: usize| ProvenanceSpan {
            origin,
            sequence_id: id.into(),
            offset: offset as u64,
            length: length as u64,
        };
        let mut spans = Provenance {
            model_input: vec![span(Origin::Prompt, 0, read), span(Origin::Sampled, 0, n - read)],
            loss_fn_inputs: vec![
                span(Origin::Prompt, 1, self.prompt.saturating_sub(1)),
                span(Origin::Sampled, first, self.completion.saturating_sub(first)),
            ],
        };
        for list in [&mut spans.model_input, &mut spans.loss_fn_inputs] {
            list.retain(|span| 0 < span.length);
        }
        spans
    }
}

fn check_len(name: &str, found: usize, expected: usize, of: &str) -> Result<()> {
    if found == expected {
        Ok(())
    } else {
        Err(Error::invalid(name, format!("has {found} values for the {expected} tokens of the {of}")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::LossFn;

    type Make = fn(&[i32], &[i32], &[f32], &[f32]) -> Result<Datum>;

    #[test]
    fn each_constructor_makes_exactly_the_inputs_of_its_loss() {
        let (logprobs, advantages) = ([-0.5f32, -1.0], [1.0f32, 2.0]);
        for prompt in [&[][..], &[1], &[1, 2, 3]] {
            let scored: Vec<Option<f32>> = (0..prompt.len()).map(|i| (0 < i).then_some(-2.0)).collect();
            let common = ["advantages", "logprobs", "target_tokens"];
            let with = |make: Make| make(prompt, &[7, 8], &logprobs, &advantages).expect("a datum");
            let table: [(LossFn, Datum, &[&str]); 6] = [
                (LossFn::ImportanceSampling, with(Datum::importance_sampling), &common),
                (LossFn::Ppo, with(Datum::ppo), &common),
                (LossFn::Cispo, with(Datum::cispo), &common),
                (
                    LossFn::Dro,
                    Datum::dro(prompt, &scored, &[7, 8], &logprobs, &advantages).expect("a datum"),
                    &common,
                ),
                (
                    LossFn::Gspo,
                    with(Datum::gspo),
                    &["advantages", "logprobs", "sequence_ratio_mask", "target_tokens"],
                ),
                (
                    LossFn::StableReinforce,
                    Datum::stable_reinforce(prompt, &[7, 8], &advantages, "s").expect("a datum"),
                    &["advantages", "target_tokens"],
                ),
            ];
            for (loss, datum, names) in table {
                datum.validate("d").expect("good data");
                loss.check(&datum, "d").expect("all inputs of the loss");
                assert_eq!(datum.loss_fn_inputs.keys().collect::<Vec<_>>(), names, "{loss} {prompt:?}");
            }
        }
    }

    #[test]
    fn values_of_the_completion_are_placed_behind_those_of_the_prompt() {
        let rows = |datum: &Datum, name: &str| datum.loss_fn_inputs[name].as_f32().map(<[f32]>::to_vec);
        let datum = Datum::gspo(&[1, 2, 3], &[7, 8], &[-0.5, -1.0], &[1.0, 2.0]).expect("a datum");
        assert_eq!(rows(&datum, "logprobs"), Some(vec![0.0, 0.0, -0.5, -1.0]));
        assert_eq!(rows(&datum, "advantages"), Some(vec![0.0, 0.0, 1.0, 2.0]));
        assert_eq!(rows(&datum, "sequence_ratio_mask"), Some(vec![0.0, 0.0, 1.0, 1.0]));
        let bare = Datum::importance_sampling(&[], &[7, 8], &[-0.5, -1.0], &[1.0, 2.0]).expect("a datum");
        assert_eq!(rows(&bare, "logprobs"), Some(vec![-1.0]));
        let anchored = Datum::dro(&[1, 2, 3], &[None, Some(-2.0), Some(-3.0)], &[7], &[-0.5], &[1.0]);
        assert_eq!(rows(&anchored.expect("a datum"), "logprobs"), Some(vec![-2.0, -3.0, -0.5]));
    }

    #[test]
    fn values_of_another_length_than_the_tokens_are_refused_by_name() {
        let path =
            |datum: Result<Datum>| datum.expect_err("a refusal").violation().expect("a path").path.clone();
        assert_eq!(path(Datum::ppo(&[1], &[2, 3], &[-1.0], &[1.0, 1.0])), "logprobs");
        assert_eq!(path(Datum::cispo(&[1], &[2, 3], &[-1.0, -1.0], &[1.0])), "advantages");
        assert_eq!(path(Datum::dro(&[1, 2], &[None], &[3], &[-1.0], &[1.0])), "prompt_logprobs");
        assert_eq!(path(Datum::dro(&[1, 2], &[None, None], &[3], &[-1.0], &[1.0])), "prompt_logprobs[1]");
        assert_eq!(path(Datum::stable_reinforce(&[1], &[2], &[1.0], "")), "sequence_id");
    }
}

//! What a forward or backward pass reports.

use std::collections::BTreeMap;

use super::TensorData;

/// The name of the metric that is the sum of the loss.
const LOSS_SUM: &str = "loss:sum";

/// The result of `forward` and `forward_backward` (PROTOCOL §6.7).
///
/// Which metrics and outputs there are is the server's choice: some send no metric at all. [`loss`](Self::loss) and
/// [`loss_per_token`](Self::loss_per_token) are there with every server whose loss this crate can compute.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ForwardBackwardOutput {
    /// The server's name for the kind of `loss_fn_outputs`.
    pub loss_fn_output_type: String,
    /// For each datum, in the order of the input, its outputs by name: usually `logprobs`, shaped like
    /// `target_tokens`.
    pub loss_fn_outputs: Vec<BTreeMap<String, TensorData>>,
    /// Metrics by name, each with its reduction behind a colon: `loss:sum` is the sum over tokens and data.
    pub metrics: BTreeMap<String, f64>,
    /// The sum of the loss as the client computed it from the log-probabilities, where the server reports none.
    pub computed_loss: Option<f64>,
    /// How many tokens the loss is of: for cross-entropy the sum of the weights; for the losses with advantages the number of
    /// tokens whose advantage is not 0 (or that the mask names); otherwise the number of targets. `None` if nobody counted.
    pub n_loss_tokens: Option<f64>,
}

impl ForwardBackwardOutput {
    /// The log-probabilities of the targets of datum `idx`, if the server sent them.
    pub fn logprobs(&self, idx: usize) -> Option<&[f32]> {
        let logprobs = self.loss_fn_outputs.get(idx)?.get("logprobs")?;
        // The stored values of a sparse tensor are not those of the targets one after the other.
        if logprobs.sparse.is_none() { logprobs.as_f32() } else { None }
    }

    /// The loss: the sum over tokens and data. The server's metric `loss:sum`, or, if it sends none, what the client computed
    /// from the log-probabilities that were returned and the inputs of the data. `None` if neither is to be had: a loss whose
    /// formula only the server knows, or no log-probabilities.
    ///
    /// # Example: what one step says
    /// ```
    /// # #[cfg(feature = "local")] {
    /// # let server = tinkex::local::Server::start(Default::default())?;
    /// # let service = tinkex::ServiceClient::builder().base_url(server.url()).api_key(server.api_key()).build()?;
    /// # let training = service.create_lora_training_client("tinkex/nano", Default::default())?;
    /// use tinkex::types::{Datum, LossFn};
    ///
    /// let data = vec![Datum::cross_entropy(&[72, 105], &[33, 10])];
    /// let step = training.forward_backward(data, LossFn::CrossEntropy).wait()?;
    /// println!("loss {:.3}", step.loss_per_token().unwrap_or(f64::NAN));
    /// assert!(step.loss().is_some_and(|it| 0.0 < it));
    /// # }
    /// # Ok::<(), tinkex::Error>(())
    /// ```
    pub fn loss(&self) -> Option<f64> {
        self.metrics.get(LOSS_SUM).copied().or(self.computed_loss)
    }

    /// [`loss`](Self::loss) divided by [`n_loss_tokens`](Self::n_loss_tokens): comparable between batches of different sizes.
    /// `None` without either, and where no token counts.
    pub fn loss_per_token(&self) -> Option<f64> {
        let n = self.n_loss_tokens.filter(|it| 0.0 < *it)?;
        Some(self.loss()? / n)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_servers_sum_counts_before_what_was_computed_and_no_tokens_have_no_mean() {
        let mut output = ForwardBackwardOutput { computed_loss: Some(6.0), ..Default::default() };
        assert_eq!((output.loss(), output.loss_per_token()), (Some(6.0), None));
        output.n_loss_tokens = Some(4.0);
        assert_eq!(output.loss_per_token(), Some(1.5));
        output.metrics.insert("loss:sum".into(), 2.0);
        assert_eq!((output.loss(), output.loss_per_token()), (Some(2.0), Some(0.5)));
        output.n_loss_tokens = Some(0.0);
        assert_eq!(output.loss_per_token(), None);
        assert_eq!(ForwardBackwardOutput::default().loss(), None);
    }
}

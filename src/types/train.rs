//! Results of forward and backward passes.

use std::collections::BTreeMap;

use super::TensorData;

/// Name of the metric with the sum of the loss.
const LOSS_SUM: &str = "loss:sum";

/// Result of `forward` and `forward_backward` (PROTOCOL §6.7).
///
/// The server decides which metrics and outputs it reports; some report no metric. [`loss`](Self::loss) and
/// [`loss_per_token`](Self::loss_per_token) work with every server for losses that this crate can compute.
#[derive(Clone, Debug, Default, PartialEq)]
#[non_exhaustive]
pub struct ForwardBackwardOutput {
    /// The server's name of the type of `loss_fn_outputs`.
    pub loss_fn_output_type: String,
    /// Outputs of each datum by name, in the order of the input: usually `logprobs`, in the shape of `target_tokens`.
    pub loss_fn_outputs: Vec<BTreeMap<String, TensorData>>,
    /// Metrics by name. A name ends with a colon and the reduction: `loss:sum` is the sum over tokens and data.
    pub metrics: BTreeMap<String, f64>,
    /// Sum of the loss, computed by the client from the log-probabilities if the server does not report it.
    pub computed_loss: Option<f64>,
    /// Number of tokens of the loss: for cross-entropy the sum of the weights; for GSPO the number of tokens with a
    /// mask other than 0; for the other losses with advantages the number of tokens with an advantage other than 0. For
    /// a custom loss the sum of the weights, else the number of advantages other than 0, else the number of targets, by
    /// the inputs that the data have. `None` if not computed.
    pub n_loss_tokens: Option<f64>,
}

impl ForwardBackwardOutput {
    /// Log-probabilities of the targets of datum `idx`, if the server sent them.
    pub fn logprobs(&self, idx: usize) -> Option<&[f32]> {
        let logprobs = self.loss_fn_outputs.get(idx)?.get("logprobs")?;
        // Return nothing for a sparse tensor: its stored values do not belong to consecutive targets.
        if logprobs.sparse.is_none() { logprobs.as_f32() } else { None }
    }

    /// The loss as a sum over tokens and data: the server's metric `loss:sum`, or, without it, the value that the
    /// client computed from the returned log-probabilities and the inputs of the data. `None` if the server reported
    /// neither the metric nor log-probabilities, or if only the server knows the formula of the loss.
    ///
    /// # Example: print the loss of one step
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
    /// assert!(step.loss().is_some_and(|loss| 0.0 < loss));
    /// # }
    /// # Ok::<(), tinkex::Error>(())
    /// ```
    pub fn loss(&self) -> Option<f64> {
        self.metrics.get(LOSS_SUM).copied().or(self.computed_loss)
    }

    /// [`loss`](Self::loss) divided by [`n_loss_tokens`](Self::n_loss_tokens), which is comparable between batches of
    /// different sizes. `None` if either is missing or the number of tokens is 0.
    pub fn loss_per_token(&self) -> Option<f64> {
        let n_tokens = self.n_loss_tokens.filter(|n_tokens| 0.0 < *n_tokens)?;
        Some(self.loss()? / n_tokens)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_servers_loss_precedes_the_computed_one_and_zero_tokens_have_no_mean() {
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

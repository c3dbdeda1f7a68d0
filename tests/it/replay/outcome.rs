//! Comparison of the result of a call with its recorded answer. Google's protobuf library decoded the recorded answers
//! and wrote floats with six decimals. `n` is the number of a recorded exchange (a request with its answer).

use std::fmt::Debug;

use serde_json::{Value, json};
use tinkex::types::{ForwardBackwardOutput, OptimStepOutput, SampleResponse, StopReason, TensorData};
use tinkex::{Error, ErrorKind, TrainingClient};

use super::server::Replay;

/// Tolerance for floats: half of the sixth decimal, plus the rounding error of an `f32`.
const CLOSE: f64 = 1e-6;

impl Replay {
    /// Compares the result of the pass that exchange `n` submitted.
    #[track_caller]
    pub(crate) fn assert_pass(&self, n: u64, output: &ForwardBackwardOutput) {
        let (_, status, recorded) = self.exchange(self.result_of(n));
        assert_eq!(status, 200, "exchange {n}");
        assert_eq!(output.loss_fn_output_type, recorded["loss_fn_output_type"], "exchange {n}");
        assert_eq!(json!(output.metrics), recorded["metrics"], "exchange {n}");
        let record = &recorded["loss_fn_outputs"][0];
        assert_eq!(output.loss_fn_outputs.len() as u64, record["num_datums"], "exchange {n}");
        for (i, datum) in output.loss_fn_outputs.iter().enumerate() {
            let fields = record["fields"].as_object().unwrap();
            assert!(datum.keys().eq(fields.keys()), "exchange {n}: {:?}", datum.keys());
            for (name, field) in fields {
                // Offsets count bytes; a value has four.
                let [start, end] = [i, i + 1].map(|it| field["offsets"][it].as_u64().unwrap() as usize / 4);
                assert_close(n, values(&datum[name]), &field["data"].as_array().unwrap()[start..end]);
            }
        }
    }

    /// Compares the result of the optimizer step that exchange `n` submitted.
    #[track_caller]
    pub(crate) fn assert_update(&self, n: u64, output: &OptimStepOutput) {
        let (_, status, recorded) = self.exchange(self.result_of(n));
        assert_eq!((status, json!(output.metrics)), (200, recorded["metrics"].clone()), "exchange {n}");
    }

    /// Compares the result of the sample that exchange `n` submitted.
    #[track_caller]
    pub(crate) fn assert_sample(&self, n: u64, response: &SampleResponse) {
        let (_, _, accepted) = self.exchange(n);
        let (_, status, recorded) = self.exchange(self.result_of(n));
        assert_eq!(status, 200, "exchange {n}");
        let sequences = recorded["sequences"].as_array().unwrap();
        assert_eq!(response.sequences.len(), sequences.len(), "exchange {n}");
        for (i, (ours, theirs)) in response.sequences.iter().zip(sequences).enumerate() {
            let stop_reason = [StopReason::Stop, StopReason::Length];
            let stop_reason = &stop_reason[theirs["stop_reason"].as_u64().unwrap() as usize];
            assert_eq!(&ours.stop_reason, stop_reason, "exchange {n}");
            assert_eq!(json!(ours.tokens), theirs["tokens"], "exchange {n}");
            assert_close(n, ours.logprobs.as_deref().unwrap(), theirs["logprobs"].as_array().unwrap());
            assert_eq!(json!(ours.sequence_id), accepted["sample_sequence_ids"][i], "exchange {n}");
        }
        match recorded["prompt_logprobs"].as_array() {
            Some(theirs) => self.assert_prompt(n, response.prompt_logprobs.as_deref().unwrap(), theirs),
            None => assert_eq!(response.prompt_logprobs, None, "exchange {n}"),
        }
    }

    /// Compares the log-probabilities of the prompt that exchange `n` submitted.
    #[track_caller]
    pub(crate) fn assert_logprobs(&self, n: u64, logprobs: &[Option<f32>]) {
        let (_, status, recorded) = self.exchange(self.result_of(n));
        assert_eq!(status, 200, "exchange {n}");
        self.assert_prompt(n, logprobs, recorded["prompt_logprobs"].as_array().unwrap());
    }

    #[track_caller]
    fn assert_prompt(&self, n: u64, ours: &[Option<f32>], recorded: &[Value]) {
        // The recording holds these numbers as strings.
        let recorded: Vec<Value> =
            recorded.iter().map(|it| it.as_str().unwrap().parse::<f64>().unwrap().into()).collect();
        // Some servers omit the entry of the first token, which has no log-probability.
        let unscored = ours.len() - recorded.len();
        assert!(ours[..unscored].iter().all(Option::is_none) && unscored <= 1, "exchange {n}: {ours:?}");
        let ours: Vec<f32> = ours[unscored..].iter().map(|it| it.unwrap()).collect();
        assert_close(n, &ours, &recorded);
    }

    /// Compares the client's model info with the answer of exchange `n`.
    #[track_caller]
    pub(crate) fn assert_info(&self, n: u64, training: &TrainingClient) {
        let (_, _, recorded) = self.exchange(n);
        let info = training.get_info();
        assert_eq!(json!(training.model_id()), recorded["model_id"], "exchange {n}");
        assert_eq!(json!(info.base_model), recorded["model_data"]["base_model"], "exchange {n}");
        assert_eq!(json!(info.lora_rank), recorded["model_data"]["lora_config"]["rank"], "exchange {n}");
    }

    /// Compares the error of a call with exchange `n`, the answer that caused the error: kind, status and the server's
    /// message.
    #[track_caller]
    pub(crate) fn assert_failure<T: Debug>(&self, n: u64, kind: ErrorKind, result: Result<T, Error>) {
        let (_, status, recorded) = self.exchange(n);
        let error = result.expect_err("a failure");
        assert_eq!((error.kind(), error.http_status()), (&kind, Some(status)), "exchange {n}: {error:?}");
        let words = match &recorded["detail"] {
            Value::Array(all) => all.iter().map(|it| it["msg"].as_str().unwrap()).collect(),
            // For a missing endpoint, the crate's error has its own text instead of the server's.
            _ if kind == ErrorKind::Incompatible => vec!["does not offer"],
            other => vec![other.as_str().unwrap()],
        };
        assert!(words.iter().all(|word| error.message().contains(word)), "exchange {n}: {error:?}");
    }
}

fn values(tensor: &TensorData) -> &[f32] {
    tensor.as_f32().unwrap()
}

#[track_caller]
fn assert_close(n: u64, ours: &[f32], recorded: &[Value]) {
    let close =
        |(ours, recorded): (&f32, &Value)| (f64::from(*ours) - recorded.as_f64().unwrap()).abs() < CLOSE;
    let same = ours.len() == recorded.len() && ours.iter().zip(recorded).all(close);
    assert!(same, "exchange {n}: {ours:?} is not {recorded:?}");
}

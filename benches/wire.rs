//! Speed of encoding the request of a training pass and of decoding its result.
//!
//! ```text
//! cargo bench --bench wire
//! ```
//!
//! Each round encodes the body of `forward_backward` for 64 data of 2048 tokens with targets and weights, decodes a
//! result with the log-probabilities of each datum, and copies the encoded request into a new buffer. The speed of the
//! copy is an upper bound for the other two. All speeds are bytes of the message per second, on one thread. Prints one
//! line of JSON with the medians over all rounds.
//!
//! The codecs are private; the feature `testing` exposes them to this bench in a hidden module.

#![allow(
    clippy::print_stdout,
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a bench talks to a person"
)]

mod support;

#[cfg(not(feature = "testing"))]
fn main() {
    support::run_with_testing("wire");
}

#[cfg(feature = "testing")]
fn main() {
    measured::main();
}

#[cfg(feature = "testing")]
mod measured {
    use std::collections::BTreeMap;
    use std::hint::black_box;
    use std::time::Instant;

    use tinkex::testing::codecs;
    use tinkex::types::{Datum, ForwardBackwardOutput, LossFn, ModelInput, TensorData};

    const DATA: usize = 64;
    const TOKENS: usize = 2048;
    const ROUNDS: usize = 200;

    pub(super) fn main() {
        let data = data();
        let loss = LossFn::CrossEntropy.into();
        let request = codecs::encode_pass("session:train:0", 1, &data, &loss).unwrap();
        let output = codecs::encode_pass_output(&output());
        let mut rounds = [const { Vec::new() }; 3];
        for _ in 0..ROUNDS {
            let encode = || codecs::encode_pass("session:train:0", 1, black_box(&data), &loss).unwrap();
            rounds[0].push(speed(request.len(), encode));
            let decode = || codecs::decode_pass_output(black_box(&output).clone()).unwrap();
            rounds[1].push(speed(output.len(), decode));
            rounds[2].push(speed(request.len(), || black_box(&request).clone()));
        }
        let [encode, decode, memcpy] = rounds.map(median);
        println!(
            "{{\"encode_mb_s\":{encode:.0},\"decode_mb_s\":{decode:.0},\"memcpy_mb_s\":{memcpy:.0},\
             \"encoded_bytes\":{},\"decoded_bytes\":{},\"target_mb_s\":1500}}",
            request.len(),
            output.len(),
        );
    }

    /// Runs `work` once and returns its speed in megabytes per second. Dropping the result is not timed.
    fn speed<T>(n_bytes: usize, work: impl FnOnce() -> T) -> f64 {
        let before = Instant::now();
        let result = black_box(work());
        let seconds = before.elapsed().as_secs_f64();
        drop(result);
        n_bytes as f64 / 1e6 / seconds
    }

    fn median(mut values: Vec<f64>) -> f64 {
        values.sort_by(f64::total_cmp);
        values[values.len() / 2]
    }

    fn data() -> Vec<Datum> {
        let datum = |i: usize| {
            let token = |j: usize| ((i * TOKENS + j) * 7919 % 150_000) as i32;
            let targets: Vec<i64> = (0..TOKENS).map(|j| i64::from(token(j + 1))).collect();
            let weights: Vec<f32> = (0..TOKENS).map(|j| (j % 3) as f32 / 2.0).collect();
            Datum::new(ModelInput::from_ints((0..TOKENS).map(token).collect::<Vec<_>>()))
                .with("target_tokens", targets)
                .with("weights", weights)
        };
        (0..DATA).map(datum).collect()
    }

    fn output() -> ForwardBackwardOutput {
        let datum = |i: usize| {
            let logprobs: Vec<f32> = (0..TOKENS).map(|j| -((i + j) as f32) / 1000.0).collect();
            BTreeMap::from([("logprobs".to_string(), TensorData::from(logprobs))])
        };
        let mut output = ForwardBackwardOutput::default();
        output.loss_fn_output_type = "ArrayRecord".into();
        output.loss_fn_outputs = (0..DATA).map(datum).collect();
        output.metrics = BTreeMap::from([("loss:sum".to_string(), 1.0)]);
        output
    }
}

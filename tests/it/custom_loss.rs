//! `forward_backward_custom`: the server runs a forward pass, the client calls the caller's loss function, and the
//! server runs a backward pass with the gradients of that loss. The client sends no other training request between the
//! two passes. If the operation fails between them, the client is poisoned: all later calls fail with the cause of that
//! failure.

use std::sync::mpsc;
use std::time::Instant;

use serde_json::json;
use tinkex::testing::{Act, FakeServer};
use tinkex::types::{
    AdamParams, CustomLoss, Datum, ForwardBackwardOutput, LossFn, LossGraph, ModelInput, OptimStepOutput,
    TensorData, Ttl, Values,
};
use tinkex::{Error, ErrorKind, Pending};

use crate::util::{HOUR, TEST_TIMEOUT, alone, datum, eventually, path_of, seq_ids, training};

/// A loss: the sum of the log-probabilities, with gradients of 1 and one metric.
fn sum(_data: &[Datum], logprobs: &[&[f32]]) -> Result<CustomLoss, Error> {
    let loss = logprobs.iter().copied().flatten().map(|it| f64::from(*it)).sum();
    let gradients = logprobs.iter().map(|it| vec![1.0; it.len()]).collect();
    Ok(CustomLoss::new(loss, gradients).with_metric("mine:mean", 3.0))
}

#[test]
fn the_callers_loss_is_reported_beside_that_of_the_server() {
    let (server, _service, training) = training();
    let mut bare = datum().with("advantages", vec![1.0f32; 4]);
    bare.loss_fn_inputs.remove("weights");
    let step = training.forward_backward_custom(vec![datum(), bare], |data, logprobs| {
        assert!(data[1].loss_fn_inputs.contains_key("advantages"));
        assert_eq!(logprobs, [[-0.5f32; 4], [-0.5; 4]]);
        sum(data, logprobs)
    });
    let output = step.wait().unwrap();
    assert_eq!(output.metrics["loss:sum"], -4.0);
    assert_eq!((output.metrics["surrogate_loss:sum"], output.metrics["mine:mean"]), (4.0, 3.0));
    assert_eq!(output.loss_fn_outputs.len(), 2);
    assert_eq!(seq_ids(&server), [1, 2]);
    for seen in server.requests_to("/api/v1/forward_backward") {
        assert_eq!(seen.header("x-sdk-method"), Some("TrainingClient.forward_backward_custom"));
    }
}

#[test]
fn the_parts_of_both_passes_are_sent_before_anything_that_was_submitted_later() {
    let (server, _service, training) = training();
    // A pass over 2500 data is sent in three parts, one request each.
    let step = training.forward_backward_custom(vec![datum(); 2500], sum);
    let update = training.optim_step(AdamParams::default());
    assert_eq!(step.wait().unwrap().loss_fn_outputs.len(), 2500);
    update.wait().unwrap();
    let ids = seq_ids(&server);
    assert_eq!((ids.len(), ids[2], ids[5], ids[6]), (7, 1, 4, 7), "{ids:?}");
    assert!(ids[..3].iter().all(|it| *it <= 3), "{ids:?}");
}

#[test]
fn later_operations_wait_for_a_custom_loss_even_if_its_pending_was_dropped() {
    let (server, _service, training) = training();
    let (open, gate) = mpsc::channel::<()>();
    let step = training.forward_backward_custom(vec![datum()], move |data, logprobs| {
        // Wait until the test drops `open`; `recv` fails then.
        let _ = gate.recv();
        sum(data, logprobs)
    });
    // Dropping the `Pending` of a training operation does not cancel the operation.
    drop(step);
    let update = training.optim_step(AdamParams::default());
    let save = training.save_state("x", Ttl::Never);
    eventually("the forward pass is sent", || seq_ids(&server) == [1]);
    eventually("its result is fetched", || !server.requests_to("/api/v1/retrieve_future").is_empty());
    assert!(!update.is_done() && !save.is_done());
    drop(open);
    update.wait().unwrap();
    save.wait().unwrap();
    assert_eq!(seq_ids(&server), [1, 2, 3, 4]);
    let last: Vec<String> = server.requests().into_iter().map(|it| it.path).collect();
    let place = |path: &str| last.iter().rposition(|it| it == path).unwrap();
    assert!(place("/api/v1/forward_backward") < place("/api/v1/optim_step"));
}

#[test]
fn a_panicking_loss_poisons_the_client_with_its_message() {
    let (server, service, training) = training();
    let step = training.forward_backward_custom(vec![datum()], |_, _| -> Result<CustomLoss, Error> {
        panic!("my loss fell over")
    });
    let update = training.optim_step(AdamParams::default());
    let error = step.wait().unwrap_err();
    assert!(error.is_panic() && error.to_string().contains("my loss fell over"), "{error}");
    for error in [update.wait().unwrap_err(), training.optim_step(AdamParams::default()).wait().unwrap_err()]
    {
        assert_eq!(*error.kind(), ErrorKind::Poisoned);
        assert!(error.to_string().contains("my loss fell over"), "{error}");
    }
    // The forward pass was sent, but not the backward pass and not the later operations.
    assert_eq!(seq_ids(&server), [1]);
    let other = service.create_lora_training_client("fake/model", Default::default()).unwrap();
    other.forward_backward_custom(vec![datum()], sum).wait().unwrap();
}

#[test]
fn a_loss_that_fails_or_returns_bad_gradients_poisons_the_client_with_the_reason() {
    type Loss = fn(&[Datum], &[&[f32]]) -> Result<CustomLoss, Box<dyn std::error::Error + Send + Sync>>;
    let table: [(Loss, &str); 6] = [
        (|_, _| Ok(CustomLoss::new(f64::INFINITY, vec![vec![1.0; 4]])), "loss"),
        (|_, _| Ok(CustomLoss::new(f64::NAN, vec![vec![1.0; 4]])), "loss"),
        (|_, _| Err("no reward".into()), "no reward"),
        (|_, _| Ok(CustomLoss::new(1.0, vec![])), "gradients"),
        (|_, _| Ok(CustomLoss::new(1.0, vec![vec![1.0; 3]])), "gradients[0]"),
        (|_, _| Ok(CustomLoss::new(1.0, vec![vec![0.0, 0.0, f32::NAN, 0.0]])), "gradients[0][2]"),
    ];
    for (loss, reason) in table {
        let (server, _service, training) = training();
        let error = training.forward_backward_custom(vec![datum()], loss).wait().unwrap_err();
        match error.violation() {
            Some(violation) => assert_eq!(violation.path, reason),
            None => assert!(*error.kind() == ErrorKind::CustomLoss && error.to_string().contains(reason)),
        }
        assert_eq!(error.operation(), Some("forward_backward_custom"));
        let later = training.optim_step(AdamParams::default()).wait().unwrap_err();
        assert!(*later.kind() == ErrorKind::Poisoned && later.to_string().contains(reason), "{later}");
        assert_eq!(seq_ids(&server), [1]);
    }
}

#[test]
fn the_parts_of_both_passes_stay_below_the_size_limit_of_a_request() {
    let server = FakeServer::new();
    server.always("/api/v1/client/config", Act::json(json!({"proto_compress_fwdbwd": false})));
    let service = server.in_memory().build().unwrap();
    let training = service.create_lora_training_client("fake/model", Default::default()).unwrap();
    // In the forward pass all weights are zero and take few bytes on the wire. In the backward pass the weights are the
    // gradients and take 4 bytes each.
    let (rows, columns) = (1000, 50);
    let targets = TensorData::from(vec![7i64; rows * columns]).with_shape([rows, columns]).unwrap();
    let datum = Datum::new(ModelInput::from_ints(vec![1; rows])).with("target_tokens", targets);
    training.forward_backward_custom(vec![datum; 24], sum).wait().unwrap();
    let sizes: Vec<usize> =
        server.requests_to("/api/v1/forward_backward").iter().map(|it| it.body.len()).collect();
    // A pass is sent in parts, one request each. The client's limit of 5 000 000 bytes for each part counts only the
    // tokens and the numbers of the tensors, not names and lengths.
    assert!(sizes.iter().all(|it| *it <= 5_010_000), "{sizes:?}");
    assert_eq!(sizes.len(), 2 * 3, "{sizes:?}");
}

#[test]
fn targets_with_few_bytes_and_a_huge_shape_are_refused_without_aborting_the_process() {
    const NAME: &str =
        "custom_loss::targets_with_few_bytes_and_a_huge_shape_are_refused_without_aborting_the_process";
    alone(NAME, || {
        let sparse = |columns| TensorData::from_csr([1, columns], vec![0, 1], vec![0], Values::I64(vec![7]));
        let datum = |columns| Datum::new(ModelInput::from_ints([1])).with("target_tokens", sparse(columns));
        let graph = LossGraph::trace("sum", &[("logprobs", 2)], |it| it.logprobs().sum()).unwrap();
        let wide = LossGraph::trace("wide", &[("logprobs", 2), ("x", 2)], |graph| {
            (graph.logprobs() * graph.input("x").sum()).sum()
        });
        let wide = wide.unwrap();
        let place = "data[0].loss_fn_inputs[\"target_tokens\"]";
        // The client limits the memory for the dense form of the sparse tensors of a call. The first tensor could not
        // be allocated at all; the second could, but exceeds the limit; 100 data with the third exceed it together.
        for (columns, n) in [(1 << 42, 1), (100 << 20, 1), (2 << 20, 100)] {
            let data = || vec![datum(columns); n];
            for is_server_side in [false, true] {
                let server = FakeServer::new();
                if is_server_side {
                    server.runs_custom_losses();
                }
                let service = server.in_memory().build().unwrap();
                let training = service.create_lora_training_client("fake/model", Default::default()).unwrap();
                let error = training.forward_backward_custom(data(), sum).wait().unwrap_err();
                assert!(path_of(&error).ends_with(".loss_fn_inputs[\"target_tokens\"]"), "{error}");
                if n == 1 {
                    let loss = service.create_custom_loss(graph.clone()).wait().unwrap();
                    let error = training.forward_backward(data(), &loss).wait().unwrap_err();
                    assert_eq!(path_of(&error), place);
                }
                assert!(seq_ids(&server).is_empty());
            }
        }
        assert_eq!(path_of(&graph.evaluate(&[datum(1 << 42)], &[&[0.0]]).unwrap_err()), place);
        let other = |x: TensorData| Datum::new(ModelInput::from_ints([1])).with("x", x);
        let pair =
            |x| other(x).with("target_tokens", TensorData::from(vec![1i64]).with_shape([1, 1]).unwrap());
        let error = wide.evaluate(&[pair(sparse(1 << 42))], &[&[0.0]]).unwrap_err();
        assert_eq!(path_of(&error), "data[0].loss_fn_inputs[\"x\"]");
        // A tensor of 2^42 rows without columns has no values, but `sum_dim(1)` would make a sum for each row.
        let rows = TensorData::from(Vec::<f32>::new()).with_shape([1 << 42, 0]).unwrap();
        let sums = LossGraph::trace("sums", &[("logprobs", 2), ("x", 2)], |graph| {
            (graph.logprobs().sum() * graph.input("x").sum_dim(1).sum()).sum()
        });
        assert_eq!(path_of(&sums.unwrap().evaluate(&[pair(rows)], &[&[0.0]]).unwrap_err()), "data[0]");
        // An index outside of the shape is refused too.
        let mut broken = sparse(10);
        broken.sparse.as_mut().unwrap().col_indices = vec![10];
        assert_eq!(
            path_of(&graph.evaluate(&[datum(10).with("target_tokens", broken)], &[&[0.0]]).unwrap_err()),
            format!("{place}.col_indices[0]")
        );
    });
}

#[test]
fn cancelling_while_the_loss_is_computed_poisons_the_client_without_waiting_for_the_loss() {
    let (server, _service, training) = training();
    let (open, gate) = mpsc::channel::<()>();
    let (begin, begun) = mpsc::channel::<()>();
    let step = training.forward_backward_custom(vec![datum()], move |data, logprobs| {
        drop(begin);
        let _ = gate.recv();
        sum(data, logprobs)
    });
    let update = training.optim_step(AdamParams::default());
    // Wait until the loss function runs and drops `begin`; `recv` fails then.
    let _ = begun.recv();
    step.cancel();
    assert!(step.wait().unwrap_err().is_cancelled());
    let error = update.wait().unwrap_err();
    assert_eq!(*error.kind(), ErrorKind::Poisoned);
    assert!(error.cause().unwrap().is_cancelled());
    drop(open);
    assert_eq!(seq_ids(&server), [1]);
}

#[test]
fn closing_the_client_does_not_wait_for_the_loss() {
    let (_server, _service, training) = training();
    let (open, gate) = mpsc::channel::<()>();
    let (begin, begun) = mpsc::channel::<()>();
    let step = training.forward_backward_custom(vec![datum()], move |data, logprobs| {
        drop(begin);
        let _ = gate.recv();
        sum(data, logprobs)
    });
    let update = training.optim_step(AdamParams::default());
    // Wait until the loss function runs and drops `begin`; `recv` fails then.
    let _ = begun.recv();
    training.close();
    assert!(step.wait().unwrap_err().is_closed());
    assert!(update.wait().unwrap_err().is_closed());
    drop(open);
}

#[test]
fn a_forward_pass_that_is_refused_gives_its_ids_back() {
    let (server, _service, training) = training();
    // After one accepted pass the client knows that the server reads protobuf. So it does not repeat the refused pass
    // as JSON.
    training.forward_backward(vec![datum()], LossFn::CrossEntropy).wait().unwrap();
    server.next("/api/v1/forward_backward", Act::status(422, r#"{"detail":"too long"}"#));
    let error = training.forward_backward_custom(vec![datum()], sum).wait().unwrap_err();
    assert!(error.to_string().contains("too long"), "{error}");
    training.forward_backward_custom(vec![datum()], sum).wait().unwrap();
    assert_eq!(seq_ids(&server), [1, 2, 2, 3]);
}

#[test]
fn invalid_data_is_refused_before_the_loss_is_called() {
    let (server, _service, training) = training();
    let before = server.requests().len();
    let refused = |data| {
        let never =
            |_: &[Datum], _: &[&[f32]]| -> Result<CustomLoss, Error> { panic!("the loss was called") };
        path_of(&training.forward_backward_custom(data, never).wait().unwrap_err())
    };
    let mut bare = datum();
    bare.loss_fn_inputs.clear();
    assert_eq!(refused(vec![bare]), "data[0].loss_fn_inputs[\"target_tokens\"]");
    assert_eq!(refused(vec![]), "data");
    assert_eq!(server.requests().len(), before, "a request was sent");
    training.forward_backward(vec![datum()], LossFn::CrossEntropy).wait().unwrap();
}

#[cfg(feature = "local")]
#[test]
fn the_engine_learns_the_same_from_a_custom_loss_as_from_its_own() {
    let server = tinkex::local::Server::start(Default::default()).unwrap();
    let service =
        tinkex::ServiceClient::builder().base_url(server.url()).api_key(server.api_key()).build().unwrap();
    let lora = || tinkex::types::LoraConfig { rank: 4, seed: Some(3), ..Default::default() };
    let adam = || AdamParams { learning_rate: 1e-2, ..Default::default() };
    let batch = || vec![datum().with("weights", vec![1.0f32; 4])];
    let (own, custom) = (
        service.create_lora_training_client("tinkex/nano", lora()).unwrap(),
        service.create_lora_training_client("tinkex/nano", lora()).unwrap(),
    );
    let first = own.forward_backward(batch(), LossFn::CrossEntropy).wait().unwrap().metrics;
    let second = custom.forward_backward_custom(batch(), |data, logprobs| {
        let mut loss = sum(data, logprobs)?;
        loss.loss = -loss.loss;
        loss.gradients.iter_mut().flatten().for_each(|it| *it = -*it);
        Ok::<_, Error>(loss)
    });
    let second = second.wait().unwrap().metrics;
    assert_eq!(first["loss:sum"], second["surrogate_loss:sum"]);
    assert!((first["loss:sum"] - second["loss:sum"]).abs() < 1e-3);
    own.optim_step(adam()).wait().unwrap();
    custom.optim_step(adam()).wait().unwrap();
    let after = |training: &tinkex::TrainingClient| {
        training.forward(batch(), LossFn::CrossEntropy).wait().unwrap().metrics["loss:sum"]
    };
    assert_eq!(after(&own), after(&custom));
}

#[test]
fn a_loss_that_waits_for_an_operation_of_its_own_client_gets_an_error_at_once() {
    let (server, service, training) = training();
    let (own, other) =
        (training.clone(), service.create_lora_training_client("fake/model", Default::default()).unwrap());
    let earlier = training.optim_step(AdamParams::default());
    let (later, submitted) = mpsc::channel();
    let step = training.forward_backward_custom(vec![datum()], move |data, logprobs| {
        // The loss function may wait for earlier operations of its client, and for all operations of other clients.
        earlier.wait()?;
        other.optim_step(AdamParams::default()).wait()?;
        let before = Instant::now();
        let mut update = own.optim_step(AdamParams::default());
        for error in [
            update.wait_timeout(TEST_TIMEOUT).unwrap_err(),
            own.forward(vec![datum()], LossFn::CrossEntropy).wait().unwrap_err(),
            own.save_weights_and_get_sampling_client().unwrap_err(),
        ] {
            assert!(error.kind() == &ErrorKind::CustomLoss && error.is_user_error(), "{error}");
        }
        assert!(before.elapsed() < TEST_TIMEOUT);
        later.send(update).unwrap();
        sum(data, logprobs)
    });
    step.wait().unwrap();
    // `update` was submitted although the loss function could not wait for it; another thread may wait for it.
    submitted.recv().unwrap().wait().unwrap();
    assert_eq!(server.requests_to("/api/v1/optim_step").len(), 3);
}

#[test]
fn a_loss_that_waits_for_its_own_pass_or_for_a_step_behind_it_gets_an_error_at_once() {
    let (_server, _service, training) = training();
    let earlier = training.optim_step(AdamParams::default());
    let (sender, handles) = mpsc::channel();
    let step = training.forward_backward_custom(vec![datum()], move |data, logprobs| {
        let (mut earlier, mut behind, mut own): (Pending<OptimStepOutput>, Pending<OptimStepOutput>, _) =
            handles.recv().unwrap();
        // An operation that was sent before may be waited for.
        earlier.wait_timeout(HOUR).unwrap().unwrap();
        let refused = behind.wait_timeout(HOUR).unwrap_err();
        assert!(refused.to_string().contains("cannot wait for an operation of its own client"), "{refused}");
        let own: &mut Pending<ForwardBackwardOutput> = &mut own;
        assert_eq!(*own.wait_timeout(HOUR).unwrap_err().kind(), ErrorKind::CustomLoss);
        drop((earlier, behind));
        sum(data, logprobs)
    });
    let another = training.clone();
    let behind = std::thread::spawn(move || another.optim_step(AdamParams::default())).join().unwrap();
    sender.send((earlier, behind, step)).unwrap();
    training.optim_step(AdamParams::default()).wait().unwrap();
}

#[test]
fn a_loss_that_submits_while_the_mailbox_is_full_gets_an_error_at_once() {
    let server = FakeServer::new();
    let service = server.in_memory().threads(|threads| threads.mailbox = 4).build().unwrap();
    let training = service.create_lora_training_client("fake/model", Default::default()).unwrap();
    let own = training.clone();
    let (begin, begun) = mpsc::channel();
    let (open, gate) = mpsc::channel::<()>();
    let (report, errors) = mpsc::channel();
    let step = training.forward_backward_custom(vec![datum()], move |data, logprobs| {
        begin.send(()).unwrap();
        // Wait until the test has filled the mailbox and drops `open`; `recv` fails then.
        let _ = gate.recv();
        let both = own.train_step(vec![datum()], LossFn::CrossEntropy, AdamParams::default());
        let one = own.save_state("from-the-loss", Ttl::Never);
        let results = [both.optim_step.wait().map(|_| ()), both.forward_backward.wait().map(|_| ())];
        for result in results.into_iter().chain([one.wait().map(|_| ())]) {
            report.send(result.unwrap_err()).unwrap();
        }
        sum(data, logprobs)
    });
    begun.recv_timeout(TEST_TIMEOUT).unwrap();
    // Fill the mailbox. It has room for exactly these four operations, so that this thread does not block.
    let more: Vec<_> = (0..4).map(|_| training.optim_step(AdamParams::default())).collect();
    drop(open);
    for _ in 0..3 {
        let error = errors.recv_timeout(TEST_TIMEOUT).unwrap();
        assert_eq!(*error.kind(), ErrorKind::CustomLoss, "{error}");
        assert!(error.message().contains("mailbox is full"), "{error}");
    }
    // The operations that failed because of the full mailbox do not disturb the others.
    step.wait().unwrap();
    tinkex::wait_all(more).unwrap();
}

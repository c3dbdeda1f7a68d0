use super::*;
use crate::types::TensorData;

fn error_text(graph: Result<LossGraph>) -> String {
    let error = graph.expect_err("a refusal");
    assert!(error.is_user_error());
    error.to_string()
}

const LOGPROBS: &[(&str, usize)] = &[("logprobs", 1)];

#[test]
fn a_graph_is_written_as_nodes_of_torch_fx() {
    let inputs = [("logprobs", 1), ("weights", 1)];
    let graph = LossGraph::trace("neg_ll", &inputs, |it| {
        let loss = -(it.logprobs() * it.input("weights")).sum();
        it.metric("custom/nll:sum", loss);
        loss
    });
    let graph = graph.expect("a graph");
    let written = serde_json::to_value(graph.nodes()).expect("JSON");
    let expected = serde_json::json!([
        {"op": "placeholder", "name": "logprobs", "target": "logprobs", "args": [], "kwargs": {}},
        {"op": "placeholder", "name": "weights", "target": "weights", "args": [], "kwargs": {}},
        {"op": "call_function", "name": "mul_2", "target": "operator.mul",
         "args": [{"ref": "logprobs"}, {"ref": "weights"}], "kwargs": {}},
        {"op": "call_method", "name": "sum_3", "target": "sum", "args": [{"ref": "mul_2"}], "kwargs": {}},
        {"op": "call_function", "name": "neg_4", "target": "operator.neg", "args": [{"ref": "sum_3"}], "kwargs": {}},
        {"op": "output", "name": "output", "target": "output", "kwargs": {},
         "args": [{"tuple": [{"ref": "neg_4"}, {"dict": {"custom/nll:sum": {"ref": "neg_4"}}}]}]},
    ]);
    assert_eq!(written, expected);
}

#[test]
fn names_of_nodes_do_not_clash_with_names_of_inputs() {
    let inputs = [("logprobs", 1), ("mul_2", 1)];
    let graph = LossGraph::trace("x", &inputs, |it| (it.logprobs() * it.input("mul_2")).sum());
    let graph = graph.expect("a graph");
    let mut names: Vec<&str> = graph.nodes().iter().map(|node| node.name.as_str()).collect();
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), graph.nodes().len());
}

#[test]
fn the_first_or_the_second_operand_may_be_a_number() {
    let graph = LossGraph::trace("x", LOGPROBS, |it| (2.0 - it.logprobs() / 3.0).sum()).expect("a graph");
    let args: Vec<String> =
        graph.nodes()[1..3].iter().map(|node| serde_json::to_string(&node.args).expect("JSON")).collect();
    assert_eq!(args, [r#"[{"ref":"logprobs"},3.0]"#, r#"[2.0,{"ref":"truediv_1"}]"#]);
}

#[test]
fn inputs_that_the_protocol_does_not_allow_are_refused() {
    let with = |inputs: &[(&str, usize)]| error_text(LossGraph::trace("x", inputs, |it| it.logprobs().sum()));
    let names: Vec<String> = (0..16).map(|i| format!("i{i}")).collect();
    let too_many: Vec<(&str, usize)> =
        LOGPROBS.iter().copied().chain(names.iter().map(|name| (name.as_str(), 1))).collect();
    for (inputs, problem) in [
        (&[][..], "must be logprobs"),
        (&[("weights", 1)], "must be logprobs"),
        (&[("logprobs", 0)], "cannot have 0 dimensions"),
        (&[("logprobs", 3)], "cannot have 3 dimensions"),
        (&[("logprobs", 1), ("Weights", 1)], "input_ranks[1]"),
        (&[("logprobs", 1), ("0a", 1)], "input_ranks[1]"),
        (&[("logprobs", 1), ("a", 3)], "only 0, 1 or 2"),
        (&[("logprobs", 1), ("a", 1), ("a", 1)], "input_ranks[2]: a is listed twice"),
        (&too_many, "more than 16"),
    ] {
        let refused = with(inputs);
        assert!(refused.contains(problem), "{refused}");
    }
    assert!(error_text(LossGraph::trace("", LOGPROBS, |it| it.logprobs().sum())).contains("name"));
}

#[test]
fn a_loss_that_can_never_be_computed_is_refused_during_the_trace() {
    type Loss = for<'g> fn(&'g LossTrace) -> LossTensor<'g>;
    let cases: &[(Loss, &str)] = &[
        (|it| it.logprobs(), "loss: has 1 dimensions"),
        (|it| it.logprobs().detach().sum(), "does not depend on logprobs"),
        (|it| it.logprobs().gt(0.0).float().sum(), "does not depend on logprobs"),
        (|it| it.input("weights").sum() + it.logprobs().sum(), "lacks weights"),
        (|it| it.logprobs().sum_dim(1).sum(), "dimension 1 is out of range"),
        (|it| it.logprobs().sum().logsumexp(-1), "logsumexp: dimension -1 is out of range for 0 dimensions"),
        (|it| it.logprobs().column(0).sum(), "needs 2 dimensions"),
        (|it| it.logprobs().unsqueeze(2).sum(), "cannot add dimension 2"),
        (|it| it.logprobs().clamp(None, None).sum(), "needs min or max"),
    ];
    for (loss, problem) in cases {
        let refused = error_text(LossGraph::trace("x", LOGPROBS, loss));
        assert!(refused.contains(problem), "{refused}");
    }
}

#[test]
fn metrics_with_invalid_names_or_shapes_are_refused() {
    let with = |name: &str| {
        LossGraph::trace("x", LOGPROBS, |it| {
            let loss = it.logprobs().sum();
            it.metric(name, loss);
            loss
        })
    };
    for valid in ["custom/a:sum", "custom/a-b.c/d_9:mean"] {
        assert!(with(valid).is_ok(), "{valid}");
    }
    let long = format!("custom/{}:sum", "a".repeat(65));
    for wrong in ["a:sum", "custom/:sum", "custom/a", "custom/a:max", "custom/A:sum", "custom/a b:sum", &long]
    {
        assert!(error_text(with(wrong)).contains("must be custom/"), "{wrong}");
    }
    let vector = LossGraph::trace("x", LOGPROBS, |it| {
        it.metric("custom/a:sum", it.logprobs());
        it.logprobs().sum()
    });
    assert!(error_text(vector).contains("one number"));
}

#[test]
fn the_tensors_of_two_traces_do_not_mix() {
    let other = LossTrace::new(&[LossInput { name: "logprobs".into(), rank: 1 }]);
    let mixed = LossGraph::trace("x", LOGPROBS, |it| {
        let (a, b) = (it.logprobs().parts(), other.logprobs().exp().parts());
        let _ = LossTensor::new(a.0, a.1) + LossTensor::new(b.0, b.1);
        it.logprobs().sum()
    });
    assert!(error_text(mixed).contains("two traces"));
}

#[test]
fn data_without_the_declared_inputs_and_ranks_are_refused() {
    let inputs = [("logprobs", 1), ("beta", 0)];
    let graph = LossGraph::trace("dro", &inputs, |it| (it.logprobs() * it.input("beta")).sum());
    let graph = graph.expect("a graph");
    let mut datum = Datum::cross_entropy(&[1, 2], &[3, 4]);
    let missing = graph.check(&datum, "data[0]").expect_err("a refusal").to_string();
    assert!(missing.contains(r#"data[0].loss_fn_inputs["beta"]"#), "{missing}");
    datum.loss_fn_inputs.insert("beta".into(), vec![0.5f32].into());
    let flat = graph.check(&datum, "data[0]").expect_err("a refusal").to_string();
    assert!(flat.contains("has 1 dimensions") && flat.contains("beta with 0"), "{flat}");
    let scalar = TensorData { shape: Some(Vec::new()), ..vec![0.5f32].into() };
    datum.loss_fn_inputs.insert("beta".into(), scalar);
    graph.check(&datum, "data[0]").expect("a datum that fits");
}

/// Computes the loss of one datum, and checks the gradient of each log-probability against a finite difference.
fn computed(graph: &LossGraph, datum: &Datum, logprobs: &[f32]) -> evaluate::DatumLoss {
    let at = |logprobs: &[f32]| graph.evaluate_datum(datum, logprobs, "d").expect("a loss");
    let exact = at(logprobs);
    for (i, gradient) in exact.gradient.iter().enumerate() {
        let shifted = |by: f32| {
            let mut shifted = logprobs.to_vec();
            shifted[i] += by;
            (f64::from(shifted[i]), at(&shifted).loss)
        };
        let ((x_up, y_up), (x_down, y_down)) = (shifted(1e-2), shifted(-1e-2));
        let estimate = (y_up - y_down) / (x_up - x_down);
        let error = (gradient - estimate).abs() / (1.0 + gradient.abs());
        assert!(error < 5e-3, "{}: logprobs[{i}]: {gradient}, expected {estimate}", graph.name());
    }
    exact
}

#[test]
fn every_operation_has_the_right_gradient() {
    type Loss = for<'g> fn(&'g LossTrace) -> LossTensor<'g>;
    let losses: &[(&str, Loss)] = &[
        ("exp", |it| it.logprobs().exp().sum()),
        ("expm1", |it| it.logprobs().expm1().sum()),
        ("log", |it| (-it.logprobs()).log().sum()),
        ("log1p", |it| (-it.logprobs()).log1p().mean()),
        ("sqrt", |it| (-it.logprobs()).sqrt().sum()),
        ("square", |it| it.logprobs().square().sum()),
        ("abs", |it| it.logprobs().abs().sum()),
        ("sigmoid", |it| it.logprobs().sigmoid().sum()),
        ("tanh", |it| it.logprobs().tanh().sum()),
        ("relu", |it| (it.logprobs() + 1.0).relu().sum()),
        ("log_sigmoid", |it| it.logprobs().log_sigmoid().sum()),
        ("softplus", |it| (it.logprobs() * 3.0).softplus().sum()),
        ("pow", |it| (-it.logprobs()).pow(1.5).sum()),
        ("pow of", |it| it.input("weights").pow(it.logprobs()).sum()),
        ("div", |it| (it.input("weights") / it.logprobs() + it.logprobs() / 3.0).sum()),
        ("sub", |it| ((1.0 - it.logprobs()) * (it.logprobs() - it.input("weights"))).sum()),
        ("minimum", |it| it.logprobs().minimum(-it.input("weights")).sum()),
        ("maximum", |it| it.logprobs().square().maximum(it.input("weights")).sum()),
        ("clamp", |it| it.logprobs().clamp(Some(-2.0), Some(-0.6)).square().sum()),
        ("where", |it| {
            let lp = it.logprobs();
            (lp.gt(-1.0) | lp.lt(-2.4)).where_else(lp.exp(), 2.0 * lp).sum()
        }),
        ("not and", |it| {
            let lp = it.logprobs();
            (!lp.gt(-1.0) & lp.ge(-2.4)).where_else(lp * lp, 0.0).sum()
        }),
        ("max", |it| it.logprobs().max() * 2.0),
        ("min", |it| it.logprobs().square().min()),
        ("dims", |it| it.logprobs().unsqueeze(1).sum_dim(-1).square().mean_dim(0)),
        ("logsumexp", |it| it.logprobs().logsumexp(0)),
        ("softmax", |it| (it.logprobs().softmax(0) * it.input("weights")).sum()),
        ("log_softmax", |it| (it.logprobs().log_softmax(-1) * it.input("weights")).sum()),
        ("cumsum", |it| (it.logprobs().cumsum(0) * it.input("weights")).sum()),
        ("outer", |it| (it.logprobs().unsqueeze(1) * it.input("weights").exp()).sum()),
        ("get", |it| it.logprobs().get(-1).exp() + it.logprobs().get(0)),
        ("slice", |it| (it.logprobs().slice(1..3) * it.logprobs().slice(0..2)).sum()),
        ("beta", |it| (it.logprobs() * it.input("beta")).sum().exp()),
    ];
    let inputs = [("logprobs", 1), ("weights", 1), ("beta", 0)];
    let beta = TensorData { shape: Some(Vec::new()), ..vec![0.3f32].into() };
    let datum = Datum::cross_entropy(&[1, 2], &[3, 4, 5])
        .with("weights", vec![0.5f32, 2.0, 1.5, 0.25])
        .with("beta", beta);
    for (name, loss) in losses {
        let graph = LossGraph::trace(*name, &inputs, loss).expect(name);
        let exact = computed(&graph, &datum, &[-0.5, -1.5, -2.5, -0.7]);
        assert!(exact.gradient.iter().any(|value| *value != 0.0), "{name}");
    }
}

#[test]
fn log_probabilities_of_two_dimensions_are_indexed_by_row_and_column() {
    type Loss = for<'g> fn(&'g LossTrace) -> LossTensor<'g>;
    let losses: &[(&str, Loss, f64)] = &[
        // The columns of the log-probabilities below are [-1, -2, -3] and [-4, -5, -6].
        ("rows", |it| it.logprobs().sum_dim(1).get(0), -5.0),
        ("columns", |it| it.logprobs().column(1).sum(), -15.0),
        ("row", |it| it.logprobs().get(2).sum(), -9.0),
        ("per token", |it| (it.logprobs() * it.input("scale").unsqueeze(1)).sum(), -46.0),
        ("per candidate", |it| (it.logprobs() * it.input("pair")).sum(), -36.0),
        ("means", |it| it.logprobs().mean_dim(0).sum(), -7.0),
    ];
    let inputs = [("logprobs", 2), ("scale", 1), ("pair", 1)];
    let targets = TensorData::from(vec![1i64, 2, 3, 4, 5, 6]).with_shape([3, 2]).expect("a shape");
    let datum = Datum::cross_entropy(&[1, 2], &[3, 4])
        .with("target_tokens", targets)
        .with("scale", vec![1.0f32, 2.0, 3.0])
        .with("pair", vec![1.0f32, 2.0]);
    for (name, loss, value) in losses {
        let graph = LossGraph::trace(*name, &inputs, loss).expect(name);
        let exact = computed(&graph, &datum, &[-1.0, -4.0, -2.0, -5.0, -3.0, -6.0]);
        assert!((exact.loss - value).abs() < 1e-9, "{name}: {}", exact.loss);
        assert_eq!(exact.gradient.len(), 6);
    }
}

#[test]
fn the_ending_of_a_metrics_name_chooses_the_sum_or_the_mean_over_all_data() {
    let inputs = [("logprobs", 1), ("weights", 1)];
    let graph = LossGraph::trace("nll", &inputs, |it| {
        let loss = -(it.logprobs() * it.input("weights")).sum();
        it.metric("custom/nll:sum", loss);
        it.metric("custom/nll:mean", loss);
        loss
    });
    let data = [Datum::cross_entropy(&[1], &[2, 3]), Datum::cross_entropy(&[1], &[2, 3])];
    let loss = graph.expect("a graph").evaluate(&data, &[&[-1.0, -2.0], &[-3.0, -5.0]]).expect("a loss");
    assert_eq!(loss.loss, 11.0);
    assert_eq!(loss.gradients, [[-1.0, -1.0], [-1.0, -1.0]]);
    assert_eq!((loss.metrics["custom/nll:sum"], loss.metrics["custom/nll:mean"]), (11.0, 5.5));
}

#[test]
fn an_error_during_the_evaluation_names_the_node() {
    let inputs = [("logprobs", 1), ("weights", 1)];
    let graph = LossGraph::trace("sum", &inputs, |it| (it.logprobs() * it.input("weights")).sum());
    let graph = graph.expect("a graph");
    let datum = Datum::cross_entropy(&[1], &[2, 3]).with("weights", vec![1.0f32, 2.0, 3.0]);
    let error = graph.evaluate(&[datum], &[&[-1.0, -2.0]]).expect_err("a refusal");
    let text = error.to_string();
    assert!(text.contains("data[0]") && text.contains("mul_2") && text.contains("[2] and [3]"), "{text}");
    // 100 000 x 100 000 values would need 80 GB.
    let outer = LossGraph::trace("outer", &[("logprobs", 1)], |it| {
        (it.logprobs().unsqueeze(1) * it.logprobs()).sum()
    });
    let targets = vec![0i64; 100_000];
    let long = Datum::cross_entropy(&[1], &[2]).with("target_tokens", targets);
    let error = outer.expect("a graph").evaluate(&[long], &[&vec![-1.0; 100_000]]).expect_err("a refusal");
    assert!(error.to_string().contains("more than"), "{error}");
}

fn read(nodes: &str) -> Result<LossGraph> {
    let nodes = serde_json::from_str(nodes).expect("nodes");
    LossGraph::read("x", &[("logprobs", 1), ("weights", 1)], nodes)
}

#[test]
fn the_example_graph_of_the_protocol_is_computed() {
    let graph = read(
        r#"[{"op":"placeholder","name":"logprobs","target":"logprobs","args":[],"kwargs":{}},
        {"op":"placeholder","name":"weights","target":"weights","args":[],"kwargs":{}},
        {"op":"call_function","name":"mul","target":"operator.mul","args":[{"ref":"logprobs"},{"ref":"weights"}],"kwargs":{}},
        {"op":"call_method","name":"sum_1","target":"sum","args":[{"ref":"mul"}],"kwargs":{}},
        {"op":"call_function","name":"neg","target":"operator.neg","args":[{"ref":"sum_1"}],"kwargs":{}},
        {"op":"output","name":"output","target":"output","args":[{"tuple":[{"ref":"neg"},{"dict":{"custom/nll:sum":{"ref":"neg"}}}]}],"kwargs":{}}]"#,
    );
    let datum = Datum::cross_entropy(&[1], &[2, 3]).with("weights", vec![1.0f32, 0.5]);
    let loss = graph.expect("a graph").evaluate_datum(&datum, &[-1.0, -4.0], "d").expect("a loss");
    assert_eq!((loss.loss, loss.gradient), (3.0, vec![-1.0, -0.5]));
    assert_eq!(loss.metrics, [("custom/nll:sum".to_string(), 3.0)]);
}

#[test]
fn the_error_for_an_invalid_graph_names_the_node() {
    let with = |node: &str, output: &str| {
        let text = format!(
            r#"[{{"op":"placeholder","name":"logprobs","target":"logprobs"}},{node},
            {{"op":"output","name":"output","target":"output","args":[{output}]}}]"#
        );
        error_text(read(&text))
    };
    let valid = r#"{"tuple":[{"ref":"y"},{"dict":{}}]}"#;
    let sum = r#"{"op":"call_method","name":"y","target":"sum","args":[{"ref":"logprobs"}]}"#;
    for (node, output, problem) in [
        (
            r#"{"op":"call_function","name":"y","target":"os.system","args":["ls"]}"#,
            valid,
            "graph.nodes[1]: y (os.system)",
        ),
        (
            r#"{"op":"call_method","name":"y","target":"backward","args":[{"ref":"logprobs"}]}"#,
            valid,
            "not supported",
        ),
        (r#"{"op":"get_attr","name":"y","target":"w"}"#, valid, "captures a tensor"),
        (r#"{"op":"call_module","name":"y","target":"linear"}"#, valid, "calls a module"),
        (r#"{"op":"placeholder","name":"y","target":"other"}"#, valid, "not an input"),
        (
            r#"{"op":"call_method","name":"y","target":"sum","args":[{"ref":"z"}]}"#,
            valid,
            "\"z\" is not the name",
        ),
        (
            r#"{"op":"call_method","name":"logprobs","target":"sum","args":[{"ref":"logprobs"}]}"#,
            valid,
            "used twice",
        ),
        (
            r#"{"op":"call_method","name":"y","target":"sum","args":[{"ref":"logprobs"},0,true,3]}"#,
            valid,
            "more arguments",
        ),
        (
            r#"{"op":"call_function","name":"y","target":"torch.add","args":[{"ref":"logprobs"},1],"kwargs":{"alpha":2}}"#,
            valid,
            "\"alpha\"",
        ),
        (
            r#"{"op":"call_method","name":"y","target":"detach","args":[{"ref":"logprobs"}]}"#,
            valid,
            "does not depend",
        ),
        (
            r#"{"op":"call_method","name":"y","target":"pow","args":[{"ref":"logprobs"},{"code":"x"}]}"#,
            valid,
            "tensors and numbers",
        ),
        (sum, r#"{"ref":"y"}"#, "the loss and its metrics"),
        (sum, r#"{"tuple":[{"ref":"y"},{"dict":{"nll":{"ref":"y"}}}]}"#, "metric \"nll\""),
        (sum, r#"{"tuple":[{"ref":"y"},{"dict":{"custom/a:sum":1.5}}]}"#, "must be a tensor"),
    ] {
        let refused = with(node, output);
        assert!(refused.contains(problem), "{refused}");
    }
    assert!(error_text(read("[]")).contains("no output"));
}

#[test]
fn slices_and_indices_mean_the_same_as_in_python() {
    use call::Index::{At, Ellipsis, NewDim, Range};
    let all = Range { start: None, stop: None, step: 1 };
    let range = |start, stop, step| Range { start, stop, step };
    let at = |shape: &[usize], indices: &[call::Index]| forward::positions(shape, indices);
    assert_eq!(at(&[4], &[At(-1)]), Ok((vec![3], vec![])));
    assert_eq!(at(&[5], &[range(Some(1), None, 2)]), Ok((vec![1, 3], vec![2])));
    assert_eq!(at(&[5], &[range(Some(-2), Some(99), 1)]), Ok((vec![3, 4], vec![2])));
    assert_eq!(at(&[5], &[range(Some(3), Some(1), 1)]), Ok((vec![], vec![0])));
    assert_eq!(at(&[2, 3], &[all, At(1)]), Ok((vec![1, 4], vec![2])));
    assert_eq!(at(&[2, 3], &[Ellipsis, At(0)]), Ok((vec![0, 3], vec![2])));
    assert_eq!(at(&[2, 3], &[At(1)]), Ok((vec![3, 4, 5], vec![3])));
    assert_eq!(at(&[2], &[all, NewDim]), Ok((vec![0, 1], vec![2, 1])));
    assert!(at(&[2], &[At(2)]).is_err());
    assert!(at(&[2], &[At(0), At(0)]).is_err());
}

#[derive(serde::Deserialize)]
struct Recorded {
    name: String,
    inputs: Vec<RecordedInput>,
    graph: RecordedGraph,
    values: std::collections::BTreeMap<String, RecordedValues>,
    loss: f64,
    gradient: Vec<f64>,
    metrics: std::collections::BTreeMap<String, f64>,
}

#[derive(serde::Deserialize)]
struct RecordedInput {
    name: String,
    rank: usize,
}

#[derive(serde::Deserialize)]
struct RecordedGraph {
    nodes: Vec<Node>,
}

#[derive(serde::Deserialize)]
struct RecordedValues {
    shape: Vec<usize>,
    data: Vec<f32>,
}

/// `loss_graphs.jsonl` has losses that the official Python SDK 0.38.0 traced with PyTorch 2.15, and the values,
/// gradients and metrics that PyTorch computed for them.
#[test]
fn losses_that_the_official_sdk_traced_are_computed_as_torch_computes_them() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/wire/loss_graphs.jsonl");
    let text = std::fs::read_to_string(path).expect("the recordings");
    let close = |a: f64, b: f64| (a - b).abs() < 1e-5 * (1.0 + b.abs());
    for line in text.lines() {
        let recorded: Recorded = serde_json::from_str(line).expect("a recording");
        let name = &recorded.name;
        let ranks: Vec<(&str, usize)> =
            recorded.inputs.iter().map(|input| (input.name.as_str(), input.rank)).collect();
        let graph = LossGraph::read(name, &ranks, recorded.graph.nodes).expect(name);
        let logprobs = &recorded.values["logprobs"];
        let targets = TensorData::from(vec![0i64; logprobs.data.len()]);
        let mut datum =
            Datum::default().with("target_tokens", targets.with_shape(&logprobs.shape[..]).expect(name));
        for (input, values) in &recorded.values {
            let tensor = TensorData::from(&values.data[..]);
            datum = datum.with(input, tensor.with_shape(&values.shape[..]).expect(name));
        }
        let computed = graph.evaluate_datum(&datum, &logprobs.data, "d").expect(name);
        assert!(close(computed.loss, recorded.loss), "{name}: {}, expected {}", computed.loss, recorded.loss);
        for (i, (a, b)) in computed.gradient.iter().zip(&recorded.gradient).enumerate() {
            assert!(close(*a, *b), "{name}: logprobs[{i}]: {a}, expected {b}");
        }
        assert_eq!(computed.gradient.len(), recorded.gradient.len(), "{name}");
        assert_eq!(computed.metrics.len(), recorded.metrics.len(), "{name}");
        for (metric, value) in &computed.metrics {
            assert!(close(*value, recorded.metrics[metric]), "{name}: {metric}: {value}");
        }
    }
    assert_eq!(text.lines().count(), 9);
}

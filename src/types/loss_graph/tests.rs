use super::*;

fn refusal(graph: Result<LossGraph>) -> String {
    let error = graph.expect_err("a refusal");
    assert!(error.is_user_error());
    error.to_string()
}

const ONE: &[(&str, usize)] = &[("logprobs", 1)];

#[test]
fn a_graph_is_written_as_torch_fx_records_it() {
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
fn names_stay_apart_from_inputs_that_look_like_them() {
    let inputs = [("logprobs", 1), ("mul_2", 1)];
    let graph = LossGraph::trace("x", &inputs, |it| (it.logprobs() * it.input("mul_2")).sum());
    let graph = graph.expect("a graph");
    let mut names: Vec<&str> = graph.nodes().iter().map(|it| it.name.as_str()).collect();
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), graph.nodes().len());
}

#[test]
fn a_number_may_stand_on_either_side() {
    let graph = LossGraph::trace("x", ONE, |it| (2.0 - it.logprobs() / 3.0).sum()).expect("a graph");
    let args: Vec<String> =
        graph.nodes()[1..3].iter().map(|it| serde_json::to_string(&it.args).expect("JSON")).collect();
    assert_eq!(args, [r#"[{"ref":"logprobs"},3.0]"#, r#"[2.0,{"ref":"truediv_1"}]"#]);
}

#[test]
fn inputs_must_be_allowed_by_the_protocol() {
    let with = |inputs: &[(&str, usize)]| refusal(LossGraph::trace("x", inputs, |it| it.logprobs().sum()));
    let many: Vec<String> = (0..16).map(|it| format!("i{it}")).collect();
    let many: Vec<(&str, usize)> =
        ONE.iter().copied().chain(many.iter().map(|it| (it.as_str(), 1))).collect();
    for (inputs, problem) in [
        (&[][..], "must be logprobs"),
        (&[("weights", 1)], "must be logprobs"),
        (&[("logprobs", 0)], "cannot have 0 dimensions"),
        (&[("logprobs", 3)], "cannot have 3 dimensions"),
        (&[("logprobs", 1), ("Weights", 1)], "input_ranks[1]"),
        (&[("logprobs", 1), ("0a", 1)], "input_ranks[1]"),
        (&[("logprobs", 1), ("a", 3)], "only 0, 1 or 2"),
        (&[("logprobs", 1), ("a", 1), ("a", 1)], "input_ranks[2]: a stands twice"),
        (&many, "more than 16"),
    ] {
        let refused = with(inputs);
        assert!(refused.contains(problem), "{refused}");
    }
    assert!(refusal(LossGraph::trace("", ONE, |it| it.logprobs().sum())).contains("name"));
}

#[test]
fn what_can_never_be_computed_is_refused_when_it_is_traced() {
    type Loss = for<'g> fn(&'g LossTrace) -> LossTensor<'g>;
    let cases: &[(Loss, &str)] = &[
        (|it| it.logprobs(), "loss: has 1 dimensions"),
        (|it| it.logprobs().detach().sum(), "does not depend on logprobs"),
        (|it| it.logprobs().gt(0.0).float().sum(), "does not depend on logprobs"),
        (|it| it.input("weights").sum() + it.logprobs().sum(), "does not name weights"),
        (|it| it.logprobs().sum_dim(1).sum(), "has no dimension 1"),
        (|it| it.logprobs().sum().logsumexp(-1), "logsumexp: has no dimension -1"),
        (|it| it.logprobs().column(0).sum(), "needs 2 dimensions"),
        (|it| it.logprobs().unsqueeze(2).sum(), "cannot add dimension 2"),
        (|it| it.logprobs().clamp(None, None).sum(), "needs min or max"),
    ];
    for (loss, problem) in cases {
        let refused = refusal(LossGraph::trace("x", ONE, loss));
        assert!(refused.contains(problem), "{refused}");
    }
}

#[test]
fn metrics_must_have_names_that_servers_take_and_be_numbers() {
    let with = |name: &str| {
        LossGraph::trace("x", ONE, |it| {
            let loss = it.logprobs().sum();
            it.metric(name, loss);
            loss
        })
    };
    for fine in ["custom/a:sum", "custom/a-b.c/d_9:mean"] {
        assert!(with(fine).is_ok(), "{fine}");
    }
    let long = format!("custom/{}:sum", "a".repeat(65));
    for wrong in ["a:sum", "custom/:sum", "custom/a", "custom/a:max", "custom/A:sum", "custom/a b:sum", &long]
    {
        assert!(refusal(with(wrong)).contains("must be custom/"), "{wrong}");
    }
    let vector = LossGraph::trace("x", ONE, |it| {
        it.metric("custom/a:sum", it.logprobs());
        it.logprobs().sum()
    });
    assert!(refusal(vector).contains("one number"));
}

#[test]
fn the_tensors_of_two_traces_do_not_mix() {
    let other = LossTrace::new(&[LossInput { name: "logprobs".into(), rank: 1 }]);
    let mixed = LossGraph::trace("x", ONE, |it| {
        let (a, b) = (it.logprobs().parts(), other.logprobs().exp().parts());
        let _lost = LossTensor::new(a.0, a.1) + LossTensor::new(b.0, b.1);
        it.logprobs().sum()
    });
    assert!(refusal(mixed).contains("two traces"));
}

#[test]
fn data_must_have_the_inputs_with_their_dimensions() {
    let inputs = [("logprobs", 1), ("beta", 0)];
    let graph = LossGraph::trace("dro", &inputs, |it| (it.logprobs() * it.input("beta")).sum());
    let graph = graph.expect("a graph");
    let mut datum = Datum::cross_entropy(&[1, 2], &[3, 4]);
    let missing = graph.check(&datum, "data[0]").expect_err("a refusal").to_string();
    assert!(missing.contains(r#"data[0].loss_fn_inputs["beta"]"#), "{missing}");
    datum.loss_fn_inputs.insert("beta".into(), vec![0.5f32].into());
    let flat = graph.check(&datum, "data[0]").expect_err("a refusal").to_string();
    assert!(flat.contains("has 1 dimensions") && flat.contains("beta with 0"), "{flat}");
    let number = super::super::TensorData { shape: Some(Vec::new()), ..vec![0.5f32].into() };
    datum.loss_fn_inputs.insert("beta".into(), number);
    graph.check(&datum, "data[0]").expect("a datum that fits");
}

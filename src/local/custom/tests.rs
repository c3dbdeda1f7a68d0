//! Graphs written by hand, against the same functions in plain arithmetic and against differences.

use serde_json::json;

use super::*;

fn node(op: &str, name: &str, target: &str, args: Json, kwargs: Json) -> Json {
    json!({"op": op, "name": name, "target": target, "args": args, "kwargs": kwargs})
}

fn re(name: &str) -> Json {
    json!({ "ref": name })
}

/// A graph of these inputs, with these nodes between them and the output.
fn graph(inputs: &[(&str, usize)], middle: Vec<Json>, loss: &str, metrics: Json) -> (Vec<Json>, Json) {
    let named = inputs.iter().map(|(name, rank)| json!({"name": name, "rank": rank})).collect();
    let mut nodes: Vec<Json> =
        inputs.iter().map(|it| node("placeholder", it.0, it.0, json!([]), json!({}))).collect();
    nodes.extend(middle);
    let output = json!([{"tuple": [re(loss), {"dict": metrics}]}]);
    nodes.push(node("output", "output", "output", output, json!({})));
    (named, json!({"format": 1, "nodes": nodes}))
}

fn read(made: &(Vec<Json>, Json)) -> Result<Program, String> {
    Program::read("mine", &made.0, &made.1)
}

fn vector(data: &[f64]) -> Tensor {
    Tensor::new(Kind::Float, vec![data.len()], data.to_vec())
}

/// `f(args)` under a name.
fn call(name: &str, target: &str, args: Json) -> Json {
    let op = if target.contains('.') || target == "getattr" { "call_function" } else { "call_method" };
    node(op, name, target, args, json!({}))
}

fn with(name: &str, target: &str, args: Json, kwargs: Json) -> Json {
    Json::Object(
        call(name, target, args)
            .as_object()
            .expect("an object")
            .clone()
            .into_iter()
            .map(|(key, it)| if key == "kwargs" { (key, kwargs.clone()) } else { (key, it) })
            .collect(),
    )
}

/// Compares the derivatives of a loss with differences of it.
#[track_caller]
fn assert_slopes(program: &Program, inputs: &[Tensor]) {
    let whole = program.evaluate(inputs.to_vec(), true).expect("an evaluation");
    for i in 0..inputs[0].data.len() {
        let moved = |by: f64| {
            let mut inputs = inputs.to_vec();
            inputs[0].data[i] += by;
            program.evaluate(inputs, false).expect("an evaluation").loss
        };
        let h = 1e-6;
        let expected = (moved(h) - moved(-h)) / (2.0 * h);
        let slope = whole.slopes[i];
        assert!((slope - expected).abs() < 1e-6 * (1.0 + expected.abs()), "{i}: {slope} {expected}");
    }
}

#[test]
fn the_illustration_of_the_protocol_is_the_cross_entropy() {
    let nodes = json!([
        {"op":"placeholder","name":"logprobs","target":"logprobs","args":[],"kwargs":{}},
        {"op":"placeholder","name":"weights","target":"weights","args":[],"kwargs":{}},
        {"op":"call_function","name":"mul","target":"operator.mul",
         "args":[{"ref":"logprobs"},{"ref":"weights"}],"kwargs":{}},
        {"op":"call_method","name":"sum_1","target":"sum","args":[{"ref":"mul"}],"kwargs":{}},
        {"op":"call_function","name":"neg","target":"operator.neg","args":[{"ref":"sum_1"}],"kwargs":{}},
        {"op":"output","name":"output","target":"output",
         "args":[{"tuple":[{"ref":"neg"},{"dict":{"custom/nll:sum":{"ref":"neg"}}}]}],"kwargs":{}}
    ]);
    let inputs = [json!({"name":"logprobs","rank":1}), json!({"name":"weights","rank":1})];
    let program = Program::read("nll", &inputs, &json!({"format": 1, "nodes": nodes})).expect("a program");
    let found = program.evaluate(vec![vector(&[-1.0, -2.0, -0.5]), vector(&[1.0, 0.0, 2.0])], true);
    let found = found.expect("an evaluation");
    assert_eq!((found.loss, &found.slopes[..]), (2.0, &[-1.0, 0.0, -2.0][..]));
    assert_eq!(found.metrics, BTreeMap::from([("custom/nll:sum".to_string(), 2.0)]));
}

#[test]
fn a_clipped_policy_loss_has_the_value_and_the_slopes_of_its_formula() {
    let inputs = [("logprobs", 1), ("q", 1), ("advantages", 1)];
    let middle = vec![
        call("gap", "operator.sub", json!([re("logprobs"), re("q")])),
        call("ratio", "torch.exp", json!([re("gap")])),
        with("clipped", "torch.clamp", json!([re("ratio")]), json!({"min": 0.8, "max": 1.2})),
        call("free", "operator.mul", json!([re("ratio"), re("advantages")])),
        call("held", "operator.mul", json!([re("clipped"), re("advantages")])),
        call("least", "torch.minimum", json!([re("free"), re("held")])),
        call("total", "sum", json!([re("least")])),
        call("loss", "operator.neg", json!([re("total")])),
        call("far", "operator.gt", json!([re("ratio"), 1.2])),
        call("count", "float", json!([re("far")])),
        call("share", "mean", json!([re("count")])),
    ];
    let made = graph(&inputs, middle, "loss", json!({"custom/clipped:mean": re("share")}));
    let program = read(&made).expect("a program");
    let (lp, q, a) = ([-1.0, -0.3, -2.0, -0.7], [-1.1, -1.0, -1.0, -0.7], [1.0, 1.0, -0.5, 2.0]);
    let given = [vector(&lp), vector(&q), vector(&a)];
    let found = program.evaluate(given.to_vec(), true).expect("an evaluation");
    let token = |i: usize| {
        let r = f64::exp(lp[i] - q[i]);
        -(r * a[i]).min(r.clamp(0.8, 1.2) * a[i])
    };
    assert!((found.loss - (0..4).map(token).sum::<f64>()).abs() < 1e-12);
    assert_eq!(found.metrics["custom/clipped:mean"], 0.25);
    assert_eq!(found.slopes[1], 0.0, "clipped");
    assert_slopes(&program, &given);
}

/// A loss that is the sum of one function of the log-probabilities, weighed so that no slopes are alike.
fn weighed(rank: usize, middle: Vec<Json>, last: &str) -> Result<Program, String> {
    let mut nodes = middle;
    nodes.push(call("f64_", "double", json!([re(last)])));
    nodes.push(call("curved", "torch.square", json!([re("f64_")])));
    nodes.push(call("both", "torch.add", json!([re("f64_"), re("curved")])));
    nodes.push(call("loss", "torch.sum", json!([re("both")])));
    read(&graph(&[("logprobs", rank), ("w", rank)], nodes, "loss", json!({})))
}

#[test]
fn every_function_has_the_slopes_of_its_differences() {
    let x = re("logprobs");
    let one = |target: &str| call("y", target, json!([re("logprobs")]));
    let along = |target: &str, dim: i64| with("y", target, json!([re("logprobs")]), json!({"dim": dim}));
    let vectors = vec![
        one("torch.exp"),
        one("torch.expm1"),
        one("torch.abs"),
        one("torch.square"),
        one("torch.neg"),
        one("torch.sigmoid"),
        one("torch.tanh"),
        one("torch.relu"),
        one("torch.nn.functional.relu"),
        one("torch.nn.functional.logsigmoid"),
        one("torch._C._nn.softplus"),
        one("torch.sin"),
        one("cos"),
        one("mean"),
        one("sum"),
        one("max"),
        one("torch.min"),
        one("amax"),
        one("std"),
        one("var"),
        one("t"),
        along("cumsum", 0),
        along("torch.softmax", -1),
        along("torch.log_softmax", 0),
        along("logsumexp", 0),
        along("unsqueeze", 1),
        along("argmax", 0),
        call("y", "operator.pow", json!([x, 2])),
        call("y", "torch.pow", json!([2.0, x])),
        call("y", "operator.truediv", json!([re("w"), x])),
        call("y", "torch.div", json!([x, re("w")])),
        call("y", "operator.sub", json!([1, x])),
        call("y", "rsub", json!([x, re("w")])),
        with("y", "add", json!([re("w"), x]), json!({"alpha": 3})),
        call("y", "torch.maximum", json!([x, re("w")])),
        call("y", "torch.min", json!([x, re("w")])),
        with("y", "clamp", json!([x]), json!({"min": -1.0})),
        call("y", "clamp_max", json!([x, -0.9])),
        call("y", "clamp", json!([x, re("w")])),
        call("y", "operator.getitem", json!([x, {"slice": [1, null, null]}])),
        call("y", "operator.getitem", json!([x, -1])),
        call("y", "operator.getitem", json!([x, {"tuple": [null, {"slice": [null, null, 2]}]}])),
        call("y", "operator.getitem", json!([x, {"ellipsis": true}])),
        call("y", "torch.cat", json!([[x, re("w"), x]])),
        call("y", "torch.stack", json!([[x, re("w")], 1])),
        call("y", "flip", json!([x, 0])),
        call("y", "expand", json!([x, 3, -1])),
        call("y", "reshape", json!([x, -1, 1])),
        call("y", "view", json!([x, {"tuple": [1, -1]}])),
        call("y", "masked_fill", json!([x, true, 3.0])),
    ];
    let given = [vector(&[-0.4, -1.7, -0.9001, -2.3]), vector(&[0.3, -1.2, 0.7, -2.0])];
    for y in vectors {
        let text = y.to_string();
        let program = weighed(1, vec![y], "y").unwrap_or_else(|it| panic!("{text}: {it}"));
        assert_slopes(&program, &given);
    }
    let positive = [vector(&[0.4, 1.7, 0.9, 2.3]), vector(&[0.3, 1.2, 0.7, 2.0])];
    for y in [
        one("torch.log"),
        one("log1p"),
        one("torch.log2"),
        one("log10"),
        one("torch.sqrt"),
        one("rsqrt"),
        one("reciprocal"),
        call("y", "torch.pow", json!([x, re("w")])),
        call("y", "operator.pow", json!([x, -0.5])),
    ] {
        assert_slopes(&weighed(1, vec![y], "y").expect("a program"), &positive);
    }
}

#[test]
fn every_function_of_a_matrix_has_the_slopes_of_its_differences() {
    let x = re("logprobs");
    let along = |target: &str, dim: i64, keep: bool| {
        with("y", target, json!([re("logprobs")]), json!({"dim": dim, "keepdim": keep}))
    };
    let mut all = vec![
        call("y", "torch.transpose", json!([x, 0, 1])),
        call("y", "operator.getitem", json!([x, {"tuple": [{"slice": [null, null, null]}, 0]}])),
        call("y", "operator.getitem", json!([x, 1])),
        call(
            "y",
            "operator.getitem",
            json!([x, {"tuple": [{"ellipsis": true}, {"slice": [-2, null, null]}]}]),
        ),
        call("y", "torch.cat", json!([[x, re("w")], 1])),
        call("y", "torch.cat", json!([[x, re("w")]])),
        call("y", "flip", json!([x, [0, 1]])),
        call("y", "flatten", json!([x])),
        call("y", "cumsum", json!([x, 0])),
        call("y", "cumsum", json!([x, 1])),
        call("y", "softmax", json!([x, 0])),
        call("y", "torch.log_softmax", json!([x, -1])),
        call("y", "sum", json!([x, [0, 1]])),
    ];
    for target in ["sum", "mean", "logsumexp", "amax", "amin", "var", "std"] {
        for (dim, keep) in [(0, false), (1, false), (-1, true), (0, true)] {
            all.push(along(target, dim, keep));
        }
    }
    let matrix = |data: &[f64]| Tensor::new(Kind::Float, vec![2, 3], data.to_vec());
    let given = [matrix(&[-0.4, -1.7, -0.9, -2.3, -0.2, -1.1]), matrix(&[0.3, -1.2, 0.7, -2.0, 0.1, 0.9])];
    for y in all {
        let text = y.to_string();
        let program = weighed(2, vec![y], "y").unwrap_or_else(|it| panic!("{text}: {it}"));
        assert_slopes(&program, &given);
    }
    // The largest along a dimension and where it stands.
    for part in [json!([re("both_"), 0]), json!([re("both_"), "values"])] {
        let target = if part[1].is_string() { "getattr" } else { "operator.getitem" };
        let middle = vec![call("both_", "torch.max", json!([x, 1])), call("y", target, part)];
        assert_slopes(&weighed(2, middle, "y").expect("a program"), &given);
    }
    let middle = vec![
        call("both_", "torch.max", json!([x, 1, true])),
        call("at", "operator.getitem", json!([re("both_"), 1])),
        call("y", "torch.gather", json!([x, 1, re("at")])),
    ];
    assert_slopes(&weighed(2, middle, "y").expect("a program"), &given);
}

#[test]
fn numbers_are_spread_over_larger_shapes_and_their_slopes_gathered() {
    // All pairs of a vector: a column against a row.
    let middle = vec![
        call("column", "unsqueeze", json!([re("logprobs"), 1])),
        call("pairs", "operator.sub", json!([re("column"), re("logprobs")])),
        call("near", "operator.lt", json!([re("pairs"), 0.5])),
        call("far", "operator.invert", json!([re("near")])),
        call("some", "operator.or_", json!([re("near"), re("far")])),
        call("y", "torch.where", json!([re("some"), re("pairs"), 0.0])),
    ];
    let program = weighed(1, middle, "y").expect("a program");
    assert_slopes(&program, &[vector(&[-0.4, -1.7, -0.9]), vector(&[0.0; 3])]);
}

#[test]
fn what_is_detached_or_only_counted_holds_still() {
    let middle = vec![
        call("held", "detach", json!([re("logprobs")])),
        call("ratio", "operator.sub", json!([re("logprobs"), re("held")])),
        call("exp", "torch.exp", json!([re("ratio")])),
        call("sizes", "size", json!([re("logprobs")])),
        call("n", "operator.getitem", json!([re("sizes"), 0])),
        call("sum", "sum", json!([re("exp")])),
        call("loss", "operator.truediv", json!([re("sum"), re("n")])),
    ];
    let program = read(&graph(&[("logprobs", 1)], middle, "loss", json!({}))).expect("a program");
    let found = program.evaluate(vec![vector(&[-1.0, -2.0, -3.0, -4.0])], true).expect("an evaluation");
    assert_eq!((found.loss, &found.slopes[..]), (1.0, &[0.25; 4][..]));
}

#[test]
fn a_slope_that_nothing_arrives_at_is_zero_even_where_it_would_be_infinite() {
    let middle = vec![
        call("root", "torch.sqrt", json!([re("logprobs")])),
        call("good", "operator.gt", json!([re("logprobs"), 0.0])),
        call("y", "torch.where", json!([re("good"), re("root"), 0.0])),
        call("loss", "sum", json!([re("y")])),
    ];
    let program = read(&graph(&[("logprobs", 1)], middle, "loss", json!({}))).expect("a program");
    let found = program.evaluate(vec![vector(&[0.0, 4.0])], true).expect("an evaluation");
    assert_eq!(found.slopes, [0.0, 0.25]);
}

#[test]
fn what_is_wrong_with_a_graph_is_said_when_it_is_made() {
    let lp = [("logprobs", 1)];
    let sum = || call("loss", "sum", json!([re("logprobs")]));
    let of = |middle: Vec<Json>| graph(&lp, middle, "loss", json!({}));
    let input = |name: &str, rank: Json| json!({"name": name, "rank": rank});
    let mut versioned = of(vec![sum()]);
    versioned.1["format"] = json!(2);
    let mut open = of(vec![sum()]);
    open.1["nodes"].as_array_mut().expect("a list").pop();
    let mut followed = of(vec![sum()]);
    followed.1["nodes"].as_array_mut().expect("a list").push(call("late", "sum", json!([re("loss")])));
    let mut unnamed = of(vec![sum()]);
    unnamed.0 = vec![input("x", json!(1))];
    let mut scalar = of(vec![sum()]);
    scalar.0 = vec![input("logprobs", json!(0))];
    let mut many = of(vec![sum()]);
    many.0 = (0..17).map(|i| input(if i == 0 { "logprobs" } else { "x" }, json!(1))).collect();
    let mut odd = of(vec![sum()]);
    odd.0.push(input("Bad-Name", json!(1)));
    let mut twice = of(vec![sum()]);
    twice.0.extend([input("x", json!(1)), input("x", json!(1))]);
    let mut missing = of(vec![sum()]);
    missing.0.push(input("x", json!(1)));
    let large = (0..5000).map(|i| call(&format!("n{i}"), "sum", json!([re("logprobs")]))).collect();
    let mut single = of(vec![sum()]);
    single.1["nodes"][2]["args"] = json!([re("loss")]);
    let table = [
        (versioned, "graph.format: 2 is not known"),
        (open, "there is no output"),
        (followed, "nothing may follow the output"),
        (unnamed, "logprobs must be the first input"),
        (scalar, "inputs[0].rank: 0 must be in 1..=2"),
        (many, "must be 1 to 16, are 17"),
        (odd, "inputs[1].name: \"Bad-Name\" must begin with"),
        (twice, "\"x\" is there twice"),
        (missing, "the input x has no placeholder"),
        (single, "the output must be the loss and a dict"),
        (of(large), "nodes are too many"),
        (of(vec![call("loss", "os.system", json!(["ls"]))]), "the function \"os.system\" is not offered"),
        (of(vec![call("loss", "torch.load", json!(["x"]))]), "the function \"torch.load\" is not offered"),
        (of(vec![call("loss", "item", json!([re("logprobs")]))]), "item() leaves the graph"),
        (of(vec![call("loss", "backward", json!([re("logprobs")]))]), "backward is the server's business"),
        (of(vec![call("loss", "add_", json!([re("logprobs"), 1]))]), "the method \"add_\" is not offered"),
        (of(vec![node("get_attr", "loss", "w", json!([]), json!({}))]), "may not bring tensors of its own"),
        (of(vec![node("call_module", "loss", "m", json!([]), json!({}))]), "modules are not offered"),
        (of(vec![node("loop", "loss", "m", json!([]), json!({}))]), "the op \"loop\" is not known"),
        (of(vec![call("loss", "sum", json!([re("later")]))]), "\"later\" is used before it is there"),
        (of(vec![sum(), sum()]), "its name must be there and be its own"),
        (of(vec![with("loss", "sum", json!([re("logprobs")]), json!({"axis": 0}))]), "the argument axis"),
        (of(vec![call("loss", "sum", json!([re("logprobs"), 2]))]), "there is no dimension 2"),
        (of(vec![call("loss", "torch.exp", json!([re("logprobs")]))]), "the loss must be a scalar"),
        (
            of(vec![
                call("a", "unsqueeze", json!([re("logprobs"), 0])),
                call("loss", "unsqueeze", json!([re("a"), 0])),
            ]),
            "node loss (unsqueeze): the result has 3 dimensions",
        ),
        (
            graph(&lp, vec![sum()], "loss", json!({"loss:sum": re("loss")})),
            "must be called custom/<name>:sum",
        ),
        (
            graph(&lp, vec![sum()], "loss", json!({"custom/A:sum": re("loss")})),
            "must be called custom/<name>",
        ),
        (graph(&lp, vec![sum()], "loss", json!({"custom/a:sum": 1.0})), "must be a tensor"),
    ];
    for (made, expected) in table {
        let error = read(&made).expect_err(expected);
        assert!(error.contains(expected), "{error}\n{expected}");
    }
}

#[test]
fn what_hangs_on_the_data_is_said_of_the_datum() {
    let middle = vec![
        call("tenth", "operator.getitem", json!([re("logprobs"), 9])),
        call("log", "torch.log", json!([re("tenth")])),
        call("loss", "torch.sqrt", json!([re("log")])),
    ];
    let program = read(&graph(&[("logprobs", 1)], middle, "loss", json!({}))).expect("a program");
    let error = |data: &[f64]| program.evaluate(vec![vector(data)], true).expect_err("an error");
    let text = error(&[0.0; 3]);
    assert!(text.contains("\"mine\": node tenth (operator.getitem): the index 9 is outside"), "{text}");
    assert!(error(&[-1.0; 10]).contains("is NaN"));
    assert!(error(&[1.0; 10]).contains("its derivative by logprobs[9] is inf"));
}

#[test]
fn a_loss_over_all_pairs_of_a_long_datum_is_refused_before_it_fills_the_memory() {
    let mut middle = vec![
        call("column", "unsqueeze", json!([re("logprobs"), 1])),
        call("n0", "operator.sub", json!([re("column"), re("logprobs")])),
    ];
    middle.extend((0..10).map(|i| call(&format!("n{}", i + 1), "torch.tanh", json!([re(&format!("n{i}"))]))));
    middle.push(call("loss", "sum", json!([re("n10")])));
    let program = read(&graph(&[("logprobs", 1)], middle, "loss", json!({}))).expect("a program");
    let error = program.evaluate(vec![vector(&[0.0; 2048])], true).expect_err("an error");
    assert!(error.contains("numbers for one datum"), "{error}");
    assert!(program.evaluate(vec![vector(&[0.0; 100])], true).is_ok());
}

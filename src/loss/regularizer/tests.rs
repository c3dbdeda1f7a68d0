use super::*;
use crate::loss::{CustomLoss, LossGraph};
use crate::types::{Datum, ModelInput, TensorData};

/// The loss inputs of all tests, of one dimension.
const INPUTS: [(&str, usize); 3] = [("logprobs", 1), ("weights", 1), ("reference", 1)];
const LOGPROBS: [f32; 4] = [-0.5, -1.25, -2.0, -0.75];
const REFERENCE: [f32; 4] = [-0.75, -1.0, -1.5, -2.5];

/// One datum with 4 targets in one dimension or, with `n_candidates`, in two.
fn datum(n_candidates: Option<usize>) -> Datum {
    let n = 4 / n_candidates.unwrap_or(1);
    let shaped = |tensor: TensorData| match n_candidates {
        Some(k) => tensor.with_shape([n, k]).unwrap(),
        None => tensor,
    };
    let weights: Vec<f32> = (0..n).map(|i| if i == 1 { 0.0 } else { 1.0 }).collect();
    Datum::new(ModelInput::from_ints(vec![1; n]))
        .with("target_tokens", shaped(TensorData::from(vec![1i64, 2, 3, 4])))
        .with("weights", weights)
        .with("reference", shaped(TensorData::from(&REFERENCE[..])))
}

fn evaluate(terms: &Regularizers, n_candidates: Option<usize>, logprobs: &[f32]) -> CustomLoss {
    let rank = if n_candidates.is_some() { 2 } else { 1 };
    let inputs = [("logprobs", rank), ("weights", 1), ("reference", rank)];
    let graph = LossGraph::trace("x", &inputs, |trace| terms.add_to(trace, -trace.logprobs().sum())).unwrap();
    graph.evaluate(&[datum(n_candidates)], &[logprobs]).unwrap()
}

fn kl(direction: KlDirection) -> Regularizer {
    Regularizer::Kl { reference: "reference".into(), direction }
}

fn consistency(distance: Distance) -> Regularizer {
    Regularizer::Consistency { pair: "reference".into(), distance }
}

fn entropy(goal: EntropyGoal, normalize: bool, temperature: f64) -> Regularizer {
    Regularizer::Entropy { goal, normalize, temperature }
}

fn one_dimensional() -> Vec<Regularizer> {
    let (logprobs, probs) = (Measured::Logprobs, Measured::Probs);
    vec![
        Regularizer::L1 { of: logprobs },
        Regularizer::L1 { of: probs },
        Regularizer::L2 { of: logprobs, center: Center::Zero, clip: None },
        Regularizer::L2 { of: logprobs, center: Center::Mean, clip: Some(0.6) },
        Regularizer::L2 { of: probs, center: Center::Value(0.3), clip: None },
        Regularizer::ElasticNet { of: logprobs, l1_ratio: 0.3 },
        entropy(EntropyGoal::Minimize, false, 1.0),
        entropy(EntropyGoal::Maximize, false, 1.0),
        kl(KlDirection::Forward),
        kl(KlDirection::Reverse),
        kl(KlDirection::Symmetric),
        consistency(Distance::Squared),
        consistency(Distance::Absolute),
        consistency(Distance::Cosine),
        consistency(Distance::Kl),
    ]
}

/// The value of a term, and what it adds to the gradient of the base loss, which is -1 everywhere.
fn value_and_gradient(
    regularizer: &Regularizer,
    reduction: TermReduction,
    mask: Option<&str>,
    n_candidates: Option<usize>,
    logprobs: &[f32],
) -> (f64, Vec<f64>) {
    let terms = Regularizers::new().with_reduction("term", 1.0, reduction, regularizer.clone()).unwrap();
    let terms = mask.map_or(terms.clone(), |mask| terms.masked_by(mask));
    let loss = evaluate(&terms, n_candidates, logprobs);
    let gradient = loss.gradients[0].iter().map(|gradient| f64::from(*gradient) + 1.0).collect();
    (loss.metrics["custom/term:sum"], gradient)
}

#[test]
fn every_gradient_equals_the_finite_difference_of_the_value() {
    let two_dimensional =
        [entropy(EntropyGoal::Maximize, true, 1.0), entropy(EntropyGoal::Minimize, true, 0.7)];
    let cases = one_dimensional().into_iter().map(|regularizer| (regularizer, None));
    let in_rows = one_dimensional().into_iter().chain(two_dimensional);
    let cases: Vec<_> = cases.chain(in_rows.map(|regularizer| (regularizer, Some(2)))).collect();
    for (regularizer, n_candidates) in cases {
        for reduction in [TermReduction::Mean, TermReduction::Sum] {
            for mask in [None, Some("weights")] {
                let value = |logprobs: &[f32]| {
                    value_and_gradient(&regularizer, reduction, mask, n_candidates, logprobs)
                };
                let (_, gradient) = value(&LOGPROBS);
                for i in 0..LOGPROBS.len() {
                    // 2⁻⁷ is exact in f32.
                    let step = 0.007_812_5;
                    let (mut up, mut down) = (LOGPROBS, LOGPROBS);
                    up[i] += step;
                    down[i] -= step;
                    let difference = (value(&up).0 - value(&down).0) / (2.0 * f64::from(step));
                    let error = (difference - gradient[i]).abs();
                    assert!(
                        error < 2e-3,
                        "{regularizer:?} {reduction:?} {mask:?} {n_candidates:?} [{i}]: {difference} {gradient:?}"
                    );
                }
            }
        }
    }
}

#[test]
fn values_are_those_of_the_formulas() {
    let (a, b) = (LOGPROBS.map(f64::from), REFERENCE.map(f64::from));
    let mean = |value: &dyn Fn(usize) -> f64| (0..4).map(value).sum::<f64>() / 4.0;
    let center = mean(&|i| a[i]);
    let forward = mean(&|i| a[i].exp() * (a[i] - b[i]));
    let reverse = mean(&|i| b[i].exp() * (b[i] - a[i]));
    let h = mean(&|i| -a[i].exp() * a[i]);
    let cosine = {
        let dot = |x: &[f64; 4], y: &[f64; 4]| (0..4).map(|i| x[i] * y[i]).sum::<f64>();
        1.0 - dot(&a, &b) / (dot(&a, &a) * dot(&b, &b)).sqrt()
    };
    let expected = [
        mean(&|i| a[i].abs()),
        mean(&|i| a[i].exp()),
        mean(&|i| a[i] * a[i]),
        mean(&|i| (a[i] - center).clamp(-0.6, 0.6).powi(2)),
        mean(&|i| (a[i].exp() - 0.3).powi(2)),
        mean(&|i| 0.3 * a[i].abs() + 0.7 * a[i] * a[i]),
        h,
        -h,
        forward,
        reverse,
        (forward + reverse) / 2.0,
        mean(&|i| (a[i] - b[i]).powi(2)),
        mean(&|i| (a[i] - b[i]).abs()),
        cosine,
        (forward + reverse) / 2.0,
    ];
    for (regularizer, expected) in one_dimensional().iter().zip(expected) {
        let (value, _) = value_and_gradient(regularizer, TermReduction::Mean, None, None, &LOGPROBS);
        assert!((value - expected).abs() < 1e-6, "{regularizer:?}: {value}, not {expected}");
    }
}

#[test]
fn rows_are_distributions_over_the_candidates() {
    let half = 0.5f32.ln();
    let value = |regularizer: &Regularizer, logprobs: &[f32]| {
        value_and_gradient(regularizer, TermReduction::Mean, None, Some(2), logprobs).0
    };
    // Two candidates of the same probability have the largest entropy, which is 1 when it is normalised.
    let normalised = value(&entropy(EntropyGoal::Minimize, true, 1.0), &[half; 4]);
    assert!((normalised - 1.0).abs() < 1e-6, "{normalised}");
    // A temperature makes a distribution of any values.
    let heated = value(&entropy(EntropyGoal::Minimize, true, 1e6), &LOGPROBS);
    assert!((heated - 1.0).abs() < 1e-6, "{heated}");
    let cold = value(&entropy(EntropyGoal::Minimize, true, 1e-3), &LOGPROBS);
    assert!(cold.abs() < 1e-6, "{cold}");
}

#[test]
fn a_mask_leaves_positions_out_of_the_value_and_of_the_gradient() {
    for regularizer in one_dimensional() {
        let value = |logprobs: &[f32]| {
            value_and_gradient(&regularizer, TermReduction::Mean, Some("weights"), None, logprobs)
        };
        let (before, gradient) = value(&LOGPROBS);
        let mut moved = LOGPROBS;
        moved[1] = -3.0;
        assert!((value(&moved).0 - before).abs() < 1e-9, "{regularizer:?}");
        assert_eq!(gradient[1], 0.0, "{regularizer:?}");
    }
}

#[test]
fn the_loss_is_the_base_and_the_weighted_terms_each_with_its_metrics() {
    let terms = Regularizers::new()
        .with("l1", 0.5, Regularizer::L1 { of: Measured::Logprobs })
        .unwrap()
        .with_reduction("kl", 2.0, TermReduction::Sum, kl(KlDirection::Forward))
        .unwrap();
    let loss = evaluate(&terms, None, &LOGPROBS);
    let metric = |name: &str| loss.metrics[&format!("custom/{name}:sum")];
    assert_eq!(metric("base_loss"), 4.5);
    assert!((metric("l1/weighted") - 0.5 * metric("l1")).abs() < 1e-9);
    assert!((metric("kl/weighted") - 2.0 * metric("kl")).abs() < 1e-9);
    assert!((loss.loss - (4.5 + metric("l1/weighted") + metric("kl/weighted"))).abs() < 1e-6);
}

#[test]
fn impossible_terms_are_refused_with_the_place_of_the_mistake() {
    let l1 = || Regularizer::L1 { of: Measured::Logprobs };
    let l2 = |center, clip| Regularizer::L2 { of: Measured::Logprobs, center, clip };
    let net = |l1_ratio| Regularizer::ElasticNet { of: Measured::Logprobs, l1_ratio };
    let one = Regularizers::new().with("a", 1.0, l1()).unwrap();
    for (name, weight, regularizer, path) in [
        ("a", 1.0, l1(), r#"regularizers["a"]"#),
        ("base_loss", 1.0, l1(), r#"regularizers["base_loss"]"#),
        ("", 1.0, l1(), r#"regularizers[""]"#),
        ("B", 1.0, l1(), r#"regularizers["B"]"#),
        ("b", f64::NAN, l1(), r#"regularizers["b"].weight"#),
        ("b", -1.0, l1(), r#"regularizers["b"].weight"#),
        ("b", f64::INFINITY, l1(), r#"regularizers["b"].weight"#),
        ("b", 1.0, l2(Center::Value(f64::NAN), None), r#"regularizers["b"].center"#),
        ("b", 1.0, l2(Center::Zero, Some(0.0)), r#"regularizers["b"].clip"#),
        ("b", 1.0, net(1.5), r#"regularizers["b"].l1_ratio"#),
        ("b", 1.0, net(f64::NAN), r#"regularizers["b"].l1_ratio"#),
        ("b", 1.0, entropy(EntropyGoal::Minimize, false, 0.0), r#"regularizers["b"].temperature"#),
    ] {
        let error = one.clone().with(name, weight, regularizer).unwrap_err();
        assert_eq!(error.violation().unwrap().path, path, "{error}");
    }
}

#[test]
fn a_graph_that_lacks_what_a_term_reads_is_refused_during_the_trace() {
    let trace = |term: Regularizer, inputs: &[(&str, usize)]| {
        let terms = Regularizers::new().with("term", 1.0, term).unwrap();
        LossGraph::trace("x", inputs, |trace| terms.add_to(trace, trace.logprobs().sum()))
    };
    let error = trace(kl(KlDirection::Forward), &INPUTS[..2]).unwrap_err();
    assert!(error.to_string().contains("lacks reference"), "{error}");
    let error = trace(entropy(EntropyGoal::Minimize, true, 1.0), &INPUTS).unwrap_err();
    assert!(error.to_string().contains("[T, K]"), "{error}");
}

//! Combination of the outputs of the parts of one call (PROTOCOL §8.4). A part is one request: a call with much data is
//! split into several requests.

use std::collections::BTreeMap;

use crate::types::ForwardBackwardOutput;

/// Concatenates the outputs of the parts in order and reduces their metrics.
pub(crate) fn combine(mut parts: Vec<ForwardBackwardOutput>) -> ForwardBackwardOutput {
    match parts.len() {
        0 => return ForwardBackwardOutput::default(),
        1 => return parts.remove(0),
        _ => {}
    }
    let metrics = reduce(&parts);
    let loss_fn_output_type = std::mem::take(&mut parts[0].loss_fn_output_type);
    let loss_fn_outputs = parts.into_iter().flat_map(|it| it.loss_fn_outputs).collect();
    ForwardBackwardOutput { loss_fn_output_type, loss_fn_outputs, metrics, ..Default::default() }
}

/// Reduces each metric that all parts have. The suffix of the metric's name, after the last colon, selects the
/// reduction. Metrics without a known suffix are dropped.
fn reduce(parts: &[ForwardBackwardOutput]) -> BTreeMap<String, f64> {
    let weights: Vec<f64> = parts.iter().map(|it| it.loss_fn_outputs.len() as f64).collect();
    let mut metrics = BTreeMap::new();
    for name in parts[0].metrics.keys() {
        let values: Option<Vec<f64>> = parts.iter().map(|it| it.metrics.get(name).copied()).collect();
        let (Some(values), Some((_, reduction))) = (values, name.rsplit_once(':')) else {
            continue;
        };
        let max = || values.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let value = match reduction {
            "sum" => values.iter().sum(),
            "mean" => mean(&values, &weights),
            "min" => values.iter().copied().fold(f64::INFINITY, f64::min),
            "max" => max(),
            "slack" => max() - mean(&values, &weights),
            "hash2" => hash(&values),
            "unique" => {
                for (i, value) in values.iter().enumerate().skip(1) {
                    metrics.insert(format!("{name}_{i}"), *value);
                }
                values[0]
            }
            _ => continue,
        };
        metrics.insert(name.clone(), value);
    }
    metrics
}

/// The weighted mean; the unweighted mean if all weights are 0.
fn mean(values: &[f64], weights: &[f64]) -> f64 {
    let total: f64 = weights.iter().sum();
    if 0.0 < total {
        values.iter().zip(weights).map(|(v, w)| v * w).sum::<f64>() / total
    } else {
        values.iter().sum::<f64>() / values.len() as f64
    }
}

/// Sum of the truncated values modulo 2^64; a negative value counts as its two's complement.
fn hash(values: &[f64]) -> f64 {
    // The cast to i128 saturates only beyond 2^127, far outside the range of a hash.
    values.iter().fold(0u64, |sum, value| sum.wrapping_add(value.trunc() as i128 as u64)) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn part(n: usize, metrics: &[(&str, f64)]) -> ForwardBackwardOutput {
        ForwardBackwardOutput {
            loss_fn_output_type: format!("T{n}"),
            loss_fn_outputs: vec![BTreeMap::new(); n],
            metrics: metrics.iter().map(|(name, value)| (name.to_string(), *value)).collect(),
            ..Default::default()
        }
    }

    #[test]
    fn the_documented_example_combines_as_stated() {
        let names = ["loss:sum", "m:mean", "s:slack", "u:unique", "h:hash2", "x:min", "y:max", "z:last"];
        let a = [1.0, 1.0, 4.0, 5.0, -1.0, 2.0, 3.0, 1.0];
        let b = [2.0, 5.0, 8.0, 6.0, (1u64 << 40) as f64, 1.0, 9.0, 1.0];
        let with = |values: [f64; 8]| names.into_iter().zip(values).collect::<Vec<_>>();
        let combined = combine(vec![part(3, &with(a)), part(1, &with(b))]);
        let expected = [
            ("loss:sum", 3.0),
            ("m:mean", 2.0),
            ("s:slack", 3.0),
            ("u:unique", 5.0),
            ("u:unique_1", 6.0),
            ("h:hash2", 1099511627775.0),
            ("x:min", 1.0),
            ("y:max", 9.0),
        ];
        assert_eq!(combined.metrics, expected.map(|(name, value)| (name.to_string(), value)).into());
        assert_eq!((combined.loss_fn_output_type.as_str(), combined.loss_fn_outputs.len()), ("T3", 4));
    }

    #[test]
    fn a_single_part_passes_through_unchanged() {
        let only = part(1, &[("skyrl.ai/grad_norm", 1.0), ("a:b:mean", 2.0)]);
        assert_eq!(combine(vec![only.clone()]), only);
    }

    #[test]
    fn a_metric_that_a_part_lacks_is_dropped_and_a_total_weight_of_zero_is_allowed() {
        let combined =
            combine(vec![part(0, &[("a:mean", 1.0), ("b:sum", 1.0)]), part(0, &[("a:mean", 3.0)])]);
        assert_eq!(combined.metrics, [("a:mean".to_string(), 2.0)].into());
    }

    #[test]
    fn the_parts_of_a_call_combine_to_the_output_of_a_single_part() {
        use proptest::collection::vec;
        // Output of a server for some data, with integers, so that the order of additions does not matter.
        let whole = |values: &[i32]| {
            let fields = |value: &i32| BTreeMap::from([("v".to_string(), vec![*value as f32].into())]);
            let floats: Vec<f64> = values.iter().map(|it| f64::from(*it)).collect();
            let sum: f64 = floats.iter().sum();
            let (min, max) = (values.iter().min().copied(), values.iter().max().copied());
            ForwardBackwardOutput {
                loss_fn_output_type: "T".into(),
                loss_fn_outputs: values.iter().map(fields).collect(),
                metrics: [
                    ("a:sum", sum),
                    ("a:mean", sum / floats.len() as f64),
                    ("a:min", min.unwrap_or_default().into()),
                    ("a:max", max.unwrap_or_default().into()),
                    ("a:hash2", values.iter().fold(0u64, |n, it| n.wrapping_add(*it as i64 as u64)) as f64),
                ]
                .map(|(name, value)| (name.to_string(), value))
                .into(),
                ..Default::default()
            }
        };
        proptest::proptest!(|(parts in vec(vec(0i32..1000, 1..9), 1..6))| {
            let one = whole(&parts.concat());
            let combined = combine(parts.iter().map(|part| whole(part)).collect());
            assert_eq!(combined.loss_fn_outputs, one.loss_fn_outputs);
            assert_eq!(combined.metrics.keys().collect::<Vec<_>>(), one.metrics.keys().collect::<Vec<_>>());
            for (name, value) in &one.metrics {
                assert!((combined.metrics[name] - value).abs() < 1e-9, "{name}: {combined:?} {one:?}");
            }
        });
    }
}

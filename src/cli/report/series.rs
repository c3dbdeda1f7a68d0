//! The mathematics of the charts: smoothing, downsampling, scales.

/// A point: step and value.
pub(crate) type Point = (f64, f64);

/// The exponential moving average. `span` is the number of points whose weights make up most of an average. The
/// beginning is corrected, so that the first points are not drawn towards the first value.
pub(crate) fn ema(points: &[Point], span: f64) -> Vec<Point> {
    let keep = 1.0 - 2.0 / (span.max(1.0) + 1.0);
    let (mut sum, mut weight) = (0.0, 0.0);
    let mut average = |value: f64| {
        sum = keep * sum + (1.0 - keep) * value;
        weight = keep * weight + (1.0 - keep);
        sum / weight
    };
    points.iter().filter(|(_, y)| y.is_finite()).map(|(x, y)| (*x, average(*y))).collect()
}

/// At most `n` of the points, so that the line through them looks like the line through all: the largest triangle of
/// each bucket (Steinarsson's LTTB). The first point and the last one are kept. All values must be finite.
pub(crate) fn lttb(points: &[Point], n: usize) -> Vec<Point> {
    if points.len() <= n || n < 3 {
        return points.iter().take(n.max(2)).copied().collect();
    }
    let (first, last) = (points[0], points[points.len() - 1]);
    let bounds = |i: usize| 1 + i * (points.len() - 2) / (n - 2);
    let mut chosen = vec![first];
    let mut before = first;
    for i in 0..n - 2 {
        let bucket = &points[bounds(i)..bounds(i + 1)];
        let next = if i + 1 < n - 2 { &points[bounds(i + 1)..bounds(i + 2)] } else { &[last] };
        let mean = mean(next);
        let area = |(x, y): &Point| {
            ((before.0 - mean.0) * (y - before.1) - (before.0 - x) * (mean.1 - before.1)).abs()
        };
        if let Some(best) = bucket.iter().max_by(|a, b| area(a).total_cmp(&area(b))) {
            before = *best;
            chosen.push(*best);
        }
    }
    chosen.push(last);
    chosen
}

fn mean(points: &[Point]) -> Point {
    let n = points.len().max(1) as f64;
    let sum = points.iter().fold((0.0, 0.0), |sum, it| (sum.0 + it.0, sum.1 + it.1));
    (sum.0 / n, sum.1 / n)
}

/// Splits points where values are not finite: there the line has a gap.
pub(crate) fn pieces(points: &[Point]) -> Vec<&[Point]> {
    points.split(|(_, y)| !y.is_finite()).filter(|it| !it.is_empty()).collect()
}

/// The smallest and the largest of the finite numbers.
pub(crate) fn range(values: impl IntoIterator<Item = f64>) -> Option<(f64, f64)> {
    values.into_iter().filter(|it| it.is_finite()).fold(None, |range, it| match range {
        None => Some((it, it)),
        Some((low, high)) => Some((low.min(it), high.max(it))),
    })
}

/// The range that a chart shows of noisy values: whole, unless some outliers would press all others flat. These are
/// drawn at the edge.
pub(crate) fn calm_range(values: &[f64]) -> Option<(f64, f64)> {
    let mut sorted: Vec<f64> = values.iter().copied().filter(|it| it.is_finite()).collect();
    sorted.sort_by(f64::total_cmp);
    let (low, high) = (*sorted.first()?, *sorted.last()?);
    let at = |share: f64| sorted[((sorted.len() - 1) as f64 * share).round() as usize];
    let (q05, q95) = (at(0.02), at(0.98));
    let slack = 2.0 * (q95 - q05);
    if sorted.len() < 20 || slack <= 0.0 {
        return Some((low, high));
    }
    Some((low.max(q05 - slack), high.min(q95 + slack)))
}

/// Evenly spaced round numbers that enclose a range: about `n` of them.
pub(crate) fn ticks(low: f64, high: f64, n: usize) -> Vec<f64> {
    let width = high - low;
    if !width.is_finite() || width <= 0.0 {
        return vec![low];
    }
    let rough = width / n.max(1) as f64;
    let power = 10_f64.powf(rough.log10().floor());
    let unit = [1.0, 2.0, 2.5, 5.0, 10.0].into_iter().find(|it| rough <= it * power * 1.0001).unwrap_or(10.0);
    let step = unit * power;
    if !step.is_normal() {
        return vec![low, high];
    }
    // A bound that is a tick but for its last digits needs no further tick.
    let (from, to) = ((low / step + 1e-9).floor() as i64, (high / step - 1e-9).ceil() as i64);
    (from..=to).take(4 * n + 8).map(|i| i as f64 * step).collect()
}

/// Texts of ticks, all with the same number of decimals.
pub(crate) fn tick_labels(ticks: &[f64]) -> Vec<String> {
    use super::text::figure;
    let size = ticks.iter().fold(0.0_f64, |size, it| size.max(it.abs()));
    let step = if let [a, b, ..] = ticks { (b - a).abs() } else { size };
    if size == 0.0 || !(1e-3..1e4).contains(&size) || step <= 0.0 {
        return ticks.iter().map(|it| figure(*it)).collect();
    }
    let decimals = (0..6).find(|n| {
        let scaled = step * 10_f64.powi(*n);
        (scaled - scaled.round()).abs() < 1e-6 * scaled.max(1.0)
    });
    let decimals = decimals.unwrap_or(6) as usize;
    ticks.iter().map(|it| format!("{it:.decimals$}").replace('-', "−")).collect()
}

/// Means of the values of a metric in at most `n` bins of equal numbers of points.
pub(crate) fn bins(len: usize, n: usize) -> Vec<std::ops::Range<usize>> {
    let n = n.min(len);
    (0..n).map(|i| i * len / n..(i + 1) * len / n).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn noise(n: usize) -> Vec<Point> {
        (0..n).map(|i| (i as f64, ((i * 7919) % 1009) as f64 / 1009.0)).collect()
    }

    #[test]
    fn a_spike_survives_downsampling_and_the_ends_are_kept() {
        let mut points = noise(100_000);
        points[54_321].1 = 50.0;
        let few = lttb(&points, 2000);
        assert_eq!(few.len(), 2000);
        assert_eq!((few[0], few[1999]), (points[0], points[99_999]));
        assert!(few.contains(&(54_321.0, 50.0)));
        assert!(few.is_sorted_by(|a, b| a.0 < b.0));
        for n in [3, 4, 99, 100, 101] {
            assert_eq!(lttb(&noise(100), n).len(), n.min(100), "{n}");
        }
        assert_eq!(lttb(&[], 10), []);
    }

    #[test]
    fn the_average_of_a_constant_is_the_constant_from_the_first_point_on() {
        let points: Vec<Point> = (0..50).map(|i| (f64::from(i), 3.0)).collect();
        assert!(ema(&points, 20.0).iter().all(|(_, y)| (y - 3.0).abs() < 1e-12));
        let with_gap = [(0.0, 1.0), (1.0, f64::NAN), (2.0, 1.0)];
        assert_eq!(ema(&with_gap, 5.0).len(), 2);
    }

    #[test]
    fn a_line_has_gaps_where_values_are_not_finite() {
        let points = [(0.0, f64::NAN), (1.0, 1.0), (2.0, 2.0), (3.0, f64::INFINITY), (4.0, 1.0)];
        assert_eq!(pieces(&points).iter().map(|it| it.len()).collect::<Vec<_>>(), [2, 1]);
        assert_eq!(range(points.iter().map(|it| it.1)), Some((1.0, 2.0)));
        assert_eq!(range([f64::NAN]), None);
    }

    #[test]
    fn ticks_are_round_and_enclose_the_range() {
        assert_eq!(ticks(0.0, 1.0, 4), [0.0, 0.25, 0.5, 0.75, 1.0]);
        assert_eq!(ticks(0.13, 2.9, 4), [0.0, 1.0, 2.0, 3.0]);
        assert_eq!(ticks(0.0, 1e-5, 4).len(), 5);
        assert_eq!(ticks(3.0, 3.0, 4), [3.0]);
        for (low, high) in [(0.0, 1e300), (-1e-300, 1e-300), (f64::MIN, f64::MAX), (0.0, f64::MIN_POSITIVE)] {
            assert!(ticks(low, high, 4).len() < 30, "{low} {high}");
        }
        assert_eq!(tick_labels(&[0.0, 0.25, 0.5]), ["0.00", "0.25", "0.50"]);
        assert_eq!(tick_labels(&[0.0, 20_000.0]), ["0", "20k"]);
    }

    #[test]
    fn one_outlier_does_not_press_a_chart_flat() {
        let mut values: Vec<f64> = noise(1000).iter().map(|it| it.1).collect();
        values[3] = 1e6;
        let (low, high) = calm_range(&values).unwrap_or_default();
        assert!(low == 0.0 && high < 4.0, "{low} {high}");
    }

    #[test]
    fn bins_cover_all_points() {
        assert_eq!(bins(5, 2), [0..2, 2..5]);
        assert_eq!(bins(2, 5), [0..1, 1..2]);
        assert!(bins(0, 5).is_empty());
    }
}

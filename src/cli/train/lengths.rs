//! Lengths of examples, summed up.

/// Most bars of a histogram.
const MOST_BARS: usize = 24;

/// The length that this share of the sorted lengths does not exceed.
pub(super) fn quantile(sorted: &[usize], share: f64) -> usize {
    let last = sorted.len().saturating_sub(1);
    sorted.get((share * last as f64).round() as usize).copied().unwrap_or(0)
}

/// Numbers of lengths, as pairs of the largest length of a bar and its number. The first pair has the number 0: it is
/// where the first bar begins.
pub(super) fn histogram(sorted: &[usize]) -> Vec<[usize; 2]> {
    let (Some(low), Some(high)) = (sorted.first(), sorted.last()) else { return Vec::new() };
    let width = round_width(*low, *high);
    let begin = low.saturating_sub(1) / width * width;
    let mut bars = vec![[begin, 0]];
    let (mut to, mut n_before) = (begin, 0);
    while to < *high {
        to += width;
        let n = sorted.partition_point(|length| *length <= to);
        bars.push([to, n - n_before]);
        n_before = n;
    }
    bars
}

/// The smallest of 1, 2, 5, 10, 20, … with which the bars are few.
fn round_width(low: usize, high: usize) -> usize {
    let powers = (0..).map_while(|power| 10_usize.checked_pow(power));
    let mut widths = powers.flat_map(|power| [1, 2, 5].map(|digit| power.saturating_mul(digit)));
    widths.find(|width| (high - low) / width < MOST_BARS - 1).unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_lengths_of_examples() {
        let sorted: Vec<usize> = (1..=11).collect();
        assert_eq!([0.0, 0.1, 0.5, 0.9, 1.0].map(|share| quantile(&sorted, share)), [1, 2, 6, 10, 11]);
        assert_eq!(quantile(&[], 0.5), 0);
    }

    #[test]
    fn each_length_is_in_one_of_a_few_bars_of_round_width() {
        assert_eq!(histogram(&[7, 7]), [[6, 0], [7, 2]]);
        assert_eq!(
            histogram(&[10, 11, 60]),
            [
                [5, 0],
                [10, 1],
                [15, 1],
                [20, 0],
                [25, 0],
                [30, 0],
                [35, 0],
                [40, 0],
                [45, 0],
                [50, 0],
                [55, 0],
                [60, 1]
            ]
        );
        assert!(histogram(&[]).is_empty());
        for sorted in [vec![1], vec![0, 1], vec![1, 1000], vec![999, 123_456], (1..500).collect()] {
            let bars = histogram(&sorted);
            assert!((2..=MOST_BARS + 1).contains(&bars.len()), "{sorted:?}: {bars:?}");
            assert_eq!(bars.iter().map(|bar| bar[1]).sum::<usize>(), sorted.len(), "{sorted:?}: {bars:?}");
        }
    }
}

//! Splitting of a batch into requests (PROTOCOL §8.1).

use std::ops::Range;

/// Limits of one request: number of data, and estimated bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ChunkLimits {
    pub(crate) n_data: usize,
    pub(crate) n_bytes: usize,
}

/// Splits data with these estimated bytes into consecutive ranges. No range is empty. A datum above the byte limit is
/// alone in its range.
pub(crate) fn split(sizes: impl IntoIterator<Item = usize>, limits: ChunkLimits) -> Vec<Range<usize>> {
    let mut parts = Vec::new();
    let (mut start, mut end, mut bytes) = (0, 0, 0usize);
    for size in sizes {
        let full = limits.n_bytes < bytes.saturating_add(size) || limits.n_data <= end - start;
        if start < end && full {
            parts.push(start..end);
            (start, bytes) = (end, 0);
        }
        end += 1;
        bytes = bytes.saturating_add(size);
    }
    if start < end {
        parts.push(start..end);
    }
    parts
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: ChunkLimits = ChunkLimits { n_data: 3, n_bytes: 100 };

    #[test]
    fn parts_are_full_but_never_above_a_limit() {
        assert_eq!(split([10; 7], LIMITS), [0..3, 3..6, 6..7]);
        assert_eq!(split([60, 40, 1], LIMITS), [0..2, 2..3]);
        assert!(split([], LIMITS).is_empty());
    }

    #[test]
    fn a_datum_above_the_limit_is_a_part_of_its_own_and_no_part_is_empty() {
        assert_eq!(split([500, 1, 500, 1], LIMITS), [0..1, 1..2, 2..3, 3..4]);
        assert_eq!(split([usize::MAX, usize::MAX], LIMITS), [0..1, 1..2]);
    }

    #[test]
    fn the_parts_contain_each_datum_once_and_in_order() {
        proptest::proptest!(|(sizes in proptest::collection::vec(0usize..200, 0..50), n_data in 1usize..9, n_bytes in 1usize..300)| {
            let parts = split(sizes.iter().copied(), ChunkLimits { n_data, n_bytes });
            let all: Vec<usize> = parts.iter().cloned().flatten().collect();
            assert_eq!(all, (0..sizes.len()).collect::<Vec<_>>());
            for part in parts {
                assert!(!part.is_empty() && part.len() <= n_data);
                assert!(part.len() == 1 || sizes[part].iter().sum::<usize>() <= n_bytes);
            }
        });
    }
}

//! From the loss back to the log-probabilities.

use super::tape::{Source, Tape};
use super::tensor::{Walk, matrix};

impl Tape {
    /// The derivatives of the scalar `of` by every number of `by`.
    pub(super) fn slopes(&self, of: usize, by: usize) -> Vec<f64> {
        let mut slopes: Vec<Option<Vec<f64>>> = Vec::new();
        slopes.resize_with(self.entries.len(), || None);
        slopes[of] = Some(vec![1.0]);
        // Everything was computed from what stands before it.
        for id in (by + 1..=of).rev() {
            if self.entries[id].moves
                && let Some(slope) = slopes[id].take()
            {
                self.back(id, &slope, &mut slopes);
            }
        }
        let zero = || vec![0.0; self.get(by).data.len()];
        slopes[by].take().unwrap_or_else(zero)
    }

    /// Adds what one entry passes on.
    fn back(&self, id: usize, slope: &[f64], slopes: &mut [Option<Vec<f64>>]) {
        let entry = &self.entries[id];
        let mut add = |to: usize, each: &mut dyn FnMut(&mut [f64])| {
            if self.entries[to].moves {
                let size = self.get(to).data.len();
                each(slopes[to].get_or_insert_with(|| vec![0.0; size]));
            }
        };
        match &entry.source {
            Source::Nothing => {}
            Source::Unary(of, x) => {
                let input = &self.get(*x).data;
                add(*x, &mut |sum| {
                    for (i, sum) in sum.iter_mut().enumerate() {
                        *sum += pass(slope[i], of.slope(input[i], entry.value.data[i]));
                    }
                });
            }
            Source::Binary(of, a, b) => {
                let (x, y) = (self.get(*a), self.get(*b));
                let (rows, cols) = matrix(&entry.value.shape);
                let (wx, wy) = (Walk::new(&x.shape), Walk::new(&y.shape));
                let each = |r: usize, c: usize| {
                    let at = r * cols + c;
                    let (i, j) = (wx.at(r, c), wy.at(r, c));
                    let (da, db) = of.slopes(x.data[i], y.data[j], entry.value.data[at]);
                    ((i, pass(slope[at], da)), (j, pass(slope[at], db)))
                };
                let places = || (0..rows).flat_map(|r| (0..cols).map(move |c| (r, c)));
                add(*a, &mut |sum| {
                    places().for_each(|(r, c)| {
                        let (i, it) = each(r, c).0;
                        sum[i] += it;
                    })
                });
                add(*b, &mut |sum| {
                    places().for_each(|(r, c)| {
                        let (j, it) = each(r, c).1;
                        sum[j] += it;
                    })
                });
            }
            Source::Where(condition, a, b) => {
                let holds = &self.get(*condition).data;
                for (to, side) in [(*a, true), (*b, false)] {
                    add(to, &mut |sum| {
                        for (i, sum) in sum.iter_mut().enumerate() {
                            *sum += if (holds[i] != 0.0) == side { slope[i] } else { 0.0 };
                        }
                    });
                }
            }
            Source::Clamp(x, low, high) => {
                let input = &self.get(*x).data;
                add(*x, &mut |sum| {
                    for (i, sum) in sum.iter_mut().enumerate() {
                        *sum += if (*low..=*high).contains(&input[i]) { slope[i] } else { 0.0 };
                    }
                });
            }
            Source::Gather(x, index) => add(*x, &mut |sum| {
                for (slope, at) in slope.iter().zip(index) {
                    sum[*at as usize] += slope;
                }
            }),
            Source::Sum(x, index) => add(*x, &mut |sum| {
                for (sum, at) in sum.iter_mut().zip(index) {
                    *sum += slope[*at as usize];
                }
            }),
            Source::Shared(x, winners) => add(*x, &mut |sum| {
                for (slope, winners) in slope.iter().zip(winners) {
                    for at in winners {
                        sum[*at as usize] += slope / winners.len() as f64;
                    }
                }
            }),
            Source::Cumsum { of, len, stride } => add(*of, &mut |sum| {
                for start in starts(sum.len(), *len, *stride) {
                    let mut total = 0.0;
                    for at in (0..*len).rev().map(|i| start + i * stride) {
                        total += slope[at];
                        sum[at] += total;
                    }
                }
            }),
            Source::Join(all) => {
                let mut from = 0;
                for part in all {
                    let size = self.get(*part).data.len();
                    add(*part, &mut |sum| {
                        for (sum, slope) in sum.iter_mut().zip(&slope[from..]) {
                            *sum += slope;
                        }
                    });
                    from += size;
                }
            }
        }
    }
}

/// A slope passed on. What no slope arrives at stays still, even where its own slope is infinite.
fn pass(slope: f64, by: f64) -> f64 {
    if slope == 0.0 { 0.0 } else { slope * by }
}

/// Where the lines along a dimension begin.
pub(super) fn starts(size: usize, len: usize, stride: usize) -> impl Iterator<Item = usize> {
    let blocks = if len == 0 { 0 } else { size / (len * stride) };
    (0..blocks).flat_map(move |block| (0..stride).map(move |i| block * len * stride + i))
}

//! Vectorised loops over slices of `f32`.

#![deny(unsafe_code)]

use pulp::Arch;

/// Runs `body`, usually a loop, compiled for the widest vector instructions of this machine. The closure should be
/// marked `#[inline(always)]`. The compiler neither reorders nor fuses its floating-point operations, so the results
/// have the same bits on every machine.
#[inline(always)]
pub(crate) fn simd<R>(body: impl FnOnce() -> R) -> R {
    Arch::new().dispatch(body)
}

/// `e^x`, approximated by a polynomial with an error of about two units in the last place. All operations can be
/// vectorised. Inputs are clamped to −87..88, so the result is never zero or infinite.
#[inline(always)]
pub(crate) fn exp(x: f32) -> f32 {
    // Adding this number, 1.5·2^23, to a small number rounds it to the nearest integer, whose bits are then the low
    // bits of the mantissa. Subtracting it again gives the rounded number.
    const ROUND: f32 = 12_582_912.0;
    let x = x.clamp(-87.0, 88.0);
    let shifted = x * std::f32::consts::LOG2_E + ROUND;
    let n = shifted - ROUND;
    // Subtract n·ln 2 in two steps for precision. The first constant has so few bits that its product with n is exact.
    let r = (x - n * 0.693_359_4) - n * -2.121_944_4e-4;
    let p = 1.0 / 5040.0;
    let p = p * r + 1.0 / 720.0;
    let p = p * r + 1.0 / 120.0;
    let p = p * r + 1.0 / 24.0;
    let p = p * r + 1.0 / 6.0;
    let p = p * r + 0.5;
    let p = p * r + 1.0;
    let p = p * r + 1.0;
    let power = shifted.to_bits().wrapping_add(127).wrapping_shl(23);
    p * f32::from_bits(power)
}

/// Number of partial sums (or maxima) in [`sum_by`], [`dot`], [`max`] and [`exp_sum`]. It is fixed, so that the order
/// of additions does not depend on the machine.
const LANES: usize = 16;

/// The sum of `step(value)` over a slice, computed in [`LANES`] partial sums.
#[inline(always)]
pub(crate) fn sum_by(x: &[f32], step: impl Fn(f32) -> f32) -> f32 {
    let mut lanes = [0.0f32; LANES];
    let (chunks, rest) = x.as_chunks::<LANES>();
    for chunk in chunks {
        for (lane, &v) in lanes.iter_mut().zip(chunk) {
            *lane += step(v);
        }
    }
    let mut total = lanes.iter().sum::<f32>();
    for &v in rest {
        total += step(v);
    }
    total
}

/// The dot product of two slices of the same length, computed in [`LANES`] partial sums.
#[inline(always)]
pub(crate) fn dot(x: &[f32], y: &[f32]) -> f32 {
    let mut lanes = [0.0f32; LANES];
    let ((xs, x_rest), (ys, y_rest)) = (x.as_chunks::<LANES>(), y.as_chunks::<LANES>());
    for (a, b) in xs.iter().zip(ys) {
        for (lane, (&a, &b)) in lanes.iter_mut().zip(a.iter().zip(b)) {
            *lane += a * b;
        }
    }
    let mut total = lanes.iter().sum::<f32>();
    for (&a, &b) in x_rest.iter().zip(y_rest) {
        total += a * b;
    }
    total
}

/// The largest value of a slice; −∞ if it is empty.
#[inline(always)]
pub(crate) fn max(x: &[f32]) -> f32 {
    let mut lanes = [f32::NEG_INFINITY; LANES];
    let (chunks, rest) = x.as_chunks::<LANES>();
    for chunk in chunks {
        for (lane, &v) in lanes.iter_mut().zip(chunk) {
            *lane = if v > *lane { v } else { *lane };
        }
    }
    lanes.iter().chain(rest).fold(f32::NEG_INFINITY, |a, &b| if b > a { b } else { a })
}

/// Replaces every value by `e^(value − shift)` and returns their sum.
#[inline(always)]
pub(crate) fn exp_sum(x: &mut [f32], shift: f32) -> f32 {
    let mut lanes = [0.0f32; LANES];
    let (chunks, rest) = x.as_chunks_mut::<LANES>();
    for chunk in chunks {
        for (lane, v) in lanes.iter_mut().zip(chunk) {
            *v = exp(*v - shift);
            *lane += *v;
        }
    }
    let mut total = lanes.iter().sum::<f32>();
    for v in rest {
        *v = exp(*v - shift);
        total += *v;
    }
    total
}

//! Tests of the kernels against plain loops.

#![allow(clippy::unwrap_used)]

use super::*;

fn numbers(len: usize) -> Vec<f32> {
    (0..len).map(|i| ((i * 37 + 11) % 101) as f32 / 50.0 - 1.0).collect()
}

#[test]
fn products_of_windows_and_transposes_agree_with_plain_loops() {
    // 600 rows need several tasks. The matrices are windows of wider ones; the columns on both sides must not
    // change.
    let (rows, inner, cols, stride) = (600, 7, 5, 9);
    let (a, b) = (numbers(rows * stride), numbers(cols * inner));
    let mut dst = numbers(rows * stride);
    let before = dst.clone();
    let lhs = Mat::strided(&a[1..], rows, inner, stride);
    matmul(MatMut::strided(&mut dst[2..], rows, cols, stride), 0.5, lhs, Mat::new(&b, cols, inner).t(), 2.0);
    for r in 0..rows {
        for c in 0..stride {
            let at = r * stride + c;
            let product =
                |c: usize| (0..inner).map(|i| a[r * stride + 1 + i] * b[c * inner + i]).sum::<f32>();
            let inside = (2..2 + cols).contains(&c);
            let expected = if inside { 0.5 * before[at] + 2.0 * product(c - 2) } else { before[at] };
            assert!((dst[at] - expected).abs() < 1e-5, "{r} {c}");
        }
    }
}

#[test]
fn products_that_are_divided_by_rows_and_columns_agree_with_plain_loops() {
    // The first is divided by rows and columns; the second has a long inner dimension and is divided by rows.
    for (rows, inner, cols) in [(300, 3, 900), (96, 2100, 64)] {
        let (a, b) = (numbers(rows * inner), numbers(inner * cols));
        let mut dst = vec![1.0; rows * cols];
        let (lhs, rhs) = (Mat::new(&a, inner, rows).t(), Mat::new(&b, inner, cols));
        matmul(MatMut::new(&mut dst, rows, cols), 1.0, lhs, rhs, 0.5);
        for (at, value) in dst.iter().enumerate() {
            let (r, c) = (at / cols, at % cols);
            let product: f32 = (0..inner).map(|i| a[i * rows + r] * b[i * cols + c]).sum();
            assert!((value - 1.0 - 0.5 * product).abs() < 1e-3, "{r} {c}: {value} {product}");
        }
    }
}

#[test]
fn products_with_blocks_of_a_matrix_agree_with_plain_loops() {
    let (rows, inner, cols, stride) = (300, 7, 70, 75);
    let (a, b) = (numbers(rows * inner), numbers(cols * inner));
    for keep in [0.0, 1.0] {
        let mut dst = vec![1.0; rows * stride];
        let view = MatMut::strided(&mut dst[2..], rows, cols, stride);
        matmul_blocks(view, keep, Mat::new(&a, rows, inner), 32, |first, block| {
            block.copy_from_slice(&b[first * inner..][..block.len()]);
        });
        for (at, value) in dst.iter().enumerate() {
            let (r, c) = (at / stride, (at % stride).wrapping_sub(2));
            let product = || (0..inner).map(|i| a[r * inner + i] * b[c * inner + i]).sum::<f32>();
            let expected = if c < cols { keep + product() } else { 1.0 };
            assert!((value - expected).abs() < 1e-4, "{keep} {r} {c}: {value} {expected}");
        }
    }
}

#[test]
fn a_product_has_the_same_bits_in_parts() {
    let pool = rayon::ThreadPoolBuilder::new().num_threads(3).build().unwrap();
    for (outputs, inputs) in [(20, 8), (200, 33), (512, 40)] {
        let panels = pack_panels(&numbers(outputs * inputs), outputs, inputs);
        for rows in [1, 3] {
            let (x, dst_stride) = (numbers(rows * inputs), outputs + 1);
            let product = |parts: bool, keep: bool| {
                let mut dst = vec![1.0; rows * dst_stride];
                let product = PanelProduct {
                    panels: &panels,
                    panel_inputs: inputs,
                    inputs,
                    outputs,
                    rows,
                    x: &x,
                    x_stride: inputs,
                    dst: &mut dst,
                    dst_stride,
                    keep,
                };
                let run = || if parts { product.run_in_parts(&mut Vec::new()) } else { product.run() };
                pool.install(run);
                dst
            };
            for keep in [false, true] {
                assert_eq!(product(true, keep), product(false, keep), "{outputs} {rows} {keep}");
            }
        }
    }
}

#[test]
fn a_product_without_an_inner_dimension_only_scales_its_destination() {
    let mut dst = [2.0; 6];
    matmul(MatMut::new(&mut dst, 3, 2), 0.5, Mat::new(&[], 3, 0), Mat::new(&[], 0, 2), 1.0);
    assert_eq!(dst, [1.0; 6]);
}

#[test]
fn transposed_products_agree_with_plain_loops() {
    for (inputs, outputs, rows) in [(1, 5, 1), (33, 32, 19), (7, 70, 8)] {
        let (stride, panel_stride) = (rows + 3, outputs + 2);
        let (x, y) = (numbers(inputs * stride), numbers(inputs * panel_stride));
        // What the panels held before must not matter.
        let mut panels = vec![f32::NAN; packed_rows_len(inputs, outputs)];
        pack_rows(&y, panel_stride, outputs, &mut panels);
        let mut dst = vec![1.0; rows * outputs];
        let product = TransposedProduct {
            panels: &panels,
            inputs,
            outputs,
            rows,
            x: &x,
            x_stride: stride,
            dst: &mut dst,
        };
        product.run();
        for (at, value) in dst.iter().enumerate() {
            let (r, o) = (at / outputs, at % outputs);
            let expected: f32 = (0..inputs).map(|i| x[i * stride + r] * y[i * panel_stride + o]).sum();
            assert!((value - 1.0 - expected).abs() < 1e-4, "{inputs} {r} {o}");
        }
    }
}

#[test]
fn packing_with_a_scale_equals_packing_the_scaled_matrix() {
    let (outputs, inputs, stride) = (70, 9, 11);
    let rows = numbers(outputs * stride);
    let doubled: Vec<f32> =
        rows.chunks_exact(stride).flat_map(|row| row[..inputs].iter().map(|v| 2.0 * v)).collect();
    let mut panels = vec![f32::NAN; panels_len(outputs, inputs)];
    pack_scaled(&rows, stride, [outputs, inputs], 2.0, &mut panels);
    assert_eq!(panels, pack_panels(&doubled, outputs, inputs));
}

#[test]
fn a_product_with_keep_zero_does_not_read_its_destination() {
    let mut dst = [f32::NAN; 4];
    let (a, b) = ([1.0, 2.0, 3.0, 4.0], [1.0, 0.0, 0.0, 1.0]);
    matmul(MatMut::new(&mut dst, 2, 2), 0.0, Mat::new(&a, 2, 2), Mat::new(&b, 2, 2), 1.0);
    assert_eq!(dst, a);
}

#[test]
#[should_panic(expected = "outside its slice")]
fn a_view_that_reaches_outside_its_slice_is_refused() {
    Mat::strided(&[0.0; 10], 3, 2, 5);
}

#[test]
#[should_panic(expected = "outside its slice")]
fn a_view_whose_size_overflows_is_refused() {
    Mat::strided(&[0.0; 10], 1 << 33, 2, 1 << 31);
}

#[test]
fn exp_is_accurate_in_its_range_and_finite_outside() {
    let mut x = -87.0f32;
    while x < 88.0 {
        let (ours, theirs) = (f64::from(exp(x)), f64::from(x).exp());
        assert!((ours - theirs).abs() < 4e-7 * theirs, "{x}: {ours} {theirs}");
        x += 0.0137;
    }
    assert_eq!(exp(0.0), 1.0);
    assert!(exp(-1e9) < 1e-37 && exp(f32::NEG_INFINITY) < 1e-37 && exp(1e9).is_finite());
    assert!(exp(f32::NAN).is_nan());
}

#[test]
fn panel_products_agree_with_plain_loops_and_rows_are_independent() {
    for (outputs, inputs) in [(32, 8), (70, 33), (5, 1), (256, 16)] {
        let weight = numbers(outputs * inputs);
        let panels = pack_panels(&weight, outputs, inputs);
        let x = numbers(17 * inputs);
        let product = |rows: usize, x: &[f32], keep: bool| {
            let mut dst = vec![1.0; rows * (outputs + 3)];
            let product = PanelProduct {
                panels: &panels,
                panel_inputs: inputs,
                inputs,
                outputs,
                rows,
                x,
                x_stride: inputs,
                dst: &mut dst,
                dst_stride: outputs + 3,
                keep,
            };
            product.run();
            dst
        };
        let all = product(17, &x, false);
        let kept = product(17, &x, true);
        for r in 0..17 {
            let alone = product(1, &x[r * inputs..], false);
            let row = &all[r * (outputs + 3)..][..outputs + 3];
            assert_eq!(row, alone);
            assert_eq!(row[outputs..], [1.0; 3]);
            for o in 0..outputs {
                let expected: f32 = (0..inputs).map(|i| weight[o * inputs + i] * x[r * inputs + i]).sum();
                assert!((row[o] - expected).abs() < 1e-4);
                assert_eq!(kept[r * (outputs + 3) + o], 1.0 + row[o]);
            }
        }
    }
}

#[test]
fn sums_and_maxima_agree_with_plain_loops_for_every_length() {
    for len in 0..70 {
        let x = numbers(len);
        let square: f32 = x.iter().map(|v| v * v).sum();
        assert!((sum_by(&x, |v| v * v) - square).abs() < 1e-4);
        assert!((dot(&x, &x) - square).abs() < 1e-4);
        assert_eq!(max(&x), x.iter().copied().fold(f32::NEG_INFINITY, f32::max));
        let mut shifted = x.clone();
        let sum = exp_sum(&mut shifted, 1.0);
        assert!((sum - x.iter().map(|v| (v - 1.0).exp()).sum::<f32>()).abs() < 1e-4);
    }
}

/// A file of bf16 numbers, and these as 32-bit floats.
fn halves(len: usize) -> (MappedSlice, Vec<f32>) {
    let values = numbers(len).into_iter().map(|it| f32::from_bits(it.to_bits() & 0xffff_0000));
    let values: Vec<f32> = values.collect();
    // The numbers start at an address that is no multiple of their size.
    let bytes: Vec<u8> = std::iter::once(0)
        .chain(values.iter().flat_map(|it| [it.to_le_bytes()[2], it.to_le_bytes()[3]]))
        .collect();
    let path = std::env::temp_dir().join(format!("tinkex-halves-{}-{len}", std::process::id()));
    std::fs::write(&path, &bytes).unwrap();
    let file = MappedFile::open(&File::open(&path).unwrap()).unwrap();
    std::fs::remove_file(&path).unwrap();
    (MappedSlice::new(file, 1..bytes.len(), Format::Bf16).unwrap(), values)
}

#[test]
fn products_of_the_matrix_unit_are_as_precise_as_those_of_32_bit_floats() {
    if !has_matrix_unit() {
        return;
    }
    // Blocks and steps that are cut, several tasks, and an inner dimension that is added up in several parts.
    for (rows, inner, cols) in [(17, 5, 3), (40, 33, 70), (64, 64, 64), (300, 600, 290)] {
        let x: Vec<f32> = numbers(rows * inner).iter().map(|it| it * 1.234_567_8).collect();
        let (weight, w) = halves(inner * cols);
        let floats: Vec<f32> = w.iter().map(|it| it * 0.765_432_1).collect();
        let transposed: Vec<f32> = (0..rows * inner).map(|i| x[i % rows * inner + i / rows]).collect();
        let rights = [
            (Right::Mapped { weight: &weight, first: 0, rows: inner, cols, transposed: false }, &w, false),
            (
                Right::Mapped { weight: &weight, first: 0, rows: cols, cols: inner, transposed: true },
                &w,
                true,
            ),
            (Right::Floats(Mat::new(&floats, inner, cols)), &floats, false),
            (Right::Floats(Mat::new(&floats, cols, inner).t()), &floats, true),
        ];
        let lefts = [
            Split::new(Mat::new(&x, rows, inner), 0.5, [inner]),
            Split::new(Mat::new(&transposed, inner, rows).t(), 1.0, [inner]),
        ];
        for (right, w, is_transposed) in rights {
            for (left, scale) in lefts.iter().zip([0.5, 1.0]) {
                let stride = cols + 3;
                let mut dst = vec![1.0f32; rows * stride];
                let view = MatMut::strided(&mut dst[1..], rows, cols, stride);
                matmul_split(view, 1.0, &[Term::new(left, 0, right)]);
                for (at, value) in dst.iter().enumerate() {
                    let (r, c) = (at / stride, (at % stride).wrapping_sub(1));
                    let weight = |i: usize| if is_transposed { w[c * inner + i] } else { w[i * cols + c] };
                    let product = |i: usize| f64::from(x[r * inner + i]) * f64::from(weight(i)) * scale;
                    let sum = if c < cols { (0..inner).map(product).sum::<f64>() } else { 0.0 };
                    assert!((f64::from(*value) - 1.0 - sum).abs() < 2e-4, "{rows} {r} {c}: {value} {sum}");
                }
            }
        }
    }
}

#[test]
fn a_row_has_the_same_bits_on_the_matrix_unit_for_any_other_rows_and_terms_are_added_up() {
    if !has_matrix_unit() {
        return;
    }
    let (rows, inner, cols) = (50, 40, 64);
    let (x, w) = (numbers(rows * 2 * inner), numbers(inner * cols));
    let product = |rows: usize| {
        let left = Split::new(Mat::new(&x, rows, 2 * inner), 1.0, [inner, inner]);
        let right = Right::Floats(Mat::new(&w, inner, cols));
        let mut dst = vec![f32::NAN; rows * cols];
        let terms = [Term::new(&left, 0, right), Term::new(&left, 1, right)];
        matmul_split(MatMut::new(&mut dst, rows, cols), 0.0, &terms);
        dst
    };
    let all = product(rows);
    assert_eq!(all[..32 * cols], product(32));
    assert_eq!(all[..17 * cols], product(17));
    for (at, value) in all.iter().enumerate() {
        let (r, c) = (at / cols, at % cols);
        let term = |i: usize| x[r * 2 * inner + i] * w[i % inner * cols + c];
        let sum: f32 = (0..2 * inner).map(term).sum();
        assert!((value - sum).abs() < 1e-4, "{r} {c}: {value} {sum}");
    }
}

//! What the machine can do: the speed of matrix products, and of reading memory.

use std::time::Instant;

/// Rounds of a measurement. The best one counts: the others were slowed down by other programs.
const ROUNDS: usize = 5;

/// The speed of products of matrices that stay in the cache, on all threads at the same time, in billions of operations
/// a second.
pub(crate) fn gemm_gflop_s(threads: usize) -> f64 {
    const SIZE: usize = 256;
    const PRODUCTS: usize = 500;
    let work = || {
        let (a, b, mut c) =
            (vec![0.5f32; SIZE * SIZE], vec![0.25f32; SIZE * SIZE], vec![0.0f32; SIZE * SIZE]);
        for _ in 0..PRODUCTS {
            product(&mut c, &a, &b, SIZE);
        }
        assert!(c[0] > 0.0);
    };
    let round = || {
        let started = Instant::now();
        std::thread::scope(|scope| (0..threads).for_each(|_| drop(scope.spawn(work))));
        (threads * PRODUCTS * 2 * SIZE.pow(3)) as f64 / 1e9 / started.elapsed().as_secs_f64()
    };
    (0..ROUNDS).map(|_| round()).fold(0.0, f64::max)
}

/// The speed at which all threads together read `megabytes` of memory, each its own part, in GB/s.
pub(crate) fn read_gb_s(threads: usize, megabytes: f64) -> f64 {
    const TIMES: usize = 4;
    let part = (megabytes * 1e6 / 8.0) as usize / threads;
    let memory: Vec<Vec<u64>> = (0..threads).map(|i| vec![i as u64 + 1; part]).collect();
    let read = |memory: &[u64]| {
        for _ in 0..TIMES {
            // Eight sums: the additions of one would wait for each other.
            let mut sums = [0u64; 32];
            for chunk in memory.as_chunks::<32>().0 {
                sums.iter_mut().zip(chunk).for_each(|(sum, value)| *sum = sum.wrapping_add(*value));
            }
            assert_ne!(std::hint::black_box(sums)[0], 0);
        }
    };
    let round = || {
        let started = Instant::now();
        std::thread::scope(|scope| memory.iter().for_each(|it| drop(scope.spawn(|| read(it)))));
        (threads * TIMES * part * 8) as f64 / 1e9 / started.elapsed().as_secs_f64()
    };
    (0..ROUNDS).map(|_| round()).fold(0.0, f64::max)
}

/// `c = a·b` for square matrices.
#[allow(unsafe_code)]
fn product(c: &mut [f32], a: &[f32], b: &[f32], size: usize) {
    assert!([c.len(), a.len(), b.len()] == [size * size; 3]);
    let stride = size as isize;
    // The kernel takes columns without gaps: it computes the transpose of the product.
    // SAFETY: the three slices hold `size` rows of `size` initialised numbers, and `c` overlaps neither of the others.
    unsafe {
        gemm_f32::gemm::f32::get_gemm_fn()(
            size,
            size,
            size,
            c.as_mut_ptr(),
            stride,
            1,
            false,
            b.as_ptr(),
            stride,
            1,
            a.as_ptr(),
            stride,
            1,
            0.0,
            1.0,
            false,
            false,
            false,
            gemm_common::Parallelism::None,
        );
    }
}

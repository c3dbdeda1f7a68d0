//! Products on the matrix unit of newer processors: [`matmul_split`].

use std::cell::Cell;

use rayon::prelude::*;

use super::split::{self, Right};
use super::{Mat, MatMut, Start};

/// Number of rows and of columns of the destination that one task of [`matmul_split`] computes, and of steps of the
/// inner dimension after which it adds its sums to the destination.
const SPLIT_TASK: (usize, usize, usize) = (256, 256, 16);

/// Whether this machine has a matrix unit for bf16 numbers (AMX) that this process may use. The first call asks the system
/// for the permission, which it refuses if a thread has a stack for signals that is too small for the unit's registers.
#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
pub(crate) fn has_matrix_unit() -> bool {
    use std::arch::x86_64::__cpuid_count;
    use std::sync::LazyLock;
    /// The state component of tiles, and the number of the system call's function that asks to use it.
    const TILE_DATA: libc::c_long = 18;
    const ARCH_REQ_XCOMP_PERM: libc::c_long = 0x1023;
    static FOUND: LazyLock<bool> = LazyLock::new(|| {
        // SAFETY: all processors of this architecture have the instruction; leaf 7 exists if there is AVX-512.
        #[allow(unused_unsafe)] // Newer versions of the standard library declare it as safe.
        let has = is_x86_feature_detected!("avx512bw") && {
            let features = unsafe { __cpuid_count(7, 0) }.edx;
            features & (1 << 22) != 0 && features & (1 << 24) != 0
        };
        // SAFETY: the call changes nothing but the permission of this process to use the tile registers.
        has && unsafe { libc::syscall(libc::SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, TILE_DATA) } == 0
    });
    *FOUND
}

/// Only Linux on x86-64 is known to have one.
#[cfg(not(all(target_arch = "x86_64", target_os = "linux")))]
pub(crate) fn has_matrix_unit() -> bool {
    false
}

/// Rows of 32-bit floats as a left operand of the matrix unit. The columns form groups, each of which has an inner
/// dimension of its own.
#[derive(Debug)]
pub(crate) struct Split {
    tiles: Vec<split::Tile>,
    rows: usize,
    /// The width of each group, and its first step.
    groups: Vec<(usize, usize)>,
    /// Number of steps of all groups.
    steps: usize,
}

/// One product of a sum: a group of a left operand times a right operand.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Term<'a> {
    left: &'a Split,
    group: usize,
    right: Right<'a>,
}

impl<'a> Term<'a> {
    pub(crate) fn new(left: &'a Split, group: usize, right: Right<'a>) -> Term<'a> {
        Term { left, group, right }
    }
}

thread_local! {
    /// Memory of left operands, and that of the right operand of a task. Each thread keeps it for the next one.
    static LEFT_TILES: Cell<Vec<Vec<split::Tile>>> = const { Cell::new(Vec::new()) };
    static RIGHT_TILES: Cell<Vec<split::Tile>> = const { Cell::new(Vec::new()) };
}

impl Drop for Split {
    fn drop(&mut self) {
        let mut kept = LEFT_TILES.take();
        kept.push(std::mem::take(&mut self.tiles));
        LEFT_TILES.set(kept);
    }
}

impl Split {
    /// Packs a matrix times `scale`. Its columns have no gaps, and form groups of these widths.
    pub(crate) fn new(x: Mat<'_>, scale: f32, widths: impl IntoIterator<Item = usize>) -> Split {
        let mut steps = 0;
        let groups = widths.into_iter().map(|width| {
            steps += split::steps(width);
            (width, steps - split::steps(width))
        });
        let groups: Vec<_> = groups.collect();
        let len = x.rows.div_ceil(split::SIDE) * steps * split::LEFT;
        let mut kept = LEFT_TILES.take();
        let mut tiles = kept.pop().unwrap_or_default();
        LEFT_TILES.set(kept);
        if tiles.len() < len {
            // Drop the old tiles first: both together may take more memory than is planned.
            tiles = Vec::new();
            tiles.resize(len, split::Tile::ZERO);
        }
        let blocks = tiles[..len].par_chunks_mut((steps * split::LEFT).max(1)).enumerate().with_min_len(2);
        blocks.for_each(|(i, tiles)| {
            let mut at = 0;
            for &(width, step) in &groups {
                let tiles = &mut tiles[step * split::LEFT..][..split::steps(width) * split::LEFT];
                split::pack_left(
                    Mat { data: &x.data[at..], cols: width, ..x },
                    i * split::SIDE,
                    scale,
                    tiles,
                );
                at += width;
            }
        });
        Split { tiles, rows: x.rows, groups, steps }
    }

    /// Number of floats that take as much memory as rows with groups of these widths.
    pub(crate) fn len(rows: usize, widths: impl IntoIterator<Item = usize>) -> usize {
        let steps: usize = widths.into_iter().map(split::steps).sum();
        rows.div_ceil(split::SIDE) * steps * split::LEFT * (size_of::<split::Tile>() / size_of::<f32>())
    }

    /// The tiles of a block of rows and some steps of a group.
    fn block(&self, row: usize, group: usize, step: usize, steps: usize) -> &[split::Tile] {
        let at = row / split::SIDE * self.steps + self.groups[group].1 + step;
        &self.tiles[at * split::LEFT..][..steps * split::LEFT]
    }
}

/// `dst = keep·dst + (sum of all terms)` on the current rayon pool; `keep` is 0 or 1. Each task computes a tile of `dst`,
/// whose size depends only on the shapes.
pub(crate) fn matmul_split(dst: MatMut<'_>, keep: f32, terms: &[Term<'_>]) {
    let (rows, cols) = (dst.rows, dst.cols);
    for it in terms {
        let [inner, width] = it.right.shape();
        assert_eq!(it.left.groups[it.group].0, inner, "the inner dimensions differ");
        assert_eq!((rows, cols), (it.left.rows, width), "the destination has another shape");
    }
    let (task_rows, task_cols, task_steps) = SPLIT_TASK;
    let row_tasks = rows.div_ceil(task_rows);
    let start = Start(dst.data.as_mut_ptr());
    let stride = dst.row_stride;
    let task = |i: usize| {
        let (row, col) = (i % row_tasks * task_rows, i / row_tasks * task_cols);
        let (row_end, col_end) = (rows.min(row + task_rows), cols.min(col + task_cols));
        let mut tiles = RIGHT_TILES.take();
        let mut keep = keep != 0.0;
        for &Term { left, group, right } in terms {
            let all_steps = split::steps(right.shape()[0]);
            for step in (0..all_steps).step_by(task_steps) {
                let steps = task_steps.min(all_steps - step);
                let panel = steps * 2 * right.parts();
                let len = (col_end - col).div_ceil(split::SIDE) * panel;
                if tiles.len() < len {
                    tiles = vec![split::Tile::ZERO; len];
                }
                for (p, tiles) in tiles[..len].chunks_exact_mut(panel).enumerate() {
                    right.pack(col + p * split::SIDE, step, tiles);
                }
                for first in (row..row_end).step_by(split::SIDE) {
                    let left = left.block(first, group, step, steps);
                    let height = split::SIDE.min(row_end - first);
                    // SAFETY: the rows and columns lie inside `dst`, which is borrowed until the end of this function,
                    // and the tiles of different tasks do not overlap.
                    unsafe {
                        let dst = start.at(first * stride + col);
                        multiply(left, &tiles[..len], panel, dst, stride, [height, col_end - col], keep);
                    }
                }
                keep = true;
            }
        }
        RIGHT_TILES.set(tiles);
    };
    match row_tasks * cols.div_ceil(task_cols) {
        1 => task(0),
        count => (0..count).into_par_iter().with_max_len(1).for_each(task),
    }
}

/// `dst = keep·dst + left·right`, for a block of rows of a left operand, and blocks of columns of a right operand, which
/// have `panel` tiles each. The size of `dst` is that of the blocks, or less; its rows start `stride` elements apart.
///
/// # Safety
/// `dst` can be read and written, and no other thread accesses it.
#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
unsafe fn multiply(
    left: &[split::Tile],
    right: &[split::Tile],
    panel: usize,
    dst: *mut f32,
    stride: usize,
    [rows, cols]: [usize; 2],
    keep: bool,
) {
    use std::arch::asm;
    #[repr(C, align(64))]
    struct Aligned<T>(T);
    /// All eight registers have 16 lines of 64 bytes.
    static CONFIGURATION: Aligned<[u8; 64]> = {
        let mut bytes = [0; 64];
        bytes[0] = 1;
        let mut i = 0;
        while i < 8 {
            bytes[16 + 2 * i] = 64;
            bytes[48 + i] = 16;
            i += 1;
        }
        Aligned(bytes)
    };
    let steps = left.len() / split::LEFT;
    let exact = panel == steps * 2;
    assert!(has_matrix_unit(), "the machine lacks a matrix unit");
    assert!(steps > 0 && left.len() == steps * split::LEFT && right.len().is_multiple_of(panel));
    assert!(exact || panel == steps * split::LEFT, "the right operand has another inner dimension");
    // SAFETY: the processor has the instruction, and the process the permission. The compiler uses no tile registers.
    unsafe { asm!("ldtilecfg [{}]", in(reg) &raw const CONFIGURATION, options(nostack, readonly)) }
    // Two tiles of the left operand (its upper and lower rows) times two of the right one (its left and right columns).
    macro_rules! four {
        ($b0:literal, $b1:literal, $a0:literal, $a1:literal) => {
            concat!(
                "tileloadd tmm4, [{b} + {s} + ",
                $b0,
                "]\n tileloadd tmm6, [{a} + {s} + ",
                $a0,
                "]\n",
                "tdpbf16ps tmm0, tmm6, tmm4\n tileloadd tmm5, [{b} + {s} + ",
                $b1,
                "]\n",
                "tdpbf16ps tmm1, tmm6, tmm5\n tileloadd tmm7, [{a} + {s} + ",
                $a1,
                "]\n",
                "tdpbf16ps tmm2, tmm7, tmm4\n tdpbf16ps tmm3, tmm7, tmm5\n",
            )
        };
        ($a0:literal, $a1:literal) => {
            concat!(
                "tileloadd tmm6, [{a} + {s} + ",
                $a0,
                "]\n",
                "tdpbf16ps tmm0, tmm6, tmm4\n tileloadd tmm7, [{a} + {s} + ",
                $a1,
                "]\n",
                "tdpbf16ps tmm1, tmm6, tmm5\n tdpbf16ps tmm2, tmm7, tmm4\n tdpbf16ps tmm3, tmm7, tmm5\n",
            )
        };
    }
    macro_rules! block {
        ($right:expr, $dst:expr, $stride:expr, $keep:expr, $size:literal, $($products:expr),*) => {
            asm!(
                "test {keep}, {keep}",
                "jz 2f",
                "tileloadd tmm0, [{c} + {cs}]", "tileloadd tmm1, [{c} + {cs} + 64]",
                "tileloadd tmm2, [{d} + {cs}]", "tileloadd tmm3, [{d} + {cs} + 64]",
                "jmp 3f",
                "2:",
                "tilezero tmm0", "tilezero tmm1", "tilezero tmm2", "tilezero tmm3",
                "3:",
                $($products,)*
                "add {a}, 6144",
                concat!("add {b}, ", $size),
                "dec {n}",
                "jnz 3b",
                "tilestored [{c} + {cs}], tmm0", "tilestored [{c} + {cs} + 64], tmm1",
                "tilestored [{d} + {cs}], tmm2", "tilestored [{d} + {cs} + 64], tmm3",
                a = inout(reg) left.as_ptr() => _,
                b = inout(reg) $right.as_ptr() => _,
                n = inout(reg) steps => _,
                s = in(reg) 64usize,
                c = in(reg) $dst,
                d = in(reg) $dst.add(16 * $stride),
                cs = in(reg) 4 * $stride,
                keep = in(reg) usize::from($keep),
                out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
                out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
                options(nostack),
            )
        };
    }
    // SAFETY: each of the steps reads as many tiles as the slices have for it. A block of the destination is read and
    // written as a whole if it lies inside `dst`; otherwise the products go through `edge`.
    unsafe {
        let product = |right: &[split::Tile], dst: *mut f32, stride: usize, keep: bool| {
            if exact {
                block!(
                    right,
                    dst,
                    stride,
                    keep,
                    "2048",
                    four!("0", "1024", "0", "1024"),
                    four!("2048", "3072"),
                    four!("4096", "5120")
                );
            } else {
                block!(
                    right,
                    dst,
                    stride,
                    keep,
                    "6144",
                    // Upper, middle and lower parts of the left operand with upper parts of the right one.
                    four!("0", "1024", "0", "1024"),
                    four!("2048", "3072"),
                    four!("4096", "5120"),
                    // Upper and middle parts with middle parts.
                    four!("2048", "3072", "0", "1024"),
                    four!("2048", "3072"),
                    // Upper parts with lower parts.
                    four!("4096", "5120", "0", "1024")
                );
            }
        };
        let mut edge = Aligned([[0.0f32; split::SIDE]; split::SIDE]);
        for (p, right) in right.chunks_exact(panel).enumerate() {
            let dst = dst.add(p * split::SIDE);
            let width = split::SIDE.min(cols - p * split::SIDE);
            if width == split::SIDE && rows == split::SIDE {
                product(right, dst, stride, keep);
                continue;
            }
            // A row has the same bits in a whole block and in a part of one: the sums go on from the old numbers, too.
            if keep {
                for (r, to) in edge.0.iter_mut().take(rows).enumerate() {
                    to[..width].copy_from_slice(std::slice::from_raw_parts(dst.add(r * stride), width));
                }
            }
            product(right, edge.0.as_mut_ptr().cast(), split::SIDE, keep);
            for (r, from) in edge.0.iter().take(rows).enumerate() {
                std::slice::from_raw_parts_mut(dst.add(r * stride), width).copy_from_slice(&from[..width]);
            }
        }
    }
    // SAFETY: as above. Without tiles in use, the system has less to save when it changes threads.
    unsafe { asm!("tilerelease", options(nostack, nomem)) }
}

#[cfg(not(all(target_arch = "x86_64", target_os = "linux")))]
unsafe fn multiply(
    _: &[split::Tile],
    _: &[split::Tile],
    _: usize,
    _: *mut f32,
    _: usize,
    _: [usize; 2],
    _: bool,
) {
    unreachable!("`has_matrix_unit` has said that it is missing");
}

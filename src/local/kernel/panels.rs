//! Products with weights in panels, for the few rows of a decoding step: [`PanelProduct`].

#![deny(unsafe_code)]

use pulp::{Arch, Simd, WithSimd};
use rayon::prelude::*;

/// Number of outputs in one panel (see [`pack_panels`]). The weights of one input in a panel take 128 bytes: one or two
/// cache lines, or two AVX-512 registers.
pub(crate) const PANEL: usize = 32;

/// Number of weights that one thread multiplies in [`PanelProduct::run_in_parts`], if there are enough threads. At least
/// two threads share a product.
const PART: usize = 1 << 16;

/// Packs an `[outputs, inputs]` matrix into panels. A panel holds the weights of [`PANEL`] outputs, stored as
/// `[inputs][PANEL]`; the last panel is padded with zeros. A product with panels reads memory in sequence and never has
/// to add up the elements of one vector register.
pub(crate) fn pack_panels(weight: &[f32], outputs: usize, inputs: usize) -> Vec<f32> {
    let mut packed = vec![0.0; outputs.div_ceil(PANEL) * inputs * PANEL];
    for (o, row) in weight.chunks_exact(inputs).take(outputs).enumerate() {
        let panel = &mut packed[o / PANEL * inputs * PANEL..][..inputs * PANEL];
        for (slot, &value) in panel.iter_mut().skip(o % PANEL).step_by(PANEL).zip(row) {
            *slot = value;
        }
    }
    packed
}

/// Packs rows of `outputs` numbers, which start `stride` elements apart in `rows`, into panels: the product of a vector
/// with these panels is the sum of the rows, each times one number of the vector. `panels` is overwritten, its length
/// must be that of [`packed_rows_len`], and the last panel is padded with zeros.
pub(crate) fn pack_rows(rows: &[f32], stride: usize, outputs: usize, panels: &mut [f32]) {
    let count = panels.len() / outputs.next_multiple_of(PANEL).max(1);
    for (p, panel) in panels.chunks_exact_mut((count * PANEL).max(1)).enumerate() {
        let at = p * PANEL;
        let width = PANEL.min(outputs - at);
        for (slot, row) in panel.as_chunks_mut::<PANEL>().0.iter_mut().zip(rows.chunks(stride)) {
            slot[..width].copy_from_slice(&row[at..][..width]);
            slot[width..].fill(0.0);
        }
    }
}

/// Number of elements in the panels of `count` rows with `outputs` numbers each; see [`pack_rows`].
pub(crate) fn packed_rows_len(count: usize, outputs: usize) -> usize {
    count * outputs.next_multiple_of(PANEL)
}

/// Packs `outputs` rows with `inputs` numbers each, which start `stride` elements apart in `rows`, as [`pack_panels`]
/// does, into `panels`, and multiplies them by `scale`.
pub(crate) fn pack_scaled(
    rows: &[f32],
    stride: usize,
    [outputs, inputs]: [usize; 2],
    scale: f32,
    panels: &mut [f32],
) {
    let mut rows = rows.chunks(stride).take(outputs);
    for panel in panels.chunks_exact_mut((inputs * PANEL).max(1)) {
        for o in 0..PANEL {
            let slots = panel.iter_mut().skip(o).step_by(PANEL);
            match rows.next() {
                Some(row) => slots.zip(&row[..inputs]).for_each(|(slot, v)| *slot = v * scale),
                None => slots.for_each(|slot| *slot = 0.0),
            }
        }
    }
}

/// Number of elements in the panels of an `[outputs, inputs]` matrix; see [`pack_panels`].
pub(crate) fn panels_len(outputs: usize, inputs: usize) -> usize {
    outputs.next_multiple_of(PANEL) * inputs
}

/// `dst[r] = panels·x[r]` for a few rows `r`; with `keep`, the product is added to `dst[r]`.
///
/// Each output is one chain of multiply-adds over the inputs in order, so a row gets the same bits whether it is
/// computed alone or with other rows. A panel has room for `panel_inputs` inputs, but only the first `inputs` are read:
/// a cache that still grows can be multiplied without copying it.
#[derive(Debug)]
pub(crate) struct PanelProduct<'a> {
    pub(crate) panels: &'a [f32],
    pub(crate) panel_inputs: usize,
    pub(crate) inputs: usize,
    pub(crate) outputs: usize,
    pub(crate) rows: usize,
    pub(crate) x: &'a [f32],
    pub(crate) x_stride: usize,
    pub(crate) dst: &'a mut [f32],
    pub(crate) dst_stride: usize,
    pub(crate) keep: bool,
}

impl PanelProduct<'_> {
    /// Computes the product on the calling thread.
    pub(crate) fn run(self) {
        if self.rows > 0 && self.outputs > 0 {
            Arch::new().dispatch(self);
        }
    }

    /// Computes the product on the current rayon pool: each thread computes some of the panels, as a rule the same ones
    /// at each call, so that they stay in its cache. `scratch` is overwritten.
    pub(crate) fn run_in_parts(self, scratch: &mut Vec<f32>) {
        let (rows, outputs, panel_len) = (self.rows, self.outputs, self.panel_inputs * PANEL);
        let count = outputs.div_ceil(PANEL);
        let wanted = (count * panel_len).div_ceil(PART).max(2).min(rayon::current_num_threads());
        let part_panels = count.div_ceil(wanted);
        if rows == 0 || part_panels == count {
            return self.run();
        }
        let width = part_panels * PANEL;
        let panels = self.panels[..count * panel_len].par_chunks(part_panels * panel_len);
        let PanelProduct { panel_inputs, inputs, x, x_stride, keep, .. } = self;
        let part = |panels: &[f32], dst: &mut [f32], dst_stride: usize, outputs: usize, keep: bool| {
            PanelProduct { panels, panel_inputs, inputs, outputs, rows, x, x_stride, dst, dst_stride, keep }
                .run();
        };
        if rows == 1 {
            let parts = panels.zip(self.dst[..outputs].par_chunks_mut(width)).with_max_len(1);
            return parts.for_each(|(panels, dst)| part(panels, dst, width, dst.len(), keep));
        }
        // Threads that write into the same rows would share cache lines: each part has memory of its own.
        scratch.resize(count.div_ceil(part_panels) * rows * width, 0.0);
        let parts = panels.zip(scratch.par_chunks_mut(rows * width)).enumerate().with_max_len(1);
        parts.for_each(|(i, (panels, part_dst))| {
            part(panels, part_dst, width, width.min(outputs - i * width), false);
        });
        for (i, from) in scratch.chunks_exact(rows * width).enumerate() {
            let len = width.min(outputs - i * width);
            for (r, from) in from.chunks_exact(width).enumerate() {
                let slot = &mut self.dst[r * self.dst_stride + i * width..][..len];
                if keep {
                    slot.iter_mut().zip(from).for_each(|(slot, value)| *slot += value);
                } else {
                    slot.copy_from_slice(&from[..len]);
                }
            }
        }
    }
}

impl WithSimd for PanelProduct<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        // Size of a tile of accumulators: NV vectors per panel, R rows, P panels. A tile must fit into the vector
        // registers, and it must be large enough to hide the latency of a multiply-add. R1 is the number of rows in a
        // tile of a single panel.
        match (S::F32_LANES, self.rows) {
            (16, 1) => self.walk::<S, 2, 1, 4, 1>(simd),
            (16, _) => self.walk::<S, 2, 4, 2, 8>(simd),
            (8, 1) => self.walk::<S, 4, 1, 2, 1>(simd),
            (8, _) => self.walk::<S, 4, 2, 1, 2>(simd),
            (4, _) => self.walk::<S, 8, 1, 1, 1>(simd),
            _ => self.walk::<S, 32, 1, 1, 1>(simd),
        }
    }
}

impl PanelProduct<'_> {
    /// Loops over the panels outside and over the rows inside, so that each panel is read from memory once for all
    /// rows.
    #[inline(always)]
    fn walk<S: Simd, const NV: usize, const R: usize, const P: usize, const R1: usize>(mut self, simd: S) {
        let count = self.outputs.div_ceil(PANEL);
        let mut panel = 0;
        while panel + P <= count {
            self.rows::<S, NV, R, P>(simd, panel);
            panel += P;
        }
        while P > 2 && panel + 2 <= count {
            self.rows::<S, NV, R, 2>(simd, panel);
            panel += 2;
        }
        while panel < count {
            self.rows::<S, NV, R1, 1>(simd, panel);
            panel += 1;
        }
    }

    /// Multiplies `P` panels with all rows: `R` rows at a time, then the remaining rows in smaller tiles.
    #[inline(always)]
    fn rows<S: Simd, const NV: usize, const R: usize, const P: usize>(&mut self, simd: S, panel: usize) {
        let mut row = 0;
        while row + R <= self.rows {
            self.tile::<S, NV, R, P>(simd, panel, row);
            row += R;
        }
        while R > 4 && row + 4 <= self.rows {
            self.tile::<S, NV, 4, P>(simd, panel, row);
            row += 4;
        }
        while R > 2 && row + 2 <= self.rows {
            self.tile::<S, NV, 2, P>(simd, panel, row);
            row += 2;
        }
        while row < self.rows {
            self.tile::<S, NV, 1, P>(simd, panel, row);
            row += 1;
        }
    }

    #[inline(always)]
    fn tile<S: Simd, const NV: usize, const R: usize, const P: usize>(
        &mut self,
        simd: S,
        panel: usize,
        row: usize,
    ) {
        let panel_len = self.panel_inputs * PANEL;
        // Loops, because the compiler takes long for `array::from_fn` in so many forms of this function.
        let mut panels: [&[[f32; PANEL]]; P] = [&[]; P];
        for (p, slot) in panels.iter_mut().enumerate() {
            *slot = self.panels[(panel + p) * panel_len..][..self.inputs * PANEL].as_chunks::<PANEL>().0;
        }
        let mut x: [&[f32]; R] = [&[]; R];
        for (r, slot) in x.iter_mut().enumerate() {
            *slot = &self.x[(row + r) * self.x_stride..][..self.inputs];
        }
        let tile = accumulate::<S, NV, R, P>(simd, panels, x);
        for (p, rows) in tile.iter().enumerate() {
            let at = (panel + p) * PANEL;
            let width = PANEL.min(self.outputs - at);
            for (r, vectors) in rows.iter().enumerate() {
                let slot = &mut self.dst[(row + r) * self.dst_stride + at..][..width];
                store::<S, NV>(slot, self.keep, vectors);
            }
        }
    }
}

/// `dst += xᵀ·panels`, where `x` has `inputs` rows, and a row of `dst` belongs to a column of `x`. The panels hold
/// `[inputs, outputs]`, packed by [`pack_rows`].
#[derive(Debug)]
pub(crate) struct TransposedProduct<'a> {
    pub(crate) panels: &'a [f32],
    pub(crate) inputs: usize,
    pub(crate) outputs: usize,
    /// Number of rows of `dst`.
    pub(crate) rows: usize,
    pub(crate) x: &'a [f32],
    pub(crate) x_stride: usize,
    /// Row-major without gaps.
    pub(crate) dst: &'a mut [f32],
}

impl TransposedProduct<'_> {
    /// Computes the product on the calling thread.
    pub(crate) fn run(self) {
        if self.rows > 0 && self.outputs > 0 {
            Arch::new().dispatch(self);
        }
    }
}

impl WithSimd for TransposedProduct<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        match S::F32_LANES {
            16 => self.walk::<S, 2, 8>(simd),
            8 => self.walk::<S, 4, 2>(simd),
            4 => self.walk::<S, 8, 1>(simd),
            _ => self.walk::<S, 32, 1>(simd),
        }
    }
}

impl TransposedProduct<'_> {
    #[inline(always)]
    fn walk<S: Simd, const NV: usize, const R: usize>(mut self, simd: S) {
        for panel in 0..self.outputs.div_ceil(PANEL) {
            let mut row = 0;
            while row + R <= self.rows {
                self.tile::<S, NV, R>(simd, panel, row);
                row += R;
            }
            while row < self.rows {
                self.tile::<S, NV, 1>(simd, panel, row);
                row += 1;
            }
        }
    }

    #[inline(always)]
    fn tile<S: Simd, const NV: usize, const R: usize>(&mut self, simd: S, panel: usize, row: usize) {
        let weights = self.panels[panel * self.inputs * PANEL..].as_chunks::<PANEL>().0;
        let mut acc = [[simd.splat_f32s(0.0); NV]; R];
        for (weights, x) in weights[..self.inputs].iter().zip(self.x.chunks(self.x_stride)) {
            let weights = S::as_simd_f32s(weights).0;
            let x: &[f32; R] = x[row..].first_chunk().unwrap_or(&[0.0; R]);
            for r in 0..R {
                let value = simd.splat_f32s(x[r]);
                for v in 0..NV {
                    acc[r][v] = simd.mul_add_e_f32s(value, weights[v], acc[r][v]);
                }
            }
        }
        let at = panel * PANEL;
        let width = PANEL.min(self.outputs - at);
        for (r, vectors) in acc.iter().enumerate() {
            let slot = &mut self.dst[(row + r) * self.outputs + at..][..width];
            store::<S, NV>(slot, true, vectors);
        }
    }
}

/// Computes one tile: the products of `P` panels with `R` rows.
#[inline(always)]
fn accumulate<S: Simd, const NV: usize, const R: usize, const P: usize>(
    simd: S,
    mut panels: [&[[f32; PANEL]]; P],
    mut x: [&[f32]; R],
) -> [[[S::f32s; NV]; R]; P] {
    let mut acc = [[[simd.splat_f32s(0.0); NV]; R]; P];
    let inputs = x[0].len();
    // Slices of the same length let the compiler omit the bounds checks in the loop.
    for panel in &mut panels {
        *panel = &panel[..inputs];
    }
    for x in &mut x {
        *x = &x[..inputs];
    }
    for i in 0..inputs {
        for p in 0..P {
            let weights = S::as_simd_f32s(&panels[p][i]).0;
            for r in 0..R {
                let value = simd.splat_f32s(x[r][i]);
                for v in 0..NV {
                    acc[p][r][v] = simd.mul_add_e_f32s(value, weights[v], acc[p][r][v]);
                }
            }
        }
    }
    acc
}

/// Writes the products of one row with one panel to `slot`, or adds them if `keep` is set. `slot` may be shorter than a
/// panel.
#[inline(always)]
fn store<S: Simd, const NV: usize>(slot: &mut [f32], keep: bool, vectors: &[S::f32s; NV]) {
    if let Ok(slot) = <&mut [f32; PANEL]>::try_from(&mut *slot) {
        // The usual case has a length that the compiler knows.
        let mut values = [0.0f32; PANEL];
        S::as_mut_simd_f32s(&mut values).0.copy_from_slice(vectors);
        for (slot, value) in slot.iter_mut().zip(values) {
            *slot = if keep { *slot + value } else { value };
        }
        return;
    }
    let mut values = [0.0f32; PANEL];
    S::as_mut_simd_f32s(&mut values).0.copy_from_slice(vectors);
    if keep {
        for (slot, value) in slot.iter_mut().zip(values) {
            *slot += value;
        }
    } else {
        slot.copy_from_slice(&values[..slot.len()]);
    }
}

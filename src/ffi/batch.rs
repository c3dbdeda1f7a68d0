//! `tinkex_batch`: training examples.

use std::ffi::c_char;

use super::border::{self, Fault, Out, Result};
use super::code;
use super::datum_json;
use super::error::tinkex_error;
use super::examples::{Examples, rows};
use super::input::{self, tinkex_input};
use super::object::{self, Kind, Object};
use super::text::{Text, tinkex_text};
use super::tinkex_code;
use crate::sync::Mutex;
use crate::types::{Datum, TensorData, Values};

pub type tinkex_batch = Object<Batch>;

/// Examples that can be sent any number of times.
#[derive(Default)]
pub struct Batch(Mutex<Examples>);

impl Kind for Batch {
    const NAME: &'static str = "batch";
}

impl Batch {
    /// The examples, as they are sent.
    pub(super) fn data(&self) -> Vec<Datum> {
        self.0.lock().data()
    }
}

/// The body of a function that adds examples: writes the index of the first one.
///
/// # Safety
/// See the header.
unsafe fn add(
    batch: *mut tinkex_batch,
    index: *mut usize,
    error: *mut *mut tinkex_error,
    add: impl FnOnce(&Batch) -> Result<usize>,
) -> tinkex_code {
    // SAFETY: promised by the caller.
    unsafe {
        let index = Out::cleared(index, 0);
        border::run(error, || {
            index.set(add(object::get(batch)?)?);
            Ok(())
        })
    }
}

/// The offsets of a single row of `n` values.
fn one_row(n: usize, name: &str) -> Result<[i64; 2]> {
    let n = i64::try_from(n)
        .map_err(|_| Fault::new(code::LENGTH, format!("`{name}` has an impossible length: {n}")).at(name))?;
    Ok([0, n])
}

/// The sizes and the number of values of a dense tensor.
///
/// # Safety
/// As for [`border::array`].
unsafe fn shape(shape: *const usize, dims: usize) -> Result<(Vec<usize>, usize)> {
    // SAFETY: promised by the caller.
    let sizes = unsafe { border::array(shape, dims, "shape") }?;
    let n = sizes.iter().try_fold(1usize, |n, size| n.checked_mul(*size));
    let n = n.ok_or_else(|| {
        Fault::new(code::LENGTH, format!("a tensor of the shape {sizes:?} is too large")).at("shape")
    })?;
    Ok((sizes.to_vec(), n))
}

fn widened(values: &[i32]) -> Vec<i64> {
    values.iter().map(|value| i64::from(*value)).collect()
}

/// The body of a function that sets a dense loss input; `convert` makes its values of the caller's.
///
/// # Safety
/// See the header.
unsafe fn set_dense<T>(
    (batch, index): (*mut tinkex_batch, usize),
    name: *const c_char,
    values: *const T,
    (shape, dims): (*const usize, usize),
    error: *mut *mut tinkex_error,
    convert: fn(&[T]) -> Values,
) -> tinkex_code {
    // SAFETY: promised by the caller.
    unsafe {
        border::run(error, || {
            let batch = object::get(batch)?;
            let name = border::text(name, "name")?;
            let (shape, n) = self::shape(shape, dims)?;
            let values = convert(border::array(values, n, "values")?);
            let tensor = TensorData { values, shape: Some(shape), sparse: None };
            batch.0.lock().set(index, name, tensor)
        })
    }
}

/// As [`set_dense`], for a sparse matrix.
///
/// # Safety
/// See the header.
unsafe fn set_csr<T>(
    (batch, index): (*mut tinkex_batch, usize),
    name: *const c_char,
    shape: [usize; 2],
    (row_offsets, column_indices): (*const i64, *const i64),
    values: *const T,
    error: *mut *mut tinkex_error,
    convert: fn(&[T]) -> Values,
) -> tinkex_code {
    // SAFETY: promised by the caller.
    unsafe {
        border::run(error, || {
            let batch = object::get(batch)?;
            let name = border::text(name, "name")?;
            let row_offsets = border::offsets(row_offsets, shape[0], "row_offsets")?;
            let n = border::n_values(row_offsets, "row_offsets")?;
            let columns = border::array(column_indices, n, "column_indices")?;
            let values = convert(border::array(values, n, "values")?);
            let tensor = TensorData::from_csr(shape, row_offsets.to_vec(), columns.to_vec(), values);
            batch.0.lock().set(index, name, tensor)
        })
    }
}

/// The body of a function that sets a loss input of consecutive examples.
///
/// # Safety
/// See the header.
unsafe fn set_all<T>(
    (batch, first, n): (*mut tinkex_batch, usize, usize),
    name: *const c_char,
    offsets: *const i64,
    values: *const T,
    error: *mut *mut tinkex_error,
    convert: fn(&[T]) -> TensorData,
) -> tinkex_code {
    // SAFETY: promised by the caller.
    unsafe {
        border::run(error, || {
            let batch = object::get(batch)?;
            let name = border::text(name, "name")?;
            let offsets = border::offsets(offsets, n, "offsets")?;
            let values = border::array(values, border::n_values(offsets, "offsets")?, "values")?;
            let tensors = rows(offsets).map(|row| convert(&values[row])).collect();
            batch.0.lock().set_all(first, name, tensors)
        })
    }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn tinkex_batch_new() -> *mut tinkex_batch {
    border::value(std::ptr::null_mut(), || Ok(Object::make(Batch::default())))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn tinkex_batch_free(batch: *mut *mut tinkex_batch) {
    // SAFETY: see the header.
    unsafe { object::free(batch) }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn tinkex_batch_clear(batch: *mut tinkex_batch) {
    border::value((), || {
        // SAFETY: see the header.
        unsafe { object::get(batch) }?.0.lock().clear();
        Ok(())
    });
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn tinkex_batch_len(batch: *const tinkex_batch) -> usize {
    // SAFETY: see the header.
    border::value(0, || Ok(unsafe { object::get(batch) }?.0.lock().len()))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn tinkex_batch_add_tokens(
    batch: *mut tinkex_batch,
    tokens: *const i32,
    n: usize,
    index: *mut usize,
    error: *mut *mut tinkex_error,
) -> tinkex_code {
    // SAFETY: see the header.
    unsafe {
        add(batch, index, error, |batch| {
            let tokens = border::array(tokens, n, "tokens")?;
            batch.0.lock().add_tokens(&one_row(n, "tokens")?, tokens)
        })
    }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn tinkex_batch_add_input(
    batch: *mut tinkex_batch,
    input: *const tinkex_input,
    index: *mut usize,
    error: *mut *mut tinkex_error,
) -> tinkex_code {
    // SAFETY: see the header.
    unsafe {
        add(batch, index, error, |batch| {
            let datum = Datum::new(input::read(input)?);
            datum.validate("input")?;
            Ok(batch.0.lock().add(datum))
        })
    }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn tinkex_batch_add_completion(
    batch: *mut tinkex_batch,
    prompt: *const i32,
    n_prompt: usize,
    completion: *const i32,
    n_completion: usize,
    index: *mut usize,
    error: *mut *mut tinkex_error,
) -> tinkex_code {
    // SAFETY: see the header.
    unsafe {
        add(batch, index, error, |batch| {
            let prompt = border::array(prompt, n_prompt, "prompt")?;
            let completion = border::array(completion, n_completion, "completion")?;
            batch.0.lock().add_completion(prompt, completion)
        })
    }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn tinkex_batch_add_weighted(
    batch: *mut tinkex_batch,
    tokens: *const i32,
    weights: *const f32,
    n: usize,
    index: *mut usize,
    error: *mut *mut tinkex_error,
) -> tinkex_code {
    // SAFETY: see the header.
    unsafe {
        add(batch, index, error, |batch| {
            let tokens = border::array(tokens, n, "tokens")?;
            let weights = border::array(weights, n, "weights")?;
            batch.0.lock().add_weighted(&one_row(n, "tokens")?, tokens, weights)
        })
    }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn tinkex_batch_add_weighted_many(
    batch: *mut tinkex_batch,
    n: usize,
    offsets: *const i64,
    tokens: *const i32,
    weights: *const f32,
    first: *mut usize,
    error: *mut *mut tinkex_error,
) -> tinkex_code {
    // SAFETY: see the header.
    unsafe {
        add(batch, first, error, |batch| {
            let offsets = border::offsets(offsets, n, "offsets")?;
            let n = border::n_values(offsets, "offsets")?;
            let tokens = border::array(tokens, n, "tokens")?;
            let weights = border::array(weights, n, "weights")?;
            batch.0.lock().add_weighted(offsets, tokens, weights)
        })
    }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn tinkex_batch_add_tokens_many(
    batch: *mut tinkex_batch,
    n: usize,
    offsets: *const i64,
    tokens: *const i32,
    first: *mut usize,
    error: *mut *mut tinkex_error,
) -> tinkex_code {
    // SAFETY: see the header.
    unsafe {
        add(batch, first, error, |batch| {
            let offsets = border::offsets(offsets, n, "offsets")?;
            let tokens = border::array(tokens, border::n_values(offsets, "offsets")?, "tokens")?;
            batch.0.lock().add_tokens(offsets, tokens)
        })
    }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn tinkex_batch_set_f32(
    batch: *mut tinkex_batch,
    index: usize,
    name: *const c_char,
    values: *const f32,
    shape: *const usize,
    dims: usize,
    error: *mut *mut tinkex_error,
) -> tinkex_code {
    // SAFETY: see the header.
    unsafe {
        set_dense((batch, index), name, values, (shape, dims), error, |values| Values::F32(values.to_vec()))
    }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn tinkex_batch_set_i64(
    batch: *mut tinkex_batch,
    index: usize,
    name: *const c_char,
    values: *const i64,
    shape: *const usize,
    dims: usize,
    error: *mut *mut tinkex_error,
) -> tinkex_code {
    // SAFETY: see the header.
    unsafe {
        set_dense((batch, index), name, values, (shape, dims), error, |values| Values::I64(values.to_vec()))
    }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn tinkex_batch_set_i32(
    batch: *mut tinkex_batch,
    index: usize,
    name: *const c_char,
    values: *const i32,
    shape: *const usize,
    dims: usize,
    error: *mut *mut tinkex_error,
) -> tinkex_code {
    // SAFETY: see the header.
    unsafe {
        set_dense((batch, index), name, values, (shape, dims), error, |values| Values::I64(widened(values)))
    }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn tinkex_batch_set_csr_f32(
    batch: *mut tinkex_batch,
    index: usize,
    name: *const c_char,
    rows: usize,
    columns: usize,
    row_offsets: *const i64,
    column_indices: *const i64,
    values: *const f32,
    error: *mut *mut tinkex_error,
) -> tinkex_code {
    let convert = |values: &[f32]| Values::F32(values.to_vec());
    // SAFETY: see the header.
    unsafe {
        set_csr((batch, index), name, [rows, columns], (row_offsets, column_indices), values, error, convert)
    }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn tinkex_batch_set_csr_i64(
    batch: *mut tinkex_batch,
    index: usize,
    name: *const c_char,
    rows: usize,
    columns: usize,
    row_offsets: *const i64,
    column_indices: *const i64,
    values: *const i64,
    error: *mut *mut tinkex_error,
) -> tinkex_code {
    let convert = |values: &[i64]| Values::I64(values.to_vec());
    // SAFETY: see the header.
    unsafe {
        set_csr((batch, index), name, [rows, columns], (row_offsets, column_indices), values, error, convert)
    }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn tinkex_batch_set_all_f32(
    batch: *mut tinkex_batch,
    first: usize,
    n: usize,
    name: *const c_char,
    offsets: *const i64,
    values: *const f32,
    error: *mut *mut tinkex_error,
) -> tinkex_code {
    // SAFETY: see the header.
    unsafe { set_all((batch, first, n), name, offsets, values, error, |values| values.into()) }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn tinkex_batch_set_all_i32(
    batch: *mut tinkex_batch,
    first: usize,
    n: usize,
    name: *const c_char,
    offsets: *const i64,
    values: *const i32,
    error: *mut *mut tinkex_error,
) -> tinkex_code {
    // SAFETY: see the header.
    unsafe { set_all((batch, first, n), name, offsets, values, error, |values| values.into()) }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn tinkex_batch_set_provenance(
    batch: *mut tinkex_batch,
    index: usize,
    json: *const c_char,
    error: *mut *mut tinkex_error,
) -> tinkex_code {
    // SAFETY: see the header.
    unsafe {
        border::run(error, || {
            let batch = object::get(batch)?;
            let provenance = datum_json::read_provenance(border::text(json, "json")?)?;
            batch.0.lock().set_provenance(index, provenance)
        })
    }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn tinkex_batch_json(
    batch: *const tinkex_batch,
    json: *mut *mut tinkex_text,
    error: *mut *mut tinkex_error,
) -> tinkex_code {
    // SAFETY: see the header.
    unsafe {
        let json = Out::cleared(json, std::ptr::null_mut());
        border::run(error, || {
            json.required("json")?;
            let data = object::get(batch)?.data();
            json.set(Text::make(datum_json::write(&data)?));
            Ok(())
        })
    }
}

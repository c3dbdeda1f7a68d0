//! The outputs of passes: tensors for each example, borrowed where their form is that of C, otherwise converted once.

use std::collections::BTreeMap;
use std::ffi::c_char;
use std::ptr;
use std::sync::{Arc, OnceLock};

use super::border::{self, Fault, Out, Result};
use super::code;
use super::error::tinkex_error;
use super::object;
use super::result::{Outcome, ResultView, start_of, tinkex_result};
use super::tinkex_code;
use crate::sync::Mutex;
use crate::types::{ForwardBackwardOutput, TensorData, Values};

/// Converted outputs. Nothing is removed or changed, so that their addresses stay valid as long as the result.
#[derive(Default)]
pub(super) struct OutputArrays {
    /// The outputs of examples in the form of C, by example and name.
    converted: Mutex<BTreeMap<(usize, String), Arc<Converted>>>,
    /// The outputs of all examples, by name.
    flat: Mutex<BTreeMap<String, Arc<Flat>>>,
}

/// An output that is sparse, or whose shape the server did not send.
struct Converted {
    shape: Vec<usize>,
    /// The dense tensor, if the output is sparse.
    dense: OnceLock<TensorData>,
}

/// The values of several examples, one after the other.
struct Flat {
    /// Number of examples + 1.
    offsets: Vec<i64>,
    values: Vec<f32>,
}

impl ResultView {
    fn pass(&self) -> Result<&ForwardBackwardOutput> {
        match self.outcome() {
            Outcome::Pass(pass) => Ok(pass),
            _ => Err(self.wrong_kind("pass")),
        }
    }

    /// The output of an example.
    fn output(&self, example: usize, name: &str) -> Result<&TensorData> {
        let all = &self.pass()?.loss_fn_outputs;
        let outputs = all.get(example).ok_or_else(|| Fault::range("example", example, all.len()))?;
        outputs.get(name).ok_or_else(|| {
            let known: Vec<&str> = outputs.keys().map(String::as_str).collect();
            Fault::name("output", name, &known)
        })
    }

    fn converted(&self, example: usize, name: &str, tensor: &TensorData) -> Arc<Converted> {
        let mut all = self.cache().outputs.converted.lock();
        let made = all.entry((example, name.into()));
        made.or_insert_with(|| Arc::new(Converted { shape: tensor.shape(), dense: OnceLock::new() })).clone()
    }

    /// Start and number of the values of an output, all of them also if it is sparse. `of_type` returns the values if
    /// they are of the type that the caller wants.
    fn output_values<T>(
        &self,
        example: usize,
        name: &str,
        of_type: fn(&TensorData) -> Option<&[T]>,
        other_function: &str,
    ) -> Result<(*const T, usize)> {
        let tensor = self.output(example, name)?;
        let wrong_type = || {
            let dtype = tensor.values.dtype();
            let text = format!("the output `{name}` holds {dtype} values: read them with {other_function}");
            Fault::new(code::KIND, text).at(name)
        };
        let start_and_number = |values: &[T]| (start_of(values), values.len());
        if tensor.sparse.is_none() {
            return of_type(tensor).map(start_and_number).ok_or_else(wrong_type);
        }
        if of_type(tensor).is_none() {
            return Err(wrong_type());
        }
        let converted = self.converted(example, name, tensor);
        let dense = match converted.dense.get() {
            Some(dense) => dense,
            None => {
                let made = dense(tensor, 0.0, name)?;
                converted.dense.get_or_init(|| made)
            }
        };
        // The map keeps the tensor.
        of_type(dense).map(start_and_number).ok_or_else(wrong_type)
    }

    fn flat(&self, name: &str) -> Result<Arc<Flat>> {
        let pass = self.pass()?;
        let mut all = self.cache().outputs.flat.lock();
        if let Some(flat) = all.get(name) {
            return Ok(flat.clone());
        }
        let mut flat = Flat { offsets: vec![0], values: Vec::new() };
        for example in 0..pass.loss_fn_outputs.len() {
            let missing = |fault: Fault| fault.at(format!("loss_fn_outputs[{example}].{name}"));
            let tensor = self.output(example, name).map_err(missing)?;
            let Some(stored) = tensor.as_f32() else {
                let dtype = tensor.values.dtype();
                let text = format!("the output `{name}` of example {example} holds {dtype} values");
                return Err(missing(Fault::new(code::KIND, text)));
            };
            if tensor.sparse.is_none() {
                flat.values.extend_from_slice(stored);
            } else {
                let dense = dense(tensor, 0.0, name)?;
                flat.values.extend_from_slice(dense.as_f32().unwrap_or_default());
            }
            // Memory holds fewer values than i64::MAX.
            flat.offsets.push(flat.values.len() as i64);
        }
        let flat = Arc::new(flat);
        all.insert(name.into(), flat.clone());
        Ok(flat)
    }
}

/// A dense copy of a tensor. Floats that a sparse tensor does not store become `missing`, integers become 0.
pub(super) fn dense(tensor: &TensorData, missing: f32, name: &str) -> Result<TensorData> {
    tensor.validate(name)?;
    tensor.check_room(name)?;
    let mut dense = tensor.clone();
    dense.make_dense();
    if missing != 0.0
        && let (Some(_), Values::F32(values)) = (&tensor.sparse, &mut dense.values)
    {
        // Ones at the stored positions.
        let mut stored = tensor.clone();
        stored.values = Values::I64(vec![1; tensor.values.len()]);
        stored.make_dense();
        for (value, stored) in values.iter_mut().zip(stored.as_i64().unwrap_or_default()) {
            if *stored == 0 {
                *value = missing;
            }
        }
    }
    Ok(dense)
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn tinkex_result_example_count(result: *const tinkex_result) -> usize {
    border::value(0, || {
        // SAFETY: see the header.
        match unsafe { object::get(result) }?.outcome() {
            Outcome::Pass(pass) => Ok(pass.loss_fn_outputs.len()),
            _ => Ok(0),
        }
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn tinkex_result_output_f32(
    result: *const tinkex_result,
    example: usize,
    name: *const c_char,
    values: *mut *const f32,
    n: *mut usize,
    error: *mut *mut tinkex_error,
) -> tinkex_code {
    // SAFETY: see the header.
    unsafe {
        let (values, n) = (Out::cleared(values, ptr::null()), Out::cleared(n, 0));
        border::run(error, || {
            values.required("values")?;
            let (view, name) = (object::get(result)?, border::text(name, "name")?);
            let (start, number) =
                view.output_values(example, name, TensorData::as_f32, "tinkex_result_output_i64")?;
            values.set(start);
            n.set(number);
            Ok(())
        })
    }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn tinkex_result_output_i64(
    result: *const tinkex_result,
    example: usize,
    name: *const c_char,
    values: *mut *const i64,
    n: *mut usize,
    error: *mut *mut tinkex_error,
) -> tinkex_code {
    // SAFETY: see the header.
    unsafe {
        let (values, n) = (Out::cleared(values, ptr::null()), Out::cleared(n, 0));
        border::run(error, || {
            values.required("values")?;
            let (view, name) = (object::get(result)?, border::text(name, "name")?);
            let (start, number) =
                view.output_values(example, name, TensorData::as_i64, "tinkex_result_output_f32")?;
            values.set(start);
            n.set(number);
            Ok(())
        })
    }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn tinkex_result_output_shape(
    result: *const tinkex_result,
    example: usize,
    name: *const c_char,
    shape: *mut *const usize,
    dims: *mut usize,
    error: *mut *mut tinkex_error,
) -> tinkex_code {
    // SAFETY: see the header.
    unsafe {
        let (shape, dims) = (Out::cleared(shape, ptr::null()), Out::cleared(dims, 0));
        border::run(error, || {
            shape.required("shape")?;
            dims.required("dims")?;
            let (view, name) = (object::get(result)?, border::text(name, "name")?);
            let tensor = view.output(example, name)?;
            match &tensor.shape {
                Some(sizes) => {
                    shape.set(start_of(sizes));
                    dims.set(sizes.len());
                }
                None => {
                    // The map keeps the shape.
                    let converted = view.converted(example, name, tensor);
                    shape.set(start_of(&converted.shape));
                    dims.set(converted.shape.len());
                }
            }
            Ok(())
        })
    }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn tinkex_result_outputs_f32(
    result: *const tinkex_result,
    name: *const c_char,
    offsets: *mut *const i64,
    values: *mut *const f32,
    error: *mut *mut tinkex_error,
) -> tinkex_code {
    // SAFETY: see the header.
    unsafe {
        let (offsets, values) = (Out::cleared(offsets, ptr::null()), Out::cleared(values, ptr::null()));
        border::run(error, || {
            offsets.required("offsets")?;
            values.required("values")?;
            let (view, name) = (object::get(result)?, border::text(name, "name")?);
            // The map keeps the arrays.
            let flat = view.flat(name)?;
            offsets.set(start_of(&flat.offsets));
            values.set(start_of(&flat.values));
            Ok(())
        })
    }
}

#[cfg(all(test, not(shuttle)))]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn view(outputs: Vec<(&str, TensorData)>) -> ResultView {
        let outputs = outputs.into_iter().map(|(name, tensor)| [(name.to_string(), tensor)].into());
        let pass = ForwardBackwardOutput { loss_fn_outputs: outputs.collect(), ..Default::default() };
        ResultView::new(Outcome::Pass(pass))
    }

    fn sparse() -> TensorData {
        TensorData::from_csr([2, 2], vec![0, 1, 1], vec![1], Values::F32(vec![7.0]))
    }

    #[test]
    fn outputs_of_all_examples_are_one_array_with_offsets() {
        let view =
            view(vec![("x", vec![1.0f32, 2.0].into()), ("x", Vec::<f32>::new().into()), ("x", sparse())]);
        let flat = view.flat("x").unwrap();
        assert_eq!(flat.offsets, [0, 2, 2, 6]);
        assert_eq!(flat.values, [1.0, 2.0, 0.0, 7.0, 0.0, 0.0]);
        assert!(Arc::ptr_eq(&flat, &view.flat("x").unwrap()));
        assert_eq!(view.flat("y").map(|_| ()).unwrap_err().code(), code::NAME);
    }

    #[test]
    fn a_wrong_example_name_or_type_has_its_code() {
        let view = view(vec![("x", vec![1i64].into())]);
        let read =
            |example, name| view.output_values(example, name, TensorData::as_f32, "").unwrap_err().code();
        assert_eq!((read(1, "x"), read(0, "y"), read(0, "x")), (code::RANGE, code::NAME, code::KIND));
        assert_eq!(view.flat("x").map(|_| ()).unwrap_err().code(), code::KIND);
        let other = ResultView::new(Outcome::Load(None));
        assert_eq!(other.flat("x").map(|_| ()).unwrap_err().code(), code::KIND);
    }

    #[test]
    fn values_stay_at_their_address_and_sparse_ones_are_complete() {
        let view = view(vec![("x", vec![1.0f32, 2.0].into()), ("x", sparse())]);
        for (example, n) in [(0, 2), (1, 4)] {
            let read = || view.output_values(example, "x", TensorData::as_f32, "").unwrap();
            assert_eq!((read(), read().1), (read(), n));
        }
        let scores = dense(&sparse(), f32::NAN, "x").unwrap();
        let [a, b, ..] = scores.as_f32().unwrap() else { panic!() };
        assert!(a.is_nan() && *b == 7.0);
    }
}

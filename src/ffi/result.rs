//! `tinkex_result`: the result of an operation, borrowed from its pending. Here is what all kinds of results share; the
//! outputs of passes and the arrays of samples have files of their own.

use std::collections::BTreeMap;
use std::ffi::{CString, c_char};
use std::ptr;
use std::sync::OnceLock;

use super::border::{self, Fault, Out, Result, c_json, c_text};
use super::code;
use super::constants;
use super::error::tinkex_error;
use super::loss::{LossObject, tinkex_loss};
use super::object::{self, Kind, Object};
use super::result_json;
use super::result_outputs::OutputArrays;
use super::result_sample::SampleArrays;
use super::sampling::{Sampling, tinkex_sampling};
use super::tinkex_code;
use super::training::{Training, tinkex_training};
use crate::types::{ForwardBackwardOutput, LossHandle, OptimStepOutput, SampleResponse};
use crate::{SamplingClient, TrainingClient};

pub type tinkex_result = Object<ResultView>;

/// The result of an operation, as the Rust interface gives it.
#[allow(clippy::large_enum_variant, reason = "the largest variant is the most frequent one")]
pub(super) enum Outcome {
    Pass(ForwardBackwardOutput),
    Optim(OptimStepOutput),
    /// What was saved. The size is known only for exported weights, if the server reports it.
    Save {
        path: String,
        size_bytes: Option<u64>,
    },
    /// The path of the state that was loaded, if the server names it.
    Load(Option<String>),
    Sample(SampleResponse),
    Logprobs(Vec<Option<f32>>),
    Training(TrainingClient),
    Sampling(SamplingClient),
    Loss(LossHandle),
}

impl Outcome {
    /// The constant of the header, and the word for error texts.
    fn kind(&self) -> (i32, &'static str) {
        match self {
            Outcome::Pass(_) => (constants::RESULT_PASS, "pass"),
            Outcome::Optim(_) => (constants::RESULT_OPTIM, "optimizer step"),
            Outcome::Save { .. } => (constants::RESULT_SAVE, "save"),
            Outcome::Load(_) => (constants::RESULT_LOAD, "load"),
            Outcome::Sample(_) => (constants::RESULT_SAMPLE, "sample"),
            Outcome::Logprobs(_) => (constants::RESULT_LOGPROBS, "computation of log-probabilities"),
            Outcome::Training(_) => (constants::RESULT_TRAINING, "creation of a training client"),
            Outcome::Sampling(_) => (constants::RESULT_SAMPLING, "creation of a sampling client"),
            Outcome::Loss(_) => (constants::RESULT_LOSS, "creation of a loss"),
        }
    }
}

/// A result with the arrays and texts that C code has asked for.
pub struct ResultView {
    outcome: Outcome,
    /// Made when something is asked for that the outcome does not have in the form that C needs.
    cache: OnceLock<Box<Cache>>,
}

/// Values made on first use. They stay at their addresses until the result is freed.
#[derive(Default)]
pub(super) struct Cache {
    json: OnceLock<CString>,
    path: OnceLock<CString>,
    metrics: OnceLock<Vec<(CString, f64)>>,
    pub(super) outputs: OutputArrays,
    pub(super) sample: SampleArrays,
}

impl Kind for ResultView {
    const NAME: &'static str = "result";
}

impl ResultView {
    pub(super) fn new(outcome: Outcome) -> Self {
        ResultView { outcome, cache: OnceLock::new() }
    }

    pub(super) fn outcome(&self) -> &Outcome {
        &self.outcome
    }

    pub(super) fn cache(&self) -> &Cache {
        self.cache.get_or_init(Box::default)
    }

    /// The fault of a function that is for results of another kind.
    #[cold]
    pub(super) fn wrong_kind(&self, expected: &str) -> Fault {
        let text = format!("the result is that of a {}, not of a {expected}", self.outcome.kind().1);
        Fault::new(code::KIND, text).at("result")
    }

    fn path(&self) -> Option<&str> {
        match &self.outcome {
            Outcome::Save { path, .. } => Some(path),
            Outcome::Load(path) => path.as_deref(),
            _ => None,
        }
    }

    fn metrics(&self) -> Option<&BTreeMap<String, f64>> {
        match &self.outcome {
            Outcome::Pass(pass) => Some(&pass.metrics),
            Outcome::Optim(step) => Some(&step.metrics),
            _ => None,
        }
    }

    /// A metric of the server. `loss` and `loss_per_token`, which servers do not report, come from the client.
    fn metric(&self, name: &str) -> Option<f64> {
        let reported = self.metrics().and_then(|metrics| metrics.get(name).copied());
        reported.or_else(|| match (&self.outcome, name) {
            (Outcome::Pass(pass), "loss") => pass.loss(),
            (Outcome::Pass(pass), "loss_per_token") => pass.loss_per_token(),
            _ => None,
        })
    }

    fn metric_at(&self, index: usize) -> Result<&(CString, f64)> {
        let all = self.cache().metrics.get_or_init(|| {
            let metrics = self.metrics().into_iter().flatten();
            metrics.map(|(name, value)| (c_text(name.as_str()), *value)).collect()
        });
        all.get(index).ok_or_else(|| Fault::range("index", index, all.len()))
    }
}

/// Start of an array for C. An empty array has an address too, which tells it from one that is missing.
pub(super) fn start_of<T>(values: &[T]) -> *const T {
    /// Aligned for all types of arrays in the header.
    static EMPTY: u64 = 0;
    if values.is_empty() { ptr::from_ref(&EMPTY).cast() } else { values.as_ptr() }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn tinkex_result_kind(result: *const tinkex_result) -> i32 {
    // SAFETY: see the header.
    border::value(0, || Ok(unsafe { object::get(result) }?.outcome.kind().0))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn tinkex_result_json(result: *const tinkex_result) -> *const c_char {
    border::value(ptr::null(), || {
        // SAFETY: see the header.
        let view = unsafe { object::get(result) }?;
        Ok(view.cache().json.get_or_init(|| c_json(&result_json::json(&view.outcome))).as_ptr())
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn tinkex_result_path(result: *const tinkex_result) -> *const c_char {
    border::value(ptr::null(), || {
        // SAFETY: see the header.
        let view = unsafe { object::get(result) }?;
        Ok(view.path().map_or(ptr::null(), |path| view.cache().path.get_or_init(|| c_text(path)).as_ptr()))
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn tinkex_result_metric_count(result: *const tinkex_result) -> usize {
    // SAFETY: see the header.
    border::value(0, || Ok(unsafe { object::get(result) }?.metrics().map_or(0, BTreeMap::len)))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn tinkex_result_metric_name(
    result: *const tinkex_result,
    index: usize,
) -> *const c_char {
    // SAFETY: see the header.
    border::value(ptr::null(), || Ok(unsafe { object::get(result) }?.metric_at(index)?.0.as_ptr()))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn tinkex_result_metric_value(result: *const tinkex_result, index: usize) -> f64 {
    // SAFETY: see the header.
    border::value(f64::NAN, || Ok(unsafe { object::get(result) }?.metric_at(index)?.1))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn tinkex_result_metric(result: *const tinkex_result, name: *const c_char) -> f64 {
    border::value(f64::NAN, || {
        // SAFETY: see the header.
        let (view, name) = unsafe { (object::get(result)?, border::text(name, "name")?) };
        Ok(view.metric(name).unwrap_or(f64::NAN))
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn tinkex_result_training(
    result: *const tinkex_result,
    out: *mut *mut tinkex_training,
    error: *mut *mut tinkex_error,
) -> tinkex_code {
    // SAFETY: see the header.
    unsafe {
        let out = Out::cleared(out, ptr::null_mut());
        border::run(error, || {
            out.required("out")?;
            let view = object::get(result)?;
            let Outcome::Training(client) = &view.outcome else {
                return Err(view.wrong_kind("creation of a training client"));
            };
            out.set(Training::make(client.clone()));
            Ok(())
        })
    }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn tinkex_result_sampling(
    result: *const tinkex_result,
    out: *mut *mut tinkex_sampling,
    error: *mut *mut tinkex_error,
) -> tinkex_code {
    // SAFETY: see the header.
    unsafe {
        let out = Out::cleared(out, ptr::null_mut());
        border::run(error, || {
            out.required("out")?;
            let view = object::get(result)?;
            let Outcome::Sampling(client) = &view.outcome else {
                return Err(view.wrong_kind("creation of a sampling client"));
            };
            out.set(Sampling::make(client.clone()));
            Ok(())
        })
    }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn tinkex_result_loss(
    result: *const tinkex_result,
    out: *mut *mut tinkex_loss,
    error: *mut *mut tinkex_error,
) -> tinkex_code {
    // SAFETY: see the header.
    unsafe {
        let out = Out::cleared(out, ptr::null_mut());
        border::run(error, || {
            out.required("out")?;
            let view = object::get(result)?;
            let Outcome::Loss(handle) = &view.outcome else {
                return Err(view.wrong_kind("creation of a loss"));
            };
            out.set(LossObject::make(handle));
            Ok(())
        })
    }
}

#[cfg(all(test, not(shuttle)))]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn metrics_have_a_stable_order_and_the_loss_needs_no_metric() {
        let mut pass = ForwardBackwardOutput { n_loss_tokens: Some(4.0), ..Default::default() };
        pass.metrics = [("b".to_string(), 2.0), ("a".to_string(), 1.0)].into();
        pass.computed_loss = Some(6.0);
        let view = ResultView::new(Outcome::Pass(pass));
        let first = view.metric_at(0).unwrap();
        assert_eq!((first.0.to_str().unwrap(), first.1), ("a", 1.0));
        assert!(ptr::eq(first, view.metric_at(0).unwrap()));
        assert_eq!(view.metric_at(2).unwrap_err().code(), code::RANGE);
        assert_eq!((view.metric("b"), view.metric("loss")), (Some(2.0), Some(6.0)));
        assert_eq!((view.metric("loss_per_token"), view.metric("c")), (Some(1.5), None));
    }
}

//! `tinkex_optim`: the parameters of an optimizer step.

use std::ffi::c_char;

use serde_json::{Map, Value};

use super::border::{self, Fault, Out, Result};
use super::error::tinkex_error;
use super::object::{self, Kind, Object};
use super::options::{self, Holder, Sticky};
use super::tinkex_code;
use crate::types::{AdamParams, DimuonParams, OptimizerParams};

pub type tinkex_optim = Object<OptimObject>;

/// Parameters that are being set.
pub struct OptimObject(Sticky<Params>);

/// Parameters of a step, valid at any time.
#[derive(Clone)]
pub(super) struct Params {
    params: OptimizerParams,
    /// The learning rate is still to be set, because it has no default.
    lacks_learning_rate: bool,
}

impl Kind for OptimObject {
    const NAME: &'static str = "optim";
}

impl Holder for OptimObject {
    type Options = Params;

    fn sticky(&self) -> &Sticky<Params> {
        &self.0
    }
}

/// The parameters of a handle.
///
/// # Errors
/// The first mistake of the setters; no learning rate.
///
/// # Safety
/// As for [`object::get`].
pub(super) unsafe fn read(optim: *const tinkex_optim) -> Result<OptimizerParams> {
    // SAFETY: promised by the caller.
    unsafe { object::get(optim) }?.0.read(Params::read)
}

/// Start of a name that is sent to the server without a check.
const OTHER: &str = "other:";

impl Params {
    fn named(kind: &str) -> Result<Self> {
        let params = match kind {
            "adam" | "adamw" => AdamParams::default().into(),
            "dimuon" => DimuonParams::new(0.0).into(),
            _ => match kind.strip_prefix(OTHER) {
                Some(other) if !other.is_empty() => {
                    OptimizerParams::Other { kind: other.into(), more: Map::new() }
                }
                _ => return Err(Fault::name("optimizer", kind, &["adam", "dimuon", "other:<name>"])),
            },
        };
        let lacks_learning_rate = matches!(params, OptimizerParams::Dimuon(_));
        Ok(Params { params, lacks_learning_rate })
    }

    fn set(&mut self, name: &str, value: f64) -> Result<()> {
        let mut params = self.params.clone();
        match &mut params {
            OptimizerParams::Adam(adam) => *adam_field(adam, name)? = value,
            OptimizerParams::Dimuon(dimuon) => *dimuon_field(dimuon, name)? = value,
            OptimizerParams::Other { more, .. } => {
                more.insert(name.into(), number(name, value)?);
            }
        }
        params.validate()?;
        self.params = params;
        self.lacks_learning_rate &= name != "learning_rate";
        Ok(())
    }

    fn read(&self) -> Result<OptimizerParams> {
        if self.lacks_learning_rate {
            return Err(Fault::invalid(
                "optimizer_params.learning_rate",
                "the learning rate of \"dimuon\" has no default: set \"learning_rate\"",
            ));
        }
        Ok(self.params.clone())
    }
}

fn adam_field<'a>(adam: &'a mut AdamParams, name: &str) -> Result<&'a mut f64> {
    Ok(match name {
        "learning_rate" => &mut adam.learning_rate,
        "beta1" => &mut adam.beta1,
        "beta2" => &mut adam.beta2,
        "eps" => &mut adam.eps,
        "weight_decay" => &mut adam.weight_decay,
        "grad_clip_norm" => &mut adam.grad_clip_norm,
        _ => {
            let known = ["learning_rate", "beta1", "beta2", "eps", "weight_decay", "grad_clip_norm"];
            return Err(Fault::name("parameter of \"adam\"", name, &known));
        }
    })
}

fn dimuon_field<'a>(dimuon: &'a mut DimuonParams, name: &str) -> Result<&'a mut f64> {
    Ok(match name {
        "learning_rate" => &mut dimuon.learning_rate,
        "grad_clip_norm" => &mut dimuon.grad_clip_norm,
        "beta1" => &mut dimuon.beta1,
        _ => {
            let known = ["learning_rate", "grad_clip_norm", "beta1"];
            return Err(Fault::name("parameter of \"dimuon\"", name, &known));
        }
    })
}

/// A parameter of an optimizer that only the server knows. Whole numbers are written without a fraction: servers read
/// them as floats too, but do not read `2.0` where they expect an integer.
fn number(name: &str, value: f64) -> Result<Value> {
    if value.fract() == 0.0 && value.abs() < 9e15 {
        return Ok((value as i64).into());
    }
    serde_json::Number::from_f64(value).map(Value::from).ok_or_else(|| {
        let text = format!("{value} is not a finite number");
        Fault::invalid(format!("optimizer_params.{name}"), text)
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn tinkex_optim_new(
    kind: *const c_char,
    out: *mut *mut tinkex_optim,
    error: *mut *mut tinkex_error,
) -> tinkex_code {
    // SAFETY: see the header.
    unsafe {
        let out = Out::cleared(out, std::ptr::null_mut());
        border::run(error, || {
            out.required("out")?;
            let params = Params::named(border::text(kind, "kind")?)?;
            out.set(Object::make(OptimObject(Sticky::new(params))));
            Ok(())
        })
    }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn tinkex_optim_free(optim: *mut *mut tinkex_optim) {
    // SAFETY: see the header.
    unsafe { object::free(optim) }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn tinkex_optim_set(optim: *mut tinkex_optim, name: *const c_char, value: f64) {
    // SAFETY: see the header.
    unsafe { options::set(optim, |params| params.set(border::text(name, "name")?, value)) };
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::ffi::code;

    #[test]
    fn parameters_are_set_by_name() {
        let mut adam = Params::named("adam").unwrap();
        adam.set("learning_rate", 1e-3).unwrap();
        assert_eq!(adam.set("learning_rate", -1.0).unwrap_err().code(), code::INVALID_INPUT);
        assert_eq!(adam.set("momentum", 0.5).unwrap_err().code(), code::NAME);
        let expected = AdamParams { learning_rate: 1e-3, ..Default::default() };
        assert_eq!(adam.read().unwrap(), expected.into());

        let mut dimuon = Params::named("dimuon").unwrap();
        dimuon.set("beta1", 0.8).unwrap();
        assert_eq!(dimuon.read().unwrap_err().code(), code::INVALID_INPUT);
        dimuon.set("learning_rate", 0.5).unwrap();
        let expected = DimuonParams { beta1: 0.8, ..DimuonParams::new(0.5) };
        assert_eq!(dimuon.read().unwrap(), expected.into());

        let mut other = Params::named("other:sgd").unwrap();
        other.set("steps", 3.0).unwrap();
        other.set("rate", 0.5).unwrap();
        other.set("rate", f64::NAN).unwrap_err();
        let OptimizerParams::Other { kind, more } = other.read().unwrap() else { panic!("another kind") };
        assert_eq!(
            (kind.as_str(), Value::from(more).to_string()),
            ("sgd", r#"{"rate":0.5,"steps":3}"#.into())
        );
        assert!(Params::named("sgd").is_err_and(|fault| fault.code() == code::NAME));
    }
}

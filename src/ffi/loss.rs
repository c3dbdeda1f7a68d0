//! `tinkex_loss`: a loss function that the server computes, and its options.

use std::ffi::c_char;

use super::border::{self, Fault, Out, Result};
use super::error::tinkex_error;
use super::object::{self, Kind, Object};
use super::options::{self, Holder, Sticky};
use super::tinkex_code;
use crate::types::{Loss, LossFn, LossValue};

pub type tinkex_loss = Object<LossObject>;

/// A loss whose options are being set.
pub struct LossObject(Sticky<Loss>);

impl Kind for LossObject {
    const NAME: &'static str = "loss";
}

impl Holder for LossObject {
    type Options = Loss;

    fn sticky(&self) -> &Sticky<Loss> {
        &self.0
    }
}

impl LossObject {
    /// A handle of a loss.
    pub(super) fn make(loss: impl Into<Loss>) -> *mut tinkex_loss {
        Object::make(LossObject(Sticky::new(loss.into())))
    }
}

/// The loss of a handle.
///
/// # Errors
/// The first mistake of the setters; a custom loss without its id.
///
/// # Safety
/// As for [`object::get`].
pub(super) unsafe fn read(loss: *const tinkex_loss) -> Result<Loss> {
    // SAFETY: promised by the caller.
    unsafe { object::get(loss) }?.0.read(|loss| {
        if matches!(&loss.loss_fn, LossFn::Custom { loss_id } if loss_id.is_empty()) {
            return Err(Fault::invalid(
                "loss_id",
                "the loss \"custom\" needs the id of an uploaded loss: set the text \"loss_id\"",
            ));
        }
        Ok(loss.clone())
    })
}

/// Start of a name that is sent to the server without a check.
const OTHER: &str = "other:";

const KNOWN: [&str; 9] = [
    "cross_entropy",
    "importance_sampling",
    "ppo",
    "cispo",
    "dro",
    "gspo",
    "stable_reinforce",
    "custom",
    "other:<name>",
];

fn named(name: &str) -> Result<LossFn> {
    Ok(match name {
        "cross_entropy" => LossFn::CrossEntropy,
        "importance_sampling" => LossFn::ImportanceSampling,
        "ppo" => LossFn::Ppo,
        "cispo" => LossFn::Cispo,
        "dro" => LossFn::Dro,
        "gspo" => LossFn::Gspo,
        "stable_reinforce" => LossFn::StableReinforce,
        "custom" => LossFn::Custom { loss_id: String::new() },
        _ => match name.strip_prefix(OTHER) {
            Some(other) if !other.is_empty() => LossFn::Other(other.into()),
            _ => return Err(Fault::name("loss", name, &KNOWN)),
        },
    })
}

fn set(loss: &mut Loss, name: &str, value: impl Into<LossValue>) -> Result<()> {
    if name.is_empty() {
        return Err(Fault::invalid("name", "the name of a loss option is empty"));
    }
    let value = value.into();
    let changed = match (&loss.loss_fn, name, &value) {
        // This option is the id of the loss itself.
        (LossFn::Custom { .. }, "loss_id", LossValue::Text(id)) => {
            Loss { loss_fn: LossFn::Custom { loss_id: id.clone() }, config: loss.config.clone() }
        }
        _ => loss.clone(),
    };
    let changed = changed.with(name, value);
    changed.validate()?;
    *loss = changed;
    Ok(())
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn tinkex_loss_new(
    name: *const c_char,
    out: *mut *mut tinkex_loss,
    error: *mut *mut tinkex_error,
) -> tinkex_code {
    // SAFETY: see the header.
    unsafe {
        let out = Out::cleared(out, std::ptr::null_mut());
        border::run(error, || {
            out.required("out")?;
            out.set(LossObject::make(named(border::text(name, "name")?)?));
            Ok(())
        })
    }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn tinkex_loss_free(loss: *mut *mut tinkex_loss) {
    // SAFETY: see the header.
    unsafe { object::free(loss) }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn tinkex_loss_set_number(loss: *mut tinkex_loss, name: *const c_char, value: f64) {
    // SAFETY: see the header.
    unsafe { options::set(loss, |loss| set(loss, border::text(name, "name")?, value)) };
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn tinkex_loss_set_text(
    loss: *mut tinkex_loss,
    name: *const c_char,
    value: *const c_char,
) {
    // SAFETY: see the header.
    unsafe {
        options::set(loss, |loss| set(loss, border::text(name, "name")?, border::text(value, "value")?));
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::ffi::code;

    #[test]
    fn every_loss_has_its_own_name() {
        for name in KNOWN {
            let (name, expected) = match name {
                "other:<name>" => ("other:dppo", "dppo"),
                name => (name, name),
            };
            assert_eq!(named(name).unwrap().as_str(), expected);
        }
        for unknown in ["", "ppo2", "other:"] {
            assert_eq!(named(unknown).unwrap_err().code(), code::NAME, "{unknown:?}");
        }
    }

    #[test]
    fn options_are_checked_when_they_are_set() {
        let mut loss = Loss::from(LossFn::Ppo);
        set(&mut loss, "clip_low_threshold", 0.9).unwrap();
        set(&mut loss, "clip_high_threshold", f64::NAN).unwrap_err();
        assert_eq!(loss, LossFn::Ppo.with("clip_low_threshold", 0.9));
        let mut custom = Loss::from(named("custom").unwrap());
        set(&mut custom, "loss_id", 3.0).unwrap_err();
        set(&mut custom, "loss_id", "loss-1").unwrap();
        assert_eq!(custom, LossFn::Custom { loss_id: "loss-1".into() }.into());
    }
}

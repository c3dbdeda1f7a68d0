//! `tinkex_training`: the client that trains a model.

use std::ffi::{CString, c_char, c_void};
use std::ptr;
use std::sync::OnceLock;

use serde_json::json;

use super::batch::tinkex_batch;
use super::border::{self, Fault, Out, Result, c_json, c_text, text};
use super::error::tinkex_error;
use super::loss::{self, tinkex_loss};
use super::loss_call;
use super::model_options::{self, tinkex_model_options};
use super::object::{self, Kind, Object, User};
use super::optim::{self, tinkex_optim};
use super::pending::{begin, submit, tinkex_pending};
use super::queue::tinkex_queue;
use super::result::Outcome;
use super::sampling::{Sampling, tinkex_sampling};
use super::save_options::{self, tinkex_save_options};
use super::service::{Service, tinkex_service};
use super::{tinkex_code, tinkex_loss_fn, tinkex_release_fn};
use crate::TrainingClient;
use crate::types::{Datum, ModelInfo, SamplerKind};

pub type tinkex_training = Object<Training>;

/// A client with its texts for C.
pub struct Training {
    client: TrainingClient,
    model_id: CString,
    info: OnceLock<CString>,
}

impl Kind for Training {
    const NAME: &'static str = "training";
}

impl Training {
    /// A handle of a client.
    pub(super) fn make(client: TrainingClient) -> *mut tinkex_training {
        let model_id = c_text(client.model_id());
        Object::make(Training { client, model_id, info: OnceLock::new() })
    }

    fn info(&self) -> &CString {
        self.info.get_or_init(|| {
            let ModelInfo { model_id, base_model, tokenizer_id, arch, is_lora, lora_rank } =
                self.client.get_info();
            c_json(&json!({
                "model_id": model_id,
                "base_model": base_model,
                "tokenizer_id": tokenizer_id,
                "arch": arch,
                "is_lora": is_lora,
                "lora_rank": lora_rank,
            }))
        })
    }
}

/// The client of a handle.
///
/// # Safety
/// As for [`object::get`].
unsafe fn client(training: *const tinkex_training) -> Result<TrainingClient> {
    // SAFETY: promised by the caller.
    Ok(unsafe { object::get(training) }?.client.clone())
}

/// A copy of the examples of a batch.
///
/// # Safety
/// As for [`object::get`].
unsafe fn data(batch: *const tinkex_batch) -> Result<Vec<Datum>> {
    // SAFETY: promised by the caller.
    Ok(unsafe { object::get(batch) }?.data())
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn tinkex_training_new(
    service: *const tinkex_service,
    base_model: *const c_char,
    options: *const tinkex_model_options,
    out: *mut *mut tinkex_training,
    error: *mut *mut tinkex_error,
) -> tinkex_code {
    // SAFETY: see the header.
    unsafe {
        let out = Out::cleared(out, ptr::null_mut());
        border::run(error, || {
            out.required("out")?;
            let (service, base_model) = (Service::client(service)?, text(base_model, "base_model")?);
            let (lora, options) = model_options::read(options)?.for_new()?;
            out.set(Training::make(service.create_lora_training_client_with(base_model, lora, &options)?));
            Ok(())
        })
    }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn tinkex_training_from_state(
    service: *const tinkex_service,
    path: *const c_char,
    with_optimizer: i32,
    options: *const tinkex_model_options,
    out: *mut *mut tinkex_training,
    error: *mut *mut tinkex_error,
) -> tinkex_code {
    // SAFETY: see the header.
    unsafe {
        let out = Out::cleared(out, ptr::null_mut());
        border::run(error, || {
            out.required("out")?;
            let (service, path) = (Service::client(service)?, text(path, "path")?);
            let options = model_options::read(options)?.for_saved(with_optimizer != 0)?;
            out.set(Training::make(service.create_training_client_from_state_with(path, &options)?));
            Ok(())
        })
    }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn tinkex_training_start(
    service: *const tinkex_service,
    base_model_or_path: *const c_char,
    with_optimizer: i32,
    options: *const tinkex_model_options,
    out: *mut *mut tinkex_pending,
    error: *mut *mut tinkex_error,
) -> tinkex_code {
    // SAFETY: see the header.
    unsafe {
        let out = Out::cleared(out, ptr::null_mut());
        border::run(error, || {
            out.required("out")?;
            let service = Service::client(service)?;
            let source = text(base_model_or_path, "base_model_or_path")?;
            let options = model_options::read(options)?;
            // A name of a model contains no scheme.
            let pending = if source.contains("://") {
                let options = options.for_saved(with_optimizer != 0)?;
                service.start_training_client_from_state(source, &options)?
            } else {
                let (lora, options) = options.for_new()?;
                service.start_lora_training_client(source, lora, &options)?
            };
            submit(&out, pending, Outcome::Training)
        })
    }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn tinkex_training_ref(training: *const tinkex_training) -> *mut tinkex_training {
    // SAFETY: see the header.
    border::value(ptr::null_mut(), || Ok(Training::make(unsafe { client(training) }?)))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn tinkex_training_free(training: *mut *mut tinkex_training) {
    border::value((), || {
        // SAFETY: see the header.
        unsafe { object::free(training) };
        Ok(())
    });
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn tinkex_training_close(training: *mut tinkex_training) {
    border::value((), || {
        // SAFETY: see the header.
        unsafe { client(training) }?.close();
        Ok(())
    });
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn tinkex_training_model_id(training: *const tinkex_training) -> *const c_char {
    // SAFETY: see the header.
    border::value(ptr::null(), || Ok(unsafe { object::get(training) }?.model_id.as_ptr()))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn tinkex_training_info(training: *const tinkex_training) -> *const c_char {
    // SAFETY: see the header.
    border::value(ptr::null(), || Ok(unsafe { object::get(training) }?.info().as_ptr()))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn tinkex_training_forward(
    training: *const tinkex_training,
    batch: *const tinkex_batch,
    loss: *const tinkex_loss,
    out: *mut *mut tinkex_pending,
    error: *mut *mut tinkex_error,
) -> tinkex_code {
    // SAFETY: see the header.
    unsafe {
        let out = Out::cleared(out, ptr::null_mut());
        border::run(error, || {
            out.required("out")?;
            let (client, loss) = (client(training)?, loss::read(loss)?);
            submit(&out, client.forward(data(batch)?, loss), Outcome::Pass)
        })
    }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn tinkex_training_forward_backward(
    training: *const tinkex_training,
    batch: *const tinkex_batch,
    loss: *const tinkex_loss,
    out: *mut *mut tinkex_pending,
    error: *mut *mut tinkex_error,
) -> tinkex_code {
    // SAFETY: see the header.
    unsafe {
        let out = Out::cleared(out, ptr::null_mut());
        border::run(error, || {
            out.required("out")?;
            let (client, loss) = (client(training)?, loss::read(loss)?);
            submit(&out, client.forward_backward(data(batch)?, loss), Outcome::Pass)
        })
    }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn tinkex_training_forward_backward_custom(
    training: *const tinkex_training,
    batch: *const tinkex_batch,
    loss: tinkex_loss_fn,
    user: *mut c_void,
    release: tinkex_release_fn,
    out: *mut *mut tinkex_pending,
    error: *mut *mut tinkex_error,
) -> tinkex_code {
    let user = User::new(user, release);
    // SAFETY: see the header.
    unsafe {
        let out = Out::cleared(out, ptr::null_mut());
        border::run(error, || {
            out.required("out")?;
            let function = loss.ok_or_else(|| Fault::null("loss"))?;
            let client = client(training)?;
            // The function is dropped after its call, and `user` with it.
            let pending = client.forward_backward_custom(data(batch)?, move |data, logprobs| {
                loss_call::by_callback(function, &user, data, logprobs)
            });
            submit(&out, pending, Outcome::Pass)
        })
    }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn tinkex_training_forward_backward_pulled(
    training: *const tinkex_training,
    batch: *const tinkex_batch,
    queue: *mut tinkex_queue,
    tag: u64,
    out: *mut *mut tinkex_pending,
    error: *mut *mut tinkex_error,
) -> tinkex_code {
    // SAFETY: see the header.
    unsafe {
        let out = Out::cleared(out, ptr::null_mut());
        border::run(error, || {
            out.required("out")?;
            let (client, queue) = (client(training)?, object::get(queue)?.downgrade());
            let pending = client.custom_pass(data(batch)?, move |data, logprobs, cancel, deadline| {
                loss_call::by_queue(&queue, tag, data, logprobs, cancel, deadline)
            });
            submit(&out, pending, Outcome::Pass)
        })
    }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn tinkex_training_optim_step(
    training: *const tinkex_training,
    optim: *const tinkex_optim,
    out: *mut *mut tinkex_pending,
    error: *mut *mut tinkex_error,
) -> tinkex_code {
    // SAFETY: see the header.
    unsafe {
        let out = Out::cleared(out, ptr::null_mut());
        border::run(error, || {
            out.required("out")?;
            let (client, params) = (client(training)?, optim::read(optim)?);
            submit(&out, client.optim_step(params), Outcome::Optim)
        })
    }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn tinkex_training_train_step(
    training: *const tinkex_training,
    batch: *const tinkex_batch,
    loss: *const tinkex_loss,
    optim: *const tinkex_optim,
    pass: *mut *mut tinkex_pending,
    update: *mut *mut tinkex_pending,
    error: *mut *mut tinkex_error,
) -> tinkex_code {
    // SAFETY: see the header.
    unsafe {
        let (pass, update) = (Out::cleared(pass, ptr::null_mut()), Out::cleared(update, ptr::null_mut()));
        border::run(error, || {
            pass.required("pass")?;
            update.required("update")?;
            let (client, loss, params) = (client(training)?, loss::read(loss)?, optim::read(optim)?);
            let step = client.train_step(data(batch)?, loss, params);
            // If the step cannot be submitted, both operations fail with the same error.
            let first = begin(step.forward_backward, Outcome::Pass)?;
            let second = begin(step.optim_step, Outcome::Optim)?;
            pass.set(Object::make(first));
            update.set(Object::make(second));
            Ok(())
        })
    }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn tinkex_training_save_state(
    training: *const tinkex_training,
    name: *const c_char,
    options: *const tinkex_save_options,
    out: *mut *mut tinkex_pending,
    error: *mut *mut tinkex_error,
) -> tinkex_code {
    // SAFETY: see the header.
    unsafe {
        let out = Out::cleared(out, ptr::null_mut());
        border::run(error, || {
            out.required("out")?;
            let (client, name) = (client(training)?, text(name, "name")?);
            let options = save_options::read(options)?.for_state()?;
            let pending = client.save_state_with(name, &options);
            submit(&out, pending, |saved| Outcome::Save(saved.path.to_string()))
        })
    }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn tinkex_training_save_for_sampler(
    training: *const tinkex_training,
    name: *const c_char,
    options: *const tinkex_save_options,
    out: *mut *mut tinkex_pending,
    error: *mut *mut tinkex_error,
) -> tinkex_code {
    // SAFETY: see the header.
    unsafe {
        let out = Out::cleared(out, ptr::null_mut());
        border::run(error, || {
            out.required("out")?;
            let (client, name) = (client(training)?, text(name, "name")?);
            let options = save_options::read(options)?.for_sampler()?;
            let pending = client.save_weights_for_sampler_with(name, &options);
            submit(&out, pending, |saved| Outcome::Save(saved.path.to_string()))
        })
    }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn tinkex_training_save_external(
    training: *const tinkex_training,
    name: *const c_char,
    options: *const tinkex_save_options,
    out: *mut *mut tinkex_pending,
    error: *mut *mut tinkex_error,
) -> tinkex_code {
    // SAFETY: see the header.
    unsafe {
        let out = Out::cleared(out, ptr::null_mut());
        border::run(error, || {
            out.required("out")?;
            let (client, name) = (client(training)?, text(name, "name")?);
            let (ttl, recipients) = save_options::read(options)?.for_export()?;
            let recipients: Vec<&str> = recipients.iter().map(String::as_str).collect();
            let pending = client.save_weights_external(name, ttl, &recipients);
            submit(&out, pending, |saved| Outcome::Save(saved.path.to_string()))
        })
    }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn tinkex_training_load_state(
    training: *const tinkex_training,
    path: *const c_char,
    with_optimizer: i32,
    out: *mut *mut tinkex_pending,
    error: *mut *mut tinkex_error,
) -> tinkex_code {
    // SAFETY: see the header.
    unsafe {
        let out = Out::cleared(out, ptr::null_mut());
        border::run(error, || {
            out.required("out")?;
            let (client, path) = (client(training)?, text(path, "path")?);
            let pending = if with_optimizer != 0 {
                client.load_state_with_optimizer(path)
            } else {
                client.load_state(path)
            };
            submit(&out, pending, |loaded| Outcome::Load(loaded.path))
        })
    }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn tinkex_training_sampler(
    training: *const tinkex_training,
    inflight: i32,
    out: *mut *mut tinkex_sampling,
    error: *mut *mut tinkex_error,
) -> tinkex_code {
    // SAFETY: see the header.
    unsafe {
        let out = Out::cleared(out, ptr::null_mut());
        border::run(error, || {
            out.required("out")?;
            let kind = if inflight != 0 { SamplerKind::Inflight } else { SamplerKind::Snapshot };
            let sampler = client(training)?.save_weights_and_get_sampling_client_with(kind)?;
            out.set(Sampling::make(sampler));
            Ok(())
        })
    }
}

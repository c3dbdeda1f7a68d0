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
use super::pending::{begin, begin_sent, submit, tinkex_pending};
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
    // SAFETY: see the header.
    unsafe { object::free(training) }
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
            // The pass may have been sent: from here on errors come when the operations are waited for.
            let second = begin_sent(step.optim_step, Outcome::Optim);
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
            submit(&out, pending, |saved| Outcome::Save { path: saved.path.to_string(), size_bytes: None })
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
            submit(&out, pending, |saved| Outcome::Save { path: saved.path.to_string(), size_bytes: None })
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
            submit(&out, pending, |saved| Outcome::Save {
                path: saved.path.to_string(),
                size_bytes: saved.size_bytes,
            })
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

#[cfg(all(test, feature = "local"))]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::ffi::CStr;
    use std::sync::atomic::{AtomicI32, Ordering};

    use super::super::code;
    use super::super::constants::{CLOSE_SUCCESS, EVENT_LOSS};
    use super::super::error::{tinkex_error_code, tinkex_error_free, tinkex_error_message};
    use super::super::event::{
        tinkex_event_free, tinkex_event_kind, tinkex_event_tag, tinkex_event_take_loss,
    };
    use super::super::loss_call::*;
    use super::super::pending::{tinkex_pending_cancel, tinkex_pending_free, tinkex_pending_wait};
    use super::super::queue::{tinkex_queue_free, tinkex_queue_new, tinkex_queue_next};
    use super::super::service::*;
    use super::super::service_options::*;
    use super::super::text::{tinkex_text_data, tinkex_text_free};
    use super::*;
    use crate::local::Server;

    /// Long enough for each step, so that a failure does not hang.
    const LONG: i64 = 60_000;

    fn service(server: &Server) -> *mut tinkex_service {
        let (url, key) = (c_text(server.url()), c_text(server.api_key()));
        let mut service = ptr::null_mut();
        // SAFETY: all pointers are valid.
        unsafe {
            let mut options = tinkex_service_options_new();
            tinkex_service_options_set_base_url(options, url.as_ptr());
            tinkex_service_options_set_api_key(options, key.as_ptr());
            assert_eq!(tinkex_service_new(options, &mut service, ptr::null_mut()), 0);
            tinkex_service_options_free(&mut options);
        }
        service
    }

    fn trainer(service: *mut tinkex_service) -> *mut tinkex_training {
        let mut training = ptr::null_mut();
        // SAFETY: all pointers are valid.
        let code = unsafe {
            tinkex_training_new(service, c"tinkex/nano".as_ptr(), ptr::null(), &mut training, ptr::null_mut())
        };
        assert_eq!(code, 0);
        training
    }

    fn batch() -> Vec<Datum> {
        vec![Datum::cross_entropy(&[1, 2], &[3, 4])]
    }

    /// As `tinkex_training_forward_backward_pulled`, with the tag 7.
    fn pulled(training: *mut tinkex_training, queue: *mut tinkex_queue) -> *mut tinkex_pending {
        // SAFETY: both handles are valid.
        let (client, queue) = unsafe { (client(training).unwrap(), object::get(queue).unwrap().downgrade()) };
        let pending = client.custom_pass(batch(), move |data, logprobs, cancel, deadline| {
            loss_call::by_queue(&queue, 7, data, logprobs, cancel, deadline)
        });
        Object::make(begin(pending, Outcome::Pass).unwrap())
    }

    /// Code and message of the end of an operation, which is freed.
    fn end(mut pending: *mut tinkex_pending) -> (i32, String) {
        let mut error = ptr::null_mut();
        // SAFETY: all pointers are valid.
        unsafe {
            let code = tinkex_pending_wait(pending, LONG, ptr::null_mut(), &mut error);
            tinkex_pending_free(&mut pending);
            if error.is_null() {
                return (code, String::new());
            }
            assert_eq!(tinkex_error_code(error), code);
            let message = CStr::from_ptr(tinkex_error_message(error)).to_str().unwrap().to_string();
            tinkex_error_free(&mut error);
            (code, message)
        }
    }

    #[test]
    fn a_model_is_created_without_blocking_and_a_closed_service_refuses() {
        let server = Server::start(Default::default()).unwrap();
        let mut service = service(&server);
        let (mut pending, mut text) = (ptr::null_mut(), ptr::null_mut());
        let none = ptr::null_mut();
        // SAFETY: all pointers are valid.
        unsafe {
            let all = CStr::from_ptr(tinkex_service_console_url(service)).to_str().unwrap();
            assert!(tinkex_service_session_id(service).is_null() && all.ends_with("/sessions"), "{all}");
            let name = c"tinkex/nano".as_ptr();
            assert_eq!(tinkex_training_start(service, name, 0, ptr::null(), &mut pending, none), 0);
            assert_eq!(end(pending), (0, String::new()));
            let id = CStr::from_ptr(tinkex_service_session_id(service)).to_str().unwrap();
            let url = CStr::from_ptr(tinkex_service_console_url(service)).to_str().unwrap();
            assert!(url.ends_with(id) && all.ends_with("/sessions"), "{url}");
            assert_eq!(tinkex_service_capabilities(service, &mut text, none), 0);
            assert!(CStr::from_ptr(tinkex_text_data(text)).to_str().unwrap().contains("tinkex/nano"));
            tinkex_text_free(&mut text);
            assert_eq!(tinkex_service_close(service, 9, ptr::null(), none), code::INVALID_INPUT.number());
            assert_eq!(tinkex_service_close(service, CLOSE_SUCCESS, c"done".as_ptr(), none), 0);
            let refused = tinkex_training_start(service, name, 0, ptr::null(), &mut pending, none);
            assert_eq!((refused, pending.is_null()), (code::CLOSED.number(), true));
            tinkex_service_free(&mut service);
            assert!(service.is_null());
        }
    }

    #[test]
    fn a_pulled_loss_trains_and_its_wait_ends_with_each_end_of_the_operation() {
        let server = Server::start(Default::default()).unwrap();
        let mut service = service(&server);
        let mut queue = ptr::null_mut();
        // SAFETY: all pointers are valid.
        unsafe {
            assert_eq!(tinkex_queue_new(&mut queue, ptr::null_mut()), 0);
            let next = || {
                let mut event = ptr::null_mut();
                assert_eq!(tinkex_queue_next(queue, LONG, &mut event, ptr::null_mut()), 0);
                assert_eq!((tinkex_event_kind(event), tinkex_event_tag(event)), (EVENT_LOSS, 7));
                event
            };
            let next_call = || {
                let mut event = next();
                let call = tinkex_event_take_loss(event);
                assert!(tinkex_event_take_loss(event).is_null());
                tinkex_event_free(&mut event);
                call
            };
            let mut training = trainer(service);
            let pending = pulled(training, queue);
            let mut call = next_call();
            let offsets = std::slice::from_raw_parts(tinkex_loss_call_offsets(call), 2);
            assert_eq!((tinkex_loss_call_count(call), offsets), (1, &[0, 3][..]));
            for i in 0..3 {
                *tinkex_loss_call_gradients(call).add(i) = 2.0 * *tinkex_loss_call_logprobs(call).add(i);
            }
            tinkex_loss_call_set_loss(call, 1.5);
            tinkex_loss_call_finish(&mut call);
            tinkex_loss_call_finish(&mut call);
            assert_eq!(end(pending), (0, String::new()));
            // Cancelled while C code computes: the data stay.
            let pending = pulled(training, queue);
            let mut call = next_call();
            tinkex_pending_cancel(pending);
            assert_eq!(end(pending).0, code::CANCELLED.number());
            assert!((*tinkex_loss_call_logprobs(call).add(2)).is_finite());
            tinkex_loss_call_set_loss(call, 1.0);
            tinkex_loss_call_finish(&mut call);
            tinkex_training_free(&mut training);
            // The event is freed with its call.
            training = trainer(service);
            let pending = pulled(training, queue);
            tinkex_event_free(&mut next());
            let (code, message) = end(pending);
            assert_eq!(code, code::CUSTOM_LOSS.number(), "{message}");
            tinkex_training_free(&mut training);
            // The client is closed.
            training = trainer(service);
            let pending = pulled(training, queue);
            let mut call = next_call();
            tinkex_training_close(training);
            assert_eq!(end(pending).0, code::CLOSED.number());
            tinkex_loss_call_finish(&mut call);
            tinkex_training_free(&mut training);
            // The queue is freed.
            training = trainer(service);
            let pending = pulled(training, queue);
            tinkex_queue_free(&mut queue);
            assert_eq!(end(pending).0, code::CUSTOM_LOSS.number());
            tinkex_training_free(&mut training);
            tinkex_service_free(&mut service);
        }
    }

    #[test]
    fn a_callback_that_fails_is_reported_and_its_pointer_is_released_once() {
        unsafe extern "C-unwind" fn fails(user: *mut c_void, call: *mut tinkex_loss_call) -> i32 {
            // SAFETY: the test passes an `AtomicI32`, and the call lives.
            unsafe {
                assert_eq!((*user.cast::<AtomicI32>()).load(Ordering::SeqCst), 0);
                tinkex_loss_call_fail(call, c"no reference model".as_ptr());
                tinkex_loss_call_finish(&mut { call });
            }
            1
        }
        unsafe extern "C-unwind" fn release(user: *mut c_void) {
            // SAFETY: as above.
            unsafe { (*user.cast::<AtomicI32>()).fetch_add(1, Ordering::SeqCst) };
        }
        let server = Server::start(Default::default()).unwrap();
        let mut service = service(&server);
        let mut training = trainer(service);
        static RELEASED: AtomicI32 = AtomicI32::new(0);
        let user = User::new((&raw const RELEASED).cast_mut().cast(), Some(release));
        // SAFETY: all pointers are valid.
        unsafe {
            let pending =
                client(training).unwrap().forward_backward_custom(batch(), move |data, logprobs| {
                    loss_call::by_callback(fails, &user, data, logprobs)
                });
            let (code, message) = end(Object::make(begin(pending, Outcome::Pass).unwrap()));
            assert_eq!(code, code::CUSTOM_LOSS.number());
            assert!(message.contains("no reference model"), "{message}");
            assert_eq!(RELEASED.load(Ordering::SeqCst), 1);
            tinkex_training_free(&mut training);
            tinkex_service_free(&mut service);
        }
    }
}

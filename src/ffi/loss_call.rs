//! `tinkex_loss_call`: one evaluation of a custom loss, by a callback or by the thread that pulled it from a queue.

use std::collections::BTreeMap;
use std::ffi::{c_char, c_void};
use std::ptr;
use std::sync::{Arc, OnceLock, Weak};
use std::time::Instant;

use super::border::{self, Fault, Out, Result, text};
use super::code;
use super::constants::EVENT_LOSS;
use super::error::{ErrorInfo, tinkex_error};
use super::event::Event;
use super::object::{self, Kind, Object, User};
use super::queue::SharedQueue;
use super::tinkex_code;
use crate::error::Error;
use crate::sync::cancel::Wake;
use crate::sync::oneshot::{Reply, Slot, oneshot};
use crate::sync::{CancelToken, Mutex, unwind};
use crate::types::{CustomLoss, Datum, TensorData};

pub type tinkex_loss_call = Object<LossCall>;

type LossFn = unsafe extern "C-unwind" fn(*mut c_void, *mut tinkex_loss_call) -> i32;

/// The loss, or the reason why there is none.
pub(super) type Answer = std::result::Result<CustomLoss, String>;

/// One evaluation. It owns its data: C code may read them after the operation was cancelled.
pub struct LossCall {
    inputs: Vec<BTreeMap<String, Input>>,
    /// Where the values of each example begin in `logprobs` and `gradients`; at the end, the number of values.
    offsets: Vec<i64>,
    logprobs: Vec<f32>,
    gradients: Gradients,
    outcome: Mutex<Outcome>,
    /// Set if the call was pulled from a queue. Answers the thread that waits for the loss.
    reply: Option<Reply<Answer>>,
}

#[derive(Default)]
struct Outcome {
    loss: Option<f64>,
    metrics: BTreeMap<String, f64>,
    /// The first failure.
    failure: Option<String>,
}

/// A loss input of one example.
struct Input {
    tensor: TensorData,
    /// Made of a sparse tensor when C code asks for its values.
    dense: OnceLock<TensorData>,
}

/// Memory that C code writes to without a lock.
struct Gradients {
    start: *mut f32,
    n: usize,
}

// SAFETY: the memory is used through the pointer only; the header demands that C code has finished its writes before it
// ends the call, and nothing reads before.
unsafe impl Send for Gradients {}
// SAFETY: as above.
unsafe impl Sync for Gradients {}

impl Gradients {
    fn zeros(n: usize) -> Self {
        Gradients { start: Box::into_raw(vec![0.0f32; n].into_boxed_slice()).cast(), n }
    }

    /// Copies the values.
    ///
    /// # Safety
    /// No other thread writes meanwhile.
    unsafe fn values(&self) -> Vec<f32> {
        // SAFETY: `zeros` allocated `n` values, and the caller promises that none changes.
        unsafe { std::slice::from_raw_parts(self.start, self.n) }.to_vec()
    }
}

impl Drop for Gradients {
    fn drop(&mut self) {
        // SAFETY: `zeros` made this slice of a box.
        drop(unsafe { Box::from_raw(ptr::slice_from_raw_parts_mut(self.start, self.n)) });
    }
}

impl Kind for LossCall {
    const NAME: &'static str = "loss_call";
}

impl Input {
    fn values(&self) -> Result<&TensorData> {
        if self.tensor.sparse.is_none() {
            return Ok(&self.tensor);
        }
        self.tensor.check_room("loss_fn_inputs")?;
        Ok(self.dense.get_or_init(|| {
            let mut dense = self.tensor.clone();
            dense.make_dense();
            dense
        }))
    }
}

impl LossCall {
    fn new(data: &[Datum], logprobs: &[&[f32]], reply: Option<Reply<Answer>>) -> Self {
        let input = |(name, tensor): (&String, &TensorData)| {
            (name.clone(), Input { tensor: tensor.clone(), dense: OnceLock::new() })
        };
        let mut offsets = vec![0];
        let mut end = 0;
        for logprobs in logprobs {
            // Memory cannot hold as many values as `i64` counts.
            end += logprobs.len() as i64;
            offsets.push(end);
        }
        let logprobs = logprobs.concat();
        LossCall {
            inputs: data.iter().map(|datum| datum.loss_fn_inputs.iter().map(input).collect()).collect(),
            offsets,
            gradients: Gradients::zeros(logprobs.len()),
            logprobs,
            outcome: Mutex::default(),
            reply,
        }
    }

    fn fail(&self, message: impl Into<String>) {
        self.outcome.lock().failure.get_or_insert(message.into());
    }

    /// The loss that was set, with its gradients. C code has ended its part.
    fn answer(&self) -> Answer {
        let (loss, metrics) = {
            let mut outcome = self.outcome.lock();
            if let Some(failure) = outcome.failure.take() {
                return Err(failure);
            }
            (outcome.loss, std::mem::take(&mut outcome.metrics))
        };
        let loss = loss.ok_or("no loss was set: call tinkex_loss_call_set_loss")?;
        if !loss.is_finite() {
            return Err(format!("the loss is not a finite number: {loss}"));
        }
        // SAFETY: C code has ended its part.
        let flat = unsafe { self.gradients.values() };
        // The offsets were made of lengths in `usize`.
        let rows = self.offsets.windows(2).map(|ends| flat[ends[0] as usize..ends[1] as usize].to_vec());
        let gradients: Vec<Vec<f32>> = rows.collect();
        for (i, row) in gradients.iter().enumerate() {
            if let Some(j) = row.iter().position(|value| !value.is_finite()) {
                let at = self.offsets[i] as usize + j;
                let value = row[j];
                return Err(format!(
                    "gradients[{at}], which belongs to value {j} of example {i}, is not a finite number: {value}"
                ));
            }
        }
        let mut answer = CustomLoss::new(loss, gradients);
        answer.metrics = metrics;
        Ok(answer)
    }

    /// Ends a call that was pulled from a queue.
    fn finish(mut self) {
        if let Some(reply) = self.reply.take() {
            reply.send(Ok(self.answer()));
        }
    }

    fn input(&self, example: usize, name: &str) -> Result<&TensorData> {
        let n = self.inputs.len();
        let inputs = self.inputs.get(example).ok_or_else(|| Fault::range("example", example, n))?;
        let input = inputs.get(name).ok_or_else(|| {
            let known: Vec<&str> = inputs.keys().map(String::as_str).collect();
            Fault::name("loss input", name, &known)
        })?;
        input.values()
    }
}

impl Drop for LossCall {
    fn drop(&mut self) {
        if let Some(reply) = self.reply.take() {
            let text = "nobody computed it: its queue or its event was freed";
            reply.send(Ok(Err(text.into())));
        }
    }
}

fn wrong_kind(name: &str, tensor: &TensorData, wanted: &str) -> Fault {
    let text =
        format!("the loss input {name:?} has values of the type {}, not {wanted}", tensor.values.dtype());
    Fault::new(code::KIND, text).at(name)
}

/// Computes a loss by a callback, on this thread.
pub(super) fn by_callback(function: LossFn, user: &User, data: &[Datum], logprobs: &[&[f32]]) -> Answer {
    // The callback's handle can be recognized as freed afterwards.
    let mut handle = Object::make(LossCall::new(data, logprobs, None));
    // SAFETY: the caller who registered the function promises that it takes these pointers. The call lives until it
    // returns, because `tinkex_loss_call_finish` leaves it alone.
    let returned = unwind::catch(|| unsafe { function(user.pointer(), handle) });
    // SAFETY: made above.
    let call = unsafe { object::take(&mut handle) }.ok_or("the callback freed its call")?;
    match returned {
        Ok(0) => call.answer(),
        Ok(code) => {
            let failure = call.outcome.lock().failure.take();
            Err(failure.unwrap_or_else(|| format!("the loss function returned {code}")))
        }
        Err(panic) => Err(format!("the loss function panicked: {}", panic.message())),
    }
}

/// Ends the wait for a pulled loss when the operation is cancelled or its client is closed.
struct Interrupt(Slot<Answer>);

impl Wake for Interrupt {
    fn wake(&self) {
        self.0.settle(Err(Error::cancelled()));
    }
}

/// Puts a call into a queue, and waits for the thread that computes the loss. The wait also ends when the operation is
/// cancelled, at its deadline, and when the call is dropped, for example because the queue is freed.
pub(super) fn by_queue(
    queue: &Weak<SharedQueue>,
    tag: u64,
    data: &[Datum],
    logprobs: &[&[f32]],
    cancel: &CancelToken,
    deadline: Option<Instant>,
) -> Answer {
    let (reply, slot) = oneshot();
    let _registration = cancel.on_cancel(Arc::new(Interrupt(slot.clone())));
    let call = LossCall::new(data, logprobs, Some(reply));
    match queue.upgrade() {
        Some(queue) if !cancel.is_cancelled() => queue.push(Event::new(EVENT_LOSS, tag).with_loss(call)),
        _ => drop(call),
    }
    match slot.wait(deadline) {
        Some(Ok(answer)) => answer,
        Some(Err(error)) => Err(error.message().into()),
        None => Err("nobody computed it before the deadline of the operation".into()),
    }
}

/// The body of a setter. A mistake becomes the failure of the loss.
///
/// # Safety
/// As for [`object::get`].
unsafe fn change(call: *mut tinkex_loss_call, change: impl FnOnce(&LossCall) -> Result<()>) {
    border::value((), || {
        // SAFETY: promised by the caller.
        let call = unsafe { object::get(call) }?;
        if let Err(fault) = change(call) {
            call.fail(ErrorInfo::from(fault).message());
        }
        Ok(())
    });
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn tinkex_loss_call_count(call: *const tinkex_loss_call) -> usize {
    // SAFETY: see the header.
    border::value(0, || Ok(unsafe { object::get(call) }?.inputs.len()))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn tinkex_loss_call_offsets(call: *const tinkex_loss_call) -> *const i64 {
    // SAFETY: see the header.
    border::value(ptr::null(), || Ok(unsafe { object::get(call) }?.offsets.as_ptr()))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn tinkex_loss_call_logprobs(call: *const tinkex_loss_call) -> *const f32 {
    // SAFETY: see the header.
    border::value(ptr::null(), || Ok(unsafe { object::get(call) }?.logprobs.as_ptr()))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn tinkex_loss_call_gradients(call: *mut tinkex_loss_call) -> *mut f32 {
    // SAFETY: see the header.
    border::value(ptr::null_mut(), || Ok(unsafe { object::get(call) }?.gradients.start))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn tinkex_loss_call_input_f32(
    call: *const tinkex_loss_call,
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
            let name = text(name, "name")?;
            let tensor = object::get(call)?.input(example, name)?;
            let found = tensor.as_f32().ok_or_else(|| wrong_kind(name, tensor, "float32"))?;
            values.set(found.as_ptr());
            n.set(found.len());
            Ok(())
        })
    }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn tinkex_loss_call_input_i64(
    call: *const tinkex_loss_call,
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
            let name = text(name, "name")?;
            let tensor = object::get(call)?.input(example, name)?;
            let found = tensor.as_i64().ok_or_else(|| wrong_kind(name, tensor, "int64"))?;
            values.set(found.as_ptr());
            n.set(found.len());
            Ok(())
        })
    }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn tinkex_loss_call_set_loss(call: *mut tinkex_loss_call, loss: f64) {
    // SAFETY: see the header.
    unsafe {
        change(call, |it| {
            it.outcome.lock().loss = Some(loss);
            Ok(())
        });
    }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn tinkex_loss_call_set_metric(
    call: *mut tinkex_loss_call,
    name: *const c_char,
    value: f64,
) {
    // SAFETY: see the header.
    unsafe {
        change(call, |it| {
            let name = text(name, "name")?;
            it.outcome.lock().metrics.insert(name.into(), value);
            Ok(())
        });
    }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn tinkex_loss_call_fail(call: *mut tinkex_loss_call, message: *const c_char) {
    // SAFETY: see the header.
    unsafe {
        change(call, |it| {
            it.fail(border::optional_text(message, "message")?.unwrap_or("the loss function gave no reason"));
            Ok(())
        });
    }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn tinkex_loss_call_finish(call: *mut *mut tinkex_loss_call) {
    border::value((), || {
        // SAFETY: see the header.
        unsafe {
            if call.is_null() {
                return Ok(());
            }
            // The call of a callback belongs to this library and ends when the callback returns.
            if object::get(*call).is_ok_and(|it| it.reply.is_none()) {
                *call = ptr::null_mut();
                return Ok(());
            }
            if let Some(call) = object::take(call) {
                call.finish();
            }
        }
        Ok(())
    });
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::thread;
    use std::time::Duration;

    use super::super::queue::Queue;
    use super::*;

    const LOGPROBS: [&[f32]; 2] = [&[-1.0], &[-2.0, -3.0]];

    fn data() -> Vec<Datum> {
        vec![Datum::cross_entropy(&[1], &[2]), Datum::cross_entropy(&[1], &[2, 3])]
    }

    fn call() -> LossCall {
        LossCall::new(&data(), &LOGPROBS, None)
    }

    #[test]
    fn a_call_without_a_finite_loss_and_finite_gradients_fails_and_names_the_place() {
        let unset = call();
        assert!(unset.answer().unwrap_err().contains("set_loss"));
        let nan = call();
        nan.outcome.lock().loss = Some(f64::NAN);
        assert!(nan.answer().unwrap_err().contains("NaN"));
        let good = call();
        good.outcome.lock().loss = Some(2.5);
        assert_eq!(good.answer().unwrap().gradients, [vec![0.0], vec![0.0, 0.0]]);
        // SAFETY: there are three values.
        unsafe { good.gradients.start.add(2).write(f32::INFINITY) };
        let failure = good.answer().unwrap_err();
        assert!(failure.contains("gradients[2]") && failure.contains("value 1 of example 1"), "{failure}");
    }

    #[test]
    fn inputs_are_read_by_example_name_and_type() {
        let call = call();
        assert_eq!(call.input(1, "target_tokens").unwrap().as_i64(), Some(&[2, 3][..]));
        assert_eq!(call.input(2, "weights").unwrap_err().code(), code::RANGE);
        assert_eq!(call.input(0, "advantages").unwrap_err().code(), code::NAME);
    }

    #[test]
    fn waiting_for_a_pulled_call_ends_with_the_queue_a_cancellation_and_the_deadline() {
        let queue = Queue::new();
        let pull = |cancel: &CancelToken, deadline| {
            by_queue(&queue.downgrade(), 0, &data(), &LOGPROBS, cancel, deadline).unwrap_err()
        };
        let cancel = CancelToken::new();
        let soon = Some(Instant::now() + Duration::from_millis(5));
        assert!(pull(&cancel, soon).contains("deadline"));
        thread::scope(|scope| {
            let waiting = scope.spawn(|| pull(&cancel, None));
            cancel.cancel();
            assert!(waiting.join().unwrap().contains("cancel"));
        });
        let waiting = queue.downgrade();
        let waiting =
            thread::spawn(move || by_queue(&waiting, 0, &data(), &LOGPROBS, &CancelToken::new(), None));
        drop(queue);
        assert!(waiting.join().unwrap().unwrap_err().contains("freed"));
    }

    #[test]
    fn a_finished_call_answers_and_a_dropped_one_fails() {
        let finished = |end: fn(LossCall)| {
            let (reply, slot) = oneshot();
            let call = LossCall::new(&data(), &LOGPROBS, Some(reply));
            call.outcome.lock().loss = Some(1.0);
            end(call);
            slot.wait(None).unwrap().unwrap()
        };
        assert_eq!(finished(LossCall::finish).unwrap().loss, 1.0);
        assert!(finished(drop).is_err());
    }
}

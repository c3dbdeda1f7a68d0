//! [`Pending`], the handle of one submitted operation: waits for the result, shows the state, cancels.
//!
//! Threads of the client do the work. They put the result into the handle's slot, and record the state of the operation
//! in the [`Progress`] that the handle shares with them.

mod delivery;
mod own_thread;
mod progress;
mod served;
#[cfg(feature = "ffi")]
mod shared;
mod warning;

use std::any::Any;
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam_channel::Sender;

use crate::error::{Error, ErrorKind, Phase, Result};
use crate::event::Dropped;
use crate::sync::CancelToken;
use crate::sync::oneshot::{Slot, oneshot};
use crate::sync::process::{Process, forked, leak};

pub(crate) use delivery::retry as retry_deliveries;
pub(crate) use own_thread::OwnThread;
pub(crate) use progress::Progress;
use progress::verb;
pub use progress::{Stage, Status};
pub(crate) use served::Served;
#[cfg(feature = "ffi")]
pub(crate) use shared::SharedPending;
use warning::Warning;

/// Time after which a wait for a server that has never answered logs its first warning.
pub(crate) const FIRST_CONTACT_WARNING: Duration = Duration::from_secs(5);
/// Time after which any other wait logs its first warning.
pub(crate) const FIRST_WARNING: Duration = Duration::from_secs(30);
/// Interval of further warnings.
pub(crate) const NEXT_WARNING: Duration = Duration::from_secs(60);
/// Additional time of [`Pending::wait`] after the operation's deadline. The operation answers with an error at its
/// deadline; `wait` gives up only if this answer is missing.
const NET: Duration = Duration::from_secs(10);

/// The handle of a submitted operation, which returns the result.
///
/// The operation runs independently of any wait. Dropping the handle of a sample cancels the sample; training work is
/// never cancelled by a drop.
///
/// # Example: submit two operations before waiting for either
/// ```
/// # #[cfg(feature = "local")] {
/// # let server = tinkex::local::Server::start(Default::default())?;
/// # let service = tinkex::ServiceClient::builder().base_url(server.url()).api_key(server.api_key()).build()?;
/// # let training = service.create_lora_training_client("tinkex/nano", Default::default())?;
/// use tinkex::types::{AdamParams, Datum, LossFn};
///
/// let step = training.forward_backward(vec![Datum::cross_entropy(b"ab".map(i32::from).as_slice(), &[99])], LossFn::CrossEntropy);
/// let update = training.optim_step(AdamParams::default());
/// assert!(step.wait()?.loss().is_some_and(|it| 0.0 < it));
/// update.wait()?;
/// # }
/// # Ok::<(), tinkex::Error>(())
/// ```
#[must_use = "an operation that nobody waits for loses its result, and a sample is cancelled"]
pub struct Pending<T: Send + 'static> {
    slot: Slot<T>,
    progress: Progress,
    cancel: CancelToken,
    cancel_on_drop: bool,
    /// Disables the warnings about long waits. Set if this operation is a part of another, which logs them.
    is_silent: bool,
    process: Process,
    /// Owner of the client's threads, which keeps them alive while this handle exists.
    keep: Option<Arc<dyn Any + Send + Sync>>,
    /// The thread on which the client runs functions of its caller, to detect that such a function waits for an operation
    /// that cannot go on before the function returns.
    behind: Option<OwnThread>,
}

impl<T: Send + 'static> Pending<T> {
    pub(crate) fn new(slot: Slot<T>, progress: Progress, cancel: CancelToken) -> Self {
        let process = Process::this();
        Pending {
            slot,
            progress,
            cancel,
            cancel_on_drop: false,
            is_silent: false,
            process,
            keep: None,
            behind: None,
        }
    }

    /// Creates the handle of an operation that failed before anything was sent.
    pub(crate) fn failed(sdk_method: &'static str, error: Error) -> Self {
        let (reply, slot) = oneshot();
        let progress = Progress::new(sdk_method, Instant::now(), None);
        reply.send(Err(error.with(|it| it.operation = Some(verb(sdk_method).into()))));
        Pending::new(slot, progress, CancelToken::new())
    }

    /// Deadline of the operation itself.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        self.progress.deadline()
    }

    pub(crate) fn cancelled_by_drop(mut self) -> Self {
        self.cancel_on_drop = true;
        self
    }

    /// Disables the warnings about long waits, for a part of an operation. The whole operation logs them.
    pub(crate) fn silent(mut self) -> Self {
        self.is_silent = true;
        self
    }

    /// Converts the result. `convert` runs on the thread that delivers the result.
    pub(crate) fn and_then<U: Send + 'static>(
        mut self,
        convert: impl FnOnce(T) -> Result<U> + Send + 'static,
    ) -> Pending<U> {
        let (reply, slot) = oneshot();
        let progress = self.progress.clone();
        self.slot.on_settled(Box::new(move |result| {
            let explained = |error| progress.explain(error, Instant::now());
            reply.send(result.and_then(|value| convert(value).map_err(explained)));
        }));
        Pending {
            slot,
            progress: self.progress.clone(),
            cancel: self.cancel.clone(),
            cancel_on_drop: std::mem::take(&mut self.cancel_on_drop),
            is_silent: self.is_silent,
            process: self.process,
            keep: self.keep.take(),
            behind: self.behind.take(),
        }
    }

    /// Makes waits fail on the current thread, if a custom loss of the client runs on it.
    /// Sets the thread on which the client of this operation runs functions of its caller.
    pub(crate) fn behind(mut self, thread: &OwnThread) -> Self {
        self.behind = Some(thread.clone());
        self
    }

    pub(crate) fn keeping(mut self, keep: Arc<dyn Any + Send + Sync>) -> Self {
        self.keep = Some(keep);
        self
    }

    /// Waits for the result.
    ///
    /// # Errors
    /// The failure of the operation. At its deadline (`Timeouts::operation`, 2 hours by default) the operation fails
    /// with an error that describes its state.
    ///
    /// # Blocking
    /// Until the result is available, at most until the operation's deadline. A warning in the log describes the state
    /// of the operation after 30 s (after 5 s if the server has never answered), and then once a minute. Operations in
    /// the same state share one warning. For a shorter wait use [`wait_timeout`](Pending::wait_timeout). In a forked
    /// child of the process that submitted the operation, every wait fails immediately.
    pub fn wait(self) -> Result<T> {
        // On overflow there is no limit.
        let limit = self.progress.deadline().and_then(|deadline| deadline.checked_add(NET));
        match self.wait_inner(limit) {
            Some(result) => result,
            None => {
                let message = format!("no answer from the client's own threads; {}", self.describe());
                Err(self.progress.explain(Error::timeout(Phase::Total, message), Instant::now()))
            }
        }
    }

    /// Waits for the result for at most `timeout`, and takes it out of the handle. `None`: the time is over, and the
    /// operation is still running; call this method again. Do not submit the operation again: the work would be done
    /// twice. A result can be taken once.
    ///
    /// # Errors
    /// The error of the operation.
    ///
    /// # Blocking
    /// At most `timeout`.
    ///
    /// # Example: a progress line while a step runs
    /// ```
    /// # #[cfg(feature = "local")] {
    /// # let server = tinkex::local::Server::start(Default::default())?;
    /// # let service = tinkex::ServiceClient::builder().base_url(server.url()).api_key(server.api_key()).build()?;
    /// # let training = service.create_lora_training_client("tinkex/nano", Default::default())?;
    /// use std::time::Duration;
    /// use tinkex::types::AdamParams;
    ///
    /// let mut step = training.optim_step(AdamParams::default());
    /// let output = loop {
    ///     match step.wait_timeout(Duration::from_secs(1))? {
    ///         Some(output) => break output,
    ///         None => println!("{}", step.status().elapsed.as_secs()),
    ///     }
    /// };
    /// assert!(output.metrics.contains_key("grad_norm"));
    /// # }
    /// # Ok::<(), tinkex::Error>(())
    /// ```
    pub fn wait_timeout(&mut self, timeout: Duration) -> Result<Option<T>> {
        let deadline = Instant::now().checked_add(timeout).or(self.progress.deadline());
        self.wait_inner(deadline).transpose()
    }

    /// Waits for the result until `deadline`. `None`: the deadline has passed, and the operation is still running.
    ///
    /// # Errors
    /// As for [`wait_timeout`](Pending::wait_timeout).
    ///
    /// # Blocking
    /// At most until `deadline`.
    pub fn wait_deadline(&mut self, deadline: Instant) -> Result<Option<T>> {
        self.wait_inner(Some(deadline)).transpose()
    }

    /// Takes the result if it is available; does not wait. A result can be taken once.
    pub fn try_wait(&mut self) -> Option<Result<T>> {
        if self.process.is_other() {
            return Some(Err(forked()));
        }
        self.slot.try_take().map(|it| self.explained(it))
    }

    /// Returns whether the result, or an error, is available.
    pub fn is_done(&self) -> bool {
        self.process.is_other() || self.slot.is_settled()
    }

    /// The current state of the operation.
    pub fn status(&self) -> Status {
        self.progress.status(self.is_done(), Instant::now())
    }

    /// Cancels the operation: waits for it return an error immediately, and the client stops asking the server for the
    /// result. The server may still finish a request that it has accepted; it always finishes training work.
    pub fn cancel(&self) {
        self.canceller().cancel();
    }

    /// Returns a handle that cancels this operation from another thread.
    pub fn canceller(&self) -> Canceller {
        let (slot, progress, process) = (self.slot.clone(), self.progress.clone(), self.process);
        let settle = move || {
            slot.settle(Err(progress.explain(Error::cancelled(), Instant::now())));
        };
        Canceller { token: self.cancel.clone(), settle: Arc::new(settle), process }
    }

    /// Sends the result to a channel when the result is available, with a tag that identifies the operation. With
    /// `crossbeam_channel::select!` one thread can wait for many operations.
    ///
    /// A full channel blocks no thread of the client: one separate thread of the process waits until full channels have
    /// space, and sends the results of each channel in order. If the system cannot start this thread, the results are
    /// kept, and the start is retried every few seconds. If the receiver is dropped, the result is discarded.
    ///
    /// # Example: results in the order in which they come
    /// ```
    /// # #[cfg(feature = "local")] {
    /// # let server = tinkex::local::Server::start(Default::default())?;
    /// # let service = tinkex::ServiceClient::builder().base_url(server.url()).api_key(server.api_key()).build()?;
    /// # let sampler = service.create_sampling_client("tinkex/nano")?;
    /// # use tinkex::types::{ModelInput, SamplingParams};
    /// # let params = SamplingParams { max_tokens: Some(2), ..Default::default() };
    /// let (tx, rx) = crossbeam_channel::unbounded();
    /// for tag in 0..3 {
    ///     sampler.sample(&ModelInput::from_ints([65]), 1, &params).on_done(tag, tx.clone());
    /// }
    /// drop(tx);
    /// let mut tags: Vec<i32> = rx.iter().map(|(tag, answer)| answer.map(|_| tag)).collect::<Result<_, _>>()?;
    /// tags.sort();
    /// assert_eq!(tags, [0, 1, 2]);
    /// # }
    /// # Ok::<(), tinkex::Error>(())
    /// ```
    pub fn on_done<G: Send + 'static>(mut self, tag: G, channel: Sender<(G, Result<T>)>) {
        self.cancel_on_drop = false;
        if self.process.is_other() {
            return delivery::deliver_in_child(channel, (tag, Err(forked())));
        }
        let keep = self.keep.take();
        let progress = self.progress.clone();
        self.slot.on_settled(Box::new(move |result| {
            let result = result.map_err(|error| progress.explain(error, Instant::now()));
            // Pass `keep` on: `deliver` drops it after the delivery, because dropping it may end the session.
            delivery::deliver(channel, (tag, result), keep);
        }));
    }

    fn wait_inner(&self, deadline: Option<Instant>) -> Option<Result<T>> {
        if self.process.is_other() {
            return Some(Err(forked().with(|it| it.operation = Some(self.progress.operation().into()))));
        }
        if self.waits_for_this_thread() {
            let text = "a custom loss cannot wait for an operation of its own client, because the client goes on with it \
                        only after the loss has returned";
            let error = Error::new(ErrorKind::CustomLoss, text).with(|context| context.deadlock = Some(true));
            return Some(self.explained(Err(error)));
        }
        self.wait_settled(deadline).then(|| self.slot.try_take().map(|it| self.explained(it))).flatten()
    }

    /// Waits until the result is available, and leaves it in the slot. Logs warnings about a long wait. Returns false
    /// if the deadline passes first.
    fn wait_settled(&self, deadline: Option<Instant>) -> bool {
        let since = Instant::now();
        let mut warn_at = since + FIRST_WARNING;
        if self.progress.awaits_first_contact() {
            warn_at = since + FIRST_CONTACT_WARNING;
        }
        let mut warning: Option<Warning> = None;
        loop {
            let next = warning.as_ref().map_or(warn_at, |warning| warning.due);
            let until = deadline.map_or(next, |deadline| deadline.min(next));
            let is_settled = self.slot.wait_settled(Some(until));
            let now = Instant::now();
            let is_too_late = deadline.is_some_and(|deadline| deadline <= now);
            if let Some(warning) = warning.take_if(|warning| is_settled || is_too_late || warning.due <= now)
            {
                self.log(warning);
            }
            if is_settled || is_too_late {
                return is_settled;
            }
            if now < warn_at {
                continue;
            }
            // If the server has answered since the wait began, the first warning is due after 30 s, not after 5 s.
            if now < since + FIRST_WARNING && !self.progress.awaits_first_contact() {
                warn_at = since + FIRST_WARNING;
                continue;
            }
            warn_at = now + NEXT_WARNING;
            if !self.is_silent {
                warning = Warning::open(self.progress.warning_state(now), now);
            }
        }
    }

    /// A wait on this thread would last forever: the client continues with the operation only after the function that
    /// runs on this thread has returned.
    fn waits_for_this_thread(&self) -> bool {
        let running = self.behind.as_ref().and_then(OwnThread::operation);
        running.is_some_and(|running| {
            !self.is_done() && (self.progress.is_queued() || self.progress.id() == running)
        })
    }

    /// Logs the warning for this wait and the others that share it. Logs nothing if no other wait shares it and this
    /// operation is done.
    fn log(&self, warning: Warning) {
        let n_others = warning.close() - 1;
        // Pass `false` (not done) even if this operation is done: the line then describes the state of the other
        // operations.
        let state = self.progress.describe(false, Instant::now());
        if 0 < n_others {
            log::warn!(target: "tinkex", "still waiting: {state}; {n_others} others are in the same state");
        } else if !self.is_done() {
            log::warn!(target: "tinkex", "still waiting: {state}");
        }
    }

    /// Cancels an operation whose result nobody wants, and tells the observer.
    fn abandon(&self) {
        if !self.slot.is_settled() {
            self.cancel();
            let (operation, request_id) = (self.progress.operation(), self.progress.request_id());
            self.progress.observed().tell(|it| it.on_drop(&Dropped { operation, request_id }));
        }
    }

    /// Adds the known facts of the operation to an error.
    fn explained(&self, result: Result<T>) -> Result<T> {
        result.map_err(|error| self.progress.explain(error, Instant::now()))
    }

    fn describe(&self) -> String {
        self.progress.describe(self.is_done(), Instant::now())
    }
}

impl<T: Send + 'static> Drop for Pending<T> {
    fn drop(&mut self) {
        if self.process.is_other() {
            leak(&(self.slot.clone(), self.progress.clone(), self.cancel.clone(), self.keep.clone()));
            return;
        }
        if self.cancel_on_drop {
            self.abandon();
        }
    }
}

impl<T: Send + 'static> fmt::Debug for Pending<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Pending").field(&self.status()).finish()
    }
}

/// Cancels one operation, from any thread, at any time. Has no effect on an operation that is done.
#[derive(Clone)]
pub struct Canceller {
    token: CancelToken,
    settle: Arc<dyn Fn() + Send + Sync>,
    process: Process,
}

impl Canceller {
    /// Cancels the operation.
    pub fn cancel(&self) {
        // The operation runs in the parent process; a forked child cannot cancel it.
        if self.process.is_other() {
            return;
        }
        // Set the result first: otherwise the error of the interrupted work could become the result.
        (self.settle)();
        self.token.cancel();
    }
}

impl fmt::Debug for Canceller {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Canceller").field("cancelled", &self.token.is_cancelled()).finish()
    }
}

/// Waits for all operations and returns their results in the given order. After a failure, still waits for the others.
///
/// # Errors
/// The first failure, in the order given.
///
/// # Blocking
/// Until the slowest operation is done; see [`Pending::wait`].
///
/// # Example: wait for three samples
/// ```
/// # #[cfg(feature = "local")] {
/// # let server = tinkex::local::Server::start(Default::default())?;
/// # let service = tinkex::ServiceClient::builder().base_url(server.url()).api_key(server.api_key()).build()?;
/// # let sampler = service.create_sampling_client("tinkex/nano")?;
/// use tinkex::types::{ModelInput, SamplingParams};
///
/// let params = SamplingParams { max_tokens: Some(2), ..Default::default() };
/// let prompts = [b"a", b"b", b"c"].map(|it| ModelInput::from_ints(it.map(i32::from)));
/// let answers = tinkex::wait_all(prompts.iter().map(|it| sampler.sample(it, 1, &params)))?;
/// assert_eq!(answers.len(), 3);
/// # }
/// # Ok::<(), tinkex::Error>(())
/// ```
pub fn wait_all<T: Send + 'static>(all: impl IntoIterator<Item = Pending<T>>) -> Result<Vec<T>> {
    // Collect first, so that all operations are submitted before the first wait: the iterator may submit one at each
    // step.
    let all: Vec<Pending<T>> = all.into_iter().collect();
    let results: Vec<Result<T>> = all.into_iter().map(Pending::wait).collect();
    results.into_iter().collect()
}

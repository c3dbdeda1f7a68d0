//! The handle of one submitted operation.

mod delivery;
mod own_thread;
mod progress;
mod served;

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

/// The same of a wait for a server that has never answered anything.
pub(crate) const FIRST_CONTACT_WARNING: Duration = Duration::from_secs(5);
/// How long a wait is silent before it says in the log what it waits for, and how often it says so again.
pub(crate) const FIRST_WARNING: Duration = Duration::from_secs(30);
pub(crate) const NEXT_WARNING: Duration = Duration::from_secs(60);
/// How long a wait outlasts the operation's own deadline: the operation answers itself, this is only a net.
const NET: Duration = Duration::from_secs(10);

/// An operation that was submitted, and whose result will come.
///
/// The operation runs whether or not anybody waits. Dropping the handle of a sample cancels it; training work is
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
    process: Process,
    /// Keeps the client's threads alive while somebody may still wait.
    keep: Option<Arc<dyn Any + Send + Sync>>,
    /// The operation was submitted on this thread, to a client that cannot begin with it before the function there ends.
    behind: Option<OwnThread>,
}

impl<T: Send + 'static> Pending<T> {
    pub(crate) fn new(slot: Slot<T>, progress: Progress, cancel: CancelToken) -> Self {
        let process = Process::this();
        Pending { slot, progress, cancel, cancel_on_drop: false, process, keep: None, behind: None }
    }

    /// An operation that failed before anything was sent.
    pub(crate) fn failed(sdk_method: &'static str, error: Error) -> Self {
        let (reply, slot) = oneshot();
        let progress = Progress::new(sdk_method, Instant::now(), None);
        reply.send(Err(error.with(|it| it.operation = Some(verb(sdk_method).into()))));
        Pending::new(slot, progress, CancelToken::new())
    }

    /// When the operation gives up by itself.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        self.progress.deadline()
    }

    pub(crate) fn cancelled_by_drop(mut self) -> Self {
        self.cancel_on_drop = true;
        self
    }

    /// This operation with its result turned into another, on the thread that brings it.
    pub(crate) fn and_then<U: Send + 'static>(
        mut self,
        turn: impl FnOnce(T) -> Result<U> + Send + 'static,
    ) -> Pending<U> {
        let (reply, slot) = oneshot();
        let progress = self.progress.clone();
        self.slot.on_settled(Box::new(move |result| {
            let explained = |it| progress.explain(it, Instant::now());
            reply.send(result.and_then(|it| turn(it).map_err(explained)));
        }));
        Pending {
            slot,
            progress: self.progress.clone(),
            cancel: self.cancel.clone(),
            cancel_on_drop: std::mem::take(&mut self.cancel_on_drop),
            process: self.process,
            keep: self.keep.take(),
            behind: self.behind.take(),
        }
    }

    pub(crate) fn behind(mut self, thread: &OwnThread) -> Self {
        self.behind = thread.is_this().then(|| thread.clone());
        self
    }

    pub(crate) fn keeping(mut self, keep: Arc<dyn Any + Send + Sync>) -> Self {
        self.keep = Some(keep);
        self
    }

    /// Waits for the result.
    ///
    /// # Errors
    /// Whatever made the operation fail. Its own deadline (`Timeouts::operation`, 2 hours by default) ends it with
    /// an error that says what it was waiting for.
    ///
    /// # Blocking
    /// Until the result is there, at most until the operation's deadline. After 30 s, and then once a minute, a
    /// warning in the log says what is being waited for; after 5 s, if the server has never answered anything. To wait less long, use
    /// [`wait_timeout`](Pending::wait_timeout). Not at all in a forked child of the process that submitted the operation: there
    /// every wait is an error.
    pub fn wait(self) -> Result<T> {
        // A deadline that no clock can hold with that is none.
        let net = self.progress.deadline().and_then(|it| it.checked_add(NET));
        match self.wait_inner(net) {
            Some(result) => result,
            None => {
                let message = format!("no answer from the client's own threads; {}", self.describe());
                Err(self.progress.explain(Error::timeout(Phase::Total, message), Instant::now()))
            }
        }
    }

    /// Waits for the result for a limited time. `None` when the time is over: the operation goes on, so wait again. Do not submit
    /// the operation again, which would do the work twice.
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
    ///
    /// let mut step = training.optim_step(Default::default());
    /// let output = loop {
    ///     match step.wait_timeout(Duration::from_secs(1))? {
    ///         Some(output) => break output,
    ///         None => println!("{}", step.status().elapsed.as_secs()),
    ///     }
    /// };
    /// assert!(output.metrics.contains_key("step"));
    /// # }
    /// # Ok::<(), tinkex::Error>(())
    /// ```
    pub fn wait_timeout(&mut self, timeout: Duration) -> Result<Option<T>> {
        let deadline = Instant::now().checked_add(timeout).or(self.progress.deadline());
        self.wait_inner(deadline).transpose()
    }

    /// Waits for the result until `deadline`. `None` when that has passed: the operation goes on.
    ///
    /// # Errors
    /// As for [`wait_timeout`](Pending::wait_timeout).
    ///
    /// # Blocking
    /// At most until `deadline`.
    pub fn wait_deadline(&mut self, deadline: Instant) -> Result<Option<T>> {
        self.wait_inner(Some(deadline)).transpose()
    }

    /// The result, if it is there. It can be taken once.
    pub fn try_wait(&mut self) -> Option<Result<T>> {
        if self.process.is_other() {
            return Some(Err(forked()));
        }
        self.slot.try_take().map(|it| self.explained(it))
    }

    /// Whether the result, or an error, is there.
    pub fn is_done(&self) -> bool {
        self.process.is_other() || self.slot.is_settled()
    }

    /// What is known of the operation now.
    pub fn status(&self) -> Status {
        self.progress.status(self.is_done(), Instant::now())
    }

    /// Gives the operation up: waiting for it returns an error at once, and its polling stops. What the server accepted it
    /// may finish all the same; training work it does.
    pub fn cancel(&self) {
        self.canceller().cancel();
    }

    /// A handle that cancels this operation from another thread.
    pub fn canceller(&self) -> Canceller {
        let (slot, progress, process) = (self.slot.clone(), self.progress.clone(), self.process);
        let settle = move || {
            slot.settle(Err(progress.explain(Error::cancelled(), Instant::now())));
        };
        Canceller { token: self.cancel.clone(), settle: Arc::new(settle), process }
    }

    /// Sends the result into a channel when it is there, with a tag that tells operations apart: what
    /// `crossbeam_channel::select!` needs to wait for many things at once.
    ///
    /// Whoever brings the result does not wait for room in the channel: one thread of the process waits for room in all
    /// channels that are full, and keeps the results for each in order. A channel that nobody reads any more discards the
    /// result. While the system refuses that thread, results are kept, and it is tried again every few seconds.
    ///
    /// # Example: whichever comes first
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
            let result = result.map_err(|it| progress.explain(it, Instant::now()));
            // The session may end after this, if nobody else needs it.
            delivery::deliver(channel, (tag, result), keep);
        }));
    }

    fn wait_inner(&self, deadline: Option<Instant>) -> Option<Result<T>> {
        if self.process.is_other() {
            return Some(Err(forked().with(|it| it.operation = Some(self.progress.operation().into()))));
        }
        if self.behind.as_ref().is_some_and(OwnThread::is_this) && !self.is_done() {
            let text = "a custom loss cannot wait for what it submits to its own client, which begins with that only when the \
                        loss is there";
            return Some(self.explained(Err(Error::new(ErrorKind::CustomLoss, text))));
        }
        let since = Instant::now();
        let mut warn_at = since + FIRST_WARNING;
        if self.progress.awaits_first_contact() {
            warn_at = since + FIRST_CONTACT_WARNING;
        }
        loop {
            let until = deadline.map_or(warn_at, |it| it.min(warn_at));
            if let Some(result) = self.slot.wait(Some(until)) {
                return Some(self.explained(result));
            }
            let now = Instant::now();
            if deadline.is_some_and(|it| it <= now) {
                return None;
            }
            // By now it may have answered.
            if now < since + FIRST_WARNING && !self.progress.awaits_first_contact() {
                warn_at = since + FIRST_WARNING;
                continue;
            }
            log::warn!(target: "tinkex", "still waiting: {}", self.describe());
            warn_at = now + NEXT_WARNING;
        }
    }

    /// A result with everything that is known of the operation added to an error.
    fn explained(&self, result: Result<T>) -> Result<T> {
        result.map_err(|it| self.progress.explain(it, Instant::now()))
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
        if self.cancel_on_drop && !self.slot.is_settled() {
            self.cancel();
            let (operation, request_id) = (self.progress.operation(), self.progress.request_id());
            self.progress.observed().tell(|it| it.on_drop(&Dropped { operation, request_id }));
        }
    }
}

impl<T: Send + 'static> fmt::Debug for Pending<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Pending").field(&self.status()).finish()
    }
}

/// Cancels one operation, from any thread, at any time; cancelling what is done already does nothing.
#[derive(Clone)]
pub struct Canceller {
    token: CancelToken,
    settle: Arc<dyn Fn() + Send + Sync>,
    process: Process,
}

impl Canceller {
    /// Cancels the operation.
    pub fn cancel(&self) {
        // A forked child cannot cancel what its parent does.
        if self.process.is_other() {
            return;
        }
        // Settle first, so that the waiting caller hears that it was cancelled rather than what the cancelled
        // work made of it.
        (self.settle)();
        self.token.cancel();
    }
}

impl fmt::Debug for Canceller {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Canceller").field("cancelled", &self.token.is_cancelled()).finish()
    }
}

/// Waits for all operations, in order. All of them are waited for, also after one failed.
///
/// # Errors
/// The first failure, in the order given.
///
/// # Blocking
/// As [`Pending::wait`] of the slowest.
///
/// # Example: three answers
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
    // Collected first, because an iterator may be submitting as it goes.
    let all: Vec<Pending<T>> = all.into_iter().collect();
    let results: Vec<Result<T>> = all.into_iter().map(Pending::wait).collect();
    results.into_iter().collect()
}

//! What the client reports while it waits: queue states, retries, pauses.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use indicatif::ProgressBar;
use parking_lot::Mutex;
use tinkex::event::{Backoff, BillingPause, HeartbeatTrouble, Observer, QueueStateChange, Retry};
use tinkex::types::QueueState;

/// Counts events, and shows the last one in the bar.
#[derive(Debug, Default)]
pub(super) struct Seen {
    n_retries: AtomicU64,
    /// Milliseconds in which an operation waited for capacity, and in which the account was unpaid.
    queued: AtomicU64,
    paused: AtomicU64,
    /// When the last queue began, as the operation's own time.
    queue: Mutex<Option<Duration>>,
    bar: Mutex<Option<ProgressBar>>,
    is_quiet: bool,
    /// When each kind of wait was last told without a bar.
    told: Mutex<HashMap<&'static str, Instant>>,
    /// The part of the present wait for payment that is counted.
    unpaid: Mutex<Duration>,
}

/// Without a bar, a wait is told no more often than this.
const SAY_EVERY: Duration = Duration::from_secs(60);
/// Without a bar, a request that failed so often is told: until then, another attempt usually helps.
const FAILURES_TO_TELL: u32 = 3;

/// Events since the last call of [`Seen::take`].
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Counts {
    pub(super) retries: u64,
    pub(super) queue_s: f64,
    pub(super) pause_s: f64,
}

impl Seen {
    pub(super) fn new(is_quiet: bool) -> Self {
        Seen { is_quiet, ..Default::default() }
    }

    /// The bar whose message later events become.
    pub(super) fn show_in(&self, bar: ProgressBar) {
        *self.bar.lock() = Some(bar);
    }

    pub(super) fn take(&self) -> Counts {
        let seconds = |it: &AtomicU64| it.swap(0, Ordering::Relaxed) as f64 / 1e3;
        Counts {
            retries: self.n_retries.swap(0, Ordering::Relaxed),
            queue_s: seconds(&self.queued),
            pause_s: seconds(&self.paused),
        }
    }

    fn show(&self, text: String) {
        let bar = self.bar.lock().clone();
        match bar {
            Some(bar) => bar.set_prefix(text),
            None => log::info!("{text}"),
        }
    }

    /// As [`show`](Self::show), for what can last for hours: without a bar, it is a line now and then.
    fn tell(&self, kind: &'static str, text: String) {
        let has_bar = self.bar.lock().is_some();
        if !has_bar && !self.is_quiet && self.is_due(kind) {
            crate::notes::write(text.trim_end());
        }
        self.show(text);
    }

    fn is_due(&self, kind: &'static str) -> bool {
        let mut told = self.told.lock();
        let is_due = told.get(kind).is_none_or(|last| SAY_EVERY <= last.elapsed());
        if is_due {
            told.insert(kind, Instant::now());
        }
        is_due
    }
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

impl Observer for Seen {
    fn on_queue_state(&self, change: &QueueStateChange) {
        let reason = change.reason.as_deref().map(|it| format!(": {it}")).unwrap_or_default();
        if change.state == QueueState::Active {
            let began = self.queue.lock().take();
            if let Some(began) = began {
                self.queued.fetch_add(millis(change.elapsed.saturating_sub(began)), Ordering::Relaxed);
            }
            return self.show(String::new());
        }
        self.queue.lock().get_or_insert(change.elapsed);
        self.tell(
            "queue",
            match change.state {
                QueueState::PausedRateLimit => format!("waits: too many requests{reason} "),
                _ => format!("waits for capacity{reason} "),
            },
        );
    }

    fn on_retry(&self, retry: &Retry) {
        self.n_retries.fetch_add(1, Ordering::Relaxed);
        let text = format!("attempt {} failed, trying again ", retry.attempts);
        if retry.attempts < FAILURES_TO_TELL {
            return self.show(text);
        }
        self.tell("retry", format!("{}: {} ", text.trim_end(), brief(&retry.error)));
    }

    fn on_backoff(&self, backoff: &Backoff) {
        self.paused.fetch_add(millis(backoff.pause), Ordering::Relaxed);
        self.show(format!("the server is overloaded, pausing {:.0} s ", backoff.pause.as_secs_f64()));
    }

    fn on_billing_pause(&self, pause: &BillingPause) {
        let before = std::mem::replace(&mut *self.unpaid.lock(), pause.lasted);
        let more = pause.lasted.checked_sub(before).unwrap_or(pause.lasted);
        self.paused.fetch_add(millis(more), Ordering::Relaxed);
        self.tell("payment", "waits for payment of the account: check its balance at the console ".into());
    }

    fn on_heartbeat_trouble(&self, trouble: &HeartbeatTrouble) {
        let silent = trouble.silent.as_secs_f64();
        self.tell(
            "contact",
            format!("no contact with the server for {silent:.0} s: {} ", brief(&trouble.error)),
        );
    }
}

/// An error in a line that stands beside others.
fn brief(error: &tinkex::Error) -> String {
    const LONGEST: usize = 120;
    let text = error.to_string();
    match text.char_indices().nth(LONGEST) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text,
    }
}

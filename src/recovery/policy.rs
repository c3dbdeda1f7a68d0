//! The settings of a monitor, and the caller's functions that it calls.

use std::time::Duration;

use crate::client::TrainingClient;
use crate::error::{Error, Result};
use crate::types::TrainingPath;

/// Settings of a [`RecoveryMonitor`](super::RecoveryMonitor). The default checks each run every 30 s and makes at most
/// three attempts to recover it from its last checkpoint, with its optimizer state. End the literal with
/// `..Default::default()`: a minor version may add fields.
///
/// # Example: check more often
/// ```
/// use std::time::Duration;
/// use tinkex::recovery::RecoveryPolicy;
///
/// let policy = RecoveryPolicy { poll_interval: Duration::from_secs(10), ..Default::default() };
/// assert_eq!((policy.max_attempts, policy.restore_optimizer), (3, true));
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct RecoveryPolicy {
    /// Time between two checks of a run. Default 30 s.
    pub poll_interval: Duration,
    /// Largest number of attempts until a check finds the run healthy again, at least 1. Default 3.
    pub max_attempts: u32,
    /// Pause after the first failed attempt; it doubles after each further one. Default 5 s.
    pub backoff: Duration,
    /// Longest pause between two attempts. Default 60 s.
    pub max_backoff: Duration,
    /// Time limit of the creation of the new client, for each attempt; `Timeouts::operation` limits it as well. Default
    /// 30 minutes.
    pub attempt_timeout: Duration,
    /// Checkpoint from which the run continues. Default: the last one.
    pub checkpoint: RecoveryCheckpoint,
    /// Restores the optimizer state too. Default true.
    pub restore_optimizer: bool,
}

/// Checkpoint from which a recovered run continues.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum RecoveryCheckpoint {
    /// The last training state that the run saved. If it saved none, the one that it was recovered from before.
    #[default]
    Latest,
    /// This training state.
    Path(TrainingPath),
}

impl Default for RecoveryPolicy {
    fn default() -> Self {
        RecoveryPolicy {
            poll_interval: Duration::from_secs(30),
            max_attempts: 3,
            backoff: Duration::from_secs(5),
            max_backoff: Duration::from_secs(60),
            attempt_timeout: Duration::from_secs(30 * 60),
            checkpoint: RecoveryCheckpoint::Latest,
            restore_optimizer: true,
        }
    }
}

impl RecoveryPolicy {
    /// Checks the settings.
    pub(super) fn validate(&self) -> Result<()> {
        let times = [("poll_interval", self.poll_interval), ("attempt_timeout", self.attempt_timeout)];
        if let Some((name, _)) = times.iter().find(|(_, time)| time.is_zero()) {
            return Err(Error::invalid(*name, "must be longer than zero"));
        }
        if self.max_attempts == 0 {
            return Err(Error::invalid("max_attempts", "must be at least 1, is 0"));
        }
        Ok(())
    }

    /// Pause after this number of failed attempts.
    pub(super) fn pause_after(&self, n_attempts: u32) -> Duration {
        let factor = 2u32.saturating_pow(n_attempts.saturating_sub(1));
        self.backoff.saturating_mul(factor).min(self.max_backoff)
    }
}

/// A successful recovery.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Recovery {
    /// The client of the corrupted run.
    pub previous: TrainingClient,
    /// The client of the run that continues it.
    pub current: TrainingClient,
    /// The checkpoint that was loaded.
    pub checkpoint: TrainingPath,
}

/// Receives the end of each recovery. The default methods do nothing.
///
/// Methods are called on the monitor's thread, without a lock; a slow method delays all runs of the monitor. A panic in
/// a method is logged and ignored.
pub trait RecoveryHooks: Send + Sync {
    /// A run was recovered.
    fn on_recovery(&self, _recovery: &Recovery) {}

    /// The run of this client is followed no longer, because it could not be recovered or checked.
    fn on_failure(&self, _training: &TrainingClient, _error: &Error) {}
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn the_pause_doubles_up_to_its_limit_without_overflow() {
        let policy = RecoveryPolicy::default();
        let pauses = [1, 2, 3, 4, 5, 6, u32::MAX].map(|n| policy.pause_after(n).as_secs());
        assert_eq!(pauses, [5, 10, 20, 40, 60, 60, 60]);
    }

    #[test]
    fn unusable_settings_are_refused_by_name() {
        let refused =
            |policy: RecoveryPolicy| policy.validate().unwrap_err().violation().unwrap().path.clone();
        let zero = Duration::ZERO;
        assert_eq!(refused(RecoveryPolicy { poll_interval: zero, ..Default::default() }), "poll_interval");
        assert_eq!(
            refused(RecoveryPolicy { attempt_timeout: zero, ..Default::default() }),
            "attempt_timeout"
        );
        assert_eq!(refused(RecoveryPolicy { max_attempts: 0, ..Default::default() }), "max_attempts");
        assert!(RecoveryPolicy { backoff: zero, ..Default::default() }.validate().is_ok());
    }
}

//! Saves the state of a run on a server that may fail to.

use tinkex::ErrorKind;
use tinkex::train::{CheckpointRecord, Run};

use super::log::Log;
use crate::failure::Failure;

/// Lets a run go on whose server could not save a checkpoint: a later one contains the same steps.
pub(super) fn tolerate(result: tinkex::Result<()>, log: &Log) -> Result<(), Failure> {
    match result {
        Err(error) if is_of_server(&error) => {
            log.say(&format!("warning: a checkpoint could not be saved, and the run goes on: {error}"));
            Ok(())
        }
        result => Ok(result?),
    }
}

/// Saves the state after the steps that are submitted, and records it.
pub(super) fn save(run: &mut Run, log: &Log) -> Result<(), Failure> {
    tolerate(run.checkpoint(), log)?;
    record_all(run, log)?;
    if recorded_steps(run) == Some(run.next_step()) {
        return Ok(());
    }
    // Once more, as for the final checkpoint.
    run.checkpoint()?;
    Ok(run.record_checkpoints()?)
}

/// Saves and records the final checkpoint. If it was submitted already and failed, it is saved once more.
pub(super) fn finish(run: &mut Run, log: &Log) -> Result<CheckpointRecord, Failure> {
    record_all(run, log)?;
    Ok(run.finish()?)
}

/// Waits for all checkpoints that are submitted. Each of them may fail: it is given up, and the wait goes on.
fn record_all(run: &mut Run, log: &Log) -> Result<(), Failure> {
    loop {
        match run.record_checkpoints() {
            Err(error) if is_of_server(&error) => tolerate(Err(error), log)?,
            result => return Ok(result?),
        }
    }
}

/// Records the checkpoints that were submitted before a step that the server refused.
pub(super) fn record_rest(run: &mut Run, log: &Log) {
    if let Err(failure) = record_all(run, log)
        // Those after steps without results stay unrecorded.
        && !matches!(&failure, Failure::Api { error, .. } if error.violation().is_some())
    {
        log.write(&format!("a checkpoint is not recorded: {}", failure.summary()));
    }
}

/// True if a server that works has refused a request.
pub(super) fn is_refusal(error: &tinkex::Error) -> bool {
    matches!(error.kind(), ErrorKind::RequestFailed { .. } | ErrorKind::Status { .. })
        && !error.is_retryable()
}

/// Number of the steps that the last recorded state contains.
fn recorded_steps(run: &Run) -> Option<u64> {
    run.checkpoints().iter().rev().find(|record| record.state_path.is_some())?.next_batch
}

/// True for a failure of the server that may not come again.
fn is_of_server(error: &tinkex::Error) -> bool {
    matches!(
        error.kind(),
        ErrorKind::RequestFailed { .. }
            | ErrorKind::Status { .. }
            | ErrorKind::Timeout(_)
            | ErrorKind::Connection { .. }
            | ErrorKind::RateLimited
            | ErrorKind::Conflict
            | ErrorKind::PromiseExpired
    )
}

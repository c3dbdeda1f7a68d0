//! The constants of the header other than the error codes.

use crate::download::DownloadPhase;
use crate::pending::Stage;
use crate::types::StopReason;

pub(super) const CLOSE_SUCCESS: i32 = 0;
pub(super) const CLOSE_ERRORED: i32 = 1;
pub(super) const CLOSE_INTERRUPTED: i32 = 2;

pub(super) const LOG_OFF: i32 = 0;
pub(super) const LOG_ERROR: i32 = 1;
pub(super) const LOG_WARN: i32 = 2;
pub(super) const LOG_INFO: i32 = 3;
pub(super) const LOG_DEBUG: i32 = 4;
pub(super) const LOG_TRACE: i32 = 5;

pub(super) const PAUSE_WAIT: i32 = 0;
pub(super) const PAUSE_WAIT_AT_MOST: i32 = 1;
pub(super) const PAUSE_FAIL: i32 = 2;

pub(super) const STAGE_QUEUED: i32 = 0;
pub(super) const STAGE_SUBMITTING: i32 = 1;
pub(super) const STAGE_WAITING: i32 = 2;
pub(super) const STAGE_DONE: i32 = 3;

pub(super) const STOP_OTHER: i32 = 0;
pub(super) const STOP_LENGTH: i32 = 1;
pub(super) const STOP_STOP: i32 = 2;

pub(super) const RESULT_PASS: i32 = 1;
pub(super) const RESULT_OPTIM: i32 = 2;
pub(super) const RESULT_SAVE: i32 = 3;
pub(super) const RESULT_LOAD: i32 = 4;
pub(super) const RESULT_SAMPLE: i32 = 5;
pub(super) const RESULT_LOGPROBS: i32 = 6;
pub(super) const RESULT_TRAINING: i32 = 7;
pub(super) const RESULT_SAMPLING: i32 = 8;
pub(super) const RESULT_LOSS: i32 = 9;

pub(super) const EVENT_DONE: i32 = 1;
pub(super) const EVENT_LOSS: i32 = 2;
pub(super) const EVENT_LOG: i32 = 3;
pub(super) const EVENT_QUEUE_STATE: i32 = 4;
pub(super) const EVENT_RETRY: i32 = 5;
pub(super) const EVENT_BACKOFF: i32 = 6;
pub(super) const EVENT_BREAKER: i32 = 7;
pub(super) const EVENT_BILLING_PAUSE: i32 = 8;
pub(super) const EVENT_HEARTBEAT: i32 = 9;
pub(super) const EVENT_DROPPED: i32 = 10;
pub(super) const EVENT_WOKEN: i32 = 11;

pub(super) const PHASE_PREPARING: i32 = 0;
pub(super) const PHASE_RECEIVING: i32 = 1;
pub(super) const PHASE_RETRYING: i32 = 2;
pub(super) const PHASE_VERIFYING: i32 = 3;
pub(super) const PHASE_UNPACKING: i32 = 4;

pub(super) fn stage(stage: Stage) -> i32 {
    match stage {
        Stage::Queued => STAGE_QUEUED,
        Stage::Submitting => STAGE_SUBMITTING,
        Stage::Waiting => STAGE_WAITING,
        Stage::Done => STAGE_DONE,
    }
}

pub(super) fn stop_reason(reason: &StopReason) -> i32 {
    match reason {
        StopReason::Length => STOP_LENGTH,
        StopReason::Stop => STOP_STOP,
        _ => STOP_OTHER,
    }
}

pub(super) fn phase(phase: &DownloadPhase) -> i32 {
    match phase {
        DownloadPhase::Preparing => PHASE_PREPARING,
        DownloadPhase::Receiving => PHASE_RECEIVING,
        DownloadPhase::Retrying(_) => PHASE_RETRYING,
        DownloadPhase::Verifying => PHASE_VERIFYING,
        DownloadPhase::Unpacking => PHASE_UNPACKING,
    }
}

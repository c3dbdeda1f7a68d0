//! Decisions as pure functions and state machines: the caller passes in events, times and random numbers.

pub(crate) mod admission;
pub(crate) mod backoff;
pub(crate) mod billing;
pub(crate) mod breaker;
pub(crate) mod chunk;
pub(crate) mod combine;
pub(crate) mod download;
pub(crate) mod endpoints;
pub(crate) mod forms;
pub(crate) mod loss_sum;
pub(crate) mod paging;
pub(crate) mod pause;
pub(crate) mod poll;
pub(crate) mod poll_many;
pub(crate) mod refresh;
pub(crate) mod resubmit;
pub(crate) mod retry;
pub(crate) mod telemetry;
pub(crate) mod turn;
pub(crate) mod verdict;

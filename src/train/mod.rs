//! What a training program needs around the protocol: logs of a run, and exact resume.

mod checkpoint_log;
mod log_file;
mod metrics_log;
mod python_json;
mod resume;
mod run;
mod run_lock;
#[cfg(test)]
mod tests;

pub use checkpoint_log::{CheckpointLog, CheckpointRecord};
pub use metrics_log::{MetricValue, MetricsLog, MetricsRow};
pub use run::{Run, RunOptions, saved_renderer_name};

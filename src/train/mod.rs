//! What a training program needs around the protocol: logs of a run and exact resume, schedules and learning rates,
//! metrics, preferences, and reinforcement learning.

mod checkpoint_log;
mod dpo;
mod known_models;
mod learning_rate;
mod log_file;
mod logged_steps;
mod loss_inputs;
mod metrics_log;
mod nll;
mod python_json;
mod resume;
pub mod rl;
mod run;
mod run_lock;
mod schedule;
mod sequence_logprobs;
#[cfg(test)]
mod tests;

pub use checkpoint_log::{CheckpointLog, CheckpointRecord};
pub use dpo::{dpo_loss, preference_data};
pub use learning_rate::{lora_param_count, recommended_lr, recommended_lr_for_hidden_size};
pub use metrics_log::{MetricValue, MetricsLog, MetricsRow};
pub use nll::{NllMetrics, SftMetrics, bits_per_byte, evaluate_nll, mean_nll};
pub use run::{Run, RunOptions, saved_renderer_name};
pub use schedule::{Schedule, WarmupSchedule};
pub use sequence_logprobs::sequence_logprobs;

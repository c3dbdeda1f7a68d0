//! What a training program needs around the protocol.

mod dpo;
mod known_models;
mod learning_rate;
mod loss_inputs;
mod nll;
pub mod rl;
mod schedule;
mod sequence_logprobs;

pub use dpo::{dpo_loss, preference_data};
pub use learning_rate::{lora_param_count, recommended_lr, recommended_lr_for_hidden_size};
pub use nll::{NllMetrics, SftMetrics, bits_per_byte, evaluate_nll, mean_nll};
pub use schedule::{Schedule, WarmupSchedule};
pub use sequence_logprobs::sequence_logprobs;

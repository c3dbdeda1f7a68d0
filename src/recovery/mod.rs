//! Recovery of training runs whose state the server has lost: a monitor asks the server about each run, and replaces
//! the client of a corrupted run by a new one that continues from a checkpoint.
//!
//! Nothing is recovered unless a program starts a [`RecoveryMonitor`]. A recovered run continues from its last
//! checkpoint, so that the program must repeat the steps after it.
//!
//! # Example: follow a run
//! ```
//! # #[cfg(feature = "local")] {
//! # let server = tinkex::local::Server::start(Default::default())?;
//! # let service = tinkex::ServiceClient::builder().base_url(server.url()).api_key(server.api_key()).build()?;
//! use tinkex::recovery::{RecoveryMonitor, RecoveryPolicy, RecoveryStatus};
//!
//! let monitor = RecoveryMonitor::start(&service, &RecoveryPolicy::default())?;
//! let training = service.create_lora_training_client("tinkex/nano", Default::default())?;
//! let run = monitor.follow(&training)?;
//! // In the training loop: the client that trains the run now.
//! assert_eq!(run.current().model_id(), training.model_id());
//! assert!(matches!(run.status(), RecoveryStatus::Following));
//! monitor.close();
//! # }
//! # Ok::<(), tinkex::Error>(())
//! ```

mod followed;
mod monitor;
mod plan;
mod policy;

pub use followed::{FollowedRun, RecoveryStatus};
pub use monitor::RecoveryMonitor;
pub use policy::{Recovery, RecoveryCheckpoint, RecoveryHooks, RecoveryPolicy};

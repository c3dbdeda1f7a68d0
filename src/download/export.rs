//! Exports a training state whose server makes no archives (PROTOCOL §9.10).

use std::collections::BTreeMap;
use std::sync::Arc;

use super::addresses::EXPORT_TTL;
use crate::client::RestClient;
use crate::error::Result;
use crate::pending::{Canceller, Pending};
use crate::sync::CancelToken;
use crate::sync::cancel::Wake;
use crate::types::{ExternalPath, FromStateOptions, TrainingPath};

/// Name of the export in its training run, which is new.
const NAME: &str = "download";

/// Loads the state into a new training run and exports its weights.
pub(super) fn export(rest: &RestClient, path: &TrainingPath, cancel: &CancelToken) -> Result<ExternalPath> {
    let metadata = BTreeMap::from([("created_by".to_owned(), "tinkex checkpoint download".to_owned())]);
    let options = FromStateOptions { user_metadata: Some(metadata), ..Default::default() };
    let training = rest.service().start_training_client_from_state(path.as_str(), &options)?;
    let training = wait(training, cancel)?;
    let saved = wait(training.save_weights_external(NAME, EXPORT_TTL, &[]), cancel);
    training.close();
    Ok(saved?.path)
}

/// Waits for an operation, which the cancellation of the download cancels.
fn wait<T: Send + 'static>(pending: Pending<T>, cancel: &CancelToken) -> Result<T> {
    struct Cancels(Canceller);

    impl Wake for Cancels {
        fn wake(&self) {
            self.0.cancel();
        }
    }

    let link = cancel.on_cancel(Arc::new(Cancels(pending.canceller())));
    let result = pending.wait();
    drop(link);
    result
}

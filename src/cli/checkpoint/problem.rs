//! Why one of several checkpoints could not be changed.

use tinkex::Error;
use tinkex::types::CheckpointPath;

use crate::connection::App;
use crate::failure::Failure;

/// The reason in the words of this program.
pub(super) fn of(error: &Error) -> String {
    Failure::from(error.clone()).summary()
}

/// Writes the reason to stderr, with the path; `only` if no other checkpoint was chosen.
pub(super) fn report(path: &CheckpointPath, error: &Error, only: bool, app: &App) {
    Failure::from(error.clone()).report_item(path.as_str(), only, app.out.is_json());
}

/// What to do if what does not exist is among several checkpoints.
const IGNORE_MISSING: &str = "--ignore-missing, if it does not matter what is gone already";

/// The result of work on checkpoints whose errors were reported; `is_any_missing` if one of them did not exist.
pub(super) fn of_all(n_failed: usize, n_items: usize, is_any_missing: bool) -> Result<(), Failure> {
    match (n_failed, n_items) {
        (0, _) => Ok(()),
        // All was said of the only one.
        (_, 1) => Err(Failure::Negative),
        _ if is_any_missing => Err(Failure::items(n_failed, n_items).with_remedy(IGNORE_MISSING)),
        _ => Err(Failure::items(n_failed, n_items)),
    }
}

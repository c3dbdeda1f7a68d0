//! Why one of several checkpoints could not be changed.

use tinkex::Error;
use tinkex::types::CheckpointPath;

use crate::connection::App;
use crate::failure::Failure;

/// The reason in the words of this program.
pub(super) fn of(error: &Error) -> String {
    Failure::from(error.clone()).summary()
}

/// Writes the reason to stderr, with the path.
pub(super) fn report(path: &CheckpointPath, error: &Error, app: &App) {
    Failure::from(error.clone()).report_item(path.as_str(), app.out.is_json());
}

/// What to do if what does not exist is among several checkpoints.
pub(super) const IGNORE_MISSING: &str = "--ignore-missing, if it does not matter what is gone already";

/// The result of work on several checkpoints whose errors were reported.
pub(super) fn of_all<'a>(
    n_failed: usize,
    n_items: usize,
    errors: impl IntoIterator<Item = &'a Error>,
) -> Result<(), Failure> {
    if n_failed == 0 {
        return Ok(());
    }
    let failure = Failure::items(n_failed, n_items);
    let is_any_missing = errors.into_iter().any(Error::is_not_found);
    Err(if is_any_missing { failure.with_remedy(IGNORE_MISSING) } else { failure })
}

//! The end of work on checkpoints of which some could not be changed.

use crate::failure::Failure;

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

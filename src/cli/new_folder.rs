//! A folder that is made later: whether it can be.

use std::path::Path;

use super::failure::Failure;

/// Refuses a folder that cannot be made, or is none, as far as it is known without making it.
pub(crate) fn check(dir: &Path) -> Result<(), Failure> {
    match dir.ancestors().find(|it| it.exists()).filter(|it| !it.is_dir()) {
        Some(file) => Err(Failure::text(format!(
            "cannot create the folder {}: {} is a file",
            dir.display(),
            file.display()
        ))),
        None => Ok(()),
    }
}

//! Why one of several checkpoints could not be changed.

use tinkex::Error;
use tinkex::types::CheckpointPath;

use crate::failure::Failure;
use crate::notes;

/// The reason in the words of this program.
pub(super) fn of(error: &Error) -> String {
    Failure::from(error.clone()).summary()
}

/// Writes the reason to stderr, with the path.
pub(super) fn write(path: &CheckpointPath, error: &Error) {
    notes::write(&line(path, &of(error)));
}

/// Servers often name the path themselves.
fn line(path: &CheckpointPath, problem: &str) -> String {
    if problem.contains(path.as_str()) {
        format!("error: {problem}")
    } else {
        format!("error: {path}: {problem}")
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_line_names_the_path_once() {
        let path: CheckpointPath = "tinker://r/weights/x".parse().unwrap();
        for (problem, expected) in [
            ("tinker://r/weights/x does not exist", "error: tinker://r/weights/x does not exist"),
            ("not yours", "error: tinker://r/weights/x: not yours"),
        ] {
            assert_eq!(line(&path, problem), expected);
        }
    }
}

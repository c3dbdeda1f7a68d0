//! A temporary folder.

use std::path::PathBuf;

/// A new, empty folder, removed on drop.
pub(crate) struct Folder(pub(crate) PathBuf);

impl Folder {
    /// The name appears in the path; two folders never have the same path.
    pub(crate) fn new(name: &str) -> Folder {
        let unique = format!("tinkex-{name}-{}-{:016x}", std::process::id(), fastrand::u64(..));
        let path = std::env::temp_dir().join(unique);
        std::fs::create_dir_all(&path).unwrap();
        Folder(path)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

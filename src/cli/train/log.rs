//! `log.txt` of a run: what was said while it ran, with times.

use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::time::SystemTime;

use super::folder::date_time;
use crate::connection::App;
use crate::failure::Failure;

/// Writes lines to `log.txt` and to stderr.
#[derive(Debug)]
pub(super) struct Log {
    file: File,
    is_quiet: bool,
}

impl Log {
    pub(super) fn open(folder: &Path, app: &App) -> Result<Self, Failure> {
        let path = folder.join("log.txt");
        let file = File::options().create(true).append(true).open(&path);
        let file = file.map_err(|error| Failure::text(format!("{}: {error}", path.display())))?;
        Ok(Log { file, is_quiet: app.global.quiet })
    }

    /// Writes a line to the file and to stderr.
    pub(super) fn say(&self, text: &str) {
        if !self.is_quiet {
            crate::notes::write(text);
        }
        self.write(text);
    }

    /// Writes a line to the file alone. A full disk must not end a run because of its log: the metrics tell it.
    pub(super) fn write(&self, text: &str) {
        let now = date_time(SystemTime::now());
        let lines: String = text.lines().map(|line| format!("{now} {line}\n")).collect();
        let _ = (&self.file).write_all(lines.as_bytes());
    }
}

//! Files with one JSON object on each line, which survive a killed process and a full disk.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, ErrorKind as IoErrorKind, Write};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use serde_json::{Map, Value};

use super::python_json;
use crate::error::{Error, ErrorKind, Result};

/// The error of a file operation: `cannot write /runs/1/metrics.jsonl: No space left on device`.
#[cold]
pub(super) fn file_error(verb: &str, path: &Path, error: &io::Error) -> Error {
    Error::new(ErrorKind::System, format!("cannot {verb} {}: {error}", path.display()))
}

/// One line of a log.
#[derive(Debug)]
pub(super) struct Line {
    /// Number of the line in the file, from 1.
    pub(super) number: usize,
    pub(super) text: String,
    /// The object; see [`python_json::parse`] for numbers that are not finite.
    pub(super) object: Map<String, Value>,
}

/// The contents of a log.
#[derive(Debug, Default)]
pub(super) struct Contents {
    pub(super) bytes: Vec<u8>,
    pub(super) lines: Vec<Line>,
    /// The file does not end with a line break: a write was interrupted. An incomplete last line is not in `lines`; a
    /// last line that lacks only its line break is.
    pub(super) is_torn: bool,
    /// The file has an incomplete last line, which is not in `lines`.
    pub(super) is_cut: bool,
}

/// Reads a log. A file that does not exist counts as empty.
///
/// # Errors
/// The file cannot be read, or a line other than an incomplete last one is not a JSON object.
pub(super) fn read(path: &Path) -> Result<Contents> {
    match fs::read(path) {
        Ok(bytes) => parse(bytes, path),
        Err(error) if error.kind() == IoErrorKind::NotFound => Ok(Contents::default()),
        Err(error) => Err(file_error("read", path, &error)),
    }
}

fn parse(bytes: Vec<u8>, path: &Path) -> Result<Contents> {
    let is_torn = bytes.last().is_some_and(|last| *last != b'\n');
    let (mut lines, mut is_cut) = (Vec::new(), false);
    let n_pieces = bytes.split(|byte| *byte == b'\n').count();
    for (i, piece) in bytes.split(|byte| *byte == b'\n').enumerate() {
        let number = i + 1;
        if piece.trim_ascii().is_empty() {
            continue;
        }
        let parsed = std::str::from_utf8(piece)
            .map_err(|error| error.to_string())
            .and_then(|text| python_json::parse(text).map(|object| (text.trim().to_string(), object)));
        match parsed {
            Ok((text, object)) => lines.push(Line { number, text, object }),
            // The write of the last line was interrupted: only this line lacks its line break.
            Err(_) if number == n_pieces => is_cut = true,
            Err(problem) => {
                let problem = format!("the line is not a JSON object: {problem}; correct or remove the line");
                return Err(at_line(path, number, &problem));
            }
        }
    }
    Ok(Contents { bytes, lines, is_torn, is_cut })
}

/// The error of an unusable line: `metrics.jsonl:7: …`.
pub(super) fn at_line(path: &Path, number: usize, problem: &str) -> Error {
    Error::invalid(format!("{}:{number}", path.display()), problem)
}

/// Syncs the names of the files in a folder to the disk. Does nothing on file systems that cannot sync folders.
pub(super) fn sync_folder(path: &Path) -> Result<()> {
    if cfg!(not(unix)) {
        return Ok(());
    }
    let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
    match File::open(path).and_then(|folder| folder.sync_all()) {
        Err(error) if matches!(error.kind(), IoErrorKind::InvalidInput | IoErrorKind::Unsupported) => Ok(()),
        done => done.map_err(|error| file_error("sync", path, &error)),
    }
}

/// Replaces a file in one step: at any time the name has either the old contents or the new ones. When this returns,
/// the new contents and the name are on the disk.
pub(super) fn replace(path: &Path, bytes: &[u8]) -> Result<()> {
    let draft = with_suffix(path, "tmp");
    let write = || {
        let mut file = File::create(&draft)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&draft, path)
    };
    if let Err(error) = write() {
        // The draft may fill the disk; if it cannot be removed, the next replacement overwrites it.
        let _ = fs::remove_file(&draft);
        return Err(file_error("write", path, &error));
    }
    sync_folder(path.parent().unwrap_or(Path::new("")))
}

/// Writes a copy of a file's contents beside the file, as `NAME.SUFFIX`, or as `NAME.SUFFIX_2` and so on if there is
/// one already. Returns the path of the copy.
pub(super) fn write_copy(path: &Path, suffix: &str, bytes: &[u8]) -> Result<PathBuf> {
    let mut copy = with_suffix(path, suffix);
    for n in 2_u32.. {
        match File::create_new(&copy) {
            Ok(mut file) => {
                if let Err(error) = file.write_all(bytes).and_then(|()| file.sync_all()) {
                    let _ = fs::remove_file(&copy);
                    return Err(file_error("write", &copy, &error));
                }
                break;
            }
            Err(error) if error.kind() == IoErrorKind::AlreadyExists => {
                copy = with_suffix(path, &format!("{suffix}_{n}"));
            }
            Err(error) => return Err(file_error("write", &copy, &error)),
        }
    }
    Ok(copy)
}

/// Removes all but the newest copies of a file whose suffixes begin with `suffix`. A copy that cannot be removed stays: it
/// only takes room.
pub(super) fn keep_newest(path: &Path, suffix: &str, n: usize) {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let Some(start) = with_suffix(path, suffix).file_name().map(OsString::from) else { return };
    let Ok(entries) = fs::read_dir(folder) else { return };
    let mut copies: Vec<(SystemTime, PathBuf)> = entries
        .flatten()
        .filter(|entry| entry.file_name().as_encoded_bytes().starts_with(start.as_encoded_bytes()))
        .filter_map(|entry| Some((entry.metadata().ok()?.modified().ok()?, entry.path())))
        .collect();
    copies.sort();
    let n_old = copies.len().saturating_sub(n);
    for (_, copy) in &copies[..n_old] {
        let _ = fs::remove_file(copy);
    }
}

fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".{suffix}"));
    name.into()
}

/// A file that lines are appended to.
trait Appendable {
    fn length(&self) -> io::Result<u64>;
    fn append(&mut self, bytes: &[u8]) -> io::Result<()>;
    fn truncate(&mut self, length: u64) -> io::Result<()>;
}

impl Appendable for File {
    fn length(&self) -> io::Result<u64> {
        Ok(self.metadata()?.len())
    }

    fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.write_all(bytes)
    }

    fn truncate(&mut self, length: u64) -> io::Result<()> {
        self.set_len(length)
    }
}

/// Appends a line as a whole or not at all: if the disk is full, the part that was written is removed again.
fn append_whole(file: &mut impl Appendable, line: &str) -> io::Result<()> {
    let length = file.length()?;
    file.append(format!("{line}\n").as_bytes()).inspect_err(|_| {
        // If this fails too, the next open of the log finds an incomplete last line.
        let _ = file.truncate(length);
    })
}

/// A log that is open for appending.
#[derive(Debug)]
pub(super) struct LogFile {
    path: PathBuf,
    file: File,
}

impl LogFile {
    /// Opens or creates the file. Its name is on the disk when this returns.
    pub(super) fn open(path: &Path) -> Result<Self> {
        let opened = File::options().append(true).create(true).open(path);
        let file = opened.map_err(|error| file_error("open", path, &error))?;
        sync_folder(path.parent().unwrap_or(Path::new("")))?;
        Ok(LogFile { path: path.into(), file })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Appends a line, which must not contain a line break.
    pub(super) fn append(&mut self, line: &str) -> Result<()> {
        append_whole(&mut self.file, line).map_err(|error| file_error("write", &self.path, &error))
    }

    /// Waits until all lines are on the disk.
    pub(super) fn sync(&self) -> Result<()> {
        self.file.sync_data().map_err(|error| file_error("sync", &self.path, &error))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    /// A file on a disk with room for `room` bytes.
    struct SmallDisk {
        bytes: Vec<u8>,
        room: usize,
    }

    impl Appendable for SmallDisk {
        fn length(&self) -> io::Result<u64> {
            Ok(self.bytes.len() as u64)
        }

        fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
            let n = bytes.len().min(self.room - self.bytes.len());
            self.bytes.extend_from_slice(&bytes[..n]);
            if n < bytes.len() { Err(IoErrorKind::StorageFull.into()) } else { Ok(()) }
        }

        fn truncate(&mut self, length: u64) -> io::Result<()> {
            self.bytes.truncate(length as usize);
            Ok(())
        }
    }

    #[test]
    fn a_line_that_does_not_fit_on_the_disk_is_an_error_and_leaves_the_other_lines_whole() {
        let mut disk = SmallDisk { bytes: Vec::new(), room: 12 };
        append_whole(&mut disk, "{\"a\":1}").unwrap();
        let error = append_whole(&mut disk, "{\"b\":2}").unwrap_err();
        assert_eq!((error.kind(), &disk.bytes[..]), (IoErrorKind::StorageFull, &b"{\"a\":1}\n"[..]));
        disk.room = 100;
        append_whole(&mut disk, "{\"b\":2}").unwrap();
        assert_eq!(disk.bytes, b"{\"a\":1}\n{\"b\":2}\n");
    }

    #[test]
    fn an_incomplete_last_line_is_left_out_and_a_broken_line_before_it_is_named() {
        let path = Path::new("run/metrics.jsonl");
        let numbers = |text: &str| {
            let contents = parse(text.into(), path).unwrap();
            let numbers: Vec<usize> = contents.lines.iter().map(|line| line.number).collect();
            (numbers, contents.is_torn)
        };
        assert_eq!(numbers(""), (vec![], false));
        assert_eq!(numbers("{}\n\n{}\n"), (vec![1, 3], false));
        assert_eq!(numbers("{}\n{\"a\":"), (vec![1], true));
        assert_eq!(numbers("{}\n\0\0\0"), (vec![1], true));
        assert_eq!(numbers("{}\n{\"a\":1}"), (vec![1, 2], true));
        for text in ["{}\n{\"a\":\n", "{}\n[1]\n{}\n", "{}\n{\"a\":{}\n{\"b\":1}"] {
            let error = parse(text.into(), path).unwrap_err();
            assert_eq!(error.violation().unwrap().path, "run/metrics.jsonl:2", "{error}");
        }
    }
}

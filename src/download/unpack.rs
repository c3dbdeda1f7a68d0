//! Unpacks the archive of a checkpoint into an empty folder.

use std::fs::{self, File, OpenOptions};
use std::io::{BufReader, Read, Seek, Write};
use std::path::Path;

use super::names::{self, Names};
use super::tar::{Problem, Reader};
use super::workspace::disk;
use crate::error::{Error, Result};
use crate::sync::CancelToken;

/// Largest number of entries.
const MOST_ENTRIES: usize = 100_000;
/// Largest size of the content of a compressed archive: this many times the size of the archive, and [`ROOM`] more.
const LARGEST_RATIO: u64 = 200;
const ROOM: u64 = 64 << 20;

/// What was unpacked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Unpacked {
    pub(super) n_files: usize,
    pub(super) n_bytes: u64,
}

/// Unpacks an archive.
///
/// # Errors
/// [`Decode`](crate::ErrorKind::Decode) if the archive is damaged or not acceptable: then it is of no use.
pub(super) fn unpack(archive: &Path, folder: &Path, cancel: &CancelToken) -> Result<Unpacked> {
    let unreadable = |error: std::io::Error| disk("read", archive, &error);
    let mut file = File::open(archive).map_err(unreadable)?;
    let n_bytes = file.metadata().map_err(unreadable)?.len();
    let mut magic = [0; 2];
    let is_compressed = file.read_exact(&mut magic).is_ok() && magic == [0x1f, 0x8b];
    file.rewind().map_err(unreadable)?;
    let input = BufReader::with_capacity(128 << 10, file);
    if is_compressed {
        let most = n_bytes.saturating_mul(LARGEST_RATIO).saturating_add(ROOM);
        let input = flate2::bufread::MultiGzDecoder::new(input);
        write_all(Reader::new(input.take(most)), most, archive, folder, cancel)
    } else {
        write_all(Reader::new(input), n_bytes, archive, folder, cancel)
    }
}

fn write_all<R: Read>(
    mut reader: Reader<R>,
    most: u64,
    archive: &Path,
    folder: &Path,
    cancel: &CancelToken,
) -> Result<Unpacked> {
    let refused =
        |text: String| Error::decode(format!("the archive of the checkpoint cannot be used: {text}"));
    let broken = |problem| match problem {
        Problem::Archive(text) => refused(text),
        Problem::Io(error) => disk("read", archive, &error),
    };
    let mut names = Names::default();
    let mut unpacked = Unpacked::default();
    let mut n_entries = 0;
    let mut piece = vec![0; 128 << 10];
    while let Some(entry) = reader.next().map_err(broken)? {
        cancel.check()?;
        n_entries += 1;
        if MOST_ENTRIES < n_entries {
            return Err(refused(format!("it has more than {MOST_ENTRIES} files and folders")));
        }
        if most < unpacked.n_bytes.saturating_add(entry.size) {
            return Err(refused("it states more bytes than it can have".into()));
        }
        let misnamed = |problem: String| refused(format!("a name {problem}"));
        let Some(name) = names::checked(&entry.name).map_err(misnamed)? else {
            // The folder of the archive itself.
            if entry.is_folder {
                continue;
            }
            return Err(refused("a file has no name".into()));
        };
        if !entry.is_folder && entry.name.ends_with('/') {
            return Err(refused("a file has the name of a folder".into()));
        }
        names.add(&name, entry.is_folder).map_err(misnamed)?;
        let path = folder.join(&name);
        let unwritable = |error: std::io::Error| disk("write", &path, &error);
        if entry.is_folder {
            fs::create_dir_all(&path).map_err(unwritable)?;
            continue;
        }
        fs::create_dir_all(path.parent().unwrap_or(folder)).map_err(unwritable)?;
        let mut file = OpenOptions::new().write(true).create_new(true).open(&path).map_err(unwritable)?;
        loop {
            cancel.check()?;
            let n = reader.read(&mut piece).map_err(broken)?;
            if n == 0 {
                break;
            }
            file.write_all(&piece[..n]).map_err(unwritable)?;
            unpacked.n_bytes += n as u64;
        }
        file.sync_data().map_err(unwritable)?;
        unpacked.n_files += 1;
    }
    if unpacked.n_files == 0 {
        return Err(refused("it has no files".into()));
    }
    Ok(unpacked)
}

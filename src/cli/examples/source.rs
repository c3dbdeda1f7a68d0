//! The lines of a file, which may be compressed, or the items of one that is a JSON array, and the digest of its bytes.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::path::Path;
use std::sync::Arc;

use parking_lot::Mutex;
use ring::digest::{Context, SHA256};

use super::array::Items;
use crate::nearby_files;
use crate::shell_word::quoted;

const LONGEST_LINE: u64 = 64 << 20;

/// The lines of a file.
pub(crate) struct Source {
    lines: Box<dyn BufRead + Send>,
    digest: Arc<Mutex<Context>>,
    is_first: bool,
    /// False once a line was found that is not blank.
    is_blank: bool,
    /// The items, if the file is one JSON array.
    items: Option<Items>,
}

/// A reader that digests what passes through it.
struct Digested<R> {
    inner: R,
    digest: Arc<Mutex<Context>>,
}

impl<R: Read> Read for Digested<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = self.inner.read(buffer)?;
        self.digest.lock().update(&buffer[..n]);
        Ok(n)
    }
}

impl Source {
    /// Opens a file; `-` is stdin. What it is compressed with is told by its first bytes.
    pub(crate) fn open(path: &Path) -> Result<Self, String> {
        let inner: Box<dyn Read + Send> = if path.as_os_str() == "-" {
            Box::new(io::stdin())
        } else {
            if path.is_dir() {
                return Err("is a folder; name the files in it".into());
            }
            Box::new(
                File::open(path)
                    .map_err(|error| format!("cannot be opened: {error}{}", nearby_files::after(path)))?,
            )
        };
        let digest = Arc::new(Mutex::new(Context::new(&SHA256)));
        let mut bytes = BufReader::with_capacity(1 << 16, Digested { inner, digest: digest.clone() });
        let start = bytes.fill_buf().map_err(|error| format!("cannot be read: {error}"))?;
        if let Some(problem) = table(path, start) {
            return Err(problem);
        }
        let lines: Box<dyn BufRead + Send> = match start {
            [0x1f, 0x8b, ..] => Box::new(BufReader::new(flate2::bufread::MultiGzDecoder::new(bytes))),
            [b'P', b'A', b'R', b'1', ..] => {
                return Err("is a Parquet file; write it as JSON Lines, one object a line".into());
            }
            [0x28, 0xb5, 0x2f, 0xfd, ..] => {
                let decoder = zstd::stream::read::Decoder::with_buffer(bytes)
                    .map_err(|error| format!("cannot be read: {error}"))?;
                Box::new(BufReader::new(decoder))
            }
            _ => Box::new(bytes),
        };
        Ok(Source { lines, digest, is_first: true, is_blank: true, items: None })
    }

    /// The lines of a text, which may begin with a bracket.
    pub(crate) fn of_lines(mut self) -> Self {
        self.is_blank = false;
        self
    }

    /// True if what [`next`](Self::next) has read are the items of an array.
    pub(crate) fn is_array(&self) -> bool {
        self.items.is_some()
    }

    /// Reads the next line, without its end and without a byte order mark, or the next item of an array. `None` at the
    /// end.
    pub(crate) fn next(&mut self, line: &mut Vec<u8>) -> Result<Option<()>, String> {
        line.clear();
        if let Some(items) = &mut self.items {
            return items.next(&mut self.lines, line, LONGEST_LINE);
        }
        // Two more bytes for the end of the line.
        let read = (&mut self.lines).take(LONGEST_LINE + 2).read_until(b'\n', line);
        if read.map_err(|error| format!("cannot be read: {error}"))? == 0 {
            return Ok(None);
        }
        if std::mem::take(&mut self.is_first) && line.starts_with(b"\xef\xbb\xbf") {
            line.drain(..3);
        }
        let start = line.trim_ascii_start().first().copied().filter(|_| self.is_blank);
        self.is_blank &= start.is_none();
        if start == Some(b'[') {
            let rest = std::mem::replace(&mut self.lines, Box::new(io::empty()));
            self.lines = Box::new(io::Cursor::new(std::mem::take(line)).chain(rest));
            let items = self.items.insert(Items::default());
            return items.next(&mut self.lines, line, LONGEST_LINE);
        }
        for end in [b'\n', b'\r'] {
            if line.last() == Some(&end) {
                line.pop();
            }
        }
        if LONGEST_LINE < line.len() as u64 {
            return Err(format!("the line is longer than {} MiB", LONGEST_LINE >> 20));
        }
        Ok(Some(()))
    }

    /// The SHA-256 of the whole file as it lies on the disk.
    pub(super) fn sha256(mut self) -> Result<String, String> {
        io::copy(&mut self.lines, &mut io::sink()).map_err(|error| format!("cannot be read: {error}"))?;
        Ok(hex(self.digest.lock().clone().finish().as_ref()))
    }
}

/// The SHA-256 of a file, if it can be read.
pub(crate) fn sha256_of(path: &Path) -> Option<String> {
    Source::open(path).ok()?.sha256().ok()
}

/// Why a file of a table is not read, with the command that writes its rows as lines. `start` are its first bytes: a file
/// of JSON may have any name.
fn table(path: &Path, start: &[u8]) -> Option<String> {
    if start.starts_with(b"PK\x03\x04") {
        return Some(
            "is a ZIP archive, or a document of a spreadsheet program; write its rows as CSV".into(),
        );
    }
    let extension = path.extension()?.to_str()?.to_lowercase();
    let (kind, option) = match extension.as_str() {
        "csv" if has_semicolons(start) => ("CSV with semicolons", r#", delimiter=";""#),
        "csv" => ("CSV", ""),
        "tsv" => ("TSV", r#", delimiter="\t""#),
        _ => return None,
    };
    if matches!(start.trim_ascii_start().first(), Some(b'{' | b'[') | None) {
        return None;
    }
    let to = path.with_extension("jsonl");
    let shown = |path: &Path| quoted(&path.display().to_string());
    Some(format!(
        "is {kind}; with columns such as prompt and completion, this writes it as lines: python3 -c 'import csv, json, sys; \
         [print(json.dumps(row)) for row in csv.DictReader(open(sys.argv[1], newline=\"\", encoding=\"utf-8-sig\"){option})]' {} > {}",
        shown(path),
        shown(&to)
    ))
}

/// True if the head of a table has its columns between semicolons, as spreadsheets write them in many countries.
fn has_semicolons(start: &[u8]) -> bool {
    let head = start.split(|byte| *byte == b'\n').next().unwrap_or_default();
    let count = |wanted: u8| head.iter().filter(|byte| **byte == wanted).count();
    count(b',') < count(b';')
}

pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A number of a line's bytes that depends on nothing else: FNV-1a, and the last step of SplitMix64, so that all of its
/// bits depend on all bytes.
pub(crate) fn hash(line: &[u8]) -> u64 {
    let step = |hash: u64, byte: &u8| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
    let mut z = line.iter().fold(0xcbf2_9ce4_8422_2325, step);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

//! Reads tar archives that nobody vouches for (POSIX ustar and pax, GNU): only files and folders, within limits. The
//! crate `tar` takes memory for names of any announced length, and cannot apply the sizes of pax headers if it is asked
//! not to.

use std::io::{self, Read};

use crate::error::words;

const BLOCK: usize = 512;
/// Largest extended header, in bytes.
const LARGEST_HEADER: u64 = 64 << 10;

/// Reads one archive.
pub(super) struct Reader<R> {
    input: R,
    /// Unread bytes of the current entry.
    left: u64,
    /// Bytes after the current entry up to the next block.
    padding: u64,
}

/// One file or folder.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) name: String,
    pub(super) is_folder: bool,
    /// Size in bytes.
    pub(super) size: u64,
}

/// Why an archive cannot be read.
#[derive(Debug)]
pub(super) enum Problem {
    /// The archive is not acceptable.
    Archive(String),
    /// Reading failed.
    Io(io::Error),
}

fn bad<T>(text: impl Into<String>) -> Result<T, Problem> {
    Err(Problem::Archive(text.into()))
}

/// What extended headers state about the next entry.
#[derive(Default)]
struct Extended {
    name: Option<String>,
    size: Option<u64>,
}

impl<R: Read> Reader<R> {
    pub(super) fn new(input: R) -> Self {
        Reader { input, left: 0, padding: 0 }
    }

    /// The next entry; `None` at the end of the archive. What is unread of the current one is skipped.
    pub(super) fn next(&mut self) -> Result<Option<Entry>, Problem> {
        let mut extended = Extended::default();
        loop {
            self.skip()?;
            let mut block = [0; BLOCK];
            self.fill(&mut block)?;
            if block == [0; BLOCK] {
                return Ok(None);
            }
            check_sum(&block)?;
            let size = number(&block[124..136])?;
            match block[156] {
                b'x' => {
                    let content = self.header(size)?;
                    read_pax(&content, &mut extended)?;
                }
                b'L' => {
                    let content = self.header(size)?;
                    let name = content.split(|byte| *byte == 0).next().unwrap_or_default();
                    extended.name = Some(utf8(name)?);
                }
                b'g' => {
                    let content = self.header(size)?;
                    let mut global = Extended::default();
                    read_pax(&content, &mut global)?;
                    if global.name.is_some() || global.size.is_some() {
                        return bad("it has one name or size for all its files");
                    }
                }
                kind @ (0 | b'0' | b'7' | b'5') => {
                    let name = match extended.name {
                        Some(name) => name,
                        None => name(&block)?,
                    };
                    let is_folder = kind == b'5' || kind == 0 && name.ends_with('/');
                    let size = if is_folder { 0 } else { extended.size.unwrap_or(size) };
                    self.enter(size);
                    return Ok(Some(Entry { name, is_folder, size }));
                }
                kind => return bad(format!("it has {}", kind_name(kind))),
            }
        }
    }

    /// Reads a piece of the current entry; 0 at its end.
    pub(super) fn read(&mut self, piece: &mut [u8]) -> Result<usize, Problem> {
        let wanted = usize::try_from(self.left).unwrap_or(usize::MAX).min(piece.len());
        if wanted == 0 {
            return Ok(0);
        }
        match self.input.read(&mut piece[..wanted]) {
            Ok(0) => bad("it ends within a file"),
            Ok(n) => {
                self.left -= n as u64;
                Ok(n)
            }
            Err(error) => Err(problem(error)),
        }
    }

    fn enter(&mut self, size: u64) {
        self.left = size;
        self.padding = (BLOCK as u64 - size % BLOCK as u64) % BLOCK as u64;
    }

    fn skip(&mut self) -> Result<(), Problem> {
        let wanted = u128::from(self.left) + u128::from(self.padding);
        let wanted = u64::try_from(wanted).unwrap_or(u64::MAX);
        let skipped = io::copy(&mut self.input.by_ref().take(wanted), &mut io::sink()).map_err(problem)?;
        if skipped < wanted {
            return bad("it ends within a file");
        }
        (self.left, self.padding) = (0, 0);
        Ok(())
    }

    fn fill(&mut self, block: &mut [u8; BLOCK]) -> Result<(), Problem> {
        match self.input.read_exact(block) {
            Ok(()) => Ok(()),
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => bad("it ends before its end mark"),
            Err(error) => Err(problem(error)),
        }
    }

    /// The content of an extended header.
    fn header(&mut self, size: u64) -> Result<Vec<u8>, Problem> {
        if LARGEST_HEADER < size {
            return bad(format!("it has an extended header of more than {LARGEST_HEADER} bytes"));
        }
        self.enter(size);
        let mut content = Vec::new();
        self.input.by_ref().take(size).read_to_end(&mut content).map_err(problem)?;
        self.left -= content.len() as u64;
        if 0 < self.left {
            return bad("it ends within a header");
        }
        Ok(content)
    }
}

/// The decompressor reports broken data with these kinds.
fn problem(error: io::Error) -> Problem {
    use io::ErrorKind::{InvalidData, InvalidInput, UnexpectedEof};
    match error.kind() {
        InvalidData | InvalidInput | UnexpectedEof => Problem::Archive(format!("it is damaged: {error}")),
        _ => Problem::Io(error),
    }
}

fn check_sum(block: &[u8; BLOCK]) -> Result<(), Problem> {
    let sum: u64 = block.iter().map(|byte| u64::from(*byte)).sum();
    let field: u64 = block[148..156].iter().map(|byte| u64::from(*byte)).sum();
    match number(&block[148..156]) {
        Ok(stated) if stated == sum - field + 8 * u64::from(b' ') => Ok(()),
        _ => bad("it is not a tar archive, or damaged: a checksum is wrong"),
    }
}

/// Reads a number: octal digits, or the base-256 form of GNU.
fn number(field: &[u8]) -> Result<u64, Problem> {
    if field[0] & 0x80 != 0 {
        let (high, low) = field.split_at(field.len() - 8);
        let is_small = high[0] == 0x80 && high[1..].iter().all(|byte| *byte == 0);
        let low = low.iter().fold(0_u64, |sum, byte| (sum << 8) | u64::from(*byte));
        return if is_small { Ok(low) } else { bad("it has a number that is too large") };
    }
    let digits = field.trim_ascii_start();
    let digits = digits.split(|byte| matches!(byte, 0 | b' ')).next().unwrap_or_default();
    digits.iter().try_fold(0_u64, |sum, digit| match digit {
        b'0'..=b'7' => Ok((sum << 3) | u64::from(digit - b'0')),
        _ => bad("it has a number that is not octal"),
    })
}

/// The name in the header itself.
fn name(block: &[u8; BLOCK]) -> Result<String, Problem> {
    let text = |field: &[u8]| utf8(field.split(|byte| *byte == 0).next().unwrap_or_default());
    let name = text(&block[..100])?;
    // GNU archives have other fields in the place of the prefix.
    let prefix = if &block[257..263] == b"ustar\0" { text(&block[345..500])? } else { String::new() };
    Ok(if prefix.is_empty() { name } else { format!("{prefix}/{name}") })
}

fn utf8(bytes: &[u8]) -> Result<String, Problem> {
    match std::str::from_utf8(bytes) {
        Ok(text) => Ok(text.into()),
        Err(_) => bad("it has a name that is not UTF-8"),
    }
}

/// Reads the records of a pax header: `<length> <key>=<value>\n`.
fn read_pax(mut content: &[u8], extended: &mut Extended) -> Result<(), Problem> {
    const MALFORMED: &str = "it has a malformed extended header";
    while !content.is_empty() {
        let Some(space) = content.iter().position(|byte| *byte == b' ') else { return bad(MALFORMED) };
        let length = std::str::from_utf8(&content[..space]).ok().and_then(|it| it.parse::<usize>().ok());
        let Some(length) = length.filter(|it| space + 1 < *it && *it <= content.len()) else {
            return bad(MALFORMED);
        };
        let (record, rest) = content.split_at(length);
        content = rest;
        let Some(record) = record[space + 1..].strip_suffix(b"\n") else { return bad(MALFORMED) };
        let Some(equals) = record.iter().position(|byte| *byte == b'=') else { return bad(MALFORMED) };
        let (key, value) = (&record[..equals], &record[equals + 1..]);
        match key {
            b"path" => extended.name = Some(utf8(value)?),
            b"size" => match std::str::from_utf8(value).ok().and_then(|it| it.parse().ok()) {
                Some(size) => extended.size = Some(size),
                None => return bad(MALFORMED),
            },
            b"linkpath" => return bad("it has a link"),
            key if key.starts_with(b"GNU.sparse.") => return bad("it has a sparse file"),
            _ => {}
        }
    }
    Ok(())
}

fn kind_name(kind: u8) -> String {
    match kind {
        b'1' | b'2' | b'K' => "a link".into(),
        b'3' | b'4' => "a device".into(),
        b'6' => "a pipe".into(),
        b'S' => "a sparse file".into(),
        kind => {
            format!("an entry of the unknown kind {:?}", words::presentable(&char::from(kind).to_string()))
        }
    }
}

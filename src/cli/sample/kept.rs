//! The file of answers: what an earlier start has written is kept, and not asked for again.

use std::collections::HashMap;
use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, BufRead, BufReader, Read, Seek, SeekFrom, Write};
use std::ops::Range;
use std::path::Path;

use serde_json::Value;

use super::made::Made;
use crate::failure::Failure;
use crate::prompts::Key;

/// The prompts that have answers, each as it was, if the answer tells.
pub(super) type Done = HashMap<Key, Option<Value>>;

/// What a file of answers has.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Kept {
    /// The prompts that have answers.
    pub(super) done: Done,
    /// The lines of failed prompts, which are asked for again, and a last line that was cut off, as ranges of bytes.
    others: Vec<Range<u64>>,
    /// The ways in which the answers were made.
    made: Vec<Made>,
    n_bytes: u64,
}

impl Kept {
    /// The length of the file without its `others`, if these are its end.
    fn end(&self) -> Option<u64> {
        let mut end = self.n_bytes;
        for range in self.others.iter().rev() {
            if range.end != end {
                return None;
            }
            end = range.start;
        }
        Some(end)
    }

    /// How the answers of the file were made otherwise than those that are asked for now.
    fn differences(&self, now: &Made) -> Vec<String> {
        let mut all: Vec<String> = self.made.iter().flat_map(|made| now.differences(made)).collect();
        all.dedup();
        all
    }
}

/// Opens the file of answers, so that no other process writes it. Lines of failed prompts and a torn last line are removed.
/// A file with answers that were made otherwise than `now` stays as it is, unless `refuses` lets it pass.
pub(super) fn open(
    path: &Path,
    now: &Made,
    refuses: impl FnOnce(&[String]) -> Option<Failure>,
) -> Result<(File, Done), Failure> {
    let name = path.display();
    let failed = |what: &str, error: io::Error| Failure::text(format!("cannot {what} {name}: {error}"));
    let mut file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .open(path)
        .map_err(|error| failed("open", error))?;
    match file.try_lock() {
        // Some file systems have no locks.
        Ok(()) | Err(TryLockError::Error(_)) => {}
        Err(TryLockError::WouldBlock) => {
            return Err(Failure::text(format!("{name} is in use by another process"))
                .with_remedy("wait until it ends, or write to another file: -o FILE"));
        }
    }
    let is_file = file.metadata().is_ok_and(|it| it.is_file());
    if !is_file {
        return Ok((file, Done::new()));
    }
    let kept = examine(BufReader::new(&file))
        .map_err(|problem| Failure::text(format!("{name}:{problem}")).with_remedy("another file for -o"))?;
    let differences = kept.differences(now);
    if !differences.is_empty()
        && let Some(failure) = refuses(&differences)
    {
        return Err(failure);
    }
    match kept.end() {
        Some(end) if end == kept.n_bytes => {}
        Some(end) => file.set_len(end).map_err(|error| failed("repair", error))?,
        None => file = without_others(path, file, &kept).map_err(|error| failed("repair", error))?,
    }
    file.seek(SeekFrom::End(0)).map_err(|error| failed("read", error))?;
    Ok((file, kept.done))
}

/// Puts a copy without the lines of failed prompts in the place of the file, in one step, so that no answer is lost if the
/// process dies here.
fn without_others(path: &Path, mut file: File, kept: &Kept) -> io::Result<File> {
    let path = path.canonicalize()?;
    let mut name = path.clone().into_os_string();
    name.push(format!(".{}.tmp", std::process::id()));
    let mut copy = OpenOptions::new().read(true).write(true).create_new(true).open(&name)?;
    let mut write = || {
        let _ = copy.try_lock();
        std::fs::set_permissions(&name, file.metadata()?.permissions())?;
        let starts = [0].into_iter().chain(kept.others.iter().map(|range| range.end));
        let ends = kept.others.iter().map(|range| range.start).chain([kept.n_bytes]);
        for (start, end) in starts.zip(ends) {
            file.seek(SeekFrom::Start(start))?;
            io::copy(&mut (&mut file).take(end - start), &mut copy)?;
        }
        copy.sync_all()?;
        std::fs::rename(&name, &path)
    };
    if let Err(error) = write() {
        let _ = std::fs::remove_file(&name);
        return Err(error);
    }
    Ok(copy)
}

/// Appends a line.
pub(super) fn append(file: &mut File, line: &str) -> io::Result<()> {
    // One call, so that a killed process leaves at most the end of one line out.
    file.write_all(format!("{line}\n").as_bytes())?;
    file.flush()
}

/// What is said of earlier answers to none of the prompts.
pub(super) fn others(path: &Path, n: usize) -> Option<String> {
    let path = path.display();
    match n {
        0 => None,
        1 => {
            Some(format!("note: 1 earlier answer in {path} is to another prompt, or to one at another place"))
        }
        n => Some(format!(
            "note: {n} earlier answers in {path} are to other prompts, or to ones at other places"
        )),
    }
}

/// Reads a file of answers. The problem of a line of another kind begins with its number.
fn examine(mut file: impl BufRead) -> Result<Kept, String> {
    let mut kept = Kept::default();
    let (mut line, mut number) = (Vec::new(), 0);
    loop {
        line.clear();
        number += 1;
        let n = file.read_until(b'\n', &mut line).map_err(|error| format!(" cannot be read: {error}"))?;
        if n == 0 {
            return Ok(kept);
        }
        let range = kept.n_bytes..kept.n_bytes + n as u64;
        kept.n_bytes = range.end;
        // Without its end, a line may have been cut within a number.
        let is_torn = !line.ends_with(b"\n") && may_be_torn(&line);
        if is_torn || line.trim_ascii().is_empty() {
            kept.others.push(range);
            continue;
        }
        let json: Value = serde_json::from_slice(&line).unwrap_or_default();
        match (Key::of_answer(&json), json.get("error")) {
            (Some(key), None) if json["sequences"].is_array() => {
                kept.done.insert(key, json.get("prompt").cloned());
                if let Some(made) = Made::of_line(&json)
                    && !kept.made.contains(&made)
                {
                    kept.made.push(made);
                }
            }
            (Some(_), Some(_)) => kept.others.push(range),
            (None, _) | (Some(_), None) => {
                return Err(format!("{number}: is not a line of answers, so that the file stays as it is"));
            }
        }
    }
}

/// True if a line without its end may be the beginning of an answer, and not a text of the user that would be lost.
fn may_be_torn(line: &[u8]) -> bool {
    let begins_like = |start: &[u8]| line.starts_with(start) || start.starts_with(line);
    // The keys of a line are sorted.
    let begins = [&b"{\"error\":"[..], b"{\"id\":"].into_iter().any(begins_like);
    let is_answer = |json: Value| json.get("error").is_some() || json.get("sequences").is_some();
    begins && serde_json::from_slice(line).map_or(true, is_answer)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(id: &str) -> Key {
        Key::Id(format!("\"{id}\""))
    }

    #[test]
    fn answers_are_kept_and_failed_and_torn_lines_are_not() {
        let a = "{\"id\":\"a\",\"sequences\":[]}\n";
        let b = "{\"id\":\"b\",\"error\":\"x\"}\n";
        let n = a.len() as u64;
        for (text, is_known, end) in [
            (String::new(), false, Some(0)),
            (a.to_owned(), true, Some(n)),
            (format!("{a}{b}"), true, Some(n)),
            (format!("{a}{b}{b}{{\"id\":\"c\",\"seq"), true, Some(n)),
            (format!("{a}{{\"id\":\"c\",\"sequences\":[]}}"), true, Some(n)),
            (format!("{a}{{\"er"), true, Some(n)),
            (format!("{a}\n"), true, Some(n)),
            (format!("{b}{a}"), true, None),
        ] {
            let kept = examine(text.as_bytes());
            assert_eq!(kept.as_ref().map(Kept::end), Ok(end), "{text}");
            let expected: Done = is_known.then(|| (key("a"), None)).into_iter().collect();
            assert_eq!(kept.map(|it| it.done), Ok(expected), "{text}");
        }
    }

    #[test]
    fn a_file_of_another_kind_is_refused() {
        for text in [
            "hello\n",
            "{\"messages\":[]}\n",
            "{\"id\":\"a\",\"sequences\":[]}\n[]\n",
            "{\"id\":\"a\",\"prompt\":\"x\"}\n",
            // Nor is a text without a line end taken for an answer that was cut off.
            "hello",
            "{\"key\":1}",
            "{\"id\":\"a\",\"name\":1}",
        ] {
            assert!(examine(text.as_bytes()).is_err(), "{text}");
        }
    }
}

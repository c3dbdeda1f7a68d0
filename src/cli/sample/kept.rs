//! The file of answers: what an earlier start has written is kept, and not asked for again.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, BufRead, BufReader, BufWriter, Read, Seek, SeekFrom, Write};
use std::ops::Range;
use std::path::Path;

use serde_json::Value;

use super::answers::{Answer, Answers};
use super::made::Made;
use crate::examples::Pairs;
use crate::failure::Failure;
use crate::nearby_files;
use crate::prompts::Key;

/// What a file of answers has.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Kept {
    pub(super) answers: Answers,
    /// The lines of failed prompts, which are asked for again, and a last line that was cut off.
    others: Vec<Line>,
    /// The ways in which the answers were made.
    made: Vec<Made>,
    n_bytes: u64,
}

/// A line of the file.
#[derive(Clone, Debug, PartialEq)]
struct Line {
    /// Its bytes.
    range: Range<u64>,
    /// The number of its prompt, as it is in the file.
    was: Option<u64>,
    /// The number of its prompt, as it is to be.
    index: Option<u64>,
}

impl Kept {
    /// The length of the file without its `others`, if these are its end.
    fn end(&self) -> Option<u64> {
        let mut end = self.n_bytes;
        for line in self.others.iter().rev() {
            if line.range.end != end {
                return None;
            }
            end = line.range.start;
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
/// A file with answers that were made otherwise than `now` stays as it is, unless `refuses` lets it pass. `assign` takes the
/// answers to the prompts of this start, and returns true if these are known by now: then the lines get their numbers.
pub(super) fn open(
    path: &Path,
    now: &Made,
    refuses: impl FnOnce(&[String]) -> Option<Failure>,
    assign: impl FnOnce(&mut Answers) -> Result<bool, Failure>,
) -> Result<(File, Answers), Failure> {
    let name = path.display();
    let failed = |what: &str, error: io::Error| Failure::text(format!("cannot {what} {name}: {error}"));
    let Some(mut file) = locked(path).map_err(|error| failed("open", error))? else {
        return Err(Failure::text(format!("{name} is in use by another process")).with_remedy(format!(
            "wait until it ends, or write to another file: -o {}",
            nearby_files::unused(path)
        )));
    };
    let is_file = file.metadata().is_ok_and(|it| it.is_file());
    if !is_file {
        return Ok((file, Answers::default()));
    }
    let mut kept = examine(BufReader::new(&file)).map_err(|problem| {
        let remedy = format!("another file, such as -o {}", nearby_files::unused(path));
        Failure::text(format!("{name}:{problem}")).with_remedy(remedy)
    })?;
    let differences = kept.differences(now);
    if !differences.is_empty()
        && let Some(failure) = refuses(&differences)
    {
        return Err(failure);
    }
    let is_known = assign(&mut kept.answers)?;
    let is_moved = is_known && kept.answers.are_moved();
    match kept.end() {
        Some(end) if end == kept.n_bytes && !is_moved => {}
        Some(end) if !is_moved => file.set_len(end).map_err(|error| failed("repair", error))?,
        _ => {
            let line = |answer: &Answer| Line {
                range: answer.range.clone(),
                was: answer.index,
                index: if is_moved { answer.now } else { answer.index },
            };
            let lines: Vec<Line> = kept.answers.all().iter().map(line).collect();
            file = rewritten(path, file, &lines).map_err(|error| failed("repair", error))?;
        }
    }
    end_last_line(&mut file).map_err(|error| failed("repair", error))?;
    kept.answers.begin_again(is_moved);
    Ok((file, kept.answers))
}

/// Opens a file, or makes it, and locks it. `None` if another process has it.
fn locked(path: &Path) -> io::Result<Option<File>> {
    // Each time, another process has to put its copy in the place of the file just then.
    for _ in 0..10 {
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path)?;
        match file.try_lock() {
            Ok(()) if !is_at(&file, path) => {}
            // Some file systems have no locks.
            Ok(()) | Err(TryLockError::Error(_)) => return Ok(Some(file)),
            Err(TryLockError::WouldBlock) => return Ok(None),
        }
    }
    Ok(None)
}

/// True if the file still has its name: a process that puts a copy in its place takes it away.
#[cfg(unix)]
fn is_at(file: &File, path: &Path) -> bool {
    use std::os::unix::fs::MetadataExt;
    let id = |it: std::fs::Metadata| (it.dev(), it.ino());
    file.metadata().ok().map(id) == std::fs::metadata(path).ok().map(id)
}

/// True: where an open file cannot be replaced, it keeps its name.
#[cfg(not(unix))]
fn is_at(_file: &File, _path: &Path) -> bool {
    true
}

/// Goes to the end of a file, and gives its last line an end if it has none: another program may have written it.
fn end_last_line(file: &mut File) -> io::Result<()> {
    if file.seek(SeekFrom::End(0))? == 0 {
        return Ok(());
    }
    let mut last = [0];
    file.seek(SeekFrom::End(-1))?;
    file.read_exact(&mut last)?;
    if last == *b"\n" { Ok(()) } else { file.write_all(b"\n") }
}

/// Gives the lines the numbers that were not known when the file was opened, and, if `is_ordered`, the order of the prompts,
/// after all prompts have come and the new lines were added. `answers` are those with which the file begins.
pub(super) fn finish(
    path: &Path,
    mut file: File,
    answers: &Answers,
    is_ordered: bool,
) -> Result<(), Failure> {
    let is_needed = answers.are_moved() || is_ordered && !answers.all().is_empty();
    if !is_needed || !file.metadata().is_ok_and(|it| it.is_file()) {
        return Ok(());
    }
    let failed = |problem: String| Failure::text(format!("{}: {problem}", path.display()));
    file.seek(SeekFrom::Start(0)).map_err(|error| failed(error.to_string()))?;
    let kept = examine(BufReader::new(&file)).map_err(failed)?;
    let answered = kept.answers.all().iter().enumerate().map(|(i, answer)| Line {
        range: answer.range.clone(),
        was: answer.index,
        index: answers.all().get(i).map_or(answer.index, |earlier| earlier.now),
    });
    let mut lines: Vec<Line> = answered.chain(kept.others.iter().cloned()).collect();
    lines.sort_by_key(|line| line.range.start);
    if is_ordered {
        lines.sort_by_key(|line| (line.index.is_none(), line.index));
    }
    let is_same =
        lines.is_sorted_by_key(|line| line.range.start) && lines.iter().all(|it| it.was == it.index);
    if !is_same {
        rewritten(path, file, &lines).map_err(|error| failed(format!("cannot be put in order: {error}")))?;
    }
    Ok(())
}

/// Puts a copy with these lines in the place of the file, in one step, so that no answer is lost if the process dies here.
fn rewritten(path: &Path, mut file: File, lines: &[Line]) -> io::Result<File> {
    let path = path.canonicalize()?;
    let mut name = path.clone().into_os_string();
    name.push(format!(".{}.tmp", std::process::id()));
    let copy = OpenOptions::new().read(true).write(true).create_new(true).open(&name)?;
    let mut write = || {
        let _ = copy.try_lock();
        std::fs::set_permissions(&name, file.metadata()?.permissions())?;
        let mut out = BufWriter::new(&copy);
        let mut text = Vec::new();
        for Line { range, was, index } in lines {
            file.seek(SeekFrom::Start(range.start))?;
            text.clear();
            (&mut file).take(range.end - range.start).read_to_end(&mut text)?;
            match numbered(&text, *index).filter(|_| was != index) {
                Some(line) => writeln!(out, "{line}")?,
                // Another line may follow the last one of the file, which may have no end.
                None if !text.ends_with(b"\n") => out.write_all(&[&text[..], b"\n"].concat())?,
                None => out.write_all(&text)?,
            }
        }
        out.flush()?;
        copy.sync_all()?;
        std::fs::rename(&name, &path)
    };
    if let Err(error) = write() {
        let _ = std::fs::remove_file(&name);
        return Err(error);
    }
    Ok(copy)
}

/// A line with another number of its prompt. The rest stays as it is written: numbers that are read and written again may
/// lose a digit.
fn numbered(line: &[u8], index: Option<u64>) -> Option<String> {
    let mut fields = Pairs::of(std::str::from_utf8(line).ok()?).ok()?;
    let index = index.map_or("null".to_owned(), |it| it.to_string());
    match fields.0.iter_mut().find(|(key, _)| key == "index") {
        Some((_, raw)) => *raw = &index,
        None => fields.0.insert(fields.0.len().min(1), ("index".into(), &index)),
    }
    Some(Pairs::text(fields.0.iter().map(|(key, raw)| (key.as_str(), *raw))))
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
        1 => Some(format!(
            "note: 1 earlier answer in {path} is to a prompt that is not in the input now; it stays there, with the index null"
        )),
        n => Some(format!(
            "note: {n} earlier answers in {path} are to prompts that are not in the input now; they stay there, with the index \
             null"
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
            kept.answers.sort();
            return Ok(kept);
        }
        let range = kept.n_bytes..kept.n_bytes + n as u64;
        kept.n_bytes = range.end;
        // Without its end, a line may have been cut within a number.
        let is_torn = !line.ends_with(b"\n") && may_be_torn(&line);
        if is_torn || line.trim_ascii().is_empty() {
            kept.others.push(Line { range, was: None, index: None });
            continue;
        }
        let json: Value = serde_json::from_slice(&line).unwrap_or_default();
        let index = json.get("index").and_then(Value::as_u64);
        match (Key::of_answer(&json), json.get("error")) {
            (Some(key), None) if json["sequences"].is_array() => {
                let prompt = json.get("prompt").cloned();
                kept.answers.add(key, Answer { range, index, prompt, now: None });
                if let Some(made) = Made::of_line(&json)
                    && !kept.made.contains(&made)
                {
                    kept.made.push(made);
                }
            }
            (Some(_), Some(_)) => kept.others.push(Line { range, was: index, index }),
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
            assert_eq!(kept.map(|it| it.answers.all().len()), Ok(usize::from(is_known)), "{text}");
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

    #[test]
    fn a_line_gets_another_number_and_is_otherwise_as_it_was() {
        for (line, index, expected) in [
            (
                "{\"id\":null,\"index\":3,\"logprobs\":[-0.10000000149011612]}\n",
                Some(4),
                "{\"id\":null,\"index\":4,\"logprobs\":[-0.10000000149011612]}",
            ),
            ("{\"id\":\"a\",\"index\":null}", Some(0), "{\"id\":\"a\",\"index\":0}"),
            ("{\"id\":\"\\u00e4\",\"index\":1}", None, "{\"id\":\"\\u00e4\",\"index\":null}"),
            ("{\"id\":1,\"sequences\":[]}", Some(2), "{\"id\":1,\"index\":2,\"sequences\":[]}"),
        ] {
            assert_eq!(numbered(line.as_bytes(), index).as_deref(), Some(expected), "{line}");
        }
    }
}

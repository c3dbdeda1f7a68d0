//! A file of prompts: a line of the output for each of them, and a second start goes on where the first one ended.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::Path;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, bounded, never, select, unbounded};
use serde_json::{Value, json};
use tinkex::sync::CancelToken;
use tinkex::types::SampleResponse;
use tinkex::{Error, ErrorKind};

use super::Args;
use super::ending::Failed;
use super::kept::{self, Done};
use super::made::Made;
use super::progress::Progress;
use super::sampler::Sampler;
use crate::args::Format;
use crate::connection::App;
use crate::examples::{Problems, file_name};
use crate::failure::Failure;
use crate::prompts::{self, Item, Keys, Prompt, Prompts};
use crate::shell_word::quoted;
use crate::{train, wording};

/// How often a signal is looked for while nothing else happens.
const LOOK: Duration = Duration::from_millis(100);

/// A prompt that is being worked on, and its place among those of this start.
type Tag = (usize, Item);

pub(super) fn run(args: &Args, app: &App) -> Result<(), Failure> {
    let Some(input) = &args.batch.input else { return Err(Failure::usage("-i is missing")) };
    if app.global.format.is_some_and(|it| it != Format::Jsonl) {
        return Err(Failure::usage("the answers to a file of prompts are JSON Lines, whatever -f says")
            .with_remedy("leave -f out"));
    }
    let contents = prompts::contents(input, &args.batch.id_field, args.raw)?;
    let source = Prompts::open(input, &args.batch.id_field)?;
    // Before the file of answers is made: without a model there will be none.
    let sampler = Sampler::open(&args.settings, args.raw, app)?;
    let made = Made::new(&sampler.model, sampler.template_name(), args.n, &args.settings);
    let (file, done) = match &args.batch.output {
        Some(path) => {
            let (file, done) = kept::open(path, &made, |differences| refusal(args, path, differences, app))?;
            (Some(file), done)
        }
        None => (None, Done::new()),
    };
    if let Some(contents) = contents.as_ref().filter(|it| !it.problems.is_empty()) {
        for line in contents.problems.lines() {
            app.note(&line);
        }
        let (n, n_bad) = (contents.n, contents.problems.len());
        app.note(&format!("note: {n_bad} of {n} prompts cannot be used, and get a line with `error`"));
    }
    app.stop.defer();
    let cancel = CancelToken::new();
    let lines = read_prompts(source, usize::from(args.batch.in_flight))?;
    let (sender, results) = unbounded();
    let mut batch = Batch {
        args,
        app,
        sampler: &sampler,
        made: &made,
        cancel: &cancel,
        sender,
        sink: Sink { file, app, path: args.batch.output.as_deref() },
        done,
        keys: Keys::default(),
        problems: Problems::default(),
        refusals: Problems::default(),
        n_expected: contents.as_ref().map(|it| it.n),
        began: Instant::now(),
        held: args.batch.ordered.then(BTreeMap::new),
        n_lines: 0,
        n_begun: 0,
        n_written: 0,
        n_running: 0,
        n_skipped: 0,
        failed: Failed::default(),
        fatal: None,
        progress: Progress::new(app),
    };
    let ended = batch.work(&lines, &results);
    cancel.cancel();
    ended?;
    if let Some(signal) = app.stop.signal() {
        app.note(&batch.state());
        if args.batch.output.is_some() {
            app.note(&format!("go on with: {}", this_command()));
        }
        return Err(Failure::Signal(signal));
    }
    if batch.n_lines == 0 {
        return Err(prompts::no_prompts(input));
    }
    // Those of a file that was read before are told before.
    if contents.is_none() {
        for line in batch.problems.lines() {
            app.note(&line);
        }
    }
    batch.refusals.lines().iter().for_each(|line| app.note(line));
    app.note(&batch.state());
    if let Some(path) = &args.batch.output {
        let n_others = batch.done.len().saturating_sub(batch.n_skipped);
        kept::others(path, n_others).iter().for_each(|note| app.note(note));
    }
    let advice = batch.failed.advice(&file_name(input), args.batch.output.is_some());
    match batch.failed.n() {
        0 => Ok(()),
        // A program reads what to do where it reads the failure.
        n_failed if app.out.is_json() && !advice.is_empty() => {
            Err(Failure::items(n_failed, batch.n_lines).with_remedy(advice.join("; ")))
        }
        n_failed => {
            advice.iter().for_each(|line| app.note(line));
            Err(Failure::items(n_failed, batch.n_lines))
        }
    }
}

/// Why the file of answers is not added to: it has answers of another model or of other settings.
fn refusal(args: &Args, path: &Path, differences: &[String], app: &App) -> Option<Failure> {
    let problem = format!("{} has answers that were made with {}", path.display(), differences.join("; "));
    if args.batch.force_resume {
        app.note(&format!("warning: {problem}"));
        return None;
    }
    Some(
        Failure::usage(problem)
            .with_remedy("another file for -o; --force-resume adds to this one all the same"),
    )
}

/// Reads prompts in a thread of its own: answers are written while a slow source is waited for.
fn read_prompts(mut prompts: Prompts, ahead: usize) -> Result<Receiver<Result<Item, String>>, Failure> {
    let (sender, items) = bounded(ahead);
    let read = move || {
        while let Some(next) = prompts.next().transpose() {
            let is_last = next.is_err();
            if sender.send(next).is_err() || is_last {
                return;
            }
        }
    };
    let started = std::thread::Builder::new().name("prompts".into()).spawn(read);
    started.map_err(|error| Failure::text(format!("cannot start a thread: {error}")))?;
    Ok(items)
}

struct Batch<'a> {
    args: &'a Args,
    app: &'a App,
    sampler: &'a Sampler,
    made: &'a Made,
    cancel: &'a CancelToken,
    sender: Sender<(Tag, Result<SampleResponse, Error>)>,
    sink: Sink<'a>,
    /// What the output has from earlier starts.
    done: Done,
    keys: Keys,
    /// What is wrong with lines of this start.
    problems: Problems,
    /// What the server says of the prompts that it has failed.
    refusals: Problems,
    /// The number of prompts, if it is known.
    n_expected: Option<usize>,
    began: Instant,
    /// Lines that wait for earlier ones, by the place of their prompt.
    held: Option<BTreeMap<usize, String>>,
    n_lines: usize,
    n_begun: usize,
    n_written: usize,
    n_running: usize,
    n_skipped: usize,
    failed: Failed,
    /// What ends the batch early.
    fatal: Option<Failure>,
    progress: Progress,
}

impl Batch<'_> {
    /// Works until all prompts have their lines, or a signal comes.
    fn work(
        &mut self,
        lines: &Receiver<Result<Item, String>>,
        results: &Receiver<(Tag, Result<SampleResponse, Error>)>,
    ) -> Result<(), Failure> {
        let mut has_more = true;
        while (has_more || 0 < self.n_running) && !self.app.stop.is_asked() && self.fatal.is_none() {
            let n_open = self.n_running + self.held.as_ref().map_or(0, BTreeMap::len);
            let room = has_more && n_open < usize::from(self.args.batch.in_flight);
            let closed = never();
            let lines = if room { lines } else { &closed };
            select! {
                recv(results) -> result => {
                    if let Ok((tag, result)) = result {
                        self.n_running -= 1;
                        self.settle(tag, result)?;
                    }
                }
                recv(lines) -> line => match line {
                    Ok(Ok(item)) => self.begin(item)?,
                    Ok(Err(problem)) => self.fatal = Some(Failure::text(problem)),
                    Err(_) => has_more = false,
                },
                default(LOOK) => {}
            }
            if self.progress.is_due() {
                let state = self.progress_line();
                self.progress.show(self.app, &state);
            }
        }
        self.progress.end();
        // What is here already is not lost.
        for (tag, result) in results.try_iter() {
            self.n_running -= 1;
            self.settle(tag, result)?;
        }
        self.fatal.take().map_or(Ok(()), Err)
    }

    /// Asks for the answers to a prompt, unless they are there.
    fn begin(&mut self, mut item: Item) -> Result<(), Failure> {
        self.n_lines += 1;
        if let Some(prompt) = self.done.get(&item.key()) {
            if prompt.is_some() && *prompt != item.json {
                self.fatal = Some(changed(&item, self.args));
            }
            self.n_skipped += 1;
            return Ok(());
        }
        self.keys.check(&mut item);
        let place = self.n_begun;
        self.n_begun += 1;
        let prompt = match &item.prompt {
            Ok(Prompt::Text(text)) => self.sampler.prompt(text),
            Ok(Prompt::Messages(messages)) => self.sampler.prompt_of(messages),
            Err(problem) => Err(problem.clone()),
        };
        match prompt {
            Ok(prompt) => {
                self.n_running += 1;
                let client = self.sampler.client.with_cancel(self.cancel);
                let pending = client.sample(&prompt, self.args.n, &self.sampler.params);
                pending.on_done((place, item), self.sender.clone());
                Ok(())
            }
            Err(problem) => {
                self.failed.n_unusable += 1;
                self.problems.add(&item.place, &problem);
                let error = json!({ "kind": "InvalidInput", "message": problem, "retryable": false });
                self.failed(place, &item, error)
            }
        }
    }

    fn settle(&mut self, (place, item): Tag, result: Result<SampleResponse, Error>) -> Result<(), Failure> {
        match result {
            Ok(response) => {
                let sequences: Vec<Value> = response
                    .sequences
                    .iter()
                    .map(|sequence| self.sampler.answer(sequence).json(self.args.logprobs))
                    .collect();
                let mut line = self.head(&item);
                line["sequences"] = sequences.into();
                self.write(place, line.to_string())
            }
            Err(error) if error.is_cancelled() => Ok(()),
            // The others would fail in the same way: they stay open for the next start.
            Err(error) if is_fatal(&error) => {
                let remedy = format!("when that is mended: {}", this_command());
                self.fatal.get_or_insert(Failure::from(error).with_remedy(remedy));
                Ok(())
            }
            Err(error) => {
                let n =
                    if error.is_user_error() { &mut self.failed.n_refused } else { &mut self.failed.n_other };
                *n += 1;
                self.refusals.add(&item.place, &wording::message(&error));
                self.failed(place, &item, problem_of(&error))
            }
        }
    }

    fn failed(&mut self, place: usize, item: &Item, error: Value) -> Result<(), Failure> {
        let mut line = self.head(item);
        line["error"] = error;
        self.write(place, line.to_string())
    }

    /// Writes a line, or keeps it until the lines before it are written.
    fn write(&mut self, place: usize, line: String) -> Result<(), Failure> {
        let Some(held) = &mut self.held else {
            self.n_written += 1;
            return self.sink.write(&line);
        };
        held.insert(place, line);
        while let Some(line) = held.remove(&self.n_written) {
            self.sink.write(&line)?;
            self.n_written += 1;
        }
        Ok(())
    }

    /// What a line says about its prompt, and how its answers are made.
    fn head(&self, item: &Item) -> Value {
        let mut line =
            json!({ "id": item.id, "index": item.index, "prompt": item.json, "prompt_hash": item.hash });
        self.made.add_to(&mut line);
        line
    }

    fn state(&self) -> String {
        let answers = self.n_written.saturating_sub(self.failed.n());
        let mut text = format!("{answers} answered, {} failed", self.failed.n());
        if 0 < self.n_skipped {
            text += &format!(", {} were there", self.n_skipped);
        }
        text
    }

    /// The state, with the number of all prompts and the time that is left if these are known.
    fn progress_line(&self) -> String {
        let Some(n) = self.n_expected else { return self.state() };
        let n_now = self.n_written + self.held.as_ref().map_or(0, BTreeMap::len);
        let seconds = seconds_left(self.began.elapsed(), n_now, n.saturating_sub(n_now + self.n_skipped));
        let left = seconds.map(|it| format!(", ETA {}", train::clock(it))).unwrap_or_default();
        format!("{}/{n}: {}{left}", n_now + self.n_skipped, self.state())
    }
}

/// The time for `n_left` prompts after `n_now` took so long.
fn seconds_left(elapsed: Duration, n_now: usize, n_left: usize) -> Option<f64> {
    (0 < n_now).then(|| elapsed.as_secs_f64() / n_now as f64 * n_left as f64)
}

/// The file of answers has one to another prompt with the same id.
fn changed(item: &Item, args: &Args) -> Failure {
    let output = args.batch.output.as_deref().unwrap_or_else(|| Path::new("-")).display();
    let (place, key) = (&item.place, item.key());
    Failure::text(format!("{place}: the prompt with the {key} is not the one that {output} has an answer to"))
        .with_remedy(format!(
            "another file for -o, another id, or remove the line of that {key} from {output}"
        ))
}

fn problem_of(error: &Error) -> Value {
    json!({ "kind": error.kind().name(), "message": wording::message(error), "retryable": error.is_retryable() })
}

/// True for what is wrong with all prompts, not with one.
fn is_fatal(error: &Error) -> bool {
    matches!(
        error.kind(),
        ErrorKind::Auth
            | ErrorKind::Permission
            | ErrorKind::Billing
            | ErrorKind::Config
            | ErrorKind::Connection { .. }
            | ErrorKind::Closed
            | ErrorKind::NotFound
    )
}

/// Where the lines go.
struct Sink<'a> {
    file: Option<File>,
    app: &'a App,
    path: Option<&'a Path>,
}

impl Sink<'_> {
    fn write(&mut self, line: &str) -> Result<(), Failure> {
        let Some(file) = &mut self.file else { return self.app.out.line(line) };
        kept::append(file, line).map_err(|error| {
            let path = self.path.map(|path| path.display().to_string()).unwrap_or_default();
            Failure::text(format!("cannot write {path}: {error}"))
        })
    }
}

/// The command line of this process, as a shell reads it.
fn this_command() -> String {
    let arguments = std::env::args().skip(1).map(|argument| quoted(&argument));
    ["tinkex".to_owned()].into_iter().chain(arguments).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_that_is_left_follows_from_what_this_start_has_done() {
        assert_eq!(seconds_left(Duration::from_secs(10), 0, 5), None);
        assert_eq!(seconds_left(Duration::from_secs(10), 5, 20), Some(40.0));
        assert_eq!(seconds_left(Duration::from_secs(10), 5, 0), Some(0.0));
    }
}

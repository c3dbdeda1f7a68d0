//! The work on a file of prompts: some of them are in flight, and their lines are written as they come.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::Path;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, never, select};
use serde_json::{Value, json};
use tinkex::sync::CancelToken;
use tinkex::types::SampleResponse;
use tinkex::{Error, ErrorKind};

use super::Args;
use super::answers::{Answers, Found};
use super::batch::this_command;
use super::ending::Failed;
use super::kept;
use super::made::Made;
use super::progress::Progress;
use super::sampler::Sampler;
use crate::connection::App;
use crate::examples::Problems;
use crate::failure::Failure;
use crate::prompts::{Item, Keys, Prompt};
use crate::{nearby_files, train, wording};

/// How often a signal is looked for while nothing else happens.
const LOOK: Duration = Duration::from_millis(100);

/// A prompt that is being worked on, and its place among those of this start.
type Tag = (usize, Item);

pub(super) struct Work<'a> {
    args: &'a Args,
    app: &'a App,
    sampler: &'a Sampler,
    made: &'a Made,
    cancel: &'a CancelToken,
    sender: Sender<(Tag, Result<SampleResponse, Error>)>,
    pub(super) sink: Sink<'a>,
    /// Those that the output has from earlier starts.
    pub(super) answers: Answers,
    keys: Keys,
    /// Problems of lines of this start.
    pub(super) problems: Problems,
    /// The server's words about the prompts that it has failed.
    pub(super) refusals: Problems,
    /// The number of prompts, if it is known.
    pub(super) n_expected: Option<usize>,
    began: Instant,
    /// Lines that wait for earlier ones, by the place of their prompt.
    held: Option<BTreeMap<usize, String>>,
    pub(super) n_lines: usize,
    n_begun: usize,
    n_written: usize,
    n_running: usize,
    n_skipped: usize,
    pub(super) failed: Failed,
    /// Failure that ends the batch early.
    fatal: Option<Failure>,
    progress: Progress,
}

impl<'a> Work<'a> {
    #[expect(clippy::too_many_arguments, reason = "each is a part of the work, and made elsewhere")]
    pub(super) fn new(
        args: &'a Args,
        app: &'a App,
        sampler: &'a Sampler,
        made: &'a Made,
        cancel: &'a CancelToken,
        sender: Sender<(Tag, Result<SampleResponse, Error>)>,
        sink: Sink<'a>,
        answers: Answers,
    ) -> Self {
        Work {
            args,
            app,
            sampler,
            made,
            cancel,
            sender,
            sink,
            answers,
            keys: Keys::default(),
            problems: Problems::default(),
            refusals: Problems::default(),
            n_expected: None,
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
        }
    }

    /// Works until all prompts have their lines, or a signal comes.
    pub(super) fn run(
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
        if self.keys.check(&mut item) {
            match self.answers.take(&item) {
                Found::Answer => {
                    self.n_skipped += 1;
                    return Ok(());
                }
                Found::OfAnother => {
                    self.fatal = Some(changed(&item, self.args));
                    return Ok(());
                }
                Found::Nothing => {}
            }
        }
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

    /// The part of a line about its prompt, and about how its answers are made.
    fn head(&self, item: &Item) -> Value {
        let mut line =
            json!({ "id": item.id, "index": item.index, "prompt": item.json, "prompt_hash": item.hash });
        self.made.add_to(&mut line);
        line
    }

    pub(super) fn state(&self) -> String {
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
pub(super) fn changed(item: &Item, args: &Args) -> Failure {
    let path = args.batch.output.as_deref().unwrap_or_else(|| Path::new("-"));
    let (place, key, output, other) = (&item.place, item.key(), path.display(), nearby_files::unused(path));
    Failure::text(format!("{place}: the prompt with the {key} is not the one that {output} has an answer to"))
        .with_remedy(format!(
            "another file, such as -o {other}, another id, or remove the line of that {key} from {output}"
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
pub(super) struct Sink<'a> {
    pub(super) file: Option<File>,
    pub(super) app: &'a App,
    pub(super) path: Option<&'a Path>,
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

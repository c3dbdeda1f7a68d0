//! A file of prompts: a line of the output for each of them, and a second start goes on where the first one ended.

use std::path::Path;

use crossbeam_channel::{Receiver, bounded, unbounded};
use tinkex::sync::CancelToken;

use super::Args;
use super::answers::{Answers, Found};
use super::kept;
use super::made::Made;
use super::sampler::Sampler;
use super::work::{self, Sink, Work};
use crate::args::Format;
use crate::connection::App;
use crate::examples::file_name;
use crate::failure::Failure;
use crate::nearby_files;
use crate::prompts::{self, Item, Keys, Prompts};
use crate::shell_word::quoted;

pub(super) fn run(args: &Args, app: &App) -> Result<(), Failure> {
    let Some(input) = &args.batch.input else { return Err(Failure::usage("-i is missing")) };
    if app.global.format.is_some_and(|it| it != Format::Jsonl) {
        return Err(Failure::usage("the answers to a file of prompts are JSON Lines, whatever -f says")
            .with_remedy("leave -f out"));
    }
    let (id_field, template) = (&args.batch.id_field, args.settings.template.as_deref());
    let contents = prompts::contents(input, id_field, template, args.raw)?;
    let source = Prompts::open(input, id_field, template)?;
    // Before the file of answers is made: without a model there will be none.
    let sampler = Sampler::open(&args.settings, args.raw, app)?;
    let made = Made::new(&sampler.model, sampler.template_name(), args.n, &args.settings);
    let (file, answers) = match &args.batch.output {
        Some(path) => {
            let refuses = |differences: &[String]| refusal(args, path, differences, app);
            let assign = |answers: &mut Answers| match &contents {
                Some(_) if !answers.all().is_empty() => {
                    let mut prompts = Prompts::open(input, id_field, template)?;
                    let mut keys = Keys::default();
                    while let Some(mut item) = prompts.next().map_err(Failure::text)? {
                        if keys.check(&mut item) && answers.take(&item) == Found::OfAnother {
                            return Err(work::changed(&item, args));
                        }
                    }
                    Ok(true)
                }
                _ => Ok(false),
            };
            let (file, answers) = kept::open(path, &made, refuses, assign)?;
            (Some(file), answers)
        }
        None => (None, Answers::default()),
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
    let sink = Sink { file, app, path: args.batch.output.as_deref() };
    let mut work = Work::new(args, app, &sampler, &made, &cancel, sender, sink, answers);
    work.n_expected = contents.as_ref().map(|it| it.n);
    let ended = work.run(&lines, &results);
    cancel.cancel();
    ended?;
    if let Some(signal) = app.stop.signal() {
        app.note(&work.state());
        if args.batch.output.is_some() {
            app.note(&format!("go on with: {}", this_command()));
        }
        return Err(Failure::signal(signal));
    }
    if work.n_lines == 0 {
        return Err(prompts::no_prompts(input));
    }
    // Those of a file that was read before are told before.
    if contents.is_none() {
        for line in work.problems.lines() {
            app.note(&line);
        }
    }
    work.refusals.lines().iter().for_each(|line| app.note(line));
    app.note(&work.state());
    if let Some(path) = &args.batch.output {
        if let Some(file) = work.sink.file.take() {
            kept::finish(path, file, &work.answers, args.batch.ordered)?;
        }
        kept::others(path, work.answers.n_left()).iter().for_each(|note| app.note(note));
    }
    let advice = work.failed.advice(&file_name(input), args.batch.output.is_some());
    match work.failed.n() {
        0 => Ok(()),
        // A program reads what to do where it reads the failure.
        n_failed if app.out.is_json() && !advice.is_empty() => {
            Err(Failure::items(n_failed, work.n_lines).with_remedy(advice.join("; ")))
        }
        n_failed => {
            advice.iter().for_each(|line| app.note(line));
            Err(Failure::items(n_failed, work.n_lines))
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
    Some(Failure::usage(problem).with_remedy(format!(
        "another file, such as -o {}; --force-resume adds to this one all the same",
        nearby_files::unused(path)
    )))
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

/// The command line of this process, as a shell reads it.
pub(super) fn this_command() -> String {
    let arguments = std::env::args().skip(1).map(|argument| quoted(&argument));
    ["tinkex".to_owned()].into_iter().chain(arguments).collect::<Vec<_>>().join(" ")
}

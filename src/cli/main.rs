//! The program `tinkex`: fine-tunes, samples and manages models of a Tinker server, or of the engine in this process.
//!
//! Each command is a module with its arguments (`Args`) and a function `run`. A command writes its data through
//! [`output::Out`] and everything else through [`notes`], and ends with a [`failure::Failure`], from which the exit status
//! follows.

mod args;
mod audit;
mod auth;
mod billing;
mod cells;
mod chat;
mod checkpoint;
mod connection;
mod counted;
mod csv;
mod data;
mod doctor;
mod doubts;
mod engine;
mod eval;
mod examples;
mod failure;
mod foreign;
mod known_words;
mod limit;
mod logger;
mod manual;
mod model;
mod moments;
mod nearby_files;
mod nearby_runs;
mod new_folder;
mod notes;
mod output;
mod prices;
mod printable;
mod project;
mod prompts;
mod refusal;
mod report;
mod run;
mod run_folder;
mod run_id;
mod sample;
mod serve;
mod session;
mod sessions;
mod shell;
mod shell_word;
mod signals;
mod similar;
mod table;
mod train;
mod version;
mod web;
mod wording;

use std::process::ExitCode;

use clap::FromArgMatches;
use clap::error::ErrorKind;

use self::args::{Cli, Command, Format};
use self::connection::App;
use self::failure::Failure;
use self::refusal::Refusal;

fn main() -> ExitCode {
    let mut command = manual::command();
    let words = args::words();
    let matches = command.try_get_matches_from_mut(std::env::args_os());
    let cli = matches.and_then(|it| Cli::from_arg_matches(&it).map_err(|error| error.format(&mut command)));
    let cli = match cli {
        Ok(cli) => cli,
        Err(error) if error.use_stderr() => {
            return refused(&error, &words).report(refusal::asks_for_json(&words));
        }
        Err(error) => {
            // Help goes to stdout, whose reader may be gone; nothing can be told about that.
            let _ = error.print();
            return ExitCode::SUCCESS;
        }
    };
    let is_json = matches!(cli.global.format, Some(Format::Json | Format::Jsonl));
    let mut app = match App::new(cli.global, cli.command.may_create_engine()) {
        Ok(app) => app,
        Err(failure) => return failure.report(is_json),
    };
    app.is_dry_run = cli.command.only_looks();
    let result = run(cli.command, &app).map_err(|failure| match app.stop.signal() {
        // The end of the sessions has ended the requests of the command.
        Some(signal) if !app.stop.is_deferred() => Failure::signal(signal),
        _ => {
            let failure = engine::explained(failure, &app.lost);
            let failure = app.doubts.explained(failure, |last| run_folder::gone(last, &app));
            foreign::explained(failure, &app)
        }
    });
    logger::end(matches!(&result, Err(failure) if failure.is_of_contact()));
    let status = sessions::status_of(&result);
    let code = match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure.report(is_json),
    };
    app.sessions.end(status);
    app.engines.leave(&app);
    code
}

fn refused(error: &clap::Error, words: &[String]) -> Failure {
    let refusal = Refusal::of(error, &manual::command(), words);
    Failure::Arguments(match args::word_after_local(words) {
        Some(word) if error.kind() != ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => {
            let folder = shell_word::quoted(word);
            refusal.with_remedy(format!("--local={folder}, if {folder} is the folder of the engine"))
        }
        _ => refusal,
    })
}

fn run(command: Command, app: &App) -> Result<(), Failure> {
    match command {
        Command::Auth(args) => auth::run(args, app),
        Command::Model(args) => model::run(args, app),
        Command::Run(args) => run::run(args, app),
        Command::Checkpoint(args) => checkpoint::run(args, app),
        Command::Session(args) => session::run(args, app),
        Command::Billing(args) => billing::run(args, app),
        Command::Audit(args) => audit::run(args, app),
        Command::Train(args) => train::run(*args, app),
        Command::Sample(args) => sample::run(args, app),
        Command::Chat(args) => chat::run(args, app),
        Command::Eval(args) => eval::run(args, app),
        Command::Data(args) => data::run(args, app),
        Command::Report(args) => report::run(args, app),
        Command::Serve(args) => serve::run(args, app),
        Command::Doctor(args) => doctor::run(args, app),
        Command::Completions(args) => shell::completions(args, app),
        Command::Man(args) => shell::man(args, app),
        Command::Version => version::run(app),
    }
}

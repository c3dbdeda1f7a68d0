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
mod engine;
mod eval;
mod examples;
mod failure;
mod logger;
mod manual;
mod model;
mod moments;
mod notes;
mod output;
mod prices;
mod report;
mod run;
mod run_folder;
mod sample;
mod serve;
mod session;
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

use self::args::{Cli, Color, Command};
use self::connection::{App, use_color};
use self::failure::Failure;

fn main() -> ExitCode {
    let mut command = manual::command();
    let matches = command.try_get_matches_from_mut(std::env::args_os());
    let cli = matches.and_then(|it| Cli::from_arg_matches(&it).map_err(|error| error.format(&mut command)));
    let cli = match cli {
        Ok(cli) => cli,
        Err(error) => {
            if error.use_stderr() {
                let text = error.render();
                let color = use_color(Color::Auto, notes::are_read());
                let text = if color { text.ansi().to_string() } else { text.to_string() };
                notes::write(wording::own(&text).trim_end());
            } else {
                // Help goes to stdout, whose reader may be gone; nothing can be told about that.
                let _ = error.print();
            }
            if error.use_stderr() && args::word_after_local().is_some() {
                notes::write("  tip: a folder after --local is written with an equals sign: --local=DIR");
            }
            return ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(2));
        }
    };
    let app = match App::new(cli.global) {
        Ok(app) => app,
        Err(failure) => return failure.report(false),
    };
    match run(cli.command, &app) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => engine::explained(failure, &app.lost).report(app.out.is_json()),
    }
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

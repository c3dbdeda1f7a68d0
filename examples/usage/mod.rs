//! The command line of an example that takes no arguments.

use std::process::ExitCode;

use tinkex::Error;

/// Runs an example that takes no arguments but `--help`.
pub(crate) fn run_without_arguments(name: &str, help: &str, run: fn() -> Result<(), Error>) -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if arguments.iter().any(|argument| argument == "-h" || argument == "--help") {
        print!("{help}");
        return ExitCode::SUCCESS;
    }
    if let Some(argument) = arguments.first() {
        eprintln!("{name}: unknown argument {argument:?}\n\n{help}");
        return ExitCode::from(2);
    }
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{name}: {error}");
            ExitCode::FAILURE
        }
    }
}

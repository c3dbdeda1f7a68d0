//! What the help and the manual pages say beside the definitions of the options: examples, files, exit status, and other
//! pages.

mod examples;
mod page;

use std::any::TypeId;
use std::ffi::OsString;
use std::path::PathBuf;

use clap::CommandFactory;

use self::examples::EXAMPLES;
pub(crate) use self::page::{name as page_name, page};
use super::args::Cli;

/// What the exit status of a command says.
const EXIT_STATUS: [(&str, &str); 6] = [
    ("0", "done"),
    ("1", "failed, or the result of a check is negative"),
    ("2", "wrong arguments, or it would have to ask without a terminal"),
    ("3", "some of several items failed"),
    ("4", "the limit of costs or tokens was reached, and the state is saved"),
    ("130, 143", "ended by Ctrl-C or SIGTERM"),
];

/// The command line with the examples of each command.
pub(crate) fn command() -> clap::Command {
    let command = with_negative_values(with_examples(Cli::command(), ""));
    let status = EXIT_STATUS.iter().map(|(status, meaning)| format!("\n  {status:<9} {meaning}"));
    let examples = command.get_after_help().map(|it| format!("{it}\n\n")).unwrap_or_default();
    command.after_long_help(format!("{examples}Exit status:{}", status.collect::<String>()))
}

fn with_examples(command: clap::Command, path: &str) -> clap::Command {
    let of_this = EXAMPLES.iter().find(|(words, _)| *words == path);
    let command = match of_this {
        Some((_, examples)) => {
            let lines = examples.iter().map(|example| format!("\n  {example}"));
            command.after_help(format!("Examples:{}", lines.collect::<String>()))
        }
        None => command,
    };
    command.mut_subcommands(|subcommand| {
        let path = format!("{path} {}", subcommand.get_name());
        with_examples(subcommand, path.trim_start())
    })
}

/// Lets values such as `-1` reach the parsers of options that are not texts: these say what is wrong with the value, and
/// clap would take it for another option.
fn with_negative_values(command: clap::Command) -> clap::Command {
    let command = command.mut_args(|arg| if is_measure(&arg) { arg.allow_hyphen_values(true) } else { arg });
    command.mut_subcommands(with_negative_values)
}

/// True of an option whose one value is a number, a time, or another thing that is parsed.
fn is_measure(arg: &clap::Arg) -> bool {
    let texts =
        [TypeId::of::<String>(), TypeId::of::<PathBuf>(), TypeId::of::<OsString>(), TypeId::of::<bool>()];
    let parser = arg.get_value_parser();
    let is_text = texts.iter().any(|it| parser.type_id() == *it) || parser.possible_values().is_some();
    !arg.is_positional() && arg.get_action().takes_values() && arg.get_num_args().is_none() && !is_text
}

/// The command lines in the help of a command.
fn examples_of(command: &clap::Command) -> Vec<String> {
    let help = command.get_after_help().map(ToString::to_string).unwrap_or_default();
    let is_example = |line: &&str| line.starts_with("  ") && line.contains("tinkex");
    let lines = help.lines().skip_while(|line| *line != "Examples:").skip(1).take_while(is_example);
    lines.map(|line| line.trim().to_owned()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The words of the part of a line that runs the program, as a shell splits them.
    fn words(line: &str) -> Vec<String> {
        let start = line.find("tinkex ").unwrap();
        let line = line[start..].split([' ']).take_while(|it| !matches!(*it, "|" | ">" | "&&"));
        let line = line.collect::<Vec<_>>().join(" ");
        let parts = line.split('\'').enumerate();
        let words = parts.flat_map(|(i, part)| {
            if i % 2 == 1 {
                vec![part.to_owned()]
            } else {
                part.split_whitespace().map(str::to_owned).collect()
            }
        });
        words.collect()
    }

    fn leaves(command: &clap::Command, path: &str, all: &mut Vec<(String, clap::Command)>) {
        if !command.has_subcommands() {
            all.push((path.to_owned(), command.clone()));
        }
        for sub in command.get_subcommands() {
            leaves(sub, format!("{path} {}", sub.get_name()).trim(), all);
        }
    }

    #[test]
    fn each_command_has_examples_and_all_of_them_are_valid_command_lines_of_it() {
        let mut all = Vec::new();
        leaves(&command(), "", &mut all);
        assert!(30 < all.len());
        for (path, of_command) in all {
            let examples = examples_of(&of_command);
            assert!((1..=3).contains(&examples.len()), "{path}: {examples:?}");
            for example in examples {
                let words = words(&example);
                assert!(words[1..].join(" ").starts_with(&path), "{path}: {example}");
                if let Err(error) = command().try_get_matches_from(&words) {
                    panic!("{example}: {error}");
                }
            }
        }
        for example in EXAMPLES[0].1 {
            assert!(command().try_get_matches_from(words(example)).is_ok(), "{example}");
        }
    }
}

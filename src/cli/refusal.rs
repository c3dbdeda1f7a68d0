//! A command line that clap refuses, in the form of all other failures: what is wrong, what to do, and the usage.

use clap::error::{ContextKind, ContextValue, ErrorKind};

use super::shell_word::quoted;
use super::{known_words, wording};

/// Why a command line is refused.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Refusal {
    /// What is wrong; some lines below the first one may have details.
    what: String,
    remedies: Vec<String>,
    /// The usage of the command, or its whole help.
    usage: String,
    /// The whole help was shown because the command is not complete.
    is_help: bool,
}

impl Refusal {
    /// `root` is the whole command line, `words` are those that were given.
    pub(crate) fn of(error: &clap::Error, root: &clap::Command, words: &[String]) -> Self {
        let rendered = wording::own(&error.render().to_string());
        let context = |kind| match error.get(kind) {
            Some(ContextValue::String(text)) => Some(text.as_str()),
            _ => None,
        };
        let mut root = root.clone();
        root.build();
        let path = path_of(&root, words, context(ContextKind::InvalidSubcommand));
        let command = path.last().copied().unwrap_or(&root);
        let name = path.iter().map(|it| it.get_name()).collect::<Vec<_>>().join(" ");
        let help = format!("`{name} --help` shows the arguments");
        let is_help = error.kind() == ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand;
        if is_help || error.kind() == ErrorKind::MissingSubcommand {
            let what = format!("`{name}` needs a command");
            let remedies = vec![format!("`{name} --help` lists the commands")];
            let usage = if is_help { rendered.trim_end().to_owned() } else { usage_of(command) };
            return Refusal { what, remedies, usage, is_help };
        }
        let what = rendered.split("\n\n").next().unwrap_or_default().trim_start_matches("error: ").trim_end();
        let mut what = what.to_owned();
        let mut remedies: Vec<String> = Vec::new();
        match error.kind() {
            ErrorKind::UnknownArgument => {
                let given = context(ContextKind::InvalidArg).unwrap_or_default();
                if let Some(negative) = words.iter().find(|word| is_negative(word) && word.starts_with(given))
                {
                    what =
                        format!("unexpected value {negative:?}: values do not begin with a minus sign here");
                    remedies.push(format!("`{}`, without the minus sign", &negative[1..]));
                } else if !given.starts_with('-') && has_long(command, "run-id") {
                    remedies.push(format!("--run-id {}", quoted(given)));
                } else {
                    let known = known_words::option(command, given);
                    remedies.extend(known.map(|it| with_value(&it, given, words)));
                }
            }
            ErrorKind::InvalidSubcommand => {
                let given = context(ContextKind::InvalidSubcommand).unwrap_or_default();
                remedies.extend(known_words::command(&root, &path, given));
            }
            ErrorKind::ValueValidation | ErrorKind::InvalidValue => {
                let value = context(ContextKind::InvalidValue).unwrap_or_default();
                if is_negative(value) && what.ends_with("not a whole number") {
                    what = format!("{}must not be negative", what.trim_end_matches("not a whole number"));
                }
            }
            _ => {}
        }
        if remedies.is_empty() {
            let tips = rendered.lines().filter_map(|line| line.trim_start().strip_prefix("tip: "));
            // The suggestions of clap may share little more than letters with the word.
            for tip in tips.filter(|it| !it.starts_with("a similar argument")) {
                let given = context(ContextKind::InvalidArg).unwrap_or_default();
                let word = words.iter().find(|word| tip.starts_with("to pass") && word.starts_with(given));
                if word.is_some_and(|word| word.starts_with("--")) {
                    continue;
                }
                remedies.push(match word {
                    Some(word) => format!("-- {}, if it is a value and not an option", quoted(word)),
                    None => tip.to_owned(),
                });
            }
        }
        if remedies.is_empty() {
            remedies.push(help);
        }
        Refusal { what, remedies, usage: usage_of(command), is_help: false }
    }

    /// Adds what to do, before all else.
    pub(crate) fn with_remedy(mut self, remedy: impl Into<String>) -> Self {
        self.remedies.insert(0, remedy.into());
        self
    }

    /// What is wrong, in a line.
    pub(crate) fn message(&self) -> String {
        self.what.split_whitespace().collect::<Vec<_>>().join(" ")
    }

    pub(crate) fn remedy(&self) -> String {
        self.remedies.join("; or ")
    }

    /// The lines for a person.
    pub(crate) fn lines(&self) -> Vec<String> {
        if self.is_help {
            return vec![self.usage.clone()];
        }
        let first = format!("error: {}", self.what);
        let tries = self.remedies.iter().map(|it| format!("  try: {it}"));
        [first].into_iter().chain(tries).chain([String::new(), self.usage.clone()]).collect()
    }
}

fn has_long(command: &clap::Command, name: &str) -> bool {
    command.get_arguments().any(|arg| arg.get_long() == Some(name))
}

fn usage_of(command: &clap::Command) -> String {
    command.clone().render_usage().to_string()
}

/// True of a word that begins with a minus sign and a digit.
fn is_negative(word: &str) -> bool {
    word.strip_prefix('-').is_some_and(|rest| rest.starts_with(|it: char| it.is_ascii_digit()))
}

/// The commands that the words name, from the program on, up to a word that is not known.
fn path_of<'a>(root: &'a clap::Command, words: &[String], unknown: Option<&str>) -> Vec<&'a clap::Command> {
    let mut path = vec![root];
    let known = words.iter().skip(1).take_while(|word| Some(word.as_str()) != unknown && *word != "--");
    for word in known {
        let found = path.last().and_then(|it| it.find_subcommand(word));
        path.extend(found);
    }
    path
}

/// True if the words ask for JSON, as far as this is seen without their being valid.
pub(crate) fn asks_for_json(words: &[String]) -> bool {
    let is_json = |it: &str| matches!(it.trim_start_matches('='), "json" | "jsonl");
    let words: Vec<&str> = words.iter().map(String::as_str).take_while(|it| *it != "--").collect();
    let format = words.iter().enumerate().rev().find_map(|(i, word)| {
        if matches!(*word, "-f" | "--format") {
            return Some(words.get(i + 1).copied().unwrap_or_default());
        }
        word.strip_prefix("--format=").or_else(|| word.strip_prefix("-f"))
    });
    format.is_some_and(is_json)
}

/// The remedy with the value that the refused option was given, in place of the word that stands for one.
fn with_value(remedy: &str, given: &str, words: &[String]) -> String {
    let given = given.split('=').next().unwrap_or(given);
    let of_word = |(i, word): (usize, &String)| {
        if let Some(value) = word.strip_prefix(given).and_then(|rest| rest.strip_prefix('=')) {
            return Some(value.to_owned());
        }
        let next = words.get(i + 1).filter(|next| word == given && !next.starts_with('-'));
        next.cloned()
    };
    let value = words.iter().enumerate().find_map(of_word);
    match (remedy.rsplit_once(' '), value) {
        (Some((rest, last)), Some(value)) if last.chars().all(|it| it.is_ascii_uppercase()) => {
            format!("{rest} {}", quoted(&value))
        }
        _ => remedy.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::manual;

    fn words(line: &str) -> Vec<String> {
        line.split_whitespace().map(str::to_owned).collect()
    }

    #[test]
    fn json_is_asked_for_anywhere_on_a_command_line() {
        for (line, expected) in [
            ("tinkex -f json nonsense", true),
            ("tinkex train --nonsense --format=json", true),
            ("tinkex train -fjsonl", true),
            ("tinkex train -f=json", true),
            ("tinkex train --format json x", true),
            ("tinkex train -f", false),
            ("tinkex train -f json -f table", false),
            ("tinkex sample -- -f json", false),
            ("tinkex json", false),
        ] {
            assert_eq!(asks_for_json(&words(line)), expected, "{line}");
        }
    }

    #[test]
    fn a_refused_command_line_has_a_remedy_that_helps() {
        for (line, message, remedy) in [
            ("tinkex checkpoint delete --keep-last -1", "--keep-last", "`tinkex checkpoint delete --help`"),
            ("tinkex checkpoint delete --keep-last -1", "must not be negative", "--help"),
            ("tinkex checkpoint delete --older-than -5d", "\"-5d\" must not be negative", "--help"),
            ("tinkex billing usage -7d", "\"-7d\"", "`7d`"),
            ("tinkex sample Hi --temp 0.7", "'--temp'", "--temperature 0.7"),
            ("tinkex sample Hi --temp=0.7", "'--temp'", "--temperature 0.7"),
            ("tinkex sample Hi --temp", "'--temp'", "--temperature N"),
            ("tinkex checkpoint list my/run", "'my/run'", "--run-id my/run"),
            ("tinkex model list --json", "'--json'", "-f json"),
            ("tinkex finetune x", "'finetune'", "`tinkex train`"),
            ("tinkex ls", "'ls'", "`tinkex checkpoint list`"),
            ("tinkex checkpoint rm x", "'rm'", "`tinkex checkpoint delete`"),
            ("tinkex trian x", "'trian'", "`tinkex train`"),
            ("tinkex checkpoint", "`tinkex checkpoint` needs a command", "lists the commands"),
            ("tinkex run info", "<RUN_ID>", "`tinkex run info --help`"),
            ("tinkex model list --timeout 0", "'--timeout <TIME>': must be more than 0", "--help"),
            ("tinkex model list --base-url banana", "'--base-url <URL>'", "--help"),
            ("tinkex model list -f jsn", "possible values: table, json", "json"),
        ] {
            let root = manual::command();
            let words = words(line);
            let error = root.clone().try_get_matches_from(&words).expect_err(line);
            let refusal = Refusal::of(&error, &root, &words);
            assert!(refusal.message().contains(message), "{line}: {refusal:?}");
            assert!(refusal.remedy().contains(remedy), "{line}: {refusal:?}");
            assert!(!refusal.remedy().contains("-- -"), "{line}: {refusal:?}");
        }
        let root = manual::command();
        let words = ["tinkex", "sample", "- a list"].map(str::to_owned);
        let error = root.clone().try_get_matches_from(&words).expect_err("not an option");
        let remedy = Refusal::of(&error, &root, &words).remedy();
        assert_eq!(remedy, "-- '- a list', if it is a value and not an option");
    }
}

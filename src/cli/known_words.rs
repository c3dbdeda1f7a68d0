//! Words of other programs for what this one calls otherwise, which a mistyped or unknown word probably means.

use super::similar::is_near;

/// For a command that has no option for a file of its own.
const TO_FILE: &str = "`> FILE` after the command, which keeps what it writes to stdout";

/// Options of other programs, and what this program has for them, the likeliest first. The first one that the command has is
/// shown; a text that is not an option is always shown.
const OPTIONS: &[(&str, &[&str])] = &[
    ("api-key", &["--api-key-file FILE", "the key in the variable TINKER_API_KEY, or `tinkex auth login`"]),
    ("assume-yes", &["--yes"]),
    ("base-model", &["--model NAME"]),
    ("bs", &["--batch-size N"]),
    ("clip", &["--grad-clip N"]),
    ("csv", &["-f tsv"]),
    ("data", &["the file without an option: DATA"]),
    ("dataset", &["the file without an option: DATA"]),
    ("debug", &["-vv"]),
    ("endpoint", &["--base-url URL"]),
    ("eval", &["--eval-data FILE"]),
    ("file", &["--input FILE", "the file without an option"]),
    ("force", &["--yes", "--overwrite"]),
    ("host", &["--base-url URL"]),
    ("json", &["-f json"]),
    ("jsonl", &["-f jsonl"]),
    ("key", &["--api-key-file FILE", "the key in the variable TINKER_API_KEY, or `tinkex auth login`"]),
    ("learning-rate", &["--lr RATE"]),
    ("lora-rank", &["--rank N"]),
    ("lr-schedule", &["--schedule KIND"]),
    ("lr-scheduler", &["--schedule KIND"]),
    ("max-new-tokens", &["--max-tokens N"]),
    ("max-seq-length", &["--max-length N"]),
    ("max-seq-len", &["--max-length N"]),
    ("max-length", &["--max-tokens N"]),
    ("model-name", &["--model NAME"]),
    ("n", &["-n N", "--limit N"]),
    ("num-epochs", &["--epochs N"]),
    ("num-train-epochs", &["--epochs N"]),
    ("num-samples", &["-n N"]),
    ("n-samples", &["-n N"]),
    ("num-steps", &["--max-steps N"]),
    ("n-epochs", &["--epochs N"]),
    ("o", &[TO_FILE]),
    ("offline", &["--local"]),
    ("out", &["--output FILE", TO_FILE]),
    ("out-dir", &["--out DIR", "--output DIR"]),
    ("output", &["--out DIR", TO_FILE]),
    ("output-dir", &["--out DIR", "--output DIR"]),
    ("output-format", &["-f FORMAT"]),
    ("path", &["the path without an option: PATH"]),
    ("prompt", &["the prompt without an option: PROMPT"]),
    ("prompts", &["--input FILE"]),
    ("run", &["--run-id ID"]),
    ("save-steps", &["--save-every N"]),
    ("eval-steps", &["--eval-every N"]),
    ("server", &["--base-url URL"]),
    ("silent", &["--quiet"]),
    ("steps", &["--max-steps N"]),
    ("system-prompt", &["--system TEXT"]),
    ("temp", &["--temperature N"]),
    ("topk", &["--top-k N"]),
    ("topp", &["--top-p N"]),
    ("tsv", &["-f tsv"]),
    ("url", &["--base-url URL"]),
    ("val-data", &["--eval-data FILE"]),
    ("wd", &["--weight-decay N"]),
    ("yes", &["--overwrite"]),
];

/// Commands of other programs, and the names that this one has for them, in the same group, or else from the program on.
const COMMANDS: &[(&str, &[&str])] = &[
    ("complete", &["sample"]),
    ("completion", &["completions"]),
    ("config", &["auth status"]),
    ("costs", &["billing usage"]),
    ("cp", &["copy", "checkpoint copy"]),
    ("describe", &["info", "checkpoint info"]),
    ("diagnose", &["doctor"]),
    ("evaluate", &["eval"]),
    ("fine-tune", &["train"]),
    ("finetune", &["train"]),
    ("fit", &["train"]),
    ("generate", &["sample"]),
    ("get", &["info", "download", "checkpoint download"]),
    ("infer", &["sample"]),
    ("inference", &["sample"]),
    ("list", &["checkpoint list", "run list", "model list"]),
    ("ls", &["list", "checkpoint list", "run list", "model list"]),
    ("ping", &["doctor"]),
    ("predict", &["sample"]),
    ("prompt", &["sample"]),
    ("pull", &["download", "checkpoint download"]),
    ("push", &["push-hf", "checkpoint push-hf"]),
    ("remove", &["delete", "checkpoint delete"]),
    ("resume", &["train --resume DIR"]),
    ("rm", &["delete", "checkpoint delete"]),
    ("server", &["serve"]),
    ("sft", &["train"]),
    ("show", &["info", "checkpoint info"]),
    ("start", &["serve"]),
    ("test", &["eval"]),
    ("tune", &["train"]),
    ("upload", &["push-hf", "checkpoint push-hf"]),
    ("validate", &["check", "data check"]),
    ("view", &["info", "report"]),
];

/// Most commands that are named.
const MOST: usize = 3;

/// What the command has for an option that it does not know.
pub(crate) fn option(command: &clap::Command, given: &str) -> Option<String> {
    if given.starts_with("tml-") || given.starts_with("eyJ") {
        return Some(
            "`tinkex auth login` asks for the key: other users can read the arguments of a program".into(),
        );
    }
    let name = given.trim_start_matches('-').split('=').next().unwrap_or_default();
    let dashed = name.replace('_', "-").to_lowercase();
    if dashed != name && has_option(command, &format!("--{dashed}")) {
        return Some(format!("--{dashed}"));
    }
    let known = OPTIONS.iter().find(|(word, _)| *word == dashed);
    let known =
        known.and_then(|(_, meant)| meant.iter().find(|it| !it.starts_with('-') || has_option(command, it)));
    if let Some(shown) = known {
        return Some((*shown).to_owned());
    }
    let longs = command.get_arguments().filter_map(clap::Arg::get_long);
    let mut similar: Vec<String> =
        longs.filter(|it| resembles(&dashed, it)).map(|it| format!("--{it}")).collect();
    similar.truncate(MOST);
    if similar.is_empty() { None } else { Some(similar.join(" or ")) }
}

/// True if a word is a misspelling of a name, its beginning, or a longer form of it.
fn resembles(given: &str, name: &str) -> bool {
    is_near(given, name)
        || given.strip_prefix(name).is_some_and(|rest| 3 <= name.len() && rest.len() <= 2)
        || (4 <= given.len() && name.contains(given))
        || (4 <= name.len() && given.contains(name))
}

/// True if the command, or the program, has the option with which the text begins.
fn has_option(command: &clap::Command, text: &str) -> bool {
    let word = text.split(' ').next().unwrap_or_default();
    command.get_arguments().any(|arg| match word.strip_prefix("--") {
        Some(long) => arg.get_long() == Some(long),
        None => arg.get_short() == word.chars().nth(1),
    })
}

/// The commands that a word probably means; `path` are the commands in which it stands, from the program on.
pub(crate) fn command(root: &clap::Command, path: &[&clap::Command], given: &str) -> Option<String> {
    let given = given.to_lowercase();
    let group: Vec<&str> = path.iter().skip(1).map(|it| it.get_name()).collect();
    let here = path.last().copied().unwrap_or(root);
    let whole = |words: &str| [group.as_slice(), &[words]].concat().join(" ");
    let mut found: Vec<String> = Vec::new();
    if let Some((_, meant)) = COMMANDS.iter().find(|(word, _)| *word == given) {
        let in_group = meant.iter().find(|words| is_command(here, words));
        found.extend(in_group.filter(|_| !group.is_empty()).map(|words| whole(words)));
        if found.is_empty() {
            found.extend(meant.iter().filter(|words| is_command(root, words)).map(|it| (*it).to_owned()));
        }
    }
    if found.is_empty() {
        let names = here.get_subcommands().map(clap::Command::get_name);
        found.extend(names.filter(|name| means(&given, name)).map(whole));
    }
    if found.is_empty() {
        let groups = root.get_subcommands();
        found.extend(
            groups
                .filter(|it| it.find_subcommand(&given).is_some())
                .map(|it| format!("{} {given}", it.get_name())),
        );
    }
    found.truncate(MOST);
    let found: Vec<String> = found.iter().map(|it| format!("`tinkex {it}`")).collect();
    if found.is_empty() { None } else { Some(found.join(" or ")) }
}

/// True if a word is a misspelling or the plural of a name, or its beginning.
fn means(given: &str, name: &str) -> bool {
    is_near(given, name)
        || given.strip_suffix('s') == Some(name)
        || (3 <= given.len() && name.starts_with(given))
}

fn is_command(command: &clap::Command, words: &str) -> bool {
    let mut names = words.split(' ').take_while(|it| !it.starts_with('-'));
    names.try_fold(command, |command, name| command.find_subcommand(name)).is_some()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::manual;

    fn all(command: &clap::Command) -> Vec<&clap::Command> {
        let below = command.get_subcommands().flat_map(all);
        [command].into_iter().chain(below).collect()
    }

    #[test]
    fn each_word_leads_to_something_that_there_is() {
        let mut root = manual::command();
        root.build();
        let commands = all(&root);
        for (word, meant) in OPTIONS {
            for text in meant.iter().filter(|it| it.starts_with('-')) {
                assert!(commands.iter().any(|it| has_option(it, text)), "{word}: {text}");
            }
        }
        for (word, meant) in COMMANDS {
            for words in *meant {
                assert!(commands.iter().any(|it| is_command(it, words)), "{word}: {words}");
            }
        }
    }

    #[test]
    fn words_of_other_programs_are_understood() {
        let mut root = manual::command();
        root.build();
        let find = |words: &str| {
            words.split(' ').filter(|it| !it.is_empty()).fold(vec![&root], |mut path, word| {
                path.extend(path.last().and_then(|it| it.find_subcommand(word)));
                path
            })
        };
        for (group, word, expected) in [
            ("", "finetune", "`tinkex train`"),
            ("", "ls", "`tinkex checkpoint list` or `tinkex run list` or `tinkex model list`"),
            ("run", "ls", "`tinkex run list`"),
            ("", "rm", "`tinkex checkpoint delete`"),
            ("checkpoint", "remove", "`tinkex checkpoint delete`"),
            ("", "modle", "`tinkex model`"),
            ("", "checkpoints", "`tinkex checkpoint`"),
            ("", "download", "`tinkex checkpoint download`"),
            ("", "login", "`tinkex auth login`"),
            ("", "comp", "`tinkex completions`"),
        ] {
            assert_eq!(command(&root, &find(group), word).as_deref(), Some(expected), "{group} {word}");
        }
        assert_eq!(command(&root, &find(""), "frobnicate"), None);
        for (words, given, expected) in [
            ("sample", "--temp", Some("--temperature N")),
            ("sample", "--top_p", Some("--top-p")),
            ("model list", "--json", Some("-f json")),
            ("train", "--learning_rate", Some("--lr RATE")),
            ("train", "--output", Some("--out DIR")),
            ("train", "--epoch", Some("--epochs")),
            ("train", "--nope", None),
            ("checkpoint delete", "--yess", Some("--yes")),
            (
                "auth login",
                "tml-x",
                Some("`tinkex auth login` asks for the key: other users can read the arguments of a program"),
            ),
            ("run list", "--temp", None),
            ("data stats", "-o", Some(TO_FILE)),
            ("data stats", "--output", Some(TO_FILE)),
            ("data convert", "--out", Some("--output FILE")),
        ] {
            let path = find(words);
            let command = path.last().unwrap();
            assert_eq!(option(command, given).as_deref(), expected, "{words} {given}");
        }
    }
}

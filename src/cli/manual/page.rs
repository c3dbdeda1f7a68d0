//! A manual page.

use std::io;

use clap_mangen::Man;
use clap_mangen::roff::{Inline, Roff, bold, roman};

use super::{EXIT_STATUS, examples_of};

const SECTION: &str = "1";

/// Files of some commands, by the words with which the path of the command begins.
const FILES: &[(&str, &str, &str)] = &[
    ("train", "DIR/config.json", "The settings of the run, of which --resume makes the same run again."),
    ("train", "DIR/metrics.jsonl", "A row for each step, with the columns of the Tinker cookbook."),
    ("train", "DIR/checkpoints.jsonl", "The checkpoints of the run."),
    ("train", "DIR/samples.jsonl", "The answers to the prompts of --prompts."),
    ("train", "DIR/report.html", "The report, written when the run ends."),
    ("train", "DIR/log.txt", "What the run has said."),
    ("sample", "FILE of -o", SAMPLE_OUTPUT),
    ("report", "DIR/report.html", "The report of one run, unless -o names another file."),
    ("auth", "~/.tinker/credentials.json", "The key that `tinkex auth login` stores."),
    ("", "~/.local/share/tinkex/engine", "The checkpoints of --local without a folder."),
];

/// The lines of a file of answers.
const SAMPLE_OUTPUT: &str = "A JSON object for each prompt: `sequences` or `error`, the `prompt`, its `id` and its \
    `prompt_hash`, the `model` and the `sampling`. `index` is the number of the prompt, from 0, in the input of the last \
    start: where prompts have moved, it is written anew when a start begins, or when it ends if the input is a stream; the \
    line of a prompt that the input has no more stays, with the index null. The lines come as prompts are answered, or with \
    --ordered by their index. An answer is looked for by the id, or else by `prompt_hash`: equal prompts take as many \
    answers as there are. Each line is written at once and whole, so that a killed command goes on where it ended.";

const ENVIRONMENT: [(&str, &str); 6] = [
    ("TINKER_API_KEY", "The key for the server; it wins over the stored one."),
    ("TINKER_CREDENTIAL_CMD", "A command that prints the credential, as --credential-command."),
    ("TINKER_BASE_URL", "The address of the server, as --base-url."),
    ("TINKER_PROJECT_ID", "The project, as --project."),
    ("XDG_DATA_HOME", "The folder in which tinkex/engine is that of --local, instead of ~/.local/share."),
    ("NO_COLOR, CLICOLOR_FORCE", "No colors; colors also in a pipe."),
];

/// Commands beside which a person uses others.
const RELATED: &[(&str, &[&str])] = &[
    ("train", &["data", "sample", "eval", "report", "checkpoint"]),
    ("sample", &["chat", "eval", "train"]),
    ("chat", &["sample"]),
    ("eval", &["sample", "data", "train"]),
    ("data", &["train", "eval"]),
    ("report", &["train"]),
    ("checkpoint", &["run", "sample", "train"]),
    ("run", &["checkpoint", "session"]),
    ("session", &["run"]),
    ("model", &["train", "sample"]),
    ("auth", &["doctor"]),
    ("doctor", &["auth", "serve"]),
    ("serve", &["doctor"]),
    ("billing", &["checkpoint", "audit"]),
    ("audit", &["billing"]),
];

/// The name of a page, of which the file is `NAME.1`.
pub(crate) fn name(command: &clap::Command) -> String {
    command.get_display_name().unwrap_or_else(|| command.get_name()).to_owned()
}

/// The page of a command of the whole command line `root`, which is built.
pub(crate) fn page(command: &clap::Command, root: &clap::Command) -> io::Result<Vec<u8>> {
    let mut text = Vec::new();
    let name = name(command);
    let path = name.strip_prefix("tinkex").unwrap_or_default().trim_start_matches('-');
    let source = format!("tinkex {}", env!("CARGO_PKG_VERSION"));
    let man = Man::new(command.clone()).manual("Tinkex Manual").source(source);
    man.render_title(&mut text)?;
    man.render_name_section(&mut text)?;
    synopsis(command).to_writer(&mut text)?;
    man.render_description_section(&mut text)?;
    man.render_options_section(&mut text)?;
    if command.has_subcommands() {
        man.render_subcommands_section(&mut text)?;
    }
    let mut roff = Roff::new();
    examples(&mut roff, command);
    let of_this = FILES.iter().filter(|(command, ..)| path.starts_with(command));
    list(&mut roff, "FILES", of_this.map(|(_, file, text)| (*file, *text)));
    list(&mut roff, "ENVIRONMENT", ENVIRONMENT);
    list(&mut roff, "EXIT STATUS", EXIT_STATUS);
    see_also(&mut roff, &name, command, root);
    roff.to_writer(&mut text)?;
    Ok(text)
}

/// The usage in a line; the sections below have the options.
fn synopsis(command: &clap::Command) -> Roff {
    let usage = command.clone().render_usage().to_string();
    let mut roff = Roff::new();
    roff.control("SH", ["SYNOPSIS"]);
    roff.text([bold(usage.trim_start_matches("Usage:").trim())]);
    roff
}

fn examples(roff: &mut Roff, command: &clap::Command) {
    let examples = examples_of(command);
    if examples.is_empty() {
        return;
    }
    roff.control("SH", ["EXAMPLES"]);
    roff.control("nf", []);
    for example in examples {
        roff.text([bold(example)]);
    }
    roff.control("fi", []);
}

fn list<'a>(roff: &mut Roff, title: &str, items: impl IntoIterator<Item = (&'a str, &'a str)>) {
    roff.control("SH", [title]);
    for (term, text) in items {
        roff.control("TP", []);
        roff.text([bold(term)]);
        roff.text([roman(text)]);
    }
}

/// The page of the group of the command, the others of the group, those below it, and those of related commands.
fn see_also(roff: &mut Roff, own: &str, command: &clap::Command, root: &clap::Command) {
    let path = own.strip_prefix("tinkex-").unwrap_or_default();
    let mut names: Vec<String> = Vec::new();
    if own != "tinkex" {
        names.push("tinkex".into());
    }
    names.extend(command.get_subcommands().map(name));
    let group = root.get_subcommands().find(|group| group.has_subcommands() && command_is_in(own, group));
    if let Some(group) = group {
        names.extend([name(group)].into_iter().chain(group.get_subcommands().map(name)));
    }
    let related = RELATED.iter().find(|(words, _)| *words == path);
    names.extend(related.into_iter().flat_map(|(_, names)| names.iter().map(|it| format!("tinkex-{it}"))));
    names.retain(|it| it != own && !it.ends_with("-help"));
    names.dedup();
    let mut line: Vec<Inline> = Vec::new();
    for (i, name) in names.into_iter().enumerate() {
        if i != 0 {
            line.push(roman(", "));
        }
        line.extend([bold(name), roman(format!("({SECTION})"))]);
    }
    roff.control("SH", ["SEE ALSO"]);
    roff.text(line);
}

fn command_is_in(own: &str, group: &clap::Command) -> bool {
    group.get_subcommands().any(|it| name(it) == own)
}

//! The command line: the commands, and the options that all of them have.

use std::path::PathBuf;
use std::time::Duration;

use clap::{ArgAction, Parser, Subcommand, ValueEnum};

use super::moments::parse_duration;
use super::project;

/// Fine-tune, sample and manage models of a Tinker server without writing a program.
#[derive(Debug, Parser)]
#[command(name = "tinkex", version, propagate_version = true, max_term_width = 100)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) global: Global,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// The words of the command line, the first of which is the program.
pub(crate) fn words() -> Vec<String> {
    std::env::args_os().map(|word| word.to_string_lossy().into_owned()).collect()
}

/// The word that stands after `--local` as if it were its folder: clap takes a folder only with an equals sign, because
/// that word may as well be a prompt or a file.
pub(crate) fn word_after_local(words: &[String]) -> Option<&str> {
    words.windows(2).find(|it| it[0] == "--local" && !it[1].starts_with('-')).map(|it| it[1].as_str())
}

/// Reads the address of a server. The client refuses what is left, such as a query.
fn parse_address(text: &str) -> Result<String, String> {
    let text = text.trim();
    let rest = text.strip_prefix("http://").or_else(|| text.strip_prefix("https://"));
    match rest {
        None => Err(match whole_address(text) {
            Some(whole) => format!("must begin with http:// or https://, as in {whole}"),
            None => "must begin with http:// or https://, as in http://127.0.0.1:8000".into(),
        }),
        Some(rest) if rest.is_empty() || rest.starts_with(['/', ':']) => {
            Err("has no name of a server".into())
        }
        Some(_) => Ok(text.to_owned()),
    }
}

/// The address that an incomplete one probably means: that of its host and port over HTTP.
fn whole_address(text: &str) -> Option<String> {
    let is_scheme = |it: &str| !it.is_empty() && it.chars().all(|it| it.is_ascii_alphabetic());
    let rest = text.split_once(":/").filter(|it| is_scheme(it.0)).map_or(text, |it| it.1);
    let is_secure = text.to_lowercase().starts_with("https");
    let rest = rest.trim_start_matches('/').split(['/', '?', '#']).next()?;
    let host = rest.rsplit('@').next()?;
    let name = host.split(':').next().unwrap_or_default();
    let port = host.strip_prefix(name).unwrap_or_default();
    let is_plain = |it: char| it.is_ascii_alphanumeric() || ".-".contains(it);
    let has_port = port.is_empty() || port.strip_prefix(':').is_some_and(|it| it.parse::<u16>().is_ok());
    let is_host = !name.is_empty() && name.chars().all(is_plain) && has_port;
    is_host.then(|| format!("{}://{host}", if is_secure { "https" } else { "http" }))
}

/// Reads a time limit.
fn parse_limit(text: &str) -> Result<Duration, String> {
    match parse_duration(text)? {
        Duration::ZERO => Err("must be more than 0, such as 90s or 2h".into()),
        limit => Ok(limit),
    }
}

/// How data is written to stdout.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    // A table on a terminal, otherwise TSV.
    Table,
    // One JSON document.
    Json,
    // One JSON value a line.
    Jsonl,
    // Tab-separated columns with a header.
    Tsv,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum Color {
    #[default]
    Auto,
    Always,
    Never,
}

/// How the progress of long commands is shown.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum Progress {
    // A bar on a terminal, otherwise plain lines.
    #[default]
    Auto,
    // A bar.
    Bar,
    // A line now and then.
    Plain,
    // The rows of metrics as JSON on stdout.
    Json,
    // Nothing.
    None,
}

#[derive(Clone, Debug, clap::Args)]
#[command(next_help_heading = "Global options")]
pub(crate) struct Global {
    /// Format of the data on stdout [default: table, which is TSV in a pipe]
    #[arg(short, long, global = true, value_name = "FORMAT")]
    pub(crate) format: Option<Format>,
    /// Address of the server [env: TINKER_BASE_URL]
    #[arg(long, global = true, value_name = "URL", conflicts_with = "local", value_parser = parse_address)]
    pub(crate) base_url: Option<String>,
    /// Use an engine in this process instead of a server, offline, with its checkpoints in DIR, or the engine that
    /// another program runs on DIR [default: tinkex/engine in the folder XDG_DATA_HOME, or else
    /// ~/.local/share/tinkex/engine]
    #[arg(long, global = true, value_name = "DIR", num_args = 0..=1, require_equals = true)]
    pub(crate) local: Option<Option<PathBuf>>,
    /// Project of new sessions, and of lists [env: TINKER_PROJECT_ID]
    #[arg(long = "project", global = true, value_name = "ID", value_parser = project::parse)]
    pub(crate) project: Option<String>,
    /// Command that prints the credential [env: TINKER_CREDENTIAL_CMD]
    #[arg(long, global = true, value_name = "COMMAND")]
    pub(crate) credential_command: Option<String>,
    /// Limit of each operation, such as 90s or 2h
    #[arg(long, global = true, value_name = "TIME", value_parser = parse_limit)]
    pub(crate) timeout: Option<Duration>,
    /// Colors; NO_COLOR and CLICOLOR_FORCE are respected
    #[arg(long, global = true, value_name = "WHEN", default_value = "auto", hide_possible_values = false)]
    pub(crate) color: Color,
    /// How progress is shown
    #[arg(long, global = true, value_name = "HOW", default_value = "auto")]
    pub(crate) progress: Progress,
    /// No notes on stderr, only errors
    #[arg(short, long, global = true, conflicts_with = "verbose")]
    pub(crate) quiet: bool,
    /// Log on stderr; twice for more
    #[arg(short, long, global = true, action = ArgAction::Count)]
    pub(crate) verbose: u8,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Fine-tune a model on a file of examples
    Train(Box<super::train::Args>),
    /// Sample from a model or from saved weights
    Sample(super::sample::Args),
    /// Talk to a model
    Chat(super::chat::Args),
    /// Measure models on a file of examples
    Eval(super::eval::Args),
    /// Check, show, count, split and convert files of examples
    Data(super::data::Args),
    /// Write an HTML report of one or several training runs
    Report(super::report::Args),
    /// List, download, delete and manage checkpoints
    Checkpoint(super::checkpoint::Args),
    /// List training runs
    Run(super::run::Args),
    /// List base models
    Model(super::model::Args),
    /// List, search and manage sessions
    Session(super::session::Args),
    /// Show usage and costs
    Billing(super::billing::Args),
    /// Read the audit log
    Audit(super::audit::Args),
    /// Log in and out
    Auth(super::auth::Args),
    /// Run the engine as a server
    Serve(super::serve::Args),
    /// Examine the connection to a server
    Doctor(super::doctor::Args),
    /// Print the completions of a shell
    Completions(super::shell::CompletionsArgs),
    /// Print the manual page of a command, or write the pages of all commands to a folder
    Man(super::shell::ManArgs),
    /// Print the version
    Version,
}

impl Command {
    /// Whether the command makes something in an engine, or shows what an engine can do, so that the folder of `--local` may
    /// be a new one.
    pub(crate) fn may_create_engine(&self) -> bool {
        matches!(
            self,
            Command::Train(_)
                | Command::Sample(_)
                | Command::Chat(_)
                | Command::Eval(_)
                | Command::Serve(_)
                | Command::Doctor(_)
                | Command::Model(_)
        )
    }

    /// True if the command shows what an engine can do without making anything in it, so that no folder is made for one.
    pub(crate) fn only_looks(&self) -> bool {
        matches!(self, Command::Doctor(_) | Command::Model(_))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_that_is_suggested_is_one_that_is_taken() {
        for (text, suggested) in [
            ("nonsense://x", "http://x"),
            ("localhost:8000", "http://localhost:8000"),
            ("//a.example/b", "http://a.example"),
            ("HTTPS://a.example", "https://a.example"),
            ("http:/127.0.0.1:8000", "http://127.0.0.1:8000"),
            ("ws://user:word@a.example?x=1#y", "http://a.example"),
            ("my server", "http://127.0.0.1:8000"),
            ("localhost:port", "http://127.0.0.1:8000"),
            ("", "http://127.0.0.1:8000"),
        ] {
            let problem = parse_address(text).expect_err(text);
            assert!(problem.ends_with(&format!("as in {suggested}")), "{text}: {problem}");
            assert_eq!(parse_address(suggested).as_deref(), Ok(suggested));
        }
    }

    #[test]
    fn an_address_has_a_scheme_and_a_host() {
        for (text, is_valid) in [
            ("http://localhost:8000", true),
            ("https://example.com/services/x", true),
            ("banana", false),
            ("localhost:8000", false),
            ("ftp://x", false),
            ("http://", false),
            ("http:///x", false),
            ("", false),
        ] {
            assert_eq!(parse_address(text).is_ok(), is_valid, "{text}");
        }
    }
}

//! Settings of a file that are wrong: all of them are told at once.

use std::error::Error;

use clap::error::{ContextKind, ContextValue, ErrorKind};

use super::given::{DATA, NOT_SETTINGS, has_option};
use crate::failure::Failure;
use crate::similar::is_near;
use crate::{known_words, wording};

/// A setting that is wrong.
#[derive(Debug)]
pub(super) struct Wrong {
    problem: String,
    remedy: Option<String>,
}

const HELP: &str = "`tinkex train --help` lists the settings";

impl Wrong {
    /// A name that is not one of a setting, as it is written, and as the options are.
    pub(super) fn name(written: &str, key: &str, command: &clap::Command) -> Self {
        let on_command_line = |name: &str| format!("--{name} on the command line");
        let remedy = if has_option(key) {
            Some(on_command_line(key))
        } else {
            let meant = similar(key, command).or_else(|| known(key, command));
            meant.map(|meant| {
                let is_setting = !NOT_SETTINGS.contains(&meant.as_str());
                if is_setting { format!("did you mean {meant:?}?") } else { on_command_line(&meant) }
            })
        };
        Wrong { problem: format!("{written:?} is not a setting"), remedy }
    }

    /// A table, in which other programs group settings.
    pub(super) fn table(written: &str) -> Self {
        let problem = format!("[{written}] is a table");
        Wrong { problem, remedy: Some("all settings are at the top of the file, without tables".into()) }
    }

    /// A value that the setting cannot have.
    pub(super) fn value(key: &str, problem: String) -> Self {
        Wrong { problem: format!("{key}: {problem}"), remedy: None }
    }
}

/// Refuses a value that the option of this name would refuse, whatever the others are.
pub(super) fn check(key: &str, value: &str, command: &clap::Command) -> Result<(), Wrong> {
    if key == DATA {
        return Ok(());
    }
    let Err(error) = command.clone().try_get_matches_from(["tinkex train", &format!("--{key}={value}")])
    else {
        return Ok(());
    };
    let reason = match error.kind() {
        ErrorKind::ValueValidation => error.source().map(|it| wording::own(&it.to_string())),
        ErrorKind::InvalidValue => match error.get(ContextKind::ValidValue) {
            Some(ContextValue::Strings(known)) => Some(format!("give one of {}", known.join(", "))),
            _ => None,
        },
        // It is about other settings, which are missing here.
        _ => return Ok(()),
    };
    let problem = format!("the value {value:?} is not valid");
    Err(Wrong::value(key, reason.map_or(problem.clone(), |reason| format!("{problem}: {reason}"))))
}

/// The name of the setting that other programs call by this word.
fn known(key: &str, command: &clap::Command) -> Option<String> {
    let shown = known_words::option(command, key)?;
    let word = shown.split(' ').next()?;
    match word.strip_prefix("--") {
        Some(name) => Some(name.to_owned()),
        None => (key == "dataset").then(|| DATA.to_owned()),
    }
}

/// The setting whose name was probably meant.
fn similar(key: &str, command: &clap::Command) -> Option<String> {
    let names = command.get_arguments().filter_map(clap::Arg::get_long).chain([DATA]);
    names.filter(|name| !NOT_SETTINGS.contains(name)).find(|name| is_near(key, name)).map(str::to_owned)
}

/// The failure of a file with wrong settings, of which there is one at least.
pub(super) fn failure(name: &str, mut wrong: Vec<Wrong>) -> Failure {
    if wrong.len() == 1
        && let Some(Wrong { problem, remedy }) = wrong.pop()
    {
        return Failure::usage(format!("{name}: {problem}")).with_remedy(remedy.unwrap_or(HELP.into()));
    }
    let line = |Wrong { problem, remedy }: &Wrong| match remedy {
        Some(remedy) => format!("  {problem}: {remedy}"),
        None => format!("  {problem}"),
    };
    let lines: Vec<String> = wrong.iter().map(line).collect();
    Failure::usage(format!("{name}: {} settings are wrong:\n{}", wrong.len(), lines.join("\n")))
        .with_remedy(HELP)
}

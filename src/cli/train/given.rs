//! Settings by the names of the options: those of the command line, of a file, and of a run that is resumed.
//!
//! All of them become one command line, which clap reads: so a file has the names, the values and the errors of the
//! options.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use clap::{ArgAction, ArgMatches, CommandFactory, FromArgMatches};
use serde_json::{Map, Value};

use super::args::Args;
use super::dataset::absolute;
use super::wrong::{self, Wrong};
use crate::args::Cli;
use crate::failure::Failure;
use crate::nearby_files;

/// Values by the name of the option. A switch has the value `true` or `false`.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Given(BTreeMap<String, Vec<String>>);

/// The name of the positional argument.
pub(super) const DATA: &str = "data";

/// Options that say where the settings come from, or that are for one call: they are not settings of a run.
pub(super) const NOT_SETTINGS: [&str; 9] =
    ["resume", "force-resume", "out", "overwrite", "config", "print-config", "dry-run", "yes", "help"];

/// Options of all commands that are settings of a run.
pub(super) const GLOBAL: [&str; 3] = ["base-url", "local", "project"];

impl Given {
    /// The options of this process.
    pub(super) fn of_process() -> Result<Self, Failure> {
        let parsed = Cli::command().try_get_matches_from(std::env::args_os());
        let matches = parsed.map_err(|error| Failure::usage(error.to_string()))?;
        let matches = matches.subcommand_matches("train");
        Ok(matches.map(Self::of_matches).unwrap_or_default())
    }

    fn of_matches(matches: &ArgMatches) -> Self {
        let mut given = Given::default();
        for arg in command().get_arguments() {
            let id = arg.get_id().as_str();
            if matches.value_source(id) != Some(clap::parser::ValueSource::CommandLine) {
                continue;
            }
            let name = arg.get_long().unwrap_or(DATA);
            if is_switch(arg) {
                given.set_switch(name, matches.get_flag(id));
            } else if let Some(values) = matches.get_raw(id) {
                let values = values.map(|it| it.to_string_lossy().into_owned()).collect();
                given.0.insert(name.into(), values);
            }
        }
        given
    }

    /// The settings of a file, of which `object` is what [`object_of`] has read.
    pub(super) fn of_file(path: &Path, object: &Map<String, Value>, over: &Given) -> Result<Self, Failure> {
        Self::of_object(object, &path.display().to_string(), folder_of(path), over)
    }

    /// The settings of an object; `name` is that of its file, to whose `folder` paths are relative. The values of settings
    /// that are `over` these do not matter.
    pub(super) fn of_object(
        object: &Map<String, Value>,
        name: &str,
        folder: Option<PathBuf>,
        over: &Given,
    ) -> Result<Self, Failure> {
        let mut given = Given::default();
        let command = command();
        let mut wrong = Vec::new();
        for (key, value) in object {
            // What the program itself or the cookbook adds to a config.json.
            if key.contains('/') || key == "tinkex" || GLOBAL.contains(&key.as_str()) {
                continue;
            }
            if let Err(one) = given.add(key, value, folder.as_deref(), &command, over) {
                wrong.push(one);
            }
        }
        if wrong.is_empty() { Ok(given) } else { Err(wrong::failure(name, wrong)) }
    }

    /// Adds a setting of an object; paths are relative to `folder`.
    fn add(
        &mut self,
        written: &str,
        value: &Value,
        folder: Option<&Path>,
        command: &clap::Command,
        over: &Given,
    ) -> Result<(), Wrong> {
        let key = written.replace('_', "-");
        let arg = command.get_arguments().find(|arg| {
            arg.get_long().map_or(key == DATA, |long| long == key || long == format!("no-{key}"))
        });
        let Some(arg) = arg.filter(|_| !NOT_SETTINGS.contains(&key.as_str())) else {
            if value.is_object() {
                return Err(Wrong::table(written));
            }
            return Err(Wrong::name(written, &key, command));
        };
        if is_switch(arg) {
            let Value::Bool(is_set) = value else {
                return Err(Wrong::value(&key, format!("give true or false, not {value}")));
            };
            self.set_switch(&key, *is_set);
            return Ok(());
        }
        let pairs = pairs(value).filter(|_| key == "metadata");
        let Some(values) = pairs.or_else(|| texts(value)) else {
            let is_left_out = value.is_null();
            let problem = || Wrong::value(&key, format!("{value} is not a text, a number or a list"));
            return if is_left_out { Ok(()) } else { Err(problem()) };
        };
        for value in values.iter().filter(|_| over.get(&key).is_none()) {
            wrong::check(&key, value, command)?;
        }
        let is_path = matches!(key.as_str(), "data" | "eval-data" | "prompts");
        let resolve = |text: String| match folder {
            Some(folder) if is_path && text != "-" => folder.join(text).display().to_string(),
            _ => text,
        };
        self.0.insert(key, values.into_iter().map(resolve).collect());
        Ok(())
    }

    fn set_switch(&mut self, name: &str, is_set: bool) {
        let (name, is_set) = match name.strip_prefix("no-") {
            Some(positive) if has_option(positive) => (positive, !is_set),
            _ => (name, is_set),
        };
        self.0.insert(name.into(), vec![is_set.to_string()]);
    }

    /// These settings, and those of `base` that these do not have.
    pub(super) fn over(mut self, base: Given) -> Self {
        // The two sources of test data exclude each other: the one that wins removes the other.
        let has_test = ["eval-data", "eval-split"].iter().any(|name| self.0.contains_key(*name));
        for (name, values) in base.0 {
            if !(has_test && name.starts_with("eval-") && name != "eval-every") {
                self.0.entry(name).or_insert(values);
            }
        }
        self
    }

    /// The options as clap reads them.
    pub(super) fn args(&self) -> Result<Args, Failure> {
        let mut line = vec!["tinkex train".to_owned()];
        let mut data = Vec::new();
        let command = command();
        for (name, values) in self.settings() {
            let option = command.get_arguments().find(|arg| arg.get_long() == Some(name.as_str()));
            match option {
                Some(arg) if is_switch(arg) => {
                    let is_set = values.first().is_some_and(|it| it == "true");
                    if is_set {
                        line.push(format!("--{name}"));
                    } else if has_option(&format!("no-{name}")) {
                        line.push(format!("--no-{name}"));
                    }
                }
                Some(_) => line.extend(values.iter().map(|value| format!("--{name}={value}"))),
                None => data.extend(values.iter().cloned()),
            }
        }
        line.push("--".into());
        line.extend(data);
        let matches = command.try_get_matches_from(line);
        let args = matches.and_then(|matches| Args::from_arg_matches(&matches));
        args.map_err(|error| {
            let text = error.to_string();
            let first = text.lines().next().unwrap_or_default();
            Failure::usage(first.trim_start_matches("error: ").to_owned())
        })
    }

    /// The settings of a run as an object, with paths that mean the same in another folder.
    pub(super) fn to_object(&self) -> Map<String, Value> {
        let command = command();
        let mut object = Map::new();
        for (name, values) in self.settings() {
            let arg = command.get_arguments().find(|arg| arg.get_long().unwrap_or(DATA) == name);
            let value = |text: &String| match name.as_str() {
                "data" | "eval-data" | "prompts" => absolute(Path::new(text)).into(),
                "template" | "tokenizer" if Path::new(text).is_file() => absolute(Path::new(text)).into(),
                "name" | "tag" | "metadata" | "model" => text.as_str().into(),
                _ => number_or_text(text),
            };
            let is_list = arg.is_some_and(|arg| matches!(arg.get_action(), ArgAction::Append));
            let value = if is_list {
                Value::Array(values.iter().map(value).collect())
            } else if let Some(text) = values.last() {
                value(text)
            } else {
                continue;
            };
            object.insert(name.clone(), value);
        }
        object
    }

    fn settings(&self) -> impl Iterator<Item = (&String, &Vec<String>)> {
        self.0.iter().filter(|(name, _)| !NOT_SETTINGS.contains(&name.as_str()))
    }

    /// Sets an option with one value.
    pub(super) fn set(&mut self, name: &str, value: &str) {
        self.0.insert(name.into(), vec![value.into()]);
    }

    /// Sets an option with these values.
    pub(super) fn set_all(&mut self, name: &str, values: Vec<String>) {
        self.0.insert(name.into(), values);
    }

    /// Removes an option.
    pub(super) fn remove(&mut self, name: &str) {
        self.0.remove(name);
    }

    /// The values of an option.
    pub(super) fn get(&self, name: &str) -> Option<&[String]> {
        self.0.get(name).map(Vec::as_slice)
    }
}

/// The object of a file of settings, TOML or JSON. Its options of all commands have the names that `config.json` has.
pub(super) fn object_of(path: &Path) -> Result<Map<String, Value>, Failure> {
    let name = path.display();
    let text = std::fs::read_to_string(path).map_err(|error| {
        nearby_files::explained(Failure::text(format!("{name}: cannot be read: {error}")), path)
    })?;
    let is_json = path.extension().is_some_and(|it| it.eq_ignore_ascii_case("json"));
    let object: Map<String, Value> = if is_json {
        serde_json::from_str(&text).map_err(|error| Failure::text(format!("{name}: {error}")))?
    } else {
        toml::from_str(&text)
            .map_err(|error| Failure::text(format!("{name}: {}", error.to_string().trim())))?
    };
    let own = |(key, value): (String, Value)| {
        let option = key.replace('_', "-");
        match (option.as_str(), folder_of(path), value) {
            ("local", Some(folder), Value::String(dir)) => {
                (option, folder.join(dir).display().to_string().into())
            }
            (name, _, value) if GLOBAL.contains(&name) => (option, value),
            (.., value) => (key, value),
        }
    };
    Ok(object.into_iter().map(own).collect())
}

/// The folder to which the paths of a file of settings are relative.
fn folder_of(path: &Path) -> Option<PathBuf> {
    Some(std::path::absolute(path).ok()?.parent()?.to_owned())
}

fn command() -> clap::Command {
    use clap::Args as _;
    Args::augment_args(clap::Command::new("tinkex train"))
}

pub(super) fn has_option(name: &str) -> bool {
    command().get_arguments().any(|arg| arg.get_long() == Some(name))
}

fn is_switch(arg: &clap::Arg) -> bool {
    matches!(arg.get_action(), ArgAction::SetTrue)
}

fn number_or_text(text: &str) -> Value {
    match (text, text.parse::<u64>(), text.parse::<f64>()) {
        ("true", ..) => true.into(),
        ("false", ..) => false.into(),
        (_, Ok(number), _) => number.into(),
        (_, _, Ok(number)) if number.is_finite() => number.into(),
        _ => text.into(),
    }
}

/// The pairs of a table as the options have them: `KEY=VALUE`.
fn pairs(value: &Value) -> Option<Vec<String>> {
    let pair = |(key, value): (&String, &Value)| match texts(value)?.as_slice() {
        [value] => Some(format!("{key}={value}")),
        _ => None,
    };
    value.as_object()?.iter().map(pair).collect()
}

/// A value as texts of the command line; `None` for an object or a list of lists.
fn texts(value: &Value) -> Option<Vec<String>> {
    let text = |value: &Value| match value {
        Value::String(text) => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        Value::Bool(is_set) => Some(is_set.to_string()),
        Value::Null | Value::Array(_) | Value::Object(_) => None,
    };
    match value {
        Value::Array(values) => values.iter().map(text).collect(),
        value => Some(vec![text(value)?]),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn of_json(text: &str) -> Result<Given, Failure> {
        Given::of_object(&serde_json::from_str(text).unwrap(), "c.json", Some("/d".into()), &Given::default())
    }

    fn of_line(line: &[&str]) -> Given {
        Given::of_matches(&command().try_get_matches_from([&["x"], line].concat()).unwrap())
    }

    #[test]
    fn options_win_over_a_file_and_switches_have_both_directions() {
        let file = of_json(r#"{"rank": 8, "shuffle": false, "lr": 1e-3, "data": "x.jsonl", "no_mlp": true}"#);
        let args = of_line(&["--rank", "4"]).over(file.unwrap()).args().unwrap();
        assert_eq!((args.rank, args.no_shuffle, args.no_mlp), (Some(4), true, true));
        assert_eq!(args.data, [PathBuf::from("/d/x.jsonl")]);
        let file = of_json(r#"{"shuffle": false, "eval-split": 0.1}"#).unwrap();
        let args = of_line(&["--shuffle", "--eval-data", "e"]).over(file).args().unwrap();
        assert_eq!((args.shuffle, args.no_shuffle, args.eval_split), (true, false, None));
    }

    #[test]
    fn an_unknown_setting_is_an_error_with_a_suggestion() {
        for (text, similar) in [
            ("{\"bach-size\": 1}", Some("\"batch-size\"")),
            ("{\"rnk\": 1}", Some("\"rank\"")),
            ("{\"zzzzzz\": 1}", None),
        ] {
            let Err(Failure::Usage { message, remedy }) = of_json(text) else { panic!("{text}") };
            assert!(message.starts_with("c.json: "), "{message}");
            let remedy = remedy.unwrap();
            assert_eq!(remedy.starts_with("did you mean"), similar.is_some(), "{remedy}");
            assert!(remedy.contains(similar.unwrap_or("--help")), "{remedy}");
        }
        let text =
            r#"{"bach-size": 1, "lr": 1e-3, "rank": "many", "shuffle": 1, "tag": [["a"]], "zzzzzz": 2}"#;
        let Err(Failure::Usage { message, remedy }) = of_json(text) else { panic!("{text}") };
        let lines: Vec<&str> = message.lines().collect();
        assert_eq!(lines[0], "c.json: 5 settings are wrong:");
        for (line, expected) in lines[1..].iter().zip([
            "  \"bach-size\" is not a setting: did you mean \"batch-size\"?",
            "  rank: the value \"many\" is not valid: not a whole number",
            "  shuffle: give true or false, not 1",
            "  tag: [[\"a\"]] is not a text, a number or a list",
            "  \"zzzzzz\" is not a setting",
        ]) {
            assert_eq!(*line, expected);
        }
        assert_eq!((lines.len(), remedy.as_deref()), (6, Some("`tinkex train --help` lists the settings")));
        for (text, expected) in [
            ("{\"output_dir\": \"x\"}", "--out on the command line"),
            ("{\"learning_rate\": 1}", "did you mean \"lr\"?"),
            ("{\"dataset\": \"x\"}", "did you mean \"data\"?"),
            ("{\"lora\": {\"rank\": 1}}", "all settings are at the top of the file, without tables"),
        ] {
            let Err(Failure::Usage { remedy, .. }) = of_json(text) else { panic!("{text}") };
            assert_eq!(remedy.as_deref(), Some(expected), "{text}");
        }
        let args = of_json("{\"metadata\": {\"team\": \"a\", \"n\": 1}}").unwrap().args().unwrap();
        assert_eq!(args.metadata, ["n=1", "team=a"]);
        assert!(of_json("{\"resume\": \"x\"}").is_err());
        assert!(of_json("{\"shuffle\": 1}").is_err());
        assert!(of_json("{\"rank\": \"many\"}").is_err());
    }
}

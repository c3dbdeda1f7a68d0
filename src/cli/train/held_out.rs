//! The command that evaluates on the lines that a run held out.

use std::path::Path;

use super::ending::quoted;
use super::given::Given;
use super::settings::{Settings, TestData};

/// Options that say which lines are read, and those that say what is trained of them.
const OF_LINES: [&str; 2] = ["data-format", "limit"];
const OF_TRAINING: [&str; 5] = ["tokenizer", "template", "train-on", "max-length", "too-long"];

/// Commands that write the held-out lines to the folder of the run, and evaluate its last weights on them. `None` if no
/// lines were held out, or if they cannot be read again.
pub(super) fn commands(given: &Given, settings: &Settings, folder: &Path) -> Option<String> {
    let TestData::Split(share) = &settings.test else { return None };
    if settings.data.iter().any(|path| path.as_os_str() == "-") {
        return None;
    }
    let shown = |path: &Path| quoted(&path.display().to_string());
    let data: Vec<String> = settings.data.iter().map(|path| shown(path)).collect();
    let option = |name: &&str| {
        let value = given.get(name).and_then(<[String]>::last);
        value.map(|value| format!(" --{name} {}", quoted(value))).unwrap_or_default()
    };
    let options = |names: &[&str]| names.iter().map(option).collect::<String>();
    let parts = folder.join("split");
    Some(format!(
        "tinkex data split {} --eval-split {share}{} -o {} && tinkex eval {} -m {}{}{}",
        data.join(" "),
        options(&OF_LINES),
        shown(&parts),
        shown(&parts.join("eval.jsonl")),
        shown(folder),
        options(&OF_TRAINING),
        if given.get("mask-prompt").is_some_and(|it| it == ["false"]) { " --no-mask-prompt" } else { "" },
    ))
}

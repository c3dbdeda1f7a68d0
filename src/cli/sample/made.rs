//! How answers were made: each line of a file of answers has it, so that answers of another model are not taken for those
//! that are asked for now.

use serde_json::{Map, Value, json};

use super::Settings;
use crate::examples::line_hash;

/// The model and the settings of the answers, as the lines of a file of answers have them.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Made {
    model: String,
    sampling: Map<String, Value>,
}

impl Made {
    /// `model` is the one that is sampled from: for the folder of a run, its last weights.
    pub(super) fn new(model: &str, template: Option<String>, n: u32, settings: &Settings) -> Self {
        let hash = |text: &String| format!("{:016x}", line_hash(text.as_bytes()));
        let sampling = json!({
            "n": n,
            "max_tokens": settings.max_tokens,
            "temperature": number(settings.temperature),
            "top_p": number(settings.top_p),
            "top_k": settings.top_k,
            "seed": settings.seed,
            "stop": settings.stop,
            // The text may be long, and would be in each line.
            "system_hash": settings.system.as_ref().map(hash),
            "tokenizer": settings.tokenizer,
            "template": template,
        });
        let sampling = sampling.as_object().cloned().unwrap_or_default();
        Made { model: model.to_owned(), sampling }
    }

    /// Reads it from a line of answers; `None` for a line of an earlier version, which does not have it.
    pub(super) fn of_line(line: &Value) -> Option<Self> {
        let sampling = line.get("sampling")?.as_object()?.clone();
        Some(Made { model: line.get("model")?.as_str()?.to_owned(), sampling })
    }

    /// Adds it to a line.
    pub(super) fn add_to(&self, line: &mut Value) {
        line["model"] = self.model.as_str().into();
        line["sampling"] = self.sampling.clone().into();
    }

    /// How answers of the file, which were made as `old`, differ from these. Settings that only one of them knows do not
    /// count: another version wrote the line.
    pub(super) fn differences(&self, old: &Made) -> Vec<String> {
        let model = (old.model != self.model).then(|| format!("the model {}, not {}", old.model, self.model));
        let settings = old.sampling.iter().filter_map(|(name, old)| {
            let new = self.sampling.get(name)?;
            let words = match (name.as_str(), old.is_null(), new.is_null()) {
                _ if old == new => return None,
                ("system_hash", true, _) => "no system message".to_owned(),
                ("system_hash", _, true) => "a system message".to_owned(),
                ("system_hash", ..) => "another system message".to_owned(),
                ("template", true, _) => "--raw".to_owned(),
                ("template", _, true) => "no --raw".to_owned(),
                ("n", ..) => format!("-n {old}, not {new}"),
                (name, is_unset, _) => {
                    let option = name.replace('_', "-");
                    let not = if new.is_null() { String::new() } else { format!(", not {}", shown(new)) };
                    if is_unset {
                        format!("no --{option}")
                    } else {
                        format!("--{option} {}{not}", shown(old))
                    }
                }
            };
            Some(words)
        });
        model.into_iter().chain(settings).collect()
    }
}

/// The number as it was typed: 0.7, not the nearest number of 64 bits to that of 32 bits.
fn number(value: f32) -> Value {
    value.to_string().parse::<f64>().map_or(Value::Null, Value::from)
}

fn shown(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Array(values) if values.is_empty() => "none".into(),
        value => value.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(clap::Parser)]
    struct Line {
        #[command(flatten)]
        settings: Settings,
    }

    fn made(options: &[&str]) -> Made {
        let settings = Line::parse_from([&["x"], options].concat()).settings;
        Made::new("m", Some("role_colon".into()), 1, &settings)
    }

    #[test]
    fn each_setting_that_changes_answers_is_named() {
        let now = made(&[]);
        for (options, expected) in [
            (&[][..], &[][..]),
            (&["-t", "0.7"], &["--temperature 0.7, not 1.0"]),
            (&["--max-tokens", "9", "--top-k", "3"], &["--max-tokens 9, not 512", "--top-k 3, not -1"]),
            (&["--seed", "5"], &["--seed 5"]),
            (&["--stop", "END"], &["--stop [\"END\"], not none"]),
            (&["--system", "Be kind."], &["a system message"]),
        ] {
            assert_eq!(now.differences(&made(options)), expected, "{options:?}");
        }
        assert_eq!(made(&["--seed", "5"]).differences(&now), ["no --seed"]);
        assert_eq!(
            made(&["--system", "a"]).differences(&made(&["--system", "b"])),
            ["another system message"]
        );
        let other = Made { model: "other".into(), ..now.clone() };
        assert_eq!(now.differences(&other), ["the model other, not m"]);
        let raw = Made::new("m", None, 1, &Line::parse_from(["x"]).settings);
        assert_eq!(now.differences(&raw), ["--raw"]);
    }

    #[test]
    fn it_is_known_again_from_a_line_and_lines_of_earlier_versions_have_none() {
        let made = made(&["-t", "0.7"]);
        let mut line = json!({ "id": 1 });
        assert_eq!(Made::of_line(&line), None);
        made.add_to(&mut line);
        assert_eq!(line["sampling"]["temperature"], 0.7);
        let read: Value = serde_json::from_str(&line.to_string()).unwrap_or_default();
        assert_eq!(Made::of_line(&read), Some(made));
    }
}

//! Which format the keys of a line have, and which key was probably meant.

use crate::similar::is_near;

/// The format of examples.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum DataFormat {
    Chat,
    Completion,
    Text,
    Tokens,
    Preference,
}

impl DataFormat {
    pub(crate) fn name(self) -> &'static str {
        match self {
            DataFormat::Chat => "chat",
            DataFormat::Completion => "completion",
            DataFormat::Text => "text",
            DataFormat::Tokens => "tokens",
            DataFormat::Preference => "preference",
        }
    }
}

/// One of the ways in which a format is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Shape {
    /// `messages`, as OpenAI writes them.
    Messages,
    /// `conversations`, as ShareGPT writes them.
    ShareGpt,
    /// `prompt` and `completion`.
    Completion,
    /// `instruction`, `input` and `output`.
    Alpaca,
    Text,
    Tokens,
    /// `input_ids` and `labels`.
    Labels,
    /// `chosen` and `rejected`.
    Chosen,
    /// `input`, `preferred_output` and `non_preferred_output`, as OpenAI writes them.
    PreferredOutput,
    /// `comparison` and `label`, as the cookbook writes them.
    Comparison,
}

/// A shape, the keys that tell it, and the further keys that it has.
struct Row(Shape, DataFormat, &'static [&'static str], &'static [&'static str]);

/// The first row whose needed keys are all there counts: data sets have several of them in one line, such as `messages`
/// beside `chosen`, or a rendered `text` beside `messages`.
const ROWS: [Row; 10] = [
    Row(Shape::Chosen, DataFormat::Preference, &["chosen", "rejected"], &["prompt", "tools"]),
    Row(
        Shape::PreferredOutput,
        DataFormat::Preference,
        &["input", "preferred_output", "non_preferred_output"],
        &[],
    ),
    Row(Shape::Comparison, DataFormat::Preference, &["comparison", "label"], &[]),
    Row(Shape::Messages, DataFormat::Chat, &["messages"], &["tools"]),
    Row(Shape::ShareGpt, DataFormat::Chat, &["conversations"], &["system", "tools"]),
    Row(Shape::Completion, DataFormat::Completion, &["prompt", "completion"], &["tools"]),
    Row(Shape::Tokens, DataFormat::Tokens, &["tokens", "weights"], &[]),
    Row(Shape::Labels, DataFormat::Tokens, &["input_ids", "labels"], &["attention_mask"]),
    Row(Shape::Text, DataFormat::Text, &["text"], &[]),
    // Only if the format is asked for: the three names are too common.
    Row(Shape::Alpaca, DataFormat::Completion, &["instruction", "output"], &["input", "system"]),
];

impl Shape {
    fn row(self) -> &'static Row {
        // Each shape has a row.
        ROWS.iter().find(|row| row.0 == self).unwrap_or(&ROWS[0])
    }

    pub(super) fn format(self) -> DataFormat {
        self.row().1
    }

    /// The keys that the shape has.
    pub(super) fn keys(self) -> impl Iterator<Item = &'static str> {
        let Row(_, _, needed, further) = self.row();
        needed.iter().chain(*further).copied()
    }

    /// The keys that shapes have.
    pub(super) fn all_keys() -> impl Iterator<Item = &'static str> {
        ROWS.iter().flat_map(|Row(_, _, needed, further)| needed.iter().chain(*further).copied())
    }

    /// The needed keys in words.
    pub(super) fn words(self) -> String {
        self.row().2.join(", ")
    }
}

/// The shape of a line with these keys, if it is one of the format that was asked for.
///
/// # Errors
/// Says what is wrong, and what was probably meant.
pub(super) fn detect(keys: &[&str], asked: Option<DataFormat>) -> Result<Shape, String> {
    let fits = |row: &&Row| row.2.iter().all(|key| keys.contains(key));
    let asked_for = |row: &&Row| match asked {
        Some(format) => row.1 == format,
        None => row.0 != Shape::Alpaca,
    };
    if let Some(row) = ROWS.iter().filter(asked_for).find(fits) {
        return Ok(row.0);
    }
    if keys.is_empty() {
        return Err("has no keys".into());
    }
    // A part of the keys of a shape, with a further one that is almost there.
    let meant = ROWS.iter().filter(asked_for).find_map(|row| {
        let missing = row.2.iter().filter(|key| !keys.contains(key));
        let pairs: Option<Vec<_>> = missing.map(|key| Some((nearest(keys, key)?, *key))).collect();
        pairs.filter(|pairs| !pairs.is_empty())
    });
    if let Some((found, key)) = meant.and_then(|pairs| pairs.first().copied()) {
        return Err(format!("unknown key {found:?}; did you mean {key:?}?"));
    }
    if asked.is_none() && fits(&ROWS.iter().find(|row| row.0 == Shape::Alpaca).unwrap_or(&ROWS[0])) {
        return Err("has the keys instruction and output; if it is to be read as Alpaca, add --data-format completion".into());
    }
    let half = ROWS
        .iter()
        .filter(asked_for)
        .find(|row| 1 < row.2.len() && row.2.iter().any(|key| keys.contains(key)));
    if let Some(row) = half
        && let Some(missing) = row.2.iter().find(|key| !keys.contains(key))
    {
        let hint = renames(keys, missing).map(|it| format!("; {it}")).unwrap_or_default();
        return Err(format!("the key {missing:?} is missing (the keys found: {}){hint}", keys.join(", ")));
    }
    if asked.is_none_or(|format| format == DataFormat::Completion)
        && let (Some(prompt), Some(completion)) = (renames(keys, "prompt"), renames(keys, "completion"))
    {
        return Err(format!(
            "the keys found: {}; {prompt} and {completion}, if they are that",
            keys.join(", ")
        ));
    }
    let accepted: Vec<String> = ROWS.iter().filter(asked_for).map(|row| row.2.join(" and ")).collect();
    Err(format!("the keys found: {}; accepted: {}", keys.join(", "), accepted.join("; or ")))
}

/// Names that other data have for the keys of a completion.
const OTHER_NAMES: [(&str, &[&str]); 2] = [
    ("prompt", &["question", "query", "instruction", "input", "user", "problem"]),
    ("completion", &["answer", "response", "output", "reply", "assistant", "solution", "target"]),
];

/// What to do with a key that is there under another name.
fn renames(keys: &[&str], missing: &str) -> Option<String> {
    let (_, names) = OTHER_NAMES.iter().find(|(key, _)| *key == missing)?;
    let found = names.iter().find_map(|name| keys.iter().find(|key| key.eq_ignore_ascii_case(name)))?;
    Some(format!("rename {found:?} to {missing:?}"))
}

/// A key that is almost one of those that a shape has and the line lacks, and the one that was probably meant.
pub(super) fn misspelt<'a>(keys: &[&'a str], known: &[&'static str]) -> Option<(&'a str, &'static str)> {
    let missing = known.iter().filter(|key| !keys.contains(key));
    let unknown: Vec<&'a str> = keys.iter().copied().filter(|key| !known.contains(key)).collect();
    missing.filter_map(|key| Some((nearest(&unknown, key)?, *key))).next()
}

/// The key that is almost `wanted`.
fn nearest<'a>(keys: &[&'a str], wanted: &str) -> Option<&'a str> {
    keys.iter().copied().find(|key| is_near(key, wanted))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_keys_tell_the_shape() {
        for (keys, asked, expected) in [
            (&["messages"][..], None, Shape::Messages),
            (&["id", "messages", "tools", "text"], None, Shape::Messages),
            (&["prompt", "messages"], None, Shape::Messages),
            (&["conversations"], None, Shape::ShareGpt),
            (&["prompt", "completion"], None, Shape::Completion),
            (&["text"], None, Shape::Text),
            (&["text", "messages"], Some(DataFormat::Text), Shape::Text),
            (&["tokens", "weights"], None, Shape::Tokens),
            (&["input_ids", "labels", "attention_mask"], None, Shape::Labels),
            (&["prompt", "chosen", "rejected", "messages"], None, Shape::Chosen),
            (&["input", "preferred_output", "non_preferred_output"], None, Shape::PreferredOutput),
            (&["comparison", "label"], None, Shape::Comparison),
            (&["instruction", "input", "output"], Some(DataFormat::Completion), Shape::Alpaca),
        ] {
            assert_eq!(detect(keys, asked), Ok(expected), "{keys:?}");
            assert!(asked.is_none_or(|format| format == expected.format()));
        }
    }

    #[test]
    fn keys_of_no_shape_have_an_error_that_says_what_was_probably_meant() {
        for (keys, asked, expected) in [
            (&[][..], None, "has no keys"),
            (&["message"], None, "unknown key \"message\"; did you mean \"messages\"?"),
            (&["Messages"], None, "did you mean \"messages\"?"),
            (&["mesages"], None, "did you mean \"messages\"?"),
            (&["conversation"], None, "did you mean \"conversations\"?"),
            (&["prompt", "completions"], None, "unknown key \"completions\"; did you mean \"completion\"?"),
            (&["prompt"], None, "the key \"completion\" is missing (the keys found: prompt)"),
            (&["prompt", "choosen", "rejected"], None, "did you mean \"chosen\"?"),
            (&["instruction", "output"], None, "add --data-format completion"),
            (
                &["id", "question", "answer"],
                None,
                "the keys found: id, question, answer; rename \"question\" to \"prompt\" and rename \"answer\" to \"completion\", if they are that",
            ),
            (
                &["prompt", "Response"],
                None,
                "the key \"completion\" is missing (the keys found: prompt, Response); rename \"Response\" to \"completion\"",
            ),
            (&["question"], None, "the keys found: question; accepted: chosen and rejected; or"),
            (&["messages"], Some(DataFormat::Text), "the keys found: messages; accepted: text"),
        ] {
            let error = detect(keys, asked).unwrap_err();
            assert!(error.contains(expected), "{keys:?}: {error}");
        }
    }
}

//! Files of prompts: JSON Lines, one JSON array, or lines of text. `sample -i` and `train --prompts` read the same.

mod item;

use std::collections::HashMap;
use std::path::Path;

pub(crate) use self::item::{Item, Key, Prompt};
use crate::examples::{Problems, Source, TemplateRoles, file_name, template_roles};
use crate::failure::Failure;

/// What a file of prompts may be.
const FORMS: &str = "in each line a JSON object with `prompt`, or with `messages` that end with one of the user; or one JSON \
                     array of these; or a text in each line";

/// Reads the prompts of a file.
pub(crate) struct Prompts {
    source: Source,
    name: String,
    id_field: String,
    roles: TemplateRoles,
    /// True if all lines must be JSON, because the first one is; `None` before the first one.
    is_json: Option<bool>,
    n_lines: usize,
    n_items: usize,
    line: Vec<u8>,
}

impl Prompts {
    /// Opens a file; `-` is stdin. `id_field` is the key that identifies a prompt, and `template` the format that the
    /// command line names.
    pub(crate) fn open(path: &Path, id_field: &str, template: Option<&str>) -> Result<Self, Failure> {
        let name = file_name(path);
        let mut source = Source::open(path).map_err(|problem| Failure::text(format!("{name}: {problem}")))?;
        if path.extension().is_some_and(|it| it.eq_ignore_ascii_case("txt")) {
            source = source.of_lines();
        }
        let id_field = id_field.to_owned();
        let roles = template_roles(template);
        Ok(Prompts { source, name, id_field, roles, is_json: None, n_lines: 0, n_items: 0, line: Vec::new() })
    }

    /// Reads the next prompt, good or bad; `None` at the end.
    ///
    /// # Errors
    /// Says why the file cannot be read on, and where.
    pub(crate) fn next(&mut self) -> Result<Option<Item>, String> {
        loop {
            self.n_lines += 1;
            let next = self.source.next(&mut self.line);
            let is_array = self.source.is_array();
            let place = if is_array {
                format!("{}, item {}", self.name, self.n_items + 1)
            } else {
                format!("{}:{}", self.name, self.n_lines)
            };
            if next.map_err(|problem| format!("{place}: {problem}{}", hint(is_array)))?.is_none() {
                return Ok(None);
            }
            if self.line.trim_ascii().is_empty() {
                continue;
            }
            let is_first = self.is_json.is_none();
            let is_json =
                *self.is_json.get_or_insert(is_array || self.line.trim_ascii_start().starts_with(b"{"));
            let mut item = Item::read(&self.line, self.n_items, &self.id_field, is_json, &self.roles);
            item.place = place;
            if let Err(problem) = &mut item.prompt
                && problem.starts_with("not valid JSON")
            {
                problem.push_str(if is_first || !is_json { "" } else { NOT_MIXED });
                problem.push_str(hint(is_array));
            }
            self.n_items += 1;
            return Ok(Some(item));
        }
    }
}

const NOT_MIXED: &str = "; the first prompt is JSON, so that all must be";

/// What to do about a text that was read as an array.
fn hint(is_array: bool) -> &'static str {
    if is_array { "; if its lines are texts, give the file the ending .txt" } else { "" }
}

/// The ids that were read, which must differ.
#[derive(Debug, Default)]
pub(crate) struct Keys(HashMap<Key, usize>);

impl Keys {
    /// Makes an error of a prompt whose id another one has, and returns false for it. Without ids, prompts may be equal.
    pub(crate) fn check(&mut self, item: &mut Item) -> bool {
        let key = item.key();
        if !matches!(key, Key::Id(_)) {
            return true;
        }
        match self.0.get(&key) {
            Some(first) => {
                item.prompt = Err(format!("the {key} is that of the prompt with index {first}, too"));
                false
            }
            None => {
                self.0.insert(key, item.index);
                true
            }
        }
    }
}

/// What a file of prompts has.
#[derive(Debug, Default)]
pub(crate) struct Contents {
    pub(crate) n: usize,
    pub(crate) problems: Problems,
}

/// Reads a whole file that can be read again; `None` for another one. `is_raw` if messages have no format.
///
/// # Errors
/// The file cannot be read, or has not one prompt that can be used.
pub(crate) fn contents(
    path: &Path,
    id_field: &str,
    template: Option<&str>,
    is_raw: bool,
) -> Result<Option<Contents>, Failure> {
    if path.as_os_str() == "-" || !path.is_file() {
        return Ok(None);
    }
    let mut prompts = Prompts::open(path, id_field, template)?;
    let (mut contents, mut keys) = (Contents::default(), Keys::default());
    while let Some(mut item) = prompts.next().map_err(Failure::text)? {
        keys.check(&mut item);
        contents.n += 1;
        match &item.prompt {
            Err(problem) => contents.problems.add(&item.place, problem),
            Ok(Prompt::Messages(_)) if is_raw => contents.problems.add(&item.place, RAW_MESSAGES),
            Ok(_) => {}
        }
    }
    if contents.n == 0 {
        return Err(no_prompts(path));
    }
    if contents.problems.len() == contents.n {
        return Err(unusable(&contents.problems));
    }
    Ok(Some(contents))
}

/// Messages as a prompt that is sent as it is.
pub(crate) const RAW_MESSAGES: &str = "messages: have no format with --raw; give the prompt as a text";

pub(crate) fn no_prompts(path: &Path) -> Failure {
    Failure::text(format!("{}: has no prompts", file_name(path))).with_remedy(FORMS)
}

/// The failure of a file with these problems.
pub(crate) fn unusable(problems: &Problems) -> Failure {
    Failure::text(problems.lines().join("\n")).with_remedy(FORMS)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The prompts of a file with this name and text.
    fn read(name: &str, text: &str) -> Vec<Result<Prompt, String>> {
        let dir = std::env::temp_dir().join(format!("tinkex-prompts-{}-{name}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        let path = dir.join(name);
        std::fs::write(&path, text).unwrap();
        let mut prompts = Prompts::open(&path, "id", None).unwrap();
        let mut all = Vec::new();
        loop {
            match prompts.next() {
                Ok(Some(item)) => all.push(item.prompt),
                Ok(None) => break,
                Err(problem) => {
                    all.push(Err(problem));
                    break;
                }
            }
        }
        std::fs::remove_dir_all(&dir).unwrap();
        all
    }

    #[test]
    fn the_same_prompts_are_read_from_json_lines_an_array_and_lines_of_text() {
        for (name, text) in [
            ("a.jsonl", "{\"prompt\":\"Hi\"}\n\n{\"prompt\":\"a, b\"}\n"),
            ("b.json", "[{\"prompt\":\"Hi\"},\n {\"prompt\":\"a, b\"}]"),
            ("c.json", "[\"Hi\", \"a, b\"]"),
            ("d.txt", "Hi\r\n\na, b\n"),
            ("e", "Hi\n{\"prompt\":\"a, b\"}"),
        ] {
            let expected = ["Hi", "a, b"].map(|text| Ok(Prompt::Text(text.into())));
            assert_eq!(read(name, text), expected, "{name}");
        }
        let expected = ["[INST] Hi", "\"No,\" she said"].map(|text| Ok(Prompt::Text(text.into())));
        assert_eq!(read("f.txt", "[INST] Hi\n\"No,\" she said\n"), expected);
    }

    #[test]
    fn a_line_that_is_none_of_the_forms_says_what_to_do() {
        for (name, text, expected) in [
            ("g.jsonl", "{\"prompt\":\"Hi\"}\nHello\n", "all must be"),
            ("h", "[INST] Hi\n", "give the file the ending .txt"),
            ("i.txt", "Hi\n{\"prompt\":\n", "not valid JSON"),
        ] {
            let found = read(name, text);
            let problem = found.last().and_then(|it| it.as_ref().err()).cloned().unwrap_or_default();
            assert!(problem.contains(expected), "{name}: {found:?}");
        }
    }
}

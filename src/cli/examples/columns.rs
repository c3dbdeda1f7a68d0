//! Columns of the lines that nothing reads: data sets have many such, and a misspelt one hides among them.

use serde_json::{Value, json};

use super::format::{DataFormat, Shape, detect};
use crate::counted::{count, counted};
use crate::similar::is_near;

/// How many columns are kept apart, and how many of them are named in one line.
const MOST_COLUMNS: usize = 100;
const MOST_NAMED: usize = 12;

/// The flags of a message that people write beside the messages, where nothing reads them.
const FLAGS: [&str; 2] = ["weight", "trainable"];

/// The columns of some files that are not used.
#[derive(Debug, Default)]
pub(super) struct Columns {
    all: Vec<Column>,
    /// True if there are more than are kept apart.
    has_more: bool,
    /// Number of lines, with such columns and without.
    n_lines: u64,
}

#[derive(Debug)]
struct Column {
    name: String,
    n_lines: u64,
    first: String,
    meant: Option<Meant>,
}

/// What was probably meant by a column that is not used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Meant {
    /// Another column, with which the line would be read otherwise.
    Column(&'static str),
    /// A flag of the messages.
    Flag(&'static str),
}

impl Columns {
    /// Adds the columns of a line that its shape does not have. `given` are those that are not null.
    pub(super) fn add(&mut self, place: &str, given: &[&str], shape: Shape, asked: Option<DataFormat>) {
        self.n_lines += 1;
        for name in given.iter().filter(|name| !shape.keys().any(|key| key == **name)) {
            if let Some(column) = self.all.iter_mut().find(|column| column.name == *name) {
                column.n_lines += 1;
            } else if self.all.len() < MOST_COLUMNS {
                let meant = meant(name, given, shape, asked);
                let (name, first) = ((*name).to_owned(), place.to_owned());
                self.all.push(Column { name, n_lines: 1, first, meant });
            } else {
                self.has_more = true;
            }
        }
    }

    /// The columns that were probably meant to be used: the first place of each, and what is wrong.
    pub(super) fn mistakes(&self) -> impl Iterator<Item = (&str, String)> {
        self.all.iter().filter_map(|column| {
            let meant = match column.meant? {
                Meant::Column(key) => format!("did you mean {key:?}?"),
                Meant::Flag(key) => format!("did you mean {key:?} in one of the messages?"),
            };
            let lines = match column.n_lines {
                1 => String::new(),
                n => format!(" ({} have it)", counted(n, "line")),
            };
            let problem = format!("the column {:?} is not used; {meant}{lines}", column.name);
            Some((column.first.as_str(), problem))
        })
    }

    /// The other columns in a line, but for those that the command has a use for.
    pub(super) fn note(&self, used: &[&str]) -> Option<String> {
        let is_other = |column: &&Column| column.meant.is_none() && !used.contains(&column.name.as_str());
        let others: Vec<&Column> = self.all.iter().filter(is_other).collect();
        if others.is_empty() {
            return None;
        }
        let mut named: Vec<String> = others.iter().take(MOST_NAMED).map(|it| self.named(it)).collect();
        if MOST_NAMED < others.len() || self.has_more {
            named.push("…".into());
        }
        let more = if self.has_more { "more than " } else { "" };
        let n = others.len() as u64;
        let are = if n == 1 && !self.has_more { "is" } else { "are" };
        Some(format!("note: {more}{} {are} not used: {}", counted(n, "column"), named.join(", ")))
    }

    fn named(&self, column: &Column) -> String {
        let is_word = |it: char| it.is_alphanumeric() || "_-.".contains(it);
        let is_plain = !column.name.is_empty() && column.name.chars().all(is_word);
        let name = if is_plain { column.name.clone() } else { format!("{:?}", column.name) };
        if column.n_lines == self.n_lines {
            return name;
        }
        format!("{name} (in {} of {} lines)", count(column.n_lines), count(self.n_lines))
    }

    pub(super) fn to_json(&self) -> Value {
        let column = |it: &Column| {
            let meant = it.meant.map(|(Meant::Column(key) | Meant::Flag(key))| key);
            json!({ "column": it.name, "lines": it.n_lines, "first": it.first, "did_you_mean": meant })
        };
        self.all.iter().map(column).collect()
    }
}

/// What was probably meant by a column that a line of this shape does not have. A column that looks like one of another
/// format is a mistake only if the right name would change how the line is read.
fn meant(name: &str, given: &[&str], shape: Shape, asked: Option<DataFormat>) -> Option<Meant> {
    if matches!(shape, Shape::Messages | Shape::ShareGpt)
        && let Some(flag) = FLAGS.into_iter().find(|flag| letters(name) == letters(flag))
    {
        return Some(Meant::Flag(flag));
    }
    let near = Shape::all_keys().filter(|key| is_near(name, key) && !given.contains(key));
    let changes = |key: &&'static str| {
        let renamed: Vec<&str> = given.iter().map(|it| if *it == name { *key } else { *it }).collect();
        detect(&renamed, asked).is_ok_and(|other| other != shape)
    };
    near.filter(changes).map(Meant::Column).next()
}

/// The letters of a word in the order of the alphabet: in a slip of the fingers, two have changed places, while one that
/// is another letter makes another word, such as height.
fn letters(word: &str) -> Vec<char> {
    let mut letters: Vec<char> = word.chars().collect();
    letters.sort_unstable();
    letters
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_column_is_a_mistake_if_the_right_name_would_be_read() {
        for (name, given, shape, expected) in [
            ("id", &["id", "messages"][..], Shape::Messages, None),
            ("wieght", &["wieght", "messages"], Shape::Messages, Some(Meant::Flag("weight"))),
            ("weight", &["weight", "conversations"], Shape::ShareGpt, Some(Meant::Flag("weight"))),
            ("weight", &["weight", "prompt", "completion"], Shape::Completion, None),
            ("height", &["height", "messages"], Shape::Messages, None),
            // With its right name it would not be used either.
            ("promt", &["promt", "messages"], Shape::Messages, None),
            ("promt", &["promt", "text", "completion"], Shape::Text, Some(Meant::Column("prompt"))),
            ("mesages", &["mesages", "text"], Shape::Text, Some(Meant::Column("messages"))),
            ("choosen", &["choosen", "messages", "rejected"], Shape::Messages, Some(Meant::Column("chosen"))),
            ("conversation", &["conversation", "chosen", "rejected"], Shape::Chosen, None),
            ("test", &["test", "messages"], Shape::Messages, None),
        ] {
            assert_eq!(meant(name, given, shape, None), expected, "{name}");
        }
    }

    #[test]
    fn columns_are_counted_and_only_the_first_are_named() {
        let mut columns = Columns::default();
        columns.add("x:1", &["text", "id", "a b\u{202e}"], Shape::Text, None);
        columns.add("x:2", &["text", "id"], Shape::Text, None);
        assert_eq!(
            columns.note(&[]).as_deref(),
            Some("note: 2 columns are not used: id, \"a b\\u{202e}\" (in 1 of 2 lines)")
        );
        let names: Vec<String> = (0..200).map(|i| format!("c{i}")).collect();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        columns.add("x:3", &names, Shape::Text, None);
        let note = columns.note(&[]).unwrap_or_default();
        assert!(
            note.starts_with("note: more than 100 columns are not used: id (in 2 of 3 lines), "),
            "{note}"
        );
        assert!(note.ends_with("c9 (in 1 of 3 lines), …"), "{note}");
    }
}

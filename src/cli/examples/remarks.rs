//! What is strange in lines that can be read: roles that no format of conversations has, columns that are not used, and
//! lines that are there twice.

use std::collections::HashMap;

use serde_json::{Value, json};
use tinkex::chat::Message;

use super::columns::Columns;
use super::format::{DataFormat, Shape};
use super::line::Content;
use super::roles::role_meant;
use crate::counted::counted;

/// How many roles are kept apart, and how many repeated lines are named.
const MOST_ROLES: usize = 20;
const MOST_REPEATS: usize = 3;

/// What is strange in some files.
#[derive(Debug, Default)]
pub(crate) struct Remarks {
    roles: Vec<Role>,
    /// Names for roles that the template has, and the roles.
    translated: Vec<(String, &'static str)>,
    columns: Columns,
    n_repeats: u64,
    /// The first lines that are repeats, with the lines that they repeat.
    repeats: Vec<(String, String)>,
    /// The first line of each content: index of the file, and number.
    seen: HashMap<u64, (usize, usize)>,
}

/// A role that is not known.
#[derive(Debug)]
struct Role {
    name: String,
    n_messages: u64,
    first: String,
    /// True if all of its messages are trained.
    is_trained: bool,
}

impl Remarks {
    /// Adds the roles of an example. `trains_all` if the role does not decide what is trained.
    pub(super) fn add_roles(&mut self, place: &str, content: &Content, trains_all: bool) {
        let parts: [&[Message]; 3] = match content {
            Content::Chat(chat) => [&chat.messages, &[], &[]],
            Content::Preference(it) => [&it.prompt, &it.completion_a, &it.completion_b],
            Content::Completion(_) | Content::Text(_) | Content::Tokens(_) => return,
        };
        for message in parts.into_iter().flatten() {
            let Some(_) = role_meant(&message.role) else { continue };
            let is_trained = trains_all || message.trainable == Some(true);
            if let Some(role) = self.roles.iter_mut().find(|role| role.name == message.role) {
                role.n_messages += 1;
                role.is_trained &= is_trained;
            } else if self.roles.len() < MOST_ROLES {
                let (name, first) = (message.role.clone(), place.to_owned());
                self.roles.push(Role { name, n_messages: 1, first, is_trained });
            }
        }
    }

    /// Adds the names of a line that were read as roles.
    pub(super) fn add_translated(&mut self, names: &[(String, &'static str)]) {
        for name in names {
            if !self.translated.contains(name) {
                self.translated.push(name.clone());
            }
        }
    }

    /// Adds the columns of a line that are not null.
    pub(super) fn add_columns(
        &mut self,
        place: &str,
        given: &[&str],
        shape: Shape,
        asked: Option<DataFormat>,
    ) {
        self.columns.add(place, given, shape, asked);
    }

    /// Adds a line by the hash of its bytes. `place` is the index of the file and the number; `name` gives its words.
    pub(super) fn add_line(
        &mut self,
        hash: u64,
        place: (usize, usize),
        name: impl Fn((usize, usize)) -> String,
    ) {
        let earlier = *self.seen.entry(hash).or_insert(place);
        if earlier != place {
            self.n_repeats += 1;
            if self.repeats.len() < MOST_REPEATS {
                self.repeats.push((name(place), name(earlier)));
            }
        }
    }

    /// The remarks, each with the word note or warning.
    pub(crate) fn lines(&self) -> Vec<String> {
        self.warnings().chain(self.minor()).collect()
    }

    fn warnings(&self) -> impl Iterator<Item = String> {
        self.mistakes().map(|(place, problem)| format!("warning: {place}: {problem}"))
    }

    /// The columns that were probably meant to be used: the first place of each, and what is wrong.
    pub(crate) fn mistakes(&self) -> impl Iterator<Item = (&str, String)> {
        self.columns.mistakes()
    }

    /// The remarks on columns that are not used.
    pub(crate) fn of_columns(&self, used: &[&str]) -> Vec<String> {
        self.warnings().chain(self.columns.note(used)).collect()
    }

    /// The remarks without the mistakes.
    pub(crate) fn minor(&self) -> Vec<String> {
        let mut lines: Vec<String> = self.roles.iter().map(Role::line).collect();
        lines.extend(self.translated.iter().map(|(name, role)| {
            format!("note: the role {name:?} is read as {role:?}: the template has it under this name")
        }));
        lines.extend(self.columns.note(&[]));
        if 0 < self.n_repeats {
            let named: Vec<String> =
                self.repeats.iter().map(|(later, earlier)| format!("{later} repeats {earlier}")).collect();
            let more = if (self.repeats.len() as u64) < self.n_repeats { ", …" } else { "" };
            lines.push(format!(
                "note: {} of earlier ones: {}{more}",
                counted(self.n_repeats, "exact repeat"),
                named.join(", ")
            ));
        }
        lines
    }

    /// The roles that are not known.
    pub(crate) fn roles_json(&self) -> Value {
        let role = |it: &Role| json!({ "role": it.name, "messages": it.n_messages, "first": it.first });
        self.roles.iter().map(role).collect()
    }

    /// The columns that are not used.
    pub(crate) fn columns_json(&self) -> Value {
        self.columns.to_json()
    }

    /// The repeated lines.
    pub(crate) fn repeats_json(&self) -> Value {
        let first = self.repeats.iter().map(|(later, earlier)| json!({ "line": later, "repeats": earlier }));
        json!({ "count": self.n_repeats, "first": first.collect::<Vec<_>>() })
    }
}

impl Role {
    fn line(&self) -> String {
        let meant = match role_meant(&self.name) {
            Some(Some(meant)) => format!("; did you mean {meant:?}?"),
            _ => String::new(),
        };
        format!(
            "warning: unknown role {:?} in {}, the first in {}{}{meant}",
            self.name,
            counted(self.n_messages, "message"),
            self.first,
            if self.is_trained { "" } else { ": not trained" },
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn repeats_are_counted_and_the_first_are_named() {
        let mut remarks = Remarks::default();
        let lines = [(7, 1), (8, 2), (7, 3), (7, 4), (8, 5), (8, 6), (9, 7)];
        for (hash, number) in lines {
            remarks.add_line(hash, (0, number), |(_, number)| format!("x:{number}"));
        }
        assert_eq!(
            remarks.lines(),
            ["note: 4 exact repeats of earlier ones: x:3 repeats x:1, x:4 repeats x:1, x:5 repeats x:2, …"]
        );
        assert!(Remarks::default().lines().is_empty());
    }
}

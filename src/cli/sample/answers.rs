//! The answers that earlier starts have written, and which prompt of this start each of them is to.

use std::collections::HashMap;
use std::ops::Range;

use serde_json::Value;

use crate::prompts::{Item, Key};

/// The answers of a file, in its order.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Answers {
    all: Vec<Answer>,
    /// The answers to prompts with the same key, by their places in `all`: without ids, equal prompts have one key.
    of: HashMap<Key, Same>,
}

/// The answers with the same key, in the order of their prompts.
#[derive(Debug, Default, PartialEq)]
struct Same {
    places: Vec<usize>,
    /// Number of those at the beginning that have their prompts, so that many equal prompts are found quickly.
    n_taken: usize,
}

/// The line of an answer.
#[derive(Debug, PartialEq)]
pub(super) struct Answer {
    /// Its bytes in the file.
    pub(super) range: Range<u64>,
    /// The number of the prompt in the input, as the line has it.
    pub(super) index: Option<u64>,
    /// The prompt as it was, if the line has it.
    pub(super) prompt: Option<Value>,
    /// The number of the prompt in the input of this start, once it has come.
    pub(super) now: Option<u64>,
}

/// Result of the search for the answer to a prompt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Found {
    Answer,
    /// An answer to another prompt, which had the same id.
    OfAnother,
    Nothing,
}

impl Answers {
    pub(super) fn add(&mut self, key: Key, answer: Answer) {
        self.of.entry(key).or_default().places.push(self.all.len());
        self.all.push(answer);
    }

    /// Puts equal prompts in order: the first of them in the input gets the answer that was the first one's before.
    pub(super) fn sort(&mut self) {
        let all = &self.all;
        for same in self.of.values_mut() {
            same.places.sort_by_key(|place| (all[*place].index.is_none(), all[*place].index));
        }
    }

    /// Looks for the answer to a prompt. Each answer is found once.
    pub(super) fn take(&mut self, item: &Item) -> Found {
        let key = item.key();
        let Some(same) = self.of.get_mut(&key) else { return Found::Nothing };
        while same.places.get(same.n_taken).is_some_and(|place| self.all[*place].now.is_some()) {
            same.n_taken += 1;
        }
        let mut is_of_another = false;
        for place in &same.places[same.n_taken..] {
            let answer = &mut self.all[*place];
            if answer.now.is_some() {
                continue;
            }
            if answer.prompt.is_none() || answer.prompt == item.json {
                answer.now = Some(item.index as u64);
                return Found::Answer;
            }
            is_of_another = true;
        }
        match key {
            Key::Id(_) if is_of_another => Found::OfAnother,
            // Two different lines have the same hash.
            _ => Found::Nothing,
        }
    }

    /// Forgets which prompts have come; the lines have their new numbers if `are_written`.
    pub(super) fn begin_again(&mut self, are_written: bool) {
        for answer in &mut self.all {
            let now = answer.now.take();
            if are_written {
                answer.index = now;
            }
        }
        self.of.values_mut().for_each(|same| same.n_taken = 0);
        self.sort();
    }

    /// True if the lines have other numbers than their prompts in this start.
    pub(super) fn are_moved(&self) -> bool {
        self.all.iter().any(|answer| answer.index != answer.now)
    }

    /// Number of answers whose prompts have not come.
    pub(super) fn n_left(&self) -> usize {
        self.all.iter().filter(|answer| answer.now.is_none()).count()
    }

    pub(super) fn all(&self) -> &[Answer] {
        &self.all
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::examples::TemplateRoles;

    /// The prompts of lines of text or JSON.
    fn items(lines: &[&str]) -> Vec<Item> {
        lines
            .iter()
            .enumerate()
            .map(|(i, line)| {
                let roles = TemplateRoles::default();
                Item::read(line.as_bytes(), i, "id", line.starts_with('{'), &roles)
            })
            .collect()
    }

    /// Answers to these prompts, the last one first.
    fn answers(lines: &[&str]) -> Answers {
        let mut answers = Answers::default();
        for item in items(lines).into_iter().rev() {
            let (key, index) = (item.key(), Some(item.index as u64));
            answers.add(key, Answer { range: 0..0, index, prompt: item.json, now: None });
        }
        answers.sort();
        answers
    }

    /// The prompts that have no answer, and the number of answers that have no prompt.
    fn left(answers: &mut Answers, lines: &[&str]) -> (Vec<String>, usize) {
        let open = items(lines).into_iter().filter(|item| answers.take(item) == Found::Nothing);
        let open = open.map(|item| lines[item.index].to_owned()).collect();
        (open, answers.n_left())
    }

    #[test]
    fn a_prompt_is_found_wherever_it_stands_and_as_often_as_it_was_answered() {
        for (lines, open, n_left) in [
            (&["a", "b", "b"][..], &[][..], 0),
            (&["new", "a", "b", "b"], &["new"], 0),
            (&["b", "a"], &[], 1),
            (&["b", "b", "b", "a"], &["b"], 0),
            (&[], &[], 3),
        ] {
            let open = open.iter().map(|it| (*it).to_owned()).collect();
            assert_eq!(left(&mut answers(&["a", "b", "b"]), lines), (open, n_left), "{lines:?}");
        }
    }

    #[test]
    fn a_prompt_with_an_id_is_found_by_it_alone_and_must_be_the_same() {
        let line = r#"{"id":1,"prompt":"a"}"#;
        let mut known = answers(&[line, "a"]);
        assert_eq!(known.take(&items(&[r#"{"id":1,"prompt":"b"}"#])[0]), Found::OfAnother);
        assert_eq!(known.take(&items(&[r#"{"id":2,"prompt":"a"}"#])[0]), Found::Nothing);
        assert_eq!(known.take(&items(&[r#"{"id":1, "prompt": "a", "more": 1}"#])[0]), Found::Answer);
        assert_eq!(known.n_left(), 1);
    }

    #[test]
    fn equal_prompts_keep_their_order_and_moved_ones_are_told() {
        let mut known = answers(&["x", "a", "x"]);
        assert_eq!(left(&mut known, &["x", "a", "x"]).0.len(), 0);
        assert!(!known.are_moved());
        known.begin_again(false);
        assert_eq!(left(&mut known, &["a", "x", "new", "x"]).0, ["new"]);
        assert!(known.are_moved());
        let now: Vec<Option<u64>> = known.all().iter().map(|answer| answer.now).collect();
        // In the file, the last answer comes first.
        assert_eq!(now, [Some(3), Some(0), Some(1)]);
        known.begin_again(true);
        assert_eq!(left(&mut known, &["a", "x", "new", "x"]).0, ["new"]);
        assert!(!known.are_moved());
    }
}

//! What is wrong with the lines of some files: a fault that thousands of lines have is told once, with their number.

use serde_json::{Value, json};

/// How many problems are told one by one.
const MOST_PROBLEMS: usize = 20;
/// How many kinds of problems are kept apart.
const MOST_FAULTS: usize = 20;
/// How many places of a kind are told, if there are more problems than can be told one by one.
const MOST_PLACES: usize = 3;

/// The problems of some files.
#[derive(Debug, Default)]
pub(crate) struct Problems {
    /// The first of all, as `file:line: path: problem`.
    first: Vec<String>,
    n: usize,
    faults: Vec<Fault>,
}

/// A kind of problem.
#[derive(Debug)]
struct Fault {
    /// The problem without numbers, which differ from line to line.
    kind: String,
    /// The problem of its first line.
    problem: String,
    /// The first problems, as `file:line: path: problem`.
    first: Vec<String>,
    n: usize,
    first_place: String,
    last_place: String,
}

impl Problems {
    /// Adds a problem. `place` is the file and the line; empty for a problem that names its own.
    pub(crate) fn add(&mut self, place: &str, problem: &str) {
        self.n += 1;
        let text = if place.is_empty() { problem.to_owned() } else { format!("{place}: {problem}") };
        if self.first.len() < MOST_PROBLEMS {
            self.first.push(text.clone());
        }
        let kind = without_numbers(problem);
        if let Some(fault) = self.faults.iter_mut().find(|fault| fault.kind == kind) {
            fault.n += 1;
            place.clone_into(&mut fault.last_place);
            if fault.first.len() < MOST_PLACES {
                fault.first.push(text);
            }
        } else if self.faults.len() < MOST_FAULTS {
            self.faults.push(Fault {
                kind,
                problem: problem.to_owned(),
                first: vec![text],
                n: 1,
                first_place: place.to_owned(),
                last_place: place.to_owned(),
            });
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.n
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.n == 0
    }

    /// The problems in lines: one by one if they are few, otherwise by their kinds.
    pub(crate) fn lines(&self) -> Vec<String> {
        if self.n == self.first.len() {
            return self.first.clone();
        }
        let n_each = (MOST_PROBLEMS / self.faults.len().max(1)).clamp(1, MOST_PLACES);
        let mut lines = Vec::new();
        for fault in &self.faults {
            let told = &fault.first[..n_each.min(fault.first.len())];
            lines.extend_from_slice(told);
            match fault.n - told.len() {
                0 => {}
                1 => lines.push(format!("… and 1 more of this kind, in {}", fault.last_place)),
                n => lines.push(format!("… and {n} more of this kind, the last one in {}", fault.last_place)),
            }
        }
        let n_others = self.n - self.faults.iter().map(|fault| fault.n).sum::<usize>();
        if 0 < n_others {
            lines.push(format!("… and {n_others} more of other kinds"));
        }
        lines
    }

    /// The first problems, as JSON.
    pub(crate) fn first(&self) -> &[String] {
        &self.first
    }

    /// The kinds with their numbers, as JSON.
    pub(crate) fn faults(&self) -> Value {
        let fault = |it: &Fault| json!({ "problem": it.problem, "count": it.n, "first": it.first_place, "last": it.last_place });
        self.faults.iter().map(fault).collect()
    }
}

fn without_numbers(text: &str) -> String {
    let mut kind = String::with_capacity(text.len());
    for it in text.chars() {
        match it {
            '0'..='9' if kind.ends_with('#') => {}
            '0'..='9' => kind.push('#'),
            it => kind.push(it),
        }
    }
    kind
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn few_problems_are_told_one_by_one_and_more_by_their_kinds() {
        let mut problems = Problems::default();
        for i in 1..=20 {
            problems.add(&format!("x:{i}"), &format!("messages[{i}]: is empty"));
        }
        assert_eq!(problems.lines().len(), 20);
        problems.add("x:21", "has no keys");
        for i in 22..=30 {
            problems.add(&format!("x:{i}"), &format!("messages[{i}]: is empty"));
        }
        problems.add("x:31", "has no keys");
        assert_eq!(problems.len(), 31);
        assert_eq!(
            problems.lines(),
            [
                "x:1: messages[1]: is empty",
                "x:2: messages[2]: is empty",
                "x:3: messages[3]: is empty",
                "… and 26 more of this kind, the last one in x:30",
                "x:21: has no keys",
                "x:31: has no keys",
            ]
        );
    }

    #[test]
    fn many_kinds_are_one_line_each_and_a_number_for_the_others() {
        let mut problems = Problems::default();
        for letter in ('a'..='z').chain('a'..='z') {
            problems.add("x:1", &format!("unknown key {letter:?}"));
        }
        let lines = problems.lines();
        assert_eq!(lines[..2], ["x:1: unknown key 'a'", "… and 1 more of this kind, in x:1"]);
        assert_eq!((lines.len(), lines[40].as_str()), (41, "… and 12 more of other kinds"));
    }
}

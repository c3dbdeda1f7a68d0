//! What is said about the prompts that have failed.

/// The numbers of failed prompts.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Failed {
    /// Lines that are not prompts.
    pub(super) n_unusable: usize,
    /// Prompts that the server does not accept.
    pub(super) n_refused: usize,
    /// Prompts that may succeed another time.
    pub(super) n_other: usize,
}

impl Failed {
    pub(super) fn n(&self) -> usize {
        self.n_unusable + self.n_refused + self.n_other
    }

    /// What to do about them. `has_file` if the answers are in a file, to which the same command adds.
    pub(super) fn advice(&self, input: &str, has_file: bool) -> Vec<String> {
        let prompts = |n: usize| if n == 1 { "1 prompt".to_owned() } else { format!("{n} prompts") };
        let lines = [
            (self.n_unusable, "cannot be used", "mend the input, and run the same command again"),
            (self.n_refused, "refused by the server", "the same command would be refused again"),
            (self.n_other, "failed", "the same command tries again"),
        ];
        let lines = lines.into_iter().filter(|(n, ..)| has_file && 0 < *n);
        lines
            .map(|(n, what, then)| format!("{what}: {} of {input}; `error` says why; {then}", prompts(n)))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_prompts_that_may_succeed_are_to_be_tried_again() {
        let failed = Failed { n_unusable: 1, n_refused: 2, n_other: 3 };
        let lines = failed.advice("in.jsonl", true);
        assert_eq!(failed.n(), 6);
        assert!(lines[0].starts_with("cannot be used: 1 prompt of in.jsonl; "), "{lines:?}");
        assert!(lines[1].starts_with("refused by the server: 2 prompts of in.jsonl; "), "{lines:?}");
        assert!(lines[2].ends_with("the same command tries again"), "{lines:?}");
        assert!(failed.advice("in.jsonl", false).is_empty());
        assert!(Failed::default().advice("in.jsonl", true).is_empty());
    }
}

//! Which steps of a run have their metrics written.

use std::collections::BTreeSet;

/// The steps whose metrics are written, in whatever order that happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct LoggedSteps {
    /// All steps before it have their metrics written, and it has not.
    next: u64,
    /// Later steps that have, too.
    later: BTreeSet<u64>,
}

impl LoggedSteps {
    /// All steps before `first` are written.
    pub(super) fn before(first: u64) -> Self {
        LoggedSteps { next: first, later: BTreeSet::new() }
    }

    pub(super) fn add(&mut self, step: u64) {
        if self.next <= step {
            self.later.insert(step);
        }
        while self.later.remove(&self.next) {
            self.next += 1;
        }
    }

    /// The first step whose metrics are not written.
    pub(super) fn first_missing(&self) -> u64 {
        self.next
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_missing_step_does_not_depend_on_the_order_of_the_others() {
        for (logged, expected) in [
            (&[][..], 3),
            (&[3, 4], 5),
            (&[4], 3),
            (&[5, 4], 3),
            (&[5, 4, 3], 6),
            (&[3, 5, 3], 4),
            (&[0, 2], 3),
        ] {
            let mut steps = LoggedSteps::before(3);
            logged.iter().for_each(|step| steps.add(*step));
            assert_eq!(steps.first_missing(), expected, "{logged:?}");
        }
    }
}

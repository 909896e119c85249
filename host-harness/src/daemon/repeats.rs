//! Which warnings of a policy are new: one that it wrote during its last poll as well is not written again as a warning.

use std::collections::BTreeSet;

/// More lines than this are not remembered, so they count as new.
const MAX_LINES: usize = 1_000;

/// The warnings of two polls.
#[derive(Debug, Default)]
pub(super) struct Repeats {
    last_poll: BTreeSet<String>,
    this_poll: BTreeSet<String>,
}

impl Repeats {
    /// A poll begins: what the poll before it warned of is what counts as known.
    pub(super) fn begin_poll(&mut self) {
        self.last_poll = std::mem::take(&mut self.this_poll);
    }

    /// Whether `line` says something new. It is known afterwards, until a whole poll goes by without it.
    pub(super) fn is_new(&mut self, line: &str) -> bool {
        let is_known = self.last_poll.contains(line) || self.this_poll.contains(line);
        if self.this_poll.len() < MAX_LINES {
            self.this_poll.insert(line.to_owned());
        }
        !is_known
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_warning_is_new_until_it_was_written_and_again_after_a_poll_without_it() {
        let mut repeats = Repeats::default();
        let mut poll = |lines: &[&str]| {
            repeats.begin_poll();
            lines.iter().filter(|line| repeats.is_new(line)).map(|line| (*line).to_owned()).collect::<Vec<_>>()
        };
        for (name, lines, new) in [
            ("first time", vec!["web: no such image"], vec!["web: no such image"]),
            ("the same", vec!["web: no such image"], vec![]),
            ("another beside it", vec!["web: no such image", "db: timeout"], vec!["db: timeout"]),
            ("twice in one poll", vec!["db: refused", "db: refused"], vec!["db: refused"]),
            ("back after a poll without it", vec!["web: no such image"], vec!["web: no such image"]),
        ] {
            assert_eq!(poll(&lines), new, "{name}");
        }
    }

    #[test]
    fn a_policy_cannot_make_the_host_remember_without_bound() {
        let mut repeats = Repeats::default();
        for number in 0..2 * MAX_LINES {
            assert!(repeats.is_new(&number.to_string()));
        }
        assert_eq!(repeats.this_poll.len(), MAX_LINES);
    }
}

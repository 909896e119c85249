//! Regular expressions over tags: what a tag filter matches, and what its first group catches.
//!
//! The usual syntax with its usual meaning (leftmost match, earlier alternatives first), and no more than tags need:
//! literals, `.`, `[a-z]`, `[^…]`, `\d` `\D` `\w` `\W`, `\` before punctuation, `(…)`, `(?:…)`, `(?P<name>…)`, `(?<name>…)`, `|`,
//! `*` `+` `?` `{2}` `{2,}` `{2,4}` and their lazy forms, `^` and `$`. Tags are ASCII, and so are patterns. What else a pattern
//! may ask for is refused with its name. A match takes time in proportion to the pattern's size times the tag's.
//!
//! Written here because the smallest engine there is, `regex-lite`, adds 59 KB to a module that may have 400; a test
//! compares the two on patterns and tags made at random.

mod parse;

/// The bytes that a place in a tag may have: bit `n` for byte `n`.
type Bytes = u128;

/// A pattern, as a program.
#[derive(Debug)]
pub(super) struct Regex(Vec<Step>);

/// Offsets are from the step itself.
#[derive(Debug, Clone, Copy)]
enum Step {
    /// One of these bytes.
    Byte(Bytes),
    /// Goes on at the first; where that leads nowhere, at the second.
    Either(isize, isize),
    Jump(isize),
    /// Notes where the first group begins, or ends.
    Note {
        is_end: bool,
    },
    AtStart,
    AtEnd,
}

/// Where the first group begins and ends.
type Group = [Option<usize>; 2];

/// What is left to try.
enum Todo {
    /// Go on at this step and this place in the tag.
    Go(usize, usize),
    /// On the way back: the group is what it was.
    Restore(Group),
}

impl Regex {
    /// Reads a pattern.
    ///
    /// # Errors
    /// What it asks for that there is not, or where it is malformed.
    pub(super) fn parse(pattern: &str) -> Result<Self, &'static str> {
        parse::parse(pattern).map(Self)
    }

    /// Where the first group of the leftmost match in `text` begins and ends; all of `text` where no group took part.
    /// None without a match.
    pub(super) fn find(&self, text: &str) -> Option<(usize, usize)> {
        // A step that failed at a place fails there again, wherever the match began.
        let mut tried = vec![false; (self.0.len() + 1) * (text.len() + 1)];
        let found = (0..=text.len()).find_map(|start| self.find_at(text.as_bytes(), start, &mut tried));
        found.map(|[start, end]| start.zip(end).unwrap_or((0, text.len())))
    }

    fn find_at(&self, text: &[u8], start: usize, tried: &mut [bool]) -> Option<Group> {
        let mut group = [None, None];
        let mut todo = vec![Todo::Go(0, start)];
        while let Some(next) = todo.pop() {
            let (mut step, mut at) = match next {
                Todo::Go(step, at) => (step, at),
                Todo::Restore(before) => {
                    group = before;
                    continue;
                }
            };
            while !std::mem::replace(&mut tried[step * (text.len() + 1) + at], true) {
                let to = |offset: isize| step.wrapping_add_signed(offset);
                match self.0.get(step) {
                    None => return Some(group),
                    Some(Step::Byte(bytes)) if text.get(at).is_some_and(|byte| has(*bytes, *byte)) => at += 1,
                    Some(Step::AtStart) if at == 0 => {}
                    Some(Step::AtEnd) if at == text.len() => {}
                    Some(Step::Byte(_) | Step::AtStart | Step::AtEnd) => break,
                    Some(Step::Note { is_end }) => {
                        todo.push(Todo::Restore(group));
                        group[usize::from(*is_end)] = Some(at);
                    }
                    Some(Step::Either(first, second)) => {
                        todo.push(Todo::Go(to(*second), at));
                        step = to(*first);
                        continue;
                    }
                    Some(Step::Jump(offset)) => {
                        step = to(*offset);
                        continue;
                    }
                }
                step += 1;
            }
        }
        None
    }
}

fn has(bytes: Bytes, byte: u8) -> bool {
    byte < 128 && bytes >> byte & 1 == 1
}

#[cfg(test)]
mod tests;

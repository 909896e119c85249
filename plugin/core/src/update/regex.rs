//! Regular expressions for tags: whether a tag filter matches, and what its first group captures.
//!
//! The syntax has its usual meaning (leftmost match, earlier alternatives first), but is limited to what tags need:
//! literals, `.`, `[a-z]`, `[^…]`, `\d` `\D` `\w` `\W`, `\` before punctuation, `(…)`, `(?:…)`, `(?P<name>…)`,
//! `(?<name>…)`, `|`, `*` `+` `?` `{2}` `{2,}` `{2,4}` and their lazy forms, `^` and `$`. Tags are ASCII, and so are
//! patterns. Any other feature is refused with an error that names it. The time of a match is proportional to the size
//! of the pattern times the length of the tag.
//!
//! This engine exists because the smallest available one, `regex-lite`, adds 59 KB to a module with a limit of 400 KB.
//! A test compares the two engines on random patterns and tags.

mod parse;

/// A set of allowed bytes: bit `n` stands for byte `n`.
type Bytes = u128;

/// A pattern, compiled to a program.
#[derive(Debug)]
pub(super) struct Regex(Vec<Step>);

/// One instruction. Offsets are relative to the step itself.
#[derive(Debug, Clone, Copy)]
enum Step {
    /// Matches one of these bytes.
    Byte(Bytes),
    /// Continues at the first offset. If that fails, continues at the second.
    Either(isize, isize),
    Jump(isize),
    /// Records the start or the end of the first group.
    Note {
        is_end: bool,
    },
    AtStart,
    AtEnd,
}

/// The start and the end of the first group.
type Group = [Option<usize>; 2];

/// An entry on the stack of the matcher.
enum Todo {
    /// Continue at this step and this position in the tag.
    Go(usize, usize),
    /// Backtrack: restore the group.
    Restore(Group),
}

impl Regex {
    /// Parses a pattern.
    ///
    /// # Errors
    /// The unsupported feature, or the position of the syntax error.
    pub(super) fn parse(pattern: &str) -> Result<Self, &'static str> {
        parse::parse(pattern).map(Self)
    }

    /// The start and end of the first group in the leftmost match. If no group took part in the match, they cover the
    /// whole `text`. `None` without a match.
    pub(super) fn find(&self, text: &str) -> Option<(usize, usize)> {
        // A step that failed at a position fails there again, no matter where the match started.
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

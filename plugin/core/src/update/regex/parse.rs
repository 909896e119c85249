//! Parses patterns into programs by recursive descent. Each level returns the steps of the part that it parsed.

use super::{Bytes, Step};

/// The maximum length of a program. It limits the cost of a match.
const MAX_STEPS: usize = 200;
const MAX_DEPTH: usize = 20;
/// Limits the recursion over alternatives.
const MAX_PATTERN_BYTES: usize = 500;
const ALL: Bytes = Bytes::MAX;
const DIGITS: Bytes = range(b'0', b'9');
const WORD: Bytes = DIGITS | range(b'a', b'z') | range(b'A', b'Z') | range(b'_', b'_');

/// A parsed part, or the reason why it is invalid.
type Parsed<T> = Result<T, &'static str>;

/// The steps of a part of a pattern.
struct Part {
    steps: Vec<Step>,
    /// Whether the part can match the empty text.
    may_be_empty: bool,
}

struct Parser<'a> {
    rest: &'a [u8],
    groups: usize,
    depth: usize,
}

/// Parses `pattern` into a program.
pub(super) fn parse(pattern: &str) -> Parsed<Vec<Step>> {
    if !pattern.is_ascii() {
        return Err("it is not ASCII, but tags are");
    }
    if pattern.len() > MAX_PATTERN_BYTES {
        return Err("it is longer than 500 characters");
    }
    let mut parser = Parser { rest: pattern.as_bytes(), groups: 0, depth: 0 };
    let part = parser.alternatives()?;
    if parser.rest.is_empty() { Ok(part.steps) } else { Err("a `)` has no matching `(`") }
}

const fn range(first: u8, last: u8) -> Bytes {
    (ALL >> (127 - (last - first))) << first
}

/// Converts a distance between two steps into an offset. Programs are short.
fn offset(steps: usize) -> isize {
    isize::try_from(steps).unwrap_or(isize::MAX)
}

impl Part {
    fn empty() -> Self {
        Self { steps: Vec::new(), may_be_empty: true }
    }

    fn one(step: Step) -> Self {
        Self { may_be_empty: !matches!(step, Step::Byte(_)), steps: vec![step] }
    }

    fn then(mut self, next: &Self) -> Parsed<Self> {
        self.steps.extend(&next.steps);
        self.may_be_empty &= next.may_be_empty;
        if self.steps.len() > MAX_STEPS { Err("it is too large") } else { Ok(self) }
    }

    fn or(self, other: &Self) -> Parsed<Self> {
        let may_be_empty = self.may_be_empty || other.may_be_empty;
        let choice = Self::one(Step::Either(1, offset(self.steps.len() + 2)));
        let skip = Self::one(Step::Jump(offset(other.steps.len() + 1)));
        Ok(Self { may_be_empty, ..choice.then(&self)?.then(&skip)?.then(other)? })
    }

    /// Zero or one repetition.
    fn maybe(&self, is_lazy: bool) -> Parsed<Self> {
        let choice = either(1, offset(self.steps.len() + 1), is_lazy);
        Ok(Self { may_be_empty: true, ..choice.then(self)? })
    }

    /// Zero or more repetitions.
    fn any(&self, is_lazy: bool) -> Parsed<Self> {
        let length = offset(self.steps.len());
        let part = either(1, length + 2, is_lazy).then(self)?.then(&Self::one(Step::Jump(-length - 1)))?;
        Ok(Self { may_be_empty: true, ..part })
    }

    /// From `least` to `most` repetitions. `None` means no upper limit.
    fn repeat(&self, least: usize, most: Option<usize>, is_lazy: bool) -> Parsed<Self> {
        let tail = match most {
            None => self.any(is_lazy)?,
            // The optional parts are nested: x(x(x)?)?
            Some(most) => (least..most).try_fold(Self::empty(), |tail, _| self_then(self, &tail)?.maybe(is_lazy))?,
        };
        let fixed = (0..least).try_fold(Self { may_be_empty: false, ..Self::empty() }, |part, _| part.then(self))?;
        Ok(Self { may_be_empty: least == 0, ..fixed.then(&tail)? })
    }
}

fn self_then(part: &Part, tail: &Part) -> Parsed<Part> {
    Part { steps: part.steps.clone(), ..*part }.then(tail)
}

fn either(first: isize, second: isize, is_swapped: bool) -> Part {
    Part::one(if is_swapped { Step::Either(second, first) } else { Step::Either(first, second) })
}

impl Parser<'_> {
    fn take(&mut self, byte: u8) -> bool {
        let is_next = self.rest.first() == Some(&byte);
        self.rest = &self.rest[usize::from(is_next)..];
        is_next
    }

    fn next(&mut self) -> Parsed<u8> {
        let (first, rest) = self.rest.split_first().ok_or("it ends too early")?;
        self.rest = rest;
        Ok(*first)
    }

    fn alternatives(&mut self) -> Parsed<Part> {
        let first = self.sequence()?;
        // Parse the later alternatives recursively, so that an earlier one is tried before all later ones.
        if self.take(b'|') { first.or(&self.alternatives()?) } else { Ok(first) }
    }

    fn sequence(&mut self) -> Parsed<Part> {
        let mut part = Part::empty();
        while !matches!(self.rest.first(), None | Some(b'|' | b')')) {
            part = part.then(&self.repeated()?)?;
        }
        Ok(part)
    }

    fn repeated(&mut self) -> Parsed<Part> {
        let part = self.single()?;
        let (least, most) = match self.rest.first() {
            Some(b'*') => (0, None),
            Some(b'+') => (1, None),
            Some(b'?') => (0, Some(1)),
            Some(b'{') => self.bounds()?,
            _ => return Ok(part),
        };
        self.next()?;
        let is_lazy = self.take(b'?');
        if part.may_be_empty {
            return Err("it repeats a part that may be empty");
        }
        if matches!(self.rest.first(), Some(b'*' | b'+' | b'?' | b'{')) {
            return Err("it repeats a repetition; put the inner one in a group");
        }
        part.repeat(least, most, is_lazy)
    }

    /// Parses `{2`, `{2,` or `{2,4`, up to the closing brace.
    fn bounds(&mut self) -> Parsed<(usize, Option<usize>)> {
        let malformed = || "a `{` does not start a valid repetition; write it as `\\{`";
        let end = self.rest.iter().position(|byte| *byte == b'}').ok_or_else(malformed)?;
        let text = str::from_utf8(&self.rest[1..end]).map_err(|_| malformed())?;
        self.rest = &self.rest[end..];
        let number = |text: &str| text.parse::<usize>().ok().filter(|n| *n <= MAX_STEPS && !text.starts_with('+'));
        let (least, most) = match text.split_once(',') {
            None => (number(text), Some(number(text))),
            Some((least, "")) => (number(least), None),
            Some((least, most)) => (number(least), Some(number(most))),
        };
        match (least, most) {
            (Some(least), None) => Ok((least, None)),
            (Some(least), Some(Some(most))) if least <= most => Ok((least, Some(most))),
            _ => Err(malformed()),
        }
    }

    fn single(&mut self) -> Parsed<Part> {
        Ok(Part::one(match self.next()? {
            b'(' => return self.group(),
            b'[' => Step::Byte(self.class()?),
            b'.' => Step::Byte(ALL & !range(b'\n', b'\n')),
            b'^' => Step::AtStart,
            b'$' => Step::AtEnd,
            b'\\' => Step::Byte(self.escaped()?),
            b'*' | b'+' | b'?' | b'{' => return Err("a `*`, `+`, `?` or `{` has nothing to repeat"),
            byte => Step::Byte(range(byte, byte)),
        }))
    }

    fn group(&mut self) -> Parsed<Part> {
        let mut is_caught = true;
        if self.take(b'?') {
            is_caught = !self.take(b':');
            if is_caught {
                self.take(b'P');
                let end = self.rest.iter().position(|byte| *byte == b'>');
                let is_name = |name: &[u8]| name.iter().all(|byte| byte.is_ascii_alphanumeric() || *byte == b'_');
                let name = end.and_then(|end| self.rest[..end].strip_prefix(b"<"));
                if !name.is_some_and(|name| !name.is_empty() && is_name(name)) {
                    return Err("flags and look-around (`(?…`) are not supported");
                }
                self.rest = &self.rest[end.map_or(0, |end| end + 1)..];
            }
        }
        self.groups += usize::from(is_caught);
        let is_first = is_caught && self.groups == 1;
        self.depth += 1;
        if self.depth > MAX_DEPTH {
            return Err("its groups are nested too deep");
        }
        let inner = self.alternatives()?;
        self.depth -= 1;
        if !self.take(b')') {
            return Err("a `(` is not closed");
        }
        if !is_first {
            return Ok(inner);
        }
        let may_be_empty = inner.may_be_empty;
        let note = |is_end| Part::one(Step::Note { is_end });
        Ok(Part { may_be_empty, ..note(false).then(&inner)?.then(&note(true))? })
    }

    fn class(&mut self) -> Parsed<Bytes> {
        let is_negated = self.take(b'^');
        let mut bytes = 0;
        let mut is_first = true;
        while is_first || !self.take(b']') {
            is_first = false;
            let (first, is_single) = self.class_part()?;
            let is_range = self.rest.first() == Some(&b'-') && self.rest.get(1).is_some_and(|byte| *byte != b']');
            if !is_range {
                bytes |= first;
                continue;
            }
            self.next()?;
            let (last, is_last_single) = self.class_part()?;
            if !(is_single && is_last_single && first <= last) {
                return Err("a range in `[…]` must go from a character to a later one");
            }
            // All bits from the lower one to the higher one.
            bytes |= last | (last - first);
        }
        Ok(if is_negated { !bytes } else { bytes })
    }

    /// Parses one element of a class. Returns its bytes, and whether it is a single byte.
    fn class_part(&mut self) -> Parsed<(Bytes, bool)> {
        let bytes = match self.next().map_err(|_| "a `[` is not closed")? {
            b'[' => return Err("a `[` in `[…]` is not supported; write it as `\\[`"),
            b'&' if self.rest.first() == Some(&b'&') => return Err("`&&` in `[…]` is not supported"),
            b'\\' => self.escaped()?,
            byte => range(byte, byte),
        };
        Ok((bytes, bytes.is_power_of_two()))
    }

    fn escaped(&mut self) -> Parsed<Bytes> {
        match self.next()? {
            b'd' => Ok(DIGITS),
            b'D' => Ok(!DIGITS),
            b'w' => Ok(WORD),
            b'W' => Ok(!WORD),
            byte if byte.is_ascii_punctuation() => Ok(range(byte, byte)),
            _ => Err(r"a `\` before this letter or digit is not supported"),
        }
    }
}

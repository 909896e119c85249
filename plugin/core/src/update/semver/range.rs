//! Version ranges in the syntax of Masterminds/semver, which Flux and Helm also use. This module handles versions, not
//! tags.
//!
//! - `A || B`: either range. `A, B` or `A B`: both ranges.
//! - `1.2.3` or `=1.2.3`: exactly this version. `1.2`, `1.2.x` or `1.2.*`: any version that starts with 1.2. `*`: any
//!   version.
//! - `>`, `>=`, `<`, `<=`, `!=`: comparisons.
//! - `~1.2.3`: from 1.2.3, below 1.3. `~1`: below 2. `^1.2.3`: below 2. `^0.2.3`: below 0.3. `^0.0.3`: below 0.0.4.
//! - `1.2 - 2.0`: from the first version to the second, inclusive.
//!
//! A missing part stands for any number if that makes a difference: `<=1.2` includes 1.2.9, and `>1` starts at 2. A
//! range includes a pre-release only if one of the comparators in the same set names a pre-release: `>=1.2.0-0`
//! includes `1.3.0-rc.1`, and `>=1.2` does not.

use super::{MAX_PARTS, Tag, Version, parse_number, split_suffix};

/// The maximum number of parts of a version in a range. A tag with a fourth part is matched like one without it.
const RANGE_PARTS: usize = 3;

/// Sets of comparators. A version must match at least one set.
#[derive(Debug)]
pub(in crate::update) struct Range(Vec<Vec<Comparator>>);

/// The versions from `from` up to, but not including, `before`. If negated, all other versions.
#[derive(Debug)]
struct Comparator {
    from: Bound,
    before: Option<Bound>,
    is_negated: bool,
    names_pre: bool,
}

/// An owned [`Version`].
#[derive(Debug)]
struct Bound {
    numbers: [u64; MAX_PARTS],
    pre: String,
}

/// The version after an operator: the parts that are written out, and their pre-release.
struct Written<'a> {
    numbers: [u64; MAX_PARTS],
    parts: usize,
    pre: &'a str,
}

impl Range {
    /// Parses a range.
    ///
    /// # Errors
    /// Names the invalid part.
    pub(in crate::update) fn parse(text: &str) -> Result<Self, String> {
        let mut sets = Vec::new();
        for set in text.split("||") {
            sets.push(parse_set(set)?);
        }
        Ok(Self(sets))
    }

    /// Whether `text` is a version in the range.
    pub(in crate::update) fn has(&self, text: &str) -> bool {
        let Some(Tag { version, .. }) = Tag::parse(text) else { return false };
        self.0.iter().any(|set| {
            let is_admitted = version.pre.is_empty() || set.iter().any(|comparator| comparator.names_pre);
            is_admitted && set.iter().all(|comparator| comparator.has(version))
        })
    }
}

impl Comparator {
    fn has(&self, version: Version<'_>) -> bool {
        let is_before = |bound: &Bound| version < bound.as_version();
        let is_within = version >= self.from.as_version() && self.before.as_ref().is_none_or(is_before);
        is_within != self.is_negated
    }
}

impl Bound {
    fn as_version(&self) -> Version<'_> {
        Version { numbers: self.numbers, pre: &self.pre }
    }

    /// The first of all versions with these numbers.
    fn lowest(numbers: [u64; MAX_PARTS]) -> Self {
        Self { numbers, pre: "0".to_owned() }
    }
}

impl Written<'_> {
    fn exact(&self) -> Bound {
        Bound { numbers: self.numbers, pre: self.pre.to_owned() }
    }

    /// The end of the versions that agree in the first `parts` parts. `None` if `parts` is 0.
    fn end_of(&self, parts: usize) -> Option<Bound> {
        let mut numbers = [0; MAX_PARTS];
        numbers[..parts].copy_from_slice(&self.numbers[..parts]);
        let last = numbers.get_mut(parts.checked_sub(1)?)?;
        *last = last.saturating_add(1);
        Some(Bound::lowest(numbers))
    }

    /// The end of the versions that this text covers. For a complete version, this is the next version.
    fn end(&self) -> Option<Bound> {
        if self.pre.is_empty() {
            return self.end_of(self.parts);
        }
        Some(Bound { numbers: self.numbers, pre: format!("{}.0", self.pre) })
    }

    /// The number of parts that a caret keeps: up to the first part that is not zero.
    fn caret(&self) -> usize {
        let first = self.numbers[..self.parts].iter().position(|number| *number > 0);
        first.map_or(self.parts, |index| index + 1)
    }
}

fn parse_set(text: &str) -> Result<Vec<Comparator>, String> {
    if let Some((from, to)) = text.split_once(" - ") {
        return Ok(vec![parse_comparator(">=", from.trim())?, parse_comparator("<=", to.trim())?]);
    }
    let is_operator = |c: char| matches!(c, '=' | '!' | '<' | '>' | '~' | '^');
    let mut set = Vec::new();
    let mut rest = text.trim();
    while !rest.is_empty() || set.is_empty() {
        let (operator, version) = rest.split_at(rest.find(|c| !is_operator(c)).unwrap_or(rest.len()));
        let version = version.trim_start();
        let is_end = |c: char| c == ',' || c.is_whitespace() || is_operator(c);
        let (version, after) = version.split_at(version.find(is_end).unwrap_or(version.len()));
        set.push(parse_comparator(operator, version)?);
        let after = after.trim_start();
        rest = after.strip_prefix(',').map_or(after, str::trim_start);
    }
    Ok(set)
}

fn parse_comparator(operator: &str, version: &str) -> Result<Comparator, String> {
    let written = parse_written(version).ok_or_else(|| format!("{version:?} is not a version"))?;
    let any = || Bound::lowest([0; MAX_PARTS]);
    let (from, before) = match operator {
        "" | "=" | "!=" => (written.exact(), written.end()),
        // No version comes after all versions.
        ">" => (written.end().unwrap_or_else(|| Bound::lowest([u64::MAX; MAX_PARTS])), None),
        ">=" | "=>" => (written.exact(), None),
        "<" => (any(), Some(written.exact())),
        "<=" | "=<" => (any(), written.end()),
        "~" | "~>" => (written.exact(), written.end_of(written.parts.min(2))),
        "^" => (written.exact(), written.end_of(written.caret())),
        _ => return Err(format!("{operator:?} is not an operator")),
    };
    Ok(Comparator { from, before, is_negated: operator == "!=", names_pre: !written.pre.is_empty() })
}

/// `1`, `1.2`, `v1.2.3-rc.1`, `1.x`, `*`.
fn parse_written(text: &str) -> Option<Written<'_>> {
    let unprefixed = text.strip_prefix('v').unwrap_or(text);
    let (core, pre) = unprefixed.split_once('-').map_or((unprefixed, None), |(core, pre)| (core, Some(pre)));
    let mut written = Written { numbers: [0; MAX_PARTS], parts: 0, pre: pre.unwrap_or_default() };
    let mut is_open = false;
    for (index, part) in core.split('.').enumerate() {
        let is_any = matches!(part, "x" | "X" | "*");
        let number = if is_any { 0 } else { parse_number(part)? };
        let place = written.numbers.get_mut(..RANGE_PARTS)?.get_mut(index)?;
        is_open |= is_any;
        if !is_open {
            *place = number;
            written.parts += 1;
        }
    }
    // A suffix in a range must be a pre-release. A range cannot name a variant.
    let is_pre = |pre: &str| !pre.is_empty() && split_suffix(pre).0 == pre && written.parts == 3;
    pre.is_none_or(is_pre).then_some(written)
}

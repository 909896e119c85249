//! `semver:RANGE`: tags as versions, `1.2.3`, `v1.2`, `1.2.3-rc.1`, `1.2.3-alpine`, and the ranges that choose among
//! them.
//!
//! Only versions of one form are compared. They have the same number of parts (one to four), both or neither start with
//! `v`, and their suffixes have one form. The text after a dash is a pre-release if it looks like one (`-rc.1`,
//! `-beta2`, `-20240501`). Otherwise it is a variant (`-alpine3.20`, `-slim`, `-ls239`). A tag may have both
//! (`-rc1-alpine`). Variants of one form differ only in their numbers and commit ids. They are compared as builds,
//! after the version.

mod range;

use std::cmp::Ordering;

use super::natural;
pub(super) use range::Range;

/// The maximum number of parts in a version.
const MAX_PARTS: usize = 4;

/// The words that mark a pre-release. A word of one letter counts only with a number (`b2`).
const PRE_RELEASES: &[&str] = &[
    "alpha",
    "a",
    "beta",
    "b",
    "rc",
    "cr",
    "pre",
    "preview",
    "dev",
    "snapshot",
    "nightly",
    "canary",
    "milestone",
    "m",
    "ea",
    "unstable",
];

/// The numbers of a version and its pre-release. A pre-release sorts before the version without one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Version<'a> {
    numbers: [u64; MAX_PARTS],
    pre: &'a str,
}

/// A tag that contains a version.
#[derive(Debug, PartialEq, Eq)]
struct Tag<'a> {
    version: Version<'a>,
    kind: Kind<'a>,
}

/// The properties that stay the same when a container moves to another tag.
#[derive(Debug, PartialEq, Eq)]
struct Kind<'a> {
    has_v: bool,
    parts: usize,
    /// Whether a commit id follows the pre-release.
    has_id: bool,
    variant: &'a str,
}

/// Which version is greater or, for equal versions, which build. `None` if one of them is not a version, or if their
/// forms differ.
pub(super) fn compare(one: &str, other: &str) -> Option<Ordering> {
    let (one, other) = (Tag::parse(one)?, Tag::parse(other)?);
    let by_build = || natural::compare_builds(one.kind.variant, other.kind.variant);
    one.kind.is_like(&other.kind).then(|| one.version.cmp(&other.version).then_with(by_build))
}

/// Whether both are versions of one form, and their variants differ at most in their build counters.
pub(super) fn is_same_line(one: &str, other: &str) -> bool {
    let line = |text| Tag::parse(text).map(|tag| natural::line(tag.kind.variant));
    compare(one, other).is_some() && line(one) == line(other)
}

/// The form of a version, for messages.
pub(super) fn form(text: &str) -> Option<String> {
    let Tag { version, kind } = Tag::parse(text)?;
    let v = if kind.has_v { "`v` and " } else { "" };
    let id = if kind.has_id { ".…" } else { "" };
    Some(match (kind.variant, version.pre) {
        ("", "") if kind.parts == 1 => format!("{v}one number without a suffix"),
        ("", "") => format!("{v}{} numbers without a suffix", kind.parts),
        ("", pre) => format!("-{}{id}", natural::form(pre)),
        (variant, "") => format!("-{}", natural::form(variant)),
        (variant, pre) => format!("-{}{id}-{}", natural::form(pre), natural::form(variant)),
    })
}

/// A range that includes `text`, if `text` is a pre-release and the range must therefore name one.
pub(super) fn range_with_pre(text: &str) -> Option<String> {
    let Version { numbers: [major, minor, patch, _], pre } = Tag::parse(text)?.version;
    (!pre.is_empty()).then(|| format!(">={major}.{minor}.{patch}-0"))
}

impl Kind<'_> {
    fn is_like(&self, other: &Self) -> bool {
        let is_same = |one: &Self| (one.has_v, one.parts, one.has_id) == (self.has_v, self.parts, self.has_id);
        is_same(other) && natural::form(self.variant) == natural::form(other.variant)
    }
}

impl<'a> Tag<'a> {
    fn parse(text: &'a str) -> Option<Self> {
        let unprefixed = text.strip_prefix('v').unwrap_or(text);
        let (core, suffix) = unprefixed.split_once('-').unwrap_or((unprefixed, ""));
        if unprefixed.len() > core.len() && suffix.is_empty() {
            return None;
        }
        let (pre, id, variant) = split_suffix(suffix);
        let (mut numbers, mut parts) = ([0; MAX_PARTS], 0);
        for part in core.split('.') {
            *numbers.get_mut(parts)? = parse_number(part)?;
            parts += 1;
        }
        let kind = Kind { has_v: unprefixed.len() < text.len(), parts, has_id: !id.is_empty(), variant };
        Some(Self { version: Version { numbers, pre }, kind })
    }
}

/// Splits a suffix into the leading pieces that look like a pre-release, the commit id after their counter, and the
/// rest.
fn split_suffix(suffix: &str) -> (&str, &str, &str) {
    let mut end = 0;
    for piece in suffix.split('-') {
        let dash = usize::from(end > 0);
        let counted = without_id(piece);
        if !is_pre_release(counted) {
            break;
        }
        end += dash + counted.len();
        if counted.len() < piece.len() {
            let (id, variant) = suffix[end..].split_at(piece.len() - counted.len());
            return (&suffix[..end], &id[1..], variant.trim_start_matches('-'));
        }
    }
    (&suffix[..end], "", suffix[end..].trim_start_matches('-'))
}

/// Removes the commit id: `alpha.12` for `alpha.12.b4djgk3`. Text after a counter that looks like a commit id
/// identifies a build, but has no order. A number is an id only if it starts with a zero or has seven digits, like a
/// short id.
fn without_id(piece: &str) -> &str {
    let Some((counted, id)) = piece.rsplit_once('.') else { return piece };
    let is_number = id.bytes().all(|byte| byte.is_ascii_digit());
    let is_short_id = id.len() >= 6 && id.bytes().all(|byte| byte.is_ascii_alphanumeric());
    let has_digit = id.bytes().any(|byte| byte.is_ascii_digit());
    let is_id = is_short_id && has_digit && (!is_number || id.starts_with('0') || id.len() == 7);
    let is_counter = counted.rsplit('.').next().is_some_and(|number| parse_number(number).is_some());
    if is_id && is_counter && !counted.starts_with(|c: char| c.is_ascii_digit()) { counted } else { piece }
}

fn is_pre_release(piece: &str) -> bool {
    let word = piece.trim_end_matches(|c: char| c.is_ascii_digit() || c == '.');
    let has_number = word.len() < piece.len();
    let is_word = |known: &&str| word.eq_ignore_ascii_case(known) && (has_number || known.len() > 1);
    !piece.is_empty() && (word.is_empty() || PRE_RELEASES.iter().any(is_word))
}

fn parse_number(text: &str) -> Option<u64> {
    let is_digits = text.bytes().all(|byte| byte.is_ascii_digit());
    text.parse().ok().filter(|_| is_digits)
}

impl Ord for Version<'_> {
    fn cmp(&self, other: &Self) -> Ordering {
        let by_pre = || match (self.pre.is_empty(), other.pre.is_empty()) {
            (false, false) => natural::compare(self.pre, other.pre),
            (is_release, is_other) => is_release.cmp(&is_other),
        };
        self.numbers.cmp(&other.numbers).then_with(by_pre)
    }
}

impl PartialOrd for Version<'_> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

#[cfg(test)]
mod tests;

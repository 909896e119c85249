//! `semver:RANGE`: tags as versions, `1.2.3`, `v1.2`, `1.2.3-rc.1`, `1.2.3-alpine`, and the ranges that choose among them.
//!
//! Only versions of one kind are compared: with the same number of parts, both with a `v` or both without, and of the
//! same variant. What stands behind a dash is a pre-release when it looks like one (`-rc.1`, `-beta2`, `-20240501`) and
//! a variant else (`-alpine3.20`, `-slim`); both may be there (`-rc1-alpine`).

mod range;

use std::cmp::Ordering;

pub(super) use range::Range;

/// The words that make a pre-release; those of one letter only with a number (`b2`).
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

/// Three numbers and a pre-release, which comes before the version without one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Version<'a> {
    numbers: [u64; 3],
    pre: &'a str,
}

/// A version as a tag writes it.
#[derive(Debug, PartialEq, Eq)]
struct Tag<'a> {
    version: Version<'a>,
    kind: Kind<'a>,
}

/// What is kept of a tag when it is left for another one.
#[derive(Debug, PartialEq, Eq)]
struct Kind<'a> {
    has_v: bool,
    parts: usize,
    variant: &'a str,
}

/// Which version is greater; none when one of them is no version, or they are of different kinds.
pub(super) fn compare(one: &str, other: &str) -> Option<Ordering> {
    let (one, other) = (Tag::parse(one)?, Tag::parse(other)?);
    (one.kind == other.kind).then(|| one.version.cmp(&other.version))
}

impl<'a> Tag<'a> {
    fn parse(text: &'a str) -> Option<Self> {
        let unprefixed = text.strip_prefix('v').unwrap_or(text);
        let (core, suffix) = unprefixed.split_once('-').unwrap_or((unprefixed, ""));
        if unprefixed.len() > core.len() && suffix.is_empty() {
            return None;
        }
        let (pre, variant) = split_suffix(suffix);
        let (mut numbers, mut parts) = ([0; 3], 0);
        for part in core.split('.') {
            *numbers.get_mut(parts)? = parse_number(part)?;
            parts += 1;
        }
        let kind = Kind { has_v: unprefixed.len() < text.len(), parts, variant };
        Some(Self { version: Version { numbers, pre }, kind })
    }
}

/// The leading pieces that look like a pre-release, and the rest.
fn split_suffix(suffix: &str) -> (&str, &str) {
    let mut end = 0;
    for piece in suffix.split('-') {
        let is_first = end == 0;
        if !is_pre_release(piece) {
            break;
        }
        end += piece.len() + usize::from(!is_first);
    }
    (&suffix[..end], suffix[end..].trim_start_matches('-'))
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
            (false, false) => compare_pre(self.pre, other.pre),
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

/// As semver has it, and a number also counts as one behind letters: `rc10` comes after `rc9`.
fn compare_pre(one: &str, other: &str) -> Ordering {
    let (mut one, mut other) = (one, other);
    while !one.is_empty() || !other.is_empty() {
        let ((a, a_rest), (b, b_rest)) = (next_run(one), next_run(other));
        let found = rank(a).cmp(&rank(b));
        if found.is_ne() {
            return found;
        }
        (one, other) = (a_rest, b_rest);
    }
    Ordering::Equal
}

/// What has ended comes before a number, and a number before a word.
fn rank(run: &str) -> (u8, u64, &str) {
    match run.parse() {
        Ok(number) => (1, number, ""),
        Err(_) => (if run.is_empty() { 0 } else { 2 }, 0, run),
    }
}

/// The first digits or the first other characters, without the dots and dashes before them, and what follows.
fn next_run(text: &str) -> (&str, &str) {
    let text = text.trim_start_matches(['.', '-']);
    let is_digit = text.starts_with(|c: char| c.is_ascii_digit());
    let is_end = |c: char| c.is_ascii_digit() != is_digit || matches!(c, '.' | '-');
    text.split_at(text.find(is_end).unwrap_or(text.len()))
}

#[cfg(test)]
mod tests;

//! The natural order of texts: runs of digits are compared by value, and other text by bytes. This module also
//! determines the form of a suffix: the part that stays the same when its numbers and commit ids change.

use std::cmp::Ordering;

/// Words whose number counts the builds of one version. Any other word with a number (`alpine3.19`) names a base image
/// or another component.
const COUNTERS: &[&str] = &["b", "build", "ls", "p", "patch", "r", "rel", "rev"];

/// The placeholder for a commit id in a form.
const COMMIT: &str = "<commit>";

/// Compares two texts run by run. The end of a text sorts before a number, and a number sorts before a word. `rc10`
/// sorts after `rc9`.
pub(super) fn compare(one: &str, other: &str) -> Ordering {
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

/// Compares two texts of one form piece by piece. Commit ids are ignored, because they have no order.
pub(super) fn compare_builds(one: &str, other: &str) -> Ordering {
    let pieces = one.split('-').zip(other.split('-'));
    let ordered = pieces.filter(|(a, b)| !is_id(a) && !is_id(b)).map(|(a, b)| compare(a, b));
    ordered.fold(Ordering::Equal, Ordering::then)
}

/// The form of `text`, also for messages: `debian-11-r45` has the form `debian-…-r…`, and `4-gabcdef` has `…-<commit>`.
/// A commit id is not treated as a number. Tags of one form have their commit ids in the same places. Otherwise not all
/// of them could be put in order.
pub(super) fn form(text: &str) -> String {
    by_piece(text, |piece| if is_id(piece) { COMMIT.to_owned() } else { without_numbers(piece) })
}

/// The part of `text` that stays the same from build to build: for `debian-11-r45`, this is `debian-11-r…`.
pub(super) fn line(text: &str) -> String {
    by_piece(text, |piece| {
        let word = piece.trim_end_matches(|c: char| c.is_ascii_digit());
        let is_counter = word.len() < piece.len() && COUNTERS.iter().any(|known| word.eq_ignore_ascii_case(known));
        if is_id(piece) || is_counter { form(piece) } else { piece.to_owned() }
    })
}

/// Whether `text` looks like a commit id: `gabcdef1` as in `git describe`, or at least seven hex digits that contain
/// both digits and letters.
pub(super) fn is_id(text: &str) -> bool {
    let is_hex = |text: &str| text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    let described = text.strip_prefix('g').filter(|rest| (6..=40).contains(&rest.len()));
    let has = |wanted: fn(&u8) -> bool| text.as_bytes().iter().any(wanted);
    let is_mixed = (7..=40).contains(&text.len()) && has(u8::is_ascii_digit) && has(u8::is_ascii_lowercase);
    described.is_some_and(is_hex) || (is_mixed && is_hex(text))
}

fn by_piece(text: &str, show: impl Fn(&str) -> String) -> String {
    text.split('-').map(show).collect::<Vec<_>>().join("-")
}

/// Replaces each number in `text` with `…`, including dots within the number.
fn without_numbers(text: &str) -> String {
    let mut shown = String::new();
    let mut rest = text;
    while let Some(start) = rest.find(|c: char| c.is_ascii_digit()) {
        shown += &rest[..start];
        shown.push('…');
        rest = rest[start..].trim_start_matches(|c: char| c.is_ascii_digit());
        while let Some(after) = rest.strip_prefix('.').filter(|after| after.starts_with(|c: char| c.is_ascii_digit())) {
            rest = after.trim_start_matches(|c: char| c.is_ascii_digit());
        }
    }
    shown + rest
}

/// A key that sorts numbers of any length by value.
fn rank(run: &str) -> (u8, usize, &str) {
    if run.is_empty() {
        return (0, 0, "");
    }
    if !run.starts_with(|c: char| c.is_ascii_digit()) {
        return (2, 0, run);
    }
    let value = run.trim_start_matches('0');
    (1, value.len(), value)
}

/// Splits off the next run: the first digits or the first other characters, without the dots and dashes before them.
fn next_run(text: &str) -> (&str, &str) {
    let text = text.trim_start_matches(['.', '-']);
    let is_digit = text.starts_with(|c: char| c.is_ascii_digit());
    let is_end = |c: char| c.is_ascii_digit() != is_digit || matches!(c, '.' | '-');
    text.split_at(text.find(is_end).unwrap_or(text.len()))
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;
    use crate::any_test;

    #[rstest]
    #[test_attr(any_test)]
    #[case::counter("ls239", "ls…", "ls…")]
    #[case::named_version("alpine3.19", "alpine…", "alpine3.19")]
    #[case::both("debian-11-r45", "debian-…-r…", "debian-11-r…")]
    #[case::described_commit("gabcdef", "<commit>", "<commit>")]
    #[case::described_commit_of_digits("g123456", "<commit>", "<commit>")]
    #[case::commit("1a2b3c4", "<commit>", "<commit>")]
    #[case::word_of_hex_letters("facade", "facade", "facade")]
    #[case::word("bookworm-slim", "bookworm-slim", "bookworm-slim")]
    #[case::word_with_number_inside("ubuntu22lts", "ubuntu…lts", "ubuntu22lts")]
    #[case::empty("", "", "")]
    fn suffixes_have_a_form_and_a_line(#[case] text: &str, #[case] expected_form: &str, #[case] expected_line: &str) {
        assert_eq!((form(text).as_str(), line(text).as_str()), (expected_form, expected_line));
    }

    #[rstest]
    #[test_attr(any_test)]
    #[case::by_value("ls9", "ls10", Ordering::Less)]
    #[case::leading_zeros_are_ignored("r007", "r7", Ordering::Equal)]
    #[case::longer_than_any_integer("r99999999999999999999999", "r100000000000000000000000", Ordering::Less)]
    #[case::more_parts("alpine3.20", "alpine3.20.1", Ordering::Less)]
    #[case::earlier_piece_first("debian-12-r1", "debian-11-r45", Ordering::Greater)]
    #[case::commits_have_no_order("gabcdef1", "gabcdef2", Ordering::Equal)]
    fn builds_are_in_natural_order(#[case] one: &str, #[case] other: &str, #[case] expected: Ordering) {
        assert_eq!(compare_builds(one, other), expected);
        assert_eq!(compare_builds(other, one), expected.reverse());
    }
}

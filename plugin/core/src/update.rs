//! Update policies: which tag a target follows. This module parses a policy and chooses among a repository's tags. It
//! lists no tags, queries no registry, and places no orders.
//!
//! A policy is an order of tags: `digest`, `semver:RANGE`, `numeric[:asc|desc]` or `alphabetical[:asc|desc]`. It may
//! have a filter: a pattern that selects the tags that are candidates. The first group of the pattern selects the part
//! of a tag that is compared. The syntax and the test cases come from Flux (image-reflector-controller). Unlike Flux, a
//! policy keeps the suffix, the `v` and the precision of the current tag, and never chooses an earlier tag.

mod natural;
mod numeric;
mod regex;
mod semver;

use std::cmp::Ordering;

use imagewatch_abi::Reference;
use regex::Regex;
use semver::Range;

/// A rule that selects the tag to follow.
#[derive(Debug)]
pub(crate) struct UpdatePolicy {
    text: String,
    order: Order,
    filter: Option<Regex>,
}

/// The order of tags.
#[derive(Debug)]
enum Order {
    /// The tag never changes; only its digest is followed.
    Digest,
    /// By version, within a range.
    Semver(Range),
    /// As decimal numbers.
    Numeric(Direction),
    /// By their bytes, so that `10` sorts before `9`: for dates (`2024-05-01`), code names and similar tags.
    Alphabetical(Direction),
}

/// Which end of an order is the newest.
#[derive(Debug, Clone, Copy)]
enum Direction {
    /// The greatest tag is the newest.
    Ascending,
    /// The smallest tag is the newest.
    Descending,
}

/// The result of a choice among a repository's tags, for a container on one of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Choice<'a> {
    /// The container is on the newest tag.
    Newest,
    /// These tags are newer than the current one. The newest comes first.
    Newer(Vec<&'a str>),
    /// It is not certain that the container is on the newest tag. The text gives the reason, as a fragment.
    Unclear(String),
}

impl UpdatePolicy {
    /// Parses `digest`, `semver:RANGE`, `numeric[:asc|desc]` or `alphabetical[:asc|desc]`; see [`Range::parse`].
    ///
    /// # Errors
    /// What is wrong with the text, as a fragment that quotes it.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let (kind, rest) = text.split_once(':').unwrap_or((text, ""));
        let direction =
            || Direction::parse(rest.trim()).ok_or_else(|| format!("{text:?} must end with `asc` or `desc`"));
        let order = match kind.trim() {
            "digest" if rest.is_empty() => Order::Digest,
            "semver" => Order::Semver(
                Range::parse(rest).map_err(|why| format!("{text:?} has an invalid version range: {why}"))?,
            ),
            "numeric" => Order::Numeric(direction()?),
            "alphabetical" => Order::Alphabetical(direction()?),
            _ => {
                return Err(format!(
                    "{text:?} is not one of `digest`, `semver:<range>`, `numeric[:asc|desc]`, `alphabetical[:asc|desc]`"
                ));
            }
        };
        Ok(Self { text: text.to_owned(), order, filter: None })
    }

    /// The same policy, restricted to tags in which `pattern` matches at any position. Tags are compared by the text of
    /// the first group or, without a group, as a whole; see [`Regex::parse`].
    ///
    /// # Errors
    /// What is wrong with the pattern, or why this policy cannot have one, as a fragment that quotes it.
    pub(crate) fn filtered(&self, pattern: &str) -> Result<Self, String> {
        if !self.follows_tags() {
            return Err(format!("{pattern:?} has no effect: the update policy `digest` never changes the tag"));
        }
        let filter = Regex::parse(pattern).map_err(|why| format!("{pattern:?} is not a valid filter: {why}"))?;
        // Parse the text again instead of cloning the policy. Nothing else needs the code of a clone.
        Ok(Self { filter: Some(filter), ..Self::parse(&self.text)? })
    }

    /// Whether the policy may move from one tag to another.
    pub(crate) fn follows_tags(&self) -> bool {
        !matches!(self.order, Order::Digest)
    }

    /// Checks that the policy can compare other tags with `tag`, the current tag of a container.
    ///
    /// # Errors
    /// Why no other tag can be compared with `tag`.
    pub(crate) fn check_present(&self, tag: &str) -> Result<(), String> {
        if !self.follows_tags() || self.compare(tag, tag).is_some() {
            return Ok(());
        }
        let what = match (&self.filter, &self.order) {
            (Some(filter), _) if filter.find(tag).is_none() => "does not match its tag filter",
            (_, Order::Semver(_)) => "is not a version",
            (_, _) => "is not a number",
        };
        Err(format!("its tag {tag:?} {what}, so update policy `{}` cannot find a newer tag", self.text))
    }

    /// Chooses among `tags` for a container on `current`. The order of `tags` does not matter.
    pub(crate) fn choose<'a>(&self, tags: &'a [String], current: &str) -> Choice<'a> {
        let others = || tags.iter().map(String::as_str).filter(|tag| *tag != current);
        let compared = others().filter_map(|tag| Some((tag, self.compare(tag, current)?)));
        let compared: Vec<(&str, Ordering)> = compared.collect();
        let is_only_one = others().next().is_none() && !tags.is_empty();
        if !self.follows_tags() || is_only_one {
            return Choice::Newest;
        }
        if compared.is_empty() {
            let form = self.form(current);
            return Choice::Unclear(format!("no other tag of its form ({form}) among {} tags", tags.len()));
        }
        let mut newer: Vec<&str> = compared.iter().filter(|(_, found)| found.is_gt()).map(|(tag, _)| *tag).collect();
        newer.sort_by(|one, other| self.rank(other, one));
        let admitted: Vec<&str> = newer.iter().copied().filter(|tag| self.admits(tag)).collect();
        // If other tags have the current suffix, such as `-alpine3.19`, a tag with another suffix is another image.
        let has_line = compared.iter().any(|(tag, _)| self.is_same_line(tag, current));
        let is_in_line = |tag: &&str| !has_line || self.is_same_line(tag, current);
        let in_line: Vec<&str> = admitted.iter().copied().filter(is_in_line).collect();
        match (in_line.is_empty(), admitted.first(), newer.first()) {
            (false, ..) => Choice::Newer(in_line),
            (_, Some(other), _) => {
                Choice::Unclear(format!("no newer tag has its suffix; {other} is newer and has another suffix"))
            }
            (_, _, Some(first)) if !self.admits(current) => Choice::Unclear(self.explain_exclusion(newer.len(), first)),
            _ => Choice::Newest,
        }
    }

    fn explain_exclusion(&self, count: usize, newest: &str) -> String {
        let advice = self.extract(newest).and_then(semver::range_with_pre);
        let advice = advice.map(|range| format!("; a range that names a pre-release, such as `{range}`, includes it"));
        let what = if count == 1 { "the only newer tag".to_owned() } else { format!("all {count} newer tags") };
        format!("`{}` excludes {what} of its form, {newest}{}", self.text, advice.unwrap_or_default())
    }

    /// The form that other tags must have to be compared with `tag`.
    fn form(&self, tag: &str) -> String {
        match (&self.order, self.extract(tag).and_then(semver::form)) {
            (Order::Semver(_), Some(form)) => form,
            (Order::Numeric(_), _) => "a number".to_owned(),
            _ => "a tag that matches the tag filter".to_owned(),
        }
    }

    /// Whether a container that started on `first` may have been moved to `tag`.
    pub(crate) fn reaches(&self, first: &str, tag: &str) -> bool {
        tag == first || (self.compare(tag, first) == Some(Ordering::Greater) && self.admits(tag))
    }

    /// Which of two tags is newer. `None` if they cannot be compared. If a filter extracts equal text from both, whole
    /// tags of the same form are compared in natural order.
    pub(crate) fn compare(&self, one: &str, other: &str) -> Option<Ordering> {
        let found = self.compare_extracts(one, other)?;
        let is_tie = found.is_eq() && self.filter.is_some() && natural::form(one) == natural::form(other);
        Some(if is_tie { natural::compare_builds(one, other) } else { found })
    }

    fn compare_extracts(&self, one: &str, other: &str) -> Option<Ordering> {
        let (one, other) = (self.extract(one)?, self.extract(other)?);
        match &self.order {
            Order::Digest => None,
            Order::Semver(_) => semver::compare(one, other),
            Order::Numeric(direction) => numeric::compare(one, other).map(|found| direction.apply(found)),
            Order::Alphabetical(direction) => Some(direction.apply(one.cmp(other))),
        }
    }

    /// The order of tags that can all be compared. It is a total order, so that the choice does not depend on the order
    /// of the list. It agrees with [`UpdatePolicy::compare`].
    fn rank(&self, one: &str, other: &str) -> Ordering {
        let found = self.compare_extracts(one, other).unwrap_or(Ordering::Equal);
        let by_form = || natural::form(one).cmp(&natural::form(other));
        found
            .then_with(by_form)
            .then_with(|| natural::compare_builds(one, other))
            .then_with(|| natural::compare(one, other))
            .then_with(|| one.cmp(other))
    }

    fn is_same_line(&self, one: &str, other: &str) -> bool {
        match (&self.order, self.extract(one), self.extract(other)) {
            (Order::Semver(_), Some(one), Some(other)) => semver::is_same_line(one, other),
            _ => true,
        }
    }

    fn admits(&self, tag: &str) -> bool {
        match &self.order {
            Order::Semver(range) => self.extract(tag).is_some_and(|text| range.has(text)),
            _ => true,
        }
    }

    /// The part of `tag` that is compared. `None` if the filter does not match.
    fn extract<'a>(&self, tag: &'a str) -> Option<&'a str> {
        match &self.filter {
            None => Some(tag),
            Some(filter) => filter.find(tag).map(|(start, end)| &tag[start..end]),
        }
    }
}

/// A change from one tag to another, for messages.
pub(crate) fn describe_change(from: &Reference, to: &Reference) -> String {
    format!("{} → {}", from.tag_or_latest(), to.tag_or_latest())
}

impl Direction {
    fn parse(text: &str) -> Option<Self> {
        match text {
            _ if text.is_empty() || text.eq_ignore_ascii_case("asc") => Some(Self::Ascending),
            _ if text.eq_ignore_ascii_case("desc") => Some(Self::Descending),
            _ => None,
        }
    }

    fn apply(self, found: Ordering) -> Ordering {
        match self {
            Self::Ascending => found,
            Self::Descending => found.reverse(),
        }
    }
}

#[cfg(all(test, not(target_arch = "wasm32")))]
mod properties;
#[cfg(test)]
mod tests;

//! Which tag a target is to follow: its update policy, read from text, and the choice among a repository's tags. Pure:
//! lists no tags, knows no registry, and orders nothing.
//!
//! A policy is an order of tags, `digest`, `semver:RANGE`, `numeric[:asc|desc]` or `alphabetical[:asc|desc]`, and maybe a
//! filter, whose pattern says which tags count and whose first group says which part of them is compared. The words
//! and the cases are Flux's (image-reflector-controller); what it does not have is that a present tag is kept to: its
//! variant, its `v` and its precision, and that nothing before it is ever chosen.

mod numeric;
mod regex;
mod semver;

use std::cmp::Ordering;

use imagewatch_abi::Reference;
use regex::Regex;
use semver::Range;

/// Which tag to follow.
#[derive(Debug)]
pub(crate) struct UpdatePolicy {
    text: String,
    order: Order,
    filter: Option<Regex>,
}

/// In which order tags follow each other.
#[derive(Debug)]
enum Order {
    /// A tag is followed to wherever it points, and none comes after it.
    Digest,
    /// By version, within a range.
    Semver(Range),
    /// As decimal numbers.
    Numeric(Direction),
    /// By their bytes, so `10` comes before `9`: for dates (`2024-05-01`), code names and the like.
    Alphabetical(Direction),
}

/// Which end of an order is the newest.
#[derive(Debug, Clone, Copy)]
enum Direction {
    /// The greatest.
    Ascending,
    /// The smallest.
    Descending,
}

impl UpdatePolicy {
    /// Reads `digest`, `semver:RANGE`, `numeric[:asc|desc]` or `alphabetical[:asc|desc]`; see [`Range::parse`].
    ///
    /// # Errors
    /// What is wrong with it, a fragment that quotes it.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let (kind, rest) = text.split_once(':').unwrap_or((text, ""));
        let direction =
            || Direction::parse(rest.trim()).ok_or_else(|| format!("{text:?} has another order than `asc` and `desc`"));
        let order = match kind.trim() {
            "digest" if rest.is_empty() => Order::Digest,
            "semver" => {
                Order::Semver(Range::parse(rest).map_err(|why| format!("{text:?} has no version range: {why}"))?)
            }
            "numeric" => Order::Numeric(direction()?),
            "alphabetical" => Order::Alphabetical(direction()?),
            _ => {
                return Err(format!(
                    "{text:?} is none of `digest`, `semver:<range>`, `numeric[:asc|desc]` and `alphabetical[:asc|desc]`"
                ));
            }
        };
        Ok(Self { text: text.to_owned(), order, filter: None })
    }

    /// The same among the tags that `pattern` matches anywhere, by what its first group catches, or else by the whole
    /// tag; see [`Regex::parse`].
    ///
    /// # Errors
    /// What is wrong with the pattern, or with having one, a fragment that quotes it.
    pub(crate) fn filtered(&self, pattern: &str) -> Result<Self, String> {
        if !self.follows_tags() {
            return Err(format!("{pattern:?} filters nothing: the update policy `digest` stays on its tag"));
        }
        let filter = Regex::parse(pattern).map_err(|why| format!("{pattern:?} cannot be used: {why}"))?;
        // Read anew rather than cloned: a clone of all that is in it is code that nothing else needs.
        Ok(Self { filter: Some(filter), ..Self::parse(&self.text)? })
    }

    /// Whether it may leave a tag for another one.
    pub(crate) fn follows_tags(&self) -> bool {
        !matches!(self.order, Order::Digest)
    }

    /// Whether a container may follow it from `tag` on.
    ///
    /// # Errors
    /// Why not: with what its tag would have to be compared is not known then.
    pub(crate) fn check_present(&self, tag: &str) -> Result<(), String> {
        if !self.follows_tags() || self.compare(tag, tag).is_some() {
            return Ok(());
        }
        let what = match (&self.filter, &self.order) {
            (Some(filter), _) if filter.find(tag).is_none() => "does not match its tag filter",
            (_, Order::Semver(_)) => "is no version",
            (_, _) => "is no number",
        };
        Err(format!("its tag {tag:?} {what}, so that update policy `{}` finds none that comes after it", self.text))
    }

    /// The newest of `tags` that comes after `current`; none to stay. Of tags that compare as equal the last in byte
    /// order is taken, whatever order they come in.
    pub(crate) fn choose<'a>(&self, tags: &'a [String], current: &str) -> Option<&'a str> {
        let comes_after = |tag: &&str| self.admits(tag) && self.compare(tag, current) == Some(Ordering::Greater);
        tags.iter().map(String::as_str).filter(comes_after).reduce(|best, tag| match self.compare(tag, best) {
            Some(Ordering::Greater) => tag,
            Some(Ordering::Equal) => tag.max(best),
            _ => best,
        })
    }

    /// Whether a container that began on `first` may have come to `tag`.
    pub(crate) fn reaches(&self, first: &str, tag: &str) -> bool {
        tag == first || (self.compare(tag, first) == Some(Ordering::Greater) && self.admits(tag))
    }

    /// Which of two tags is newer; none when they are not to be compared.
    pub(crate) fn compare(&self, one: &str, other: &str) -> Option<Ordering> {
        let (one, other) = (self.extract(one)?, self.extract(other)?);
        match &self.order {
            Order::Digest => None,
            Order::Semver(_) => semver::compare(one, other),
            Order::Numeric(direction) => numeric::compare(one, other).map(|found| direction.apply(found)),
            Order::Alphabetical(direction) => Some(direction.apply(one.cmp(other))),
        }
    }

    fn admits(&self, tag: &str) -> bool {
        match &self.order {
            Order::Semver(range) => self.extract(tag).is_some_and(|text| range.has(text)),
            _ => true,
        }
    }

    /// The part of `tag` that is compared; none for one that the filter takes out.
    fn extract<'a>(&self, tag: &'a str) -> Option<&'a str> {
        match &self.filter {
            None => Some(tag),
            Some(filter) => filter.find(tag).map(|(start, end)| &tag[start..end]),
        }
    }
}

/// One tag left for another, as people read it.
pub(crate) fn in_words(from: &Reference, to: &Reference) -> String {
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

#[cfg(test)]
mod tests;

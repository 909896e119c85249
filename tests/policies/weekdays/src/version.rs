//! Tags that are versions: `1.4.2` or `v1.4.2`, with exactly three numbers.

/// A version. Versions are ordered by their numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version {
    numbers: [u32; 3],
    /// Whether the tag starts with `v`.
    has_v: bool,
}

impl Version {
    /// Parses a tag. Returns `None` if it is not a plain version, for example a pre-release.
    pub fn parse(tag: &str) -> Option<Self> {
        let digits = tag.strip_prefix('v').unwrap_or(tag);
        let mut parts = digits.split('.').map(parse_number);
        let numbers = [parts.next()??, parts.next()??, parts.next()??];
        parts.next().is_none().then_some(Self { numbers, has_v: digits.len() != tag.len() })
    }

    /// The newest of `tags` with the same major and the same spelling, if it is newer than this version.
    pub fn newer_minor(self, tags: &[Self]) -> Option<Self> {
        let is_candidate = |tag: &Self| tag.numbers[0] == self.numbers[0] && tag.has_v == self.has_v;
        tags.iter().copied().filter(is_candidate).max().filter(|newest| *newest > self)
    }

    /// The newest of `tags`, if it has a later major.
    pub fn newer_major(self, tags: &[Self]) -> Option<Self> {
        tags.iter().copied().max_by_key(|tag| tag.numbers).filter(|newest| newest.numbers[0] > self.numbers[0])
    }
}

/// Parses a number of a version: digits without a leading zero.
fn parse_number(text: &str) -> Option<u32> {
    let is_plain = text == "0" || (!text.starts_with('0') && text.bytes().all(|b| b.is_ascii_digit()));
    is_plain.then(|| text.parse().ok())?
}

impl std::fmt::Display for Version {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let [major, minor, patch] = self.numbers;
        write!(f, "{}{major}.{minor}.{patch}", if self.has_v { "v" } else { "" })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn versions(tags: &str) -> Vec<Version> {
        tags.split(' ').filter_map(Version::parse).collect()
    }

    #[test]
    fn three_plain_numbers_are_a_version() {
        for (tag, is_version) in [
            ("1.4.2", true),
            ("v1.4.2", true),
            ("0.0.0", true),
            ("1.10.0", true),
            ("1.4", false),
            ("1.4.2.1", false),
            ("1.4.2-rc1", false),
            ("1.04.2", false),
            ("1..2", false),
            ("+1.4.2", false),
            ("1.4.99999999999", false),
            ("vv1.4.2", false),
            ("latest", false),
            ("", false),
        ] {
            let version = Version::parse(tag);
            assert_eq!(version.is_some(), is_version, "{tag:?}");
            assert_eq!(
                version.map_or(tag.to_owned(), |version| version.to_string()),
                tag,
                "a version is displayed as it was parsed"
            );
        }
    }

    #[test]
    fn a_move_goes_to_the_newest_of_the_same_major_and_spelling() {
        for (now, tags, minor, major) in [
            ("1.4.2", "1.4.2 1.4.3 1.5.0 latest 2.0.0", Some("1.5.0"), Some("2.0.0")),
            ("1.4.2", "1.9.0 1.10.0", Some("1.10.0"), None),
            ("1.4.2", "1.4.2 1.4.1 0.9.0", None, None),
            ("1.4.2", "v1.5.0 1.6.0-rc1", None, None),
            ("v1.4.2", "v1.5.0 1.6.0 v3.0.0", Some("v1.5.0"), Some("v3.0.0")),
            ("1.4.2", "", None, None),
        ] {
            let (now, tags) = (Version::parse(now).expect("a version"), versions(tags));
            assert_eq!(now.newer_minor(&tags).map(|v| v.to_string()).as_deref(), minor, "{now} among {tags:?}");
            assert_eq!(now.newer_major(&tags).map(|v| v.to_string()).as_deref(), major, "{now} among {tags:?}");
        }
    }
}

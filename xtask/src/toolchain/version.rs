//! A compiler's version, as far as it matters here: major and minor.

use std::fmt;

/// `1.96`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Version {
    pub(super) major: u32,
    pub(super) minor: u32,
}

impl Version {
    /// Reads the line that `rustc --version` prints.
    pub(super) fn parse(line: &str) -> Option<Self> {
        let mut numbers = line.strip_prefix("rustc ")?.split(['.', ' ', '-']);
        Some(Self { major: numbers.next()?.parse().ok()?, minor: numbers.next()?.parse().ok()? })
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Rust {}.{}", self.major, self.minor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_of_compiler_tells_its_version() {
        for (name, line, expected) in [
            ("stable", "rustc 1.95.0 (59807616e 2026-04-14)\n", Some((1, 95))),
            ("nightly", "rustc 1.100.0-nightly (abc 2026-09-01)", Some((1, 100))),
            ("Debian's", "rustc 1.96.0 (1159e78c4 2026-05-25) (built from a source tarball)", Some((1, 96))),
            ("no suffix", "rustc 2.0", Some((2, 0))),
            ("another program", "clang 1.95.0", None),
            ("no number", "rustc one", None),
            ("nothing", "", None),
        ] {
            let expected = expected.map(|(major, minor)| Version { major, minor });
            assert_eq!(Version::parse(line), expected, "{name}");
        }
    }

    #[test]
    fn a_hundredth_release_is_newer_than_the_ninety_sixth() {
        let version = |minor| Version { major: 1, minor };
        assert!(
            version(95) < version(96) && version(96) < version(100) && version(99) < Version { major: 2, minor: 0 }
        );
    }
}

//! Content digests, `algorithm:hex`, and their short form for messages. Only digests that prove the content are
//! accepted: sha256 and sha512, in lower case and in full length.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// A validated digest, for example `sha256:` and 64 lower-case hex digits.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[cfg_attr(feature = "schema", schemars(extend("pattern" = "^(sha256:[0-9a-f]{64}|sha512:[0-9a-f]{128})$")))]
#[serde(try_from = "String", into = "String")]
pub struct Digest(String);

/// The error for a text that is not a valid [`Digest`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DigestError;

impl fmt::Display for DigestError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("not a digest: expected sha256: and 64, or sha512: and 128, lower-case hex digits")
    }
}

impl std::error::Error for DigestError {}

impl Digest {
    /// The whole text, `algorithm:hex`.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The short form for messages, see [`short_digest`].
    pub fn short(&self) -> &str {
        short_digest(&self.0)
    }
}

impl FromStr for Digest {
    type Err = DigestError;

    fn from_str(text: &str) -> Result<Self, DigestError> {
        let (algorithm, hex) = text.split_once(':').ok_or(DigestError)?;
        let length = match algorithm {
            "sha256" => 64,
            "sha512" => 128,
            _ => return Err(DigestError),
        };
        let is_lower_hex = |b: u8| b.is_ascii_digit() || (b'a'..=b'f').contains(&b);
        if hex.len() == length && hex.bytes().all(is_lower_hex) { Ok(Self(text.to_owned())) } else { Err(DigestError) }
    }
}

impl TryFrom<String> for Digest {
    type Error = DigestError;

    fn try_from(text: String) -> Result<Self, DigestError> {
        text.parse()
    }
}

impl From<Digest> for String {
    fn from(digest: Digest) -> Self {
        digest.0
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Shortens `text` to 12 characters after its first colon. A shorter text, or a text without a colon, is returned
/// unchanged. Accepts any text, because messages also show invalid digests.
pub fn short_digest(text: &str) -> &str {
    let Some(colon) = text.find(':') else { return text };
    match text[colon + 1..].char_indices().nth(12) {
        Some((end, _)) => &text[..colon + 1 + end],
        None => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_form_keeps_twelve_characters_after_the_colon() {
        for (case, long, short) in [
            ("usual length", "sha256:abcdef0123456789", "sha256:abcdef012345"),
            ("shorter than twelve", "sha256:short", "sha256:short"),
            ("exactly twelve", "sha256:abcdef012345", "sha256:abcdef012345"),
            ("no colon", "abcdef0123456789abcdef", "abcdef0123456789abcdef"),
            ("empty text", "", ""),
            ("not ASCII", "sha256:äöüäöüäöüäöüäöü", "sha256:äöüäöüäöüäöü"),
        ] {
            assert_eq!(short_digest(long), short, "{case}");
        }
    }

    #[test]
    fn only_complete_lower_case_sha256_and_sha512_digests_are_valid() {
        let hex = "0123456789abcdef".repeat(8);
        for (case, text, good) in [
            ("sha256", format!("sha256:{}", &hex[..64]), true),
            ("sha512", format!("sha512:{hex}"), true),
            ("upper case", format!("sha256:{}", hex[..64].to_uppercase()), false),
            ("one digit short", format!("sha256:{}", &hex[..63]), false),
            ("sha512 with 64 digits", format!("sha512:{}", &hex[..64]), false),
            ("other algorithm", format!("md5:{}", &hex[..32]), false),
            ("no algorithm", hex[..64].to_owned(), false),
            ("trailing blank", format!("sha256:{} ", &hex[..64]), false),
            ("empty text", String::new(), false),
        ] {
            assert_eq!(text.parse::<Digest>().is_ok(), good, "{case}");
        }
    }
}

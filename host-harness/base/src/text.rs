//! Makes untrusted text safe to show in one line of a log, a terminal or a stored record. Such text comes from a
//! policy, a server or the engine. Only this module defines which characters such a line may contain. It does not
//! redact secrets: the code that knows a secret redacts it.

use std::fmt;

use serde::Serialize;

/// The maximum length of a shown line, in characters. Longer text is truncated: users rarely read more, and imagewatch
/// stores such lines for many targets.
pub const MOST_CHARS: usize = 1_000;

/// Untrusted text. `Display` writes one line of at most [`MOST_CHARS`] characters without terminal control characters.
/// JSON, which machines read, contains the original text.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(transparent)]
pub struct Untrusted(String);

impl Untrusted {
    /// Wraps `text` without a change.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The original text. Use it to compare, never to show.
    pub fn raw(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Untrusted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&sanitize_line(&self.0))
    }
}

/// Sanitizes the first [`MOST_CHARS`] characters of `text`, as [`sanitize`] does.
pub fn sanitize_line(text: &str) -> String {
    text.chars().take(MOST_CHARS).map(shown).collect()
}

/// Returns `text` as one line, without truncating it. A space replaces each character that could start a new line,
/// control a terminal, or make the text look like other text.
pub fn sanitize(text: &str) -> String {
    text.chars().map(shown).collect()
}

fn shown(c: char) -> char {
    let is_deceptive = matches!(c,
        // Soft hyphen, Arabic letter mark, Mongolian vowel separator.
        '\u{ad}' | '\u{61c}' | '\u{180e}'
        // Zero-width characters, left-to-right mark, right-to-left mark.
        | '\u{200b}'..='\u{200f}'
        // Line and paragraph separators, and directional embeddings and overrides.
        | '\u{2028}'..='\u{202e}'
        // Word joiner, invisible operators, isolates.
        | '\u{2060}'..='\u{206f}'
        // Byte order mark, interlinear annotations, tag characters.
        | '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}');
    if c.is_control() || is_deceptive { ' ' } else { c }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[test]
    fn untrusted_text_becomes_one_line_of_bounded_length() {
        assert_eq!(sanitize_line("it is\n2026 ERROR forged\u{1b}[2J"), "it is 2026 ERROR forged [2J");
        assert_eq!(sanitize_line(&"ä".repeat(5_000)).chars().count(), MOST_CHARS);
        assert_eq!(sanitize(&"ä".repeat(5_000)).chars().count(), 5_000);
    }

    #[rstest]
    #[case::line_feed('\n')]
    #[case::carriage_return('\r')]
    #[case::escape('\u{1b}')]
    #[case::eight_bit_escape('\u{9b}')]
    #[case::delete('\u{7f}')]
    #[case::next_line('\u{85}')]
    #[case::line_separator('\u{2028}')]
    #[case::paragraph_separator('\u{2029}')]
    #[case::right_to_left_override('\u{202e}')]
    #[case::left_to_right_embedding('\u{202a}')]
    #[case::isolate('\u{2066}')]
    #[case::end_of_isolate('\u{2069}')]
    #[case::right_to_left_mark('\u{200f}')]
    #[case::arabic_letter_mark('\u{61c}')]
    #[case::zero_width_space('\u{200b}')]
    #[case::word_joiner('\u{2060}')]
    #[case::byte_order_mark('\u{feff}')]
    #[case::tag('\u{e0041}')]
    fn s6_untrusted_text_is_shown_without_deceptive_characters(#[case] c: char) {
        let text = Untrusted::new(format!("a{c}b"));
        assert_eq!((text.to_string().as_str(), format!("{text:>5}").as_str()), ("a b", "  a b"));
        assert!(!format!("{text:?}").contains(c));
        assert_eq!(serde_json::to_value(&text).expect("JSON"), serde_json::json!(text.raw()));
    }

    #[test]
    fn text_of_every_language_is_unchanged() {
        let text = "ключ 鍵 مفتاح clé 🔑";
        assert_eq!(sanitize_line(text), text);
    }
}

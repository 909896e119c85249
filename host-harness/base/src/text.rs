//! Text from outside, a policy's, a server's or the engine's, as it may stand in one line of a log, a terminal or a record.
//! The one place that says which characters such a line may have. Knows nothing of secrets: those are hidden where they
//! are known.

use std::fmt;

use serde::Serialize;

/// Longer texts are cut here, in characters: nobody reads on, and what is kept is kept for many targets.
pub const MOST_CHARS: usize = 1_000;

/// Text from outside. Shown, it is one line of at most [`MOST_CHARS`] characters that steers no terminal; as JSON, for
/// machines, it is what it is.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(transparent)]
pub struct Untrusted(String);

impl Untrusted {
    /// Wraps `text`.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// As it came, to compare with; never to show.
    pub fn raw(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Untrusted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&sanitize_line(&self.0))
    }
}

/// At most [`MOST_CHARS`] of `text`, in one line, see [`sanitize`].
pub fn sanitize_line(text: &str) -> String {
    text.chars().take(MOST_CHARS).map(shown).collect()
}

/// All of `text` in one line: a blank stands for each character that could begin another line, steer a terminal, or make
/// text look like other text.
pub fn sanitize(text: &str) -> String {
    text.chars().map(shown).collect()
}

fn shown(c: char) -> char {
    let is_deceptive = matches!(c,
        // Soft hyphen, Arabic letter mark, Mongolian vowel separator.
        '\u{ad}' | '\u{61c}' | '\u{180e}'
        // Zero width, and left-to-right and right-to-left marks.
        | '\u{200b}'..='\u{200f}'
        // Line and paragraph separators, and directions that go on beyond the text.
        | '\u{2028}'..='\u{202e}'
        // Joiners and invisible operators, and isolates.
        | '\u{2060}'..='\u{206f}'
        // Byte order mark, annotations, tags.
        | '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}');
    if c.is_control() || is_deceptive { ' ' } else { c }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[test]
    fn what_strangers_say_is_one_line_of_bounded_length() {
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
    fn s6_untrusted_text_is_shown_without_what_deceives(#[case] c: char) {
        let text = Untrusted::new(format!("a{c}b"));
        assert_eq!((text.to_string().as_str(), format!("{text:>5}").as_str()), ("a b", "  a b"));
        assert!(!format!("{text:?}").contains(c));
        assert_eq!(serde_json::to_value(&text).expect("JSON"), serde_json::json!(text.raw()));
    }

    #[test]
    fn text_of_every_language_stays() {
        let text = "ключ 鍵 مفتاح clé 🔑";
        assert_eq!(sanitize_line(text), text);
    }
}

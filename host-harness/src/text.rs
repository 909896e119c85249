//! Words of strangers, a policy's or a server's, as they may stand in one line of a log, an answer or a record.
//! Knows nothing of secrets: those are hidden where they are known.

/// Longer texts are cut here, in characters: nobody reads on, and what is kept is kept for many targets.
pub const MOST_CHARS: usize = 1_000;

/// At most [`MOST_CHARS`] of `text`, in one line: a control character, which could begin another line or steer a
/// terminal, becomes a blank.
pub fn tidy(text: &str) -> String {
    text.chars().take(MOST_CHARS).map(|c| if c.is_control() { ' ' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_strangers_say_is_one_line_of_bounded_length() {
        assert_eq!(tidy("it is\n2026 ERROR forged\u{1b}[2J"), "it is 2026 ERROR forged [2J");
        assert_eq!(tidy(&"ä".repeat(5_000)).chars().count(), MOST_CHARS);
    }
}

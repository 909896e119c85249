//! Durations in config values and labels. Both sides of the boundary use the same format.

/// Parses `500ms`, `10s`, `5m` or `1h` into milliseconds. Returns `None` for any other text, and for zero.
pub fn parse_duration_ms(text: &str) -> Option<u64> {
    let digits = text.len() - text.trim_start_matches(|c: char| c.is_ascii_digit()).len();
    let (number, unit) = text.split_at(digits);
    let unit_ms = match unit {
        "ms" => 1,
        "s" => 1_000,
        "m" => 60_000,
        "h" => 3_600_000,
        _ => return None,
    };
    number.parse::<u64>().ok()?.checked_mul(unit_ms).filter(|ms| *ms > 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_duration_is_a_whole_number_and_a_unit() {
        for (text, expected) in [
            ("500ms", Some(500)),
            ("10s", Some(10_000)),
            ("5m", Some(300_000)),
            ("1h", Some(3_600_000)),
            ("0s", None),
            ("5", None),
            ("s", None),
            ("1.5s", None),
            ("-1s", None),
            ("99999999999999999999h", None),
            ("9999999999999999h", None),
        ] {
            assert_eq!(parse_duration_ms(text), expected, "{text:?}");
        }
    }
}

//! The day of the week, in UTC, from the time that a policy is told. It has no clock of its own.

/// Days of the week, the first of 1970 first.
const DAYS: [&str; 7] = ["Thursday", "Friday", "Saturday", "Sunday", "Monday", "Tuesday", "Wednesday"];

/// The day's name when `now_ms` (since 1970) is in a weekend, none on a weekday.
pub fn weekend_day(now_ms: u64) -> Option<&'static str> {
    let day = usize::try_from(now_ms / 86_400_000 % 7).ok().and_then(|index| DAYS.get(index))?;
    day.starts_with('S').then_some(day)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_weekend_begins_and_ends_at_midnight_utc() {
        for (case, now_ms, expected) in [
            ("1970-01-01, a Thursday", 0, None),
            ("the last moment of Friday 2026-11-20", 1_795_219_199_999, None),
            ("the first of Saturday", 1_795_219_200_000, Some("Saturday")),
            ("the last moment of Sunday", 1_795_391_999_999, Some("Sunday")),
            ("the first of Monday", 1_795_392_000_000, None),
            ("as far as a time goes", u64::MAX, None),
        ] {
            assert_eq!(weekend_day(now_ms), expected, "{case}");
        }
    }
}

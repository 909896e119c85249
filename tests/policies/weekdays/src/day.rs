//! Days of the week in UTC. They are computed from the time that the host passes, because a policy has no clock.

/// Days of the week, starting with the first day of 1970. Each entry has the name in the config and the name in
/// messages.
const NAMES: [(&str, &str); 7] = [
    ("thu", "Thursday"),
    ("fri", "Friday"),
    ("sat", "Saturday"),
    ("sun", "Sunday"),
    ("mon", "Monday"),
    ("tue", "Tuesday"),
    ("wed", "Wednesday"),
];

/// The days of the week on which containers may move.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Days([bool; 7]);

impl Days {
    /// Monday to Friday.
    pub const WEEKDAYS: Self = Self([true, true, false, false, true, true, true]);

    /// Parses a list such as `mon fri`, or `none`. The error names the invalid word.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut days = Self([false; 7]);
        for word in text.split_whitespace().filter(|_| text.trim() != "none") {
            let day = days.0.iter_mut().zip(NAMES).find(|(_, (short, _))| *short == word);
            *day.ok_or_else(|| format!("{word:?} is not one of mon tue wed thu fri sat sun"))?.0 = true;
        }
        Ok(days)
    }

    /// Why nothing moves at `now_ms` (milliseconds since 1970). `None` if containers may move.
    pub fn why_to_wait(&self, now_ms: u64) -> Option<String> {
        let today = usize::try_from(now_ms / 86_400_000 % 7).ok()?;
        let ahead = || self.0.iter().zip(NAMES).cycle().skip(today).take(7);
        let (_, (_, name)) = ahead().next().filter(|(is_open, _)| !**is_open)?;
        match ahead().find(|(is_open, _)| **is_open) {
            Some((_, (_, next))) => Some(format!("it is {name}, moves wait for {next}")),
            None => Some("everything is frozen, `days` is none".to_owned()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SATURDAY: Option<&str> = Some("it is Saturday, moves wait for Monday");

    #[test]
    fn a_day_starts_and_ends_at_midnight_utc() {
        for (case, days, now_ms, expected) in [
            ("1970-01-01, a Thursday", "mon tue wed thu fri", 0, None),
            ("the last millisecond of Friday 2026-11-20", "mon tue wed thu fri", 1_795_219_199_999, None),
            ("the first millisecond of Saturday", "mon tue wed thu fri", 1_795_219_200_000, SATURDAY),
            ("the last millisecond of Sunday", "mon", 1_795_391_999_999, Some("it is Sunday, moves wait for Monday")),
            ("the first millisecond of Monday", "mon", 1_795_392_000_000, None),
            ("a week ahead", "sun", 1_795_392_000_000, Some("it is Monday, moves wait for Sunday")),
            ("never", "none", 1_795_392_000_000, Some("everything is frozen, `days` is none")),
            ("the latest possible time", "mon tue wed thu fri sat sun", u64::MAX, None),
        ] {
            let days = Days::parse(days).expect("days");
            assert_eq!(days.why_to_wait(now_ms).as_deref(), expected, "{case}");
        }
    }

    #[test]
    fn days_are_parsed_by_name() {
        assert_eq!(Days::parse(" wed fri mon\ttue thu "), Ok(Days::WEEKDAYS));
        for (text, word) in [("mon none", "none"), ("Mon", "Mon"), ("mon,tue", "mon,tue"), ("weekend", "weekend")] {
            let expected = format!("{word:?} is not one of mon tue wed thu fri sat sun");
            assert_eq!(Days::parse(text), Err(expected), "{text}");
        }
    }
}

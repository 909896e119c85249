//! `numeric[:asc|desc]`: tags as decimal numbers, `-12`, `1606364286`, `20.04`. The comparison works on the text, so it
//! is exact for numbers of any length. With floating point, two long build numbers could be equal.

use std::cmp::Ordering;

/// A decimal number without leading zeros and without trailing zeros in its fraction.
struct Number<'a> {
    is_negative: bool,
    whole: &'a str,
    fraction: &'a str,
}

/// Which number is greater. `None` if one of them is not a number.
pub(super) fn compare(one: &str, other: &str) -> Option<Ordering> {
    let (one, other) = (Number::parse(one)?, Number::parse(other)?);
    Some(match (one.is_negative, other.is_negative) {
        (false, false) => one.compare_size(&other),
        (true, true) => other.compare_size(&one),
        (is_negative, _) => {
            if is_negative {
                Ordering::Less
            } else {
                Ordering::Greater
            }
        }
    })
}

impl<'a> Number<'a> {
    fn parse(text: &'a str) -> Option<Self> {
        let unsigned = text.strip_prefix('-').unwrap_or(text);
        let (whole, fraction) = unsigned.split_once('.').unwrap_or((unsigned, "0"));
        let is_digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        let number = Self {
            is_negative: unsigned.len() < text.len(),
            whole: whole.trim_start_matches('0'),
            fraction: fraction.trim_end_matches('0'),
        };
        let is_zero = number.whole.is_empty() && number.fraction.is_empty();
        (is_digits(whole) && is_digits(fraction))
            .then_some(Self { is_negative: number.is_negative && !is_zero, ..number })
    }

    fn compare_size(&self, other: &Self) -> Ordering {
        let length = self.whole.len().cmp(&other.whole.len());
        length.then_with(|| self.whole.cmp(other.whole)).then_with(|| self.fraction.cmp(other.fraction))
    }
}

#[cfg(test)]
mod tests {
    use crate::any_test;

    use super::*;

    #[any_test]
    fn numbers_are_compared_by_value_and_other_text_is_refused() {
        for (one, other, expected) in [
            ("9", "10", Some(Ordering::Less)),
            ("007", "7", Some(Ordering::Equal)),
            ("1.50", "1.5", Some(Ordering::Equal)),
            ("1.05", "1.5", Some(Ordering::Less)),
            ("-2", "1", Some(Ordering::Less)),
            ("-2", "-10", Some(Ordering::Greater)),
            ("-0.0", "0", Some(Ordering::Equal)),
            ("9007199254740993", "9007199254740992", Some(Ordering::Greater)),
            ("1a", "1", None),
            ("", "1", None),
            ("1.", "1", None),
            (".5", "1", None),
            ("1.2.3", "1", None),
            ("1e5", "1", None),
        ] {
            assert_eq!(compare(one, other), expected, "{one} {other}");
            assert_eq!(compare(other, one), expected.map(Ordering::reverse), "{other} {one}");
        }
    }
}

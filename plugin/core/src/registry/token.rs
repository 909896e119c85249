//! The answer of a token endpoint, after <https://distribution.github.io/distribution/spec/auth/token/>.

use serde::Deserialize;

/// Never believed to live shorter than this: the specification's default.
const LEAST_LIFE_MS: u64 = 60_000;

/// A token is given up this long before its end, so that a request under way is not cut off.
const MARGIN_MS: u64 = 10_000;

/// No answer makes a token live longer than this.
const MOST_LIFE_MS: u64 = 24 * 3_600_000;

#[derive(Deserialize)]
struct TokenAnswer {
    token: Option<String>,
    access_token: Option<String>,
    /// Seconds, as any JSON number.
    expires_in: Option<f64>,
}

/// Reads a token from `body`, and when it is given up; `token` wins over `access_token`. Its life counts from
/// `now_ms`, the start of the tick and so never later than its receipt; `issued_at` is not believed.
///
/// # Errors
/// A fragment saying what is wrong with the body.
pub(crate) fn parse_token(body: &str, now_ms: u64) -> Result<(String, u64), String> {
    let answer: TokenAnswer = serde_json::from_slice(body.as_bytes())
        .map_err(|_| "answered something that is no token document".to_owned())?;
    let is_given = |token: &String| !token.is_empty();
    let value = answer
        .token
        .filter(is_given)
        .or(answer.access_token.filter(is_given))
        .ok_or("answered without `token` or `access_token`")?;
    if !value.bytes().all(|b| b.is_ascii_graphic()) {
        return Err("answered a token that cannot stand in a header".to_owned());
    }
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a float cast saturates; clamped next")]
    let asked_ms = answer.expires_in.map_or(LEAST_LIFE_MS, |seconds| (seconds * 1000.0) as u64);
    let life_ms = asked_ms.clamp(LEAST_LIFE_MS, MOST_LIFE_MS);
    Ok((value, now_ms + life_ms - MARGIN_MS))
}

#[cfg(test)]
mod tests {
    use crate::any_test;
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[test_attr(any_test)]
    #[case::token(r#"{"token":"a"}"#, "a", 50_000)]
    #[case::access_token(r#"{"access_token":"b"}"#, "b", 50_000)]
    #[case::token_wins(r#"{"access_token":"b","token":"a"}"#, "a", 50_000)]
    #[case::empty_token_is_none(r#"{"access_token":"b","token":""}"#, "b", 50_000)]
    #[case::long_life(r#"{"token":"a","expires_in":300}"#, "a", 290_000)]
    #[case::shorter_than_allowed(r#"{"token":"a","expires_in":1}"#, "a", 50_000)]
    #[case::negative(r#"{"token":"a","expires_in":-5}"#, "a", 50_000)]
    #[case::absurd(r#"{"token":"a","expires_in":1e300}"#, "a", 86_390_000)]
    fn token_answers_are_read(#[case] body: &str, #[case] value: &str, #[case] expires_at_ms: u64) {
        assert_eq!(parse_token(body, 0), Ok((value.to_owned(), expires_at_ms)));
    }

    #[rstest]
    #[test_attr(any_test)]
    #[case::neither("{}", "without `token`")]
    #[case::html("<html>", "no token document")]
    #[case::empty("", "no token document")]
    #[case::wrong_type(r#"{"token":5}"#, "no token document")]
    #[case::line_break(r#"{"token":"a\nb"}"#, "header")]
    fn useless_token_answers_say_why(#[case] body: &str, #[case] part: &str) {
        let error = parse_token(body, 0).expect_err("no token");
        assert!(error.contains(part), "{error}");
    }
}

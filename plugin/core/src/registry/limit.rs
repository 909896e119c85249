//! How long a server wants to be left alone: `Retry-After`, budgets, and what GHCR writes into the body instead.
//! Reads times and remembers them; who is affected is decided by the look-up.

use imagewatch_abi::{Failure, FailureCode, HttpResponse};
use serde::{Deserialize, Serialize};

const SECOND_MS: u64 = 1_000;
const HOUR_MS: u64 = 3_600_000;

/// No server parks its images for longer, whatever it says.
const MOST_MS: u64 = 6 * HOUR_MS;

/// A budget that is used up comes back bit by bit: nobody waits for the whole window.
const MOST_BUDGET_MS: u64 = HOUR_MS;

/// The first wait where the server names none; doubled each time in a row.
const FIRST_MS: u64 = 60 * SECOND_MS;

/// The headers that [`read_limit`] reads.
pub(crate) const HEADERS: [&str; 4] = ["retry-after", "date", "ratelimit-remaining", "ratelimit-reset"];

/// A server that asked to be left alone.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct RateLimited {
    pub(crate) until_ms: u64,
    asked_ms: u64,
    /// How often in a row it has asked.
    times: u32,
}

impl RateLimited {
    /// From an answer of `server` at `now_ms` which asks for `wait_ms`, or for some time; `before` is what it asked
    /// for the last time, if nothing went well since.
    pub(crate) fn new(server: &str, now_ms: u64, wait_ms: Option<u64>, before: Option<&Self>) -> Self {
        let times = before.map_or(0, |before| before.times.saturating_add(1));
        let growing_ms = (FIRST_MS << times.min(6)).min(HOUR_MS);
        let wait_ms = wait_ms.unwrap_or(growing_ms).clamp(SECOND_MS, MOST_MS);
        // Everybody who was sent away at once comes back at another time.
        let spread_ms = (wait_ms / 10).min(30 * SECOND_MS) + 1;
        Self { until_ms: now_ms + wait_ms + hash(server, now_ms) % spread_ms, asked_ms: now_ms, times }
    }

    /// When it is forgotten that it asked.
    pub(crate) fn forget_ms(&self) -> u64 {
        self.until_ms + (self.until_ms - self.asked_ms)
    }

    /// What a look-up that `server` holds up comes to.
    pub(crate) fn to_failure(&self, server: &str) -> Failure {
        let message = format!(
            "{server} limits the rate until {} (asked at {})",
            time_of_day(self.until_ms),
            time_of_day(self.asked_ms)
        );
        Failure { until_ms: Some(self.until_ms), ..Failure::retryable(FailureCode::RateLimited, message) }
    }
}

/// What an answer says of its server's limits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Limit {
    /// Nothing that concerns us.
    None,
    /// It was refused: come back after so long, or after some time.
    Refused(Option<u64>),
    /// It was the last for so long.
    Exhausted(u64),
}

/// Reads the limits from an answer that came at `now_ms`.
pub(crate) fn read_limit(response: &HttpResponse, now_ms: u64) -> Limit {
    let wait_ms = response.header("retry-after").and_then(|text| parse_wait_ms(text, response.header("date"), now_ms));
    match (response.status, wait_ms) {
        (429 | 503, Some(_)) => return Limit::Refused(wait_ms),
        (429, None) => return Limit::Refused(parse_body_ms(&response.body)),
        _ => {}
    }
    let Some((remaining, params)) = response.header("ratelimit-remaining").map(|text| cut(text, ';')) else {
        return Limit::None;
    };
    let seconds = response.header("ratelimit-reset").or_else(|| params.trim().strip_prefix("w="));
    match (remaining.trim(), seconds.and_then(|text| text.trim().parse::<u64>().ok())) {
        ("0", Some(seconds)) if seconds > 0 => {
            Limit::Exhausted((seconds.saturating_mul(SECOND_MS)).min(MOST_BUDGET_MS))
        }
        _ => Limit::None,
    }
}

/// `Retry-After`: seconds, or a date as the server's own clock has it. Zero and what is past say nothing.
fn parse_wait_ms(text: &str, server_date: Option<&str>, now_ms: u64) -> Option<u64> {
    let text = text.trim();
    let wait_ms = if let Ok(seconds) = text.parse::<u64>() {
        seconds.saturating_mul(SECOND_MS)
    } else {
        let there_ms = server_date.and_then(parse_http_date).unwrap_or(now_ms);
        parse_http_date(text)?.saturating_sub(there_ms)
    };
    (wait_ms > 0).then_some(wait_ms)
}

/// GHCR's `toomanyrequests: retry-after: 331.163µs, allowed: 44000/minute`.
fn parse_body_ms(body: &str) -> Option<u64> {
    let start = body.to_ascii_lowercase().find("retry-after:")?;
    let text = body.get(start + "retry-after:".len()..)?.trim_start();
    parse_go_duration_ms(text.split([',', ' ', '"', '\n', '\r', '}']).next().unwrap_or(text))
}

/// Go's `time.Duration` as text: `1h2m3.5s`, `331.163µs`. Rounded up.
fn parse_go_duration_ms(text: &str) -> Option<u64> {
    let mut rest = text;
    let mut sum_ns: u64 = 0;
    while !rest.is_empty() {
        let (number, after) = rest.split_at(rest.find(|c: char| !c.is_ascii_digit() && c != '.')?);
        let (unit, after) = after.split_at(after.find(|c: char| c.is_ascii_digit()).unwrap_or(after.len()));
        let unit_ns: u64 = match unit {
            "ns" => 1,
            "us" | "\u{b5}s" | "\u{3bc}s" => 1_000,
            "ms" => 1_000_000,
            "s" => 1_000_000_000,
            "m" => 60_000_000_000,
            "h" => 3_600_000_000_000,
            _ => return None,
        };
        let (whole, fraction) = cut(number, '.');
        sum_ns = sum_ns.checked_add(whole.parse::<u64>().ok()?.checked_mul(unit_ns)?)?;
        let mut place_ns = unit_ns;
        for digit in fraction.bytes() {
            place_ns /= 10;
            sum_ns = sum_ns.checked_add(u64::from(digit.checked_sub(b'0')?) * place_ns)?;
        }
        rest = after;
    }
    (sum_ns > 0).then(|| sum_ns.div_ceil(1_000_000))
}

/// Milliseconds since 1970 of a date in any of HTTP's three forms.
fn parse_http_date(text: &str) -> Option<u64> {
    let mut words = text.split([' ', ',', '-', ':']).filter(|word| !word.is_empty()).skip(1);
    let mut next = || words.next();
    let (first, second) = (next()?, next()?);
    let is_asctime = first.starts_with(|c: char| c.is_ascii_alphabetic());
    let (month, day) = if is_asctime { (first, second) } else { (second, first) };
    let year = if is_asctime { None } else { Some(next()?) };
    let mut number = |most: u64| next()?.parse::<u64>().ok().filter(|number| *number <= most);
    let (hour, minute, second) = (number(23)?, number(59)?, number(60)?);
    let year = match year {
        Some(year) => year.parse::<u64>().ok()?,
        None => number(9999)?,
    };
    let year = match year {
        0..70 => 2000 + year,
        70..100 => 1900 + year,
        _ => year,
    };
    let month = "janfebmaraprmayjunjulaugsepoctnovdec".find(&month.get(..3)?.to_ascii_lowercase())?;
    let day = day.parse::<u64>().ok().filter(|day| (1..=31).contains(day))?;
    if month % 3 != 0 || !(1970..=9999).contains(&year) {
        return None;
    }
    let days = days_since_1970(year, month as u64 / 3, day);
    Some(((days * 24 + hour) * 60 + minute) * 60_000 + second * SECOND_MS)
}

/// `month` counts from 0.
fn days_since_1970(year: u64, month: u64, day: u64) -> u64 {
    // With the year beginning in March, its leap day is its last.
    let (year, month) = if month < 2 { (year - 1, month + 10) } else { (year, month - 2) };
    let leap_days = year / 4 - year / 100 + year / 400;
    year * 365 + leap_days + (153 * month + 2) / 5 + day - 1 - 719_468
}

/// `14:05:09Z`. No wait is longer than a few hours, so that no date is needed.
fn time_of_day(ms: u64) -> String {
    let seconds = ms / SECOND_MS % 86_400;
    format!("{:02}:{:02}:{:02}Z", seconds / 3_600, seconds / 60 % 60, seconds % 60)
}

fn cut(text: &str, at: char) -> (&str, &str) {
    text.split_once(at).unwrap_or((text, ""))
}

/// FNV-1a: the guest has no randomness, and needs none here.
fn hash(text: &str, number: u64) -> u64 {
    let bytes = text.bytes().chain(number.to_le_bytes());
    bytes.fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}

#[cfg(test)]
mod tests;

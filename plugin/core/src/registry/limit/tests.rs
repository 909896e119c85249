//! Waits in every form in which servers write them.

use rstest::rstest;
use serde_json::Value;

use super::*;
use crate::any_test;

/// 2026-11-21T14:00:00Z.
const NOW_MS: u64 = 1_795_269_600_000;

fn answer(status: u16, headers: &[(&str, &str)], body: &str) -> HttpResponse {
    let headers = headers.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    HttpResponse { status, headers, body: body.to_owned(), ..HttpResponse::default() }
}

#[rstest]
#[test_attr(any_test)]
#[case::seconds(429, &[("retry-after", "120")], "", Limit::Refused(Some(120_000)))]
#[case::date(429, &[("retry-after", "Sat, 21 Nov 2026 14:05:09 GMT")], "", Limit::Refused(Some(309_000)))]
#[case::date_by_the_servers_clock(
    429,
    &[("retry-after", "Sat, 21 Nov 2026 15:00:10 GMT"), ("date", "Sat, 21 Nov 2026 15:00:00 GMT")],
    "",
    Limit::Refused(Some(10_000))
)]
#[case::zero(429, &[("retry-after", "0")], "", Limit::Refused(None))]
#[case::negative(429, &[("retry-after", "-5")], "", Limit::Refused(None))]
#[case::past(429, &[("retry-after", "Sat, 21 Nov 2026 13:59:59 GMT")], "", Limit::Refused(None))]
#[case::nonsense(429, &[("retry-after", "soon")], "", Limit::Refused(None))]
#[case::plain(429, &[], "Too Many Requests", Limit::Refused(None))]
#[case::unavailable(503, &[("retry-after", "7")], "", Limit::Refused(Some(7_000)))]
#[case::just_broken(503, &[], "", Limit::None)]
#[case::spent(200, &[("ratelimit-remaining", "0;w=600")], "", Limit::Exhausted(600_000))]
#[case::spent_for_hours(200, &[("ratelimit-remaining", "0;w=21600")], "", Limit::Exhausted(3_600_000))]
#[case::reset_says_it_better(200, &[("ratelimit-remaining", "0"), ("ratelimit-reset", "30")], "", Limit::Exhausted(30_000))]
#[case::some_left(200, &[("ratelimit-remaining", "76;w=21600")], "", Limit::None)]
#[case::no_window(200, &[("ratelimit-remaining", "0")], "", Limit::None)]
fn limits_are_read(#[case] status: u16, #[case] headers: &[(&str, &str)], #[case] body: &str, #[case] expected: Limit) {
    assert_eq!(read_limit(&answer(status, headers, body), NOW_MS), expected);
}

#[any_test]
fn limits_of_the_field_are_read() {
    let data: Value = serde_json::from_str(include_str!("../../../data/challenge_cases.json")).expect("JSON");
    for case in data["ratelimit_bodies"].as_array().expect("rows") {
        let headers: Vec<(&str, &str)> = case["headers"]
            .as_object()
            .map(|headers| headers.iter().map(|(name, value)| (name.as_str(), value.as_str().expect("text"))).collect())
            .unwrap_or_default();
        let status = case["status"].as_u64().unwrap_or(200);
        let response = answer(u16::try_from(status).expect("a status"), &headers, case["body"].as_str().unwrap_or(""));
        let expected = match (status, case["retry_after_ns"].as_u64()) {
            (429, wait_ns) => Limit::Refused(wait_ns.map(|ns| ns.div_ceil(1_000_000))),
            _ => Limit::None,
        };
        assert_eq!(read_limit(&response, NOW_MS), expected, "{case}");
    }
}

#[rstest]
#[test_attr(any_test)]
#[case::micro("331.163µs", Some(1))]
#[case::greek_mu("331.163μs", Some(1))]
#[case::ascii("2500us", Some(3))]
#[case::mixed("1h2m3.5s", Some(3_723_500))]
#[case::millis("15ms", Some(15))]
#[case::none("0s", None)]
#[case::unit_missing("12", None)]
#[case::unit_unknown("3d", None)]
#[case::too_many_dots("1.2.3s", None)]
#[case::too_long("99999999999999999999h", None)]
fn go_durations_are_read(#[case] text: &str, #[case] expected: Option<u64>) {
    assert_eq!(parse_go_duration_ms(text), expected);
}

#[rstest]
#[test_attr(any_test)]
#[case::imf("Sun, 06 Nov 1994 08:49:37 GMT", Some(784_111_777_000))]
#[case::rfc_850("Sunday, 06-Nov-94 08:49:37 GMT", Some(784_111_777_000))]
#[case::asctime("Sun Nov  6 08:49:37 1994", Some(784_111_777_000))]
#[case::epoch("Thu, 01 Jan 1970 00:00:00 GMT", Some(0))]
#[case::leap_day("Thu, 29 Feb 2024 12:00:00 GMT", Some(1_709_208_000_000))]
#[case::day_after_it("Fri, 01 Mar 2024 00:00:00 GMT", Some(1_709_251_200_000))]
#[case::now("Sat, 21 Nov 2026 14:00:00 GMT", Some(NOW_MS))]
#[case::no_such_month("Sun, 06 Nob 1994 08:49:37 GMT", None)]
#[case::between_months("Sun, 06 ebM 1994 08:49:37 GMT", None)]
#[case::no_such_hour("Sun, 06 Nov 1994 24:49:37 GMT", None)]
#[case::day_zero("Sun, 00 Nov 1994 08:49:37 GMT", None)]
#[case::number("120", None)]
#[case::empty("", None)]
#[case::before_time("Sun, 06 Nov 1950 08:49:37 GMT", None)]
fn http_dates_are_read(#[case] text: &str, #[case] expected: Option<u64>) {
    assert_eq!(parse_http_date(text), expected);
}

#[any_test]
fn waits_are_kept_spread_and_bounded() {
    let parked = RateLimited::new("r.io", NOW_MS, Some(300_000), None);
    assert!((300_000..=330_000).contains(&(parked.until_ms - NOW_MS)), "{parked:?}");
    let other = RateLimited::new("q.io", NOW_MS, Some(300_000), None);
    assert_ne!(parked.until_ms, other.until_ms, "two registries do not come back at the same moment");
    let long = RateLimited::new("r.io", NOW_MS, Some(u64::MAX), None);
    assert!(long.until_ms - NOW_MS <= MOST_MS + 30_001);
    let failure = RateLimited { until_ms: NOW_MS + 309_000, asked_ms: NOW_MS, times: 0 }.to_failure("r.io");
    assert_eq!(failure.message, "r.io limits the rate until 14:05:09Z (asked at 14:00:00Z)");
    assert_eq!(failure.until_ms, Some(NOW_MS + 309_000));
}

#[any_test]
fn a_server_that_names_no_time_is_left_alone_for_longer_each_time() {
    let mut parked: Option<RateLimited> = None;
    let mut waits = Vec::new();
    for _ in 0..9 {
        let next = RateLimited::new("r.io", NOW_MS, None, parked.as_ref());
        waits.push((next.until_ms - NOW_MS) / 60_000);
        parked = Some(next);
    }
    assert_eq!(waits[..4], [1, 2, 4, 8]);
    assert!(waits[4..].iter().all(|minutes| *minutes <= 61), "{waits:?}");
}

//! Versions, their kinds, and ranges, row by row. The ranges follow the README and `constraints_test.go` of
//! Masterminds/semver v3.

use rstest::rstest;

use super::*;
use crate::any_test;

#[any_test]
fn versions_are_in_semver_order() {
    let sorted = [
        "0.0.9",
        "1.0.0-alpha",
        "1.0.0-alpha.1",
        "1.0.0-beta.2",
        "1.0.0-beta.11",
        "1.0.0-rc1",
        "1.0.0-rc9",
        "1.0.0-rc10",
        "1.0.0",
        "1.0.1",
        "1.2.0",
        "1.10.0",
        "2.0.0",
    ];
    for (index, one) in sorted.iter().enumerate() {
        for (other_index, other) in sorted.iter().enumerate() {
            assert_eq!(compare(one, other), Some(index.cmp(&other_index)), "{one} {other}");
        }
    }
}

#[rstest]
#[test_attr(any_test)]
#[case::plain("1.2.3", Some(([1, 2, 3], "", false, 3, "")))]
#[case::v("v1.2", Some(([1, 2, 0], "", true, 2, "")))]
#[case::one_part("7", Some(([7, 0, 0], "", false, 1, "")))]
#[case::pre_release("1.2.3-rc.1", Some(([1, 2, 3], "rc.1", false, 3, "")))]
#[case::pre_release_in_capitals("1.2.3-RC1", Some(([1, 2, 3], "RC1", false, 3, "")))]
#[case::date("1.2.3-20240501", Some(([1, 2, 3], "20240501", false, 3, "")))]
#[case::variant("1.2.3-alpine3.20", Some(([1, 2, 3], "", false, 3, "alpine3.20")))]
#[case::variant_of_two("1.2-slim-bookworm", Some(([1, 2, 0], "", false, 2, "slim-bookworm")))]
#[case::both("1.2.3-rc1-alpine", Some(([1, 2, 3], "rc1", false, 3, "alpine")))]
#[case::two_pre_releases("1.2.3-rc1-2", Some(([1, 2, 3], "rc1-2", false, 3, "")))]
#[case::word_with_a_pre_release_prefix("1.2.3-debian", Some(([1, 2, 3], "", false, 3, "debian")))]
#[case::letter_alone("1.2.3-b", Some(([1, 2, 3], "", false, 3, "b")))]
#[case::letter_with_number("1.2.3-b2", Some(([1, 2, 3], "b2", false, 3, "")))]
#[case::leading_zero("24.04", Some(([24, 4, 0], "", false, 2, "")))]
#[case::five_parts("1.0.0.1.2", None)]
#[case::date_after_a_counter("0.0.1-beta.1.20240501", Some(([0, 0, 1], "beta.1.20240501", false, 3, "")))]
#[case::commit_after_a_counter("1.2.3-4-gabcdef", Some(([1, 2, 3], "4", false, 3, "gabcdef")))]
#[case::letters("1.0.0p", None)]
#[case::word("latest", None)]
#[case::empty("", None)]
#[case::empty_part("1..2", None)]
#[case::empty_suffix("1.2-", None)]
#[case::sign("1.+2", None)]
#[case::too_long("99999999999999999999", None)]
fn tags_are_parsed(#[case] text: &str, #[case] expected: Option<([u64; 3], &str, bool, usize, &str)>) {
    let expected = expected.map(|([major, minor, patch], pre, has_v, parts, variant)| Tag {
        version: Version { numbers: [major, minor, patch, 0], pre },
        kind: Kind { has_v, parts, has_id: false, variant },
    });
    assert_eq!(Tag::parse(text), expected);
}

#[rstest]
#[test_attr(any_test)]
#[case::letters_and_digits("alpha.12.b4djgk3", ("alpha.12", "b4djgk3", ""))]
#[case::digits_after_a_zero("alpha.13.0545458", ("alpha.13", "0545458", ""))]
#[case::before_a_variant("rc.1.1a2b3c4-alpine", ("rc.1", "1a2b3c4", "alpine"))]
#[case::date("beta.1.20240501", ("beta.1.20240501", "", ""))]
#[case::small_number("beta.1.2", ("beta.1.2", "", ""))]
#[case::no_counter_before_it("alpha.b4djgk3", ("", "", "alpha.b4djgk3"))]
fn an_id_after_a_counter_is_separated(#[case] suffix: &str, #[case] expected: (&str, &str, &str)) {
    assert_eq!(split_suffix(suffix), expected);
}

#[rstest]
#[test_attr(any_test)]
#[case::exact("1.2.3", &["1.2.3"], &["1.2.4", "1.2.2"])]
#[case::equals("=1.2", &["1.2.0", "1.2.9"], &["1.3.0", "1.1.9"])]
#[case::wildcard("1.2.x", &["1.2.0", "1.2.9"], &["1.3.0"])]
#[case::star("*", &["0.0.0", "9.9.9"], &["1.0.0-rc1"])]
#[case::not("!=1.2", &["1.1.0", "1.3.0"], &["1.2.0", "1.2.5"])]
#[case::greater(">1.2.3", &["1.2.4", "2.0.0"], &["1.2.3"])]
#[case::greater_than_a_part(">11", &["12.0.0"], &["11.1.0"])]
#[case::greater_than_two_parts(">11.1", &["11.2.0"], &["11.1.9"])]
#[case::at_least(">= 1.2", &["1.2.0", "3.0.0"], &["1.1.9"])]
#[case::less("<1.2", &["1.1.9"], &["1.2.0"])]
#[case::at_most_a_part("<=11", &["11.9.9"], &["12.0.0"])]
#[case::at_most("<=1.2.3", &["1.2.3"], &["1.2.4"])]
#[case::both_by_blank(">=1.2 <2", &["1.2.0", "1.9.9"], &["2.0.0", "1.1.0"])]
#[case::both_by_comma(">0,<2.0", &["1.0.0"], &["0.9.0", "2.0.0"])]
#[case::both_by_nothing(">=1.2<2", &["1.9.0"], &["2.0.0"])]
#[case::tilde("~1.2.3", &["1.2.3", "1.2.9"], &["1.3.0", "1.2.2"])]
#[case::tilde_of_one("~1", &["1.9.9"], &["2.0.0"])]
#[case::tilde_arrow("~> 1.2", &["1.2.9"], &["1.3.0"])]
#[case::caret("^1.2.3", &["1.2.3", "1.9.9"], &["2.0.0", "1.2.2"])]
#[case::caret_of_zero("^0.2.3", &["0.2.9"], &["0.3.0"])]
#[case::caret_of_two_zeros("^0.0.3", &["0.0.3"], &["0.0.4"])]
#[case::caret_zero_minor("^0.0", &["0.0.9"], &["0.1.0"])]
#[case::caret_zero("^0", &["0.9.0"], &["1.0.0"])]
#[case::from_to("1.2 - 2.0", &["1.2.0", "2.0.9"], &["2.1.0", "1.1.9"])]
#[case::either("~1.2 || ^3", &["1.2.5", "3.9.0"], &["1.3.0", "2.0.0"])]
#[case::v("^v1.2", &["v1.3.0", "1.3.0"], &["v2.0.0"])]
#[case::pre_release(">=1.2.0-0", &["1.2.0-rc.1", "1.5.0-beta", "1.2.0"], &["1.1.9"])]
#[case::pre_release_of_caret("^1.2.3-beta.2", &["1.2.3-beta.2", "1.2.3-beta.10", "1.9.0-rc1"], &["1.2.3-beta.1", "2.0.0-rc1"])]
#[case::pre_release_exact("1.2.3-rc1", &["1.2.3-rc1"], &["1.2.3-rc1.1", "1.2.3"])]
#[case::pre_release_of_its_own_set("^1.0.0-0 || ^2", &["1.1.0-rc1"], &["2.1.0-rc1"])]
#[case::fourth_number("^4.0.9", &["4.0.9.2244", "4.0.12.1"], &["5.0.0.0", "4.0.8.9999"])]
#[case::fourth_number_at_the_bound("<=1.2.3", &["1.2.3.4"], &["1.2.4.0"])]
#[case::nothing_is_after_all_versions(">*", &[], &["1.0.0"])]
fn ranges_match_what_masterminds_matches(#[case] range: &str, #[case] inside: &[&str], #[case] outside: &[&str]) {
    let range = Range::parse(range).expect(range);
    for version in inside {
        assert!(range.has(version), "{version}");
    }
    for version in outside {
        assert!(!range.has(version), "{version}");
    }
    assert!(!range.has("latest"));
}

#[rstest]
#[test_attr(any_test)]
#[case::empty_alternative("1 || ")]
#[case::operator_alone(">=")]
#[case::two_operators(">>1")]
#[case::word("latest")]
#[case::four_parts("1.2.3.4")]
#[case::variant("1.2.3-alpine")]
#[case::pre_release_of_a_part("1.2-rc1")]
#[case::open_hyphen(" - 2")]
#[case::comma(",1")]
#[case::word_after_a_wildcard("1.x.y")]
fn malformed_ranges_are_refused(#[case] range: &str) {
    Range::parse(range).expect_err(range);
}

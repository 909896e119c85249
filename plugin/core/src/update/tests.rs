//! Choices row by row, and the test tables of Flux in `data/policy_cases.json` (fluxcd/image-reflector-controller, at
//! the commit that the file names).

use rstest::rstest;
use serde_json::Value;

use super::*;
use crate::any_test;

fn policy(text: &str, filter: Option<&str>) -> UpdatePolicy {
    let policy = UpdatePolicy::parse(text).expect(text);
    match filter {
        None => policy,
        Some(pattern) => policy.filtered(pattern).expect(pattern),
    }
}

fn owned(tags: &[&str]) -> Vec<String> {
    tags.iter().map(|tag| (*tag).to_owned()).collect()
}

fn newest(choice: &Choice<'_>) -> Option<String> {
    match choice {
        Choice::Newer(tags) => tags.first().map(|tag| (*tag).to_owned()),
        Choice::Newest | Choice::Unclear(_) => None,
    }
}

fn choose(policy: &UpdatePolicy, tags: &[&str], current: &str) -> Option<String> {
    let tags = owned(tags);
    let choice = policy.choose(&tags, current);
    let reversed: Vec<String> = tags.iter().rev().cloned().collect();
    assert_eq!(policy.choose(&reversed, current), choice, "the order of the list does not matter");
    newest(&choice)
}

#[rstest]
#[test_attr(any_test)]
#[case::newest_in_range("semver:^1", &["1.0.0", "1.1.0", "2.0.0-rc", "2.0.0"], "1.0.0", Some("1.1.0"))]
#[case::nothing_newer("semver:^1", &["1.0.0", "1.1.0", "2.0.0"], "1.1.0", None)]
#[case::never_downwards("semver:^1", &["1.0.0", "1.1.0"], "2.0.0", None)]
#[case::from_below_the_range("semver:>=1.2 <2", &["1.1.0", "1.3.0"], "0.9.0", Some("1.3.0"))]
#[case::either_range("semver:~1.2 || ~1.4", &["1.2.9", "1.3.0", "1.4.1"], "1.2.0", Some("1.4.1"))]
#[case::no_pre_release("semver:^1", &["1.1.0-rc.1", "1.1.0-beta2", "1.1.0-20240501"], "1.0.0", None)]
#[case::named_pre_release("semver:>=1.0.0-0 <2", &["1.1.0-rc.9", "1.1.0-rc.10"], "1.0.0", Some("1.1.0-rc.10"))]
#[case::from_a_pre_release("semver:^1", &["1.1.0-rc.2", "1.1.0"], "1.1.0-rc.1", Some("1.1.0"))]
#[case::variant_kept("semver:^1", &["1.3.0", "1.2.4-alpine", "1.2.9-slim"], "1.2.3-alpine", Some("1.2.4-alpine"))]
#[case::variant_not_taken_up("semver:^1", &["1.3.0-alpine"], "1.2.3", None)]
#[case::variant_of_a_pre_release("semver:>=1.2.0-0", &["1.3.0-rc1-alpine", "1.3.0-rc2"], "1.2.3-alpine", Some("1.3.0-rc1-alpine"))]
#[case::v_kept("semver:^1", &["1.3.0", "v1.2.4"], "v1.2.3", Some("v1.2.4"))]
#[case::no_v_kept("semver:^1", &["v1.3.0", "1.2.4"], "1.2.3", Some("1.2.4"))]
#[case::precision_kept("semver:^1", &["1.3", "1.4.0", "1"], "1.2", Some("1.3"))]
#[case::one_part("semver:*", &["17", "9", "18.1"], "16", Some("17"))]
#[case::equal_stays("semver:^1", &["1.2.03"], "1.2.3", None)]
#[case::equal_among_newer("semver:^1", &["1.3.0", "1.03.0"], "1.2.3", Some("1.3.0"))]
#[case::numbers("numeric", &["9", "10", "latest"], "8", Some("10"))]
#[case::numbers_down("numeric:desc", &["9", "10", "7"], "9", Some("7"))]
#[case::by_bytes("alphabetical", &["2024-05-01", "2024-04-30"], "2024-04-01", Some("2024-05-01"))]
#[case::by_bytes_down("alphabetical:desc", &["b", "c"], "c", Some("b"))]
#[case::digest_never("digest", &["1.3", "2"], "1.2", None)]
#[case::no_tags("semver:*", &[], "1.2.3", None)]
fn the_newest_tag_after_the_current_one_is_chosen(
    #[case] text: &str,
    #[case] tags: &[&str],
    #[case] current: &str,
    #[case] expected: Option<&str>,
) {
    assert_eq!(choose(&policy(text, None), tags, current).as_deref(), expected);
}

#[rstest]
#[test_attr(any_test)]
#[case::build_numbers("numeric", "^main-[0-9a-f]+-([0-9]+)$", &["main-ab12-9", "main-00ff-10", "dev-00ff-11"], "main-ab-8", Some("main-00ff-10"))]
#[case::revisions("semver:^1", r"^(\d+\.\d+\.\d+)-debian-12-r\d+$", &["1.3.0-debian-12-r0", "1.4.0"], "1.2.0-debian-12-r7", Some("1.3.0-debian-12-r0"))]
#[case::no_group_compares_the_whole_tag("alphabetical", "^rel-", &["rel-2", "zzz"], "rel-1", Some("rel-2"))]
#[case::group_without_a_match("alphabetical", "^a(x)?", &["ab", "aa"], "a", Some("ab"))]
#[case::duplicates_last_by_bytes("numeric", "^b([0-9]+)", &["b2-x", "b2-y", "b2-a"], "b1", Some("b2-y"))]
#[case::duplicate_of_the_current_stays("numeric", "^b([0-9]+)", &["b2-x", "b2-y"], "b2-a", None)]
fn a_filter_selects_the_tags_and_the_part_to_compare(
    #[case] text: &str,
    #[case] pattern: &str,
    #[case] tags: &[&str],
    #[case] current: &str,
    #[case] expected: Option<&str>,
) {
    assert_eq!(choose(&policy(text, Some(pattern)), tags, current).as_deref(), expected);
}

/// Field report F11: versions with four parts.
#[rstest]
#[test_attr(any_test)]
#[case::build_of_linuxserver("semver:^4", None, &["4.0.9.2244-ls257", "4.0.12.2823-ls267", "4.0.12.2900-ls270"], "4.0.9.2244-ls257", Some("4.0.12.2900-ls270"))]
#[case::filter_that_drops_the_difference("semver:^4", Some(r"^(\d+\.\d+\.\d+)\.\d+-ls\d+$"), &["4.0.9.2244-ls257", "4.0.12.2823-ls267", "4.0.12.2900-ls270"], "4.0.12.2823-ls267", Some("4.0.12.2900-ls270"))]
#[case::plain("semver:^4", None, &["4.9.0.9", "4.9.0.12"], "4.9.0.9", Some("4.9.0.12"))]
#[case::v_kept("semver:^4", None, &["4.9.0.12", "v4.9.0.10"], "v4.9.0.9", Some("v4.9.0.10"))]
#[case::three_parts_have_another_form("semver:^4", None, &["4.9.1", "4.9.0.10"], "4.9.0.9", Some("4.9.0.10"))]
#[case::next_major_is_outside("semver:^4", None, &["5.0.0.1", "4.9.0.9"], "4.9.0.9", None)]
fn f11_the_fourth_number_is_compared(
    #[case] text: &str,
    #[case] filter: Option<&str>,
    #[case] tags: &[&str],
    #[case] current: &str,
    #[case] expected: Option<&str>,
) {
    assert_eq!(choose(&policy(text, filter), tags, current).as_deref(), expected);
}

/// Field report F12: suffixes that differ in every tag.
#[rstest]
#[test_attr(any_test)]
#[case::linuxserver("semver:^4", &["4.5.5-ls239", "4.6.0-ls245"], "4.5.5-ls239", Some("4.6.0-ls245"))]
#[case::counter_and_commit("semver:>=0.0.1-0", &["0.0.1-alpha.12.b4djgk3", "0.0.1-alpha.13.0545458"], "0.0.1-alpha.12.b4djgk3", Some("0.0.1-alpha.13.0545458"))]
#[case::described_commit("semver:>=1.0.0-0", &["v1.2.3-4-gabcdef", "v1.2.3-9-g123456"], "v1.2.3-4-gabcdef", Some("v1.2.3-9-g123456"))]
#[case::bitnami("semver:^15", &["15.4.0-debian-11-r45", "15.5.0-debian-12-r1"], "15.4.0-debian-11-r45", Some("15.5.0-debian-12-r1"))]
#[case::base_image("semver:^1", &["1.2.3-alpine3.19", "1.2.4-alpine3.20"], "1.2.3-alpine3.19", Some("1.2.4-alpine3.20"))]
#[case::only_the_build_is_newer("semver:^4", &["4.6.0-ls9", "4.6.0-ls10"], "4.6.0-ls9", Some("4.6.0-ls10"))]
#[case::an_older_version_with_a_later_build("semver:^4", &["4.5.0-ls300", "4.6.0-ls245"], "4.6.0-ls240", Some("4.6.0-ls245"))]
#[case::a_suffix_of_other_tags_is_kept("semver:^3", &["3.19.0-python3.11", "3.20.0-python3.11", "3.21.0-python3.12"], "3.19.0-python3.11", Some("3.20.0-python3.11"))]
#[case::a_counter_is_not_a_name("semver:^15", &["15.4.0-debian-11-r44", "15.4.1-debian-11-r2", "15.5.0-debian-12-r1"], "15.4.0-debian-11-r45", Some("15.4.1-debian-11-r2"))]
#[case::never_plain("semver:^1", &["1.2.4", "1.2.4-debian12", "1.2.4-alpine"], "1.2.3-alpine3.19", None)]
#[case::never_another_base("semver:^1", &["1.2.4-debian12lts"], "1.2.3-ubuntu22lts", None)]
#[case::commits_have_no_order("semver:>=1.0.0-0", &["1.2.3-4-gabcdef", "1.2.3-4-gffffff"], "1.2.3-4-gabcdef", None)]
#[case::pre_release_outside_the_range("semver:^0.0.1", &["0.0.1-alpha.13.0545458"], "0.0.1-alpha.12.b4djgk3", None)]
fn f12_a_suffix_of_one_form_is_compared_as_a_build(
    #[case] text: &str,
    #[case] tags: &[&str],
    #[case] current: &str,
    #[case] expected: Option<&str>,
) {
    assert_eq!(choose(&policy(text, None), tags, current).as_deref(), expected);
}

/// Field reports F12 and F13: "nothing can be compared" is different from "on the newest tag".
#[rstest]
#[test_attr(any_test)]
#[case::another_suffix("semver:^4", None, &["4.6.0", "latest", "4.5.5-ls239"], "4.5.5-ls239", "no other tag of its form (-ls…) among 3 tags")]
#[case::no_suffix("semver:^4", None, &["4.6.0-ls1", "v4.6.0"], "4.5.5", "(3 numbers without a suffix) among 2 tags")]
#[case::v("semver:^4", None, &["4.6"], "v4.5", "(`v` and 2 numbers without a suffix)")]
#[case::no_tags("semver:^4", None, &[], "4.5.5", "among 0 tags")]
#[case::no_number("numeric", None, &["latest", "edge"], "7", "(a number)")]
#[case::filtered_out("alphabetical", Some("^rel-"), &["dev-1"], "rel-1", "(a tag that matches the tag filter)")]
#[case::revision_outside_the_range("semver:^2", None, &["2.0.50-3", "2.0.50-4", "2.0.51-1"], "2.0.50-3", "excludes all 2 newer tags of its form, 2.0.51-1; a range that names a pre-release, such as `>=2.0.51-0`")]
#[case::date_outside_the_range("semver:^1", None, &["1.0.0-20240101", "1.0.0-20240501"], "1.0.0-20240101", "excludes the only newer tag of its form, 1.0.0-20240501; a range")]
#[case::major_outside_the_range("semver:^1", None, &["2.1.0"], "2.0.0", "excludes the only newer tag of its form, 2.1.0")]
#[case::newest_of_its_suffix("semver:^1", None, &["1.2.2-alpine3.19", "1.2.4-alpine3.20"], "1.2.3-alpine3.19", "1.2.4-alpine3.20 is newer and has another suffix")]
fn f12_f13_a_tag_that_cannot_be_compared_is_reported(
    #[case] text: &str,
    #[case] filter: Option<&str>,
    #[case] tags: &[&str],
    #[case] current: &str,
    #[case] part: &str,
) {
    match policy(text, filter).choose(&owned(tags), current) {
        Choice::Unclear(reason) => assert!(reason.contains(part), "{reason}"),
        choice => panic!("{choice:?}"),
    }
}

/// No reason is given if the search for newer tags was possible and found none.
#[rstest]
#[test_attr(any_test)]
#[case::older_ones("semver:^1", &["1.0.0", "1.1.0"], "1.1.0")]
#[case::outside_the_range("semver:^1", &["1.1.0", "2.0.0"], "1.1.0")]
#[case::the_only_tag("semver:^1", &["1.1.0"], "1.1.0")]
#[case::the_same_suffix("semver:^1", &["1.2.2-alpine3.19"], "1.2.3-alpine3.19")]
#[case::numbers("numeric", &["6", "7"], "7")]
fn the_newest_tag_is_recognised(#[case] text: &str, #[case] tags: &[&str], #[case] current: &str) {
    assert_eq!(policy(text, None).choose(&owned(tags), current), Choice::Newest);
}

/// Field report F14: tags with equal compared parts.
#[rstest]
#[test_attr(any_test)]
#[case::linuxserver("semver:^4", r"^(\d+\.\d+\.\d+)-ls\d+$", &["4.6.0-ls9", "4.6.0-ls10"], "4.5.5-ls239", Some("4.6.0-ls10"))]
#[case::date("numeric", r"^(\d+)-b\d+$", &["20240102-b9", "20240102-b10"], "20240101-b9", Some("20240102-b10"))]
#[case::revision("semver:^1", r"^(\d+\.\d+\.\d+)-\d+$", &["1.1.0-9", "1.1.0-10"], "1.0.0-9", Some("1.1.0-10"))]
#[case::from_build_to_build("semver:^4", r"^(\d+\.\d+\.\d+)-ls\d+$", &["4.6.0-ls9", "4.6.0-ls10"], "4.6.0-ls9", Some("4.6.0-ls10"))]
#[case::never_back("semver:^4", r"^(\d+\.\d+\.\d+)-ls\d+$", &["4.6.0-ls9", "4.6.0-ls10"], "4.6.0-ls10", None)]
#[case::another_form_is_not_a_later_build("semver:^4", r"^(\d+\.\d+\.\d+)", &["4.6.0-slim"], "4.6.0", None)]
#[case::commits_are_not_builds("numeric", r"^main-[0-9a-f]+-(\d+)$", &["main-1a2b3c4-9"], "main-0a2b3c4-9", None)]
fn f14_equal_parts_are_ordered_by_the_whole_tag(
    #[case] text: &str,
    #[case] filter: &str,
    #[case] tags: &[&str],
    #[case] current: &str,
    #[case] expected: Option<&str>,
) {
    assert_eq!(choose(&policy(text, Some(filter)), tags, current).as_deref(), expected);
}

#[rstest]
#[test_attr(any_test)]
#[case::unknown("newest", None, "not one of")]
#[case::digest_with_more("digest:always", None, "not one of")]
#[case::direction("numeric:up", None, "must end with")]
#[case::range("semver:1.0.0p", None, "\"1.0.0p\" is not a version")]
#[case::no_range("semver", None, "\"\" is not a version")]
#[case::variant_in_range("semver:^1.2.3-alpine", None, "not a version")]
#[case::filter_of_digest("digest", Some("^v"), "has no effect")]
#[case::filter("numeric", Some("("), "is not closed")]
fn an_invalid_policy_is_refused_with_a_reason(#[case] text: &str, #[case] filter: Option<&str>, #[case] part: &str) {
    let parsed = UpdatePolicy::parse(text);
    let read = match filter {
        None => parsed,
        Some(pattern) => parsed.and_then(|policy| policy.filtered(pattern)),
    };
    let error = read.map(drop).expect_err("the policy is invalid");
    assert!(error.contains(part), "{error}");
}

#[rstest]
#[test_attr(any_test)]
#[case::digest("digest", None, "latest", None)]
#[case::version("semver:*", None, "v1.2-alpine", None)]
#[case::no_version("semver:*", None, "latest", Some("is not a version"))]
#[case::no_number("numeric", None, "1a", Some("is not a number"))]
#[case::bytes("alphabetical", None, "latest", None)]
#[case::filtered_out("numeric", Some("^b([0-9]+)"), "latest", Some("does not match"))]
fn a_current_tag_that_cannot_be_compared_is_reported(
    #[case] text: &str,
    #[case] filter: Option<&str>,
    #[case] tag: &str,
    #[case] part: Option<&str>,
) {
    let reported = policy(text, filter).check_present(tag).err();
    assert_eq!(reported.is_some(), part.is_some(), "{reported:?}");
    assert!(reported.unwrap_or_default().contains(part.unwrap_or_default()));
}

fn flux() -> Value {
    serde_json::from_str(include_str!("../../data/policy_cases.json")).expect("JSON")
}

fn rows(table: &Value) -> Vec<Value> {
    table.as_array().expect("a table").clone()
}

fn texts(row: &Value, key: &str) -> Vec<String> {
    row[key].as_array().expect(key).iter().map(|text| text.as_str().expect(key).to_owned()).collect()
}

fn text<'a>(row: &'a Value, key: &str) -> &'a str {
    row[key].as_str().expect(key)
}

/// Flux has no current tag. So each tag of a list is the current one in turn. The choice must be the expected tag, or
/// no change if the current tag is the expected one or comes after it.
fn expect_latest(policy: &UpdatePolicy, row: &Value) {
    let (tags, expected) = (texts(row, "versions"), text(row, "expected"));
    for current in tags.iter().filter(|tag| policy.check_present(tag).is_ok()) {
        let is_after = policy.compare(expected, current) == Some(Ordering::Greater);
        let chosen = newest(&policy.choose(&tags, current));
        assert_eq!(chosen.as_deref(), is_after.then_some(expected), "{}: {policy:?} from {current}", row["label"]);
    }
    if row["error"] == false {
        assert!(tags.iter().any(|tag| tag == expected) && policy.admits(expected), "{}", row["label"]);
    }
}

#[any_test]
fn flux_ranges_parse_or_fail_in_the_same_way() {
    for row in rows(&flux()["flux_semver_ranges"]) {
        for range in texts(&row, "ranges") {
            let parsed = UpdatePolicy::parse(&format!("semver:{range}"));
            assert_eq!(parsed.is_err(), row["error"] == true, "{range}: {parsed:?}");
        }
    }
}

#[any_test]
fn flux_latest_versions_are_chosen() {
    for row in rows(&flux()["flux_semver_latest"]) {
        expect_latest(&policy(&format!("semver:{}", text(&row, "range")), None), &row);
    }
}

#[any_test]
fn flux_orders_parse_or_fail_in_the_same_way() {
    for row in rows(&flux()["flux_numerical_order"]) {
        let parsed = UpdatePolicy::parse(&format!("numeric:{}", text(&row, "order")));
        assert_eq!(parsed.is_err(), row["error"] == true, "{row}");
    }
}

/// One rule of Flux does not apply: in Flux, one tag that is not a number makes the whole list invalid. This policy
/// skips such a tag, because a repository may always have a `latest` as well.
#[any_test]
fn flux_latest_numbers_are_chosen() {
    for row in rows(&flux()["flux_numerical_latest"]) {
        if row["label"] != "With invalid numerical value" {
            expect_latest(&policy(&format!("numeric:{}", text(&row, "order")), None), &row);
        }
    }
}

#[any_test]
fn flux_latest_texts_are_chosen() {
    for row in rows(&flux()["flux_alphabetical_latest"]) {
        expect_latest(&policy(&format!("alphabetical:{}", text(&row, "order")), None), &row);
    }
}

/// Where Flux has an `extract`, it is the first group. Here the first group is always extracted.
/// `flux_digest_reflection` does not apply: it is about a field of Flux's own objects, and here the digest is always
/// looked up.
#[any_test]
fn flux_filters_select_the_same_tags() {
    for row in rows(&flux()["flux_regex_filter"]) {
        let pattern = text(&row, "pattern");
        let policy = policy("alphabetical", Some(pattern).filter(|pattern| !pattern.is_empty()));
        let tags = texts(&row, "tags");
        let mut found: Vec<&str> = tags.iter().filter_map(|tag| policy.extract(tag)).collect();
        // Flux stores the values in a map, so that equal values of two tags become one.
        found.sort_unstable();
        found.dedup();
        assert_eq!(found, texts(&row, "expected_sorted"), "{}", row["label"]);
    }
}

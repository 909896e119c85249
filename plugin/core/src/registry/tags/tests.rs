//! Link headers: the table in `data/challenge_cases.json` (go-containerregistry's) and the traps beside it.

use rstest::rstest;
use serde_json::Value;

use super::*;
use crate::any_test;

const URL: &str = "https://r.io/v2/o/a/tags/list?n=1000";

fn add(list: &mut TagList, body: &str, links: &[&str]) -> Result<(), String> {
    list.add(URL, body, links)
}

#[rstest]
#[test_attr(any_test)]
#[case::none(&[], None)]
#[case::relative(&[r#"</v2/o/a/tags/list?n=1000&last=b>; rel="next""#], Some("https://r.io/v2/o/a/tags/list?n=1000&last=b"))]
#[case::query_only(&["<?last=b>; rel=next"], Some("https://r.io/v2/o/a/tags/list?last=b"))]
#[case::absolute(&[r#"<https://r.io/v2/o/a/tags/list?last=b>;rel="next""#], Some("https://r.io/v2/o/a/tags/list?last=b"))]
#[case::no_rel(&["</v2/o/a/tags/list?n=100>"], Some("https://r.io/v2/o/a/tags/list?n=100"))]
#[case::other_rel(&[r#"</v2/o/a/tags/list?n=1>; rel="prev""#], None)]
#[case::second_of_one_header(&[r#"</first>; rel="first", </v2/x>; rel="next""#], Some("https://r.io/v2/x"))]
#[case::second_header(&[r#"</first>; rel="first""#, r#"</v2/x>; rel="next""#], Some("https://r.io/v2/x"))]
#[case::blank_in_it(&["</v2/ x>; rel=next"], None)]
fn the_next_page_is_found(#[case] links: &[&str], #[case] next: Option<&str>) {
    let mut list = TagList::default();
    add(&mut list, r#"{"tags":["a"]}"#, links).expect("a page");
    assert_eq!(list.next.as_deref(), next);
}

#[rstest]
#[test_attr(any_test)]
#[case::other_host("<https://evil.example/v2/o/a/tags/list>; rel=next")]
#[case::metadata(r#"<http://169.254.169.254/latest/meta-data/>;rel="next""#)]
#[case::other_scheme("<http://r.io/v2/o/a/tags/list>; rel=next")]
#[case::other_port("<https://r.io:444/v2/o/a/tags/list>; rel=next")]
#[case::host_that_begins_so("<https://r.io.evil.example/v2>; rel=next")]
#[case::user_info("<https://r.io@evil.example/v2>; rel=next")]
#[case::scheme_relative("<//evil.example/v2/o/a/tags/list>; rel=next")]
#[case::itself("</v2/o/a/tags/list?n=1000>; rel=next")]
fn a_page_elsewhere_is_refused(#[case] link: &str) {
    let error = add(&mut TagList::default(), r#"{"tags":["a"]}"#, &[link]).expect_err("refused");
    assert!(error.contains("links"), "{error}");
}

#[any_test]
fn links_of_the_field_are_read() {
    let data: Value = serde_json::from_str(include_str!("../../../data/challenge_cases.json")).expect("JSON");
    let table = &data["link_header"];
    for link in table["bad_or_absent"].as_array().expect("rows") {
        assert_eq!(parse_next(link.as_str().expect("text")), None, "{link}");
    }
    let text = |row: &str, key: &str| table[row][key].as_str().expect("text").to_owned();
    let target = |row: &str| parse_next(&text(row, "link")).map(str::to_owned).expect("a target");
    assert_eq!(resolve_link(&text("good", "request"), &target("good")), Ok(text("good", "next")));
    resolve_link(&text("ssrf_reject", "request"), &target("ssrf_reject")).expect_err("another host");
}

#[any_test]
fn tags_are_gathered_over_pages_and_null_is_none() {
    let mut list = TagList::default();
    add(&mut list, r#"{"name":"o/a","tags":["1.0","latest"]}"#, &["<?last=latest>"]).expect("a page");
    add(&mut list, r#"{"name":"o/a","tags":["-no tag","2.0"]}"#, &["<?last=x>"]).expect("a page");
    add(&mut list, r#"{"name":"o/a","tags":null}"#, &[]).expect("a page");
    assert_eq!((list.tags, list.next), (vec!["1.0".to_owned(), "latest".to_owned(), "2.0".to_owned()], None));
}

#[any_test]
fn endless_lists_end() {
    let mut list = TagList::default();
    let error = (0..).find_map(|page| add(&mut list, r#"{"tags":["a"]}"#, &[&format!("<?last={page}>")]).err());
    assert!(error.is_some_and(|why| why.contains("more tags")));
    let many = format!(r#"{{"tags":[{}"a"]}}"#, r#""a","#.repeat(MAX_TAGS));
    add(&mut TagList::default(), &many, &[]).expect_err("too many");
    add(&mut TagList::default(), "<html>", &[]).expect_err("no list");
}

#[any_test]
fn a_list_of_large_pages_ends_before_it_is_all_that_is_read() {
    let mut list = TagList::default();
    let page = format!(r#"{{"tags":["a"],"more":"{}"}}"#, "x".repeat(1024 * 1024));
    let error = (0..).find_map(|page_no| add(&mut list, &page, &[&format!("<?last={page_no}>")]).err());
    assert!(error.is_some_and(|why| why.contains("more tags")));
    assert_eq!(list.pages, 4);
    let longest = format!(r#"{{"tags":["{}"]}}"#, vec!["a".repeat(128); MAX_TAGS].join("\",\""));
    assert!(longest.len() < MAX_BYTES, "the longest tags, and as many as are read");
    add(&mut TagList::default(), &longest, &[]).expect("a page");
    let last = format!(r#"{{"tags":["a"],"more":"{}"}}"#, "x".repeat(MAX_BYTES));
    add(&mut TagList::default(), &last, &[]).expect("there is no more to read");
}

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
#[case::scheme_that_is_no_http("<ftp://r.io/v2/o/a/tags/list>; rel=next")]
#[case::other_port("<https://r.io:444/v2/o/a/tags/list>; rel=next")]
#[case::host_that_begins_so("<https://r.io.evil.example/v2>; rel=next")]
#[case::user_info("<https://r.io@evil.example/v2>; rel=next")]
#[case::scheme_relative("<//evil.example/v2/o/a/tags/list>; rel=next")]
#[case::itself("</v2/o/a/tags/list?n=1000>; rel=next")]
fn a_page_elsewhere_is_refused(#[case] link: &str) {
    let error = add(&mut TagList::default(), r#"{"tags":["a"]}"#, &[link]).expect_err("refused");
    assert!(error.contains("links"), "{error}");
}

/// Field report F23, seen from `https://r.io/v2/app/tags/list?n=1000` and the same without TLS.
#[rstest]
#[test_attr(any_test)]
#[case::relative_to_the_folder("https", "tags/list?last=x", Ok("https://r.io/v2/app/tags/tags/list?last=x"))]
#[case::relative("https", "list?last=x", Ok("https://r.io/v2/app/tags/list?last=x"))]
#[case::one_folder_up("https", "../tags/list?last=x", Ok("https://r.io/v2/app/tags/list?last=x"))]
#[case::this_folder("https", "./list?last=x", Ok("https://r.io/v2/app/tags/list?last=x"))]
#[case::above_the_root("https", "../../../../v2/x", Ok("https://r.io/v2/x"))]
#[case::query("https", "?last=x", Ok("https://r.io/v2/app/tags/list?last=x"))]
#[case::http_where_https_was_asked(
    "https",
    "http://r.io/v2/app/tags/list?last=x",
    Ok("https://r.io/v2/app/tags/list?last=x")
)]
#[case::capitals("https", "HTTPS://R.IO/v2/app/tags/list?last=X", Ok("https://r.io/v2/app/tags/list?last=X"))]
#[case::https_where_http_was_asked(
    "http",
    "https://r.io/v2/app/tags/list?last=x",
    Ok("http://r.io/v2/app/tags/list?last=x")
)]
#[case::default_port("https", "https://r.io:443/v2/x", Ok("https://r.io/v2/x"))]
#[case::default_port_of_the_other_scheme("https", "http://r.io:80/v2/x", Ok("https://r.io/v2/x"))]
#[case::no_scheme("https", "//R.io/v2/x", Ok("https://r.io/v2/x"))]
#[case::fragment("https", "/v2/x?last=y#z", Ok("https://r.io/v2/x?last=y"))]
#[case::colon_in_a_query("https", "?last=a:b", Ok("https://r.io/v2/app/tags/list?last=a:b"))]
#[case::name_behind_a_proxy(
    "https",
    "http://registry:5000/v2/app/tags/list?last=x",
    Err("another host, registry:5000")
)]
#[case::other_port_without_tls("http", "http://r.io:443/v2/x", Err("another host, r.io:443"))]
#[case::user_info("https", "https://r.io@evil.example/v2", Err("another host, evil.example"))]
#[case::user_info_of_this_host("https", "https://u:secret@r.io/v2", Err("another host, r.io"))]
#[case::other_scheme("https", "ftp://r.io/v2/x", Err("no http(s) URL"))]
#[case::scheme_without_host("https", "https:/v2/x", Err("no http(s) URL"))]
#[case::itself("https", "list?n=1000", Err("to itself"))]
fn f23_a_link_is_resolved_on_the_same_host(
    #[case] scheme: &str,
    #[case] link: &str,
    #[case] expected: Result<&str, &str>,
) {
    let resolved = resolve_link(&format!("{scheme}://r.io/v2/app/tags/list?n=1000"), link);
    match (resolved, expected) {
        (Ok(resolved), Ok(expected)) => assert_eq!(resolved, expected),
        (Err(why), Err(part)) => assert!(why.contains(part), "{why}"),
        (resolved, _) => panic!("{resolved:?}"),
    }
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

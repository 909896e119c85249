//! Config keys: valid values, invalid values, and the original system's rules for prefix and host.

use std::collections::BTreeMap;

use crate::any_test;
use imagewatch_abi::{Answer, Containers, HttpBatch, HttpResponses, LogLine, Order, OrdersAccepted, Selector};
use rstest::rstest;

use super::*;

/// A host with a config and without host functions.
struct Keys(BTreeMap<String, String>);

impl Host for Keys {
    fn config(&self, key: &str) -> Option<String> {
        self.0.get(key).cloned()
    }
    fn http_send(&mut self, _: HttpBatch) -> Answer<HttpResponses> {
        unreachable!("config sends nothing")
    }
    fn docker_containers(&mut self, _: Selector) -> Answer<Containers> {
        unreachable!("config lists nothing")
    }
    fn docker_refresh(&mut self, _: Vec<Order>) -> Answer<OrdersAccepted> {
        unreachable!("config orders nothing")
    }
    fn log(&mut self, _: LogLine) {}
}

fn parse(pairs: &[(&str, &str)]) -> Result<Config, Failure> {
    Config::parse(&Keys(pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()))
}

const RUNTIMES: &str = "autogen claude-code codex crewai deepagents gemini-cli hermes langgraph openclaw";

fn references(prefix: &str) -> Vec<String> {
    let config = parse(&[
        ("names", RUNTIMES),
        ("prefix", prefix),
        ("template", "{prefix}/workspace-template-{name}:latest"),
        ("default_name", "langgraph"),
    ])
    .expect("a good config");
    let Watch::Listed(targets) = config.watch else { panic!("names are listed") };
    targets.into_iter().map(|(_, reference)| reference.to_string()).collect()
}

#[rstest]
#[test_attr(any_test)]
#[case::default_prefix("ghcr.io/molecule-ai")]
#[case::ecr("123456789012.dkr.ecr.us-east-2.amazonaws.com/molecule-ai")]
#[case::bare_host("registry.example.com:5000")]
#[case::deep_path("ghcr.io/org/team/images")]
fn every_runtime_has_its_image_under_the_prefix_in_order(#[case] prefix: &str) {
    let expected: Vec<String> =
        RUNTIMES.split(' ').map(|name| format!("{prefix}/workspace-template-{name}:latest")).collect();
    assert_eq!(references(prefix), expected);
}

#[rstest]
#[test_attr(any_test)]
#[case::with_path("ghcr.io/molecule-ai", "ghcr.io")]
#[case::ecr("1.dkr.ecr.us-east-2.amazonaws.com/o", "1.dkr.ecr.us-east-2.amazonaws.com")]
#[case::bare("registry.example.com", "registry.example.com")]
#[case::port("localhost:5000/a/b", "localhost:5000")]
fn registry_host_is_the_part_before_the_first_slash(#[case] prefix: &str, #[case] host: &str) {
    assert_eq!(registry_host(prefix), host);
    assert!(references(prefix).iter().all(|r| r.parse::<Reference>().expect("parses").registry() == host));
}

#[rstest]
#[test_attr(any_test)]
#[case::nothing_to_watch(&[], "names", "nothing to watch")]
#[case::two_kinds(&[("images", "a"), ("containers", "all")], "names", "exclude each other")]
#[case::containers(&[("containers", "some")], "containers", "neither")]
#[case::image(&[("images", "ghcr.io/o/a UPPER")], "images", "UPPER")]
#[case::prefix_without_host(&[("names", "a"), ("prefix", "molecule-ai")], "prefix", "docker.io")]
#[case::prefix_missing(&[("names", "a")], "template", "invalid image reference")]
#[case::template_without_name(&[("names", "a"), ("prefix", "g.io"), ("template", "{prefix}/a")], "template", "{name}")]
#[case::name_invalid_in_a_reference(&[("names", "A!"), ("prefix", "g.io/o")], "template", "A!")]
#[case::default_name(&[("names", "a"), ("prefix", "g.io"), ("default_name", "b")], "default_name", "\"b\"")]
#[case::interval_no_unit(&[("images", "a"), ("interval", "300")], "interval", "not a duration")]
#[case::interval_zero(&[("images", "a"), ("interval", "0s")], "interval", "not a duration")]
#[case::interval_overflow(&[("images", "a"), ("interval", "99999999999999999999h")], "interval", "not a duration")]
#[case::interval_huge(&[("images", "a"), ("interval", "18446744073709551615h")], "interval", "not a duration")]
#[case::strategy(&[("images", "a"), ("strategy", "restart")], "strategy", "restart")]
#[case::update_policy(&[("images", "a"), ("update_policy", "newest")], "update_policy", "\"newest\" is not one of")]
#[case::update_range(&[("images", "a"), ("update_policy", "semver:1x")], "update_policy", "\"1x\" is not a version")]
#[case::tag_filter(&[("images", "a"), ("update_policy", "numeric"), ("tag_filter", "(")], "tag_filter", "not closed")]
#[case::tag_filter_with_digest(&[("images", "a"), ("tag_filter", "^v")], "tag_filter", "has no effect")]
#[case::platform(&[("images", "a"), ("platform", "amd64")], "platform", "linux/amd64")]
fn an_invalid_value_names_its_key(#[case] pairs: &[(&str, &str)], #[case] key: &str, #[case] part: &str) {
    let failure = parse(pairs).expect_err("an invalid value");
    assert_eq!(failure.key.as_deref(), Some(key));
    assert!(failure.message.contains(part), "{}", failure.message);
}

#[rstest]
#[test_attr(any_test)]
#[case::default(None, 300_000)]
#[case::empty(Some(""), 300_000)]
#[case::ms(Some("250ms"), 250)]
#[case::s(Some("30s"), 30_000)]
#[case::m(Some(" 10m "), 600_000)]
#[case::h(Some("1h"), 3_600_000)]
fn intervals_are_durations(#[case] text: Option<&str>, #[case] ms: u64) {
    let mut pairs = vec![("images", "a")];
    pairs.extend(text.map(|text| ("interval", text)));
    assert_eq!(parse(&pairs).expect("good").interval_ms, ms);
}

#[rstest]
#[test_attr(any_test)]
#[case::default(None, "127.0.0.1:5000", "http")]
#[case::default_elsewhere(None, "ghcr.io", "https")]
#[case::listed(Some("r.lan:5000"), "r.lan:5000", "http")]
#[case::a_list_replaces_the_default(Some("r.lan:5000"), "127.0.0.1:5000", "https")]
#[case::both(Some("loopback, r.lan"), "localhost:80", "http")]
fn plain_http_is_for_insecure_registries_only(#[case] value: Option<&str>, #[case] host: &str, #[case] scheme: &str) {
    let mut pairs = vec![("images", "a")];
    pairs.extend(value.map(|value| ("host.insecure_registries", value)));
    assert_eq!(parse(&pairs).expect("good").insecure.scheme(host), scheme);
}

#[any_test]
fn lists_are_split_at_commas_and_blanks_and_keep_their_order() {
    assert_eq!(list(" b,a , b\n c,,"), ["b", "a", "c"]);
}

#[rstest]
#[test_attr(any_test)]
#[case::absent(None, true)]
#[case::empty(Some(""), true)]
#[case::on(Some(" true "), true)]
#[case::off(Some("false"), false)]
#[case::zero(Some("0"), false)]
#[case::capitals(Some("True"), false)]
fn polling_is_on_for_true_and_off_for_any_other_text(#[case] value: Option<&str>, #[case] enabled: bool) {
    let mut pairs = vec![("images", "a")];
    pairs.extend(value.map(|value| ("enabled", value)));
    assert_eq!(parse(&pairs).expect("good").enabled, enabled);
}

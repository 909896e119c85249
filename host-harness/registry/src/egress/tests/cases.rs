//! Test tables of other projects for realms, redirects and links. The tables for headers and scopes are tested in
//! `plugin/core`, and the tables for `config.json` in `credentials`.

use serde_json::Value;

use super::*;

const CASES: &str = include_str!("realm_cases.json");

fn table(name: &str, within: &str) -> Vec<Value> {
    let all: Value = serde_json::from_str(CASES).expect("the file is JSON");
    let table = if within.is_empty() { &all[name] } else { &all[name][within] };
    table.as_array().expect("a table").clone()
}

fn text<'a>(case: &'a Value, key: &str) -> &'a str {
    case[key].as_str().unwrap_or_default()
}

#[test]
fn realms_are_refused_as_in_ggcr() {
    let cases = table("realm_validation_ggcr", "cases");
    assert_eq!(cases.len(), 18);
    for case in cases {
        let registry = Some(text(&case, "registry_host")).filter(|host| !host.is_empty()).unwrap_or("r.example");
        let insecure = if case["insecure"] == true { registry } else { "" };
        let realms = Realms::default();
        realms.learn(registry, &format!("Bearer realm=\"{}\"", text(&case, "realm")));
        let request = HttpRequest { allow_anonymous: true, ..get(text(&case, "realm"), Some(registry)) };
        let checked = rules(registry, insecure, "").check(&request, &realms);
        assert_eq!(Value::from(checked.is_err()), case["reject"], "{case}: {:?}", checked.err());
    }
}

/// One row of distribution's table does not apply here: that a realm on the same registrable domain may receive the
/// credential. In imagewatch, the operator must allow this in `host.auth_realms`.
#[test]
fn credentials_go_to_realms_as_in_distribution_except_the_same_domain() {
    let cases = table("realm_validation_distribution_proxy", "cases");
    assert_eq!(cases.len(), 3);
    for case in cases {
        let registry = text(&case, "remote").trim_start_matches("https://").to_owned();
        let is_same_domain = text(&case, "realm") == "https://auth.example.com/token";
        let request = get(text(&case, "realm"), Some(&registry));
        let is_allowed = check_named(&rules(&registry, "", ""), &request, &registry).is_ok();
        assert_eq!(is_allowed, case["allowed"] == true && !is_same_domain, "{case}");
        let configured = format!("{registry}=auth.example.com");
        let configured = rules(&registry, "", &configured);
        assert!(!is_same_domain || check_named(&configured, &request, &registry).is_ok(), "{case}");
    }
}

#[test]
fn known_realms_are_built_in() {
    for case in table("realm_cross_origin_known_pairs", "") {
        let (registry, realm) = (text(&case, "registry"), text(&case, "auth"));
        let request = get(&format!("https://{realm}/token"), Some(registry));
        let permit = check_named(&rules(registry, "", ""), &request, registry).expect("a known pair");
        assert!(permit.credential.is_some_and(|credential| credential.is_realm), "{case}");
    }
}

#[test]
fn redirects_are_refused_as_in_ggcr() {
    let cases = table("redirects_ggcr", "");
    assert_eq!(cases.len(), 7);
    for case in cases {
        let (from, to) = (text(&case, "from_host"), text(&case, "to"));
        let scheme = if to.starts_with("http:") { "http" } else { "https" };
        let rules = rules(from, &format!("loopback {from}"), "");
        let request = HttpRequest { method: Method::Head, ..get(&format!("{scheme}://{from}/v2/"), None) };
        let permit = check(&rules, &request).expect("the registry itself");
        let checked = rules.check_redirect(&permit, to);
        assert_eq!(Value::from(checked.is_err()), case["blocked"], "{case}: {:?}", checked.err());
    }
}

#[test]
fn a_link_to_a_metadata_address_is_refused() {
    let all: Value = serde_json::from_str(CASES).expect("the file is JSON");
    let case = &all["link_header"]["ssrf_reject"];
    let link = text(case, "link").trim_start_matches('<').split('>').next().unwrap_or_default();
    for (allowed, insecure) in [("registry.example.com", ""), ("*", "169.254.169.254")] {
        let failure = check(&rules(allowed, insecure, ""), &get(link, None)).map(|_| ()).expect_err(link);
        assert!(failure.message.contains("allowed_hosts"), "{failure}");
    }
}

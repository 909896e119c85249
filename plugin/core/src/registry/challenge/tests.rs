//! The table is `data/challenge_cases.json`: the tests of distribution, containerd,
//! go-containerregistry, regclient and oras-go, and challenges of real registries.

use crate::any_test;
use serde_json::Value;

use super::*;

fn data() -> Value {
    serde_json::from_str(include_str!("../../../data/challenge_cases.json")).expect("the table is JSON")
}

fn headers(case: &Value) -> Vec<String> {
    let texts = case["headers"].as_array().expect("headers").iter();
    texts.map(|header| header.as_str().expect("a text").to_owned()).collect()
}

#[any_test]
fn challenges_are_read_as_the_field_reads_them() {
    for case in data()["cases"].as_array().expect("cases") {
        let name = format!("{}: {}", case["source"], case["name"]);
        let parsed: Vec<Parsed> = headers(case).iter().flat_map(|header| parse_challenges(header)).collect();
        // go-containerregistry's rows name the challenge that it takes; oras drops Basic's
        // parameters and unknown schemes; regclient refuses an unclosed quote, where we lose the parameter.
        let Some(expected) = case["expect"].as_array() else {
            assert!(parsed.iter().all(|challenge| !challenge.params.contains_key("realm")), "{name}: {parsed:?}");
            continue;
        };
        for challenge in expected.iter().filter(|challenge| challenge["scheme"] != "unknown") {
            let found = parsed.iter().find(|found| challenge["scheme"] == found.scheme.as_str());
            let found = found.unwrap_or_else(|| panic!("{name}: {parsed:?}"));
            if !(case["source"] == "oras-go" && found.scheme == "basic") {
                let params = serde_json::to_value(&found.params).expect("a map of texts");
                assert_eq!(params, challenge["params"], "{name}");
            }
        }
    }
}

#[any_test]
fn challenges_of_real_registries_lead_to_their_realm_or_to_basic() {
    for case in data()["observed_registry_challenges"].as_array().expect("cases") {
        let header = case["header"].as_str().expect("a header");
        let chosen = choose(&[header]);
        if header.to_lowercase().contains("bearer") {
            let Some(Asked { challenge: Challenge::Bearer { realm, .. }, .. }) = chosen else {
                panic!("{header}: {chosen:?}")
            };
            assert!(header.contains(&format!("\"{realm}\"")), "{header}: {realm}");
        } else {
            assert_eq!(chosen.map(|asked| asked.challenge), Some(Challenge::Basic), "{header}");
        }
    }
}

#[any_test]
fn a_scope_of_the_registrys_own_kind_is_told_from_a_repositorys() {
    for (header, general, own) in [
        (r#"Bearer realm="https://public.ecr.aws/token/",service="public.ecr.aws",scope="aws""#, Some("aws"), None),
        (r#"Bearer realm="https://g/v2/token",service="container_registry",scope="*""#, Some("*"), None),
        (r#"Bearer realm="https://g/token",scope="repository:o/a:pull""#, None, Some("repository:o/a:pull")),
        (r#"Bearer realm="https://g/token",scope="repository:o/a:pull,push""#, None, Some("repository:o/a:pull")),
        (r#"Bearer realm="https://g/token",scope="repository:o/a:*""#, None, Some("repository:o/a:pull")),
        (
            r#"Bearer realm="https://g/token",scope="repository:o/a:delete,content_read,pull repository:b:push""#,
            None,
            Some("repository:o/a:content_read,pull repository:b:pull"),
        ),
        (
            r#"Bearer realm="https://g/token",scope="repository:o/a:metadata_read,metadata_write registry:catalog:*""#,
            None,
            Some("repository:o/a:metadata_read"),
        ),
        (r#"Bearer realm="https://ghcr.io/token",scope="""#, None, None),
    ] {
        let Some(Asked { challenge: Challenge::Bearer { scope, .. }, scope: of_repository, .. }) = choose(&[header])
        else {
            panic!("{header}")
        };
        assert_eq!((scope.as_deref(), of_repository.as_deref()), (general, own), "{header}");
    }
}

#[any_test]
fn cut_and_mangled_headers_end_without_a_panic() {
    for case in data()["cases"].as_array().expect("cases") {
        for header in headers(case) {
            for (end, _) in header.char_indices() {
                choose(&[
                    &header[..end],
                    &header[end..],
                    &header[..end].replace('"', "="),
                    &header[end..].replace(',', "\\"),
                ]);
            }
        }
    }
}

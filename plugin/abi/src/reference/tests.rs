//! The cases are in `data/reference_cases.json`: the inputs and results of distribution/reference's own tests. The file
//! names the commit and the licence. These groups do not apply:
//! - `with_tag`, `with_digest`: they test builders of another library, with digests of 37 digits, which are invalid
//!   here.
//! - `familiar_match`, `familiar_match_bad_pattern`: they test patterns over names. No code here matches names by
//!   pattern.
//! - The failing rows of `parse_named_canonical_only`, and the rows with a tag of `full_name_regexp`: they require a
//!   name that is already normalised. This parser normalises every name.
//! - Rows that allow sha256 only: this parser also accepts sha512.

use proptest::prelude::*;
use serde_json::Value;

use super::*;

#[test]
fn references_normalise_as_docker_does() {
    let digest = format!("sha256:{}", "a".repeat(64));
    for (text, canonical, api_host) in [
        ("nginx", "docker.io/library/nginx", "registry-1.docker.io"),
        ("nginx:1.27", "docker.io/library/nginx:1.27", "registry-1.docker.io"),
        ("index.docker.io/me/app", "docker.io/me/app", "registry-1.docker.io"),
        ("ghcr.io/o/workspace-template-codex:latest", "ghcr.io/o/workspace-template-codex:latest", "ghcr.io"),
        ("127.0.0.1:5000/app:v1", "127.0.0.1:5000/app:v1", "127.0.0.1:5000"),
        ("localhost/app", "localhost/app", "localhost"),
        ("[::1]:5000/app", "[::1]:5000/app", "[::1]:5000"),
        (&format!("app:v1@{digest}"), &format!("docker.io/library/app:v1@{digest}"), "registry-1.docker.io"),
    ] {
        let reference: Reference = text.parse().expect(text);
        assert_eq!(reference.to_string(), canonical);
        assert_eq!(reference.api_host(), api_host, "{text}");
        assert_eq!(canonical.parse::<Reference>().expect(canonical), reference, "display parses back");
    }
}

#[test]
fn malformed_references_are_refused_with_the_reason() {
    for (text, part) in [
        ("", "it is empty"),
        ("UPPER", "repository"),
        ("a//b", "repository"),
        ("a:-tag", "tag"),
        ("https://ghcr.io/o/a", "host"),
        ("ghcr.io/o/a b", "repository"),
        ("a@sha256:short", "digest"),
        (&"a".repeat(64), "image id"),
        (&format!("sha256:{}", "a".repeat(64)), "image id"),
        (&format!("x/{}", "b".repeat(254)), "255"),
        ("-host.io/a", "host"),
        ("host.io:port/a", "host"),
        ("[::1/a", "host"),
        ("[A b?c/a", "host"),
    ] {
        let error = text.parse::<Reference>().expect_err(text).to_string();
        assert!(error.contains(part), "{text}: {error}");
    }
}

#[test]
fn only_loopback_names_and_addresses_are_this_machine() {
    for host in ["localhost", "localhost:5000", "a.localhost", "127.0.0.1:80", "127.9.9.9", "[::1]:5000"] {
        assert!(is_loopback_host(host), "{host}");
    }
    for host in ["ghcr.io", "10.0.0.1", "127.0.0.1.evil.com", "localhost.evil.com", "0.0.0.0", "x.local", "[::2]"] {
        assert!(!is_loopback_host(host), "{host}");
    }
}

fn data() -> Value {
    serde_json::from_str(include_str!("../../data/reference_cases.json")).expect("the table is JSON")
}

fn rows(group: &str) -> Vec<Value> {
    data()[group].as_array().unwrap_or_else(|| panic!("no group {group}")).clone()
}

fn text<'a>(row: &'a Value, key: &str) -> &'a str {
    row[key].as_str().unwrap_or_default()
}

/// How Docker normalises a raw domain and path: a domain that does not look like a host is part of a Docker Hub path.
fn normalized_name(domain: &str, name: &str) -> String {
    if domain.contains(['.', ':']) || domain == "localhost" || domain.chars().any(|c| c.is_ascii_uppercase()) {
        return name.to_owned();
    }
    if name.contains('/') { format!("docker.io/{name}") } else { format!("docker.io/library/{name}") }
}

fn is_refused(text: &str) -> bool {
    text.parse::<Reference>().is_err()
}

#[test]
fn references_of_the_reference_library_parse() {
    for row in rows("parse") {
        let input = text(&row, "input");
        let parsed = input.parse::<Reference>();
        let name = normalized_name(text(&row, "domain"), text(&row, "repository"));
        // For Docker Hub, the length limit applies to the path with the domain.
        let is_too_long = name.split_once('/').is_some_and(|(_, path)| path.len() > MAX_REPOSITORY);
        if input.contains("@sha512:") {
            assert!(parsed.is_ok_and(|reference| reference.digest().is_some()), "{input}");
        } else if !row["error"].is_null() || is_too_long {
            assert!(parsed.is_err(), "{row}");
        } else {
            let parsed = parsed.unwrap_or_else(|error| panic!("{error}"));
            let digest = parsed.digest().map_or("", Digest::as_str);
            let tag = parsed.tag.as_deref().unwrap_or_default();
            assert_eq!((parsed.name(), tag, digest), (name, text(&row, "tag"), text(&row, "digest")), "{input}");
        }
    }
}

#[test]
fn invalid_references_of_the_reference_library_are_refused() {
    for row in rows("normalized_invalid") {
        assert!(is_refused(row.as_str().expect("text")), "{row}");
    }
    for row in rows("with_name_failure") {
        // A name with a tag is not a name, but it is a valid reference.
        assert!(text(&row, "input") == "example.com/repo:tag" || is_refused(text(&row, "input")), "{row}");
    }
    for row in rows("full_name_regexp") {
        let input = text(&row, "input");
        assert!(row["match"] == true || input == "foo_bar.com:8080" || is_refused(input), "{row}");
    }
    for row in rows("identifier_regexp") {
        assert!(row["match"] == false || is_refused(text(&row, "input")), "{row}");
    }
    let components = &data()["invalid_components"];
    for (key, before) in [("tag", "a:"), ("digest", "a@"), ("name", "")] {
        for part in components[key].as_array().expect("texts") {
            assert!(is_refused(&format!("{before}{}", part.as_str().expect("text"))), "{key} {part}");
        }
    }
}

#[test]
fn references_of_the_reference_library_are_split_and_normalised() {
    for row in rows("normalized_valid") {
        assert!(!is_refused(row.as_str().expect("text")), "{row}");
    }
    for group in ["normalized_split", "domain_and_path"] {
        for row in rows(group) {
            let parsed: Reference = text(&row, "input").parse().unwrap_or_else(|error| panic!("{error}"));
            let domain = if text(&row, "domain").is_empty() { DOCKER_HUB } else { text(&row, "domain") };
            assert_eq!((parsed.registry(), parsed.repository()), (domain, text(&row, "path")), "{row}");
        }
    }
    for row in rows("repository_info") {
        for key in ["familiar_name", "full_name", "ambiguous_name"] {
            if !text(&row, key).is_empty() {
                let parsed: Reference = text(&row, key).parse().unwrap_or_else(|error| panic!("{error}"));
                assert_eq!(parsed.name(), text(&row, "full_name"), "{row}");
                assert_eq!((parsed.registry(), parsed.repository()), (text(&row, "domain"), text(&row, "remote_name")));
            }
        }
    }
    for row in rows("full_name_regexp").iter().filter(|row| row["match"] == true) {
        assert!(!is_refused(text(row, "input")), "{row}");
    }
    for row in rows("parse_named_canonical_only").iter().filter(|row| row["error"].is_null()) {
        // Two of these rows are canonical by grammar only: Docker treats a name without a dot and a port as a path on
        // Docker Hub.
        let name = normalized_name(text(row, "domain"), text(row, "input"));
        assert_eq!(text(row, "input").parse::<Reference>().map(|reference| reference.to_string()), Ok(name), "{row}");
    }
}

#[test]
fn tags_and_digests_of_the_reference_library_are_kept() {
    for row in rows("parse_docker_ref") {
        let parsed: Reference = text(&row, "input").parse().unwrap_or_else(|error| panic!("{error}"));
        // The reference library drops the tag if a digest is present. Here both stay, because the tag says what to
        // follow.
        let shown = match parsed.digest() {
            Some(digest) => parsed.at(digest).to_string(),
            None => parsed.with_explicit_tag().to_string(),
        };
        assert_eq!(shown, text(&row, "expected"), "{row}");
    }
    for row in rows("reference_regexp") {
        let parsed = text(&row, "input").parse::<Reference>();
        if row["match"] == false {
            assert!(parsed.is_err(), "{row}");
            continue;
        }
        let parsed = parsed.unwrap_or_else(|error| panic!("{error}"));
        let parts = &row["name_tag_digest"];
        assert_eq!(parsed.tag.as_deref().unwrap_or_default(), parts[1].as_str().expect("text"), "{row}");
        assert_eq!(parsed.digest().map_or("", Digest::as_str), parts[2].as_str().expect("text"), "{row}");
        assert!(parsed.name().ends_with(parts[0].as_str().expect("text")), "{row}");
    }
    for row in rows("serialization") {
        let parsed = serde_json::from_value::<Reference>(row["input"].clone());
        if row["error"].is_null() {
            let parsed = parsed.unwrap_or_else(|error| panic!("{error}"));
            assert_eq!(serde_json::to_value(&parsed).expect("text"), row["input"]);
        } else {
            assert!(parsed.is_err(), "{row}");
        }
    }
}

#[test]
fn hosts_of_the_reference_library_are_parsed() {
    for row in rows("domain_regexp") {
        let domain = text(&row, "input");
        let looks_like_a_host = normalized_name(domain, "x") == "x";
        // This row matches there, but it is not an IPv6 address, so no host has it.
        let is_expected = row["match"] == true && domain != "[fd00123123123]:75050";
        if looks_like_a_host {
            assert_eq!(!is_refused(&format!("{domain}/a")), is_expected, "{row}");
        }
    }
}

proptest! {
    #[test]
    fn any_text_parses_without_a_panic(text in any::<String>()) {
        let _ = text.parse::<Reference>();
        let _ = text.parse::<Digest>();
        is_loopback_host(&text);
    }

    #[test]
    fn a_displayed_reference_parses_back_to_itself(text in "([a-zA-Z0-9.:\\[\\]-]{0,12}/)?[a-z0-9._/-]{0,20}(:[\\w.-]{0,8})?(@sha256:[0-9a-f]{64})?") {
        if let Ok(reference) = text.parse::<Reference>() {
            prop_assert_eq!(reference.to_string().parse::<Reference>(), Ok(reference));
        }
    }
}

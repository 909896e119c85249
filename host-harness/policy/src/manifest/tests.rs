//! Tests of manifests: what is read, what is refused, and that each error names the file and the key.

use std::time::Duration;

use rstest::rstest;

use super::*;

fn env(name: &str) -> Option<String> {
    (name == "REGISTRY").then(|| "r.lan:5000/org".to_owned())
}

fn parse(text: &str) -> Result<PluginManifest, ManifestError> {
    PluginManifest::parse("m", "m.json", text, &env)
}

#[test]
fn variables_are_expanded_in_config_and_allowed_hosts() {
    let manifest = parse(
        r#"{"wasm": [{"path": "p.wasm", "hash": "00"}], "allowed_hosts": ["${REGISTRY}", "${NO:-ghcr.io}"],
            "config": {"prefix": "${REGISTRY:-x}", "host.http_timeout": "3s", "grant.images": "${REGISTRY}/*"}}"#,
    )
    .expect("a good manifest");
    assert_eq!(manifest.allowed_hosts, ["r.lan:5000/org", "ghcr.io"]);
    assert_eq!(manifest.config["prefix"], "r.lan:5000/org");
    assert_eq!(manifest.host.http_timeout, Duration::from_secs(3));
    assert_eq!((manifest.wasm, manifest.hash), (WasmSource::File("p.wasm".into()), Some("00".to_owned())));
    assert!(manifest.grants.has_image(&"r.lan:5000/org/a".parse().expect("a reference")));
    assert_eq!(manifest.memory_pages, DEFAULT_MEMORY_PAGES);
}

#[test]
fn a_manifest_without_grants_grants_nothing() {
    let manifest = parse(r#"{"wasm": [{"path": "p.wasm"}]}"#).expect("a good manifest");
    assert_eq!(manifest.allowed_hosts, Vec::<String>::new());
    assert!(!manifest.grants.has_image(&"nginx".parse().expect("a reference")));
}

const WASM: &str = r#""wasm": [{"path": "p.wasm"}]"#;

#[rstest]
#[case::no_json("{", "line 1")]
#[case::unknown_field(r#"{"wasm": [], "wasmm": 1}"#, "unknown field `wasmm`")]
#[case::config_value_not_text(r#"{"config": {"interval": 5}}"#, "invalid type")]
#[case::no_module(r#"{"wasm": []}"#, "exactly one module")]
#[case::two_modules(r#"{"wasm": [{"path": "a"}, {"path": "b"}]}"#, "exactly one module")]
#[case::url(r#"{"wasm": [{"url": "https://evil/p.wasm"}]}"#, "by `path`")]
#[case::files(&format!(r#"{{{WASM}, "allowed_paths": {{"/": "/"}}}}"#), "allowed_paths")]
#[case::timeout(&format!(r#"{{{WASM}, "timeout_ms": 5}}"#), "host.fuel")]
#[case::host_with_a_scheme(&format!(r#"{{{WASM}, "allowed_hosts": ["https://ghcr.io/org"]}}"#), "write \"ghcr.io\"")]
#[case::host_variable(&format!(r#"{{{WASM}, "allowed_hosts": ["${{NO}}"]}}"#), "`allowed_hosts`: environment variable NO is not set")]
#[case::config_variable(&format!(r#"{{{WASM}, "config": {{"a": "${{NO}}"}}}}"#), "key `a` (written as ${NO})")]
#[case::unknown_host_key(&format!(r#"{{{WASM}, "config": {{"host.timeout": "1s"}}}}"#), "key `host.timeout`: is unknown; the host reads grant.images")]
#[case::unknown_grant(&format!(r#"{{{WASM}, "config": {{"grant.hosts": "x"}}}}"#), "key `grant.hosts`: is unknown")]
#[case::duration(&format!(r#"{{{WASM}, "config": {{"host.http_timeout": "10"}}}}"#), "key `host.http_timeout`: \"10\" is not a duration")]
#[case::fuel(&format!(r#"{{{WASM}, "config": {{"host.fuel": "0"}}}}"#), "key `host.fuel`")]
#[case::container_grant(&format!(r#"{{{WASM}, "config": {{"grant.containers": "web"}}}}"#), "key `grant.containers`: \"web\" is neither")]
fn errors_of_bad_manifests_name_the_file_and_the_key(#[case] text: &str, #[case] part: &str) {
    let error = parse(text).expect_err("a bad manifest").to_string();
    assert!(error.contains(part) && error.contains("m.json"), "{error}");
}

#[test]
fn a_missing_file_is_named_in_the_error() {
    let error = PluginManifest::read(Path::new("/nowhere/x.json"), &env).expect_err("no file").to_string();
    assert!(error.contains("/nowhere/x.json") && error.contains("check the path"), "{error}");
}

#[test]
fn an_unknown_config_key_is_refused() {
    let manifest = parse(&format!(r#"{{{WASM}, "config": {{"intervall": "5m", "host.fuel": "1"}}}}"#)).expect("parses");
    let known =
        ConfigKey { key: "interval".to_owned(), kind: String::new(), default: String::new(), doc: String::new() };
    let error = manifest.check_keys(&[known]).expect_err("an unknown key").to_string();
    assert!(error.contains("`intervall`: is unknown; the policy reads interval"), "{error}");
}

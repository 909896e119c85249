//! What is loaded and what is refused, with modules written inline and the one built in.

use std::collections::BTreeSet;

use imagewatch_abi::{ABI_SECTION, HOST_NAMESPACE};
use rstest::rstest;
use tempfile::TempDir;

use super::*;

/// A module with the four exports; `body` goes into `describe`, `imports` before all.
fn module(abi: &str, imports: &str, body: &str) -> Vec<u8> {
    let text = format!(
        r#"(module {imports}
            (memory (export "memory") 1)
            (func (export "describe") (result i32) {body})
            (func (export "poll") (result i32) i32.const 0)
            (func (export "settle") (result i32) i32.const 0)
            (func (export "refresh") (result i32) i32.const 0)
            (@custom "{ABI_SECTION}" "{abi}"))"#
    );
    wat::parse_str(text).expect("the test's module is good WAT")
}

fn load_bytes(wasm: &[u8], more: &str) -> Result<LoadedPlugin, PluginError> {
    let folder = TempDir::new().expect("a folder");
    let path = folder.path().join("p.wasm");
    std::fs::write(&path, wasm).expect("a file");
    let text = format!(r#"{{"wasm": [{{"path": {path:?}{more}}}], "config": {{"host.fuel": "2000000"}}}}"#);
    load(&PluginManifest::parse("m", "m.json", &text, &|_| None).expect("a good manifest"))
}

fn embedded(config: &str) -> Result<LoadedPlugin, PluginError> {
    let text = format!(r#"{{"wasm": [{{"path": "x"}}], "config": {{{config}}}}}"#);
    let manifest = PluginManifest::parse("m", "m.json", &text, &|_| None).expect("a good manifest");
    load(&manifest.with_embedded())
}

#[test]
fn the_built_in_policy_loads_and_describes_its_targets() {
    let loaded = embedded(r#""images": "ghcr.io/o/a", "interval": "30s""#).expect("loads");
    assert_eq!(loaded.description.interval_ms, 30_000);
    assert_eq!(loaded.description.targets[0].reference.to_string(), "ghcr.io/o/a:latest");
    assert!(loaded.description.enabled);
}

#[test]
fn the_built_in_policy_imports_the_closed_list_and_nothing_else() {
    let info = inspect(EMBEDDED).expect("a module");
    assert_eq!(info.foreign_imports(), Vec::<&str>::new());
    assert_eq!(info.abi, Some(ABI_VERSION));
    let user: BTreeSet<&str> =
        info.imports.iter().filter_map(|import| import.strip_prefix(HOST_NAMESPACE)).map(str::trim).collect();
    assert_eq!(user, BTreeSet::from(["docker_containers", "docker_refresh", "host_log", "http_send"]));
    let wasi = info.imports.iter().filter(|import| import.starts_with("wasi_snapshot_preview1 ")).count();
    assert_eq!(wasi, 4);
    assert!(info.imports.len() <= 4 + 4 + 15, "{:?}", info.imports);
}

#[rstest]
#[case::unknown_key(r#""imagess": "a""#, "config key `imagess`: is not known; the policy reads enabled")]
#[case::bad_value(r#""images": "UPPER""#, "config key `images`: invalid image reference \"UPPER\"")]
#[case::nothing_to_watch("", "config key `names`: nothing to watch")]
fn config_that_the_policy_cannot_use_names_the_key(#[case] config: &str, #[case] part: &str) {
    let error = embedded(config).expect_err("refused").to_string();
    assert!(error.contains(part), "{error}");
}

#[rstest]
#[case::empty(b"".to_vec(), "does not start as a wasm module")]
#[case::text(b"(module)".to_vec(), "does not start as a wasm module")]
#[case::truncated(EMBEDDED[..EMBEDDED.len() / 2].to_vec(), "no valid wasm module")]
#[case::garbled([EMBEDDED, b"garbage"].concat(), "no valid wasm module")]
#[case::foreign_import(module("1", r#"(import "env" "open" (func))"#, "i32.const 0"), "imports `env open`")]
#[case::wasi_clock(
    module("1", r#"(import "wasi_snapshot_preview1" "clock_time_get" (func))"#, "i32.const 0"),
    "clock_time_get"
)]
#[case::extism_http(module("1", r#"(import "extism:host/env" "http_request" (func))"#, "i32.const 0"), "http_request")]
#[case::memory_import(module("1", r#"(import "extism:host/env" "alloc" (global i32))"#, "i32.const 0"), "no function")]
#[case::other_abi(module("2", "", "i32.const 0"), "ABI 2, this host speaks ABI 1")]
#[case::abi_is_no_number(module("x", "", "i32.const 0"), "declares no ABI version")]
#[case::missing_export(wat::parse_str(format!(r#"(module (@custom "{ABI_SECTION}" "1"))"#)).expect("WAT"), "does not export `describe`")]
#[case::says_nothing(module("1", "", "i32.const 0"), "returned nonsense")]
#[case::traps(module("1", "", "unreachable"), "`describe`")]
#[case::never_ends(module("1", "", "(loop (br 0)) i32.const 0"), "fuel")]
fn modules_that_are_no_policy_are_refused_with_the_reason(#[case] wasm: Vec<u8>, #[case] part: &str) {
    let error = load_bytes(&wasm, "").expect_err("refused").to_string();
    assert!(error.contains(part), "{error}");
    assert!(error.contains("m.json") && error.contains("p.wasm"), "{error}");
}

#[test]
fn a_module_with_another_hash_is_refused_before_it_is_looked_at() {
    let error = load_bytes(b"anything", r#", "hash": "00ff""#).expect_err("refused").to_string();
    assert!(error.contains("manifest's `hash` is 00ff"), "{error}");
}

#[test]
fn a_module_with_the_right_hash_is_loaded() {
    let hash = inspect(EMBEDDED).expect("a module").sha256;
    let error = load_bytes(EMBEDDED, &format!(r#", "hash": "{hash}""#)).expect_err("nothing to watch").to_string();
    assert!(error.contains("nothing to watch"), "{error}");
}

#[test]
fn a_missing_module_is_named_with_the_step_that_builds_it() {
    let manifest = PluginManifest::parse("m", "m.json", r#"{"wasm": [{"path": "/nowhere/p.wasm"}]}"#, &|_| None);
    let error = load(&manifest.expect("a good manifest")).expect_err("no file").to_string();
    assert!(error.contains("/nowhere/p.wasm") && error.contains("cargo xtask plugin"), "{error}");
}

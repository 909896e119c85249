//! Tests of loading: which modules are loaded and which are refused. They use inline modules and the built-in module.

use std::collections::BTreeSet;

use imagewatch_abi::{ABI_SECTION, HOST_NAMESPACE, host_functions};
use rstest::rstest;
use tempfile::TempDir;

use super::*;
use crate::inline::{ASKS_FOR_ALL, Inline};

/// A module with the given ABI version, extra fields and body of `describe`.
fn module(abi: &'static str, fields: &str, describe: &str) -> Vec<u8> {
    Inline { abi, fields: fields.to_owned(), describe: describe.to_owned(), ..Inline::default() }.build()
}

fn asking(capabilities: &str) -> Vec<u8> {
    Inline { capabilities: capabilities.to_owned(), ..Inline::default() }.build()
}

const DESCRIBE_NOTHING: &str = "";
const UNHASHED: &str = r#""host.allow_unhashed": "true", "host.fuel": "2000000""#;

/// Writes `wasm` to `p.wasm` in `folder` and loads it.
fn load_in(folder: &TempDir, wasm: &[u8], more: &str, config: &str) -> Result<LoadedPlugin, PluginError> {
    let path = folder.path().join("p.wasm");
    std::fs::write(&path, wasm).expect("a file");
    let text = format!(r#"{{"wasm": [{{"path": {path:?}{more}}}], "config": {{{config}}}}}"#);
    load(&PluginManifest::parse("m", "m.json", &text, &|_| None).expect("a good manifest"))
}

fn load_bytes(wasm: &[u8], config: &str) -> Result<LoadedPlugin, PluginError> {
    load_in(&TempDir::new().expect("a folder"), wasm, "", config)
}

/// Returns the result of `load` and the number of compilations.
fn counted<T>(load: impl FnOnce() -> T) -> (T, usize) {
    let before = COMPILATIONS.with(std::cell::Cell::get);
    let result = load();
    (result, COMPILATIONS.with(std::cell::Cell::get) - before)
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
fn the_built_in_policy_imports_only_allowed_functions() {
    let info = inspect(EMBEDDED).expect("a module");
    assert_eq!(info.foreign_imports().len(), 0);
    assert_eq!(info.abi, Some(ABI_VERSION));
    let user: BTreeSet<&str> =
        info.imports.iter().filter_map(|import| import.raw().strip_prefix(HOST_NAMESPACE)).map(str::trim).collect();
    assert_eq!(user, BTreeSet::from(["docker_containers", "docker_refresh", "host_log", "http_send"]));
    let wasi = info.imports.iter().filter(|import| import.raw().starts_with("wasi_snapshot_preview1 ")).count();
    assert_eq!(wasi, 4);
    assert!(info.imports.len() <= 4 + 4 + 15, "{:?}", info.imports);
}

#[rstest]
#[case::unknown_key(r#""imagess": "a""#, "config key `imagess`: is unknown; the policy reads enabled")]
#[case::bad_value(r#""images": "UPPER""#, "config key `images`: invalid image reference \"UPPER\"")]
#[case::nothing_to_watch("", "config key `names`: nothing to watch")]
fn errors_about_config_name_the_key(#[case] config: &str, #[case] part: &str) {
    let error = embedded(config).expect_err("refused").to_string();
    assert!(error.contains(part), "{error}");
}

#[rstest]
#[case::empty(b"".to_vec(), "does not start like a wasm module")]
#[case::text(b"(module)".to_vec(), "does not start like a wasm module")]
#[case::truncated(EMBEDDED[..EMBEDDED.len() / 2].to_vec(), "not a valid wasm module")]
#[case::garbled([EMBEDDED, b"garbage"].concat(), "not a valid wasm module")]
#[case::foreign_import(module("1", r#"(import "env" "open" (func))"#, DESCRIBE_NOTHING), "imports `env open`")]
#[case::wasi_clock(
    module("1", r#"(import "wasi_snapshot_preview1" "clock_time_get" (func))"#, DESCRIBE_NOTHING),
    "clock_time_get"
)]
#[case::extism_http(
    module("1", r#"(import "extism:host/env" "http_request" (func))"#, DESCRIBE_NOTHING),
    "http_request"
)]
#[case::memory_import(
    module("1", r#"(import "extism:host/env" "alloc" (global i32))"#, DESCRIBE_NOTHING),
    "not a function"
)]
#[case::other_abi(module("2", "", DESCRIBE_NOTHING), "ABI 2, but this host uses ABI 1")]
#[case::abi_is_not_a_number(module("x", "", DESCRIBE_NOTHING), "declares no ABI version")]
#[case::two_abis(module("1", r#"(@custom "imagewatch.abi" "2")"#, DESCRIBE_NOTHING), "two sections `imagewatch.abi`")]
#[case::endless_table(module("1", "(table 1 funcref)", DESCRIBE_NOTHING), "tables may grow beyond")]
#[case::large_tables(
    module("1", "(table 60000 60000 funcref) (table 1 60000 externref)", DESCRIBE_NOTHING),
    "tables may grow"
)]
#[case::collected_garbage(module("1", "(type (struct (field i64)))", DESCRIBE_NOTHING), "not a valid wasm module")]
#[case::shared_memory(module("1", "(memory 1 10 shared)", DESCRIBE_NOTHING), "not a valid wasm module")]
#[case::missing_export(wat::parse_str(format!(r#"(module (@custom "{ABI_SECTION}" "1"))"#)).expect("WAT"), "does not export `describe`")]
#[case::malformed_capabilities(asking("{}"), "its section `imagewatch.capabilities` is malformed")]
#[case::imports_more_than_it_declares(asking(&ASKS_FOR_ALL.replace(r#", "http_send""#, "")), "imports `http_send`, which")]
#[case::host(asking(&ASKS_FOR_ALL.replace(r#""hosts": "any""#, r#""hosts": ["evil.io"]"#)), "requests hosts evil.io")]
#[case::container(asking(&ASKS_FOR_ALL.replace(r#""containers": "any""#, r#""containers": ["*"]"#)), "requests containers *")]
fn invalid_modules_are_refused_with_the_reason_and_never_compiled(#[case] wasm: Vec<u8>, #[case] part: &str) {
    let (loaded, compilations) = counted(|| load_bytes(&wasm, UNHASHED));
    let error = loaded.expect_err("refused").to_string();
    assert!(error.contains(part), "{error}");
    assert!(error.contains("m.json") && error.contains("p.wasm"), "{error}");
    assert_eq!(compilations, 0);
}

#[rstest]
#[case::no_output(DESCRIBE_NOTHING, "returned invalid output")]
#[case::traps("unreachable", "`describe`")]
#[case::never_ends("(loop (br 0))", "fuel")]
#[case::calls_host_functions("(drop (call $docker_containers «{}»)) (call $output «{}»)", "invalid output")]
#[case::describes_another_abi(
    r#"(call $output «{"name": "a", "version": "1", "abi": 2, "config_keys": []}»)"#,
    "describes itself as ABI 2"
)]
fn modules_with_an_invalid_describe_are_refused(#[case] describe: &str, #[case] part: &str) {
    let error = load_bytes(&module("1", "", describe), UNHASHED).expect_err("refused").to_string();
    assert!(error.contains(part), "{error}");
}

#[test]
fn a_module_without_declared_capabilities_is_refused() {
    let text = r#"(module (func (export "describe")) (func (export "poll")) (func (export "settle")) (func (export "refresh"))
        (@custom "imagewatch.abi" "1"))"#;
    let error = load_bytes(&wat::parse_str(text).expect("WAT"), UNHASHED).expect_err("refused").to_string();
    assert!(error.contains("does not declare its capabilities"), "{error}");
}

#[rstest]
#[case::strategy(r#""grant.strategies": "notify pull-only""#, "requests strategies replace, start-first, remove")]
#[case::function(r#""grant.functions": "http_send""#, "requests functions docker_containers, docker_refresh, host_log")]
fn a_module_that_requests_more_than_is_granted_is_never_compiled(#[case] config: &str, #[case] part: &str) {
    let (loaded, compilations) = counted(|| embedded(&format!(r#""images": "a", {config}"#)));
    let error = loaded.expect_err("refused").to_string();
    assert!(error.contains(part), "{error}");
    assert_eq!(compilations, 0);
}

#[test]
fn the_built_in_policy_declares_the_functions_that_it_imports() {
    let info = inspect(EMBEDDED).expect("a module");
    let capabilities = info.validate().expect("it is a policy");
    let mut functions = capabilities.functions.clone();
    functions.sort();
    assert_eq!(functions, host_functions::ALL);
}

const OTHER_HASH: &str = r#", "hash": "00ff""#;

#[rstest]
#[case::another_hash(OTHER_HASH, UNHASHED, "manifest's `hash` is 00ff")]
#[case::no_hash("", r#""host.allow_unhashed": "false""#, "the manifest has no `hash` for it")]
fn a_module_without_the_right_hash_is_refused_before_parsing(
    #[case] hash: &str,
    #[case] config: &str,
    #[case] part: &str,
) {
    let folder = TempDir::new().expect("a folder");
    let (loaded, compilations) = counted(|| load_in(&folder, b"anything", hash, config));
    let error = loaded.expect_err("refused").to_string();
    assert!(error.contains(part) && error.contains("sha256") | error.contains(&sha256_hex(b"anything")), "{error}");
    assert_eq!(compilations, 0);
}

#[test]
fn a_module_with_its_hash_is_loaded_and_the_built_in_needs_none() {
    let folder = TempDir::new().expect("a folder");
    let wasm = Inline::default().build();
    let hash = format!(r#", "hash": "{}""#, sha256_hex(&wasm).to_uppercase());
    let (loaded, compilations) = counted(|| load_in(&folder, &wasm, &hash, ""));
    assert_eq!((loaded.expect("loads").title().to_string(), compilations), ("inline 1".to_owned(), 1));
    let error = load_in(&folder, EMBEDDED, "", "").expect_err("nothing to watch").to_string();
    assert!(error.contains("nothing to watch"), "{error}");
}

struct Signer(minisign::KeyPair);

impl Signer {
    fn new() -> Self {
        Self(minisign::KeyPair::generate_unencrypted_keypair().expect("random numbers"))
    }

    fn config(&self) -> String {
        format!(r#"{UNHASHED}, "host.signature_key": "{}""#, self.0.pk.to_base64())
    }

    fn sign(&self, folder: &TempDir, wasm: &[u8]) {
        let signature = minisign::sign(None, &self.0.sk, wasm, None, None).expect("it signs").into_string();
        std::fs::write(folder.path().join("p.wasm.minisig"), signature).expect("a file");
    }
}

#[test]
fn only_a_module_with_a_valid_signature_is_compiled() {
    let (folder, trusted, foreign) = (TempDir::new().expect("a folder"), Signer::new(), Signer::new());
    let wasm = Inline::default().build();
    let try_it = |wasm: &[u8]| counted(|| load_in(&folder, wasm, "", &trusted.config()));
    let refused_for = |wasm: &[u8], part: &str| {
        let (loaded, compilations) = try_it(wasm);
        let error = loaded.expect_err("refused").to_string();
        assert!(error.contains(part) && error.contains("p.wasm.minisig"), "{error}");
        assert_eq!(compilations, 0);
    };
    refused_for(&wasm, "cannot be read");
    refused_for(EMBEDDED, "cannot be read");
    std::fs::write(folder.path().join("p.wasm.minisig"), "trust me").expect("a file");
    refused_for(&wasm, "is not a minisign signature");
    foreign.sign(&folder, &wasm);
    refused_for(&wasm, "does not match `host.signature_key`");
    trusted.sign(&folder, &wasm);
    assert_eq!(try_it(&wasm).1, 1);
    assert!(try_it(&wasm).0.is_ok());
    refused_for(&[&wasm[..], b"\0\x02\x01a"].concat(), "does not match `host.signature_key`");
}

#[test]
fn an_invalid_signature_key_is_named_in_the_error() {
    let folder = TempDir::new().expect("a folder");
    let config = format!(r#"{UNHASHED}, "host.signature_key": "secret""#);
    let error = load_in(&folder, &Inline::default().build(), "", &config).expect_err("refused").to_string();
    assert!(error.contains("`host.signature_key` is not a minisign public key"), "{error}");
}

#[test]
fn a_missing_module_is_named_with_the_command_that_builds_it() {
    let manifest = PluginManifest::parse("m", "m.json", r#"{"wasm": [{"path": "/nowhere/p.wasm"}]}"#, &|_| None);
    let error = load(&manifest.expect("a good manifest")).expect_err("no file").to_string();
    assert!(error.contains("/nowhere/p.wasm") && error.contains("cargo xtask plugin"), "{error}");
}

//! Hostile policies that call what moves bytes with numbers that name nothing: one module for each function, number and
//! place among the host functions. Each ends as its row says, at once, and the host goes on.

use std::collections::BTreeMap;
use std::sync::Arc;

use imagewatch_abi::exports;
use rstest::rstest;

use super::scene::Scene;
use imagewatch_policy::inline::{ASKS_FOR_ALL, Inline, MEMORY_EXPLOITS};
use imagewatch_policy::{Effects, FaultKind, PluginError, PluginManifest, call_bytes, load};

/// More imports than a policy that is written inline has.
const IMPORTS: &str = r#"(import "extism:host/env" "free" (func $free (param i64)))
    (import "extism:host/env" "length_unsafe" (func $length_unsafe (param i64) (result i64)))
    (import "extism:host/env" "load_u8" (func $load_u8 (param i64) (result i32)))
    (import "extism:host/env" "load_u64" (func $load_u64 (param i64) (result i64)))
    (import "extism:host/env" "store_u64" (func $store_u64 (param i64 i64)))
    (import "extism:host/env" "input_load_u8" (func $input_load_u8 (param i64) (result i32)))
    (import "extism:host/env" "input_load_u64" (func $input_load_u64 (param i64) (result i64)))
    (import "extism:host/env" "config_get" (func $config_get (param i64) (result i64)))"#;

/// Numbers that name nothing, counted from a block `$a` of 16 bytes.
const NUMBERS: [(&str, &str); 6] = [
    ("where Extism keeps the length", "(i64.sub (local.get $a) (i64.const 4))"),
    ("the end of the block", "(i64.add (local.get $a) (i64.const 16))"),
    ("a page on", "(i64.add (local.get $a) (i64.const 65536))"),
    ("over four gibibytes", "(i64.const 0x100000010)"),
    ("the largest", "(i64.const -1)"),
    ("the smallest", "(i64.const 0x8000000000000000)"),
];

/// What may be asked of anything: nothing happens.
const HARMLESS: [&str; 3] = ["(call $free N)", "(drop (call $length N))", "(drop (call $length_unsafe N))"];

/// What is a fault.
const FAULTS: [&str; 14] = [
    "(drop (call $load_u8 N))",
    "(drop (call $load_u64 N))",
    "(call $store_u8 N (i32.const 1))",
    "(call $store_u64 N (i64.const 1))",
    "(drop (call $input_load_u8 N))",
    "(drop (call $input_load_u64 N))",
    "(drop (call $config_get N))",
    "(call $output_set N (i64.const 1))",
    "(call $output_set (local.get $a) N)",
    "(call $error_set N)",
    "(drop (call $http_send N))",
    "(drop (call $docker_containers N))",
    "(drop (call $docker_refresh N))",
    "(call $host_log N)",
];

/// A call of each host function that is taken.
const HOST_CALLS: [&str; 4] = [
    r#"(drop (call $http_send «{"requests": []}»))"#,
    r#"(drop (call $docker_containers «{"name": "x"}»))"#,
    r#"(drop (call $docker_refresh «{"orders": []}»))"#,
    r#"(call $host_log «{"level": "info", "message": "x"}»)"#,
];

/// The policy `poll`, called once through all that a load is.
fn poll(poll: &str, effects: &Arc<dyn Effects>) -> Result<Vec<u8>, (FaultKind, String)> {
    let policy = Inline {
        fields: IMPORTS.to_owned(),
        capabilities: ASKS_FOR_ALL.to_owned(),
        poll: poll.to_owned(),
        ..Inline::default()
    };
    let folder = tempfile::TempDir::new().expect("a folder");
    let plugin = load(&manifest(folder.path(), &policy)).expect("it loads");
    let called = call_bytes(&plugin.compiled, exports::POLL, b"the input", effects.clone());
    called.map(|(output, _)| output).map_err(|fault| (fault.kind, fault.reason))
}

fn manifest(folder: &std::path::Path, policy: &Inline) -> PluginManifest {
    let path = folder.join("hostile.wasm");
    std::fs::write(&path, policy.build()).expect("a file");
    let config = BTreeMap::from([
        ("host.allow_unhashed", "true"),
        ("grant.images", "*"),
        ("grant.containers", "*"),
        ("grant.strategies", "replace start-first remove pull-only notify"),
    ]);
    let text = serde_json::json!({"wasm": [{"path": path}], "allowed_hosts": ["*"], "config": config}).to_string();
    PluginManifest::parse("hostile", "(test)", &text, &|_| None).expect("a good manifest")
}

#[tokio::test(flavor = "multi_thread")]
async fn s1_s2_a_number_that_names_nothing_is_a_fault_before_and_after_each_host_function() {
    let scene = Scene::new(&Inline::default(), &[]).await;
    let effects: Arc<dyn Effects> = scene.effects.clone();
    let block = "(local.set $a (call $alloc (i64.const 16)))";
    let played = tokio::task::spawn_blocking(move || {
        let mut modules = 0;
        for (index, fault) in FAULTS.iter().enumerate() {
            for (at, (what, number)) in NUMBERS.iter().enumerate() {
                let call = fault.replace('N', number);
                let host_call = HOST_CALLS[(index + at) % HOST_CALLS.len()];
                let (before, after) = if at % 2 == 0 { (host_call, "") } else { ("", host_call) };
                let ended = poll(&format!("{block} {before} {call} {after}"), &effects);
                let (kind, reason) = ended.expect_err("a fault");
                assert!(
                    kind == FaultKind::Trap && reason.contains("block of its memory"),
                    "{call} ({what}): {kind:?} {reason}"
                );
                modules += 1;
            }
        }
        for call in HARMLESS {
            let calls: String = NUMBERS.iter().map(|(_, number)| call.replace('N', number)).collect();
            let output = poll(&format!("{block} {} {calls} (call $output «fine»)", HOST_CALLS.concat()), &effects);
            assert_eq!(output.as_deref(), Ok(&b"fine"[..]), "{call}");
            modules += 1;
        }
        modules
    });
    assert!(played.await.expect("no panic") >= 60, "the suite has as many modules as were asked for");
}

/// Sizes that no memory has.
#[rstest]
#[case::more_than_the_manifest_gives("(i64.const 0x8000000)")]
#[case::over_four_gibibytes("(i64.const 0x100000010)")]
#[case::the_largest("(i64.const -1)")]
#[tokio::test(flavor = "multi_thread")]
async fn s2_a_block_that_is_too_large_is_a_fault_of_memory(#[case] size: &str) {
    let scene = Scene::new(&Inline::default(), &[]).await;
    let (effects, size): (Arc<dyn Effects>, _) = (scene.effects.clone(), size.to_owned());
    let ended = tokio::task::spawn_blocking(move || poll(&format!("(drop (call $alloc {size}))"), &effects)).await;
    assert_eq!(ended.expect("no panic").expect_err("a fault").0, FaultKind::Memory);
}

#[tokio::test(flavor = "multi_thread")]
async fn s1_s2_the_exploits_of_the_field_reports_are_faults_in_a_poll_and_refusals_at_a_load() {
    let folder = tempfile::TempDir::new().expect("a folder");
    for (name, exploit) in MEMORY_EXPLOITS {
        let mut scene = Scene::new(&Inline::exploiting(exploit), &[]).await;
        let fault = scene.session.poll(None, Vec::new(), imagewatch_abi::PollMode::Watch).await.expect_err("a fault");
        assert_eq!(fault.kind, FaultKind::Trap, "{name}: {fault}");
        let refused = load(&manifest(folder.path(), &Inline::describing(exploit))).expect_err("a refusal");
        assert!(
            matches!(refused, PluginError::Refused { .. }) && refused.to_string().contains("`describe`"),
            "{refused}"
        );
    }
}

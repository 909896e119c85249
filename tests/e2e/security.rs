//! Tests that the whole program withstands policies that load slowly, and signals at any time. No engine is needed.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use imagewatch_tests::http_client::build_client;
use imagewatch_tests::plugin_manifest::PluginManifest;
use imagewatch_tests::process::Signal;
use imagewatch_tests::program::start_imagewatch;
use tempfile::TempDir;

use crate::stage::{ADMIN_TOKEN, LONG_TIMEOUT, answer_of, watch_with};
use imagewatch_policy::inline::Inline;

const NO_ENGINE: &str = "unix:///nonexistent/docker.sock";

/// A stop that waits for nothing takes less time, even on a busy machine.
const PROMPT_STOP_TIMEOUT: Duration = Duration::from_secs(8);

fn write(folder: &Path, name: &str, policy: &Inline, fuel: &str) -> PathBuf {
    let wasm = folder.join(format!("{name}.wasm"));
    std::fs::write(&wasm, policy.build()).expect("the test's folder is writable");
    let manifest = PluginManifest { wasm, ..PluginManifest::new() };
    manifest.config("host.allow_unhashed", "true").config("host.fuel", fuel).write(folder, name)
}

/// A policy whose description takes as long as its fuel allows, which is days.
fn endless() -> Inline {
    Inline { describe: "(loop $l (br $l))".to_owned(), ..Inline::default() }
}

const DAYS: &str = "9007199254740992";
const USUAL: &str = "5000000000";

#[tokio::test(flavor = "multi_thread")]
async fn s3_a_slow_load_delays_no_other_policy_and_no_stop() {
    let folder = TempDir::new().expect("the temp folder is writable");
    let slow = write(folder.path(), "slow", &endless(), DAYS);
    let good = write(folder.path(), "good", &Inline::default(), USUAL);
    let daemon = watch_with(NO_ENGINE, &[slow, good], &[]);
    daemon.wait_for_line("watching; polled again").await;
    let (status, body) = answer_of(build_client().get(daemon.admin_url("/readyz").await)).await;
    assert!(status == 503 && body.to_string().contains("still being loaded"), "{status} {body}");
    let start = Instant::now();
    let lines = daemon.stop().await;
    assert!(start.elapsed() < PROMPT_STOP_TIMEOUT, "{lines:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn s3_a_policy_that_is_too_slow_to_load_is_refused() {
    let folder = TempDir::new().expect("the temp folder is writable");
    let slow = write(folder.path(), "slow", &endless(), DAYS);
    let slow = slow.to_str().expect("text");
    let mut process = start_imagewatch(NO_ENGINE, ["check", slow], &[]);
    assert_eq!(process.wait_exit(LONG_TIMEOUT).await, Some(4), "{:#?}", process.lines());
    process.wait_for_line("not compiled and described within 30s", LONG_TIMEOUT).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn s3_a_slow_reload_is_refused_and_the_old_policy_continues() {
    let folder = TempDir::new().expect("the temp folder is writable");
    let daemon = watch_with(NO_ENGINE, &[write(folder.path(), "good", &Inline::default(), USUAL)], &[]);
    daemon.wait_for_line("watching; polled again").await;
    write(folder.path(), "good", &endless(), DAYS);
    let line = daemon.process.wait_for_line("goes on as before", LONG_TIMEOUT).await;
    assert!(line.contains("not compiled and described within 30s"), "{line}");
    let plugins =
        answer_of(build_client().get(daemon.admin_url("/admin/plugins").await).bearer_auth(ADMIN_TOKEN)).await;
    assert!(plugins.1.to_string().contains("within 30s"), "{plugins:?}");
    let start = Instant::now();
    let lines = daemon.stop().await;
    assert!(start.elapsed() < PROMPT_STOP_TIMEOUT, "{lines:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn s3_a_signal_ends_a_load_in_progress() {
    let folder = TempDir::new().expect("the temp folder is writable");
    let slow = write(folder.path(), "slow", &endless(), DAYS);
    for (name, args, code) in [
        ("run", vec!["run", "--admin-listen", "off"], 0),
        ("check", vec!["check"], 130),
        ("refresh", vec!["refresh", "--manifest"], 130),
    ] {
        let args = args.into_iter().chain([slow.to_str().expect("text")]);
        let mut process = start_imagewatch(NO_ENGINE, args, &[("IMAGEWATCH_LOG", "info")]);
        process.wait_for_line("imagewatch starts", LONG_TIMEOUT).await;
        let start = Instant::now();
        process.signal(Signal::TERM);
        assert_eq!(process.wait_exit(LONG_TIMEOUT).await, Some(code), "{name}: {:#?}", process.lines());
        assert!(start.elapsed() < PROMPT_STOP_TIMEOUT, "{name}: {:#?}", process.lines());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn s3_a_start_function_is_bounded() {
    let folder = TempDir::new().expect("the temp folder is writable");
    for (name, fields, part) in [
        ("endless", "(func $s (loop $l (br $l))) (start $s)", "fuel"),
        ("recursive", "(func $s (call $s)) (start $s)", "stack"),
        ("trapping", "(func $s unreachable) (start $s)", "unreachable"),
    ] {
        let policy = Inline { fields: fields.to_owned(), ..Inline::default() };
        let bad = write(folder.path(), name, &policy, DAYS);
        let mut process = start_imagewatch(NO_ENGINE, ["check", bad.to_str().expect("text")], &[]);
        assert_eq!(process.wait_exit(LONG_TIMEOUT).await, Some(4), "{name}: {:#?}", process.lines());
        process.wait_for_line(part, LONG_TIMEOUT).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn s6_text_of_a_module_is_one_line_without_control_characters() {
    let folder = TempDir::new().expect("the temp folder is writable");
    let said = "x\\5cn2026-01-01T00:00:00Z ERROR forged\\5cu001b[2J\\5cu202e\\5cu2028";
    let describe = format!(
        r#"(call $output «{{"name": "{said}", "version": "{said}", "abi": 1, "config_keys": [], "enabled": true, "interval_ms": 100}}»)"#
    );
    let named = write(folder.path(), "named", &Inline { describe, ..Inline::default() }, USUAL);
    let import = r#"(import "env" "x\n2026-01-01T00:00:00Z ERROR forged\1b[2J\e2\80\ae" (func))"#;
    let importing =
        write(folder.path(), "importing", &Inline { fields: import.to_owned(), ..Inline::default() }, USUAL);
    let daemon = watch_with(NO_ENGINE, &[named.clone(), importing.clone()], &[]);
    daemon.wait_for_line("loaded").await;
    daemon.wait_for_line("it imports").await;
    let mut all = daemon.stop().await;
    for module in ["named.wasm", "importing.wasm"] {
        let path = folder.path().join(module);
        let mut process = start_imagewatch(NO_ENGINE, ["plugin", "inspect", path.to_str().expect("text")], &[]);
        process.wait_exit(LONG_TIMEOUT).await.expect("the program exits with a code");
        all.extend(process.lines());
    }
    assert!(all.iter().any(|line| line.contains("ERROR forged")), "the text must be shown: {all:#?}");
    for line in all {
        assert!(!line.starts_with("2026-01-01"), "a forged line: {line}");
        assert!(!line.contains(|c: char| c.is_control() || "\u{202e}\u{2028}".contains(c)), "{line:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn s7_a_crash_leaves_no_core_dump_unless_allowed() {
    let folder = TempDir::new().expect("the temp folder is writable");
    let good = write(folder.path(), "good", &Inline::default(), USUAL);
    for (name, envs, is_forbidden) in
        [("default", vec![], true), ("allowed", vec![("IMAGEWATCH_ALLOW_CORE_DUMPS", "true")], false)]
    {
        let args = ["run", "--admin-listen", "off", good.to_str().expect("text")];
        let process = start_imagewatch(NO_ENGINE, args, &envs);
        process.wait_for_line("watching; polled again", LONG_TIMEOUT).await;
        let limits = |pid: String| std::fs::read_to_string(format!("/proc/{pid}/limits")).expect("the process runs");
        let core = |limits: String| {
            limits
                .lines()
                .find(|line| line.starts_with("Max core file size"))
                .expect("the file lists the limit")
                .to_owned()
        };
        let (is, own) = (core(limits(process.pid().to_string())), core(limits("self".to_owned())));
        let none = is.split_whitespace().filter(|word| *word == "0").count() == 2;
        assert!(if is_forbidden { none } else { is == own }, "{name}: {is}");
    }
}

/// The panic occurred in 15 of 36 stops.
#[tokio::test(flavor = "multi_thread")]
async fn s9_a_stop_while_a_manifest_is_refused_is_clean() {
    let folder = TempDir::new().expect("the temp folder is writable");
    let good = write(folder.path(), "good", &Inline::default(), USUAL);
    let refused = folder.path().join("refused.json");
    std::fs::write(&refused, "{").expect("the folder is writable");
    for listen in ["127.0.0.1:0", "off"].into_iter().cycle().take(24) {
        let manifests = [&good, &refused].map(|path| path.to_str().expect("text"));
        let args = ["run", "--admin-listen", listen].into_iter().chain(manifests);
        let mut process = start_imagewatch(NO_ENGINE, args, &[]);
        process.wait_for_line("watching; polled again", LONG_TIMEOUT).await;
        process.signal(Signal::TERM);
        let code = process.wait_exit(LONG_TIMEOUT).await;
        let lines = process.lines();
        assert!(code == Some(0) && !lines.iter().any(|line| line.contains("panicked")), "{code:?} {lines:#?}");
    }
}

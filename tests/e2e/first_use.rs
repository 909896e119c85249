//! Tests the command line as a new user sees it: results that cannot be written, names that do not exist, and usage
//! lines. The cases are from the field report of a first use. The row number is in the name of each test.

use std::fs::File;
use std::path::Path;
use std::process::{Command, Stdio};

use imagewatch_tests::components;
use imagewatch_tests::stalled::StalledRegistry;
use imagewatch_tests::wait::wait_for;
use serde_json::json;

use crate::stage::{SHORT_TIMEOUT, Stage, run_to_end};

/// Runs a command to its end and returns the exit code and all output.
async fn run(stage: &Stage, args: &[&str], envs: &[(&str, &str)]) -> (i32, String) {
    run_to_end(stage.scope.engine().host(), args, envs).await
}

fn text(path: &Path) -> &str {
    path.to_str().expect("the test's own path is text")
}

#[tokio::test(flavor = "multi_thread")]
async fn first_use_1_a_result_that_cannot_be_written_is_an_error() {
    let stage = Stage::new().await;
    stage.push("web", "v1").await;
    let manifest = stage.write(&stage.manifest().config("images", &stage.image("web")), "one");
    let wasm = components::plugin_wasm();
    let state = tempfile::tempdir().expect("the temp folder is writable");
    for args in [
        vec!["check", text(&manifest)],
        vec!["check", "--json", text(&manifest)],
        vec!["history"],
        vec!["history", "--json"],
        vec!["quarantine", "list"],
        vec!["plugin", "inspect", text(&wasm)],
        vec!["completions", "bash"],
    ] {
        let full = File::options().write(true).open("/dev/full").expect("Linux has /dev/full");
        let mut command = Command::new(components::imagewatch());
        command.args(&args).env("DOCKER_HOST", stage.scope.engine().host()).env("IMAGEWATCH_STATE_DIR", state.path());
        let output = command.stdout(full).stderr(Stdio::piped()).output().expect("the program starts");
        let errors = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{args:?}: {errors}");
        assert!(errors.contains("No space left on device"), "{args:?}: {errors}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn first_use_7_an_unknown_target_of_one_manifest_is_not_reported_for_all() {
    let stage = Stage::new().await;
    let manifest = stage.write(&stage.manifest().config("images", &stage.image("web")), "one");
    let (code, output) = run(&stage, &["refresh", "nosuch", "--manifest", text(&manifest)], &[]).await;
    assert_ne!(code, 0, "{output}");
    assert!(output.contains("nosuch") && !output.contains("manifest all"), "{output}");
}

#[tokio::test(flavor = "multi_thread")]
async fn first_use_9_a_manifest_that_is_given_twice_counts_once() {
    let stage = Stage::new().await;
    stage.push("web", "v1").await;
    let manifest = stage.write(&stage.manifest().config("images", &stage.image("web")), "one");
    let (code, once) = run(&stage, &["check", text(&manifest)], &[]).await;
    assert_eq!(run(&stage, &["check", text(&manifest), text(&manifest)], &[]).await, (code, once));
}

#[tokio::test(flavor = "multi_thread")]
async fn first_use_11_usage_lines_omit_options_of_the_environment() {
    let stage = Stage::new().await;
    let envs = [("IMAGEWATCH_LOG", "info"), ("IMAGEWATCH_ADMIN_LISTEN", "off")];
    for args in [vec!["refresh", "--nosuch"], vec!["run", "--nosuch"], vec!["plugin", "inspect"]] {
        let (code, output) = run(&stage, &args, &envs).await;
        assert_eq!(code, 2, "{output}");
        let usage = output.lines().find(|line| line.starts_with("Usage:")).unwrap_or_else(|| panic!("{output}"));
        for option in ["--docker-host", "--state-dir", "--log", "--admin-listen"] {
            assert!(!usage.contains(option), "{args:?}: {usage}");
        }
    }
    let (code, help) = run(&stage, &["run", "--help"], &envs).await;
    assert!(code == 0 && help.contains("[env: IMAGEWATCH_ADMIN_LISTEN"), "help names the environment: {help}");
}

/// A manifest with one image on the stage's registry, and one on a registry that never answers.
fn beside_stalled(stage: &Stage, stalled: &StalledRegistry, timeout: &str) -> std::path::PathBuf {
    let manifest = stage.manifest().allow_host(&stalled.host());
    let manifest = manifest
        .config("images", &format!("{}/o/db:latest {}", stalled.host(), stage.image("web")))
        .config("grant.images", "127.0.0.1:*")
        .config("host.http_timeout", timeout);
    stage.write(&manifest, "one")
}

#[tokio::test(flavor = "multi_thread")]
async fn first_use_20_a_stalled_registry_delays_no_other_update_or_refresh() {
    let stage = Stage::new().await;
    let stalled = StalledRegistry::start().await;
    stage.push("web", "v1").await;
    stage.run("web").await;
    let daemon = stage.watch(&[beside_stalled(&stage, &stalled, "1h")]);
    daemon.wait_for_line("first seen").await;
    let v2 = stage.push("web", "v2").await;
    stage.wait_until_on("web", &v2, SHORT_TIMEOUT).await;
    assert_eq!(stalled.counts(), (1, 0), "the update ends while the request to the other registry is open");

    let image = stage.image("web");
    let (status, body) = daemon.post(&format!("/admin/workspace-images/refresh?runtime={image}")).await;
    assert_eq!((status, &body["pulled"]), (200, &json!([image])), "{body}");
    assert_eq!(stalled.counts(), (1, 0), "the refresh ends while that request is open");
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn first_use_20_a_stalled_request_times_out_with_its_registrys_name() {
    let stage = Stage::new().await;
    let stalled = StalledRegistry::start().await;
    stage.push("web", "v1").await;
    stage.run("web").await;
    let manifest = beside_stalled(&stage, &stalled, "2s");
    let (code, output) = run(&stage, &["check", text(&manifest)], &[]).await;
    assert_eq!((code, stalled.counts().0), (1, 1), "a check waits for the end of every request: {output}");
    assert!(output.contains(&format!("no answer from {}", stalled.host())), "{output}");

    let daemon = stage.watch(&[manifest]);
    daemon.wait_for_line(&format!("no answer from {}", stalled.host())).await;
    wait_for("the request to be sent again", SHORT_TIMEOUT, || async {
        let (asked, given_up) = stalled.counts();
        if asked > 2 && given_up >= asked - 1 { Ok(()) } else { Err((asked, given_up)) }
    })
    .await;
    daemon.stop().await;
}

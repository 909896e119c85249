//! What a new user meets at the command line: results that cannot be written, names that do not exist, and usage lines.
//! From the field report of a first use; the number of each row is in the test's name.

use std::fs::File;
use std::path::Path;
use std::process::{Command, Stdio};

use imagewatch_tests::components;

use crate::stage::{Stage, run_to_end};

/// Exit code and all output.
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
    let state = tempfile::tempdir().expect("the temp folder takes folders");
    for args in [
        vec!["check", text(&manifest)],
        vec!["check", "--json", text(&manifest)],
        vec!["history"],
        vec!["history", "--json"],
        vec!["quarantine", "list"],
        vec!["plugin", "inspect", text(&wasm)],
        vec!["completions", "bash"],
    ] {
        let full = File::options().write(true).open("/dev/full").expect("Linux has it");
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
async fn first_use_9_a_manifest_that_is_named_twice_counts_once() {
    let stage = Stage::new().await;
    stage.push("web", "v1").await;
    let manifest = stage.write(&stage.manifest().config("images", &stage.image("web")), "one");
    let (code, once) = run(&stage, &["check", text(&manifest)], &[]).await;
    assert_eq!(run(&stage, &["check", text(&manifest), text(&manifest)], &[]).await, (code, once));
}

#[tokio::test(flavor = "multi_thread")]
async fn first_use_11_usage_lines_list_no_option_that_only_the_environment_sets() {
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

//! Tests the commands `check`, `refresh`, `plugin inspect` and `completions`: tables, JSON and exit codes. Also checks
//! that the shipped manifests and pages match the code.

use std::path::{Path, PathBuf};

use imagewatch_core::KEYS;
use imagewatch_policy::{HOST_KEYS, PluginManifest, load};
use imagewatch_tests::components;
use imagewatch_tests::engine::RunSpec;
use imagewatch_tests::process::Process;
use imagewatch_tests::program::start_imagewatch;
use serde_json::{Value, json};

use crate::stage::{LONG_TIMEOUT, Stage, run_to_end};

fn start(stage: &Stage, args: &[&str]) -> Process {
    start_imagewatch(stage.scope.engine().host(), args, &[])
}

/// Runs a command to its end and returns the exit code and all output.
async fn run(stage: &Stage, args: &[&str]) -> (i32, String) {
    run_to_end(stage.scope.engine().host(), args, &[]).await
}

async fn run_json(stage: &Stage, args: &[&str]) -> (i32, Value) {
    let (code, output) = run(stage, &[&["--log", "off"], args].concat()).await;
    (code, serde_json::from_str(&output).unwrap_or_else(|error| panic!("{error}: {output}")))
}

fn text(path: &Path) -> &str {
    path.to_str().expect("the path is UTF-8")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_check_reports_pending_updates_and_changes_nothing() {
    let stage = Stage::new().await;
    let v1 = stage.push("old", "v1").await;
    let id = stage.run("old").await;
    let v2 = stage.push("old", "v2").await;
    let current = stage.push("new", "n1").await;
    stage.run("new").await;
    let pinned = format!("{}@{v1}", stage.image("old"));
    stage.run_as("pinned", RunSpec { image: pinned, ..RunSpec::default() }).await;
    let manifest = stage.manifest().config("containers", "labelled").config("baseline", "running");
    let manifest = stage.write(&manifest, "labelled");

    let (code, output) = run(&stage, &["check", text(&manifest)]).await;
    assert_eq!(code, 0, "{output}");
    assert!(output.contains("1 to update, 1 up to date, 0 unknown"), "{output}");
    assert!(!output.contains('\u{1b}'), "no colours without a terminal: {output}");
    let (code, checked) = run_json(&stage, &["check", "--json", text(&manifest)]).await;
    let images: Vec<Value> = checked["images"].as_array().expect("the images are a list").clone();
    let rows: Vec<Value> =
        images.iter().map(|row| json!([row["container"], row["verdict"], row["running"], row["digest"]])).collect();
    assert_eq!(code, 0);
    let expected = json!([
        [stage.scope.name("new"), "unchanged", current, current],
        [stage.scope.name("old"), "moved", v1, v2],
        [stage.scope.name("pinned"), "pinned", v1, null],
    ]);
    assert_eq!(json!(rows), expected);
    assert_eq!(stage.container("old").await.expect("the container exists").id, id);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_image_is_unknown_and_sets_the_exit_code() {
    let stage = Stage::new().await;
    let manifest = stage.write(&stage.manifest().config("images", &stage.image("never-pushed")), "one");
    let (code, checked) = run_json(&stage, &["check", "--json", text(&manifest)]).await;
    assert_eq!((code, &checked["images"][0]["verdict"]), (1, &json!("unknown")));
    let reason = checked["images"][0]["reason"].as_str().expect("the image has a reason");
    assert!(reason.contains(&stage.registry.host()) && reason.contains("has no"), "{reason}");
}

#[tokio::test(flavor = "multi_thread")]
async fn refresh_pulls_and_replaces_or_only_pulls() {
    let stage = Stage::new().await;
    stage.push("web", "v1").await;
    let id = stage.run("web").await;
    let v2 = stage.push("web", "v2").await;
    let manifest = stage.write(&stage.manifest().config("containers", "labelled"), "labelled");
    let name = stage.scope.name("web");

    let (code, output) = run(&stage, &["refresh", "nobody", "--manifest", text(&manifest)]).await;
    assert_eq!(code, 2, "{output}");
    assert!(output.contains("nobody: unknown target") && output.contains(&name), "{output}");

    let args = ["refresh", &name, "--no-recreate", "--json", "--manifest", text(&manifest)];
    let (code, done) = run_json(&stage, &args).await;
    assert_eq!((code, &done["pulled"], &done["recreated"]), (0, &json!([name]), &json!([])));
    assert_eq!(stage.container("web").await.expect("the container exists").id, id);

    let (code, output) = run(&stage, &["refresh", "--manifest", text(&manifest)]).await;
    assert_eq!(code, 0, "{output}");
    assert!(output.contains(&format!("recreated {name}")), "{output}");
    let now = stage.container("web").await.expect("the container exists");
    assert!(now.id != id && now.digests.contains(&v2) && now.is_running, "{now:?}");
    let (code, done) = run_json(&stage, &["refresh", "--json", "--manifest", text(&manifest)]).await;
    assert_eq!((code, &done["recreated"]), (0, &json!([])), "an up-to-date container is not replaced");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failed_refresh_gives_a_reason_and_an_exit_code() {
    let stage = Stage::new().await;
    let missing = stage.write(&stage.manifest().config("images", &stage.image("never-pushed")), "missing");
    let (code, done) = run_json(&stage, &["refresh", "--json", "--manifest", text(&missing)]).await;
    assert_eq!((code, &done["failed"]), (1, &json!([stage.image("never-pushed")])));
    let foreign = stage.manifest().config("images", &stage.image("web")).config("grant.images", "ghcr.io/*");
    let foreign = stage.write(&foreign, "foreign");
    let (code, output) = run(&stage, &["refresh", "--manifest", text(&foreign)]).await;
    assert_eq!(code, 1, "{output}");
    assert!(output.contains("grant.images"), "{output}");
}

#[tokio::test(flavor = "multi_thread")]
async fn plugin_inspect_shows_what_an_auditor_needs() {
    let stage = Stage::new().await;
    let wasm = components::plugin_wasm();
    let (code, shown) = run_json(&stage, &["plugin", "inspect", "--json", text(&wasm)]).await;
    assert_eq!(code, 0);
    assert_eq!(shown["module"]["abi"], 1);
    // The functions that compilers call by name are exports too.
    assert_eq!(shown["module"]["exports"], json!(["describe", "memcmp", "poll", "refresh", "settle"]));
    let hash = imagewatch_tests::image::sha256(&std::fs::read(&wasm).expect("the module was built")).to_string();
    assert_eq!(hash, format!("sha256:{}", shown["module"]["sha256"].as_str().expect("the hash is text")));
    let (code, output) = run(&stage, &["plugin", "inspect", text(&wasm)]).await;
    assert_eq!(code, 0);
    for part in ["size", "sha256", "extism:host/user http_send", "policy   imagewatch"] {
        assert!(output.contains(part), "{part} in {output}");
    }
    let (code, output) = run(&stage, &["plugin", "inspect", text(&components::weekdays_wasm())]).await;
    assert_eq!(code, 0);
    for part in ["asks     strategies: replace\n", "asks     hosts: whatever is granted", "policy   weekdays"] {
        assert!(output.contains(part), "{part} in {output}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn completions_and_help_need_no_manifest_and_no_engine() {
    let stage = Stage::new().await;
    for (args, part) in [
        (&["completions", "bash"][..], "_imagewatch"),
        (&["--help"], "Exit codes:"),
        (&["run", "--help"], "IMAGEWATCH_ADMIN_TOKEN"),
        (&["--version"], "imagewatch 0."),
    ] {
        let (code, output) = run(&stage, args).await;
        assert_eq!(code, 0, "{output}");
        assert!(output.contains(part), "{part} in {output}");
    }
    assert_eq!(run(&stage, &["chekc"]).await.0, 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn log_lines_can_be_json_objects() {
    let stage = Stage::new().await;
    let manifest = stage.write(&stage.manifest().config("images", &stage.image("never-pushed")), "one");
    let args = ["--log-format", "json", "run", "--admin-listen", "off", text(&manifest)];
    let mut process = start(&stage, &args);
    process.wait_for_line("failed to look up", LONG_TIMEOUT).await;
    process.signal(imagewatch_tests::process::Signal::TERM);
    assert_eq!(process.wait_exit(LONG_TIMEOUT).await, Some(0));
    for line in process.lines() {
        let parsed: Value = serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line}"));
        assert!(parsed["message"].is_string() && parsed["level"].is_string(), "{line}");
    }
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// The module of the manifest at `path`, and the name that the module reports.
fn module_of(path: &Path) -> (PathBuf, &'static str) {
    let is_weekdays = path.file_stem().is_some_and(|stem| stem == "weekdays");
    if is_weekdays { (components::weekdays_wasm(), "weekdays") } else { (components::plugin_wasm(), "imagewatch") }
}

#[test]
fn every_shipped_manifest_loads() {
    let folder = std::fs::read_dir(root().join("manifests")).expect("the folder can be read");
    let mut names = Vec::new();
    for entry in folder {
        let path = entry.expect("the entry can be read").path();
        let manifest = PluginManifest::read(&path, &|_| None).unwrap_or_else(|error| panic!("{error}"));
        names.push(manifest.name.clone());
        let loaded = load(&manifest.with_file(&module_of(&path).0)).unwrap_or_else(|error| panic!("{error}"));
        assert_eq!((&*loaded.description.name, &loaded.description.err), (module_of(&path).1, &None));
    }
    names.sort();
    assert_eq!(names, ["docker-hub", "generic", "ghcr", "local-registry", "weekdays", "workspaces"]);
}

/// A minimal control plane with host functions that do nothing.
fn describe_in_a_plain_extism_host(manifest: &str) -> Value {
    use extism::{Function, Manifest, PTR, Plugin, UserData};
    let manifest: Manifest = serde_json::from_str(manifest).expect("Extism accepts the manifest");
    let answering = ["http_send", "docker_containers", "docker_refresh"]
        .map(|name| Function::new(name, [PTR], [PTR], UserData::<()>::default(), |_, _, _, _| Ok(())));
    let log = Function::new("host_log", [PTR], [], UserData::<()>::default(), |_, _, _, _| Ok(()));
    let mut plugin = Plugin::new(manifest, answering.into_iter().chain([log]), true).expect("Extism loads the plugin");
    let described: Vec<u8> = plugin.call("describe", "{}").expect("describe succeeds");
    serde_json::from_slice(&described).expect("JSON")
}

#[test]
fn every_shipped_manifest_loads_in_a_plain_extism_host() {
    for entry in std::fs::read_dir(root().join("manifests")).expect("the folder can be read") {
        let path = entry.expect("the entry can be read").path();
        let (wasm, name) = module_of(&path);
        let shipped = std::fs::read_to_string(&path).expect("the manifest can be read");
        let written = format!("\"target/plugin/{name}.wasm\"");
        assert!(shipped.contains(&written), "{}", path.display());
        let description = describe_in_a_plain_extism_host(&shipped.replace(&written, &json!(wasm).to_string()));
        assert_eq!(description["name"], name, "{}", path.display());
        // A plain host does not expand variables. Without variables in the policy's own values, there is no error.
        let has_variables = path.file_stem().is_some_and(|stem| stem == "workspaces");
        assert_eq!(description["err"].is_null(), !has_variables, "{description}");
    }
}

#[test]
fn the_configuration_page_lists_every_config_key() {
    let page = std::fs::read_to_string(root().join("docs/configuration.md")).expect("the page can be read");
    let policy = KEYS.iter().map(|key| (key.name, key.kind, key.default, key.doc));
    for (key, kind, default, doc) in policy.chain(HOST_KEYS) {
        let default = if default.is_empty() { String::new() } else { format!("`{default}`") };
        let row = format!("| `{key}` | {kind} | {default} | {doc} |");
        assert!(page.contains(&row), "docs/configuration.md lacks this row:\n{row}");
    }
}

#[test]
fn the_readme_lists_every_exit_code() {
    let readme = std::fs::read_to_string(root().join("README.md")).expect("the README can be read");
    for line in imagewatch::cli::exit_code::TABLE.lines().skip(1) {
        let (code, meaning) = line.trim().split_once(' ').expect("the line has a code and a meaning");
        assert!(readme.contains(&format!("| {code} | {} |", meaning.trim())), "README lacks {line}");
    }
}

//! Tests that policies are replaced while the program runs: by file, by SIGHUP, and by the admin API. Also tests broken
//! policies, the rollback, and a thousand swaps under load.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use imagewatch_tests::components;
use imagewatch_tests::http_client::build_client;
use imagewatch_tests::plugin_manifest::{PluginManifest, deploy, hash_of};
use imagewatch_tests::process::Signal;
use imagewatch_tests::program::STATE_DIR;
use imagewatch_tests::wait::wait_for;
use serde_json::{Value, json};

use crate::stage::{ADMIN_TOKEN, Daemon, SHORT_TIMEOUT, Stage, answer_of, run_to_end, watch_with};

/// The plugin with another hash: the same code with an additional custom section.
pub(crate) fn variant(name: &str) -> Vec<u8> {
    let mut wasm = std::fs::read(components::plugin_wasm()).expect("the module was built");
    let length = |bytes: usize| u8::try_from(bytes).expect("the name is short");
    wasm.extend([0, length(name.len() + 1), length(name.len())]);
    wasm.extend(name.as_bytes());
    wasm
}

/// The entry of `manifest` in `GET /admin/plugins`.
pub(crate) async fn plugin_status(daemon: &Daemon, manifest: &str) -> Value {
    let request = build_client().get(daemon.admin_url("/admin/plugins").await).bearer_auth(ADMIN_TOKEN);
    let (status, body) = answer_of(request).await;
    assert_eq!(status, 200, "{body}");
    let listed = body["plugins"].as_array().expect("the plugins are a list");
    listed.iter().find(|plugin| plugin["manifest"] == manifest).cloned().unwrap_or_else(|| panic!("{body}"))
}

/// The times at which `manifest` was polled, from its debug lines, in seconds of the day.
pub(crate) fn polls_of(lines: &[String], manifest: &str) -> Vec<f64> {
    let mark = format!("manifest={manifest} export=poll ");
    let called = lines.iter().filter(|line| line.contains("policy called"));
    called.filter(|line| line.replace('"', "").contains(&mark)).map(|line| second_of_day(line)).collect()
}

/// The time of a line that starts with `2026-11-21T15:55:05.123456Z`.
fn second_of_day(line: &str) -> f64 {
    let (_, time) = line.split_once('T').expect("the line has a timestamp");
    let time = time.split_once('Z').expect("the line has a timestamp").0;
    time.split(':').fold(0.0, |sum, part| sum * 60.0 + part.parse::<f64>().expect("the part is a number"))
}

/// A manifest `one` with a module file that the test changes.
struct Deployed {
    stage: Stage,
    module: PathBuf,
}

impl Deployed {
    async fn new() -> Self {
        let stage = Stage::new().await;
        let module = stage.folder.path().join("policy.wasm");
        Self { stage, module }
    }

    /// Deploys `wasm` and a manifest with its hash.
    fn deploy(&self, wasm: &[u8], more: &[(&str, &str)]) -> PathBuf {
        deploy(&self.module, wasm);
        self.pin(wasm, more)
    }

    fn pin(&self, wasm: &[u8], more: &[(&str, &str)]) -> PathBuf {
        let mut manifest =
            PluginManifest { wasm: self.module.clone(), hash: Some(hash_of(wasm)), ..self.stage.manifest() };
        manifest = manifest.config("images", &self.stage.image("web"));
        for (key, value) in more {
            manifest = manifest.config(key, value);
        }
        self.stage.write(&manifest, "one")
    }

    fn watch(&self, manifest: PathBuf, log: &str) -> Daemon {
        let state = self.stage.folder.path().join("state");
        let state = state.to_str().expect("the temp folder's name is text");
        watch_with(self.stage.scope.engine().host(), &[manifest], &[(STATE_DIR, state), ("IMAGEWATCH_LOG", log)])
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_policy_and_its_config_can_change_without_loss_of_state() {
    let deployed = Deployed::new().await;
    let stage = &deployed.stage;
    let v1 = stage.push("web", "v1").await;
    stage.run("web").await;
    let (first, second) = (variant("first"), variant("second"));
    let mut daemon = deployed.watch(deployed.deploy(&first, &[]), "info");
    daemon.wait_for_line(&format!("first seen at {}", v1.short())).await;

    // By its files: a new module alone does not match the manifest, but the two together do.
    deploy(&deployed.module, &second);
    daemon.wait_for_line("the manifest's `hash` is").await;
    daemon.wait_for_line("goes on as before").await;
    assert!(
        plugin_status(&daemon, "one").await["refused"]["reason"]
            .as_str()
            .expect("the reason is text")
            .contains("`hash`")
    );
    deployed.pin(&second, &[]);
    daemon.wait_for_line("reloaded").await;
    let status = plugin_status(&daemon, "one").await;
    assert_eq!((&status["running"]["sha256"], &status["refused"]), (&json!(hash_of(&second)), &Value::Null));
    let v2 = stage.push("web", "v2").await;
    stage.wait_until_on("web", &v2, SHORT_TIMEOUT).await;
    assert_eq!(daemon.count("first seen"), 1, "the state must be kept");

    // Its config, by SIGHUP.
    let seen = daemon.count("reloaded");
    deployed.pin(&second, &[("strategy", "notify")]);
    daemon.process.signal(Signal::HUP);
    daemon.wait_for_more("reloaded", seen).await;
    daemon.wait_for_line("SIGHUP").await;

    // By the admin API.
    let (status, body) = daemon.post("/admin/plugins/one/reload").await;
    assert_eq!((status, body), (200, json!({"result": "unchanged"})));
    let (status, _) = daemon.post("/admin/plugins/two/reload").await;
    assert_eq!(status, 404);
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_module_deployed_after_its_manifest_is_loaded() {
    let mut deployed = Deployed::new().await;
    let v1 = deployed.stage.push("web", "v1").await;
    deployed.stage.run("web").await;
    let (first, second) = (variant("first"), variant("second"));
    let daemon = deployed.watch(deployed.deploy(&first, &[]), "info");
    daemon.wait_for_line(&format!("first seen at {}", v1.short())).await;

    // Nothing that runs now uses this folder.
    let elsewhere = deployed.stage.folder.path().join("v2");
    std::fs::create_dir(&elsewhere).expect("the folder is writable");
    deployed.module = elsewhere.join("policy.wasm");
    deployed.pin(&second, &[]);
    daemon.wait_for_line("goes on as before").await;
    deploy(&deployed.module, &second);
    daemon.wait_for_line("reloaded").await;
    assert_eq!(plugin_status(&daemon, "one").await["running"]["sha256"], json!(hash_of(&second)));
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_manifest_unusable_at_the_start_runs_after_a_fix() {
    let deployed = Deployed::new().await;
    let stage = &deployed.stage;
    let v1 = stage.push("web", "v1").await;
    stage.run("web").await;
    let good = variant("good");
    deploy(&deployed.module, &good[..good.len() / 2]);
    let mended = deployed.pin(&good, &[]);
    let beside = stage.write(&stage.manifest().config("images", &stage.image("other")), "beside");
    let unreadable = stage.folder.path().join("unreadable.json");
    std::fs::write(&unreadable, "{").expect("the folder is writable");
    // This manifest has the same name as the good one, so the two must never run together.
    let twin = stage.folder.path().join("twin");
    std::fs::create_dir(&twin).expect("the folder is writable");
    let twin = twin.join("beside.json");
    std::fs::copy(&beside, &twin).expect("the folder is writable");
    let manifests = [mended, beside.clone(), unreadable.clone(), twin.clone()];
    let mut daemon = watch_with(stage.scope.engine().host(), &manifests, &[]);
    daemon.wait_for_line("the manifest's `hash` is").await;

    let refused = plugin_status(&daemon, "one").await;
    assert!(refused["running"].is_null() && refused["refused"]["reason"].is_string(), "{refused}");
    let (status, body) = answer_of(build_client().get(daemon.admin_url("/readyz").await)).await;
    let why = body.to_string();
    assert!(status == 503 && why.contains("`hash`") && why.contains("unreadable.json"), "{why}");
    let (status, body) = daemon.post("/admin/plugins/one/reload").await;
    assert!(status == 422 && body["error"].as_str().expect("text").contains("`hash`"), "{body}");
    let (status, body) = daemon.post("/admin/plugins/one/rollback").await;
    assert!(status == 409, "no policy ran before: {body}");
    let twin = twin.to_str().expect("text").replace('/', "%2F");
    let (status, body) = daemon.post(&format!("/admin/plugins/{twin}/reload")).await;
    assert!(status == 422 && body["error"].as_str().expect("the error is text").contains("same file name"), "{body}");

    // The three cases: the module of a manifest that names it, a manifest that named no module, and a manifest that is
    // not followed.
    deploy(&deployed.module, &good);
    daemon.wait_for_line(&format!("first seen at {}", v1.short())).await;
    let v2 = stage.push("web", "v2").await;
    stage.wait_until_on("web", &v2, SHORT_TIMEOUT).await;
    deploy(&unreadable, &std::fs::read(&beside).expect("the manifest can be read"));
    wait_for("the other manifest to run", SHORT_TIMEOUT, || async {
        let status = plugin_status(&daemon, "unreadable").await;
        if status["running"].is_object() && status["refused"].is_null() { Ok(()) } else { Err(status) }
    })
    .await;
    let before = daemon.count("same file name");
    daemon.process.signal(Signal::HUP);
    daemon.wait_for_more("same file name", before).await;
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broken_policy_keeps_the_old_one_and_rollback_is_one_command() {
    let deployed = Deployed::new().await;
    let stage = &deployed.stage;
    stage.push("web", "v1").await;
    stage.run("web").await;
    let (first, second) = (variant("first"), variant("second"));
    let daemon = deployed.watch(deployed.deploy(&first, &[]), "info");
    daemon.wait_for_line("first seen").await;
    deployed.deploy(&second, &[]);
    daemon.wait_for_line("reloaded").await;

    let broken = &second[..second.len() / 2];
    deployed.deploy(broken, &[]);
    let (status, body) = daemon.post("/admin/plugins/one/reload").await;
    assert!(
        status == 422 && body["error"].as_str().expect("the error is text").contains("not a valid wasm module"),
        "{body}"
    );
    let v2 = stage.push("web", "v2").await;
    stage.wait_until_on("web", &v2, SHORT_TIMEOUT).await;

    let state = stage.folder.path().join("state");
    let envs = [(STATE_DIR, state.to_str().expect("text"))];
    let roll_back = ["plugin", "rollback", "one", "--json"];
    // Restores the running policy, since the files differ from it.
    let (code, output) = run_to_end(stage.scope.engine().host(), &roll_back, &envs).await;
    assert!(code == 0 && output.contains(&hash_of(&second)), "{output}");
    wait_for("no refused policy", SHORT_TIMEOUT, || async {
        let status = plugin_status(&daemon, "one").await;
        if status["refused"].is_null() { Ok(()) } else { Err(status) }
    })
    .await;
    // A second rollback restores the previous policy.
    let (status, body) = daemon.post("/admin/plugins/one/rollback").await;
    assert_eq!((status, &body["sha256"]), (200, &json!(hash_of(&first))));
    assert_eq!(std::fs::read(&deployed.module).expect("the module can be read"), first);
    let v3 = stage.push("web", "v3").await;
    stage.wait_until_on("web", &v3, SHORT_TIMEOUT).await;
    let (code, output) = run_to_end(stage.scope.engine().host(), &["plugin", "rollback", "nobody"], &envs).await;
    assert!(code == 1 && output.contains("archived manifests: one"), "{output}");
    daemon.stop().await;
}

/// The resident memory of a process.
fn resident_kib(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("the process runs");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("the status has VmRSS");
    line.trim().trim_end_matches(" kB").parse().expect("the value is a number")
}

/// Refreshes continuously until `is_over` is set. Returns the number of refreshes.
async fn refresh_continuously(url: String, is_over: Arc<AtomicBool>) -> usize {
    let mut count = 0;
    while !is_over.load(Ordering::Relaxed) {
        let (status, body) = answer_of(build_client().post(&url).bearer_auth(ADMIN_TOKEN)).await;
        assert_eq!(status, 200, "{body}");
        count += 1;
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    count
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_swaps_under_load_lose_no_poll_and_no_memory() {
    const SWAPS: usize = 1_000;
    let deployed = Deployed::new().await;
    deployed.stage.push("web", "v1").await;
    deployed.stage.run("web").await;
    let policies = [variant("first"), variant("second")];
    let unhashed = [("host.allow_unhashed", "true")];
    deploy(&deployed.module, &policies[1]);
    let manifest = PluginManifest { wasm: deployed.module.clone(), hash: None, ..deployed.stage.manifest() };
    let manifest = manifest.config("images", &deployed.stage.image("web")).config(unhashed[0].0, unhashed[0].1);
    let daemon = deployed.watch(deployed.stage.write(&manifest, "one"), "imagewatch=debug");
    daemon.wait_for_line("first seen").await;

    let is_over = Arc::new(AtomicBool::new(false));
    let refresh = daemon.admin_url("/admin/workspace-images/refresh?recreate=false").await;
    let refreshing = tokio::spawn(refresh_continuously(refresh, is_over.clone()));
    let reload = daemon.admin_url("/admin/plugins/one/reload").await;
    let client = build_client();
    let mut warm_kib = 0;
    for swap in 0..SWAPS {
        // Every 50th swap needs a compilation.
        let is_new = swap % 50 == 49;
        let module = if is_new { variant(&format!("number {swap}")) } else { policies[swap % 2].clone() };
        deploy(&deployed.module, &module);
        let (status, body) = answer_of(client.post(&reload).bearer_auth(ADMIN_TOKEN)).await;
        assert_eq!(status, 200, "{body}");
        if swap == SWAPS / 10 {
            warm_kib = resident_kib(daemon.process.pid());
        }
    }
    let grown_kib = resident_kib(daemon.process.pid()).saturating_sub(warm_kib);
    is_over.store(true, Ordering::Relaxed);
    let refreshes = refreshing.await.expect("no refresh failed");
    let status = plugin_status(&daemon, "one").await;
    let polls = polls_of(&daemon.stop().await, "one");
    let most = polls.windows(2).map(|pair| pair[1] - pair[0]).fold(0.0, f64::max);
    let due = polls.last().zip(polls.first()).map_or(0.0, |(last, first)| (last - first) / 0.2);
    println!(
        "{SWAPS} swaps: {} polls ({due:.0} expected), at most {most:.3} s apart, {refreshes} refreshes, {grown_kib} KiB more",
        polls.len()
    );
    assert_eq!(status["loads"]["loaded"], json!(SWAPS + 1), "each policy must be loaded: {status}");
    assert_eq!((&status["loads"]["refused"], &status["faults"]), (&Value::Null, &json!({})), "{status}");
    // A poll calls the policy once, and a second time if the registry answers late. A swap alone causes no poll.
    let polled = f64::from(u32::try_from(polls.len()).expect("the number of polls is small"));
    assert!(polled <= 2.0 * due + 2.0, "{polled} polls, {due:.0} expected");
    assert!(most < 2.0, "a poll with an interval of 200 ms came after {most:.3} s, so a poll was lost");
    assert!(refreshes > 5, "{refreshes}");
    assert!(grown_kib < 24 * 1024, "{grown_kib} KiB more than after a tenth of the swaps");
}

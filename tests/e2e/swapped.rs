//! Tests two different policies that replace each other while the program runs. A freeze starts and ends, and each
//! policy uses the state, the results and the quarantine of the other. Also tests three policies side by side, and a
//! recording of one policy that is replayed with another.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use imagewatch_abi::Digest;
use imagewatch_tests::components::{plugin_wasm, weekdays_wasm};
use imagewatch_tests::engine::RunSpec;
use imagewatch_tests::image::ImageSpec;
use imagewatch_tests::plugin_manifest::{deploy, hash_of};
use imagewatch_tests::process::Signal;
use imagewatch_tests::program::{STATE_DIR, start_imagewatch};
use imagewatch_tests::registry::RegistryAuth;
use imagewatch_tests::token_server::{TokenPolicy, TokenServer};
use serde_json::{Value, json};

use crate::reload::plugin_status;
use crate::stage::{Daemon, LONG_TIMEOUT, SHORT_TIMEOUT, Stage, labels, run_to_end, watch_with};
use imagewatch_policy::inline::Inline;

/// Each poll of a policy logs this text.
const POLLED: &str = r#"export="poll""#;

/// Config for `weekdays` that gives the same result on every day of the week.
const FREEZE: (&str, &str) = ("days", "none");
const EVERY_DAY: (&str, &str) = ("days", "mon tue wed thu fri sat sun");

fn tagged(stage: &Stage, role: &str, tag: &str) -> String {
    format!("{}/{}:{tag}", stage.registry.host(), stage.scope.name(role))
}

async fn push(stage: &Stage, role: &str, tag: &str) -> Digest {
    let spec = ImageSpec::sleeper(&stage.scope.name(&format!("{role}-{tag}")));
    stage.registry.target().push(&stage.scope.name(role), tag, &spec).await
}

/// Runs a container on `tag`. Both policies update it to newer versions.
async fn run(stage: &Stage, role: &str, tag: &str) -> String {
    let labels = labels(&[("imagewatch.update-policy", "semver:^1")]);
    stage.run_as(role, RunSpec { image: tagged(stage, role, tag), labels, ..RunSpec::default() }).await
}

/// Only the default policy knows this key of the tests' manifests.
const ONLY_DEFAULT_KEY: &str = "unknown_origin";

/// A container `web` on 1.0.0, and a manifest `one` with a module file that the test changes.
struct Scene {
    stage: Stage,
    module: PathBuf,
    state: String,
}

impl Scene {
    async fn new() -> Self {
        let stage = Stage::new().await;
        push(&stage, "web", "1.0.0").await;
        run(&stage, "web", "1.0.0").await;
        let folder = stage.folder.path();
        let (module, state) = (folder.join("policy.wasm"), folder.join("state").display().to_string());
        Self { stage, module, state }
    }

    /// Deploys the module in `file`, and a manifest with its hash.
    fn deploy(&self, file: &Path, config: &[(&str, &str)]) -> PathBuf {
        deploy(&self.module, &std::fs::read(file).expect("the module was built"));
        let manifest = self.stage.manifest().module(&self.module).config("containers", "labelled");
        let manifest = if file == weekdays_wasm() { manifest.without(ONLY_DEFAULT_KEY) } else { manifest };
        let manifest = config.iter().fold(manifest, |manifest, (key, value)| manifest.config(key, value));
        self.stage.write(&manifest, "one")
    }

    fn watch(&self, manifest: PathBuf) -> Daemon {
        let log = "info,imagewatch::daemon::effects=debug,imagewatch::daemon::session=debug";
        let envs = [(STATE_DIR, self.state.as_str()), ("IMAGEWATCH_LOG", log)];
        watch_with(self.stage.scope.engine().host(), &[manifest], &envs)
    }

    /// Replaces the running policy with the module in `file`.
    async fn swap(&self, daemon: &Daemon, file: &Path, config: &[(&str, &str)]) {
        let seen = daemon.count("reloaded");
        self.deploy(file, config);
        daemon.wait_for_more("reloaded", seen).await;
        let running = plugin_status(daemon, "one").await["running"]["sha256"].clone();
        assert_eq!(running, json!(hash_of(&std::fs::read(file).expect("the module was built"))));
    }

    async fn push(&self, tag: &str) -> Digest {
        push(&self.stage, "web", tag).await
    }

    async fn push_broken(&self, tag: &str) {
        let spec = ImageSpec::broken(&self.stage.scope.name(&format!("web-{tag}")));
        self.stage.registry.target().push(&self.stage.scope.name("web"), tag, &spec).await;
    }

    /// Runs a command next to the running program and returns its JSON.
    async fn run_json(&self, args: &[&str]) -> Value {
        let (code, output) =
            run_to_end(self.stage.scope.engine().host(), args, &[(STATE_DIR, self.state.as_str())]).await;
        assert_eq!(code, 0, "{output}");
        serde_json::from_str(&output).unwrap_or_else(|error| panic!("{error}: {output}"))
    }

    /// The verdict and the reason of a check.
    async fn check(&self) -> (Value, String) {
        let path = self.stage.folder.path().join("one.json").display().to_string();
        let checked = self.run_json(&["check", "--json", &path]).await;
        let row = &checked["images"][0];
        (row["verdict"].clone(), row["reason"].as_str().unwrap_or_default().to_owned())
    }

    /// The history, oldest first.
    async fn history(&self) -> Vec<Value> {
        let listed = self.run_json(&["history", "--json"]).await;
        listed["history"].as_array().expect("the history is a list").iter().rev().cloned().collect()
    }

    /// The id of the container. Panics unless it runs.
    async fn id(&self) -> String {
        let now = self.stage.container("web").await.expect("the container has its name");
        assert!(now.is_running, "{now:?}");
        now.id
    }

    /// Waits for three polls. The container must still have the id `id`.
    async fn assert_left_alone(&self, daemon: &Daemon, id: &str) {
        daemon.wait_for_more(POLLED, daemon.count(POLLED) + 2).await;
        assert_eq!(self.id().await, id);
        assert_eq!(self.stage.containers().await, [self.stage.scope.name("web")], "no other container remains");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_freeze_holds_a_push_until_the_freeze_ends() {
    const REASON: &str = "from 1.0.0 to 1.1.0: everything is frozen, `days` is none";
    let scene = Scene::new().await;
    let daemon = scene.watch(scene.deploy(&plugin_wasm(), &[]));
    daemon.wait_for_line("first seen").await;
    let id = scene.id().await;

    scene.swap(&daemon, &weekdays_wasm(), &[FREEZE]).await;
    let pushed = scene.push("1.1.0").await;
    daemon.wait_for_line(&format!("held, {REASON}")).await;
    assert_eq!(scene.check().await, (json!("held"), REASON.to_owned()));
    scene.assert_left_alone(&daemon, &id).await;
    let last = scene.history().await.pop().expect("the history has the hold");
    assert_eq!((&last["verdict"], &last["reason"]), (&json!("held"), &json!(REASON)));

    scene.swap(&daemon, &plugin_wasm(), &[]).await;
    let now = scene.stage.wait_until_on("web", &pushed, LONG_TIMEOUT).await;
    assert_eq!(now.image, tagged(&scene.stage, "web", "1.1.0"));
    daemon.wait_for_line("pulled, recreated").await;
    let verdicts: Vec<_> = scene.history().await.iter().map(|event| event["verdict"].clone()).collect();
    assert_eq!(verdicts, ["seeded", "held", "moved", "committed"], "the state of the first policy must be kept");
    let status = plugin_status(&daemon, "one").await;
    assert_eq!((&status["faults"], &status["refused"]), (&json!({}), &Value::Null), "{status}");
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn policies_share_the_quarantine_and_the_results() {
    let scene = Scene::new().await;
    let daemon = scene.watch(scene.deploy(&plugin_wasm(), &[]));
    daemon.wait_for_line("first seen").await;
    let id = scene.id().await;
    scene.push_broken("1.1.0").await;
    daemon.wait_for_line("is quarantined").await;

    // The digest that the default policy quarantined is quarantined for the other one. An update of the other one is
    // not repeated.
    scene.swap(&daemon, &weekdays_wasm(), &[EVERY_DAY]).await;
    daemon.wait_for_line("from 1.0.0 to 1.1.0: failed before").await;
    scene.assert_left_alone(&daemon, &id).await;
    let good = scene.push("1.2.0").await;
    let moved = scene.stage.wait_until_on("web", &good, LONG_TIMEOUT).await;
    daemon.wait_for_line("web: recreated").await;
    scene.swap(&daemon, &plugin_wasm(), &[]).await;
    scene.assert_left_alone(&daemon, &moved.id).await;
    assert_eq!(scene.check().await.0, "unchanged");

    // The same in the other direction.
    scene.swap(&daemon, &weekdays_wasm(), &[EVERY_DAY]).await;
    scene.push_broken("1.3.0").await;
    daemon.wait_for_line("from 1.2.0 to 1.3.0: failed before").await;
    scene.swap(&daemon, &plugin_wasm(), &[]).await;
    scene.assert_left_alone(&daemon, &moved.id).await;
    assert_eq!(scene.check().await.0, "held");
    let fixed = scene.push("1.3.1").await;
    scene.stage.wait_until_on("web", &fixed, LONG_TIMEOUT).await;
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn three_policies_run_independently() {
    let stage = Stage::new().await;
    stage.push("web", "v1").await;
    push(&stage, "app", "1.0.0").await;
    stage.run("web").await;
    run(&stage, "app", "1.0.0").await;
    let endless = Inline { poll: "(loop $l (br $l))".to_owned(), ..Inline::default() };
    let hostile = stage.folder.path().join("hostile.wasm");
    std::fs::write(&hostile, endless.build()).expect("the test's folder is writable");
    let manifest = |wasm: &Path, containers: &str| {
        stage.manifest().module(wasm).config("grant.containers", &format!("name:{}", stage.scope.name(containers)))
    };
    let hostile = manifest(&hostile, "*").config("host.fuel", "500000000");
    let hostile = hostile.without("interval").without(ONLY_DEFAULT_KEY);
    let weekdays = manifest(&weekdays_wasm(), "app").without(ONLY_DEFAULT_KEY);
    let daemon = stage.watch(&[
        stage.write(&manifest(&plugin_wasm(), "web").config("images", &stage.image("web")), "follows"),
        stage.write(&weekdays.config(EVERY_DAY.0, EVERY_DAY.1), "minor"),
        stage.write(&hostile, "hostile"),
    ]);
    daemon.wait_for_line("first seen").await;
    push(&stage, "app", "2.0.0").await;
    let (web, app) = (stage.push("web", "v2").await, push(&stage, "app", "1.1.0").await);
    stage.wait_until_on("web", &web, LONG_TIMEOUT).await;
    stage.wait_until_on("app", &app, LONG_TIMEOUT).await;
    daemon.process.wait_for_line("fuel", SHORT_TIMEOUT).await;
    for (name, policy, fault) in
        [("follows", "imagewatch", None), ("minor", "weekdays", None), ("hostile", "inline", Some("fuel"))]
    {
        let status = plugin_status(&daemon, name).await;
        let shown = status["running"]["policy"].as_str().expect("the policy has a name");
        assert!(shown.starts_with(policy), "{status}");
        let faults: Vec<_> = status["faults"].as_object().expect("counts").keys().map(String::as_str).collect();
        assert_eq!((faults, &status["denied"]), (fault.into_iter().collect(), &json!({})), "{status}");
    }
    daemon.stop().await;
}

const USER: &str = "alice";
const PASSWORD: &str = "canary-s3cret";

/// Text that a recording of `stage`'s registry must not contain.
fn secrets() -> [String; 3] {
    use base64::Engine as _;
    let basic = base64::engine::general_purpose::STANDARD.encode(format!("{USER}:{PASSWORD}"));
    // Every JSON Web Token starts with this text.
    [PASSWORD.to_owned(), basic, "eyJ".to_owned()]
}

/// Records a move from 1.0.0 to 1.1.0 by the default policy, on a registry that needs a login. Returns the file.
async fn record_a_move(stage: &Stage, config: &[(&str, &str)]) -> PathBuf {
    let credential = format!("{}={USER}:{PASSWORD}", stage.registry.host());
    let envs = [("IMAGEWATCH_CREDENTIAL_TEST", credential.as_str())];
    let docker_host = stage.scope.engine().host();
    push(stage, "web", "1.0.0").await;
    let manifest = config.iter().fold(stage.manifest(), |manifest, (key, value)| manifest.config(key, value));
    let pull = stage.write(&manifest.clone().config("images", &tagged(stage, "web", "1.0.0")), "pull");
    let args = ["refresh", "--no-recreate", "--manifest", pull.to_str().expect("text")];
    let (code, output) = run_to_end(docker_host, &args, &envs).await;
    assert_eq!(code, 0, "{output}");
    run(stage, "web", "1.0.0").await;

    let manifest = stage.write(&manifest.config("containers", "labelled"), "days");
    let file = stage.folder.path().join("days.jsonl");
    let args = [Path::new("run"), "--admin-listen".as_ref(), "off".as_ref(), "--record".as_ref(), &file, &manifest];
    let mut process = start_imagewatch(docker_host, args, &envs);
    process.wait_for_line("first seen", SHORT_TIMEOUT).await;
    let pushed = push(stage, "web", "1.1.0").await;
    stage.wait_until_on("web", &pushed, LONG_TIMEOUT).await;
    process.wait_for_line("pulled, recreated", SHORT_TIMEOUT).await;
    process.signal(Signal::TERM);
    assert_eq!(process.wait_exit(LONG_TIMEOUT).await, Some(0));
    file
}

/// Runs a replay, which needs no engine. Returns the exit code and the output.
async fn replay(file: &Path, plugin: &Path, more: &[&str]) -> (i32, String) {
    let args = ["plugin", "replay", file.to_str().expect("text"), "--plugin", plugin.to_str().expect("text")];
    run_to_end("unix:///there/is/none", &[&args, more].concat(), &[]).await
}

/// Runs a replay and returns its JSON.
async fn replay_json(file: &Path, plugin: &Path, more: &[&str]) -> (i32, Value) {
    let (code, output) = replay(file, plugin, &[&["--json"], more].concat()).await;
    (code, serde_json::from_str(&output).unwrap_or_else(|error| panic!("{error}: {output}")))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replay_shows_which_moves_another_policy_holds() {
    let login = RegistryAuth::Htpasswd { user: USER.to_owned(), password: PASSWORD.to_owned() };
    let stage = Stage::with(login).await;
    let file = record_a_move(&stage, &[]).await;
    let recorded = std::fs::read_to_string(&file).expect("the recording can be read");
    assert!(secrets().iter().all(|secret| !recorded.contains(secret)), "{recorded}");

    let (code, same) = replay_json(&file, &plugin_wasm(), &[]).await;
    assert_eq!((code, &same["differences"], &same["faults"]), (0, &json!([]), &json!([])));
    assert!(same["calls"].as_u64() > Some(2), "{same}");

    let (code, frozen) = replay_json(&file, &weekdays_wasm(), &["--config", "days=none"]).await;
    assert_eq!((code, &frozen["faults"]), (1, &json!([])), "{frozen}");
    let differences = frozen["differences"].as_array().expect("the differences are a list");
    let verdicts =
        |difference: &Value| (difference["recorded"]["verdict"].clone(), difference["replayed"]["verdict"].clone());
    let held = differences.iter().find(|difference| verdicts(difference) == (json!("moved"), json!("held")));
    let held = held.unwrap_or_else(|| panic!("{frozen}"));
    assert_eq!(held["target"], json!(stage.scope.name("web")));
    let reason = held["replayed"]["reason"].as_str().expect("the difference has a reason");
    assert!(reason.starts_with("from 1.0.0 to 1.1.0: everything is frozen"), "{reason}");
    let (code, table) = replay(&file, &weekdays_wasm(), &["--config", "days=none"]).await;
    assert!(code == 1 && table.contains("everything is frozen"), "{table}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_recording_contains_no_token_and_can_be_replayed() {
    let users = [(USER.to_owned(), PASSWORD.to_owned())].into();
    let policy = TokenPolicy { users, is_anonymous_allowed: false, expires_in_s: 300 };
    let server = Arc::new(TokenServer::start(policy).await);
    let stage = Stage::with(RegistryAuth::Token { token_server: server.clone() }).await;
    let realm = format!("{}={}", stage.registry.host(), server.host());
    let file = record_a_move(&stage, &[("host.auth_realms", &realm)]).await;
    assert!(server.requests().iter().any(|request| request.status == 200), "tokens were issued");
    let recorded = std::fs::read_to_string(&file).expect("the recording can be read");
    assert!(secrets().iter().all(|secret| !recorded.contains(secret)), "{recorded}");
    let (code, same) = replay_json(&file, &plugin_wasm(), &[]).await;
    assert_eq!((code, &same["differences"], &same["faults"]), (0, &json!([]), &json!([])));
}

//! Tests quarantined digests with the real program: they are held, shown, cleared, and kept after a kill. Also tests
//! the state folder: only one `run` may use it, and a damaged folder stops `run`.

use std::path::PathBuf;

use imagewatch::store::{FILE_NAME, Store};
use imagewatch_abi::{Digest, Fault, Quarantined};
use imagewatch_tests::engine::RunSpec;
use imagewatch_tests::http_client::build_client;
use imagewatch_tests::image::ImageSpec;
use imagewatch_tests::process::Signal;
use imagewatch_tests::program::STATE_DIR;
use imagewatch_tests::proxy::Proxy;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::stage::{ADMIN_TOKEN, Daemon, LONG_TIMEOUT, SHORT_TIMEOUT, Stage, answer_of, run_to_end, watch_with};

/// The name of the manifest. It watches labelled containers, each under its own name.
const MANIFEST: &str = "labelled";

/// One container, `web`, on `v1`, and a state folder that outlives every program in the test.
struct Scene {
    stage: Stage,
    state: TempDir,
    manifest: PathBuf,
    engine: Proxy,
    registry: Proxy,
    /// The id of the container.
    id: String,
}

impl Scene {
    async fn new() -> Self {
        let stage = Stage::new().await;
        stage.push("web", "v1").await;
        let engine = Proxy::to_engine(stage.scope.engine().host()).await;
        let registry = Proxy::to_registry(&stage.registry.host()).await;
        let image = format!("{}/{}:latest", registry.host(), stage.scope.name("web"));
        let id = stage.run_as("web", RunSpec { image, ..RunSpec::default() }).await;
        let manifest = stage.manifest_for(&registry.host()).config("containers", MANIFEST);
        let manifest = stage.write(&manifest, MANIFEST);
        Self { stage, state: TempDir::new().expect("the temp folder is writable"), manifest, engine, registry, id }
    }

    /// The name of the container and of its target.
    fn web(&self) -> String {
        self.stage.scope.name("web")
    }

    /// Pushes an image that exits immediately.
    async fn push_broken(&self, version: &str) -> Digest {
        let spec = ImageSpec::broken(&self.stage.scope.name(version));
        self.stage.registry.target().push(&self.web(), "latest", &spec).await
    }

    fn state_dir(&self) -> &str {
        self.state.path().to_str().expect("the path is UTF-8")
    }

    /// Starts `imagewatch run` with a log that reports a held digest at every poll.
    fn watch(&self) -> Daemon {
        let envs = [(STATE_DIR, self.state_dir()), ("IMAGEWATCH_LOG", "info,imagewatch::daemon::effects=debug")];
        watch_with(&self.engine.host(), std::slice::from_ref(&self.manifest), &envs)
    }

    /// Runs a command to its end and returns the exit code and the output.
    async fn run(&self, args: &[&str]) -> (i32, String) {
        run_to_end(self.stage.scope.engine().host(), args, &[(STATE_DIR, self.state_dir())]).await
    }

    /// Runs a command that must succeed, and returns its JSON.
    async fn run_json(&self, args: &[&str]) -> Value {
        let (code, output) = self.run(args).await;
        assert_eq!(code, 0, "{output}");
        serde_json::from_str(&output).unwrap_or_else(|error| panic!("{error}: {output}"))
    }

    /// Target, digest and fault of each quarantined entry.
    async fn quarantined(&self) -> Value {
        let listed = self.run_json(&["quarantine", "list", "--json"]).await;
        let rows = listed["quarantine"].as_array().expect("the quarantine is a list").clone();
        json!(rows.iter().map(|row| json!([row["target"], row["digest"], row["fault"]])).collect::<Vec<_>>())
    }

    /// The verdict and the reason of a check.
    async fn check(&self) -> (Value, String) {
        let path = self.manifest.to_str().expect("the path is UTF-8");
        let checked = self.run_json(&["check", "--json", path]).await;
        let row = &checked["images"][0];
        (row["verdict"].clone(), row["reason"].as_str().unwrap_or_default().to_owned())
    }

    /// Quarantines `digest`, as a failed replacement does.
    fn quarantine(&self, digest: &Digest) {
        let entry = Quarantined {
            target: self.web(),
            reference: format!("{}/{}:latest", self.registry.host(), self.web())
                .parse()
                .expect("the reference is valid"),
            digest: digest.clone(),
            fault: Fault::Image,
            cause: None,
            reason: "exited with code 1".to_owned(),
            count: 1,
            first_ms: 1,
            last_ms: 1,
            until_ms: None,
        };
        let store = Store::open(self.state.path()).expect("the state folder is writable");
        store.change_quarantine(MANIFEST, &[], &[entry]).expect("the store is writable");
    }

    /// Starts `run` and holds v2, which is a good image but quarantined. Returns the program and the digest.
    async fn hold_v2(&self) -> (Daemon, Digest) {
        let daemon = self.watch();
        daemon.wait_for_line("first seen").await;
        // A poll that still sees v1 drops an entry for another digest. Therefore no poll may reach the registry now.
        self.registry.cut().await;
        daemon.wait_for_line("failed to look up").await;
        let v2 = self.stage.push("web", "v2").await;
        self.quarantine(&v2);
        daemon.wait_for_more("failed to look up", daemon.count("failed to look up") + 1).await;
        self.registry.heal().await;
        daemon.wait_for_line("is held").await;
        (daemon, v2)
    }

    /// Waits for several polls that hold the digest, and checks that the container has not changed.
    async fn assert_left_alone(&self, daemon: &Daemon) {
        let created = self.engine.count("/containers/create");
        daemon.wait_for_more("is held", daemon.count("is held") + 2).await;
        assert_eq!(self.engine.count("/containers/create"), created, "no container is created");
        let now = self.stage.container("web").await.expect("the container exists");
        assert_eq!((now.id.as_str(), now.is_running), (self.id.as_str(), true));
        assert_eq!(self.stage.containers().await, [self.web()], "no other container remains");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn t22_a_bad_image_is_quarantined_until_a_clear_or_a_newer_digest() {
    let scene = Scene::new().await;
    let mut daemon = scene.watch();
    daemon.wait_for_line("first seen").await;
    let v2 = scene.push_broken("v2").await;
    daemon.wait_for_line("is quarantined").await;
    scene.assert_left_alone(&daemon).await;
    let quarantined = json!([[scene.web(), v2, "image"]]);
    assert_eq!(scene.quarantined().await, quarantined);
    let (verdict, reason) = scene.check().await;
    assert_eq!(verdict, "held");
    assert!(reason.contains(&format!("imagewatch quarantine clear {}", scene.web())), "{reason}");

    let created = scene.engine.count("/containers/create");
    let (code, output) = scene.run(&["quarantine", "clear", &scene.web()]).await;
    assert_eq!((code, output.contains(v2.short())), (0, true), "{output}");
    daemon.wait_for_more("is quarantined", 1).await;
    assert!(scene.engine.count("/containers/create") > created, "the update was tried again");
    scene.assert_left_alone(&daemon).await;

    daemon.process.signal(Signal::KILL);
    assert_eq!(daemon.process.wait_exit(SHORT_TIMEOUT).await, None);
    assert_eq!(scene.quarantined().await, quarantined, "the quarantine survives a kill");
    let daemon = scene.watch();
    daemon.wait_for_line("is held").await;
    assert_eq!((scene.quarantined().await, scene.check().await.0), (quarantined, json!("held")));

    let v3 = scene.stage.push("web", "v3").await;
    scene.stage.wait_until_on("web", &v3, LONG_TIMEOUT).await;
    assert_eq!(scene.quarantined().await, json!([]));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_quarantined_digest_is_held_and_applied_after_a_clear() {
    let scene = Scene::new().await;
    let (daemon, v2) = scene.hold_v2().await;
    scene.assert_left_alone(&daemon).await;
    assert_eq!(scene.quarantined().await, json!([[scene.web(), v2, "image"]]));
    let (verdict, reason) = scene.check().await;
    assert_eq!(verdict, "held");
    assert!(reason.starts_with("exited with code 1; quarantined"), "{reason}");
    let (code, table) = scene.run(&["quarantine", "list"]).await;
    assert_eq!(code, 0, "{table}");
    for part in [MANIFEST, &scene.web(), v2.short(), "image", "once", "exited with code 1"] {
        assert!(table.contains(part), "{part} in {table}");
    }

    let (code, output) = scene.run(&["quarantine", "clear", "nobody"]).await;
    assert_eq!(code, 1, "{output}");
    assert!(output.contains("nobody") && output.contains(&scene.web()), "{output}");
    let cleared = scene.run_json(&["quarantine", "clear", "--all", "--manifest", MANIFEST, "--json"]).await;
    assert_eq!(cleared["quarantine"][0]["target"], scene.web());
    scene.stage.wait_until_on("web", &v2, LONG_TIMEOUT).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_admin_api_lists_and_clears_the_quarantine() {
    let scene = Scene::new().await;
    let (daemon, v2) = scene.hold_v2().await;
    let web = scene.web();
    let url = daemon.admin_url("/admin/quarantine").await;
    let (status, body) = answer_of(build_client().get(&url).bearer_auth(ADMIN_TOKEN)).await;
    assert_eq!((status, &body["quarantine"][0]["digest"]), (200, &json!(v2)), "{body}");
    assert_eq!(answer_of(build_client().get(&url)).await.0, 401);

    let clear = |query: String| answer_of(build_client().delete(format!("{url}{query}")).bearer_auth(ADMIN_TOKEN));
    assert_eq!(clear(String::new()).await.0, 400);
    assert_eq!(clear(format!("?target={web}&manifest=other")).await.0, 404);
    let (status, body) = clear(format!("?target={web}")).await;
    assert_eq!((status, &body["quarantine"][0]["manifest"]), (200, &json!(MANIFEST)), "{body}");
    assert_eq!(clear(format!("?target={web}")).await.0, 404, "the entry was removed before");
    scene.stage.wait_until_on("web", &v2, LONG_TIMEOUT).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn first_use_16_the_result_of_a_refresh_is_readable_immediately() {
    let mut scene = Scene::new().await;
    let manifest = scene.stage.manifest_for(&scene.registry.host()).config("containers", MANIFEST);
    scene.manifest = scene.stage.write(&manifest.config("interval", "1h"), MANIFEST);
    let daemon = scene.watch();
    daemon.wait_for_line("first seen").await;
    let v2 = scene.push_broken("v2").await;
    let (status, body) = daemon.post("/admin/workspace-images/refresh").await;
    assert_eq!((status, &body["not_recreated"][0]["container"]), (200, &json!(scene.web())), "{body}");
    let urls = [daemon.admin_url("/admin/history").await, daemon.admin_url("/admin/quarantine").await];
    let [history, quarantine] = urls.map(|url| answer_of(build_client().get(url).bearer_auth(ADMIN_TOKEN)));
    let (history, quarantine) = (history.await.1, quarantine.await.1);
    assert_eq!(history["history"][0]["target"], json!(scene.web()), "{history}");
    assert!(history["history"][0]["reason"].to_string().contains("exited with code 1"), "{history}");
    assert_eq!(quarantine["quarantine"][0]["digest"], json!(v2), "{quarantine}");
}

#[tokio::test(flavor = "multi_thread")]
async fn only_one_run_may_use_a_state_folder() {
    let scene = Scene::new().await;
    let mut first = scene.watch();
    first.wait_for_line("first seen").await;
    let mut second = scene.watch();
    assert_eq!(second.process.wait_exit(SHORT_TIMEOUT).await, Some(7), "{:?}", second.process.lines());
    let line = second.wait_for_line("another imagewatch uses").await;
    let pid = format!("pid {}", first.process.pid());
    assert!(line.contains(&pid) && line.contains(scene.state_dir()), "{line}");
    assert_eq!(scene.check().await.0, "unchanged");
    assert_eq!(scene.quarantined().await, json!([]));

    first.process.signal(Signal::KILL);
    assert_eq!(first.process.wait_exit(SHORT_TIMEOUT).await, None);
    scene.watch().wait_for_line("loaded").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_store_stops_run_and_check_continues() {
    let scene = Scene::new().await;
    let file = scene.state.path().join(FILE_NAME);
    std::fs::write(&file, "this file is not a database").expect("the state folder is writable");
    let mut daemon = scene.watch();
    assert_eq!(daemon.process.wait_exit(SHORT_TIMEOUT).await, Some(3), "{:?}", daemon.process.lines());
    let line = daemon.wait_for_line("failed to read").await;
    assert!(line.contains(&file.display().to_string()) && line.contains("move it away"), "{line}");

    let path = scene.manifest.to_str().expect("the path is UTF-8");
    let (code, output) = scene.run(&["check", path]).await;
    assert_eq!(code, 0, "{output}");
    assert!(output.contains("as if nothing were quarantined") && output.contains("1 up to date"), "{output}");
}

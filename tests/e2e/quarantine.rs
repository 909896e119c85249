//! Digests in quarantine, through the real program: held, shown, cleared, and still there after a
//! kill. And the state folder that they are kept in: one `run` at a time, and what a damaged one stops.

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

use crate::stage::{ADMIN_TOKEN, Daemon, LATER, SOON, Stage, answer_of, run_to_end, watch_with};

/// The manifest's name; it watches labelled containers, each under its own name.
const MANIFEST: &str = "labelled";

/// One container, `web`, on `v1`, and a state folder that outlives every program here.
struct Scene {
    stage: Stage,
    state: TempDir,
    manifest: PathBuf,
    engine: Proxy,
    registry: Proxy,
    /// The container's id.
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
        Self { stage, state: TempDir::new().expect("a folder"), manifest, engine, registry, id }
    }

    /// The container's name, and so the target's.
    fn web(&self) -> String {
        self.stage.scope.name("web")
    }

    /// Pushes an image whose container ends at once.
    async fn push_broken(&self, version: &str) -> Digest {
        let spec = ImageSpec::broken(&self.stage.scope.name(version));
        self.stage.registry.target().push(&self.web(), "latest", &spec).await
    }

    fn state_dir(&self) -> &str {
        self.state.path().to_str().expect("a path of ours")
    }

    /// `imagewatch run`; it says every tick when a digest is held.
    fn watch(&self) -> Daemon {
        let envs = [(STATE_DIR, self.state_dir()), ("IMAGEWATCH_LOG", "info,imagewatch::daemon::effects=debug")];
        watch_with(&self.engine.host(), std::slice::from_ref(&self.manifest), &envs)
    }

    /// Exit code and output of a command that ends.
    async fn run(&self, args: &[&str]) -> (i32, String) {
        run_to_end(self.stage.scope.engine().host(), args, &[(STATE_DIR, self.state_dir())]).await
    }

    /// What a command that succeeds prints as JSON.
    async fn run_json(&self, args: &[&str]) -> Value {
        let (code, output) = self.run(args).await;
        assert_eq!(code, 0, "{output}");
        serde_json::from_str(&output).unwrap_or_else(|error| panic!("{error}: {output}"))
    }

    /// Target, digest and fault of all that is barred.
    async fn barred(&self) -> Value {
        let listed = self.run_json(&["quarantine", "list", "--json"]).await;
        let rows = listed["quarantine"].as_array().expect("a list").clone();
        json!(rows.iter().map(|row| json!([row["target"], row["digest"], row["fault"]])).collect::<Vec<_>>())
    }

    /// Verdict and reason of a check.
    async fn check(&self) -> (Value, String) {
        let path = self.manifest.to_str().expect("a path of ours");
        let checked = self.run_json(&["check", "--json", path]).await;
        let row = &checked["images"][0];
        (row["verdict"].clone(), row["reason"].as_str().unwrap_or_default().to_owned())
    }

    /// Bars `digest` as a failed replacement would have.
    fn bar(&self, digest: &Digest) {
        let entry = Quarantined {
            target: self.web(),
            reference: format!("{}/{}:latest", self.registry.host(), self.web()).parse().expect("a reference"),
            digest: digest.clone(),
            fault: Fault::Image,
            cause: None,
            reason: "exited with code 1".to_owned(),
            count: 1,
            first_ms: 1,
            last_ms: 1,
            until_ms: None,
        };
        let store = Store::open(self.state.path()).expect("a store");
        store.change_quarantine(MANIFEST, &[], &[entry]).expect("it can be written");
    }

    /// A running `run` that holds v2, a good image that is barred all the same; and its digest.
    async fn hold_v2(&self) -> (Daemon, Digest) {
        let daemon = self.watch();
        daemon.wait_for_line("first seen").await;
        // A tick that still finds v1 drops an entry for another digest, so none may find anything meanwhile.
        self.registry.cut().await;
        daemon.wait_for_line("failed to look up").await;
        let v2 = self.stage.push("web", "v2").await;
        self.bar(&v2);
        daemon.wait_for_more("failed to look up", daemon.count("failed to look up") + 1).await;
        self.registry.heal().await;
        daemon.wait_for_line("is held").await;
        (daemon, v2)
    }

    /// Waits for some ticks that hold what is barred, and finds the container as it was.
    async fn assert_left_alone(&self, daemon: &Daemon) {
        let created = self.engine.count("/containers/create");
        daemon.wait_for_more("is held", daemon.count("is held") + 2).await;
        assert_eq!(self.engine.count("/containers/create"), created, "no container is made");
        let now = self.stage.container("web").await.expect("it is there");
        assert_eq!((now.id.as_str(), now.is_running), (self.id.as_str(), true));
        assert_eq!(self.stage.containers().await, [self.web()], "nothing is left over");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn t22_a_bad_image_is_restored_and_barred_until_it_is_cleared_or_a_newer_one_comes() {
    let scene = Scene::new().await;
    let mut daemon = scene.watch();
    daemon.wait_for_line("first seen").await;
    let v2 = scene.push_broken("v2").await;
    daemon.wait_for_line("is quarantined").await;
    scene.assert_left_alone(&daemon).await;
    let barred = json!([[scene.web(), v2, "image"]]);
    assert_eq!(scene.barred().await, barred);
    let (verdict, reason) = scene.check().await;
    assert_eq!(verdict, "held");
    assert!(reason.contains(&format!("imagewatch quarantine clear {}", scene.web())), "{reason}");

    let created = scene.engine.count("/containers/create");
    let (code, output) = scene.run(&["quarantine", "clear", &scene.web()]).await;
    assert_eq!((code, output.contains(v2.short())), (0, true), "{output}");
    daemon.wait_for_more("is quarantined", 1).await;
    assert!(scene.engine.count("/containers/create") > created, "it was tried again");
    scene.assert_left_alone(&daemon).await;

    daemon.process.signal(Signal::KILL);
    assert_eq!(daemon.process.wait_exit(SOON).await, None);
    assert_eq!(scene.barred().await, barred, "it survives a kill");
    let daemon = scene.watch();
    daemon.wait_for_line("is held").await;
    assert_eq!((scene.barred().await, scene.check().await.0), (barred, json!("held")));

    let v3 = scene.stage.push("web", "v3").await;
    scene.stage.wait_until_on("web", &v3, LATER).await;
    assert_eq!(scene.barred().await, json!([]));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_barred_digest_is_held_shown_and_moved_to_once_it_is_cleared() {
    let scene = Scene::new().await;
    let (daemon, v2) = scene.hold_v2().await;
    scene.assert_left_alone(&daemon).await;
    assert_eq!(scene.barred().await, json!([[scene.web(), v2, "image"]]));
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
    scene.stage.wait_until_on("web", &v2, LATER).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_admin_api_shows_what_is_barred_and_clears_it() {
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
    assert_eq!(clear(format!("?target={web}")).await.0, 404, "it is gone");
    scene.stage.wait_until_on("web", &v2, LATER).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn first_use_16_what_a_refresh_answers_can_be_read_at_once() {
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
async fn a_second_run_on_a_state_folder_is_refused_and_other_commands_are_not() {
    let scene = Scene::new().await;
    let mut first = scene.watch();
    first.wait_for_line("first seen").await;
    let mut second = scene.watch();
    assert_eq!(second.process.wait_exit(SOON).await, Some(7), "{:?}", second.process.lines());
    let line = second.wait_for_line("another imagewatch runs").await;
    let pid = format!("pid {}", first.process.pid());
    assert!(line.contains(&pid) && line.contains(scene.state_dir()), "{line}");
    assert_eq!(scene.check().await.0, "unchanged");
    assert_eq!(scene.barred().await, json!([]));

    first.process.signal(Signal::KILL);
    assert_eq!(first.process.wait_exit(SOON).await, None);
    scene.watch().wait_for_line("loaded").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_store_stops_run_with_a_word_and_a_check_goes_on() {
    let scene = Scene::new().await;
    let file = scene.state.path().join(FILE_NAME);
    std::fs::write(&file, "this was a database once, before somebody wrote into it").expect("a file");
    let mut daemon = scene.watch();
    assert_eq!(daemon.process.wait_exit(SOON).await, Some(3), "{:?}", daemon.process.lines());
    let line = daemon.wait_for_line("failed to read").await;
    assert!(line.contains(&file.display().to_string()) && line.contains("move it away"), "{line}");

    let path = scene.manifest.to_str().expect("a path of ours");
    let (code, output) = scene.run(&["check", path]).await;
    assert_eq!(code, 0, "{output}");
    assert!(output.contains("as if nothing were quarantined") && output.contains("1 up to date"), "{output}");
}

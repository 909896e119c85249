//! The program in a container of the engine that it works on, and its own image moves on (T40). And that there is one
//! updater on an engine, not two (T41).

use std::time::Duration;

use bollard::query_parameters::LogsOptionsBuilder;
use futures_util::TryStreamExt;
use imagewatch_abi::Digest;
use imagewatch_tests::engine::{RunSpec, Scope, TestEngine};
use imagewatch_tests::image::ImageSpec;
use imagewatch_tests::judge::{Update, Way, journal_files, take_picture};
use imagewatch_tests::plugin_manifest::PluginManifest;
use imagewatch_tests::private_engine::PrivateEngine;
use imagewatch_tests::program::{imagewatch, start_imagewatch};
use imagewatch_tests::registry::{Registry, RegistryAuth};
use imagewatch_tests::wait::wait_for;
use tempfile::TempDir;

const LATER: Duration = Duration::from_secs(60);
const SOCKET: &str = "/run/engine.sock";

/// An updater in a container, and a container that it updates. Fields are dropped in this order.
struct Scene {
    scope: Scope,
    registry: Registry,
    folder: TempDir,
    engine: PrivateEngine,
}

impl Scene {
    async fn new() -> Self {
        let engine = PrivateEngine::start().await;
        let registry = Registry::start_at(engine.outer_address(), RegistryAuth::None).await;
        let scope = TestEngine::scope(&engine.connect().await);
        let scene = Self { scope, registry, folder: TempDir::new().expect("a folder"), engine };
        scene.push("app", &ImageSpec::sleeper("v1")).await;
        scene.run("app", Vec::new(), Vec::new()).await;
        scene.push("updater", &updater_image("v1", true)).await;
        let manifest = scene.write_manifest();
        let path = |path: &std::path::Path| path.to_str().expect("a path of ours").to_owned();
        let same = |file: &str| format!("{file}:{file}:ro");
        let binds = vec![
            same("/lib"),
            same("/lib64"),
            same("/usr"),
            // It looks for certificates even where it needs none.
            same("/etc/ssl"),
            same(&path(&manifest.wasm)),
            format!("{}:/imagewatch:ro", path(&imagewatch())),
            format!("{}:/manifests:ro", path(&scene.folder.path().join("manifests"))),
            format!("{}:{SOCKET}", path(&scene.engine.socket())),
            format!("{}:/state", path(&scene.folder.path().join("state"))),
        ];
        let env = vec![format!("DOCKER_HOST=unix://{SOCKET}"), "IMAGEWATCH_STATE_DIR=/state".to_owned()];
        scene.run("updater", binds, env).await;
        scene.wait_until_seen("app").await;
        scene.wait_until_seen("updater").await;
        scene
    }

    fn write_manifest(&self) -> PluginManifest {
        let (registry, folder) = (self.registry.host(), self.folder.path());
        for name in ["manifests", "state"] {
            std::fs::create_dir(folder.join(name)).expect("the folder is empty");
        }
        let manifest = PluginManifest::new()
            .allow_host(&registry)
            .config("containers", "labelled")
            .config("interval", "200ms")
            .config("host.stable_for", "1s")
            .config("host.insecure_registries", &registry)
            .config("grant.images", &format!("{registry}/*"))
            .config("grant.containers", &format!("name:{}*", self.scope.name("")));
        manifest.write(&folder.join("manifests"), "all");
        manifest
    }

    async fn push(&self, role: &str, spec: &ImageSpec) -> Digest {
        self.registry.target().push(&self.scope.name(role), "latest", spec).await
    }

    async fn run(&self, role: &str, volumes: Vec<String>, env: Vec<String>) {
        let labels = ["imagewatch.enable", if role == "updater" { "imagewatch.updater" } else { "role" }];
        let name = self.scope.name(role);
        let spec = RunSpec {
            image: format!("{}/{name}:latest", self.registry.host()),
            name,
            labels: labels.map(|label| (label.to_owned(), "true".to_owned())).into(),
            volumes,
            env,
            restart_policy: Some("always".to_owned()),
            ..RunSpec::default()
        };
        self.scope.run(&spec).await;
    }

    /// What the updater that has the name now says.
    async fn log(&self) -> Vec<String> {
        let options = LogsOptionsBuilder::new().stdout(true).stderr(true).build();
        let lines = self.scope.engine().docker().logs(&self.scope.name("updater"), Some(options));
        // Between two updaters nobody has the name.
        let text: Vec<String> = lines.map_ok(|line| line.to_string()).try_collect().await.unwrap_or_default();
        text.concat().lines().map(str::to_owned).collect()
    }

    async fn wait_until_said(&self, parts: &[&str]) {
        wait_for(&format!("the updater to say {parts:?}"), LATER, || async {
            let log = self.log().await;
            if log.iter().any(|line| parts.iter().all(|part| line.contains(part))) { Ok(()) } else { Err(log) }
        })
        .await;
    }

    async fn wait_until_seen(&self, role: &str) {
        self.wait_until_said(&["first seen", &self.scope.name(role)]).await;
    }

    /// A new image for the container of `role`.
    async fn release(&self, role: &str, spec: &ImageSpec, is_good: bool) -> Update {
        let name = self.scope.name(role);
        let before = take_picture(&self.scope, &name).await.expect("it runs");
        Update { digest: self.push(role, spec).await, name, before, is_good }
    }

    async fn wait_until_gone(&self, update: &Update, way: Way) {
        wait_for(&format!("{} to have gone {way:?}", update.name), LATER, || async {
            let (judged, files) = (update.judge(&self.scope).await, journal_files(&self.folder.path().join("state")));
            if judged == Ok(way) && files.is_empty() { Ok(()) } else { Err((judged, files, self.log().await)) }
        })
        .await;
    }
}

/// The program itself comes with a mount: what is new is that another image runs it.
fn updater_image(version: &str, is_good: bool) -> ImageSpec {
    let command =
        if is_good { "/imagewatch run --admin-listen off /manifests/all.json" } else { "/imagewatch nonsense" };
    ImageSpec { cmd: command.split(' ').map(str::to_owned).collect(), ..ImageSpec::sleeper(version) }
}

#[tokio::test(flavor = "multi_thread")]
async fn t40_t41_an_updater_hands_over_to_its_successor_which_works_alone() {
    let scene = Scene::new().await;
    let update = scene.release("updater", &updater_image("v2", true), true).await;
    scene.wait_until_gone(&update, Way::Forwards).await;
    scene.wait_until_seen("app").await;
    let of_app = scene.release("app", &ImageSpec::sleeper("v2"), true).await;
    scene.wait_until_gone(&of_app, Way::Forwards).await;

    let host = format!("unix://{}", scene.engine.socket().display());
    let mut second = start_imagewatch(&host, ["run", "--admin-listen", "off"], &[]);
    assert_eq!(second.wait_exit(LATER).await, Some(7), "{:?}", second.lines());
    let said = second.lines().join("\n");
    assert!(said.contains(&scene.scope.name("updater")), "it names the one that runs: {said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn t40_an_updater_whose_successor_does_not_start_goes_on() {
    let scene = Scene::new().await;
    let update = scene.release("updater", &updater_image("v2", false), false).await;
    scene.wait_until_said(&["is quarantined", &scene.scope.name("updater")]).await;
    scene.wait_until_gone(&update, Way::Back).await;
    let now = take_picture(&scene.scope, &update.name).await.expect("it runs");
    assert_eq!(now.started_at, update.before.started_at, "it was never stopped");
    let of_app = scene.release("app", &ImageSpec::sleeper("v2"), true).await;
    scene.wait_until_gone(&of_app, Way::Forwards).await;
}

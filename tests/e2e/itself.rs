//! Tests the program in a container of the engine that it manages, when the program's own image moves (T40). Also tests
//! that only one updater works on an engine (T41).

use std::time::{Duration, Instant};

use bollard::query_parameters::{ListContainersOptionsBuilder, LogsOptionsBuilder};
use futures_util::TryStreamExt;
use imagewatch_abi::Digest;
use imagewatch_tests::engine::{RunSpec, Scope, TestEngine};
use imagewatch_tests::image::ImageSpec;
use imagewatch_tests::judge::{Outcome, Update, journal_files, read_state};
use imagewatch_tests::plugin_manifest::PluginManifest;
use imagewatch_tests::private_engine::PrivateEngine;
use imagewatch_tests::program::{imagewatch, start_imagewatch};
use imagewatch_tests::registry::{Registry, RegistryAuth};
use imagewatch_tests::wait::wait_for;
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

const LONG_TIMEOUT: Duration = Duration::from_mins(3);
const SOCKET: &str = "/run/engine.sock";

/// An updater in a container, and a container that it updates. The fields are dropped in this order.
struct Scene {
    scope: Scope,
    registry: Registry,
    folder: TempDir,
    engine: PrivateEngine,
}

impl Scene {
    /// Starts the scene. The updater publishes `port`, if it is set.
    async fn new(port: Option<u16>) -> Self {
        let engine = PrivateEngine::start().await;
        let registry = Registry::start_at(engine.outer_address(), RegistryAuth::None).await;
        let scope = TestEngine::scope(&engine.connect().await);
        let scene = Self { scope, registry, folder: TempDir::new().expect("the temp folder is writable"), engine };
        scene.push("app", &ImageSpec::sleeper("v1")).await;
        scene.run("app", Vec::new(), Vec::new(), None).await;
        scene.push("updater", &updater_image("v1", true)).await;
        let manifest = scene.write_manifest();
        let path = |path: &std::path::Path| path.to_str().expect("the path is UTF-8").to_owned();
        let same = |file: &str| format!("{file}:{file}:ro");
        let binds = vec![
            same("/lib"),
            same("/lib64"),
            same("/usr"),
            // The program looks for certificates even if it needs none.
            same("/etc/ssl"),
            same(&path(&manifest.wasm)),
            format!("{}:/imagewatch:ro", path(&imagewatch())),
            format!("{}:/manifests:ro", path(&scene.folder.path().join("manifests"))),
            format!("{}:{SOCKET}", path(&scene.engine.socket())),
            format!("{}:/state", path(&scene.folder.path().join("state"))),
        ];
        let env = vec![format!("DOCKER_HOST=unix://{SOCKET}"), "IMAGEWATCH_STATE_DIR=/state".to_owned()];
        scene.run("updater", binds, env, port).await;
        scene.wait_until_watching().await;
        scene.wait_until_watching().await;
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
            .config("unknown_origin", self.scope.engine().unknown_origin())
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

    async fn run(&self, role: &str, volumes: Vec<String>, env: Vec<String>, port: Option<u16>) {
        let labels = ["imagewatch.enable", if role == "updater" { "imagewatch.updater" } else { "role" }];
        let name = self.scope.name(role);
        let spec = RunSpec {
            image: format!("{}/{name}:latest", self.registry.host()),
            name,
            labels: labels.map(|label| (label.to_owned(), "true".to_owned())).into(),
            volumes,
            env,
            fixed_ports: port.into_iter().map(|port| (port, port)).collect(),
            restart_policy: Some("always".to_owned()),
            ..RunSpec::default()
        };
        self.scope.run(&spec).await;
    }

    /// The log of the updater that currently has the name.
    async fn log(&self) -> Vec<String> {
        let options = LogsOptionsBuilder::new().stdout(true).stderr(true).build();
        let lines = self.scope.engine().docker().logs(&self.scope.name("updater"), Some(options));
        // Between two updaters, no container has the name.
        let text: Vec<String> = lines.map_ok(|line| line.to_string()).try_collect().await.unwrap_or_default();
        text.concat().lines().map(str::to_owned).collect()
    }

    async fn wait_for_log(&self, parts: &[&str]) {
        wait_for(&format!("the updater to log {parts:?}"), LONG_TIMEOUT, || async {
            let log = self.log().await;
            if log.iter().any(|line| parts.iter().all(|part| line.contains(part))) { Ok(()) } else { Err(log) }
        })
        .await;
    }

    /// Waits until the current updater has polled. It does not log images as first seen that its predecessor saw.
    async fn wait_until_watching(&self) {
        self.wait_for_log(&["watching; polled again"]).await;
    }

    /// Pushes a new image for the container of `role`.
    async fn release(&self, role: &str, spec: &ImageSpec, is_good: bool) -> Update {
        let name = self.scope.name(role);
        let before = read_state(&self.scope, &name).await.expect("the container exists");
        Update { digest: self.push(role, spec).await, name, before, is_good }
    }

    async fn wait_for_outcome(&self, update: &Update, outcome: Outcome) {
        wait_for(&format!("{} to be {outcome:?}", update.name), LONG_TIMEOUT, || async {
            let (judged, files) = (update.judge(&self.scope).await, journal_files(&self.folder.path().join("state")));
            if judged == Ok(outcome) && files.is_empty() { Ok(()) } else { Err((judged, files, self.log().await)) }
        })
        .await;
    }

    /// The running helper: its name and its process id.
    async fn helper(&self) -> Option<(String, i64)> {
        let docker = self.scope.engine().docker();
        let options = ListContainersOptionsBuilder::new().all(true).build();
        let listed = docker.list_containers(Some(options)).await.expect("the engine lists containers");
        let mut names = listed.into_iter().flat_map(|container| container.names.unwrap_or_default());
        let name = names.find(|name| name.ends_with(".helper"))?;
        let found = docker.inspect_container(name.trim_start_matches('/'), None).await.ok()?;
        Some((name, found.state.and_then(|state| state.pid).unwrap_or_default()))
    }

    /// Kills the helper's process when the containers of the updater are at `moment`.
    async fn kill_helper(&self, updater: &str, moment: Moment) {
        let end = Instant::now() + LONG_TIMEOUT;
        loop {
            assert!(Instant::now() < end, "{moment:?} did not occur: {:?}", self.log().await);
            let runs = self.scope.inspect(updater).await.is_some_and(|now| now.is_running);
            let successor = self.scope.inspect(&self.scope.name("updater")).await.filter(|now| now.id != updater);
            let has_come = match moment {
                Moment::HelperRuns => true,
                Moment::UpdaterRests => !runs,
                Moment::SuccessorRuns => successor.is_some_and(|now| now.is_running),
            };
            if let (true, Some((_, pid @ 1..))) = (has_come, self.helper().await) {
                let pid = i32::try_from(pid).ok().and_then(Pid::from_raw).expect("the process id is valid");
                return kill_process(pid, Signal::KILL).expect("the process runs");
            }
        }
    }

    async fn assert_no_helper_is_left(&self) {
        wait_for("the helper to be removed", LONG_TIMEOUT, || async {
            match self.helper().await {
                None => Ok(()),
                Some(helper) => Err(helper),
            }
        })
        .await;
    }
}

/// The progress of an update of the updater.
#[derive(Debug, Clone, Copy)]
enum Moment {
    HelperRuns,
    UpdaterRests,
    SuccessorRuns,
}

/// The program is mounted into the container. Only the image that runs it is new.
fn updater_image(version: &str, is_good: bool) -> ImageSpec {
    let command =
        if is_good { "/imagewatch run --admin-listen off /manifests/all.json" } else { "/imagewatch nonsense" };
    ImageSpec { cmd: command.split(' ').map(str::to_owned).collect(), ..ImageSpec::sleeper(version) }
}

#[tokio::test(flavor = "multi_thread")]
async fn t40_t41_an_updater_hands_over_to_its_successor() {
    let scene = Scene::new(None).await;
    let update = scene.release("updater", &updater_image("v2", true), true).await;
    scene.wait_for_outcome(&update, Outcome::Updated).await;
    scene.wait_until_watching().await;
    let of_app = scene.release("app", &ImageSpec::sleeper("v2"), true).await;
    scene.wait_for_outcome(&of_app, Outcome::Updated).await;

    let host = format!("unix://{}", scene.engine.socket().display());
    for args in [&["run", "--admin-listen", "off"][..], &["refresh"]] {
        let mut second = start_imagewatch(&host, args, &[]);
        assert_eq!(second.wait_exit(LONG_TIMEOUT).await, Some(7), "{:?}", second.lines());
        let said = second.lines().join("\n");
        assert!(said.contains(&scene.scope.name("updater")), "the message must name the running updater: {said}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn t40_an_updater_continues_if_its_successor_does_not_start() {
    let scene = Scene::new(None).await;
    let update = scene.release("updater", &updater_image("v2", false), false).await;
    scene.wait_for_log(&["is quarantined", &scene.scope.name("updater")]).await;
    scene.wait_for_outcome(&update, Outcome::RolledBack).await;
    let now = read_state(&scene.scope, &update.name).await.expect("the container exists");
    assert_eq!(now.started_at, update.before.started_at, "the updater was never stopped");
    let of_app = scene.release("app", &ImageSpec::sleeper("v2"), true).await;
    scene.wait_for_outcome(&of_app, Outcome::Updated).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn t40_a_helper_replaces_an_updater_with_a_port_despite_kills() {
    let scene = Scene::new(Some(8321)).await;
    for (number, moment) in [None, Some(Moment::HelperRuns), Some(Moment::UpdaterRests), Some(Moment::SuccessorRuns)]
        .into_iter()
        .enumerate()
    {
        let update = scene.release("updater", &updater_image(&format!("v{}", number + 2), true), true).await;
        if let Some(moment) = moment {
            scene.kill_helper(&update.before.id, moment).await;
        }
        scene.wait_for_outcome(&update, Outcome::Updated).await;
        scene.assert_no_helper_is_left().await;
        let now = scene.scope.inspect(&update.name).await.expect("the container exists");
        assert_eq!(now.published.get(&8321).map(String::as_str), Some("127.0.0.1:8321"), "{moment:?}");
        scene.wait_until_watching().await;
        scene.wait_until_watching().await;
    }
    let of_app = scene.release("app", &ImageSpec::sleeper("v2"), true).await;
    scene.wait_for_outcome(&of_app, Outcome::Updated).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn t40_an_updater_with_a_port_is_restored_after_a_failed_start() {
    let scene = Scene::new(Some(8322)).await;
    let update = scene.release("updater", &updater_image("v2", false), false).await;
    scene.wait_for_log(&["is quarantined", &scene.scope.name("updater")]).await;
    scene.wait_for_outcome(&update, Outcome::RolledBack).await;
    scene.assert_no_helper_is_left().await;
    let of_app = scene.release("app", &ImageSpec::sleeper("v2"), true).await;
    scene.wait_for_outcome(&of_app, Outcome::Updated).await;
}

//! Containers with everything that an update could lose: networks, volumes with data, and a restart policy. Each one
//! has its own image in a registry, and a real program with a persistent state folder. Beside them, a foreign container
//! runs that no update may change.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tempfile::TempDir;

use crate::engine::{RunSpec, Scope, TestEngine};
use crate::image::ImageSpec;
use crate::judge::{ContainerState, Outcome, Update, journal_files, read_state};
use crate::plugin_manifest::PluginManifest;
use crate::process::Process;
use crate::program::{STATE_DIR, start_imagewatch};
use crate::registry::Registry;
use crate::wait::wait_for;

/// Much longer than any update or recovery takes.
pub const IN_ORDER_TIMEOUT: Duration = Duration::from_secs(60);
/// The content and the paths of the volumes.
const DATA: &str = "not to be lost";
const VOLUMES: [&str; 2] = ["/named", "/anonymous"];

/// One engine and one registry for several test containers.
#[derive(Debug)]
pub struct Fixture {
    registry: Registry,
    scope: Scope,
    /// The scope and the state of the foreign container. No update may change it.
    foreign: (Scope, Mutex<ContainerState>),
    folder: TempDir,
}

/// A container that is updated.
#[derive(Debug)]
pub struct TestContainer {
    fixture: Arc<Fixture>,
    name: String,
    manifest: PathBuf,
    state: TempDir,
}

impl Fixture {
    /// Creates a fixture. Its foreign container matches the manifest, except for the grant.
    pub async fn new(engine: &TestEngine, registry: Registry) -> Arc<Self> {
        let (scope, foreign_scope) = (engine.scope(), engine.scope());
        let name = foreign_scope.name("foreign");
        registry.target().push(&name, "latest", &ImageSpec::sleeper(&name)).await;
        let spec = RunSpec {
            image: format!("{}/{name}:latest", registry.host()),
            name,
            labels: enabled(),
            restart_policy: Some("always".to_owned()),
            ..RunSpec::default()
        };
        foreign_scope.run(&spec).await;
        let state = read_state(&foreign_scope, &spec.name).await.expect("the container was started");
        let folder = TempDir::new().expect("the temp folder is writable");
        Arc::new(Self { registry, scope, foreign: (foreign_scope, Mutex::new(state)), folder })
    }

    /// The scope of the test containers.
    pub fn scope(&self) -> &Scope {
        &self.scope
    }

    /// Panics if the foreign container has changed.
    pub async fn assert_foreign_untouched(&self) {
        let (scope, state) = &self.foreign;
        let now = read_state(scope, &scope.name("foreign")).await;
        assert_eq!(
            now.as_ref(),
            Some(&*state.lock().expect("no holder panics")),
            "the foreign container must not change"
        );
        assert_eq!(scope.containers().await.len(), 1);
    }

    /// Call this after a restart of the engine. The engine restarts the foreign container, and nothing else of it may
    /// change.
    pub async fn accept_engine_restart(&self) {
        let (scope, state) = &self.foreign;
        let now = read_state(scope, &scope.name("foreign")).await.expect("the foreign container exists");
        let mut state = state.lock().expect("no holder panics");
        assert_eq!((&now.id, &now.preserved), (&state.id, &state.preserved), "the foreign container must not change");
        *state = now;
    }
}

impl TestContainer {
    /// Runs a container for `role` on its own image, with this restart policy.
    pub async fn new(fixture: &Arc<Fixture>, role: &str, restart_policy: &str) -> Self {
        let scope = &fixture.scope;
        let name = scope.name(role);
        let repository = format!("{}/{name}", fixture.registry.host());
        let mut first = ImageSpec::sleeper(&scope.name("v1"));
        // Most programs exit with this code on SIGTERM. The restart policy `on-failure` counts it as a failure.
        first.cmd = first.cmd.iter().map(|word| word.replace("exit 0", "exit 143")).collect();
        fixture.registry.target().push(&name, "latest", &first).await;
        // Each container has its own networks. Docker 20.10 counts endpoints incorrectly, and sometimes hangs, when
        // many containers of one network start and end together.
        let [front, back] = networks_of(&name);
        for network in [&front, &back] {
            scope.create_small_network(network).await;
        }
        let spec = RunSpec {
            name: name.clone(),
            image: format!("{repository}:latest"),
            labels: enabled(),
            volumes: vec![format!("{name}-data:{}", VOLUMES[0]), VOLUMES[1].to_owned()],
            network: Some(front),
            aliases: vec![format!("{name}.example")],
            more_networks: vec![back],
            restart_policy: Some(restart_policy.to_owned()),
            ..RunSpec::default()
        };
        scope.run(&spec).await;
        for volume in VOLUMES {
            scope.exec(&name, &["sh", "-c", &format!("echo {DATA} > {volume}/data")]).await;
        }
        let manifest = PluginManifest::new()
            .allow_host(&fixture.registry.host())
            .config("containers", "labelled")
            .config("unknown_origin", scope.engine().unknown_origin())
            .config("interval", "200ms")
            .config("host.stable_for", "1s")
            .config("host.insecure_registries", &format!("loopback {}", fixture.registry.host()))
            .config("grant.images", &format!("{repository}:*"))
            .config("grant.containers", &format!("name:{name}*"))
            .write(fixture.folder.path(), &name);
        let state = TempDir::new().expect("the temp folder is writable");
        Self { fixture: Arc::clone(fixture), name, manifest, state }
    }

    /// Removes the container and its networks. Its health checks would slow down the other tests.
    pub async fn retire(&self) {
        self.scope().remove_container(&self.name).await;
        for network in networks_of(&self.name) {
            self.scope().remove_network(&network).await;
        }
    }

    /// The container's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The container's scope.
    pub fn scope(&self) -> &Scope {
        &self.fixture.scope
    }

    /// The program's state folder.
    pub fn state_dir(&self) -> &std::path::Path {
        self.state.path()
    }

    /// Starts the program against the engine at `docker_host` and waits for its first poll.
    pub async fn start_program(&self, docker_host: &str) -> Process {
        let state = self.state.path().to_str().expect("the temp folder's name is text");
        let manifest = self.manifest.to_str().expect("the temp folder's name is text");
        let args = ["run", "--admin-listen", "off", manifest];
        let program = start_imagewatch(docker_host, args, &[(STATE_DIR, state)]);
        program.wait_for_line("watching; polled again", IN_ORDER_TIMEOUT).await;
        program
    }

    /// Pushes a new image: a good one that is healthy after a second, or a bad one that exits immediately.
    pub async fn release(&self, version: &str, is_good: bool) -> Update {
        let before = read_state(self.scope(), &self.name).await.expect("the container exists");
        let version = self.scope().name(version);
        let spec = if is_good {
            ImageSpec { health_command: Some("test -f /version".to_owned()), ..ImageSpec::sleeper(&version) }
        } else {
            ImageSpec::broken(&version)
        };
        let digest = self.fixture.registry.target().push(&self.name, "latest", &spec).await;
        Update { name: self.name.clone(), before, digest, is_good }
    }

    /// Returns the outcome of an update, or what is wrong on the engine or in the state folder.
    pub async fn judge(&self, update: &Update) -> Result<Outcome, String> {
        let outcome = update.judge(self.scope()).await?;
        let files = journal_files(self.state.path());
        if files.is_empty() { Ok(outcome) } else { Err(format!("the journal still contains {files:?}")) }
    }

    /// Waits until [`judge`](Self::judge) returns an outcome, while `program` runs.
    pub async fn wait_for_order(&self, update: &Update, program: &Process) -> Outcome {
        wait_for(&format!("a complete or undone update of {}", self.name), IN_ORDER_TIMEOUT, || async {
            self.judge(update).await.map_err(|why| (why, program.lines()))
        })
        .await
    }

    /// Waits until the container runs the new image. If the engine did not answer, the next poll tries again, and until
    /// then the update may look as if it never started.
    pub async fn wait_until_updated(&self, update: &Update, program: &Process) -> Outcome {
        wait_for(&format!("{} on the new image", self.name), IN_ORDER_TIMEOUT, || async {
            match self.judge(update).await {
                Ok(Outcome::Updated) => Ok(Outcome::Updated),
                other => Err((other, program.lines())),
            }
        })
        .await
    }

    /// Panics unless the volumes still contain their data and the foreign container is unchanged.
    pub async fn assert_nothing_lost(&self) {
        for volume in VOLUMES {
            let read = self.scope().exec(&self.name, &["cat", &format!("{volume}/data")]).await;
            assert_eq!(read.trim(), DATA, "{volume} of {}", self.name);
        }
        self.fixture.assert_foreign_untouched().await;
    }
}

fn networks_of(name: &str) -> [String; 2] {
    ["front", "back"].map(|network| format!("{name}-{network}"))
}

fn enabled() -> BTreeMap<String, String> {
    BTreeMap::from([("imagewatch.enable".to_owned(), "true".to_owned())])
}

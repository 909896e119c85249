//! Containers with all that an update can lose, and what updates them: networks, volumes with data in them, a restart
//! policy; an image of their own in a registry, and the real program with a state folder that outlives it. Beside
//! them a container of somebody else, which nothing may touch.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tempfile::TempDir;

use crate::engine::{RunSpec, Scope, TestEngine};
use crate::image::ImageSpec;
use crate::judge::{Picture, Update, Way, journal_files, take_picture};
use crate::plugin_manifest::PluginManifest;
use crate::process::Process;
use crate::program::{STATE_DIR, start_imagewatch};
use crate::registry::Registry;
use crate::wait::wait_for;

/// Much longer than any update or recovery takes.
pub const IN_ORDER_WITHIN: Duration = Duration::from_secs(60);
/// What its volumes hold, and where.
const DATA: &str = "not to be lost";
const VOLUMES: [&str; 2] = ["/named", "/anonymous"];

/// One engine and one registry for several subjects.
#[derive(Debug)]
pub struct Arena {
    registry: Registry,
    scope: Scope,
    /// Nobody here may touch this scope's one container.
    stranger: (Scope, Mutex<Picture>),
    folder: TempDir,
}

/// A container that is updated.
#[derive(Debug)]
pub struct Subject {
    arena: Arc<Arena>,
    name: String,
    manifest: PathBuf,
    state: TempDir,
}

impl Arena {
    /// With a stranger in it that would be watched if anybody granted it.
    pub async fn new(engine: &TestEngine, registry: Registry) -> Arc<Self> {
        let (scope, theirs) = (engine.scope(), engine.scope());
        let name = theirs.name("stranger");
        registry.target().push(&name, "latest", &ImageSpec::sleeper(&name)).await;
        let spec = RunSpec {
            image: format!("{}/{name}:latest", registry.host()),
            name,
            labels: enabled(),
            restart_policy: Some("always".to_owned()),
            ..RunSpec::default()
        };
        theirs.run(&spec).await;
        let picture = take_picture(&theirs, &spec.name).await.expect("it was started");
        let folder = TempDir::new().expect("the temp folder takes folders");
        Arc::new(Self { registry, scope, stranger: (theirs, Mutex::new(picture)), folder })
    }

    /// The scope of the subjects.
    pub fn scope(&self) -> &Scope {
        &self.scope
    }

    /// Panics when the stranger is not as it was.
    pub async fn assert_stranger_untouched(&self) {
        let (scope, picture) = &self.stranger;
        let now = take_picture(scope, &scope.name("stranger")).await;
        assert_eq!(now.as_ref(), Some(&*picture.lock().expect("no holder panics")), "nobody may touch it");
        assert_eq!(scope.containers().await.len(), 1);
    }

    /// To be said after a restart of the engine, which starts the stranger anew and changes nothing else of it.
    pub async fn take_restart_of_engine(&self) {
        let (scope, picture) = &self.stranger;
        let now = take_picture(scope, &scope.name("stranger")).await.expect("it is there");
        let mut picture = picture.lock().expect("no holder panics");
        assert_eq!((&now.id, &now.kept), (&picture.id, &picture.kept), "nobody may touch it");
        *picture = now;
    }
}

impl Subject {
    /// Runs one for `role` on its image, under a restart policy.
    pub async fn new(arena: &Arc<Arena>, role: &str, restart_policy: &str) -> Self {
        let scope = &arena.scope;
        let name = scope.name(role);
        let repository = format!("{}/{name}", arena.registry.host());
        let mut first = ImageSpec::sleeper(&scope.name("v1"));
        // As most programs end on SIGTERM, and a failure in the eyes of the policy `on-failure`.
        first.cmd = first.cmd.iter().map(|word| word.replace("exit 0", "exit 143")).collect();
        arena.registry.target().push(&name, "latest", &first).await;
        // Its own: Docker 20.10 counts wrong, and at times comes to a stop, when many containers of one network start and
        // end together.
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
            .allow_host(&arena.registry.host())
            .config("containers", "labelled")
            .config("unknown_origin", scope.engine().unknown_origin())
            .config("interval", "200ms")
            .config("host.stable_for", "1s")
            .config("host.insecure_registries", &format!("loopback {}", arena.registry.host()))
            .config("grant.images", &format!("{repository}:*"))
            .config("grant.containers", &format!("name:{name}*"))
            .write(arena.folder.path(), &name);
        let state = TempDir::new().expect("the temp folder takes folders");
        Self { arena: Arc::clone(arena), name, manifest, state }
    }

    /// Takes its container and its networks away: its health checks would slow the others down.
    pub async fn retire(&self) {
        self.scope().remove_container(&self.name).await;
        for network in networks_of(&self.name) {
            self.scope().remove_network(&network).await;
        }
    }

    /// Its container's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its scope.
    pub fn scope(&self) -> &Scope {
        &self.arena.scope
    }

    /// The program's state folder.
    pub fn state_dir(&self) -> &std::path::Path {
        self.state.path()
    }

    /// Starts the program on the engine at `docker_host` and waits until it has ticked.
    pub async fn start_program(&self, docker_host: &str) -> Process {
        let state = self.state.path().to_str().expect("the temp folder's name is text");
        let manifest = self.manifest.to_str().expect("the temp folder's name is text");
        let args = ["run", "--admin-listen", "off", manifest];
        let program = start_imagewatch(docker_host, args, &[(STATE_DIR, state)]);
        program.wait_for_line("watching; polled again", IN_ORDER_WITHIN).await;
        program
    }

    /// Pushes a new image, which is healthy after a second, or a bad one, which exits at once.
    pub async fn release(&self, version: &str, is_good: bool) -> Update {
        let before = take_picture(self.scope(), &self.name).await.expect("it is there");
        let version = self.scope().name(version);
        let spec = if is_good {
            ImageSpec { health_command: Some("test -f /version".to_owned()), ..ImageSpec::sleeper(&version) }
        } else {
            ImageSpec::broken(&version)
        };
        let digest = self.arena.registry.target().push(&self.name, "latest", &spec).await;
        Update { name: self.name.clone(), before, digest, is_good }
    }

    /// Which way an update went, or what is not in order on the engine or in the state folder.
    pub async fn judge(&self, update: &Update) -> Result<Way, String> {
        let way = update.judge(self.scope()).await?;
        let files = journal_files(self.state.path());
        if files.is_empty() { Ok(way) } else { Err(format!("in the journal there are {files:?}")) }
    }

    /// Waits until a judgement finds nothing, while `program` runs.
    pub async fn wait_for_order(&self, update: &Update, program: &Process) -> Way {
        wait_for(&format!("order with {}", self.name), IN_ORDER_WITHIN, || async {
            self.judge(update).await.map_err(|why| (why, program.lines()))
        })
        .await
    }

    /// The same, until the container runs the new image: an engine that did not answer is asked again by the next
    /// poll, and until then all may look as if nothing had been begun.
    pub async fn wait_until_forwards(&self, update: &Update, program: &Process) -> Way {
        wait_for(&format!("{} on the new image", self.name), IN_ORDER_WITHIN, || async {
            match self.judge(update).await {
                Ok(Way::Forwards) => Ok(Way::Forwards),
                other => Err((other, program.lines())),
            }
        })
        .await
    }

    /// Panics unless what its volumes held is there, and nobody else was touched.
    pub async fn assert_nothing_lost(&self) {
        for volume in VOLUMES {
            let read = self.scope().exec(&self.name, &["cat", &format!("{volume}/data")]).await;
            assert_eq!(read.trim(), DATA, "{volume} of {}", self.name);
        }
        self.arena.assert_stranger_untouched().await;
    }
}

fn networks_of(name: &str) -> [String; 2] {
    ["front", "back"].map(|network| format!("{name}-{network}"))
}

fn enabled() -> BTreeMap<String, String> {
    BTreeMap::from([("imagewatch.enable".to_owned(), "true".to_owned())])
}

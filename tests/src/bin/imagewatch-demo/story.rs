//! The story: each step acts, waits and shows the result. First a tag moves, then `swap` runs. Each step panics if its
//! claim does not hold.

use std::path::PathBuf;
use std::time::SystemTime;

use imagewatch_abi::Digest;
use imagewatch_tests::engine::{Scope, TestEngine};
use imagewatch_tests::image::ImageSpec;
use imagewatch_tests::plugin_manifest::PluginManifest;
use imagewatch_tests::proxy::Proxy;
use imagewatch_tests::registry::{Registry, RegistryAuth};
use tempfile::TempDir;

use crate::facts::{Service, build_spec, observe, write_note};
use crate::screen;
use crate::summary::{Requests, Summary, Times};
use crate::swap;
use crate::watcher::{Watcher, run_to_end};
use imagewatch_tests::engine_events::EngineEvents;
use imagewatch_tests::prober::{Prober, measure_absence};

/// The environment of the story. It is dropped in the order of the fields: the scope removes what the others have used.
#[derive(Debug)]
pub(crate) struct Sandbox {
    /// The proxy in front of the registry. It counts the requests of imagewatch and of the engine.
    pub(crate) proxy: Proxy,
    /// The registry.
    pub(crate) registry: Registry,
    /// The folder for manifests, modules, and the state of imagewatch.
    pub(crate) folder: TempDir,
    /// The demo's scope on the engine.
    pub(crate) scope: Scope,
}

/// Data of the move from v1 to v2 for the summary.
struct Move {
    digest: Digest,
    times: Times,
}

/// Runs the whole story. Panics if a claim does not hold. Dropping the future removes everything that it created.
pub(crate) async fn tell() {
    let sandbox = Sandbox::open().await;
    let docker = sandbox.scope.engine().docker().clone();
    let events = EngineEvents::start(docker);
    let (v1, before) = sandbox.start_on_v1().await;
    let manifest = sandbox.write_manifest();
    sandbox.show(&["check", "shop.json"], "1 up to date").await;

    let (checked, pulled) = (sandbox.asked_by_imagewatch().len(), sandbox.asked_by_engine());
    screen::step("$ imagewatch run shop.json");
    let (host, name) = (sandbox.proxy.host(), sandbox.service());
    screen::fact("shop.json", format!("polls every second; may query {host} and update {name}*, nothing else"));
    let mut watcher = Watcher::start(sandbox.scope.engine().host(), &manifest, sandbox.folder.path());
    watcher.wait_for_line("first seen").await;
    let prober = Prober::start(format!("http://{}/", before.own.address));
    watcher.wait_until("the service to answer v1", || prober.is_on("v1").then_some(())).await;
    watcher.wait_for_two_more_polls().await;
    let moved = sandbox.move_to_v2(&watcher, &prober, &before, &events).await;
    watcher.wait_for_two_more_polls().await;

    screen::step("imagewatch is stopped with SIGTERM");
    let code = watcher.stop().await;
    assert_eq!(code, Some(0), "the exit code of imagewatch");
    screen::log("(exit code 0)");
    let (asked, polls) = (sandbox.asked_by_imagewatch(), watcher.polls());
    sandbox.show(&["check", "shop.json"], "1 up to date").await;

    let after = observe(&sandbox.scope, &sandbox.service()).await;
    sandbox.check_leftovers(&before).await;
    let requests = Requests::count(&asked[checked..], polls, sandbox.asked_by_engine() - pulled);
    Summary { name: &sandbox.service(), v1: &v1, v2: &moved.digest, before, after, requests, times: moved.times }
        .show();
    drop((prober, watcher));

    swap::tell(&sandbox).await;
    drop(sandbox);
    screen::title(format!(
        "\nEverything that was started is stopped and removed. Total time: {:.1} s.",
        screen::elapsed().as_secs_f64()
    ));
}

impl Sandbox {
    async fn open() -> Self {
        screen::title("imagewatch: a tag moves, and the container on it follows\n");
        let scope = TestEngine::connect().await.scope();
        let registry = Registry::start(RegistryAuth::None).await;
        let proxy = Proxy::to_registry(&registry.host()).await;
        let engine = scope.engine().docker().version().await.expect("the engine reports its version");
        let (version, api) = (engine.version.unwrap_or_default(), engine.api_version.unwrap_or_default());
        screen::fact("engine", format!("Docker {version} (API {api}) at {}", scope.engine().host()));
        let version = Registry::version().await;
        screen::fact(
            "registry",
            format!("docker-registry {version} at {}, behind a proxy that counts requests", proxy.host()),
        );
        Self { proxy, registry, folder: TempDir::new().expect("the temp folder takes folders"), scope }
    }

    /// The name of the container and of its image's repository.
    fn service(&self) -> String {
        self.scope.name("shop")
    }

    fn reference(&self) -> String {
        format!("{}/{}:latest", self.proxy.host(), self.service())
    }

    async fn push(&self, version: &str) -> Digest {
        self.registry.target().push(&self.service(), "latest", &ImageSpec::web(version)).await
    }

    async fn start_on_v1(&self) -> (Digest, Service) {
        screen::step("v1 is pushed, and a container is started on it, as with `docker run`");
        let digest = self.push("v1").await;
        let (name, reference) = (self.service(), self.reference());
        self.scope.run(&build_spec(&self.scope, &name, &reference)).await;
        write_note(&self.scope, &name, "written under v1").await;
        let service = observe(&self.scope, &name).await;
        assert!(service.digests.contains(&digest), "{name} runs {:?}, not v1", service.digests);
        screen::fact("tag", format!("{reference} -> {}", digest.short()));
        let own = &service.own;
        screen::fact("container", format!("{name} ({:.12}), serving v1 at http://{}", service.id, own.address));
        let (volume, team) = (self.scope.name("data"), &own.team);
        let options =
            format!("-e GREETING={} -l team={team} -l imagewatch.enable=true -v {volume}:/data", own.greeting);
        screen::fact("with", options);
        (digest, service)
    }

    /// Writes a manifest that grants only what the demo needs.
    fn write_manifest(&self) -> PathBuf {
        let manifest = PluginManifest::new()
            .allow_host(&self.proxy.host())
            .config("containers", "labelled")
            .config("unknown_origin", self.scope.engine().unknown_origin())
            .config("interval", "1s")
            .config("host.stable_for", "2s")
            .config("grant.images", &format!("{}/*", self.proxy.host()))
            .config("grant.containers", &format!("name:{}*", self.service()));
        manifest.write(self.folder.path(), "shop")
    }

    /// Runs `imagewatch` to its end and shows its output, which must contain `expected`. Arguments with a file name
    /// refer to the folder.
    pub(crate) async fn show(&self, args: &[&str], expected: &str) {
        screen::step(format!("$ imagewatch {}", args.join(" ")));
        let folder = self.folder.path();
        let in_folder = |arg: &&str| Some(folder.join(arg)).filter(|file| file.is_file()).unwrap_or_else(|| arg.into());
        let args: Vec<_> = args.iter().map(in_folder).collect();
        let lines = run_to_end(self.scope.engine().host(), &args, folder).await;
        assert!(lines.iter().any(|line| line.contains(expected)), "no {expected:?} in {lines:#?}");
        lines.iter().filter(|line| !line.is_empty()).for_each(|line| screen::output(line));
    }

    async fn move_to_v2(&self, watcher: &Watcher, prober: &Prober, before: &Service, events: &EngineEvents) -> Move {
        screen::step("v2 is pushed to the same tag; only imagewatch reacts to it");
        let digest = self.push("v2").await;
        let pushed = SystemTime::now();
        screen::fact("tag", format!("{} -> {}", self.reference(), digest.short()));
        watcher.wait_for_line("moved from").await;
        let noticed = SystemTime::now();
        watcher.wait_for_line("INFO pulled").await;
        let pulled = SystemTime::now();
        watcher.wait_until("the service to answer v2", || prober.is_on("v2").then_some(())).await;
        screen::log("(the service answers: v2)");
        watcher.wait_for_line("recreated").await;
        let after = self.scope.inspect(&self.service()).await.expect("the container was recreated");
        let heard = async |action, id: &str| {
            let what = format!("the engine's event {action} of {id:.12}");
            watcher.wait_until(&what, || events.find(action, id)).await
        };
        let times = Times {
            pushed,
            noticed,
            pulled,
            created: heard("create", &after.id).await,
            ended: heard("die", &before.id).await,
            renamed: heard("rename", &after.id).await,
            started: heard("start", &after.id).await,
            absence: measure_absence(&prober.probes(), "v1", "v2"),
        };
        Move { digest, times }
    }

    async fn check_leftovers(&self, before: &Service) {
        assert_eq!(self.scope.inspect(&before.id).await, None, "the old container is gone");
        assert_eq!(self.scope.containers().await, [self.service()], "no other container remains");
    }

    fn asked_by_imagewatch(&self) -> Vec<String> {
        self.proxy.requests_of("imagewatch/")
    }

    fn asked_by_engine(&self) -> usize {
        self.proxy.requests().len() - self.asked_by_imagewatch().len()
    }
}

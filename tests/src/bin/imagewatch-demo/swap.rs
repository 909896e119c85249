//! The second part of the story: the policy is replaced while the program runs. A policy that freezes updates is
//! deployed, a push is held, the freeze is rolled back, and the container is updated. Then a bad release is rolled back
//! and quarantined. Each step panics if its claim does not hold.

use std::path::{Path, PathBuf};

use imagewatch_tests::components::{plugin_wasm, weekdays_wasm};
use imagewatch_tests::engine::{ContainerNow, RunSpec};
use imagewatch_tests::image::ImageSpec;
use imagewatch_tests::plugin_manifest::{PluginManifest, deploy};

use crate::screen;
use crate::story::Sandbox;
use crate::watcher::Watcher;

const MANIFEST: &str = "cart.json";

/// A service that follows versions, and the module of its policy.
struct Cart<'a> {
    sandbox: &'a Sandbox,
    module: PathBuf,
}

/// Runs the second part.
pub(crate) async fn tell(sandbox: &Sandbox) {
    screen::title(
        "\nAnother policy, while imagewatch runs: a freeze starts and ends, and a bad release is rolled back",
    );
    let cart = Cart { sandbox, module: sandbox.folder.path().join("policy.wasm") };
    let mut watcher = cart.start_on_1_0().await;
    cart.freeze(&watcher).await;
    cart.thaw(&watcher).await;
    cart.break_release(&watcher).await;

    screen::step("imagewatch is stopped with SIGTERM");
    assert_eq!(watcher.stop().await, Some(0), "the exit code of imagewatch");
    sandbox.show(&["history", "--manifest", "cart"], "quarantined").await;
}

impl Cart<'_> {
    fn name(&self) -> String {
        self.sandbox.scope.name("cart")
    }

    fn reference(&self, tag: &str) -> String {
        format!("{}/{}:{tag}", self.sandbox.proxy.host(), self.name())
    }

    async fn push(&self, tag: &str, spec: &ImageSpec) {
        let digest = self.sandbox.registry.target().push(&self.name(), tag, spec).await;
        screen::fact("tag", format!("{} -> {}", self.reference(tag), digest.short()));
    }

    /// The image of a version. No other demo uses the same image.
    fn image(&self, tag: &str) -> ImageSpec {
        ImageSpec::sleeper(&self.sandbox.scope.name(tag))
    }

    /// Deploys `wasm` as the manifest's module, and a manifest with its hash and `config`.
    fn deploy(&self, wasm: &Path, config: &[(&str, &str)]) -> PathBuf {
        deploy(&self.module, &std::fs::read(wasm).expect("the module was built"));
        let manifest = PluginManifest::new()
            .module(&self.module)
            .allow_host(&self.sandbox.proxy.host())
            .config("containers", "labelled")
            .config("unknown_origin", self.sandbox.scope.engine().unknown_origin())
            .config("interval", "1s")
            .config("host.stable_for", "2s")
            .config("grant.images", &format!("{}/*", self.sandbox.proxy.host()))
            .config("grant.containers", &format!("name:{}*", self.name()));
        // The weekdays policy does not know this key.
        let manifest = if wasm == weekdays_wasm() { manifest.without("unknown_origin") } else { manifest };
        let manifest = config.iter().fold(manifest, |manifest, (key, value)| manifest.config(key, value));
        manifest.write(self.sandbox.folder.path(), "cart")
    }

    /// Panics unless the container runs `tag`. Returns the container.
    async fn assert_on(&self, tag: &str) -> ContainerNow {
        let now = self.sandbox.scope.inspect(&self.name()).await.expect("the container has its name");
        assert!(now.is_running && now.image == self.reference(tag), "{now:?} does not run {tag}");
        now
    }

    async fn start_on_1_0(&self) -> Watcher {
        screen::step("1.0.0 is pushed, and a container that follows versions is started on it");
        self.push("1.0.0", &self.image("1.0.0")).await;
        let labels = [("imagewatch.enable", "true"), ("imagewatch.update-policy", "semver:^1")];
        let spec = RunSpec {
            name: self.name(),
            image: self.reference("1.0.0"),
            labels: labels.map(|(key, value)| (key.to_owned(), value.to_owned())).into(),
            ..RunSpec::default()
        };
        let id = self.sandbox.scope.run(&spec).await;
        screen::fact("container", format!("{} ({id:.12})", self.name()));
        screen::fact("with", "-l imagewatch.enable=true -l imagewatch.update-policy=semver:^1");
        let manifest = self.deploy(&plugin_wasm(), &[]);
        screen::step(format!("$ imagewatch run {MANIFEST}"));
        let watcher = Watcher::start(self.sandbox.scope.engine().host(), &manifest, self.sandbox.folder.path());
        watcher.wait_for_line("first seen").await;
        watcher
    }

    async fn freeze(&self, watcher: &Watcher) {
        let before = self.assert_on("1.0.0").await;
        screen::step(
            "a freeze is deployed: another module, weekdays.wasm, and a manifest with its hash and `days` none",
        );
        self.deploy(&weekdays_wasm(), &[("days", "none")]);
        watcher.wait_for_line("reloaded").await;
        screen::step("1.1.0 is pushed");
        self.push("1.1.0", &self.image("1.1.0")).await;
        watcher.wait_for_two_more_polls().await;
        watcher.wait_for_two_more_polls().await;
        self.sandbox.show(&["check", MANIFEST], "everything is frozen").await;
        assert_eq!(self.assert_on("1.0.0").await.id, before.id, "a frozen container is not replaced");
    }

    async fn thaw(&self, watcher: &Watcher) {
        // A second process restores the files. The running program notices the change.
        self.sandbox.show(&["plugin", "rollback", "cart"], "cart: restored ").await;
        watcher.wait_for_line("moved from").await;
        watcher.wait_for_line("pulled, recreated").await;
        self.assert_on("1.1.0").await;
    }

    async fn break_release(&self, watcher: &Watcher) {
        let before = self.assert_on("1.1.0").await;
        screen::step("1.2.0 is pushed: a bad release, whose container exits immediately");
        self.push("1.2.0", &ImageSpec::broken(&self.sandbox.scope.name("1.2.0"))).await;
        watcher.wait_for_line("is quarantined").await;
        watcher.wait_for_two_more_polls().await;
        let after = self.assert_on("1.1.0").await;
        assert_eq!(after.id, before.id, "the old container is the one that runs");
        screen::fact(
            "container",
            format!("{} ({:.12}) runs 1.1.0 again, the same one as before", self.name(), after.id),
        );
        self.sandbox.show(&["check", MANIFEST], "1 held").await;
    }
}

//! The second part of the story: another policy takes the place of the one at work while the program runs. A freeze goes in,
//! a push is held, the freeze comes out, and the container moves; then a bad release is taken back and barred. Each step
//! holds or panics.

use std::path::{Path, PathBuf};

use imagewatch_tests::components::{plugin_wasm, weekdays_wasm};
use imagewatch_tests::engine::{ContainerNow, RunSpec};
use imagewatch_tests::image::ImageSpec;
use imagewatch_tests::plugin_manifest::{PluginManifest, deploy};

use crate::screen;
use crate::story::Place;
use crate::watcher::Watcher;

const MANIFEST: &str = "cart.json";

/// A service that follows versions, and the file of its policy.
struct Cart<'a> {
    place: &'a Place,
    module: PathBuf,
}

/// Tells it.
pub(crate) async fn tell(place: &Place) {
    screen::title("\nAnother policy, while imagewatch runs: a freeze goes in and out, and a bad release is taken back");
    let cart = Cart { place, module: place.folder.path().join("policy.wasm") };
    let mut watcher = cart.start_on_1_0().await;
    cart.freeze(&watcher).await;
    cart.thaw(&watcher).await;
    cart.break_release(&watcher).await;

    screen::step("imagewatch is told to end, with SIGTERM");
    assert_eq!(watcher.stop().await, Some(0), "the exit code of imagewatch");
    place.show(&["history", "--manifest", "cart"], "quarantined").await;
}

impl Cart<'_> {
    fn name(&self) -> String {
        self.place.scope.name("cart")
    }

    fn reference(&self, tag: &str) -> String {
        format!("{}/{}:{tag}", self.place.proxy.host(), self.name())
    }

    async fn push(&self, tag: &str, spec: &ImageSpec) {
        let digest = self.place.registry.target().push(&self.name(), tag, spec).await;
        screen::fact("tag", format!("{} -> {}", self.reference(tag), digest.short()));
    }

    /// The image of a version; no other demo has the same.
    fn image(&self, tag: &str) -> ImageSpec {
        ImageSpec::sleeper(&self.place.scope.name(tag))
    }

    /// Puts `wasm` where the manifest's module is, and its hash and `config` into the manifest.
    fn deploy(&self, wasm: &Path, config: &[(&str, &str)]) -> PathBuf {
        deploy(&self.module, &std::fs::read(wasm).expect("it was built"));
        let manifest = PluginManifest::new()
            .module(&self.module)
            .allow_host(&self.place.proxy.host())
            .config("containers", "labelled")
            .config("unknown_origin", self.place.scope.engine().unknown_origin())
            .config("interval", "1s")
            .config("host.stable_for", "2s")
            .config("grant.images", &format!("{}/*", self.place.proxy.host()))
            .config("grant.containers", &format!("name:{}*", self.name()));
        // The other policy does not know this key.
        let manifest = if wasm == weekdays_wasm() { manifest.without("unknown_origin") } else { manifest };
        let manifest = config.iter().fold(manifest, |manifest, (key, value)| manifest.config(key, value));
        manifest.write(self.place.folder.path(), "cart")
    }

    /// The container, which runs `tag`.
    async fn assert_on(&self, tag: &str) -> ContainerNow {
        let now = self.place.scope.inspect(&self.name()).await.expect("the container has its name");
        assert!(now.is_running && now.image == self.reference(tag), "{now:?} is not at work on {tag}");
        now
    }

    async fn start_on_1_0(&self) -> Watcher {
        screen::step("1.0.0 is pushed, and a container is started on it that follows versions");
        self.push("1.0.0", &self.image("1.0.0")).await;
        let labels = [("imagewatch.enable", "true"), ("imagewatch.update-policy", "semver:^1")];
        let spec = RunSpec {
            name: self.name(),
            image: self.reference("1.0.0"),
            labels: labels.map(|(key, value)| (key.to_owned(), value.to_owned())).into(),
            ..RunSpec::default()
        };
        let id = self.place.scope.run(&spec).await;
        screen::fact("container", format!("{} ({id:.12})", self.name()));
        screen::fact("with", "-l imagewatch.enable=true -l imagewatch.update-policy=semver:^1");
        let manifest = self.deploy(&plugin_wasm(), &[]);
        screen::step(format!("$ imagewatch run {MANIFEST}"));
        let watcher = Watcher::start(self.place.scope.engine().host(), &manifest, self.place.folder.path());
        watcher.wait_for_line("first seen").await;
        watcher
    }

    async fn freeze(&self, watcher: &Watcher) {
        let before = self.assert_on("1.0.0").await;
        screen::step("a freeze goes in: another module, weekdays.wasm, and a manifest with its hash and `days` none");
        self.deploy(&weekdays_wasm(), &[("days", "none")]);
        watcher.wait_for_line("reloaded").await;
        screen::step("1.1.0 is pushed");
        self.push("1.1.0", &self.image("1.1.0")).await;
        watcher.wait_for_two_more_ticks().await;
        watcher.wait_for_two_more_ticks().await;
        self.place.show(&["check", MANIFEST], "everything is frozen").await;
        assert_eq!(self.assert_on("1.0.0").await.id, before.id, "it was left alone");
    }

    async fn thaw(&self, watcher: &Watcher) {
        // Beside the running program, which finds the files changed.
        self.place.show(&["plugin", "rollback", "cart"], "are back").await;
        watcher.wait_for_line("moved from").await;
        watcher.wait_for_line("pulled, recreated").await;
        self.assert_on("1.1.0").await;
    }

    async fn break_release(&self, watcher: &Watcher) {
        let before = self.assert_on("1.1.0").await;
        screen::step("1.2.0 is pushed: a bad release, whose container ends at once");
        self.push("1.2.0", &ImageSpec::broken(&self.place.scope.name("1.2.0"))).await;
        watcher.wait_for_line("is quarantined").await;
        watcher.wait_for_two_more_ticks().await;
        let after = self.assert_on("1.1.0").await;
        assert_eq!(after.id, before.id, "the old container is the one that runs");
        screen::fact(
            "container",
            format!("{} ({:.12}) runs 1.1.0 again, the same one as before", self.name(), after.id),
        );
        self.place.show(&["check", MANIFEST], "1 held").await;
    }
}

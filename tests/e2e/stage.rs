//! What every scenario needs: an engine scope, a registry, a folder for manifests, and the real
//! program over them. Judges nothing.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use imagewatch_abi::Digest;
use imagewatch_tests::engine::{ContainerNow, RunSpec, Scope, TestEngine};
use imagewatch_tests::http_client::build_client;
use imagewatch_tests::image::ImageSpec;
use imagewatch_tests::plugin_manifest::PluginManifest;
use imagewatch_tests::process::{Process, Signal};
use imagewatch_tests::program::start_imagewatch;
use imagewatch_tests::registry::{Registry, RegistryAuth};
use imagewatch_tests::wait::wait_for;
use tempfile::TempDir;

/// For what takes a tick or two.
pub(crate) const SOON: Duration = Duration::from_secs(30);

/// For what has to wait for Docker's stop.
pub(crate) const LATER: Duration = Duration::from_secs(60);

/// The token of every admin API here.
pub(crate) const ADMIN_TOKEN: &str = "the-admin-token";

/// A registry, a part of the engine, and a folder.
pub(crate) struct Stage {
    pub(crate) registry: Registry,
    pub(crate) scope: Scope,
    pub(crate) folder: TempDir,
}

impl Stage {
    pub(crate) async fn new() -> Self {
        Self::with(RegistryAuth::None).await
    }

    pub(crate) async fn with(auth: RegistryAuth) -> Self {
        Self {
            scope: TestEngine::connect().await.scope(),
            registry: Registry::start(auth).await,
            folder: TempDir::new().expect("a folder"),
        }
    }

    /// The reference of this scope's repository for `role`, on the stage's registry.
    pub(crate) fn image(&self, role: &str) -> String {
        format!("{}/{}:latest", self.registry.host(), self.scope.name(role))
    }

    /// Pushes version `version` of `role`'s image, which sleeps.
    pub(crate) async fn push(&self, role: &str, version: &str) -> Digest {
        self.registry
            .target()
            .push(&self.scope.name(role), "latest", &ImageSpec::sleeper(&self.scope.name(version)))
            .await
    }

    /// Runs a container for `role` on its image, labelled for the built-in manifest.
    pub(crate) async fn run(&self, role: &str) -> String {
        self.run_as(role, RunSpec { image: self.image(role), ..RunSpec::default() }).await
    }

    /// Runs a container named for `role`.
    pub(crate) async fn run_as(&self, role: &str, spec: RunSpec) -> String {
        let mut labels = BTreeMap::from([("imagewatch.enable".to_owned(), "true".to_owned())]);
        labels.extend(spec.labels.clone());
        self.scope.run(&RunSpec { name: self.scope.name(role), labels, ..spec }).await
    }

    /// The container named for `role`.
    pub(crate) async fn container(&self, role: &str) -> Option<ContainerNow> {
        self.scope.inspect(&self.scope.name(role)).await
    }

    /// A manifest for images on this registry and containers of this scope, and nothing else.
    pub(crate) fn manifest(&self) -> PluginManifest {
        self.manifest_for(&self.registry.host())
    }

    /// The same for another registry host.
    pub(crate) fn manifest_for(&self, host: &str) -> PluginManifest {
        PluginManifest::new()
            .allow_host(host)
            .config("interval", "200ms")
            .config("host.stable_for", "1s")
            .config("grant.images", &format!("{host}/*"))
            .config("grant.containers", &format!("name:{}*", self.scope.name("")))
    }

    pub(crate) fn write(&self, manifest: &PluginManifest, name: &str) -> PathBuf {
        manifest.write(self.folder.path(), name)
    }

    /// Starts `imagewatch run` on `manifests`.
    pub(crate) fn watch(&self, manifests: &[PathBuf]) -> Daemon {
        watch_with(self.scope.engine().host(), manifests, &[])
    }

    /// Waits until the container of `role` runs `digest` under its name.
    pub(crate) async fn wait_until_on(&self, role: &str, digest: &Digest, deadline: Duration) -> ContainerNow {
        wait_for(&format!("{role} to run {}", digest.short()), deadline, || async {
            match self.container(role).await {
                Some(now) if now.digests.contains(digest) && now.is_running => Ok(now),
                other => Err(other),
            }
        })
        .await
    }

    /// Names of this scope's containers, sorted.
    pub(crate) async fn containers(&self) -> Vec<String> {
        let mut names = self.scope.containers().await;
        names.sort();
        names
    }
}

/// Starts `imagewatch run` on `manifests` against the engine at `docker_host`, with more environment.
pub(crate) fn watch_with(docker_host: &str, manifests: &[PathBuf], envs: &[(&str, &str)]) -> Daemon {
    let mut args = vec!["run".into(), "--admin-listen".into(), "127.0.0.1:0".into()];
    args.extend(manifests.iter().cloned());
    let mut all = vec![("IMAGEWATCH_ADMIN_TOKEN", ADMIN_TOKEN)];
    all.extend(envs);
    Daemon { process: start_imagewatch(docker_host, args, &all) }
}

/// A running `imagewatch run`.
pub(crate) struct Daemon {
    pub(crate) process: Process,
}

impl Daemon {
    pub(crate) async fn wait_for_line(&self, pattern: &str) -> String {
        self.process.wait_for_line(pattern, SOON).await
    }

    /// How many log lines have `pattern`.
    pub(crate) fn count(&self, pattern: &str) -> usize {
        self.process.lines().iter().filter(|line| line.contains(pattern)).count()
    }

    /// Waits for more than `seen` lines with `pattern`.
    pub(crate) async fn wait_for_more(&self, pattern: &str, seen: usize) {
        wait_for(&format!("more than {seen} lines with {pattern:?}"), SOON, || async {
            if self.count(pattern) > seen { Ok(()) } else { Err(self.process.lines()) }
        })
        .await;
    }

    /// Asks it to end and waits for a clean end.
    pub(crate) async fn stop(mut self) -> Vec<String> {
        self.process.signal(Signal::TERM);
        assert_eq!(self.process.wait_exit(LATER).await, Some(0), "{:#?}", self.process.lines());
        self.process.lines()
    }

    /// The URL of `path` on its admin API.
    pub(crate) async fn admin_url(&self, path: &str) -> String {
        let line = self.wait_for_line("admin API listens").await;
        let address = line.rsplit_once("address=").expect("the line names the address").1.trim().to_owned();
        format!("http://{address}{path}")
    }

    /// Asks the admin API with the right token.
    pub(crate) async fn post(&self, path: &str) -> (u16, serde_json::Value) {
        let request = build_client().post(self.admin_url(path).await).bearer_auth(ADMIN_TOKEN);
        answer_of(request).await
    }
}

/// Status and JSON of a request.
pub(crate) async fn answer_of(request: reqwest::RequestBuilder) -> (u16, serde_json::Value) {
    let response = request.send().await.expect("the admin API answers");
    let status = response.status().as_u16();
    (status, response.json().await.expect("it answers JSON"))
}

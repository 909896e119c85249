//! The parts of a scenario: an engine scope, a registry, a folder for manifests, and the real program.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use crate::engine::{ContainerNow, RunSpec, Scope, TestEngine};
use crate::http_client::build_client;
use crate::image::ImageSpec;
use crate::plugin_manifest::PluginManifest;
use crate::process::{Process, Signal};
use crate::program::start_imagewatch;
use crate::registry::{Registry, RegistryAuth};
use crate::wait::wait_for;
use imagewatch_abi::Digest;
use tempfile::TempDir;

/// The timeout for events that take one or two polls.
pub const SHORT_TIMEOUT: Duration = Duration::from_mins(1);

/// The timeout for events that wait for a Docker stop.
pub const LONG_TIMEOUT: Duration = Duration::from_mins(3);

/// The token of every admin API in the tests.
pub const ADMIN_TOKEN: &str = "the-admin-token";

/// A registry, an engine scope, and a folder.
#[derive(Debug)]
pub struct Stage {
    /// The registry.
    pub registry: Registry,
    /// The engine scope.
    pub scope: Scope,
    /// The folder for manifests and other files.
    pub folder: TempDir,
}

impl Stage {
    /// Creates a stage with an anonymous registry.
    pub async fn new() -> Self {
        Self::with(RegistryAuth::None).await
    }

    /// Creates a stage whose registry authenticates with `auth`.
    pub async fn with(auth: RegistryAuth) -> Self {
        Self {
            scope: TestEngine::connect().await.scope(),
            registry: Registry::start(auth).await,
            folder: TempDir::new().expect("the temp folder is writable"),
        }
    }

    /// The state folder for programs that share one. See [`STATE_DIR`](crate::program::STATE_DIR).
    pub fn state_dir(&self) -> &str {
        self.folder.path().to_str().expect("the temp folder's name is text")
    }

    /// The reference of this scope's repository for `role`, on the stage's registry.
    pub fn image(&self, role: &str) -> String {
        format!("{}/{}:latest", self.registry.host(), self.scope.name(role))
    }

    /// Pushes version `version` of the image of `role`. Its container sleeps.
    pub async fn push(&self, role: &str, version: &str) -> Digest {
        self.push_image(role, &ImageSpec::sleeper(&self.scope.name(version))).await
    }

    /// Pushes `spec` as the image of `role`. Its version must come from [`Scope::name`], since two scopes must not
    /// share an image.
    pub async fn push_image(&self, role: &str, spec: &ImageSpec) -> Digest {
        self.registry.target().push(&self.scope.name(role), "latest", spec).await
    }

    /// Runs a container for `role` on its image, with the label for the built-in manifest.
    pub async fn run(&self, role: &str) -> String {
        self.run_as(role, RunSpec { image: self.image(role), ..RunSpec::default() }).await
    }

    /// Runs a container named for `role`.
    pub async fn run_as(&self, role: &str, spec: RunSpec) -> String {
        let mut labels = BTreeMap::from([("imagewatch.enable".to_owned(), "true".to_owned())]);
        labels.extend(spec.labels.clone());
        self.scope.run(&RunSpec { name: self.scope.name(role), labels, ..spec }).await
    }

    /// The container named for `role`.
    pub async fn container(&self, role: &str) -> Option<ContainerNow> {
        self.scope.inspect(&self.scope.name(role)).await
    }

    /// A manifest that grants the images of this registry and the containers of this scope, and nothing else.
    pub fn manifest(&self) -> PluginManifest {
        self.manifest_for(&self.registry.host())
    }

    /// The same manifest for another registry host.
    pub fn manifest_for(&self, host: &str) -> PluginManifest {
        PluginManifest::new()
            .config("unknown_origin", self.scope.engine().unknown_origin())
            .allow_host(host)
            .config("interval", "200ms")
            .config("host.stable_for", "1s")
            .config("grant.images", &format!("{host}/*"))
            .config("grant.containers", &format!("name:{}*", self.scope.name("")))
    }

    /// Writes `manifest` with the name `name`.
    pub fn write(&self, manifest: &PluginManifest, name: &str) -> PathBuf {
        manifest.write(self.folder.path(), name)
    }

    /// Starts `imagewatch run` on `manifests`.
    pub fn watch(&self, manifests: &[PathBuf]) -> Daemon {
        watch_with(self.scope.engine().host(), manifests, &[])
    }

    /// Waits until the container of `role` runs `digest`.
    pub async fn wait_until_on(&self, role: &str, digest: &Digest, deadline: Duration) -> ContainerNow {
        wait_for(&format!("{role} to run {}", digest.short()), deadline, || async {
            match self.container(role).await {
                Some(now) if now.digests.contains(digest) && now.is_running => Ok(now),
                other => Err(other),
            }
        })
        .await
    }

    /// Whether the engine has the image of `role` with this digest. In the containerd store, an image whose tag moved
    /// is found only by its id, which is the digest.
    pub async fn has_image(&self, role: &str, digest: &Digest) -> bool {
        let engine = self.scope.engine();
        let id = digest.to_string();
        let by_name = self.image(role).replace(":latest", &format!("@{digest}"));
        engine.docker().inspect_image(if engine.has_containerd_store() { &id } else { &by_name }).await.is_ok()
    }

    /// The names of this scope's containers, sorted.
    pub async fn containers(&self) -> Vec<String> {
        let mut names = self.scope.containers().await;
        names.sort();
        names
    }
}

/// Starts `imagewatch run` on `manifests` against the engine at `docker_host`, with additional environment variables.
pub fn watch_with(docker_host: &str, manifests: &[PathBuf], envs: &[(&str, &str)]) -> Daemon {
    let mut args = vec!["run".into(), "--admin-listen".into(), "127.0.0.1:0".into()];
    args.extend(manifests.iter().cloned());
    let mut all = vec![("IMAGEWATCH_ADMIN_TOKEN", ADMIN_TOKEN)];
    all.extend(envs);
    Daemon { process: start_imagewatch(docker_host, args, &all) }
}

/// A container that ignores SIGTERM. The engine waits for the whole stop timeout and then kills it.
pub fn ignores_sigterm(image: String, stop_timeout_s: i64) -> RunSpec {
    let cmd = ["sh", "-c", "trap '' TERM; while :; do sleep 1; done"].map(str::to_owned).to_vec();
    RunSpec { image, cmd: Some(cmd), stop_timeout_s: Some(stop_timeout_s), ..RunSpec::default() }
}

/// Builds labels from pairs.
pub fn labels(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
}

/// Runs an `imagewatch` command to its end. Returns the exit code and all output.
pub async fn run_to_end(docker_host: &str, args: &[&str], envs: &[(&str, &str)]) -> (i32, String) {
    let mut process = start_imagewatch(docker_host, args, envs);
    let code = process.wait_exit(LONG_TIMEOUT).await.expect("imagewatch exits with a code");
    (code, process.lines().join("\n"))
}

/// A running `imagewatch run`.
#[derive(Debug)]
pub struct Daemon {
    /// The process.
    pub process: Process,
}

impl Daemon {
    /// Waits for a log line that contains `pattern` and returns the first one.
    pub async fn wait_for_line(&self, pattern: &str) -> String {
        self.process.wait_for_line(pattern, SHORT_TIMEOUT).await
    }

    /// The number of log lines that contain `pattern`.
    pub fn count(&self, pattern: &str) -> usize {
        self.process.lines().iter().filter(|line| line.contains(pattern)).count()
    }

    /// Waits for more than `seen` log lines that contain `pattern`.
    pub async fn wait_for_more(&self, pattern: &str, seen: usize) {
        wait_for(&format!("more than {seen} lines with {pattern:?}"), SHORT_TIMEOUT, || async {
            if self.count(pattern) > seen { Ok(()) } else { Err(self.process.lines()) }
        })
        .await;
    }

    /// Sends SIGTERM, waits for a clean exit, and returns the log.
    pub async fn stop(mut self) -> Vec<String> {
        self.process.signal(Signal::TERM);
        assert_eq!(self.process.wait_exit(LONG_TIMEOUT).await, Some(0), "{:#?}", self.process.lines());
        self.process.lines()
    }

    /// The URL of `path` on the admin API.
    pub async fn admin_url(&self, path: &str) -> String {
        let line = self.wait_for_line("admin API listens").await;
        let address = line.rsplit_once("address=").expect("the line contains the address").1.trim().to_owned();
        format!("http://{address}{path}")
    }

    /// Posts to `path` on the admin API with the right token.
    pub async fn post(&self, path: &str) -> (u16, serde_json::Value) {
        let request = build_client().post(self.admin_url(path).await).bearer_auth(ADMIN_TOKEN);
        answer_of(request).await
    }
}

/// Sends a request and returns the status and the JSON of the answer.
pub async fn answer_of(request: reqwest::RequestBuilder) -> (u16, serde_json::Value) {
    let response = request.send().await.expect("the admin API answers");
    let status = response.status().as_u16();
    (status, response.json().await.expect("the answer is JSON"))
}

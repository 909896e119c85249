//! The environment of the oracle: pairs of images, a peer container, and a sandbox for each set of options. It creates
//! containers with Docker's command line and replaces them with the program's code.

use std::ffi::OsStr;
use std::path::Path;
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use imagewatch::store::Store;
use imagewatch_abi::Strategy;
use imagewatch_engine::Engine;
use imagewatch_engine::docker::DockerEngine;
use imagewatch_rollout::journal::Journal;
use imagewatch_rollout::label::OrderRef;
use imagewatch_rollout::snapshot::EngineSnapshot;
use imagewatch_rollout::{Job, NewImage, Rollout};
use imagewatch_tests::engine::{Scope, TestEngine};
use imagewatch_tests::unique::free_port;
use serde_json::Value;
use tempfile::TempDir;
use tokio::io::AsyncWriteExt;
use tokio::process::Command;

use super::sets::{Images, OptionSet};

/// The files of the images. As process 1, a shell without a trap ignores signals, and each stop would take ten seconds.
const BASE_FILES: [(&str, &str); 3] = [
    ("bin/serve", "#!/bin/sh\ntrap 'exit 0' TERM INT QUIT\nwhile :; do sleep 3600 & wait $!; done\n"),
    ("bin/entry-a", "#!/bin/sh\nexec \"$@\"\n"),
    ("bin/entry-b", "#!/bin/sh\nexec \"$@\"\n"),
];
const APPLETS: [&str; 6] = ["sh", "sleep", "cat", "test", "true", "hostname"];
/// The common part of the old images and of the new images.
const OLD: &str = "ENV VER=1 ONLYA=1\nLABEL ver=1 onlya=1\nCMD [\"serve\", \"a\"]\nEXPOSE 80 81\nSTOPSIGNAL INT\n\
    HEALTHCHECK --interval=2s --timeout=2s --retries=4 CMD true\nUSER 1000:1000\nWORKDIR /work-a/\n";
const NEW: &str = "ENV VER=2 ONLYB=1\nLABEL ver=2 onlyb=1\nCMD [\"serve\", \"b\"]\nEXPOSE 80 82\nSTOPSIGNAL TERM\n\
    HEALTHCHECK --interval=1s --timeout=3s --retries=5 --start-period=1s CMD test -e /bin\nUSER 2000\nWORKDIR /work-b\n";

/// The images and the peer, within a scope.
pub(super) struct OracleFixture {
    pub(super) scope: Scope,
    pub(super) engine: Arc<DockerEngine>,
    rollout: Rollout,
    _journal: TempDir,
}

impl OracleFixture {
    pub(super) async fn new() -> Self {
        let scope = TestEngine::connect().await.scope();
        let engine = Arc::new(DockerEngine::connect(scope.engine().host()).expect("the engine's address is valid"));
        let folder = TempDir::new().expect("the temp folder is writable");
        let journal = Journal::new(folder.path().join("journal"));
        let rollout = Rollout::new(engine.clone(), journal, Arc::new(Store::in_memory()), None);
        let rig = Self { scope, engine, rollout, _journal: folder };
        rig.import_base().await;
        for images in [Images::Plain, Images::Entrypoint, Images::Volumes, Images::Compose] {
            let (old, new) = dockerfiles(images);
            rig.build(&images.old_role(), &old).await;
            rig.build(&images.new_role(), &new).await;
        }
        let options = ["--ipc", "shareable", "-v", "/data", "-v", "/of-peer"];
        let (name, image) = (rig.scope.name("peer"), rig.image("plain-a"));
        rig.docker(["run", "-d", "--name", &name].into_iter().chain(options).chain([image.as_str()])).await;
        rig
    }

    /// The minor version of the API that the command line and the engine use.
    pub(super) async fn api_minor(&self) -> u16 {
        let version = self.docker(["version", "--format", "{{.Client.APIVersion}}"]).await;
        version.split('.').next_back().and_then(|minor| minor.parse().ok()).expect("the API version is valid")
    }

    /// The reference of an image of this fixture.
    pub(super) fn image(&self, role: &str) -> String {
        format!("{}:latest", self.scope.name(role))
    }

    /// Runs Docker's command line and returns its output. Panics if the command fails.
    pub(super) async fn docker<Word: AsRef<OsStr>>(&self, words: impl IntoIterator<Item = Word>) -> String {
        self.docker_with_input(words, &[]).await
    }

    async fn docker_with_input<Word: AsRef<OsStr>>(
        &self,
        words: impl IntoIterator<Item = Word>,
        input: &[u8],
    ) -> String {
        // A Docker command on PATH may be newer than the engine and refuse options. The distribution's own command
        // matches its engine.
        let own = Path::new("/usr/bin/docker");
        let mut command = Command::new(if own.is_file() { own } else { Path::new("docker") });
        // The classic builder needs no plugin.
        command.env("DOCKER_HOST", self.scope.engine().host()).env("DOCKER_BUILDKIT", "0");
        command.args(words).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
        let said = format!("{:?}", command.as_std());
        let mut child = command.spawn().unwrap_or_else(|error| panic!("failed to start {said}: {error}"));
        child.stdin.take().expect("stdin is piped").write_all(input).await.expect("the command reads its input");
        let output = child.wait_with_output().await.expect("the command ends");
        assert!(output.status.success(), "{said}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stdout).trim().to_owned()
    }

    async fn import_base(&self) {
        let mut archive = tar::Builder::new(Vec::new());
        let busybox = std::fs::read(imagewatch_tests::components::busybox()).expect("busybox can be read");
        let files = BASE_FILES.iter().map(|(path, text)| (*path, text.as_bytes()));
        for (path, bytes) in files.chain([("bin/busybox", busybox.as_slice())]) {
            let mut header = tar::Header::new_gnu();
            header.set_size(bytes.len() as u64);
            header.set_mode(0o755);
            archive.append_data(&mut header, path, bytes).expect("a write to a vector succeeds");
        }
        for applet in APPLETS {
            let mut header = tar::Header::new_gnu();
            header.set_entry_type(tar::EntryType::Symlink);
            header.set_size(0);
            archive.append_link(&mut header, format!("bin/{applet}"), "busybox").expect("a write to a vector succeeds");
        }
        let archive = archive.into_inner().expect("a write to a vector succeeds");
        self.docker_with_input(["import", "-", &self.image("base")], &archive).await;
    }

    async fn build(&self, role: &str, dockerfile: &str) {
        let dockerfile = format!("FROM {}\n{dockerfile}", self.image("base"));
        self.docker_with_input(["build", "-q", "-t", &self.image(role), "-"], dockerfile.as_bytes()).await;
    }

    /// Creates a sandbox for one set of options. `index` separates its addresses from those of other sandboxes.
    pub(super) async fn sandbox(&self, index: u8, set: &OptionSet) -> Sandbox<'_> {
        let networks = networks_in(&format!("{} {}", set.options, set.after));
        let sandbox = Sandbox { rig: self, networks, index, port: free_port().to_string() };
        for which in sandbox.networks.iter().copied() {
            let subnet = format!("{}.0/24", sandbox.address_prefix(which));
            self.docker(["network", "create", "--subnet", &subnet, &sandbox.network(which)]).await;
        }
        sandbox
    }
}

/// One of a sandbox's networks.
#[derive(Debug, Clone, Copy)]
pub(super) enum Network {
    /// `{net}`. `{ip}` is an address in it.
    First,
    /// `{net2}`. `{ip2}` is an address in it.
    Second,
}

/// The names and addresses of one set of options, and its container.
pub(super) struct Sandbox<'a> {
    rig: &'a OracleFixture,
    /// The networks. A network exists only if an option uses it.
    networks: Vec<Network>,
    index: u8,
    port: String,
}

impl Sandbox<'_> {
    pub(super) fn name(&self) -> String {
        self.rig.scope.name(&format!("c{}", self.index))
    }

    /// The tag that moves.
    pub(super) fn tag(&self) -> String {
        self.rig.image(&format!("tag{}", self.index))
    }

    /// The name of the first or second network. The first one is the primary network. Its name sorts after the other
    /// name, so that code that takes any network fails.
    pub(super) fn network(&self, which: Network) -> String {
        let letter = match which {
            Network::First => 'z',
            Network::Second => 'a',
        };
        self.rig.scope.name(&format!("{letter}{}", self.index))
    }

    fn address_prefix(&self, which: Network) -> String {
        let second_byte = match which {
            Network::First => 77,
            Network::Second => 78,
        };
        format!("10.{second_byte}.{}", self.index)
    }

    /// The fixed address that a container of this sandbox may request.
    pub(super) fn address(&self, which: Network) -> String {
        format!("{}.99", self.address_prefix(which))
    }

    pub(super) async fn point_tag_at(&self, role: &str) {
        self.rig.docker(["tag", &self.rig.image(role), &self.tag()]).await;
    }

    /// Creates the container according to the set.
    pub(super) async fn make(&self, set: &OptionSet) {
        let line = format!("{} --name {{name}} {} {{tag}} {}", set.verb, set.options, set.command);
        for line in [line.as_str()].into_iter().chain(set.after.lines()) {
            self.rig.docker(self.words(line).await).await;
        }
    }

    async fn words(&self, line: &str) -> Vec<String> {
        let mut line = line.to_owned();
        if line.contains("{net-id}") {
            let id =
                self.rig.docker(["network", "inspect", "--format", "{{.Id}}", &self.network(Network::First)]).await;
            line = line.replace("{net-id}", &id[..12]);
        }
        for (mark, value) in [
            ("{name}", self.name()),
            ("{tag}", self.tag()),
            ("{net}", self.network(Network::First)),
            ("{net2}", self.network(Network::Second)),
            ("{ip}", self.address(Network::First)),
            ("{ip2}", self.address(Network::Second)),
            ("{vol}", self.rig.scope.name(&format!("v{}", self.index))),
            ("{peer}", self.rig.scope.name("peer")),
            ("{port}", self.port.clone()),
            ("{platform}", platform()),
        ] {
            line = line.replace(mark, &value);
        }
        line.split_whitespace().map(|word| word.trim_matches('\'').replace('␠', " ")).collect()
    }

    /// Replaces the container with the image that its tag names now, and returns its inspection.
    pub(super) async fn replace(&self) -> Result<Value, String> {
        replace(self.rig, &self.name(), &self.tag()).await?;
        Ok(self.inspect().await)
    }

    pub(super) async fn inspect(&self) -> Value {
        self.rig.engine.inspect_container(&self.name()).await.expect("the container exists")
    }

    /// Removes the container and its anonymous volumes. The engine does not remove a volume that a replacement carried
    /// over.
    pub(super) async fn remove_container(&self) {
        let inspection = self.inspect().await;
        self.rig.docker(["rm", "-f", "-v", &self.name()]).await;
        let mounts = inspection["Mounts"].as_array().into_iter().flatten();
        let of_peer = self.rig.engine.inspect_container(&self.rig.scope.name("peer")).await.expect("the peer exists");
        for name in mounts.filter_map(|mount| mount["Name"].as_str()).filter(|name| super::inspection::is_id(name)) {
            if !of_peer["Mounts"].to_string().contains(name) {
                self.rig.docker(["volume", "rm", "-f", name]).await;
            }
        }
    }

    /// Removes everything of this sandbox, so that the next sandboxes find free addresses.
    pub(super) async fn clear(&self) {
        self.remove_container().await;
        for which in self.networks.iter().copied() {
            self.rig.docker(["network", "rm", &self.network(which)]).await;
        }
    }
}

/// Replaces a container. This is the program code that the oracle tests.
pub(super) async fn replace(rig: &OracleFixture, name: &str, tag: &str) -> Result<(), String> {
    let image = rig.engine.inspect_image(tag).await.expect("the engine answers").expect("the tag is here");
    let image = NewImage { id: image["Id"].as_str().expect("an image has an id"), reference: None, platform: None };
    let stable_for = Duration::from_millis(1);
    let mut job = Job {
        image,
        strategy: Strategy::Replace,
        stable_for,
        companions: Vec::new(),
        origin: OrderRef::default(),
        slot: None,
    };
    let preflight = rig
        .rollout
        .preflight(name, &job, &EngineSnapshot::default())
        .await
        .map_err(|error| error.to_string())?
        .expect("the container exists");
    rig.rollout.replace(preflight, &mut job).await.map(drop).map_err(|error| error.to_string())
}

/// Returns the networks that the options use.
fn networks_in(options: &str) -> Vec<Network> {
    let is_named = |marks: [&str; 2]| marks.iter().any(|mark| options.contains(mark));
    let first = is_named(["{net}", "{net-id}"]).then_some(Network::First);
    let second = is_named(["{net2}", "{ip2}"]).then_some(Network::Second);
    first.into_iter().chain(second).collect()
}

/// The instructions that build the two images of a pair from the same files.
fn dockerfiles(images: Images) -> (String, String) {
    let (old, new) = match images {
        Images::Plain => ("", ""),
        // An entrypoint removes an earlier command, so the command is repeated.
        Images::Entrypoint => {
            ("ENTRYPOINT [\"entry-a\"]\nCMD [\"serve\", \"a\"]\n", "ENTRYPOINT [\"entry-b\"]\nCMD [\"serve\", \"b\"]\n")
        }
        Images::Volumes => ("VOLUME /data /only-a\n", "VOLUME /data /only-b\n"),
        Images::Compose => ("LABEL com.docker.compose.project=p com.docker.compose.service=web\n", ""),
    };
    (format!("{OLD}{old}"), format!("{NEW}{new}"))
}

fn platform() -> String {
    let architecture = match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    };
    format!("linux/{architecture}")
}

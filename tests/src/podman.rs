//! A private Podman for one test, with its own storage and its own network namespace. The test uses its service socket
//! and its command line. It needs root. Everything that it starts ends with it.

use std::fs::{self, File};
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use serde_json::Value;
use tempfile::TempDir;

use crate::private_engine::{Network, unmount_under};
use crate::wait::wait_for;

const READY_TIMEOUT: Duration = Duration::from_secs(60);
/// Limits that a container may raise, independent of the machine's limits. The settings also avoid every call to
/// systemd.
const CONFIG: &str = r#"[containers]
default_ulimits = ["nofile=20000:20000", "nproc=32768:32768"]
[engine]
events_logger = "file"
cgroup_manager = "cgroupfs"
runtime = "runc"
"#;

/// A running Podman. Dropping it removes its containers and folders.
#[derive(Debug)]
pub struct Podman {
    network: Network,
    folder: TempDir,
    service: Option<Child>,
}

impl Podman {
    /// Starts a Podman. Panics if Podman is not available.
    pub async fn start() -> Self {
        let network = Network::create();
        let folder = TempDir::new().expect("the temp folder is writable");
        let mut podman = Self { network, folder, service: None };
        fs::write(podman.path("containers.conf"), CONFIG).expect("the folder is writable");
        let trusted = podman.outer_address();
        let registries = format!("[[registry]]\nprefix = \"{trusted}\"\nlocation = \"{trusted}\"\ninsecure = true\n");
        fs::write(podman.path("registries.conf"), registries).expect("the folder is writable");
        let log = File::create(podman.path("log")).expect("the folder is writable");
        let mut command = podman.command();
        command.args(["system", "service", "--time=0", &podman.host()]).stdin(Stdio::null());
        command.stdout(log.try_clone().expect("a file can be shared")).stderr(log);
        podman.service = Some(command.spawn().unwrap_or_else(|error| panic!("failed to start {command:?}: {error}")));
        let socket = podman.path("podman.sock");
        wait_for("Podman's socket", READY_TIMEOUT, || async {
            let answer = tokio::net::UnixStream::connect(&socket).await;
            answer.map(drop).map_err(|error| (error.to_string(), fs::read_to_string(podman.path("log"))))
        })
        .await;
        podman
    }

    /// The address under which this Podman reaches the test. A registry for it listens there.
    pub fn outer_address(&self) -> Ipv4Addr {
        self.network.outer
    }

    /// The address of the service, for `DOCKER_HOST`.
    pub fn host(&self) -> String {
        format!("unix://{}", self.path("podman.sock").display())
    }

    /// Runs a `podman` command and returns its output. Panics if the command fails.
    pub fn run(&self, args: &[&str]) -> String {
        let output = self.command().args(args).output().expect("podman can be started");
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "podman {args:?}: {said}");
        String::from_utf8_lossy(&output.stdout).trim().to_owned()
    }

    /// Podman's own inspection of a container. Returns `None` if the container does not exist.
    pub fn inspect(&self, container: &str) -> Option<Value> {
        let output = self.command().args(["container", "inspect", container]).output().expect("podman can be started");
        let found: Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
        output.status.success().then(|| found[0].clone())
    }

    /// The names of all containers, sorted.
    pub fn containers(&self) -> Vec<String> {
        let names = self.run(&["ps", "--all", "--format", "{{.Names}}"]);
        let mut names: Vec<String> = names.lines().map(str::to_owned).collect();
        names.sort();
        names
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn command(&self) -> Command {
        let mut command = Command::new("nsenter");
        command.arg(format!("--net=/var/run/netns/{}", self.network.namespace)).arg("podman");
        command.arg("--root").arg(self.path("root")).arg("--runroot").arg(self.path("run"));
        command.arg("--network-config-dir").arg(self.path("networks"));
        command.env("CONTAINERS_CONF", self.path("containers.conf"));
        command.env("CONTAINERS_REGISTRIES_CONF", self.path("registries.conf"));
        command
    }
}

impl Drop for Podman {
    fn drop(&mut self) {
        // A failure here is harmless: what remains refers only to a folder that is removed next.
        let _ = self.command().args(["rm", "--all", "--force", "--time", "0"]).output();
        if let Some(mut service) = self.service.take() {
            let _ = service.kill();
            let _ = service.wait();
        }
        unmount_under(self.folder.path());
    }
}

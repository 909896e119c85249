//! A private dockerd for one test, in its own network namespace. The test may restart it. It needs root. Everything
//! that it starts is found by its folder and ended with it. `IMAGEWATCH_DOCKERD_OPTIONS` contains options of dockerd
//! that choose the image store. The default is a graph driver.

use std::fs::{self, File};
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use std::{io, thread};

use bollard::Docker;
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use crate::engine::TestEngine;
use crate::wait::wait_for;

/// Until the first answer.
const READY_TIMEOUT: Duration = Duration::from_secs(60);
/// dockerd stops its containers in this time. Each takes up to 10 s, but they stop in parallel.
const STOP_TIMEOUT: Duration = Duration::from_secs(30);
const POLL_INTERVAL: Duration = Duration::from_millis(20);
/// The number of networks with four addresses in 10.200.0.0/16.
const NETWORKS: u16 = 0x4000;

/// A running engine. Dropping it ends everything that it started, and removes its namespace and folders.
#[derive(Debug)]
pub struct PrivateEngine {
    network: Network,
    folder: TempDir,
    dockerd: Option<Child>,
}

/// A network namespace and the veth pair to it. Dropping it removes both.
#[derive(Debug)]
pub(crate) struct Network {
    pub(crate) namespace: String,
    /// The address of the pair's end in the test's namespace.
    pub(crate) outer: Ipv4Addr,
}

impl PrivateEngine {
    /// Starts an engine.
    pub async fn start() -> Self {
        Self::start_in(TempDir::new().expect("the temp folder is writable")).await
    }

    /// Starts an engine with `megabytes` of disk space for its images and containers.
    pub async fn start_on_disk(megabytes: u32) -> Self {
        let folder = TempDir::new().expect("the temp folder is writable");
        let data = folder.path().join("data");
        fs::create_dir(&data).expect("the folder is writable");
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", &format!("size={megabytes}m"), "tmpfs"]).arg(&data);
        let mounted = mount.status().expect("mount runs");
        assert!(mounted.success(), "failed to mount a tmpfs; a private engine needs root");
        Self::start_in(folder).await
    }

    async fn start_in(folder: TempDir) -> Self {
        let network = Network::create();
        let mut engine = Self { network, folder, dockerd: None };
        engine.launch().await;
        engine
    }

    /// The address under which the engine and its containers reach the test. A registry for them listens there.
    pub fn outer_address(&self) -> Ipv4Addr {
        self.network.outer
    }

    /// The file of the engine's socket.
    pub fn socket(&self) -> PathBuf {
        self.folder.path().join("docker.sock")
    }

    /// Connects to the engine.
    pub async fn connect(&self) -> TestEngine {
        TestEngine::connect_to(self.host()).await
    }

    /// Stops the engine and its containers, as a system shutdown does, and starts the engine again.
    pub async fn restart(&mut self) {
        self.stop_dockerd();
        self.launch().await;
    }

    fn host(&self) -> String {
        format!("unix://{}", self.socket().display())
    }

    async fn launch(&mut self) {
        let path = |name: &str| self.folder.path().join(name);
        let log = File::options().create(true).append(true).open(path("log")).expect("the folder is writable");
        let mut command = Command::new("nsenter");
        // `ip netns exec` does not work here: it mounts another /sys, in which dockerd does not find the control
        // groups.
        command.arg(format!("--net=/var/run/netns/{}", self.network.namespace)).arg("dockerd");
        command.arg("--data-root").arg(path("data")).arg("--exec-root").arg(path("exec"));
        command.arg("--pidfile").arg(path("pid")).arg("-H").arg(self.host());
        let options =
            std::env::var("IMAGEWATCH_DOCKERD_OPTIONS").unwrap_or_else(|_| "--storage-driver overlay2".to_owned());
        command.args(options.split_whitespace());
        command.args(["--insecure-registry", "10.200.0.0/16"]);
        command.stdin(Stdio::null()).stdout(log.try_clone().expect("a file can be shared")).stderr(log);
        self.dockerd = Some(command.spawn().unwrap_or_else(|error| panic!("failed to start {command:?}: {error}")));
        let (log, host) = (path("log"), self.host());
        wait_for("a private engine to answer", READY_TIMEOUT, || async {
            // The client can be created only when the socket exists.
            let answer = async { Docker::connect_with_host(&host)?.ping().await };
            answer.await.map_err(|error| (error.to_string(), fs::read_to_string(&log).unwrap_or_default()))
        })
        .await;
    }

    fn stop_dockerd(&mut self) {
        let Some(mut dockerd) = self.dockerd.take() else { return };
        send(Pid::from_child(&dockerd), Signal::TERM);
        wait_until(STOP_TIMEOUT, || dockerd.try_wait().is_ok_and(|status| status.is_some()));
        let _ = dockerd.kill();
        let _ = dockerd.wait();
    }
}

impl Drop for PrivateEngine {
    fn drop(&mut self) {
        self.stop_dockerd();
        let folder = self.folder.path().to_owned();
        for pid in processes_of(&folder) {
            send(Some(pid), Signal::KILL);
        }
        wait_until(STOP_TIMEOUT, || processes_of(&folder).is_empty());
        unmount_under(&folder);
    }
}

impl Network {
    /// Takes the first free network, starting at a number that depends on the process id. If another process takes the
    /// same number, the kernel refuses the namespace, and the next number is tried.
    pub(crate) fn create() -> Self {
        let first = u16::try_from(std::process::id() % u32::from(NETWORKS)).expect("the remainder is below NETWORKS");
        for step in 0..64 {
            let number = (first + step * 7) % NETWORKS;
            let [high, low] = (number * 4).to_be_bytes();
            let (outer, inner) = (Ipv4Addr::new(10, 200, high, low + 1), Ipv4Addr::new(10, 200, high, low + 2));
            let namespace = format!("iwt{number:x}");
            if ip(&format!("netns add {namespace}")).is_err() {
                continue;
            }
            // From here on, dropping `network` cleans up.
            let network = Self { namespace, outer };
            network.connect(inner).unwrap_or_else(|error| panic!("failed to create a network for an engine: {error}"));
            return network;
        }
        panic!("failed to create a network namespace; a private engine needs root, and `ip` on PATH")
    }

    fn connect(&self, inner: Ipv4Addr) -> io::Result<()> {
        let Self { namespace, outer } = self;
        let (near, far) = (format!("{namespace}h"), format!("{namespace}c"));
        ip(&format!("link add {near} type veth peer name {far} netns {namespace}"))?;
        ip(&format!("addr add {outer}/30 dev {near}"))?;
        ip(&format!("link set {near} up"))?;
        ip(&format!("-n {namespace} addr add {inner}/30 dev {far}"))?;
        ip(&format!("-n {namespace} link set {far} up"))?;
        ip(&format!("-n {namespace} link set lo up"))?;
        ip(&format!("-n {namespace} route add default via {outer}"))
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        // The other end is removed too, even while a process still has the namespace open.
        let _ = ip(&format!("link del {}h", self.namespace));
        let _ = ip(&format!("netns del {}", self.namespace));
    }
}

fn ip(arguments: &str) -> io::Result<()> {
    let output = Command::new("ip").args(arguments.split(' ')).output()?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(io::Error::other(format!("ip {arguments}: {}", said.trim())))
}

/// Returns dockerd, containerd and its shims, which all have the folder in their arguments, and all their descendants.
fn processes_of(folder: &Path) -> Vec<Pid> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    let all: Vec<(i32, i32)> = pids.filter_map(|pid| Some((pid, parent_of(pid)?))).collect();
    let is_part = |pid: i32| {
        let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let mut words = line.split(|byte| *byte == 0).map(|word| String::from_utf8_lossy(word).into_owned());
        let program = words.next().unwrap_or_default();
        let name = program.rsplit('/').next().unwrap_or_default().to_owned();
        (name == "dockerd" || name.starts_with("containerd"))
            && words.any(|word| Path::new(word.strip_prefix("unix://").unwrap_or(&word)).starts_with(folder))
    };
    let mut found: Vec<i32> = all.iter().map(|(pid, _)| *pid).filter(|pid| is_part(*pid)).collect();
    let mut next = 0;
    while let Some(parent) = found.get(next).copied() {
        let children = all.iter().filter(|(pid, of)| *of == parent && !found.contains(pid)).map(|(pid, _)| *pid);
        let children: Vec<i32> = children.collect();
        found.extend(children);
        next += 1;
    }
    found.into_iter().filter_map(Pid::from_raw).collect()
}

/// The parent of a process that has not ended.
fn parent_of(pid: i32) -> Option<i32> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let mut words = stat.rsplit_once(") ")?.1.split(' ');
    let state = words.next()?;
    words.next()?.parse().ok().filter(|_| state != "Z")
}

fn send(pid: impl Into<Option<Pid>>, signal: Signal) {
    if let Some(pid) = pid.into() {
        // This fails only if the process has ended in the meantime.
        let _ = kill_process(pid, signal);
    }
}

fn wait_until(deadline: Duration, mut is_so: impl FnMut() -> bool) {
    let end = Instant::now() + deadline;
    while !is_so() && Instant::now() < end {
        thread::sleep(POLL_INTERVAL);
    }
}

/// Unmounts everything below `folder`, the latest mount first.
pub(crate) fn unmount_under(folder: &Path) {
    let table = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let points = table.lines().filter_map(|line| line.split(' ').nth(4)).map(Path::new);
    let ours: Vec<&Path> = points.filter(|point| point.starts_with(folder)).collect();
    for point in ours.iter().rev() {
        let _ = Command::new("umount").arg("--lazy").arg(point).output();
    }
}

//! What an engine leaves in the machine: processes and mounts, found through /proc by the engine's own folder, never
//! by a program's name alone.

use std::{
    fmt, fs,
    path::{Path, PathBuf},
    process::Command,
};

use crate::{
    error::{Result, failed},
    process::capture,
    say::say,
    signals,
};

/// A living process, told from a later one with the same id by when it started.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Process {
    pid: i32,
    stat: Stat,
}

/// One line of /proc/PID/stat, as far as it matters here.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Stat {
    name: String,
    state: char,
    parent: i32,
    /// In clock ticks since boot.
    started: u64,
}

impl Process {
    /// Whether it is the daemon itself.
    pub(super) fn is_dockerd(&self) -> bool {
        self.stat.name == "dockerd"
    }

    /// Whether it has not ended; a zombie has.
    pub(super) fn is_running(&self) -> bool {
        stat_of(self.pid).is_some_and(|now| now.state != 'Z' && now.started == self.stat.started)
    }

    /// Sends it a signal, unless it has ended.
    pub(super) fn signal(&self, number: i32) {
        if self.is_running() {
            signals::send(self.pid, number);
        }
    }

    fn arguments(&self) -> Vec<String> {
        let line = fs::read(format!("/proc/{}/cmdline", self.pid)).unwrap_or_default();
        let words = line.split(|byte| *byte == 0).filter(|word| !word.is_empty());
        words.map(|word| String::from_utf8_lossy(word).into_owned()).collect()
    }

    /// dockerd, containerd and its shims all carry their engine's folder in their arguments. The kernel keeps 15
    /// bytes of a name: `containerd-shim-runc-v2` is `containerd-shim`.
    fn is_part_of(&self, run: &Path) -> bool {
        (self.is_dockerd() || self.stat.name.starts_with("containerd"))
            && self.arguments().iter().any(|argument| names(argument, run))
    }
}

impl fmt::Display for Process {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (pid {})", self.stat.name, self.pid)
    }
}

/// The processes of the engine whose run folder this is, and whatever those started, containers included.
pub(super) fn processes_of(run: &Path) -> Vec<Process> {
    let (mut found, mut others): (Vec<_>, Vec<_>) = processes().partition(|process| process.is_part_of(run));
    let mut next = 0;
    while let Some(parent) = found.get(next).map(|process| process.pid) {
        let (children, rest) = others.into_iter().partition(|process| process.stat.parent == parent);
        found.extend::<Vec<_>>(children);
        others = rest;
        next += 1;
    }
    found
}

/// An error when another dockerd has our network: a second one would break the networks of both.
pub(super) fn refuse_rivals() -> Result<()> {
    let network = |pid: &str| fs::read_link(format!("/proc/{pid}/ns/net")).ok();
    let ours = network("self");
    let rival = processes().find(|process| process.is_dockerd() && network(&process.pid.to_string()) == ours);
    match rival {
        None => Ok(()),
        Some(rival) => failed(format!(
            "another dockerd runs in this network namespace, and a second would break both: pid {}, `{}`; \
             set DOCKER_HOST to use it, or stop it",
            rival.pid,
            rival.arguments().join(" ")
        )),
    }
}

/// Takes away every mount at or under the folder, the latest first.
pub(super) fn unmount_under(folder: &Path) {
    let table = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    for mount in mounts_under(&table, folder) {
        if capture(Command::new("umount").arg("--lazy").arg(&mount)).is_none() {
            say!("xtask: engine: failed to unmount {}", mount.display());
        }
    }
}

/// Every process that has not ended.
fn processes() -> impl Iterator<Item = Process> {
    let entries = fs::read_dir("/proc").into_iter().flatten();
    let pids = entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
    pids.filter_map(|pid| Some(Process { pid, stat: stat_of(pid)? })).filter(|process| process.stat.state != 'Z')
}

fn stat_of(pid: i32) -> Option<Stat> {
    parse_stat(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
}

/// `pid (name) state parent … started …`, the 22nd word being when it started. The name may contain anything, brackets
/// and blanks too.
fn parse_stat(line: &str) -> Option<Stat> {
    let (before, after) = line.rsplit_once(") ")?;
    let (_, name) = before.split_once(" (")?;
    let mut words = after.split(' ');
    let (state, parent) = (words.next()?.chars().next()?, words.next()?.parse().ok()?);
    Some(Stat { name: name.into(), state, parent, started: words.nth(17)?.parse().ok()? })
}

/// Whether an argument is a path in this folder, with or without `unix://`.
fn names(argument: &str, folder: &Path) -> bool {
    Path::new(argument.strip_prefix("unix://").unwrap_or(argument)).starts_with(folder)
}

fn mounts_under(mountinfo: &str, folder: &Path) -> Vec<PathBuf> {
    let points = mountinfo.lines().filter_map(|line| Some(PathBuf::from(unescape(line.split(' ').nth(4)?))));
    let mut found: Vec<PathBuf> = points.filter(|point| point.starts_with(folder)).collect();
    found.reverse();
    found
}

/// mountinfo writes blank, tab, newline and backslash as octal.
fn unescape(text: &str) -> String {
    [("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")]
        .iter()
        .fold(text.to_owned(), |text, (code, character)| text.replace(code, character))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_read_whatever_its_name() {
        let rest = "12 12 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 9 0";
        for (name, line, expected) in [
            ("plain", format!("12 (dockerd) S 1 {rest} 4711 99"), Some(("dockerd", 'S', 1))),
            ("brackets and blanks", format!("7 (a) S (b) c) Z 42 {rest} 4711"), Some(("a) S (b) c", 'Z', 42))),
            ("cut off", format!("7 (a) S 1 {rest}"), None),
            ("empty", String::new(), None),
        ] {
            let stat = |(name, state, parent): (&str, _, _)| Stat { name: name.into(), state, parent, started: 4711 };
            assert_eq!(parse_stat(&line), expected.map(stat), "{name}");
        }
    }

    #[test]
    fn only_paths_in_the_engines_folder_are_its_own() {
        let run = Path::new("/run/imagewatch-engine/run");
        for (argument, expected) in [
            ("unix:///run/imagewatch-engine/run/docker.sock", true),
            ("/run/imagewatch-engine/run/exec/containerd/containerd.toml", true),
            ("/run/imagewatch-engine/running/docker.sock", false),
            ("unix:///var/run/docker.sock", false),
            ("--log-level", false),
        ] {
            assert_eq!(names(argument, run), expected, "{argument}");
        }
    }

    #[test]
    fn mounts_under_the_folder_come_innermost_first() {
        let table = "\
22 1 8:1 / / rw - ext4 /dev/vda rw
30 22 0:4 / /t/engine/overlay2/a\\040b/merged rw - overlay overlay rw
31 30 0:5 / /t/engine/overlay2/a\\040b/merged/proc rw - proc proc rw
32 22 0:6 / /t/engines rw - tmpfs tmpfs rw
";
        let expected = ["/t/engine/overlay2/a b/merged/proc", "/t/engine/overlay2/a b/merged"].map(PathBuf::from);
        assert_eq!(mounts_under(table, Path::new("/t/engine")), expected);
    }

    #[test]
    fn a_process_is_told_from_a_later_one_with_its_id() {
        let own = i32::try_from(std::process::id()).expect("process ids are below 2^22");
        let us = processes().find(|process| process.pid == own).expect("we run");
        assert!(us.is_running() && !us.is_dockerd());
        let stat = Stat { started: us.stat.started + 1, ..us.stat };
        assert!(!Process { pid: own, stat }.is_running());
    }
}

//! A dockerd of our own: start it, stop it, and leave nothing of it behind.

use std::{
    ffi::OsStr,
    fs::{self, File},
    os::unix::process::CommandExt as _,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use super::{
    lease::remove,
    ping,
    release::Release,
    sweep::{self, Process},
};
use crate::{
    error::{Context as _, Error, Result, failed},
    process::{find_program_on, wait_to_clean, wait_until},
    say::say,
    signals,
};

/// For the first answer. It is there in 2 s; a machine under load may be slower.
const START_DEADLINE: Duration = Duration::from_mins(1);
/// It stops its containers in this time, 10 s each but side by side.
const STOP_DEADLINE: Duration = Duration::from_secs(20);
const KILL_DEADLINE: Duration = Duration::from_secs(5);
const LOG_TAIL_LINES: usize = 20;

/// Where its socket is, in its run folder.
pub(super) fn socket(run: &Path) -> PathBuf {
    run.join("docker.sock")
}

/// Starts the daemon of `release` and waits for its answer. `run`: socket, pid files, log; `data`: images and containers.
/// [`stop`] needs only `run`, which remembers the other.
pub(super) fn start(run: &Path, data: &Path, release: Release, search_path: &OsStr) -> Result<Child> {
    let Some(program) = find_program_on("dockerd", search_path) else { return failed("dockerd is not on PATH") };
    let launch = |options| launch(&program, run, data, options, search_path);
    match launch(release.store_options()) {
        Err(Error::Failed(reason)) if release == Release::System => {
            say!("xtask: engine: overlay2 does not work here, leaving the storage driver to dockerd: {reason}");
            launch(&[])
        }
        other => other,
    }
}

fn launch(program: &Path, run: &Path, data: &Path, options: &[&str], search_path: &OsStr) -> Result<Child> {
    let outcome = try_launch(program, run, data, options, search_path);
    if outcome.is_err() {
        stop(run);
    }
    outcome
}

fn try_launch(program: &Path, run: &Path, data: &Path, options: &[&str], search_path: &OsStr) -> Result<Child> {
    remove(data);
    for folder in [run, data] {
        fs::create_dir_all(folder).context(|| format!("create {}", folder.display()))?;
    }
    let note = data_note(run);
    fs::write(&note, data.as_os_str().as_encoded_bytes()).context(|| format!("write {}", note.display()))?;
    let log = log_file(run);
    let log = File::create(&log).context(|| format!("create {}", log.display()))?;
    let mut command = Command::new(program);
    command.arg("--data-root").arg(data).arg("--exec-root").arg(run.join("exec"));
    command.arg("--pidfile").arg(pid_file(run)).arg("-H").arg(host(run)).args(options);
    // dockerd starts the containerd that it finds first.
    command.env("PATH", search_path);
    let also_log = log.try_clone().context(|| "share the log".into())?;
    // A group of its own: Ctrl-C at the terminal is for the tests, dockerd is stopped after them.
    command.stdin(Stdio::null()).stdout(log).stderr(also_log).process_group(0);
    let mut child = command.spawn().context(|| format!("start {}", program.display()))?;
    say!("xtask: engine: starting {}, pid {}, data in {}", host(run), child.id(), data.display());
    wait_for_answer(&mut child, run)?;
    Ok(child)
}

fn wait_for_answer(child: &mut Child, run: &Path) -> Result<()> {
    let answer = wait_until(START_DEADLINE, || {
        if let Some(status) = child.try_wait().context(|| "wait for dockerd".into())? {
            return failed(format!("dockerd ended with {status}; the end of its log:\n{}", log_tail(run)));
        }
        Ok(ping::ping(&host(run)).ok())
    })?;
    match answer {
        Some(()) => {
            say!("xtask: engine: {} answers", host(run));
            Ok(())
        }
        None => failed(format!("dockerd did not answer in {START_DEADLINE:?}; the end of its log:\n{}", log_tail(run))),
    }
}

/// Stops the engine that lives in `run`, gently first, with everything that it started, and removes its folders.
/// Works the same for an engine of ours and for one whose xtask is dead.
pub(super) fn stop(run: &Path) {
    say!("xtask: engine: stopping {}", host(run));
    // Noted before anything ends: a container whose shim is gone can no longer be told from other processes.
    let known = sweep::processes_of(run);
    let left = || -> Vec<Process> {
        let new = sweep::processes_of(run).into_iter().filter(|process| !known.contains(process));
        known.iter().filter(|process| process.is_running()).cloned().chain(new).collect()
    };
    // dockerd ends the others itself, in order.
    if let Some(dockerd) = known.iter().find(|process| process.is_dockerd()) {
        dockerd.signal(signals::TERMINATE);
        wait_to_clean(STOP_DEADLINE, || left().is_empty());
    }
    for process in left() {
        say!("xtask: engine: killing {process}");
        process.signal(signals::KILL);
    }
    wait_to_clean(KILL_DEADLINE, || left().is_empty());
    let data = fs::read(data_note(run)).ok().map(|bytes| PathBuf::from(String::from_utf8_lossy(&bytes).into_owned()));
    for folder in data.iter().map(PathBuf::as_path).chain([run]) {
        sweep::unmount_under(folder);
        remove(folder);
    }
}

fn host(run: &Path) -> String {
    format!("unix://{}", socket(run).display())
}

fn pid_file(run: &Path) -> PathBuf {
    run.join("dockerd.pid")
}

fn log_file(run: &Path) -> PathBuf {
    run.join("dockerd.log")
}

/// The file that remembers where the data is.
fn data_note(run: &Path) -> PathBuf {
    run.join("data-root")
}

fn log_tail(run: &Path) -> String {
    let text =
        fs::read(log_file(run)).map_or_else(|error| error.to_string(), |b| String::from_utf8_lossy(&b).into_owned());
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(LOG_TAIL_LINES)..].join("\n")
}

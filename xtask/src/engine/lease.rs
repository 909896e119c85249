//! One private engine for all xtask runs on this machine, as two dockerds in one network namespace break each other.
//! Runs share it by file locks, which the kernel frees however a run ends:
//!
//! - `lock`: held exclusively, briefly, while somebody joins or leaves;
//! - `users`: held shared by every run that uses the engine. Whoever can get it exclusively is alone: when joining,
//!   what is there is a dead run's and is swept away; when leaving, the engine is stopped.

use std::{
    fs::{self, DirBuilder, File, OpenOptions, TryLockError},
    os::unix::fs::DirBuilderExt as _,
    path::{Path, PathBuf},
    process::Child,
    time::Duration,
};

use super::{dockerd, ping, release::Release, sweep};
use crate::{
    error::{Context as _, Result, failed},
    process,
    say::say,
};

/// Only root writes to /run, so nobody else can put a path there for us to remove.
const HOME: &str = "/run/imagewatch-engine";
/// Another run may be starting the engine (60 s, twice) or stopping it meanwhile.
const LOCK_DEADLINE: Duration = Duration::from_mins(3);

/// The right to use the private engine; dropping it stops the engine when nobody else uses it.
pub(super) struct Lease {
    home: PathBuf,
    users: File,
    /// dockerd, when it was this run that started it.
    child: Option<Child>,
}

impl Lease {
    /// The engine's address.
    pub(super) fn host(&self) -> String {
        host_in(&run_folder(&self.home))
    }

    fn leave(&self) -> Result<()> {
        let _turn = lock_to_clean(&self.home.join("lock"))?;
        if is_alone(&self.users)? {
            dockerd::stop(&run_folder(&self.home));
        } else {
            say!("xtask: engine: left running, another xtask run uses it");
        }
        Ok(())
    }
}

/// Joins the running private engine, or starts one of `release` with its data below `target`.
pub(super) fn take(target: &Path, release: Release) -> Result<Lease> {
    if !crate::packages::is_root() {
        return failed("no engine answers, and starting one needs root: set DOCKER_HOST, or run this as root");
    }
    let home = PathBuf::from(HOME);
    DirBuilder::new().recursive(true).mode(0o700).create(&home).context(|| format!("create {HOME}"))?;
    let _turn = lock(&home.join("lock"))?;
    let users = open(&home.join("users"))?;
    let note = home.join("release");
    let run = run_folder(&home);
    let child = if is_alone(&users)? {
        sweep_stale(&run)?;
        sweep::refuse_rivals()?;
        let child = dockerd::start(&run, &target.join("engine"), release, &release.search_path(target)?)?;
        fs::write(&note, release.name()).context(|| format!("write {}", note.display()))?;
        Some(child)
    } else {
        let (host, running) = (host_in(&run), fs::read_to_string(&note).unwrap_or_default());
        if running != release.name() {
            return failed(format!(
                "another xtask run uses the private engine as {running:?}, and this run needs {:?}: wait until it has ended",
                release.name()
            ));
        }
        ping::ping(&host).or_else(|reason| failed(format!("the engine of another xtask run, {host}, {reason}")))?;
        say!("xtask: engine: sharing {host} with another xtask run");
        None
    };
    users.lock_shared().context(|| "take a share of the engine".into())?;
    Ok(Lease { home, users, child })
}

impl Drop for Lease {
    fn drop(&mut self) {
        if let Err(error) = self.leave() {
            say!("xtask: engine: not stopped, the next run will: {error}");
        }
        // Reaped here, as not every container's first process does it for us.
        let _ = self.child.as_mut().map(Child::try_wait);
    }
}

/// Where the engine has its socket, pid files and log: short, as a socket's path may have 107 bytes.
fn run_folder(home: &Path) -> PathBuf {
    home.join("run")
}

fn host_in(run: &Path) -> String {
    format!("unix://{}", dockerd::socket(run).display())
}

/// What is left of a run that was killed.
fn sweep_stale(run: &Path) -> Result<()> {
    if run.exists() {
        say!("xtask: engine: a killed run left one behind in {}, cleaning up", run.display());
        dockerd::stop(run);
    }
    if run.exists() { failed(format!("{} cannot be removed, see above", run.display())) } else { Ok(()) }
}

fn open(file: &Path) -> Result<File> {
    let options = OpenOptions::new().create(true).truncate(false).write(true).open(file);
    options.context(|| format!("open {}", file.display()))
}

/// Waits for the lock; gives up on a signal.
fn lock(file: &Path) -> Result<File> {
    let handle = open(file)?;
    match process::wait_until(LOCK_DEADLINE, || Ok(is_alone(&handle)?.then_some(())))? {
        Some(()) => Ok(handle),
        None => failed(format!("another xtask run holds {} for too long", file.display())),
    }
}

/// Waits for the lock even after a signal: this is the way out.
fn lock_to_clean(file: &Path) -> Result<File> {
    let handle = open(file)?;
    let mut outcome = Ok(false);
    process::wait_to_clean(LOCK_DEADLINE, || {
        outcome = is_alone(&handle);
        !matches!(outcome, Ok(false))
    });
    if outcome? { Ok(handle) } else { failed(format!("another xtask run holds {} for too long", file.display())) }
}

/// Tries to lock the file exclusively: false when somebody else has it. A share of our own does not count.
fn is_alone(file: &File) -> Result<bool> {
    match file.try_lock() {
        Ok(()) => Ok(true),
        Err(TryLockError::WouldBlock) => Ok(false),
        Err(TryLockError::Error(error)) => Err(error).context(|| "lock a file of the engine's".into()),
    }
}

/// Removes a folder with all that is in it; not there is as good.
pub(super) fn remove(folder: &Path) {
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            say!("xtask: engine: failed to remove {}: {error}", folder.display());
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_engine_is_stale_exactly_when_no_run_holds_a_share() {
        let file = std::env::temp_dir().join(format!("xtask-users-{}", std::process::id()));
        let (first, second, visitor) =
            (open(&file).expect("ours"), open(&file).expect("ours"), open(&file).expect("ours"));
        assert!(is_alone(&visitor).expect("a plain file"), "nobody uses it");
        visitor.unlock().expect("it was locked");
        first.lock_shared().expect("free");
        second.lock_shared().expect("shared");
        assert!(!is_alone(&visitor).expect("a plain file"), "two runs use it");
        drop(second);
        assert!(!is_alone(&visitor).expect("a plain file"), "one still does");
        assert!(is_alone(&first).expect("a plain file"), "and that one is the last");
        drop(first);
        assert!(is_alone(&visitor).expect("a plain file"), "a run that ended, however, holds nothing");
        fs::remove_file(file).expect("it is ours");
    }

    #[test]
    fn the_sockets_path_is_short_enough_for_the_kernel() {
        assert!(host_in(&run_folder(Path::new(HOME))).len() < 107 - "containerd/containerd-debug.sock".len());
    }
}

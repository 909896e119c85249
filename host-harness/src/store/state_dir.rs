//! Where what outlives the program is kept, and that only one `imagewatch run` at a time works from there.
//! Knows nothing of what is kept.

use std::ffi::OsString;
use std::fs::{File, OpenOptions, Permissions, TryLockError};
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use thiserror::Error;

/// The lock's name in the folder.
const LOCK_NAME: &str = "updater.lock";

/// Why the folder cannot be used.
#[derive(Debug, Error)]
pub enum StateDirError {
    /// Nothing says where it is.
    #[error("find a state folder: neither XDG_STATE_HOME nor HOME is set; name one with --state-dir")]
    Unknown,
    /// Another one runs there.
    #[error(
        "lock {file}: another imagewatch runs on this state folder{}; stop that one, or name another folder with --state-dir",
        pid.as_ref().map(|pid| format!(", with pid {pid}")).unwrap_or_default()
    )]
    Taken {
        /// The lock file.
        file: String,
        /// The other's process id, as it wrote it there.
        pid: Option<String>,
    },
    /// The system refused.
    #[error("lock {file}: {source}; name a folder that can be written with --state-dir")]
    Refused {
        /// The lock file.
        file: String,
        /// The system's word.
        source: io::Error,
    },
}

/// Where it is when nobody names it: `/var/lib/imagewatch` for root, else what the XDG rules say.
///
/// # Errors
/// When it depends on variables that are not set.
pub fn default_state_dir(is_root: bool, variable: impl Fn(&str) -> Option<OsString>) -> Result<PathBuf, StateDirError> {
    if is_root {
        return Ok(PathBuf::from("/var/lib/imagewatch"));
    }
    // The XDG rules: a relative path counts as none.
    let path = |name| variable(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let state_home = path("XDG_STATE_HOME").or_else(|| path("HOME").map(|home| home.join(".local/state")));
    state_home.map(|folder| folder.join("imagewatch")).ok_or(StateDirError::Unknown)
}

/// Whether this process is root.
pub fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// Held while a program runs on a state folder. The system lets go of it when the process ends, in whatever way.
#[derive(Debug)]
pub struct RunLock {
    _file: File,
}

/// Takes `folder`, which is there, for this process.
///
/// # Errors
/// When another process has it, or the lock file cannot be written.
pub fn lock(folder: &Path) -> Result<RunLock, StateDirError> {
    let path = folder.join(LOCK_NAME);
    let shown = || path.display().to_string();
    let refused = |source| StateDirError::Refused { file: shown(), source };
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(false).mode(0o600);
    let mut file = options.open(&path).map_err(refused)?;
    // One that an earlier version made is open to others. Where that cannot be changed the file is somebody else's.
    let _ = file.set_permissions(Permissions::from_mode(0o600));
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => return Err(StateDirError::Taken { file: shown(), pid: read_pid(&mut file) }),
        Err(TryLockError::Error(source)) => return Err(refused(source)),
    }
    // For the message above only: a full disk is no reason not to run.
    let _ = file.set_len(0).and_then(|()| file.rewind()).and_then(|()| writeln!(file, "{}", std::process::id()));
    Ok(RunLock { _file: file })
}

fn read_pid(file: &mut File) -> Option<String> {
    let mut text = String::new();
    file.take(32).read_to_string(&mut text).ok()?;
    text.trim().parse::<u32>().ok().map(|pid| pid.to_string())
}

#[cfg(test)]
mod tests {
    use rstest::rstest;
    use tempfile::TempDir;

    use super::*;

    #[rstest]
    #[case::root(true, &[("HOME", "/root"), ("XDG_STATE_HOME", "/x")], Some("/var/lib/imagewatch"))]
    #[case::xdg(false, &[("HOME", "/home/a"), ("XDG_STATE_HOME", "/x")], Some("/x/imagewatch"))]
    #[case::home(false, &[("HOME", "/home/a")], Some("/home/a/.local/state/imagewatch"))]
    #[case::xdg_is_relative(false, &[("HOME", "/home/a"), ("XDG_STATE_HOME", "x")], Some("/home/a/.local/state/imagewatch"))]
    #[case::xdg_is_empty(false, &[("HOME", "/home/a"), ("XDG_STATE_HOME", "")], Some("/home/a/.local/state/imagewatch"))]
    #[case::nothing_set(false, &[], None)]
    fn the_default_follows_the_user(
        #[case] is_root: bool,
        #[case] variables: &[(&str, &str)],
        #[case] expected: Option<&str>,
    ) {
        let variable = |name: &str| variables.iter().find(|(known, _)| *known == name).map(|(_, value)| value.into());
        assert_eq!(default_state_dir(is_root, variable).ok(), expected.map(PathBuf::from));
    }

    #[test]
    fn a_second_one_is_refused_with_the_first_ones_pid_until_that_is_gone() {
        let folder = TempDir::new().expect("a folder");
        std::fs::write(folder.path().join(LOCK_NAME), "4294967295 of an earlier run, and longer").expect("a file");
        let first = lock(folder.path()).expect("nobody has it");
        let error = lock(folder.path()).expect_err("it is taken").to_string();
        let file = folder.path().join(LOCK_NAME).display().to_string();
        assert!(error.contains(&file) && error.contains(&format!("pid {};", std::process::id())), "{error}");
        drop(first);
        lock(folder.path()).expect("it is free again");
    }

    #[test]
    fn s14_the_lock_is_its_owners_alone_also_one_of_an_earlier_version() {
        for is_there in [false, true] {
            let folder = TempDir::new().expect("a folder");
            let path = folder.path().join(LOCK_NAME);
            if is_there {
                std::fs::write(&path, "1").expect("a file");
                std::fs::set_permissions(&path, Permissions::from_mode(0o644)).expect("our own");
            }
            let _lock = lock(folder.path()).expect("nobody has it");
            let mode = std::fs::metadata(&path).expect("it is there").permissions().mode();
            assert_eq!(mode & 0o777, 0o600, "there before: {is_there}");
        }
    }

    #[test]
    fn a_folder_that_is_not_there_is_named() {
        let folder = TempDir::new().expect("a folder").path().join("gone");
        let error = lock(&folder).expect_err("it is not there").to_string();
        assert!(error.contains("gone/updater.lock") && error.contains("--state-dir"), "{error}");
    }
}

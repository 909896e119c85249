//! The default location of the state folder, and the lock that lets only one `imagewatch run` use a folder.

use std::ffi::OsString;
use std::fs::{File, OpenOptions, Permissions, TryLockError};
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use thiserror::Error;

/// File name of the lock in the state folder.
const LOCK_NAME: &str = "updater.lock";

/// Why the folder cannot be used.
#[derive(Debug, Error)]
pub enum StateDirError {
    /// No environment variable says where the folder is.
    #[error("find a state folder: neither XDG_STATE_HOME nor HOME is set; choose a folder with --state-dir")]
    Unknown,
    /// Another process holds the lock.
    #[error(
        "lock {file}: another imagewatch uses this state folder{}; stop it, or choose another folder with --state-dir",
        pid.as_ref().map(|pid| format!(", with pid {pid}")).unwrap_or_default()
    )]
    Taken {
        /// The lock file.
        file: String,
        /// The process id that the other process wrote into the lock file.
        pid: Option<String>,
    },
    /// The operating system refused to open or lock the file.
    #[error("lock {file}: {source}; choose a writable folder with --state-dir")]
    Refused {
        /// The lock file.
        file: String,
        /// The operating system's error.
        source: io::Error,
    },
}

/// Returns the default state folder: `/var/lib/imagewatch` for root, else `imagewatch` in the XDG state folder.
///
/// # Errors
/// [`StateDirError::Unknown`] if the required environment variables are not set.
pub fn default_state_dir(is_root: bool, variable: impl Fn(&str) -> Option<OsString>) -> Result<PathBuf, StateDirError> {
    if is_root {
        return Ok(PathBuf::from("/var/lib/imagewatch"));
    }
    // The XDG specification says to ignore relative paths.
    let path = |name| variable(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let state_home = path("XDG_STATE_HOME").or_else(|| path("HOME").map(|home| home.join(".local/state")));
    state_home.map(|folder| folder.join("imagewatch")).ok_or(StateDirError::Unknown)
}

/// Whether this process runs as root.
pub fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// The lock of a state folder. Dropping it releases the lock. The operating system releases it when the process ends.
#[derive(Debug)]
pub struct RunLock {
    _file: File,
}

/// Locks the existing folder `folder` for this process.
///
/// # Errors
/// Another process holds the lock, or the lock file cannot be written.
pub fn lock(folder: &Path) -> Result<RunLock, StateDirError> {
    let path = folder.join(LOCK_NAME);
    let shown = || path.display().to_string();
    let refused = |source| StateDirError::Refused { file: shown(), source };
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(false).mode(0o600);
    let mut file = options.open(&path).map_err(refused)?;
    // Earlier versions created the file with a mode that let others read it. If the mode cannot be changed, another
    // user owns the file.
    let _ = file.set_permissions(Permissions::from_mode(0o600));
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => return Err(StateDirError::Taken { file: shown(), pid: read_pid(&mut file) }),
        Err(TryLockError::Error(source)) => return Err(refused(source)),
    }
    // The pid is only for the error message above. A full disk must not prevent a start.
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
    fn default_folder_depends_on_user_and_environment(
        #[case] is_root: bool,
        #[case] variables: &[(&str, &str)],
        #[case] expected: Option<&str>,
    ) {
        let variable = |name: &str| variables.iter().find(|(known, _)| *known == name).map(|(_, value)| value.into());
        assert_eq!(default_state_dir(is_root, variable).ok(), expected.map(PathBuf::from));
    }

    #[test]
    fn a_locked_folder_is_refused_and_the_error_names_the_pid() {
        let folder = TempDir::new().expect("a folder");
        std::fs::write(folder.path().join(LOCK_NAME), "4294967295 of an earlier run, and longer").expect("a file");
        let first = lock(folder.path()).expect("it is free");
        let error = lock(folder.path()).expect_err("it is locked").to_string();
        let file = folder.path().join(LOCK_NAME).display().to_string();
        assert!(error.contains(&file) && error.contains(&format!("pid {};", std::process::id())), "{error}");
        drop(first);
        lock(folder.path()).expect("it is free again");
    }

    #[test]
    fn s14_only_the_owner_can_access_the_lock_file() {
        for is_there in [false, true] {
            let folder = TempDir::new().expect("a folder");
            let path = folder.path().join(LOCK_NAME);
            if is_there {
                std::fs::write(&path, "1").expect("a file");
                std::fs::set_permissions(&path, Permissions::from_mode(0o644)).expect("our own");
            }
            let _lock = lock(folder.path()).expect("it is free");
            let mode = std::fs::metadata(&path).expect("it exists").permissions().mode();
            assert_eq!(mode & 0o777, 0o600, "existed before: {is_there}");
        }
    }

    #[test]
    fn a_missing_folder_is_named_in_the_error() {
        let folder = TempDir::new().expect("a folder").path().join("gone");
        let error = lock(&folder).expect_err("it does not exist").to_string();
        assert!(error.contains("gone/updater.lock") && error.contains("--state-dir"), "{error}");
    }
}

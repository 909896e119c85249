//! Checks on the state folder and its files before a database is opened there.

use std::fs::{self, Permissions};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;

use tracing::warn;

use super::{StoreError, shown};

/// Write permission of the group and of others.
const WRITABLE_BY_OTHERS: u32 = 0o022;

/// The sticky bit. A folder with it, such as `/tmp`, is shared on purpose.
const STICKY: u32 = 0o1000;

/// Removes the write permission of the group and of others from `folder`.
///
/// # Errors
/// Others can write to the folder, and this process cannot change that, or the folder is shared on purpose (sticky
/// bit).
pub(super) fn close_to_others(folder: &Path) -> Result<(), StoreError> {
    let refused = |source| StoreError::Folder { folder: shown(folder), source };
    let mode = fs::metadata(folder).map_err(refused)?.mode() & 0o7777;
    if mode & WRITABLE_BY_OTHERS == 0 {
        return Ok(());
    }
    let closed = mode & !WRITABLE_BY_OTHERS;
    if mode & STICKY != 0 || fs::set_permissions(folder, Permissions::from_mode(closed)).is_err() {
        return Err(StoreError::Open { folder: shown(folder), mode });
    }
    warn!("closed the state folder {} to other users: its mode was {mode:o} and is {closed:o}", folder.display());
    Ok(())
}

/// Checks that the database at `file` and SQLite's extra files are regular files, if they exist. Opening a FIFO could
/// block forever.
///
/// # Errors
/// Names the first file that is neither a regular file nor a folder.
pub(super) fn check_files(file: &Path) -> Result<(), StoreError> {
    for ending in ["", "-wal", "-shm", "-journal"] {
        let mut path = file.as_os_str().to_owned();
        path.push(ending);
        // SQLite itself reports an error for a folder.
        if fs::metadata(&path).is_ok_and(|found| !found.is_file() && !found.is_dir()) {
            let reason = "it is neither a file nor a folder".to_owned();
            return Err(StoreError::Damaged { file: shown(Path::new(&path)), reason });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use rstest::rstest;
    use tempfile::TempDir;

    use super::*;
    use crate::store::{FILE_NAME, Store};

    #[rstest]
    #[case::open_to_all(0o777, Some(0o755))]
    #[case::open_to_its_group(0o770, Some(0o750))]
    #[case::readable(0o755, Some(0o755))]
    #[case::closed(0o700, Some(0o700))]
    #[case::shared_on_purpose(0o1777, None)]
    fn s14_other_users_lose_write_permission_on_the_state_folder(#[case] mode: u32, #[case] expected: Option<u32>) {
        let parent = TempDir::new().expect("a folder");
        let folder = parent.path().join("state");
        fs::create_dir(&folder).expect("a folder");
        fs::set_permissions(&folder, Permissions::from_mode(mode)).expect("our own");
        let opened = Store::open(&folder);
        let now = fs::metadata(&folder).expect("it exists").mode() & 0o7777;
        match (opened, expected) {
            (Ok(_), Some(expected)) => assert_eq!(now, expected),
            (Err(error), None) => {
                assert!(error.to_string().contains("1777") && error.to_string().contains("--state-dir"), "{error}");
                assert_eq!(now, mode, "the mode of a shared folder does not change");
            }
            (opened, _) => panic!("{opened:?}"),
        }
    }

    #[rstest]
    #[case::database("")]
    #[case::log("-wal")]
    #[case::index("-shm")]
    fn s14_a_fifo_instead_of_a_file_is_refused_without_blocking(#[case] ending: &str) {
        let folder = TempDir::new().expect("a folder");
        let fifo = folder.path().join(format!("{FILE_NAME}{ending}"));
        let made = std::process::Command::new("mkfifo").arg(&fifo).status().expect("mkfifo is installed");
        assert!(made.success());
        let error = Store::open(folder.path()).expect_err("not a regular file").to_string();
        assert!(error.contains("neither a file nor a folder"), "{error}");
        Store::copy_to_memory(folder.path()).expect_err("not a regular file");
    }
}

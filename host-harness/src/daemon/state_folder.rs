//! Finds and opens the folder of what outlives a command. Takes no lock.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use tracing::{error, warn};

use crate::daemon::AppError;
use crate::store::state_dir::{default_state_dir, is_root};
use crate::store::{FILE_NAME, Store};

/// The state folder and the store in it.
#[derive(Debug, Clone)]
pub struct StateFolder {
    /// Where it is; for what is no row in the store.
    pub path: PathBuf,
    /// What is in it.
    pub store: Arc<Store>,
}

impl StateFolder {
    /// Opens the folder `named`, or the user's own. Where only the disk is full the work goes on, with what can be read of
    /// the store, in one that ends with the process.
    ///
    /// # Errors
    /// When nothing says where it is, or its store cannot be used.
    pub fn open(named: Option<&Path>) -> Result<Self, AppError> {
        let path = Self::path_of(named)?;
        let store = Store::open(&path).or_else(|error| {
            if !error.is_disk_full() {
                return Err(error);
            }
            error!("failed to {error}; nothing outlives this process until there is room and it is started again");
            Ok(read(&path))
        });
        Ok(Self { path, store: Arc::new(store?) })
    }

    /// The same for who changes what is there, and does nothing else: a change that is lost is none.
    ///
    /// # Errors
    /// As [`open`](Self::open), and when the disk is full.
    pub fn open_to_change(named: Option<&Path>) -> Result<Self, AppError> {
        let path = Self::path_of(named)?;
        Ok(Self { store: Arc::new(Store::open(&path)?), path })
    }

    /// Where the folder `named`, or the user's own, is.
    ///
    /// # Errors
    /// When nothing says where.
    pub fn path_of(named: Option<&Path>) -> Result<PathBuf, AppError> {
        match named {
            Some(path) => Ok(path.to_owned()),
            None => Ok(default_state_dir(is_root(), |name| std::env::var_os(name))?),
        }
    }

    /// The same for who changes nothing: a folder that cannot be used is what can be read of it, with a warning.
    pub fn open_to_look(named: Option<&Path>) -> Self {
        Self::open(named).unwrap_or_else(|error| {
            warn!("failed to {error}");
            let path = Self::path_of(named).unwrap_or_default();
            Self { store: Arc::new(read(&path)), path }
        })
    }
}

/// What can be read of the store in `folder`, in memory; an empty one where that is nothing.
fn read(folder: &Path) -> Store {
    if !folder.join(FILE_NAME).exists() {
        return Store::in_memory();
    }
    Store::copy_to_memory(folder).unwrap_or_else(|error| {
        warn!("failed to {error}; the work goes on as if nothing were quarantined");
        Store::in_memory()
    })
}

#[cfg(test)]
mod tests {
    use std::fs;

    use tempfile::TempDir;

    use super::*;
    use crate::store::sample::quarantined;

    /// With an entry in the store, which SQLite cannot open: it cannot make the file beside it, as on a full disk.
    fn blocked() -> TempDir {
        let folder = TempDir::new().expect("a folder");
        let store = Store::open(folder.path()).expect("a store");
        store.change_quarantine("apps", &[], &[quarantined("web", "b", 1)]).expect("written");
        drop(store);
        fs::create_dir(folder.path().join(format!("{FILE_NAME}-shm"))).expect("a folder");
        folder
    }

    #[test]
    fn who_only_looks_sees_what_is_in_a_folder_that_takes_nothing_new() {
        let folder = blocked();
        let state = StateFolder::open_to_look(Some(folder.path()));
        assert_eq!(state.path, folder.path());
        assert_eq!(state.store.quarantine("apps").expect("read"), [quarantined("web", "b", 1)]);
        StateFolder::open_to_change(Some(folder.path())).expect_err("a change would be lost");
    }

    #[test]
    fn a_folder_without_a_store_or_with_a_damaged_one_is_an_empty_one_to_who_only_looks() {
        let folder = TempDir::new().expect("a folder");
        let file = folder.path().join("state");
        fs::write(&file, "").expect("a file");
        assert_eq!(StateFolder::open_to_look(Some(&file)).store.all_quarantined().expect("read"), []);
        fs::write(folder.path().join(FILE_NAME), "this is a text file, and a long one at that").expect("a file");
        assert_eq!(StateFolder::open_to_look(Some(folder.path())).store.all_quarantined().expect("read"), []);
    }
}

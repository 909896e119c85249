//! Finds and opens the folder of what outlives a command. Takes no lock.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use tracing::{error, warn};

use super::AppError;
use crate::state_dir::{default_state_dir, is_root};
use crate::store::Store;

/// The state folder and the store in it.
#[derive(Debug, Clone)]
pub struct StateFolder {
    /// Where it is; for what is no row in the store.
    pub path: PathBuf,
    /// What is in it.
    pub store: Arc<Store>,
}

impl StateFolder {
    /// Opens the folder `named`, or the user's own. Where only the disk is full the work goes on, with a store that ends
    /// with the process.
    ///
    /// # Errors
    /// When nothing says where it is, or its store cannot be used.
    pub fn open(named: Option<&Path>) -> Result<Self, AppError> {
        let path = Self::path_of(named)?;
        let store = Store::open(&path).or_else(|error| {
            let is_full = error.is_disk_full();
            if is_full {
                error!("failed to {error}; nothing outlives this process until there is room and it is started again");
            }
            if is_full { Ok(Store::in_memory()) } else { Err(error) }
        });
        Ok(Self { path, store: Arc::new(store?) })
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

    /// The same for who changes nothing: a folder that cannot be used is an empty one, with a warning.
    pub fn open_to_look(named: Option<&Path>) -> Self {
        Self::open(named).unwrap_or_else(|error| {
            warn!("failed to {error}; the check goes on as if nothing were quarantined");
            Self { path: named.map(Path::to_owned).unwrap_or_default(), store: Arc::new(Store::in_memory()) }
        })
    }
}

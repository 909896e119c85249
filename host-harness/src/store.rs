//! Persistent data, in one SQLite file in the state folder.
//!
//! The store holds the state of the policies, the quarantine, the history, and for replacements the images that
//! containers were created from. It does not interpret these data. Calls block while SQLite reads or syncs a small
//! file.

mod copy;
mod guard;
mod history;
mod images;
mod policy_state;
mod quarantine;
mod schema;
pub mod state_dir;

use std::fs::{self, DirBuilder, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rusqlite::{Connection, ErrorCode, Transaction, TransactionBehavior};
use thiserror::Error;

pub use history::{HistoryEntry, HistoryQuery};

/// File name of the database in the state folder.
pub const FILE_NAME: &str = "imagewatch.db";

/// How long a call waits while another process writes.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);

/// Why the store cannot be used.
#[derive(Debug, Error)]
pub enum StoreError {
    /// The folder does not exist and cannot be created, or cannot be read.
    #[error("create the state folder {folder}: {source}; choose a writable folder with --state-dir")]
    Folder {
        /// The folder.
        folder: String,
        /// The operating system's error.
        source: io::Error,
    },
    /// Other users can write to the folder, and imagewatch cannot change that.
    #[error(
        "use the state folder {folder}: other users can write to it (mode {mode:o}); with --state-dir, choose a \
         folder that only imagewatch uses"
    )]
    Open {
        /// The folder.
        folder: String,
        /// Its permissions.
        mode: u32,
    },
    /// The file is not a database, or it is damaged.
    #[error(
        "read {file}: it is damaged or not an imagewatch database ({reason}); move it away to start with an \
         empty database, without seen or quarantined digests"
    )]
    Damaged {
        /// The file.
        file: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A newer version of imagewatch wrote the file.
    #[error(
        "read {file}: it has schema {found}, but this imagewatch supports schemas up to {known}; use the version \
         that wrote it, or move the file away"
    )]
    Newer {
        /// The file.
        file: String,
        /// The schema version of the file.
        found: u32,
        /// The newest schema version that this program supports.
        known: u32,
    },
    /// The operating system or SQLite refused: missing permissions, a full disk, or another process that writes for too
    /// long.
    #[error(
        "use {file}: {source}; check its permissions and the disk's free space, or name another folder with --state-dir"
    )]
    Refused {
        /// The file.
        file: String,
        /// SQLite's error.
        source: rusqlite::Error,
    },
}

/// The open database.
///
/// It has one connection, which one caller uses at a time. Other processes may use the file at the same time.
#[derive(Debug)]
pub struct Store {
    connection: Mutex<Connection>,
    /// The path, for errors.
    file: PathBuf,
}

impl StoreError {
    /// Whether the only problem is a full disk.
    pub fn is_disk_full(&self) -> bool {
        match self {
            Self::Folder { source, .. } => source.kind() == io::ErrorKind::StorageFull,
            // SystemIoFailure: SQLite reports it when it cannot create its extra files on a full disk.
            Self::Refused { source, .. } => {
                matches!(source.sqlite_error_code(), Some(ErrorCode::DiskFull | ErrorCode::SystemIoFailure))
            }
            Self::Open { .. } | Self::Damaged { .. } | Self::Newer { .. } => false,
        }
    }
}

impl Store {
    /// Opens the store in `folder`. Creates the folder and the file if they do not exist.
    ///
    /// Only the owner can access a folder that this function creates (mode 700). The file always gets mode 600.
    ///
    /// # Errors
    /// The folder cannot be created. Or the file is damaged, was written by a newer version, or cannot be written.
    pub fn open(folder: &Path) -> Result<Self, StoreError> {
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(folder)
            .map_err(|source| StoreError::Folder { folder: folder.display().to_string(), source })?;
        guard::close_to_others(folder)?;
        let file = folder.join(FILE_NAME);
        guard::check_files(&file)?;
        let connection = Connection::open(&file).map_err(|source| explain(&file, source))?;
        // An existing folder may be readable by others. SQLite gives its extra files the mode of the database. If the
        // mode cannot be changed, another user owns the file, and its mode is that user's decision.
        let _ = fs::set_permissions(&file, Permissions::from_mode(0o600));
        Self::prepare(connection, file)
    }

    /// Creates a store in memory, for tests and for commands without a writable folder.
    ///
    /// # Panics
    /// No memory is available.
    pub fn in_memory() -> Self {
        Connection::open_in_memory()
            .map_err(|source| explain(Path::new(":memory:"), source))
            .and_then(|connection| Self::prepare(connection, PathBuf::from(":memory:")))
            .expect("a database in memory needs nothing but memory")
    }

    /// The folder of the database file. Empty for a store in memory.
    pub fn folder(&self) -> &Path {
        self.file.parent().unwrap_or(&self.file)
    }

    fn prepare(mut connection: Connection, file: PathBuf) -> Result<Self, StoreError> {
        schema::prepare(&mut connection, BUSY_TIMEOUT).map_err(|unusable| match unusable {
            schema::Unusable::Newer(found) => StoreError::Newer { file: shown(&file), found, known: schema::newest() },
            schema::Unusable::Damaged(reason) => StoreError::Damaged { file: shown(&file), reason },
            schema::Unusable::Refused(source) => explain(&file, source),
        })?;
        Ok(Self { connection: Mutex::new(connection), file })
    }

    /// Runs `work` on the connection.
    fn read<T>(&self, work: impl FnOnce(&Connection) -> rusqlite::Result<T>) -> Result<T, StoreError> {
        work(&self.lock()).map_err(|source| explain(&self.file, source))
    }

    /// Runs `work` in a transaction. When this function returns, the transaction is on the disk.
    fn write<T>(&self, work: impl FnOnce(&Transaction<'_>) -> rusqlite::Result<T>) -> Result<T, StoreError> {
        let mut connection = self.lock();
        let written = connection
            // Take the write lock now. SQLite does not wait when a transaction upgrades its lock later.
            .transaction_with_behavior(TransactionBehavior::Immediate)
            .and_then(|transaction| {
                let result = work(&transaction)?;
                transaction.commit()?;
                Ok(result)
            });
        written.map_err(|source| explain(&self.file, source))
    }

    fn lock(&self) -> MutexGuard<'_, Connection> {
        // If a caller panicked in a transaction, dropping the transaction rolled it back.
        self.connection.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn shown(file: &Path) -> String {
    file.display().to_string()
}

fn explain(file: &Path, source: rusqlite::Error) -> StoreError {
    let file = shown(file);
    match source.sqlite_error_code() {
        Some(ErrorCode::NotADatabase | ErrorCode::DatabaseCorrupt) => {
            StoreError::Damaged { file, reason: source.to_string() }
        }
        // A column contains a value that this program does not write.
        None if matches!(source, rusqlite::Error::FromSqlConversionFailure(..)) => {
            StoreError::Damaged { file, reason: source.to_string() }
        }
        _ => StoreError::Refused { file, source },
    }
}

/// Converts a time to a column value. SQLite's integers are signed.
fn column_ms(ms: u64) -> i64 {
    i64::try_from(ms).unwrap_or(i64::MAX)
}

#[cfg(test)]
impl Store {
    /// Makes every write fail, as on a full disk, or allows writes again.
    pub(crate) fn set_read_only(&self, is_read_only: bool) {
        self.lock().pragma_update(None, "query_only", is_read_only).expect("a setting of the connection");
    }

    /// Prevents the file from growing, as on a full disk.
    fn fill_up(&self) {
        let connection = self.lock();
        let pages: u32 = connection.pragma_query_value(None, "page_count", |row| row.get(0)).expect("a number");
        connection.pragma_update(None, "max_page_count", pages).expect("a setting of the connection");
    }
}

#[cfg(test)]
pub(crate) mod sample;

#[cfg(test)]
mod tests;

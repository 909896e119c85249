//! What must outlive the process, in one SQLite file of the state folder: what policies remember, the digests
//! in quarantine, what happened, and for replacements the images that containers came from. Answers and
//! keeps; what any of it means is not its business. Calls block for as long as a small file takes to read or sync.

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

/// The database's name in the state folder.
pub const FILE_NAME: &str = "imagewatch.db";

/// How long a call waits for another process that is writing.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);

/// Why the store could not be used.
#[derive(Debug, Error)]
pub enum StoreError {
    /// The folder is not there and cannot be made.
    #[error("make the state folder {folder}: {source}; name one that can be written with --state-dir")]
    Folder {
        /// The folder.
        folder: String,
        /// The system's word.
        source: io::Error,
    },
    /// Others may write to the folder, and that cannot be changed.
    #[error(
        "use the state folder {folder}: other users may write to it (mode {mode:o}); name a folder that belongs to \
         imagewatch alone with --state-dir"
    )]
    Open {
        /// The folder.
        folder: String,
        /// Its permissions.
        mode: u32,
    },
    /// The file is no database, or damaged.
    #[error(
        "read {file}: it is damaged, or no database of imagewatch ({reason}); move it away to start with an \
         empty one, in which no digest is seen or quarantined"
    )]
    Damaged {
        /// The file.
        file: String,
        /// What was found.
        reason: String,
    },
    /// A newer version of this program wrote it.
    #[error(
        "read {file}: it has schema {found}, and this imagewatch knows {known} at most; use the version that \
         wrote it, or move the file away"
    )]
    Newer {
        /// The file.
        file: String,
        /// Its schema.
        found: u32,
        /// The newest that is known here.
        known: u32,
    },
    /// The system or SQLite refused: permissions, a full disk, another process for too long.
    #[error(
        "use {file}: {source}; check its permissions and the disk's free space, or name another folder with --state-dir"
    )]
    Refused {
        /// The file.
        file: String,
        /// SQLite's word.
        source: rusqlite::Error,
    },
}

/// The open database. One connection, used by one caller at a time; other processes may use the file meanwhile.
#[derive(Debug)]
pub struct Store {
    connection: Mutex<Connection>,
    /// For errors.
    file: PathBuf,
}

impl StoreError {
    /// Whether nothing is wrong but that the disk takes no more.
    pub fn is_disk_full(&self) -> bool {
        match self {
            Self::Folder { source, .. } => source.kind() == io::ErrorKind::StorageFull,
            // SQLite cannot make the files beside its own: what it then says has no code of its own.
            Self::Refused { source, .. } => {
                matches!(source.sqlite_error_code(), Some(ErrorCode::DiskFull | ErrorCode::SystemIoFailure))
            }
            Self::Open { .. } | Self::Damaged { .. } | Self::Newer { .. } => false,
        }
    }
}

impl Store {
    /// Opens the store in `folder`, both made where they are missing; a folder that is made belongs to its owner alone, and
    /// so does the file in any.
    ///
    /// # Errors
    /// When the folder cannot be made, or the file is damaged, from a newer version, or cannot be written.
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
        // A folder that was there may be open to others; the files beside the database get its mode. Where the mode cannot
        // be changed the file is somebody else's, who will know.
        let _ = fs::set_permissions(&file, Permissions::from_mode(0o600));
        Self::prepare(connection, file)
    }

    /// A store that ends with the process, for tests and for who has no folder to write to.
    ///
    /// # Panics
    /// When there is no memory for it.
    pub fn in_memory() -> Self {
        Connection::open_in_memory()
            .map_err(|source| explain(Path::new(":memory:"), source))
            .and_then(|connection| Self::prepare(connection, PathBuf::from(":memory:")))
            .expect("a database in memory needs nothing but memory")
    }

    /// The folder that it is in; empty for one in memory.
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

    /// Runs `work` in a transaction that is on the disk when this returns.
    fn write<T>(&self, work: impl FnOnce(&Transaction<'_>) -> rusqlite::Result<T>) -> Result<T, StoreError> {
        let mut connection = self.lock();
        let written = connection
            // Taken at once: a lock that is only raised later is refused without waiting.
            .transaction_with_behavior(TransactionBehavior::Immediate)
            .and_then(|transaction| {
                let result = work(&transaction)?;
                transaction.commit()?;
                Ok(result)
            });
        written.map_err(|source| explain(&self.file, source))
    }

    fn lock(&self) -> MutexGuard<'_, Connection> {
        // A transaction that a panic cut short was rolled back when it was dropped.
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
        // A column that holds something else than what this program writes.
        None if matches!(source, rusqlite::Error::FromSqlConversionFailure(..)) => {
            StoreError::Damaged { file, reason: source.to_string() }
        }
        _ => StoreError::Refused { file, source },
    }
}

/// What the clock says, as the columns hold it: SQLite's integers are signed.
fn column_ms(ms: u64) -> i64 {
    i64::try_from(ms).unwrap_or(i64::MAX)
}

#[cfg(test)]
impl Store {
    /// Lets every write fail, as on a full disk, or none.
    pub(crate) fn set_read_only(&self, is_read_only: bool) {
        self.lock().pragma_update(None, "query_only", is_read_only).expect("a setting of the connection");
    }

    /// Lets the file grow no further, as on a full disk.
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

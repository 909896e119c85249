//! Reads a store without writing anything. On a full disk, SQLite cannot create its extra files, so a normal open
//! fails.

use std::fs;
use std::path::{Path, absolute};

use rusqlite::backup::{Backup, StepResult};
use rusqlite::config::DbConfig;
use rusqlite::{Connection, OpenFlags, ffi};
use url::Url;

use super::{FILE_NAME, Store, StoreError, explain, guard};

impl Store {
    /// Copies the database in `folder` into a store in memory. Changes to the copy are never written back.
    ///
    /// # Errors
    /// The file does not exist, cannot be read, is damaged, or was written by a newer version.
    pub fn copy_to_memory(folder: &Path) -> Result<Self, StoreError> {
        let file = folder.join(FILE_NAME);
        guard::check_files(&file)?;
        let copied = copy(&file).map_err(|source| explain(&file, source))?;
        Self::prepare(copied, file)
    }
}

fn copy(file: &Path) -> rusqlite::Result<Connection> {
    let from = open(file)?;
    let mut to = Connection::open_in_memory()?;
    // Copy all pages in one step. If the file is busy, another process has it open, and a retry would not help.
    let ended = Backup::new(&from, &mut to)?.step(-1)?;
    match ended {
        StepResult::Done => Ok(to),
        _ => Err(rusqlite::Error::SqliteFailure(ffi::Error::new(ffi::SQLITE_BUSY), None)),
    }
}

/// Opens `file` without creating other files.
///
/// If a log (`-wal`) exists, the file is opened with an exclusive lock, because only then SQLite keeps the index of the
/// log in memory. Without a log, the file is complete and is opened as immutable.
fn open(file: &Path) -> rusqlite::Result<Connection> {
    let mut log = file.as_os_str().to_owned();
    log.push("-wal");
    if fs::metadata(log).is_ok_and(|log| log.len() > 0) {
        let connection = Connection::open_with_flags(file, OpenFlags::SQLITE_OPEN_READ_WRITE)?;
        // Do not merge the log into the database on close. The disk has no space for that.
        connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)?;
        connection.pragma_update_and_check(None, "locking_mode", "EXCLUSIVE", |_| Ok(()))?;
        return Ok(connection);
    }
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_URI;
    let url = absolute(file).ok().and_then(|file| Url::from_file_path(file).ok());
    let url = url.ok_or_else(|| rusqlite::Error::InvalidPath(file.to_owned()))?;
    Connection::open_with_flags(format!("{url}?immutable=1"), flags)
}

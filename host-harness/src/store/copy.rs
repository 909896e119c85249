//! Reads a store that cannot be opened, for a full disk takes not even the files that SQLite makes beside it. Writes
//! nothing.

use std::fs;
use std::path::{Path, absolute};

use rusqlite::backup::{Backup, StepResult};
use rusqlite::config::DbConfig;
use rusqlite::{Connection, OpenFlags, ffi};
use url::Url;

use super::{FILE_NAME, Store, StoreError, explain, guard};

impl Store {
    /// What is in `folder`, in a store that ends with the process and is never written back.
    ///
    /// # Errors
    /// When the file is not there or cannot be read, is damaged, or from a newer version.
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
    // All at once: what is busy now is another process's, which has the file open.
    let ended = Backup::new(&from, &mut to)?.step(-1)?;
    match ended {
        StepResult::Done => Ok(to),
        _ => Err(rusqlite::Error::SqliteFailure(ffi::Error::new(ffi::SQLITE_BUSY), None)),
    }
}

/// Opens `file` so that nothing is made beside it. The index of its log is kept in memory, which only who has the file
/// alone may do; where there is no log the file is complete, and is read as if it were on a disc.
fn open(file: &Path) -> rusqlite::Result<Connection> {
    let mut log = file.as_os_str().to_owned();
    log.push("-wal");
    if fs::metadata(log).is_ok_and(|log| log.len() > 0) {
        let connection = Connection::open_with_flags(file, OpenFlags::SQLITE_OPEN_READ_WRITE)?;
        // The log stays as it is, for there is no room to fold it in.
        connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)?;
        connection.pragma_update_and_check(None, "locking_mode", "EXCLUSIVE", |_| Ok(()))?;
        return Ok(connection);
    }
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_URI;
    let url = absolute(file).ok().and_then(|file| Url::from_file_path(file).ok());
    let url = url.ok_or_else(|| rusqlite::Error::InvalidPath(file.to_owned()))?;
    Connection::open_with_flags(format!("{url}?immutable=1"), flags)
}

//! The database schema, and the migration of older files: one SQL step for each version.

use std::time::Duration;

use rusqlite::{Connection, TransactionBehavior};

/// Step `n` migrates a file from version `n` to `n + 1`. SQLite's `user_version` holds the version of a file. Released
/// steps never change.
const STEPS: [&str; 5] = [
    // The entry is JSON, as defined by the ABI. The policy decides its content.
    "CREATE TABLE quarantine (
        manifest TEXT NOT NULL,
        target TEXT NOT NULL,
        digest TEXT NOT NULL,
        entry TEXT NOT NULL,
        PRIMARY KEY (manifest, target, digest)
    ) STRICT, WITHOUT ROWID;",
    "CREATE TABLE image_config (
        image_id TEXT NOT NULL PRIMARY KEY,
        config TEXT NOT NULL
    ) STRICT, WITHOUT ROWID;
    CREATE TABLE previous_image (
        repository TEXT NOT NULL,
        image_id TEXT NOT NULL,
        at_ms INTEGER NOT NULL,
        PRIMARY KEY (repository, image_id)
    ) STRICT, WITHOUT ROWID;",
    // The state is opaque JSON. An outcome is JSON as defined by the ABI.
    "CREATE TABLE policy_state (
        manifest TEXT NOT NULL PRIMARY KEY,
        state TEXT NOT NULL
    ) STRICT, WITHOUT ROWID;
    CREATE TABLE history (
        id INTEGER PRIMARY KEY,
        at_ms INTEGER NOT NULL,
        manifest TEXT NOT NULL,
        target TEXT NOT NULL,
        outcome TEXT NOT NULL
    ) STRICT;
    CREATE INDEX history_of_target ON history (manifest, target, id);",
    // This index finds the oldest events of a manifest.
    "CREATE INDEX history_of_manifest ON history (manifest, id);",
    // The images that imagewatch pulled. Some engines do not report the repository that an image was pulled from.
    "CREATE TABLE pulled_image (
        repository TEXT NOT NULL,
        image_id TEXT NOT NULL,
        PRIMARY KEY (repository, image_id)
    ) STRICT, WITHOUT ROWID;",
];

/// Why a file cannot be used.
#[derive(Debug)]
pub(super) enum Unusable {
    /// The file has this schema version, which is newer than this program supports.
    Newer(u32),
    /// The file is damaged. The text is the result of the check.
    Damaged(String),
    /// SQLite reported an error.
    Refused(rusqlite::Error),
}

impl From<rusqlite::Error> for Unusable {
    fn from(error: rusqlite::Error) -> Self {
        Self::Refused(error)
    }
}

/// The newest schema version.
pub(super) fn newest() -> u32 {
    u32::try_from(STEPS.len()).unwrap_or(u32::MAX)
}

/// Checks the file, sets the write modes, and migrates the file to the newest version.
pub(super) fn prepare(connection: &mut Connection, busy_timeout: Duration) -> Result<(), Unusable> {
    connection.busy_timeout(busy_timeout)?;
    // With WAL, readers and a writer do not block each other. With FULL, a commit is on the disk when it returns.
    connection.pragma_update_and_check(None, "journal_mode", "WAL", |_| Ok(()))?;
    connection.pragma_update(None, "synchronous", "FULL")?;
    let verdict: String = connection.pragma_query_value(None, "quick_check", |row| row.get(0))?;
    if verdict != "ok" {
        return Err(Unusable::Damaged(verdict));
    }
    // Two processes may open an old file at the same time. The second one finds the file already migrated.
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let version: i64 = transaction.pragma_query_value(None, "user_version", |row| row.get(0))?;
    let Ok(version) = u32::try_from(version) else {
        return Err(Unusable::Damaged(format!("its schema number is {version}, which no version writes")));
    };
    let done = usize::try_from(version).unwrap_or(usize::MAX);
    let Some(to_do) = STEPS.get(done..) else { return Err(Unusable::Newer(version)) };
    for step in to_do {
        transaction.execute_batch(step)?;
    }
    if !to_do.is_empty() {
        transaction.pragma_update(None, "user_version", newest())?;
    }
    Ok(transaction.commit()?)
}

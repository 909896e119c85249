//! The tables, and how a file of an older version gets them: one step of SQL for each version.
//! Knows nothing of what is in them.

use std::time::Duration;

use rusqlite::{Connection, TransactionBehavior};

/// Step `n` takes a file from version `n` to `n + 1`; SQLite's `user_version` says where a file stands. Steps
/// that were released are never changed.
const STEPS: [&str; 5] = [
    // The entry is JSON, as the boundary has it: what is in it is the policy's own.
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
    // The state is JSON, opaque; an outcome is JSON, as the boundary has it.
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
    // By which a manifest's oldest events are found.
    "CREATE INDEX history_of_manifest ON history (manifest, id);",
    // What this program pulled. Where an engine does not report it, nothing else says that an image came from there.
    "CREATE TABLE pulled_image (
        repository TEXT NOT NULL,
        image_id TEXT NOT NULL,
        PRIMARY KEY (repository, image_id)
    ) STRICT, WITHOUT ROWID;",
];

/// Why a file cannot be used.
#[derive(Debug)]
pub(super) enum Unusable {
    /// Its version, which is not known here.
    Newer(u32),
    /// What the check of the whole file says.
    Damaged(String),
    /// SQLite's word.
    Refused(rusqlite::Error),
}

impl From<rusqlite::Error> for Unusable {
    fn from(error: rusqlite::Error) -> Self {
        Self::Refused(error)
    }
}

/// The newest version.
pub(super) fn newest() -> u32 {
    u32::try_from(STEPS.len()).unwrap_or(u32::MAX)
}

/// Checks the file, sets how it is written, and takes it to the newest version.
pub(super) fn prepare(connection: &mut Connection, busy_timeout: Duration) -> Result<(), Unusable> {
    connection.busy_timeout(busy_timeout)?;
    // Readers and a writer do not wait for each other, and a commit is on the disk when it returns.
    connection.pragma_update_and_check(None, "journal_mode", "WAL", |_| Ok(()))?;
    connection.pragma_update(None, "synchronous", "FULL")?;
    let verdict: String = connection.pragma_query_value(None, "quick_check", |row| row.get(0))?;
    if verdict != "ok" {
        return Err(Unusable::Damaged(verdict));
    }
    // Two processes may open an old file at once: the second finds it done.
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

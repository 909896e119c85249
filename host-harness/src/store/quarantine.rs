//! The quarantined digests, by manifest. Policies add and remove entries. An operator clears them, possibly from
//! another process.

use std::collections::BTreeMap;

use imagewatch_abi::Quarantined;
use rusqlite::types::Type;
use rusqlite::{Connection, Row, params};

use super::{Store, StoreError};

impl Store {
    /// Returns the quarantine of `manifest`, sorted by target and digest.
    pub fn quarantine(&self, manifest: &str) -> Result<Vec<Quarantined>, StoreError> {
        self.read(|connection| {
            let sql = "SELECT entry FROM quarantine WHERE manifest = ?1 ORDER BY target, digest";
            connection.prepare_cached(sql)?.query_map([manifest], |row| entry(row, 0))?.collect()
        })
    }

    /// Applies the difference between `before` and `after` to the quarantine of `manifest`, in one transaction.
    ///
    /// It writes the entries that are new or changed in `after`, and deletes the entries that are only in `before`. It
    /// does not touch other entries. So an entry that an operator cleared in the meantime stays cleared, unless it
    /// changed.
    pub fn change_quarantine(
        &self,
        manifest: &str,
        before: &[Quarantined],
        after: &[Quarantined],
    ) -> Result<(), StoreError> {
        let before = by_key(before);
        let after = by_key(after);
        self.write(|transaction| {
            for (target, digest) in before.keys().filter(|key| !after.contains_key(*key)) {
                transaction.execute(DELETE, params![manifest, target, digest])?;
            }
            for ((target, digest), entry) in after.iter().filter(|(key, entry)| before.get(*key) != Some(*entry)) {
                let sql = "INSERT OR REPLACE INTO quarantine (manifest, target, digest, entry) VALUES (?1, ?2, ?3, ?4)";
                let json = serde_json::to_string(entry)
                    .map_err(|error| rusqlite::Error::ToSqlConversionFailure(Box::new(error)))?;
                transaction.execute(sql, params![manifest, target, digest, json])?;
            }
            Ok(())
        })
    }

    /// Returns the quarantine of all manifests, with the manifest's name, sorted by manifest, target and digest.
    pub fn all_quarantined(&self) -> Result<Vec<(String, Quarantined)>, StoreError> {
        self.read(list)
    }

    /// Removes the digests of `targets` from quarantine, or all digests if there are no targets, under `manifest` or under
    /// every manifest. Returns the removed entries.
    pub fn clear_quarantine(
        &self,
        manifest: Option<&str>,
        targets: &[String],
    ) -> Result<Vec<(String, Quarantined)>, StoreError> {
        self.write(|transaction| {
            let is_meant = |(name, entry): &(String, Quarantined)| {
                manifest.is_none_or(|manifest| manifest == name)
                    && (targets.is_empty() || targets.contains(&entry.target))
            };
            let cleared: Vec<_> = list(transaction)?.into_iter().filter(is_meant).collect();
            for (manifest, entry) in &cleared {
                transaction.execute(DELETE, params![manifest, entry.target, entry.digest.as_str()])?;
            }
            Ok(cleared)
        })
    }
}

const DELETE: &str = "DELETE FROM quarantine WHERE manifest = ?1 AND target = ?2 AND digest = ?3";

fn by_key(entries: &[Quarantined]) -> BTreeMap<(&str, &str), &Quarantined> {
    entries.iter().map(|entry| ((entry.target.as_str(), entry.digest.as_str()), entry)).collect()
}

fn list(connection: &Connection) -> rusqlite::Result<Vec<(String, Quarantined)>> {
    let sql = "SELECT manifest, entry FROM quarantine ORDER BY manifest, target, digest";
    connection.prepare_cached(sql)?.query_map([], |row| Ok((row.get(0)?, entry(row, 1)?)))?.collect()
}

fn entry(row: &Row<'_>, column: usize) -> rusqlite::Result<Quarantined> {
    let json: String = row.get(column)?;
    serde_json::from_str(&json)
        .map_err(|error| rusqlite::Error::FromSqlConversionFailure(column, Type::Text, Box::new(error)))
}

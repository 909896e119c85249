//! The state of the policies: one JSON value per manifest. Only the policy knows its structure and version.

use rusqlite::types::Type;
use rusqlite::{OptionalExtension, params};
use serde_json::Value;

use super::{Store, StoreError};

impl Store {
    /// Returns the last stored state of `manifest`'s policy, or `None` if no state is stored.
    pub fn policy_state(&self, manifest: &str) -> Result<Option<Value>, StoreError> {
        self.read(|connection| {
            let sql = "SELECT state FROM policy_state WHERE manifest = ?1";
            let parse = |row: &rusqlite::Row<'_>| {
                let json: String = row.get(0)?;
                serde_json::from_str(&json)
                    .map_err(|error| rusqlite::Error::FromSqlConversionFailure(0, Type::Text, Box::new(error)))
            };
            connection.prepare_cached(sql)?.query_row([manifest], parse).optional()
        })
    }

    /// Deletes the stored state of `manifest`'s policy. Returns whether a state was stored.
    pub fn forget_policy_state(&self, manifest: &str) -> Result<bool, StoreError> {
        self.write(|transaction| {
            let sql = "DELETE FROM policy_state WHERE manifest = ?1";
            transaction.execute(sql, [manifest]).map(|rows| rows > 0)
        })
    }

    /// Stores `state` for `manifest`'s policy, and replaces the previous state.
    pub fn keep_policy_state(&self, manifest: &str, state: &Value) -> Result<(), StoreError> {
        self.write(|transaction| {
            let sql = "INSERT OR REPLACE INTO policy_state (manifest, state) VALUES (?1, ?2)";
            transaction.execute(sql, params![manifest, state.to_string()]).map(drop)
        })
    }
}

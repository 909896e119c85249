//! The history: a bounded list of the events of each target. It is only for display; no decision depends on it.

use imagewatch_abi::Outcome;
use rusqlite::types::Type;
use rusqlite::{OptionalExtension, Row, Transaction, params};

use super::{Store, StoreError, column_ms};
use imagewatch_base::text::sanitize_line;

/// Maximum number of events per manifest. The oldest events are deleted first. The limit is per manifest, so that the
/// events of one policy do not replace those of another.
const KEPT: u16 = 10_000;

/// Maximum size of an event in bytes of JSON. It limits the disk space that a policy can use.
const MAX_EVENT_BYTES: usize = 8 * 1024;

/// Selects events of the history.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct HistoryQuery {
    /// Only events of this manifest.
    pub manifest: Option<String>,
    /// Only events of this target.
    pub target: Option<String>,
    /// Maximum number of events. The newest are returned.
    pub limit: u32,
}

/// An event of a target.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HistoryEntry {
    /// Time of the event, in milliseconds since 1970.
    pub at_ms: u64,
    /// The manifest's name.
    pub manifest: String,
    /// The outcome that the policy reported.
    pub outcome: Outcome,
}

impl Store {
    /// Adds `outcomes` of `manifest`.
    ///
    /// An outcome that equals the last one of its target is not added. Otherwise, a held digest would add an event at
    /// every poll.
    pub fn record_history(&self, manifest: &str, outcomes: &[&Outcome], at_ms: u64) -> Result<(), StoreError> {
        if outcomes.is_empty() {
            return Ok(());
        }
        self.write(|transaction| {
            // More than KEPT outcomes would be deleted again immediately.
            for outcome in &outcomes[outcomes.len().saturating_sub(KEPT.into())..] {
                let Some(json) = bounded(outcome)? else { continue };
                if last_of(transaction, manifest, &outcome.target)?.as_ref() != Some(&json) {
                    let sql = "INSERT INTO history (at_ms, manifest, target, outcome) VALUES (?1, ?2, ?3, ?4)";
                    transaction.execute(sql, params![column_ms(at_ms), manifest, outcome.target, json])?;
                }
            }
            let sql = "DELETE FROM history WHERE manifest = ?1 AND id <= (
                SELECT id FROM history WHERE manifest = ?1 ORDER BY id DESC LIMIT 1 OFFSET ?2)";
            transaction.prepare_cached(sql)?.execute(params![manifest, KEPT]).map(drop)
        })
    }

    /// Returns the events that `query` selects, newest first.
    pub fn history(&self, query: &HistoryQuery) -> Result<Vec<HistoryEntry>, StoreError> {
        self.read(|connection| {
            let sql = "SELECT at_ms, manifest, outcome FROM history
                WHERE (?1 IS NULL OR manifest = ?1) AND (?2 IS NULL OR target = ?2) ORDER BY id DESC LIMIT ?3";
            let mut statement = connection.prepare_cached(sql)?;
            statement.query_map(params![query.manifest, query.target, query.limit], entry)?.collect()
        })
    }
}

impl Store {
    /// Returns the manifest and target of every stored event, without duplicates, sorted.
    pub fn names_in_history(&self) -> Result<Vec<(String, String)>, StoreError> {
        self.read(|connection| {
            let sql = "SELECT DISTINCT manifest, target FROM history ORDER BY manifest, target";
            let mut statement = connection.prepare_cached(sql)?;
            statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?.collect()
        })
    }
}

/// The outcome as stored JSON. If it is too large, the reason is shortened. `None` if it is still too large.
fn bounded(outcome: &Outcome) -> rusqlite::Result<Option<String>> {
    let write = |outcome: &Outcome| {
        serde_json::to_string(outcome).map_err(|error| rusqlite::Error::ToSqlConversionFailure(Box::new(error)))
    };
    let json = write(outcome)?;
    if json.len() <= MAX_EVENT_BYTES {
        return Ok(Some(json));
    }
    let reason = outcome.reason.as_deref().map(sanitize_line);
    let json = write(&Outcome { reason, ..outcome.clone() })?;
    Ok((json.len() <= MAX_EVENT_BYTES).then_some(json))
}

fn last_of(transaction: &Transaction<'_>, manifest: &str, target: &str) -> rusqlite::Result<Option<String>> {
    let sql = "SELECT outcome FROM history WHERE manifest = ?1 AND target = ?2 ORDER BY id DESC LIMIT 1";
    transaction.prepare_cached(sql)?.query_row([manifest, target], |row| row.get(0)).optional()
}

fn entry(row: &Row<'_>) -> rusqlite::Result<HistoryEntry> {
    let json: String = row.get(2)?;
    let outcome = serde_json::from_str(&json)
        .map_err(|error| rusqlite::Error::FromSqlConversionFailure(2, Type::Text, Box::new(error)))?;
    let at_ms: i64 = row.get(0)?;
    Ok(HistoryEntry { at_ms: u64::try_from(at_ms).unwrap_or_default(), manifest: row.get(1)?, outcome })
}

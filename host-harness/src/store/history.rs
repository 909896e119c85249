//! What became of targets, in the order in which it happened, bounded. Nothing is decided by it.

use imagewatch_abi::Outcome;
use rusqlite::types::Type;
use rusqlite::{OptionalExtension, Row, Transaction, params};

use super::{Store, StoreError, column_ms};
use imagewatch_base::text::sanitize_line;

/// How many events are kept of each manifest; the oldest go first. What one policy says pushes out nothing of another's.
const KEPT: u16 = 10_000;

/// An event is a few lines. What a policy says more of one is not kept, for the disk is everybody's.
const MAX_EVENT_BYTES: usize = 8 * 1024;

/// Which events are asked for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct HistoryQuery {
    /// Of this manifest only.
    pub manifest: Option<String>,
    /// Of this target only.
    pub target: Option<String>,
    /// At most so many, the newest.
    pub limit: u32,
}

/// Something that happened to a target.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HistoryEntry {
    /// When, milliseconds since 1970.
    pub at_ms: u64,
    /// Under which manifest.
    pub manifest: String,
    /// What the policy said.
    pub outcome: Outcome,
}

impl Store {
    /// Adds `outcomes` of `manifest`. One that says the same as its target's last is left out: a digest that is
    /// held is held at every poll.
    pub fn record_history(&self, manifest: &str, outcomes: &[&Outcome], at_ms: u64) -> Result<(), StoreError> {
        if outcomes.is_empty() {
            return Ok(());
        }
        self.write(|transaction| {
            // What goes out again at once need not go in.
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

    /// What happened, newest first.
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
    /// Manifest and target of everything that ever happened and is kept.
    pub fn names_in_history(&self) -> Result<Vec<(String, String)>, StoreError> {
        self.read(|connection| {
            let sql = "SELECT DISTINCT manifest, target FROM history ORDER BY manifest, target";
            let mut statement = connection.prepare_cached(sql)?;
            statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?.collect()
        })
    }
}

/// As it is kept: with a shorter reason where it is too long, and not at all if that does not help.
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

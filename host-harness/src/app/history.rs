//! The command over what happened: needs the store, and neither manifests nor an engine.

use serde::Serialize;

use super::AppError;
use crate::admin::Event;
use crate::store::{HistoryEntry, HistoryQuery, Store};

/// What happened, newest first.
#[derive(Debug, Serialize)]
pub struct Happened {
    /// One for each change of a target.
    pub history: Vec<Event>,
}

/// What `query` asks for.
///
/// # Errors
/// When the store cannot be read.
pub fn list_history(store: &Store, query: &HistoryQuery) -> Result<Happened, AppError> {
    Ok(Happened { history: as_events(store.history(query)?) })
}

/// The store's entries as they are shown.
pub(super) fn as_events(entries: Vec<HistoryEntry>) -> Vec<Event> {
    let event = |HistoryEntry { at_ms, manifest, outcome }| Event { at_ms, manifest, outcome };
    entries.into_iter().map(event).collect()
}

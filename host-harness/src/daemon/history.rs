//! The command over what happened: needs the store, and neither manifests nor an engine.

use std::collections::BTreeSet;

use imagewatch_abi::label::distance;
use serde::Serialize;

use super::AppError;
use crate::daemon::status::Event;
use crate::store::{HistoryEntry, HistoryQuery, Store};

/// What happened, newest first.
#[derive(Debug, Serialize)]
pub struct HistoryList {
    /// One for each change of a target.
    pub history: Vec<Event>,
}

/// So many names that were meant perhaps are shown.
const MAX_SHOWN: usize = 5;

/// What `query` asks for.
///
/// # Errors
/// When it names a target or a manifest to which nothing ever happened, or the store cannot be read.
pub fn list_history(store: &Store, query: &HistoryQuery) -> Result<HistoryList, AppError> {
    let history = as_events(store.history(query)?);
    if history.is_empty() {
        explain_empty(query, &store.names_in_history()?)?;
    }
    Ok(HistoryList { history })
}

/// Why nothing was found, where it was asked for by name.
fn explain_empty(query: &HistoryQuery, names: &[(String, String)]) -> Result<(), AppError> {
    let manifests: BTreeSet<&str> = names.iter().map(|(manifest, _)| manifest.as_str()).collect();
    if let Some(manifest) = query.manifest.as_deref().filter(|manifest| !manifests.contains(manifest)) {
        let known = nearest(manifest, manifests);
        return Err(AppError::NoHistory(format!("manifest {manifest}: it is unknown; {known}")));
    }
    let is_meant = |manifest: &str| query.manifest.as_deref().is_none_or(|meant| meant == manifest);
    let targets = names.iter().filter(|(manifest, _)| is_meant(manifest)).map(|(_, target)| target.as_str()).collect();
    match &query.target {
        Some(target) => {
            Err(AppError::NoHistory(format!("{target}: it is an unknown target; {}", nearest(target, targets))))
        }
        None => Ok(()),
    }
}

/// The names in `known` that are most like `name`, as a message shows them.
fn nearest(name: &str, known: BTreeSet<&str>) -> String {
    let mut known: Vec<&str> = known.into_iter().collect();
    known.sort_by_key(|known| distance(name, known));
    known.truncate(MAX_SHOWN);
    match known.as_slice() {
        [] => "nothing has happened yet".to_owned(),
        known => format!("the nearest known are {}", known.join(", ")),
    }
}

/// The store's entries as they are shown.
pub(super) fn as_events(entries: Vec<HistoryEntry>) -> Vec<Event> {
    let event = |HistoryEntry { at_ms, manifest, outcome }| Event { at_ms, manifest, outcome };
    entries.into_iter().map(event).collect()
}

#[cfg(test)]
mod tests {
    use imagewatch_abi::{Outcome, Verdict};

    use super::*;

    fn query(manifest: Option<&str>, target: Option<&str>) -> HistoryQuery {
        HistoryQuery { manifest: manifest.map(str::to_owned), target: target.map(str::to_owned), limit: 50 }
    }

    /// First-use report 8.
    #[test]
    fn an_unknown_name_is_an_error_with_the_nearest_known_ones() {
        let store = Store::in_memory();
        for (manifest, target) in [("home", "web"), ("home", "database"), ("work", "mail")] {
            store.record_history(manifest, &[&Outcome::new(target, Verdict::Seeded)], 1).expect("written");
        }
        for (case, manifest, target, part) in [
            ("target", None, Some("wep"), "wep: it is an unknown target; the nearest known are web, "),
            ("target of another manifest", Some("home"), Some("mail"), "the nearest known are web, database"),
            ("manifest", Some("hom"), None, "manifest hom: it is unknown; the nearest known are home, work"),
            ("manifest and target", Some("hom"), Some("web"), "manifest hom: it is unknown"),
        ] {
            let error = list_history(&store, &query(manifest, target)).expect_err(case);
            assert!(matches!(error, AppError::NoHistory(_)), "{case}: {error}");
            assert!(error.to_string().contains(part), "{case}: {error}");
        }
        assert_eq!(list_history(&store, &query(Some("home"), Some("web"))).expect("known").history.len(), 1);
    }

    #[test]
    fn an_empty_history_is_no_error_unless_a_name_is_asked_for() {
        let store = Store::in_memory();
        assert_eq!(list_history(&store, &query(None, None)).expect("nothing").history.len(), 0);
        let error = list_history(&store, &query(None, Some("web"))).expect_err("unknown").to_string();
        assert!(error.contains("nothing has happened yet"), "{error}");
    }
}

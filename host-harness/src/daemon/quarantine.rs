//! The commands over what is in quarantine: need the store, and neither manifests nor an engine.

use imagewatch_abi::Quarantined;
use serde::Serialize;

use super::AppError;
use crate::daemon::status::QuarantinedDigest;
use crate::store::Store;

/// What is barred, or what was taken out.
#[derive(Debug, Serialize)]
pub struct QuarantineList {
    /// By manifest, target and digest.
    pub quarantine: Vec<QuarantinedDigest>,
}

/// What is barred under every manifest.
///
/// # Errors
/// When the store cannot be read.
pub fn list_quarantine(store: &Store) -> Result<QuarantineList, AppError> {
    Ok(QuarantineList { quarantine: name_manifests(store.all_quarantined()?) })
}

/// Removes the digests of `targets` from quarantine, or all digests if there are no targets, under `manifest` or under
/// every manifest.
///
/// # Errors
/// One of `targets` is not in quarantine there, or the store cannot be written. Then no digest is removed.
pub fn clear_quarantine(store: &Store, manifest: Option<&str>, targets: &[String]) -> Result<QuarantineList, AppError> {
    let all = store.all_quarantined()?;
    let is_there = |target: &&String| {
        all.iter().any(|(name, entry)| entry.target == **target && manifest.is_none_or(|manifest| manifest == name))
    };
    if let Some(unknown) = targets.iter().find(|target| !is_there(target)) {
        let mut known: Vec<String> = all.iter().map(|(name, entry)| format!("{} ({name})", entry.target)).collect();
        known.dedup();
        let known = if known.is_empty() { "nothing".to_owned() } else { known.join(", ") };
        let under = manifest.map(|manifest| format!(" under manifest {manifest}")).unwrap_or_default();
        return Err(AppError::NotBarred { target: unknown.clone(), under, known });
    }
    Ok(QuarantineList { quarantine: name_manifests(store.clear_quarantine(manifest, targets)?) })
}

/// The store's rows with their manifests named.
pub(super) fn name_manifests(rows: Vec<(String, Quarantined)>) -> Vec<QuarantinedDigest> {
    rows.into_iter().map(|(manifest, entry)| QuarantinedDigest { manifest, entry }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::sample::quarantined;

    fn owned(names: &[&str]) -> Vec<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    fn store() -> Store {
        let store = Store::in_memory();
        let apps = ["db", "web"].map(|target| quarantined(target, "b", 1));
        store.change_quarantine("apps", &[], &apps).expect("written");
        store.change_quarantine("more", &[], &[quarantined("web", "c", 1)]).expect("written");
        store
    }

    #[test]
    fn a_target_that_is_not_barred_is_an_error_that_lists_those_that_are_and_clears_nothing() {
        let store = store();
        for (manifest, targets) in [(None, ["web", "nobody"]), (Some("more"), ["web", "db"])] {
            let error = clear_quarantine(&store, manifest, &owned(&targets)).expect_err(targets[1]);
            assert!(matches!(error, AppError::NotBarred { .. }), "{error}");
            let text = error.to_string();
            assert!(text.contains(targets[1]) && text.contains("db (apps), web (apps), web (more)"), "{text}");
            assert_eq!(list_quarantine(&store).expect("read").quarantine.len(), 3);
        }
        let error = clear_quarantine(&Store::in_memory(), None, &owned(&["web"])).expect_err("empty").to_string();
        assert!(error.contains("in quarantine: nothing"), "{error}");
    }

    #[test]
    fn targets_are_cleared_by_name_under_one_manifest_or_all() {
        let store = store();
        let cleared = clear_quarantine(&store, Some("apps"), &owned(&["web"])).expect("it is there").quarantine;
        assert_eq!(cleared, [QuarantinedDigest { manifest: "apps".to_owned(), entry: quarantined("web", "b", 1) }]);
        assert_eq!(clear_quarantine(&store, None, &[]).expect("the rest").quarantine.len(), 2);
        assert_eq!(clear_quarantine(&store, None, &[]).expect("nothing is left").quarantine, []);
    }

    #[test]
    fn a_barred_digest_is_one_flat_object() {
        let listed = serde_json::to_value(list_quarantine(&store()).expect("read")).expect("JSON");
        let first = serde_json::json!({
            "manifest": "apps", "target": "db", "reference": "r.io/app:v1", "digest": format!("sha256:{}", "b".repeat(64)),
            "fault": "image", "reason": "db: exited with code 1", "count": 1, "first_ms": 1_000, "last_ms": 2_000
        });
        assert_eq!(listed["quarantine"][0], first);
    }
}

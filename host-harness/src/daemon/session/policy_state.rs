//! What one manifest's policy remembers between calls: read from the store once, when the policy begins, and
//! written whenever a call changed it. What cannot be written counts all the same, and is written as soon
//! as that works again. What it says is the policy's own.

use std::sync::Arc;

use serde_json::Value;
use tracing::{debug, error, info};

use crate::store::Store;
use imagewatch_policy::StateKeeping;

#[derive(Debug)]
pub(super) struct PolicyState {
    store: Arc<Store>,
    keeping: StateKeeping,
    manifest: String,
    state: Value,
    /// The store has it, as far as it is to be there.
    is_kept: bool,
    /// That the store does not take it was reported.
    is_reported: bool,
}

impl PolicyState {
    /// What the policy of `manifest` remembers in `store`, or nothing where it is to remember nothing.
    pub(super) fn new(store: Arc<Store>, manifest: &str, keeping: StateKeeping) -> Self {
        let stored = match keeping {
            StateKeeping::Memory => None,
            StateKeeping::Persisted => store.policy_state(manifest).unwrap_or_else(|error| {
                error!(manifest, "failed to {error}; the policy begins as if it had seen nothing");
                None
            }),
        };
        Self {
            store,
            keeping,
            manifest: manifest.to_owned(),
            state: stored.unwrap_or_default(),
            is_kept: true,
            is_reported: false,
        }
    }

    /// From the next write on it is kept, or no longer.
    pub(super) fn keep(&mut self, keeping: StateKeeping) {
        self.keeping = keeping;
    }

    pub(super) fn read(&self) -> Value {
        self.state.clone()
    }

    /// Takes over what a call gave back. Returns when it is on the disk, or cannot be.
    pub(super) fn write(&mut self, state: Value) {
        self.is_kept &= self.state == state;
        self.state = state;
        if self.keeping == StateKeeping::Memory || self.is_kept {
            return;
        }
        match self.store.keep_policy_state(&self.manifest, &self.state) {
            Ok(()) => {
                self.is_kept = true;
                if std::mem::take(&mut self.is_reported) {
                    info!(manifest = self.manifest, "what the policy has seen is written again");
                }
            }
            Err(error) if self.is_reported => debug!(manifest = self.manifest, "failed again to {error}"),
            Err(error) => {
                self.is_reported = true;
                error!(
                    manifest = self.manifest,
                    "failed to {error}; what the policy has seen counts until this process ends"
                );
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_new_process_knows_what_the_one_before_saw_unless_it_is_to_be_in_memory_only() {
        let store = Arc::new(Store::in_memory());
        let mut kept = PolicyState::new(store.clone(), "apps", StateKeeping::Persisted);
        assert_eq!(kept.read(), Value::Null);
        kept.write(json!({"version": 1}));
        assert_eq!(PolicyState::new(store.clone(), "apps", StateKeeping::Persisted).read(), json!({"version": 1}));
        assert_eq!(PolicyState::new(store.clone(), "others", StateKeeping::Persisted).read(), Value::Null);

        let mut lost = PolicyState::new(store.clone(), "apps", StateKeeping::Memory);
        assert_eq!(lost.read(), Value::Null);
        lost.write(json!({"version": 2}));
        assert_eq!(lost.read(), json!({"version": 2}));
        assert_eq!(store.policy_state("apps").expect("read"), Some(json!({"version": 1})));
    }

    #[test]
    fn what_cannot_be_written_counts_all_the_same_and_is_written_later() {
        let store = Arc::new(Store::in_memory());
        let mut kept = PolicyState::new(store.clone(), "apps", StateKeeping::Persisted);
        kept.write(json!(1));
        store.set_read_only(true);
        kept.write(json!(2));
        assert!(kept.is_reported, "s14: once, not at each poll");
        kept.write(json!(2));
        assert_eq!((kept.read(), store.policy_state("apps").expect("read")), (json!(2), Some(json!(1))));
        store.set_read_only(false);
        kept.write(json!(2));
        assert_eq!(store.policy_state("apps").expect("read"), Some(json!(2)));
        assert!(!kept.is_reported, "the next failure is another one");
    }
}

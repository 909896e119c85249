//! One manifest's quarantine between the policy's calls: read anew before each, since an operator may clear it
//! from another process, and written at once. While the store cannot be written, what should be in it
//! is kept here, and written as soon as that works again.

use std::sync::Arc;

use imagewatch_abi::Quarantined;
use tracing::error;

use crate::store::{Store, StoreError};
use crate::text::sanitize_line;

#[derive(Debug)]
pub(super) struct KeptQuarantine {
    store: Arc<Store>,
    manifest: String,
    /// As last read from the store or written to it.
    stored: Vec<Quarantined>,
    /// What counts; another list than `stored` only while that could not be written.
    current: Vec<Quarantined>,
}

impl KeptQuarantine {
    pub(super) fn new(store: Arc<Store>, manifest: &str) -> Self {
        Self { store, manifest: manifest.to_owned(), stored: Vec::new(), current: Vec::new() }
    }

    /// What is barred now.
    pub(super) fn read(&mut self) -> Vec<Quarantined> {
        self.save();
        if self.stored == self.current {
            match self.store.quarantine(&self.manifest) {
                Ok(list) => (self.stored, self.current) = (list.clone(), list),
                Err(error) => self.say(&error),
            }
        }
        self.current.clone()
    }

    /// Takes over what a call says is barred from now on; `None` is as it was.
    pub(super) fn write(&mut self, list: Option<Vec<Quarantined>>) {
        if let Some(mut list) = list {
            for barred in &mut list {
                (barred.target, barred.reason) = (sanitize_line(&barred.target), sanitize_line(&barred.reason));
            }
            self.current = list;
            self.save();
        }
    }

    fn save(&mut self) {
        if self.stored == self.current {
            return;
        }
        match self.store.change_quarantine(&self.manifest, &self.stored, &self.current) {
            Ok(()) => self.stored.clone_from(&self.current),
            Err(error) => self.say(&error),
        }
    }

    fn say(&self, error: &StoreError) {
        error!(manifest = self.manifest, "failed to {error}; what is quarantined counts until this process ends");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::sample::quarantined;

    fn kept(store: &Arc<Store>) -> KeptQuarantine {
        KeptQuarantine::new(store.clone(), "apps")
    }

    #[test]
    fn what_is_barred_is_in_the_store_at_once() {
        let store = Arc::new(Store::in_memory());
        let mut kept = kept(&store);
        assert_eq!(kept.read(), []);
        kept.write(Some(vec![quarantined("web", "b", 1)]));
        assert_eq!(store.quarantine("apps").expect("it can be read"), [quarantined("web", "b", 1)]);
        kept.write(None);
        assert_eq!(kept.read(), [quarantined("web", "b", 1)]);
    }

    #[test]
    fn what_an_operator_clears_while_a_call_runs_stays_cleared() {
        let store = Arc::new(Store::in_memory());
        let mut kept = kept(&store);
        kept.write(Some(vec![quarantined("db", "b", 1), quarantined("web", "b", 1)]));
        let mut list = kept.read();
        store.clear_quarantine(None, &["db".to_owned()]).expect("it can be written");
        list.push(quarantined("zoo", "b", 1));
        kept.write(Some(list));
        assert_eq!(kept.read(), [quarantined("web", "b", 1), quarantined("zoo", "b", 1)]);
    }

    #[test]
    fn what_cannot_be_written_counts_all_the_same_and_is_written_later() {
        let store = Arc::new(Store::in_memory());
        let mut kept = kept(&store);
        kept.write(Some(vec![quarantined("web", "b", 1)]));
        store.set_read_only(true);
        kept.write(Some(vec![quarantined("db", "b", 1), quarantined("web", "b", 2)]));
        assert_eq!(kept.read(), [quarantined("db", "b", 1), quarantined("web", "b", 2)]);
        assert_eq!(store.quarantine("apps").expect("it can be read"), [quarantined("web", "b", 1)]);
        store.set_read_only(false);
        assert_eq!(kept.read(), [quarantined("db", "b", 1), quarantined("web", "b", 2)]);
        assert_eq!(store.quarantine("apps").expect("it can be read"), kept.current);
    }
}

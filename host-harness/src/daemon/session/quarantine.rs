//! One manifest's quarantine between the policy's calls: read anew before each, since an operator may clear it
//! from another process, and written at once. While the store cannot be written, what should be in it
//! is kept here, and written as soon as that works again.

use std::sync::Arc;

use imagewatch_abi::Quarantined;
use tracing::{debug, error, info};

use crate::store::{Store, StoreError};
use imagewatch_base::text::sanitize_line;

#[derive(Debug)]
pub(super) struct QuarantineCache {
    store: Arc<Store>,
    manifest: String,
    /// As last read from the store or written to it.
    stored: Vec<Quarantined>,
    /// What counts; another list than `stored` only while that could not be written.
    current: Vec<Quarantined>,
    /// That the store does not work was reported.
    is_reported: bool,
}

impl QuarantineCache {
    pub(super) fn new(store: Arc<Store>, manifest: &str) -> Self {
        Self { store, manifest: manifest.to_owned(), stored: Vec::new(), current: Vec::new(), is_reported: false }
    }

    /// What is barred now.
    pub(super) fn read(&mut self) -> Vec<Quarantined> {
        self.save();
        if self.stored == self.current {
            let read = self.store.quarantine(&self.manifest);
            if let Some(list) = self.note(read) {
                (self.stored, self.current) = (list.clone(), list);
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
        let written = self.store.change_quarantine(&self.manifest, &self.stored, &self.current);
        if self.note(written).is_some() {
            self.stored.clone_from(&self.current);
        }
    }

    /// Reports a failure once, and again only after it worked: a full disk fails at each poll.
    fn note<T>(&mut self, result: Result<T, StoreError>) -> Option<T> {
        match result {
            Ok(value) => {
                if std::mem::take(&mut self.is_reported) {
                    info!(manifest = self.manifest, "what is quarantined is kept in the store again");
                }
                Some(value)
            }
            Err(error) if self.is_reported => {
                debug!(manifest = self.manifest, "failed again to {error}");
                None
            }
            Err(error) => {
                self.is_reported = true;
                error!(
                    manifest = self.manifest,
                    "failed to {error}; what is quarantined counts until this process ends"
                );
                None
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::sample::quarantined;

    fn kept(store: &Arc<Store>) -> QuarantineCache {
        QuarantineCache::new(store.clone(), "apps")
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
        assert!(kept.is_reported, "s14: once, not at each poll");
        assert_eq!(kept.read(), [quarantined("db", "b", 1), quarantined("web", "b", 2)]);
        assert_eq!(store.quarantine("apps").expect("it can be read"), [quarantined("web", "b", 1)]);
        store.set_read_only(false);
        assert_eq!(kept.read(), [quarantined("db", "b", 1), quarantined("web", "b", 2)]);
        assert_eq!(store.quarantine("apps").expect("it can be read"), kept.current);
        assert!(!kept.is_reported, "the next failure is another one");
    }
}

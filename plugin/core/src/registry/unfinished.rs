//! What a poll could not finish, because the host still waits for an answer: how far each query was, and what was found
//! in the same repository. The next poll goes on from there, so that a slow registry is never asked the same twice.
//! Kept in the cache. Takes no decision.

use std::collections::{BTreeMap, BTreeSet};

use imagewatch_abi::{Failure, FailureCode, Reference};
use serde::{Deserialize, Serialize};

use super::resolve::{Job, Lookup};

/// The tags of repositories, by [`Reference::name`].
pub(crate) type TagLists = BTreeMap<String, Result<Vec<String>, Failure>>;

/// Empty after a poll that decided on every target.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Unfinished {
    /// Queries that are not answered, by their name.
    jobs: BTreeMap<String, Job>,
    tags: TagLists,
    digests: BTreeMap<Reference, Lookup>,
    /// The repositories for which an answer is pending in this call.
    #[serde(skip)]
    waiting: BTreeSet<String>,
}

impl Unfinished {
    pub(crate) fn is_empty(&self) -> bool {
        self.jobs.is_empty() && self.tags.is_empty() && self.digests.is_empty()
    }

    /// Takes out how far the query of this name was in the last poll.
    pub(super) fn take_job(&mut self, name: &str) -> Job {
        self.jobs.remove(name).unwrap_or_default()
    }

    /// Takes out what the last poll found where it did not finish.
    pub(crate) fn take_found(&mut self) -> (TagLists, BTreeMap<Reference, Lookup>) {
        (std::mem::take(&mut self.tags), std::mem::take(&mut self.digests))
    }

    /// The query of this name, about `reference`, has no answer yet.
    pub(super) fn wait(&mut self, name: String, reference: &Reference, job: Job) {
        self.waiting.insert(reference.name());
        if job != Job::default() {
            self.jobs.insert(name, job);
        }
    }

    /// Whether something about the repository of `reference` has no answer yet: nothing of it is decided then.
    pub(crate) fn is_waiting(&self, reference: &Reference) -> bool {
        !self.waiting.is_empty() && self.waiting.contains(&reference.name())
    }

    /// Keeps what was found in repositories where an answer is pending, and nothing else.
    pub(crate) fn keep(&mut self, tags: TagLists, digests: BTreeMap<Reference, Lookup>) {
        if self.waiting.is_empty() {
            *self = Self::default();
            return;
        }
        (self.tags, self.digests) = (tags, digests);
        self.tags.retain(|name, list| self.waiting.contains(name) && !is_pending(list));
        self.digests.retain(|reference, lookup| self.waiting.contains(&reference.name()) && !is_pending(lookup));
    }
}

fn is_pending<T>(found: &Result<T, Failure>) -> bool {
    found.as_ref().is_err_and(|failure| failure.code == FailureCode::Pending)
}

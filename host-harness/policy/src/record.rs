//! What one manifest's policy has done wrong and how its loads went, since the program started: counted, and the last of
//! each told. Shared by who calls it, who does its effects, who loads it, and who shows it.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use serde::Serialize;

use super::fault::{Denied, FaultKind};
use super::instance::CallError;
use super::loader::LoadedPlugin;
use super::log_quota::LogQuota;
use imagewatch_base::clock::now_ms;
use imagewatch_base::text::{Untrusted, sanitize_line};

/// How a load ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum LoadResult {
    /// It is at work.
    Loaded,
    /// It was at work already.
    Unchanged,
    /// The one before, if any, goes on.
    Refused,
}

/// The record; filled as things happen.
#[derive(Debug, Default)]
pub struct Record {
    recorded: Mutex<Recorded>,
    /// The policy's log lines of the present minute.
    pub log_quota: LogQuota,
}

/// The policy at work.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Running {
    /// Its name and version.
    pub policy: Untrusted,
    /// The SHA-256 of its module, in lowercase hex.
    pub sha256: String,
    /// Since when, milliseconds since 1970.
    pub since_ms: u64,
}

/// What a [`Record`] holds.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Recorded {
    /// What is at work.
    pub running: Option<Running>,
    /// Calls that were ended or came to nothing.
    pub faults: BTreeMap<FaultKind, u64>,
    /// What was refused while a call went on.
    pub denied: BTreeMap<Denied, u64>,
    /// Loads, the first one included.
    pub loads: BTreeMap<LoadResult, u64>,
    /// The last fault.
    pub last_fault: Option<Noted>,
    /// The last refusal in a call.
    pub last_denied: Option<Noted>,
    /// Why the files as they are now are not what runs; none when they are.
    pub refused: Option<Noted>,
}

/// Something that happened.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Noted {
    /// Milliseconds since 1970.
    pub at_ms: u64,
    /// A fragment that reads after "failed to", or names what was refused; no secrets.
    pub reason: String,
}

fn noted(reason: &str) -> Noted {
    Noted { at_ms: now_ms(), reason: sanitize_line(reason) }
}

impl Record {
    /// A call came to nothing.
    pub fn fault(&self, fault: &CallError) {
        let mut inner = self.lock();
        *inner.faults.entry(fault.kind).or_default() += 1;
        inner.last_fault = Some(noted(&fault.to_string()));
    }

    /// Something was refused, `count` times.
    pub fn denied(&self, what: Denied, count: u64, message: &str) {
        let mut inner = self.lock();
        *inner.denied.entry(what).or_default() += count;
        inner.last_denied = Some(noted(message));
    }

    /// `plugin` is at work from now on; what was refused before is no more.
    pub fn loaded(&self, plugin: &LoadedPlugin) {
        let mut inner = self.lock();
        *inner.loads.entry(LoadResult::Loaded).or_default() += 1;
        inner.refused = None;
        let (policy, sha256) = (plugin.title(), plugin.info.sha256.clone());
        inner.running = Some(Running { policy, sha256, since_ms: now_ms() });
    }

    /// The files are those of what is at work.
    pub fn unchanged(&self) {
        let mut inner = self.lock();
        *inner.loads.entry(LoadResult::Unchanged).or_default() += 1;
        inner.refused = None;
    }

    /// A load was refused, and why.
    pub fn refused(&self, reason: &str) {
        let mut inner = self.lock();
        *inner.loads.entry(LoadResult::Refused).or_default() += 1;
        inner.refused = Some(noted(reason));
    }

    /// All of it, as it is now.
    pub fn read(&self) -> Recorded {
        self.lock().clone()
    }

    fn lock(&self) -> MutexGuard<'_, Recorded> {
        self.recorded.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

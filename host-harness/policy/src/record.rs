//! Statistics of one manifest's policy since the program started: faults, refusals and loads, with the last event of
//! each.
//!
//! The parts of the program that call, load and show the policy share one [`Record`].

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
    /// The policy was loaded and is in use.
    Loaded,
    /// The same policy was already in use.
    Unchanged,
    /// The policy was refused. The previous policy, if any, stays in use.
    Refused,
}

/// Collects the statistics of one policy.
#[derive(Debug, Default)]
pub struct Record {
    recorded: Mutex<PolicyStats>,
    /// Counts the policy's log lines of the current minute.
    pub log_quota: LogQuota,
}

/// The policy that is in use.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Running {
    /// The name and version of the policy.
    pub policy: Untrusted,
    /// The SHA-256 of its module, in lowercase hex.
    pub sha256: String,
    /// When it came into use, in milliseconds since 1970.
    pub since_ms: u64,
}

/// The statistics in a [`Record`].
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct PolicyStats {
    /// The policy in use, if any.
    pub running: Option<Running>,
    /// Number of calls that were aborted or failed, by kind.
    pub faults: BTreeMap<FaultKind, u64>,
    /// Number of refusals during calls, by kind.
    pub denied: BTreeMap<Denied, u64>,
    /// Number of loads by result, including the first load.
    pub loads: BTreeMap<LoadResult, u64>,
    /// The last fault.
    pub last_fault: Option<LastEvent>,
    /// The last refusal during a call.
    pub last_denied: Option<LastEvent>,
    /// Why the current files are not in use. `None` if they are in use.
    pub refused: Option<LastEvent>,
}

/// The last event of a kind.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct LastEvent {
    /// Time of the event, in milliseconds since 1970.
    pub at_ms: u64,
    /// A fragment that reads after "failed to", or that names what was refused. Contains no secrets.
    pub reason: String,
}

fn last_event(reason: &str) -> LastEvent {
    LastEvent { at_ms: now_ms(), reason: sanitize_line(reason) }
}

impl Record {
    /// Counts a call that was aborted or failed.
    pub fn fault(&self, fault: &CallError) {
        let mut inner = self.lock();
        *inner.faults.entry(fault.kind).or_default() += 1;
        inner.last_fault = Some(last_event(&fault.to_string()));
    }

    /// Counts `count` refusals of the kind `what`.
    pub fn denied(&self, what: Denied, count: u64, message: &str) {
        let mut inner = self.lock();
        *inner.denied.entry(what).or_default() += count;
        inner.last_denied = Some(last_event(message));
    }

    /// Records that `plugin` is in use from now on. Clears the last refused load.
    pub fn loaded(&self, plugin: &LoadedPlugin) {
        let mut inner = self.lock();
        *inner.loads.entry(LoadResult::Loaded).or_default() += 1;
        inner.refused = None;
        let (policy, sha256) = (plugin.title(), plugin.info.sha256.clone());
        inner.running = Some(Running { policy, sha256, since_ms: now_ms() });
    }

    /// Records a load that found the policy in use unchanged. Clears the last refused load.
    pub fn unchanged(&self) {
        let mut inner = self.lock();
        *inner.loads.entry(LoadResult::Unchanged).or_default() += 1;
        inner.refused = None;
    }

    /// Records a refused load with its reason.
    pub fn refused(&self, reason: &str) {
        let mut inner = self.lock();
        *inner.loads.entry(LoadResult::Refused).or_default() += 1;
        inner.refused = Some(last_event(reason));
    }

    /// Returns a copy of the current statistics.
    pub fn read(&self) -> PolicyStats {
        self.lock().clone()
    }

    fn lock(&self) -> MutexGuard<'_, PolicyStats> {
        self.recorded.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

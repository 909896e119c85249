//! What the admin API and the commands show of the program, and what they can ask of it.

use async_trait::async_trait;
use imagewatch_abi::{Outcome, Quarantined};
use imagewatch_policy::PolicyStats;
use serde::Serialize;

/// What the admin API can make happen, and ask.
#[async_trait]
pub trait Control: Send + Sync {
    /// Refreshes `runtime` of the workspaces manifest, or all of them, and waits for the result.
    /// When the client goes away the future is dropped; the refresh itself must go on.
    async fn refresh_workspaces(&self, runtime: Option<String>, recreate: bool) -> RefreshAnswer;

    /// The state of every manifest, loaded or not.
    fn readiness(&self) -> Vec<ManifestReadiness>;

    /// The policy of every manifest, loaded or not.
    fn plugins(&self) -> Vec<PluginStatus>;

    /// Loads the files of `manifest` again, and waits for that.
    async fn reload_plugin(&self, manifest: &str) -> ReloadAnswer;

    /// Puts the files of the policy before back, and loads them.
    async fn roll_back_plugin(&self, manifest: &str) -> RollbackAnswer;

    /// What the last poll of each manifest said of its targets.
    fn targets(&self) -> Vec<TargetStatus>;

    /// The digests in quarantine, under every manifest.
    ///
    /// # Errors
    /// Why they cannot be read, without secrets.
    fn quarantine(&self) -> Result<Vec<QuarantinedDigest>, String>;

    /// What happened to `target`, or to all, under `manifest` or under all: at most `limit` events, newest first.
    ///
    /// # Errors
    /// Why it cannot be told; no secrets.
    fn history(&self, target: Option<String>, manifest: Option<String>, limit: u32) -> Result<Vec<Event>, String>;

    /// Removes the digests of `target` from quarantine, under `manifest` or under every manifest, and returns them.
    ///
    /// # Errors
    /// Why no digest was removed, without secrets.
    fn clear_quarantine(&self, target: &str, manifest: Option<&str>) -> Result<Vec<QuarantinedDigest>, String>;
}

/// A digest in quarantine, for people and programs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct QuarantinedDigest {
    /// The name of the manifest whose policy barred it.
    pub manifest: String,
    /// What the policy says.
    #[serde(flatten)]
    pub entry: Quarantined,
}

/// What is known of a target, for people and programs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct TargetStatus {
    /// The time of the last successful poll, in milliseconds since 1970.
    pub at_ms: u64,
    /// The name of the manifest whose policy says so.
    pub manifest: String,
    /// What the policy said last.
    #[serde(flatten)]
    pub outcome: Outcome,
}

/// Something that happened to a target, for people and programs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Event {
    /// When, milliseconds since 1970.
    pub at_ms: u64,
    /// The name of the manifest whose policy says so.
    pub manifest: String,
    /// What the policy says.
    #[serde(flatten)]
    pub outcome: Outcome,
}

/// A manifest's policy, for people and programs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PluginStatus {
    /// The manifest's name.
    pub manifest: String,
    /// What is at work, what went wrong with it, and how its loads went.
    #[serde(flatten)]
    pub record: PolicyStats,
}

/// How a reload ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ReloadAnswer {
    /// Another policy or config is at work.
    Swapped {
        /// Its name and version.
        policy: String,
        /// The SHA-256 of its module, in lowercase hex.
        sha256: String,
    },
    /// The files are those of what is at work.
    Unchanged,
    /// The policy before, if any, goes on, and why; no secrets.
    Refused(String),
    /// There is no manifest of that name.
    NoSuchManifest,
}

/// How a roll-back ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RollbackAnswer {
    /// The files are back; what came of loading them.
    Done(ReloadAnswer),
    /// There is nothing to go back to, and why.
    NothingBefore(String),
    /// The files could not be written, and why.
    Failed(String),
    /// There is no manifest of that name.
    NoSuchManifest,
}

/// How a manual refresh ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RefreshAnswer {
    /// All the way through; single failures are in the result.
    Done(RefreshResult),
    /// The runtime is not one of `known`; nothing was touched.
    UnknownTarget {
        /// What could have been asked for.
        known: Vec<String>,
    },
    /// The whole refresh failed.
    Failed {
        /// Why; no secrets.
        error: String,
        /// What was done before it failed.
        partial: RefreshResult,
    },
    /// No manifest for workspaces is loaded.
    NoSuchManifest,
}

/// What a refresh did. Always the three arrays of the seed system, never null.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct RefreshResult {
    /// Runtimes whose image was pulled.
    pub pulled: Vec<String>,
    /// Runtimes whose image was not.
    pub failed: Vec<String>,
    /// Names of the containers that were handled.
    pub recreated: Vec<String>,
    /// Containers that were to be handled and were not, each with the reason. Left out when there are none, so that an
    /// answer without a failure is the seed system's.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub not_recreated: Vec<NotRecreated>,
}

/// A container that a refresh did not recreate.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct NotRecreated {
    /// Its name.
    pub container: String,
    /// Why, a lowercase fragment.
    pub reason: String,
}

/// Whether one manifest's policy is at work.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ManifestReadiness {
    /// The manifest's name.
    pub manifest: String,
    /// Why it is not ready; `None` when it is.
    pub not_ready: Option<String>,
}

//! The four exports of a plugin: what goes in and what comes out.
//!
//! `state` and `cache` are the policy's own and opaque to the host: the host keeps `state` across
//! calls (and restarts, if it can), `cache` in memory only, and gives both back by value.

use std::fmt;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{Digest, Failure, Fault, PullCause, Reference, Status};

/// What `describe` answers. When `err` is set the config cannot be used and the rest is a description of nothing.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct DescribeOutput {
    /// The policy's name.
    pub name: String,
    /// The policy's version.
    pub version: String,
    /// Always [`ABI_VERSION`](crate::ABI_VERSION) of the plugin's build.
    pub abi: u32,
    /// Every config key that the policy reads; a host rejects others.
    pub config_keys: Vec<ConfigKey>,
    /// Whether `poll` works with this config.
    #[serde(default)]
    pub enabled: bool,
    /// The usual time between two polls.
    #[serde(default)]
    pub interval_ms: u64,
    /// What is watched, as far as config names it; empty when containers on the engine decide.
    #[serde(default)]
    pub targets: Vec<DescribedTarget>,
    /// The target that stands for a workload that names none.
    #[serde(default)]
    pub default_target: Option<String>,
    /// What is wrong with the config.
    #[serde(default)]
    pub err: Option<Failure>,
}

/// One config key of a policy, for `plugin inspect` and docs/configuration.md.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct ConfigKey {
    /// As it stands in the manifest's `config`.
    pub key: String,
    /// Type and unit: `bool`, `duration`, `list`, …
    pub kind: String,
    /// What an absent key means.
    pub default: String,
    /// One sentence.
    pub doc: String,
}

/// A target that config names.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct DescribedTarget {
    /// Its name.
    pub name: String,
    /// Its reference.
    pub reference: Reference,
}

/// What `poll` takes. `Debug` leaves out state and cache: the cache holds tokens.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct PollInput {
    /// Milliseconds since 1970; the guest has no clock.
    pub now_ms: u64,
    /// From the last call, or null.
    #[serde(default)]
    pub state: Value,
    /// From the last call, or null.
    #[serde(default)]
    pub cache: Value,
    /// Names of the targets to look at; null means all.
    #[serde(default)]
    pub only: Option<Vec<String>>,
    /// Ids of the accepted orders that have not been reported. A pending order that is not
    /// among them was lost.
    #[serde(default)]
    pub in_flight: Vec<String>,
    /// What the poll is for.
    #[serde(default)]
    pub mode: PollMode,
    /// The digests that are barred.
    #[serde(default)]
    pub quarantine: Vec<Quarantined>,
}

impl fmt::Debug for PollInput {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PollInput")
            .field("now_ms", &self.now_ms)
            .field("only", &self.only)
            .field("in_flight", &self.in_flight)
            .field("mode", &self.mode)
            .finish_non_exhaustive()
    }
}

/// What a poll is for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum PollMode {
    /// Compare with what was seen, and order what moved.
    #[default]
    Watch,
    /// Compare with what the containers run; order nothing and change no state.
    Check,
}

/// What `poll` answers. `Debug` leaves out state and cache: the cache holds tokens.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct PollOutput {
    /// To be kept.
    pub state: Value,
    /// To be kept in memory only: it holds bearer tokens.
    pub cache: Value,
    /// Time until the next poll.
    pub next_poll_ms: u64,
    /// One for each target; in [`PollMode::Check`] one for each container of a target.
    pub outcomes: Vec<Outcome>,
    /// Names of the targets that are not decided, as an answer is pending; see
    /// [`FailureCode::Pending`](crate::FailureCode::Pending). Each has one outcome, `unknown`. The host polls them again,
    /// by [`PollInput::only`], when an answer has arrived. A host that never answers `pending` never sees one.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub pending: Vec<String>,
    /// Containers that the policy does not watch: all of them in [`PollMode::Check`], else only where it watches none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub not_watched: Vec<NotWatched>,
    /// The digests that are barred from now on; absent: those that were.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub quarantine: Option<Vec<Quarantined>>,
    /// Why the poll as a whole did not come off; the rest is then as it went in.
    #[serde(default)]
    pub err: Option<Failure>,
}

impl fmt::Debug for PollOutput {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PollOutput")
            .field("next_poll_ms", &self.next_poll_ms)
            .field("outcomes", &self.outcomes)
            .field("err", &self.err)
            .finish_non_exhaustive()
    }
}

/// A container that is not watched.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct NotWatched {
    /// Its name.
    pub container: String,
    /// The image that it was created from, as the engine has it.
    pub image: String,
    /// Why, a lowercase fragment: the same text for the same cause, so that containers can be counted by it.
    pub reason: String,
}

/// A digest that a policy holds back for a target, because it failed there or could not be fetched. The host keeps the
/// list, shows it, and takes an entry out when an operator says so; what it means is the policy's own.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Quarantined {
    /// The target's name.
    pub target: String,
    /// Its reference.
    pub reference: Reference,
    /// The digest that is barred.
    pub digest: Digest,
    /// Where the fault lies.
    pub fault: Fault,
    /// Why the image could not be fetched. Absent: it was fetched, and failed later.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cause: Option<PullCause>,
    /// What happened, a lowercase fragment.
    pub reason: String,
    /// How often it has failed since it last succeeded or the waits changed.
    pub count: u32,
    /// When it first failed, milliseconds since 1970.
    pub first_ms: u64,
    /// When it last failed.
    pub last_ms: u64,
    /// When it may be tried again; absent: when a newer digest comes, or an operator takes it out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until_ms: Option<u64>,
}

/// What became of a target in one call.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Outcome {
    /// The target's name.
    pub target: String,
    /// Its reference, unless that is what is wrong with it.
    #[serde(default)]
    pub reference: Option<Reference>,
    /// The tag that it leaves for the one in `reference`, when that is another.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<Reference>,
    /// In one word.
    pub verdict: Verdict,
    /// The digest before.
    #[serde(default)]
    pub previous: Option<Digest>,
    /// The digest that the registry has.
    #[serde(default)]
    pub digest: Option<Digest>,
    /// In words, where the verdict does not say it all.
    #[serde(default)]
    pub reason: Option<String>,
    /// Until when it is held or cannot be looked up, milliseconds since 1970, where that is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until_ms: Option<u64>,
    /// The order that was placed or ended.
    #[serde(default)]
    pub order: Option<String>,
    /// The container looked at, in [`PollMode::Check`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub container: Option<String>,
    /// The digest which that container runs, in [`PollMode::Check`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub running: Option<Digest>,
    /// Where the container or the target stands. Absent: the policy does not say, or the outcome is of an order that ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<Status>,
}

impl Outcome {
    /// An outcome that says no more than its verdict.
    pub fn new(target: &str, verdict: Verdict) -> Self {
        Self {
            target: target.to_owned(),
            reference: None,
            from: None,
            verdict,
            previous: None,
            digest: None,
            reason: None,
            until_ms: None,
            order: None,
            container: None,
            running: None,
            status: None,
        }
    }
}

/// [`Outcome`] in one word.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// First sight: recorded, nothing refreshed.
    Seeded,
    /// The registry has what was seen, or in a check what runs.
    Unchanged,
    /// The digest differs: ordered, or in a check due.
    Moved,
    /// A move that a gate keeps back; the reason says which.
    Held,
    /// An order for it is still running.
    Pending,
    /// Pinned by digest: it never moves.
    Pinned,
    /// No container uses it (check only).
    Unused,
    /// The look-up failed: nothing is known, nothing was changed.
    Unknown,
    /// An order ended and its digest is now the seen one.
    Committed,
    /// An order came to nothing: the previous digest stands and the next poll tries again.
    RolledBack,
    /// A manual refresh ended.
    Refreshed,
    /// A manual refresh came to nothing.
    Failed,
}

/// What `settle` takes.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct SettleInput {
    /// Milliseconds since 1970.
    pub now_ms: u64,
    /// From the last call.
    #[serde(default)]
    pub state: Value,
    /// Orders that ended since.
    #[serde(default)]
    pub reports: Vec<crate::Report>,
    /// The digests that are barred.
    #[serde(default)]
    pub quarantine: Vec<Quarantined>,
}

/// What `settle` answers.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct SettleOutput {
    /// To be kept.
    pub state: Value,
    /// One for each report.
    pub outcomes: Vec<Outcome>,
    /// The digests that are barred from now on; absent: those that were.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub quarantine: Option<Vec<Quarantined>>,
    /// Why nothing was settled; the state is then as it went in.
    #[serde(default)]
    pub err: Option<Failure>,
}

/// What `refresh` takes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct RefreshInput {
    /// Milliseconds since 1970.
    pub now_ms: u64,
    /// From the last call, or null.
    #[serde(default)]
    pub state: Value,
    /// Names of targets; null means all.
    #[serde(default)]
    pub targets: Option<Vec<String>>,
    /// Whether containers are handled; false: pull only.
    #[serde(default = "crate::docker::yes")]
    pub recreate: bool,
}

/// What `refresh` answers.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct RefreshOutput {
    /// To be kept.
    pub state: Value,
    /// Ids of the accepted orders, whose reports are to come.
    pub orders: Vec<String>,
    /// Targets that were not ordered, and orders that were done at once.
    pub outcomes: Vec<Outcome>,
    /// Names that may be asked for; filled when one was not known.
    #[serde(default)]
    pub known_targets: Vec<String>,
    /// Why nothing was ordered; the state is then as it went in.
    #[serde(default)]
    pub err: Option<Failure>,
}

/// What `host_log` takes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct LogLine {
    /// How loud.
    pub level: LogLevel,
    /// One line, no secrets.
    pub message: String,
}

/// Levels of [`LogLine`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum LogLevel {
    /// For those who look for a fault.
    Debug,
    /// What was noticed and ordered.
    Info,
    /// What failed and will be tried again.
    Warn,
}

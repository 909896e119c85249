//! The input and output of the four exports of a plugin.
//!
//! The policy owns `state` and `cache`; the host does not interpret them. The host keeps `state` across calls, and
//! across restarts if it can. It keeps `cache` in memory only. It passes both back by value.

use std::fmt;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{Digest, Failure, Fault, PullCause, Reference, Status};

/// The output of `describe`. If `err` is set, the config is not usable and the other fields have no meaning.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct DescribeOutput {
    /// The policy's name.
    pub name: String,
    /// The policy's version.
    pub version: String,
    /// The [`ABI_VERSION`](crate::ABI_VERSION) with which the plugin was built.
    pub abi: u32,
    /// Every config key that the policy reads. A host rejects all other keys.
    pub config_keys: Vec<ConfigKey>,
    /// Whether `poll` works with this config.
    #[serde(default)]
    pub enabled: bool,
    /// The usual time between two polls, in milliseconds.
    #[serde(default)]
    pub interval_ms: u64,
    /// The targets that the config names. Empty when the containers on the engine determine the targets.
    #[serde(default)]
    pub targets: Vec<DescribedTarget>,
    /// The target for a workload that names no target.
    #[serde(default)]
    pub default_target: Option<String>,
    /// Why the config is not usable.
    #[serde(default)]
    pub err: Option<Failure>,
}

/// One config key of a policy, for `plugin inspect` and docs/configuration.md.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct ConfigKey {
    /// The key in the `config` section of the manifest.
    pub key: String,
    /// Type and unit: `bool`, `duration`, `list`, …
    pub kind: String,
    /// The value that applies when the key is absent.
    pub default: String,
    /// A description in one sentence.
    pub doc: String,
}

/// A target that the config names.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct DescribedTarget {
    /// The target's name.
    pub name: String,
    /// The target's image reference.
    pub reference: Reference,
}

/// The input of `poll`. `Debug` omits state and cache, because the cache holds tokens.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct PollInput {
    /// The current time in milliseconds since 1970. The guest has no clock.
    pub now_ms: u64,
    /// The state from the last call, or null.
    #[serde(default)]
    pub state: Value,
    /// The cache from the last call, or null.
    #[serde(default)]
    pub cache: Value,
    /// The names of the targets to check. Null means all targets.
    #[serde(default)]
    pub only: Option<Vec<String>>,
    /// The ids of the accepted orders that are not reported yet. A pending order that is missing from this list was
    /// lost.
    #[serde(default)]
    pub in_flight: Vec<String>,
    /// The purpose of the poll.
    #[serde(default)]
    pub mode: PollMode,
    /// The digests that are quarantined.
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

/// The purpose of a poll.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum PollMode {
    /// Compare the registry with the recorded digests, and order an update for each digest that moved.
    #[default]
    Watch,
    /// Compare the registry with what the containers run. Places no orders and changes no state.
    Check,
}

/// The output of `poll`. `Debug` omits state and cache, because the cache holds tokens.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct PollOutput {
    /// The new state, which the host keeps.
    pub state: Value,
    /// The new cache. The host keeps it in memory only, because it holds bearer tokens.
    pub cache: Value,
    /// The time until the next poll, in milliseconds.
    pub next_poll_ms: u64,
    /// One outcome for each target. In [`PollMode::Check`], one outcome for each container of a target.
    pub outcomes: Vec<Outcome>,
    /// The names of the targets that are undecided because an answer is pending; see
    /// [`FailureCode::Pending`](crate::FailureCode::Pending). Each of them has one outcome, `unknown`. When an answer
    /// has arrived, the host polls these targets again with [`PollInput::only`]. The list stays empty under a host that
    /// never answers `pending`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub pending: Vec<String>,
    /// The containers that the policy does not watch. [`PollMode::Check`] lists all of them. [`PollMode::Watch`] lists
    /// them only if the policy watches no container.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub not_watched: Vec<NotWatched>,
    /// The new list of quarantined digests. Absent: the list does not change.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub quarantine: Option<Vec<Quarantined>>,
    /// Why the whole poll failed. The state is then unchanged.
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
    /// The container's name.
    pub container: String,
    /// The image from which the container was created, as the engine shows it.
    pub image: String,
    /// Why it is not watched, as a lowercase fragment. The same cause always gives the same text, so that containers
    /// can be counted by reason.
    pub reason: String,
}

/// A digest that a policy quarantines for a target, because it failed there or could not be fetched. The host stores
/// the list, shows it, and removes an entry when an operator asks for that. Only the policy interprets the entries.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Quarantined {
    /// The target's name.
    pub target: String,
    /// The target's image reference.
    pub reference: Reference,
    /// The quarantined digest.
    pub digest: Digest,
    /// The cause of the failure.
    pub fault: Fault,
    /// Why the image could not be fetched. Absent: the image was fetched and failed later.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cause: Option<PullCause>,
    /// What happened, as a lowercase fragment.
    pub reason: String,
    /// How often the digest failed since it last succeeded or since the waits changed.
    pub count: u32,
    /// The time of the first failure, in milliseconds since 1970.
    pub first_ms: u64,
    /// The time of the last failure, in milliseconds since 1970.
    pub last_ms: u64,
    /// When the digest may be tried again, in milliseconds since 1970. Absent: it stays in quarantine until a newer
    /// digest appears or an operator removes the entry.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until_ms: Option<u64>,
}

/// The result of one call for one target.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Outcome {
    /// The target's name.
    pub target: String,
    /// The target's image reference. Absent if the reference itself is invalid.
    #[serde(default)]
    pub reference: Option<Reference>,
    /// The current tag of the target, if `reference` names another tag as the next one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<Reference>,
    /// The result in one word.
    pub verdict: Verdict,
    /// The digest before the move.
    #[serde(default)]
    pub previous: Option<Digest>,
    /// The digest that the registry has.
    #[serde(default)]
    pub digest: Option<Digest>,
    /// An explanation, if the verdict alone does not say everything.
    #[serde(default)]
    pub reason: Option<String>,
    /// When the hold or the failed look-up ends, in milliseconds since 1970, if that is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until_ms: Option<u64>,
    /// The id of the order that was placed or that ended.
    #[serde(default)]
    pub order: Option<String>,
    /// The container that was compared, in [`PollMode::Check`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub container: Option<String>,
    /// The digest that this container runs, in [`PollMode::Check`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub running: Option<Digest>,
    /// The current status of the container or the target. Absent: the policy does not report it, or the outcome belongs
    /// to an order that ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<Status>,
}

impl Outcome {
    /// An outcome with nothing but a target and a verdict.
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
    /// First contact: the digest is recorded, and nothing is refreshed.
    Seeded,
    /// The registry has the recorded digest or, in a check, the digest that the container runs.
    Unchanged,
    /// The digest differs. An order was placed or, in a check, an update is due.
    Moved,
    /// A gate holds a move. The reason names the gate.
    Held,
    /// An order for the target is still running.
    Pending,
    /// The reference is pinned by digest, so it never moves.
    Pinned,
    /// No container uses the target (check only).
    Unused,
    /// The look-up failed: the digest is unknown, and nothing was changed.
    Unknown,
    /// An order succeeded, and its digest is now the recorded one.
    Committed,
    /// An order failed. The previous digest stays recorded, and the next poll tries again.
    RolledBack,
    /// A manual refresh succeeded.
    Refreshed,
    /// A manual refresh failed.
    Failed,
}

/// The input of `settle`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct SettleInput {
    /// The current time in milliseconds since 1970.
    pub now_ms: u64,
    /// The state from the last call.
    #[serde(default)]
    pub state: Value,
    /// The reports of the orders that ended since the last call.
    #[serde(default)]
    pub reports: Vec<crate::Report>,
    /// The digests that are quarantined.
    #[serde(default)]
    pub quarantine: Vec<Quarantined>,
}

/// The output of `settle`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct SettleOutput {
    /// The new state, which the host keeps.
    pub state: Value,
    /// One outcome for each report.
    pub outcomes: Vec<Outcome>,
    /// The new list of quarantined digests. Absent: the list does not change.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub quarantine: Option<Vec<Quarantined>>,
    /// Why no report was processed. The state is then unchanged.
    #[serde(default)]
    pub err: Option<Failure>,
}

/// The input of `refresh`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct RefreshInput {
    /// The current time in milliseconds since 1970.
    pub now_ms: u64,
    /// The state from the last call, or null.
    #[serde(default)]
    pub state: Value,
    /// The names of the targets to refresh. Null means all targets.
    #[serde(default)]
    pub targets: Option<Vec<String>>,
    /// Whether containers are recreated. If false, images are only pulled.
    #[serde(default = "crate::docker::yes")]
    pub recreate: bool,
}

/// The output of `refresh`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct RefreshOutput {
    /// The new state, which the host keeps.
    pub state: Value,
    /// The ids of the accepted orders. Their reports follow.
    pub orders: Vec<String>,
    /// The outcomes of targets without an order, and of orders that are already complete.
    pub outcomes: Vec<Outcome>,
    /// The names of all targets. Filled in when the input names an unknown target.
    #[serde(default)]
    pub known_targets: Vec<String>,
    /// Why nothing was ordered. The state is then unchanged.
    #[serde(default)]
    pub err: Option<Failure>,
}

/// The input of `host_log`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct LogLine {
    /// The severity of the message.
    pub level: LogLevel,
    /// One line of text. It contains no secrets.
    pub message: String,
}

/// The severity of a [`LogLine`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum LogLevel {
    /// Details for troubleshooting.
    Debug,
    /// Something that the policy noticed or ordered.
    Info,
    /// Something that failed and will be tried again.
    Warn,
}

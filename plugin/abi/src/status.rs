//! The current status of a container. `check`, `run`, the admin API, the history and the log all show this status.

use std::fmt;

use serde::{Deserialize, Serialize};

/// What applies to a container now, why, and until when. A policy computes it, and the host only shows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Status {
    /// The status in one word.
    pub kind: StatusKind,
    /// Why, as a lowercase fragment. Absent if the word alone says everything.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// The time until which nothing changes, in milliseconds since 1970. Absent if it is not known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until_ms: Option<u64>,
}

impl Status {
    /// A status with a reason.
    pub fn new(kind: StatusKind, reason: impl Into<String>) -> Self {
        Self { kind, reason: Some(reason.into()), until_ms: None }
    }
}

/// [`Status`] in one word.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum StatusKind {
    /// The container runs the image that its tag points to.
    UpToDate,
    /// The container is outdated, and the next poll places an order that updates it.
    UpdateAvailable,
    /// An order for the container is running.
    Updating,
    /// The container is outdated, and the update waits. The reason says for what.
    Held,
    /// The container is outdated or cannot be compared. imagewatch does not update it until somebody changes a label,
    /// the strategy, or the setting that the host refuses.
    Blocked,
    /// The last update failed and is held. The container runs as before.
    FailedAndRestored,
    /// The image was built or loaded on this machine, so no registry has a newer one.
    Local,
    /// The reference contains a digest, so it never changes.
    Pinned,
    /// No label or config selects the container, or a label excludes it.
    NotWatched,
    /// The status cannot be determined.
    #[serde(other)]
    Unknown,
}

impl fmt::Display for StatusKind {
    /// The text for messages and tables.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::UpToDate => "up to date",
            Self::UpdateAvailable => "update available",
            Self::Updating => "updating",
            Self::Held => "held",
            Self::Blocked => "blocked",
            Self::FailedAndRestored => "failed and restored",
            Self::Local => "local",
            Self::Pinned => "pinned",
            Self::NotWatched => "not watched",
            Self::Unknown => "unknown",
        })
    }
}

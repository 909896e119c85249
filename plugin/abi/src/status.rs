//! Where a container stands: the one answer that `check`, `run`, the admin API, the history and the log show.

use std::fmt;

use serde::{Deserialize, Serialize};

/// What is true of a container now, why, and until when. A policy computes it; a host only shows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Status {
    /// In one word.
    pub kind: StatusKind,
    /// Why, a lowercase fragment, where the word does not say it all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Until when nothing changes by itself, milliseconds since 1970, where that is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until_ms: Option<u64>,
}

impl Status {
    /// A status with its reason.
    pub fn new(kind: StatusKind, reason: impl Into<String>) -> Self {
        Self { kind, reason: Some(reason.into()), until_ms: None }
    }
}

/// [`Status`] in one word.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum StatusKind {
    /// It runs what its tag points to.
    UpToDate,
    /// It is behind, and the next poll places an order that updates it.
    UpdateAvailable,
    /// An order for it is under way.
    Updating,
    /// It is behind, and waits: the reason says for what.
    Held,
    /// It is behind or cannot be compared, and imagewatch does not update it until somebody changes something: a label,
    /// the strategy, or what the host refuses.
    Blocked,
    /// Its last update failed and is held back; the container runs as before.
    FailedAndRestored,
    /// Its image was built or loaded on this machine: no registry has a newer one.
    Local,
    /// Its reference names a digest: it never changes.
    Pinned,
    /// Nobody asked to have it watched, or somebody asked not to.
    NotWatched,
    /// It cannot be told.
    #[serde(other)]
    Unknown,
}

impl fmt::Display for StatusKind {
    /// As people read it.
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

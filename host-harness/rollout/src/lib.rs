//! Replacing containers by ones on a newer image, so that an update either succeeds or leaves exactly what was
//! there, whatever fails and whenever this program dies. Decides nothing about whether to.
//!
//! `survey` finds out what is there and who goes with whom, `plan` makes the create calls, `transaction` carries the
//! swap out, `refusal`, `connection` and `blocked` say what is never replaced, `health` says whether the new one may stay, `ending` goes forwards or back, and `recovery` ends what a
//! dead program left. `handover` and `helper` are for the container that this program itself runs in. `facts` is the journal of record, in labels; `journal` is the one on disk.

pub mod blocked;
mod commit;
pub mod connection;
pub mod ending;
pub mod facts;
pub mod handover;
pub mod health;
pub mod helper;
mod hooks;
pub mod image_records;
pub mod images;
pub mod journal;
pub mod labels;
pub mod locks;
pub mod order;
pub mod orders;
pub mod plan;
pub mod recovery;
mod refusal;
pub mod setback;
pub mod survey;
pub mod systemd;
pub mod transaction;
pub mod turns;

use std::fmt;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use imagewatch_abi::{ContainerFailure, Report, Strategy};

use crate::turns::Turn;
use imagewatch_engine::{Engine, EngineError};

use ending::Transaction;
use facts::Origin;
use image_records::ImageRecords;
use images::KnownImages;
use journal::{Journal, Record};
use locks::ContainerLocks;
use setback::Setback;

pub use facts::is_working_name;

/// What replacements are carried out with; one for each engine.
pub struct Replacer {
    /// The engine.
    pub engine: Arc<dyn Engine>,
    /// The journal on disk.
    pub journal: Arc<Journal>,
    /// What is remembered of images.
    pub images: KnownImages,
    /// One lock for each container.
    pub locks: ContainerLocks,
    /// The container that this program runs in.
    pub own_id: Option<String>,
    /// Of transactions that were ended for somebody else, with the manifest's name.
    reports: Mutex<Vec<(String, Report)>>,
    /// Failures that the policy has not taken yet: who dies now must still know tomorrow.
    unsettled: Mutex<Vec<Unsettled>>,
}

/// A failure that is written down.
struct Unsettled {
    origin: Origin,
    container: String,
    record: Record,
}

impl fmt::Debug for Replacer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Replacer").field("engine", &self.engine).field("own_id", &self.own_id).finish_non_exhaustive()
    }
}

impl Replacer {
    /// A replacer that remembers images in `records`, in a program that runs in the container `own_id`, if in any.
    pub fn new(
        engine: Arc<dyn Engine>,
        journal: Journal,
        records: Arc<dyn ImageRecords>,
        own_id: Option<String>,
    ) -> Self {
        Self {
            engine,
            journal: Arc::new(journal),
            images: KnownImages::new(records),
            locks: ContainerLocks::default(),
            own_id,
            reports: Mutex::default(),
            unsettled: Mutex::default(),
        }
    }
}

/// The image that a container is to run.
#[derive(Debug, Clone, Copy)]
pub struct NewImage<'a> {
    /// The engine's id of it; a new container that runs another one is not used.
    pub id: &'a str,
    /// The reference that the new container is created from; absent: the old one's.
    pub reference: Option<&'a str>,
    /// The platform to create for, `os/arch[/variant]`; absent: none is named.
    pub platform: Option<&'a str>,
}

/// One replacement that is asked for.
#[derive(Debug)]
pub struct Job<'a> {
    /// The new image.
    pub image: NewImage<'a>,
    /// [`Strategy::Replace`] or [`Strategy::StartFirst`].
    pub strategy: Strategy,
    /// How long a container without a health check must stay up.
    pub stable_for: Duration,
    /// The names of containers that come to run the image together with it, one after the other, or not at all.
    pub members: Vec<String>,
    /// On whose behalf.
    pub origin: Origin,
    /// A turn among those that work at the same time; given back while the new container is only watched.
    pub turn: Option<Turn>,
}

/// The new container has the old one's name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Replaced {
    /// Its id.
    pub new_id: String,
    /// The names of all that were made again: its own, and of those that cannot live without it.
    pub containers: Vec<String>,
}

/// Why a container was not replaced.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{reason}")]
pub struct ReplaceError {
    /// A lowercase fragment that names the failed step and what became of the old container.
    pub reason: String,
    /// The old container had been taken down, and is back under its name and in its state. False also
    /// when it had not been touched, which the reason then says.
    pub is_restored: bool,
    /// A container that was taken down is not back yet.
    pub is_down: bool,
    /// What did not come off.
    pub setback: Setback,
}

impl ReplaceError {
    fn untouched(setback: Setback) -> Self {
        let reason = format!("{}; the container was not touched", setback.reason);
        Self { reason, is_restored: false, is_down: false, setback }
    }

    /// The program was asked to end in the middle.
    pub fn interrupted() -> Self {
        let reason = "asked to stop in the middle; begun again with the next start".to_owned();
        let setback = Setback { reason: reason.clone(), fault: None, is_engine_away: false, log: Vec::new() };
        Self { reason, is_restored: false, is_down: true, setback }
    }

    fn restored(setback: Setback, problems: &[String]) -> Self {
        let is_restored = problems.is_empty();
        let after = if is_restored { "the old container is back".to_owned() } else { problems.join("; ") };
        Self { reason: format!("{}; {after}", setback.reason), is_restored, is_down: !is_restored, setback }
    }

    fn unfinished(setback: Setback, error: &EngineError, transaction: &Transaction) -> Self {
        let part = &transaction.root().part;
        let reason = format!(
            "{}; the old container could not be brought back yet ({error}); tried again with the next poll, or look for {} or {}",
            setback.reason,
            part.name,
            part.aside_name(&transaction.id)
        );
        let setback = Setback { is_engine_away: setback.is_engine_away || error.is_unavailable(), ..setback };
        Self { reason, is_restored: false, is_down: true, setback }
    }
}

impl Setback {
    /// As a report has it.
    pub fn as_failure(&self, container: &str) -> ContainerFailure {
        ContainerFailure {
            container: container.to_owned(),
            reason: self.reason.clone(),
            fault: self.fault,
            log: self.log.clone(),
        }
    }
}

#[cfg(test)]
mod tests;

//! Replacing containers by ones on a newer image, so that an update either succeeds or leaves exactly what was
//! there, whatever fails and whenever this program dies. Decides nothing about whether to.
//!
//! `survey` finds out what is there and who goes with whom, `plan` makes the create calls, `transaction` carries the
//! swap out, `refusal`, `connection` and `blocked` say what is never replaced, `health` says whether the new one may stay, `ending` goes forwards or back, and `recovery` ends what a
//! dead program left. `handover` and `helper` are for the container that this program itself runs in. `facts` is the journal of record, in labels; `journal` is the one on disk.

pub mod blocked;
mod commit;
pub mod connection;
pub mod dependents;
pub mod ending;
pub mod fault;
pub mod handover;
pub mod health;
pub mod helper;
mod hooks;
pub mod image_records;
pub mod images;
pub mod journal;
pub mod label;
pub mod labels;
pub mod locks;
pub mod orders;
pub mod plan;
pub mod preflight;
pub mod recovery;
mod refusal;
pub mod slots;
pub mod snapshot;
pub mod step_error;
pub mod systemd;
pub mod transaction;

use std::fmt;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use imagewatch_abi::{ContainerFailure, Report, Strategy};

use crate::slots::SlotPermit;
use imagewatch_engine::{Engine, EngineError};

use ending::Transaction;
use image_records::ImageRecords;
use images::KnownImages;
use journal::{Journal, JournalHandle};
use label::OrderRef;
use locks::ContainerLocks;
use step_error::StepError;

pub use label::is_working_name;

/// What replacements are carried out with; one for each engine.
pub struct Rollout {
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
    origin: OrderRef,
    container: String,
    record: JournalHandle,
}

impl fmt::Debug for Rollout {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Replacer").field("engine", &self.engine).field("own_id", &self.own_id).finish_non_exhaustive()
    }
}

impl Rollout {
    /// A rollout that remembers images in `records`, in a program that runs in the container `own_id`, if in any.
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
    pub companions: Vec<String>,
    /// On whose behalf.
    pub origin: OrderRef,
    /// A turn among those that work at the same time; given back while the new container is only watched.
    pub slot: Option<SlotPermit>,
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
    pub step_error: StepError,
}

impl ReplaceError {
    fn untouched(step_error: StepError) -> Self {
        let reason = format!("{}; the container was not touched", step_error.reason);
        Self { reason, is_restored: false, is_down: false, step_error }
    }

    /// The program was asked to end in the middle.
    pub fn interrupted() -> Self {
        let reason = "asked to stop in the middle; begun again with the next start".to_owned();
        let step_error = StepError { reason: reason.clone(), fault: None, engine_unreachable: false, log: Vec::new() };
        Self { reason, is_restored: false, is_down: true, step_error }
    }

    fn restored(step_error: StepError, problems: &[String]) -> Self {
        let is_restored = problems.is_empty();
        let after = if is_restored { "the old container is back".to_owned() } else { problems.join("; ") };
        Self { reason: format!("{}; {after}", step_error.reason), is_restored, is_down: !is_restored, step_error }
    }

    fn unfinished(step_error: StepError, error: &EngineError, transaction: &Transaction) -> Self {
        let state = &transaction.root().state;
        let reason = format!(
            "{}; the old container could not be brought back yet ({error}); tried again with the next poll, or look for {} or {}",
            step_error.reason,
            state.name,
            state.aside_name(&transaction.id)
        );
        let step_error =
            StepError { engine_unreachable: step_error.engine_unreachable || error.is_unavailable(), ..step_error };
        Self { reason, is_restored: false, is_down: true, step_error }
    }
}

impl StepError {
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

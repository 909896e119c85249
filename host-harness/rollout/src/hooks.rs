//! Commands of a container's own, run in it at the moments that its labels name. They can put a replacement
//! off; they decide nothing else.

use std::time::Duration;

use imagewatch_abi::Fault;
use serde_json::Value;
use tracing::warn;

use super::Rollout;
use super::ending::facts_of;
use super::journal::{JournalEntry, JournalHandle};
use super::label::{MemberAction, MemberState};
use super::labels::{Hook, Labels};
use super::preflight::Preflight;
use super::step_error::StepError;
use imagewatch_engine::{Engine, EngineError};

/// What a command exits with to put the replacement off until the next poll (`EX_TEMPFAIL` of sysexits.h).
const NOT_NOW: i64 = 75;
const DEFAULT_LIMIT: Duration = Duration::from_mins(1);

/// Runs the container's command for `hook`, if it has one and runs.
///
/// # Errors
/// The command put it off, failed, or did not end in time.
async fn run(engine: &dyn Engine, container: &Value, hook: Hook) -> Result<(), StepError> {
    let labels = Labels::of(container);
    let (Some(command), true) = (labels.value(hook.label()), container["State"]["Running"] == true) else {
        return Ok(());
    };
    let label = hook.label();
    let limit = labels.hook_timeout().map_err(StepError::refused)?.unwrap_or(DEFAULT_LIMIT);
    let id = container["Id"].as_str().unwrap_or_default();
    match engine.exec(id, &["/bin/sh", "-c", command], limit).await {
        Ok(0) => Ok(()),
        Ok(NOT_NOW) => Err(StepError::of(Fault::Postponed, format!("its {label} asked to be left alone this time"))),
        Ok(code) => Err(StepError::of(Fault::Host, format!("its {label} exited with code {code}"))),
        Err(EngineError::Timeout { limit, .. }) => {
            let reason = format!("its {label} did not end within {} s", limit.as_secs());
            Err(StepError::of(Fault::Host, reason))
        }
        Err(error) => Err(StepError::engine("run its hook", &error)),
    }
}

impl Rollout {
    /// Runs the command for `hook` in all that are about to be made again.
    pub(super) async fn ask_all(&self, preflight: &Preflight, hook: Hook) -> Result<(), StepError> {
        let root = &preflight.root().container;
        for (member, snapshot) in preflight.transaction.members.iter().zip(&preflight.snapshots) {
            if member.state.action == MemberAction::Recreate {
                let asked = run(&*self.engine, &snapshot.container, hook).await;
                asked.map_err(|step_error| Self::blame_member(root, &snapshot.container, step_error))?;
            }
        }
        Ok(())
    }

    /// Runs the commands for after the update in those containers of `parts` that the transaction `made_by` made, or else a
    /// unit. A transaction's hooks run at most once. If the journal cannot be written, no hook starts.
    pub(super) async fn run_hooks_after(
        &self,
        states: &[&MemberState],
        made_by: Option<&str>,
        journal: Option<(&JournalHandle, &mut JournalEntry)>,
    ) {
        if journal.as_ref().is_some_and(|(_, entry)| entry.is_hook_begun) {
            return;
        }
        let mut hooked = Vec::new();
        for state in states.iter().filter(|state| state.action == MemberAction::Recreate) {
            let Ok(new) = self.engine.inspect_container(&state.name).await else { continue };
            let is_of = |id: &str| facts_of(&new).is_some_and(|facts| facts.transaction == id && !facts.is_restored);
            let has_hook = Labels::of(&new).value(Hook::PostUpdate.label()).is_some();
            hooked.extend((made_by.is_none_or(is_of) && has_hook).then_some((&state.name, new)));
        }
        if hooked.is_empty() {
            return;
        }
        let written = match journal {
            Some((record, entry)) => {
                entry.is_hook_begun = true;
                record.write(entry).map_err(|error| error.to_string())
            }
            None if made_by.is_some() => Err("nothing is written down of its update".to_owned()),
            None => Ok(()),
        };
        for (name, new) in hooked {
            let ended = match &written {
                Ok(()) => run(&*self.engine, &new, Hook::PostUpdate).await.map_err(|step_error| step_error.reason),
                Err(error) => Err(format!("its {} was not run: {error}", Hook::PostUpdate.label())),
            };
            if let Err(reason) = ended {
                warn!(container = %name, "replaced, but {reason}");
            }
        }
    }
}

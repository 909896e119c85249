//! Who of those that a survey found is made again, who is restarted, and who is left alone, for which reason. Looks at
//! containers only; nothing here knows the new image.

use imagewatch_abi::Fault;
use serde_json::Value;
use tracing::warn;

use crate::engine::EngineFacts;
use crate::replace::Replacer;
use crate::replace::ending::name_of;
use crate::replace::facts::is_working_name;
use crate::replace::handover::{is_successor_of, reason_against_handover};
use crate::replace::health::reason_against_probe;
use crate::replace::helper::reason_against_helper;
use crate::replace::labels::{COMPOSE_PROJECT, Labels};
use crate::replace::plan::{
    filled_from_outside, reason_against_podman, reason_against_restart, reason_to_postpone, reason_to_refuse,
};
use crate::replace::setback::Setback;

impl Replacer {
    /// Whether a container that only asked to be restarted is.
    pub(super) fn is_restarted(&self, container: &Value) -> bool {
        if self.is_own(container) || is_working_name(name_of(container)) {
            return false;
        }
        let reason = reason_against_restart(container);
        if let Some(reason) = reason {
            warn!(container = name_of(container), %reason, "asked to be restarted with another, and is left alone");
        }
        reason.is_none()
    }

    /// Whether `root` is this updater and cannot run beside its successor, which then is left to a helper. This updater is
    /// never stopped without one.
    pub(super) fn needs_helper(&self, root: &Value, recreate: &[Value], all: &[Value]) -> Result<bool, Setback> {
        if let Some(own) = recreate.iter().find(|container| self.is_own(container)) {
            let own = name_of(own);
            let reason =
                format!("this updater ({own}) cannot live without it, and would be stopped with it; update it by hand");
            return Err(Setback::refused(reason));
        }
        if !self.is_own(root) {
            return Ok(false);
        }
        if all.iter().any(|other| is_successor_of(root, other)) {
            return Err(Setback::of(Fault::Postponed, "its successor is about to take over"));
        }
        let Some(why) = reason_against_handover(root, !recreate.is_empty()) else { return Ok(false) };
        match reason_against_helper(root, self.journal.state_folder()) {
            Some(reason) => Err(Setback::refused(format!("it is this updater, which {why}, and {reason}"))),
            None => Ok(true),
        }
    }

    /// Why this container is not made again at all.
    pub(super) async fn refuse(&self, container: &Value, engine: EngineFacts) -> Result<(), Setback> {
        // Before all that a label may permit: one that cannot be read permits nothing, and is what is to be told.
        refuse_for_now(container)?;
        if let Some(reason) = reason_to_refuse(container) {
            return Err(Setback::refused(reason));
        }
        if let Some(reason) = reason_against_probe(&*self.engine, container).await {
            return Err(Setback::refused(reason));
        }
        let id = container["Id"].as_str().unwrap_or_default();
        let inspect = |error| Setback::engine("look into the container", &error);
        if engine.is_podman
            && let Some(libpod) = self.engine.inspect_libpod(id).await.map_err(inspect)?
            && let Some(reason) = reason_against_podman(&libpod)
        {
            return Err(Setback::refused(reason));
        }
        if Labels::of(container).value(COMPOSE_PROJECT).is_some() {
            let changes = self.engine.changes(id).await.map_err(inspect)?;
            if let Some(reason) = filled_from_outside(container, &changes) {
                return Err(Setback::refused(reason));
            }
        }
        Ok(())
    }

    /// A setback of a container that only goes along names it.
    pub(in crate::replace) fn about(root: &Value, container: &Value, setback: Setback) -> Setback {
        if container["Id"] == root["Id"] {
            return setback;
        }
        let reason = format!("{} cannot live without it, but {}", name_of(container), setback.reason);
        Setback { reason, ..setback }
    }
}

/// Why this container is not touched as it is now: its state, or a label of ours that cannot be read.
///
/// # Errors
/// That, as what is to be reported.
pub fn refuse_for_now(container: &Value) -> Result<(), Setback> {
    match reason_to_postpone(container) {
        Some(reason) => Err(Setback::of(Fault::Postponed, reason)),
        None => Labels::of(container).check().map_err(Setback::refused),
    }
}

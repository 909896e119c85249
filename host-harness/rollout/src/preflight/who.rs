//! Who of those that a survey found is made again, who is restarted, and who is left alone, for which reason. Looks at
//! containers only; nothing here knows the new image.

use std::borrow::Cow;

use imagewatch_abi::Fault;
use serde_json::{Map, Value};
use tracing::warn;

use crate::Rollout;
use crate::connection::{Carriers, find_carriers};
use crate::ending::{id_of, name_of};
use crate::handover::is_successor_of;
use crate::label::is_working_name;
use crate::labels::Labels;
use crate::plan::{reason_against_removal, reason_against_restart, reason_to_postpone};
use crate::refusal;
use crate::step_error::StepError;
use crate::systemd::is_made_by_unit;
use imagewatch_engine::permission::first_needed;

impl Rollout {
    /// Whether a container that only asked to be restarted is.
    pub(super) fn is_restarted(&self, container: &Value, carriers: &Carriers) -> bool {
        if self.is_own(container) || is_working_name(name_of(container)) {
            return false;
        }
        let carried = || carriers.get(&id_of(container)).map(|reason| Cow::from(reason.as_str()));
        let reason = reason_against_restart(container).or_else(carried);
        if let Some(reason) = &reason {
            warn!(container = name_of(container), %reason, "asked to be restarted with another, and is left alone");
        }
        reason.is_none()
    }

    /// Whether `root` is this updater and cannot run beside its successor, which then is left to a helper. This updater is
    /// never stopped without one.
    pub(super) fn needs_helper(&self, root: &Value, recreate: &[Value], all: &[Value]) -> Result<bool, StepError> {
        if let Some(own) = recreate.iter().find(|container| self.is_own(container)) {
            let own = name_of(own);
            let reason =
                format!("this updater ({own}) cannot live without it, and would be stopped with it; update it by hand");
            return Err(StepError::refused(reason));
        }
        if !self.is_own(root) {
            return Ok(false);
        }
        if all.iter().any(|other| is_successor_of(root, other)) {
            return Err(StepError::of(Fault::Postponed, "its successor is about to take over"));
        }
        refusal::needs_helper(root, !recreate.is_empty(), self.journal.state_folder()).map_err(StepError::refused)
    }

    /// Why this container is not made again at all.
    pub(super) async fn refuse(&self, container: &Value, carriers: &Carriers) -> Result<(), StepError> {
        let inspect = |error| StepError::engine("look into the container", &error);
        let refusal = refusal::find_refusal(&*self.engine, container).await.map_err(inspect)?;
        let reason = refusal.map(|refusal| refusal.reason).or_else(|| carriers.get(&id_of(container)).cloned());
        reason.map_or_else(|| refuse_for_now(container), |reason| Err(StepError::refused(reason)))
    }

    /// Why this container is not replaced, as far as that is known before its new image is here.
    ///
    /// # Errors
    /// That, as what is to be reported.
    pub async fn refuse_before_pull(&self, container: &Value) -> Result<(), StepError> {
        let inspect = |error| StepError::engine("look into the container", &error);
        if is_made_by_unit(&*self.engine, container).await.map_err(inspect)? {
            return Ok(());
        }
        let carriers = find_carriers(&*self.engine, self.own_id.as_deref()).await.map_err(inspect)?;
        self.refuse(container, &carriers).await?;
        self.check_permissions(std::iter::once(container)).await
    }

    /// Why this container is not removed.
    ///
    /// # Errors
    /// That, as what is to be reported.
    pub async fn refuse_removal(&self, container: &Value) -> Result<(), StepError> {
        if self.is_own(container) {
            return Err(StepError::refused("it is this updater, which nothing would bring back"));
        }
        if let Some(reason) = reason_against_removal(container) {
            return Err(StepError::refused(reason));
        }
        let carriers = find_carriers(&*self.engine, self.own_id.as_deref()).await;
        match carriers.map_err(|error| StepError::engine("list the containers", &error))?.remove(&id_of(container)) {
            Some(reason) => Err(StepError::refused(reason)),
            None => Ok(()),
        }
    }

    /// Fails where the engine, or what stands in front of it, does not let one of the calls pass that the replacement
    /// of `containers` needs. It passes as soon as the call is allowed.
    pub(super) async fn check_permissions<'a>(
        &self,
        containers: impl Iterator<Item = &'a Value>,
    ) -> Result<(), StepError> {
        let refused = self.engine.refused_calls(true).await;
        let refused = refused.map_err(|error| StepError::engine("ask which calls are allowed", &error))?;
        let networks = |container: &Value| container["NetworkSettings"]["Networks"].as_object().map_or(0, Map::len);
        match first_needed(&refused, containers.map(networks).max().unwrap_or(0)) {
            Some(permission) => Err(StepError::of(Fault::Postponed, permission.reason())),
            None => Ok(()),
        }
    }

    /// Names `container` in a failure of a container that is replaced only along with `root`.
    pub(crate) fn blame_member(root: &Value, container: &Value, step_error: StepError) -> StepError {
        if container["Id"] == root["Id"] {
            return step_error;
        }
        let reason = format!("{} cannot live without it, but {}", name_of(container), step_error.reason);
        StepError { reason, ..step_error }
    }
}

/// Why this container is not touched as it is now: its state, or a label of ours that cannot be read.
///
/// # Errors
/// That, as what is to be reported.
pub fn refuse_for_now(container: &Value) -> Result<(), StepError> {
    match reason_to_postpone(container) {
        Some(reason) => Err(StepError::of(Fault::Postponed, reason)),
        None => Labels::of(container).check().map_err(StepError::refused),
    }
}

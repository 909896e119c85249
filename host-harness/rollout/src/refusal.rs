//! Why a container is not replaced as it is: the only list of reasons. A survey refuses by it and `check` announces by it,
//! so that both agree.

use std::path::Path;

use serde_json::Value;

use super::handover::reason_against_handover;
use super::health::reason_against_probe;
use super::helper::reason_against_helper;
use super::labels::{COMPOSE_PROJECT, Labels};
use super::plan::{filled_from_outside, reason_against_podman, reason_to_postpone, reason_to_refuse};
use imagewatch_engine::{Engine, EngineError};

/// Why a container is not replaced.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Refusal {
    /// A lowercase fragment.
    pub(super) reason: String,
    /// Whether it may no longer hold while the container is the same, as when it is connected to a network.
    pub(super) may_pass: bool,
}

/// Why this container is not replaced, with any image. `None`: it may be, or it is in a state that postpones this anyway.
///
/// # Errors
/// The engine does not show what is to be known of it.
pub(super) async fn find_refusal(engine: &dyn Engine, container: &Value) -> Result<Option<Refusal>, EngineError> {
    if let Some(reason) = lasting_reason(engine, container).await? {
        return Ok(Some(Refusal { reason, may_pass: false }));
    }
    if reason_to_postpone(container).is_some() {
        return Ok(None);
    }
    Ok(passing_reason(engine, container).await?.map(|reason| Refusal { reason, may_pass: true }))
}

/// How it was created says so.
async fn lasting_reason(engine: &dyn Engine, container: &Value) -> Result<Option<String>, EngineError> {
    // Checked first: a label that cannot be read permits nothing, and its reason is shown.
    if let Some(reason) = Labels::of(container).check().err().or_else(|| reason_to_refuse(container)) {
        return Ok(Some(reason));
    }
    let id = container["Id"].as_str().unwrap_or_default();
    Ok(engine.inspect_libpod(id).await?.and_then(|libpod| reason_against_podman(&libpod)))
}

/// What it has now says so.
async fn passing_reason(engine: &dyn Engine, container: &Value) -> Result<Option<String>, EngineError> {
    if let Some(reason) = reason_against_probe(engine, container).await {
        return Ok(Some(reason));
    }
    if Labels::of(container).value(COMPOSE_PROJECT).is_none() {
        return Ok(None);
    }
    let changes = engine.changes(container["Id"].as_str().unwrap_or_default()).await?;
    Ok(filled_from_outside(container, &changes))
}

/// Whether the updater `own` cannot run beside its successor, so that a helper has to replace it.
///
/// # Errors
/// No helper can; why, as a lowercase fragment.
pub(super) fn needs_helper(own: &Value, has_dependents: bool, state_folder: &Path) -> Result<bool, String> {
    let Some(why) = reason_against_handover(own, has_dependents) else { return Ok(false) };
    match reason_against_helper(own, state_folder) {
        Some(reason) => Err(format!("it is this updater, which {why}, and {reason}")),
        None => Ok(true),
    }
}

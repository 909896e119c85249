//! Containers that a systemd unit makes (Podman's quadlets and `podman generate systemd`): the unit is restarted and
//! makes its container anew from the tag. Success is that the unit's new container passes the health gate.

use std::time::Duration;

use imagewatch_abi::{Fault, Reference};
use serde_json::Value;
use tokio::process::Command;
use tokio::time::timeout;

use super::label::MemberState;
use super::labels::Labels;
use super::step_error::StepError;
use super::{Job, ReplaceError, Rollout};
use imagewatch_engine::{Engine, EngineError};

const UNIT: &str = "PODMAN_SYSTEMD_UNIT";
/// A unit's own limit for starting is 90 s by default.
const LIMIT: Duration = Duration::from_mins(5);

/// The service that makes a container, if one does. What its image says of a unit is not the operator's word.
pub fn unit_of<'a>(container: &'a Value, image: &Value) -> Option<&'a str> {
    let unit = Labels::of(container).value(UNIT).filter(|unit| unit.ends_with(".service"));
    unit.filter(|unit| Labels::of(image).value(UNIT) != Some(unit))
}

/// Whether a unit makes `container`, so that the unit is restarted instead of the container being replaced.
///
/// # Errors
/// The engine does not show the container's image.
pub(super) async fn is_made_by_unit(engine: &dyn Engine, container: &Value) -> Result<bool, EngineError> {
    if Labels::of(container).value(UNIT).is_none() {
        return Ok(false);
    }
    let image = engine.inspect_image(container["Image"].as_str().unwrap_or_default()).await?;
    Ok(unit_of(container, &image.unwrap_or_default()).is_some())
}

impl Rollout {
    /// Restarts `unit`, which makes `container` anew.
    ///
    /// # Errors
    /// The unit did not start, or its new container may not stay; the tag then names the old image again and the
    /// unit was restarted on it.
    pub async fn restart_unit(&self, container: &Value, unit: &str, job: &Job<'_>) -> Result<(), ReplaceError> {
        let state = self.part_to_remake(container).await;
        let Err(step_error) = self.restart_and_watch(&state, unit, job).await else {
            self.clean_up(&job.origin, &[&state], None, None).await;
            return Ok(());
        };
        let reference = container["Config"]["Image"].as_str().and_then(|image| image.parse::<Reference>().ok());
        if let Some(reference) = reference {
            self.give_tag_back(&reference, &state.old_image).await;
        }
        let problem = restart(unit).await.err().map(|step_error| step_error.reason);
        Err(ReplaceError::restored(step_error, problem.as_slice()))
    }

    async fn restart_and_watch(&self, state: &MemberState, unit: &str, job: &Job<'_>) -> Result<(), StepError> {
        restart(unit).await?;
        let inspect = |error| StepError::engine("inspect the unit's new container", &error);
        let new = self.engine.inspect_container(&state.name).await.map_err(inspect)?;
        if new["Image"] != job.image.id {
            let reason =
                format!("unit {unit} was restarted and does not run the new image; look at the image it names");
            return Err(StepError::refused(reason));
        }
        self.gate(state, new["Id"].as_str().unwrap_or_default(), job.stable_for).await
    }
}

/// Of the system's manager when this runs as root, else of the user's.
async fn restart(unit: &str) -> Result<(), StepError> {
    let mut command = Command::new("systemctl");
    if !rustix::process::geteuid().is_root() {
        command.arg("--user");
    }
    command.args(["restart", "--", unit]).kill_on_drop(true);
    let failed = |why: String| StepError::of(Fault::Host, format!("failed to restart systemd unit {unit}: {why}"));
    match timeout(LIMIT, command.output()).await {
        Ok(Ok(output)) if output.status.success() => Ok(()),
        Ok(Ok(output)) => {
            let said = String::from_utf8_lossy(&output.stderr);
            Err(failed(said.lines().next().unwrap_or("systemctl failed without a word").to_owned()))
        }
        Ok(Err(error)) => Err(failed(format!("{error}; is systemctl installed where imagewatch runs?"))),
        Err(_) => Err(failed(format!("it did not end within {} s", LIMIT.as_secs()))),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn t46_a_unit_is_taken_from_the_operator_and_never_from_an_image() {
        let labelled = |unit: &str| json!({ "Config": { "Labels": { UNIT: unit } } });
        for (case, container, image, expected) in [
            ("the operator's", labelled("web.service"), json!({}), Some("web.service")),
            ("the image's", labelled("web.service"), labelled("web.service"), None),
            ("the image has another", labelled("web.service"), labelled("x.service"), Some("web.service")),
            ("no service", labelled("poweroff.target"), json!({}), None),
            ("none", json!({}), json!({}), None),
        ] {
            assert_eq!(unit_of(&container, &image), expected, "{case}");
        }
    }
}

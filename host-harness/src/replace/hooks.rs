//! Commands of a container's own, run in it at the moments that its labels name. They can put a replacement
//! off; they decide nothing else.

use std::time::Duration;

use imagewatch_abi::Fault;
use serde_json::Value;

use super::labels::{Hook, Labels};
use super::setback::Setback;
use crate::engine::{Engine, EngineError};

/// What a command exits with to put the replacement off until the next poll (`EX_TEMPFAIL` of sysexits.h).
const NOT_NOW: i64 = 75;
const DEFAULT_LIMIT: Duration = Duration::from_mins(1);

/// Runs the container's command for `hook`, if it has one and runs.
///
/// # Errors
/// The command put it off, failed, or did not end in time.
pub(super) async fn run(engine: &dyn Engine, container: &Value, hook: Hook) -> Result<(), Setback> {
    let labels = Labels::of(container);
    let (Some(command), true) = (labels.value(hook.label()), container["State"]["Running"] == true) else {
        return Ok(());
    };
    let label = hook.label();
    let limit = labels.hook_timeout().map_err(Setback::refused)?.unwrap_or(DEFAULT_LIMIT);
    let id = container["Id"].as_str().unwrap_or_default();
    match engine.exec(id, &["/bin/sh", "-c", command], limit).await {
        Ok(0) => Ok(()),
        Ok(NOT_NOW) => Err(Setback::of(Fault::Postponed, format!("its {label} asked to be left alone this time"))),
        Ok(code) => Err(Setback::of(Fault::Host, format!("its {label} exited with code {code}"))),
        Err(EngineError::Timeout { limit, .. }) => {
            let reason = format!("its {label} did not end within {} s", limit.as_secs());
            Err(Setback::of(Fault::Host, reason))
        }
        Err(error) => Err(Setback::engine("run its hook", &error)),
    }
}

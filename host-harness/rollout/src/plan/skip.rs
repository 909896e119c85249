//! Containers that are not replaced at all. Looks at the container alone, at neither images nor engine.

use std::borrow::Cow;

use serde_json::{Map, Value};

use super::mounts;
use crate::labels::{ALLOW_RM, Labels};
use imagewatch_engine::mounts::is_nameless_volume;

/// Why this container is not even removed, as a lowercase fragment: who makes it again does so as it sees fit.
pub fn reason_against_removal(old: &Value) -> Option<Cow<'static, str>> {
    let labels = &old["Config"]["Labels"];
    let mut label_names = labels.as_object().into_iter().flat_map(Map::keys);
    if let Some(id) = labels.get("com.docker.swarm.service.id") {
        let name = labels.get("com.docker.swarm.service.name").unwrap_or(id).as_str().unwrap_or_default();
        Some(format!("task of service {name}: not handled on this platform; update the service instead").into())
    } else if label_names.any(|key| key.starts_with("io.kubernetes.")) {
        Some("it belongs to Kubernetes; update its workload instead".into())
    } else {
        None
    }
}

/// Why this container is not replaced at all, as a lowercase fragment that says what to do instead.
/// A stopped one, also one that was never started, may be.
pub fn reason_to_refuse(old: &Value) -> Option<String> {
    if let Some(reason) = reason_it_is_anothers(old) {
        Some(reason.into_owned())
    } else if is_image_an_id(old) {
        Some("it was created from an image id, which is no tag that could move; recreate it from a tag".to_owned())
    } else if old["HostConfig"]["AutoRemove"] == true && !Labels::of(old).is_yes(ALLOW_RM) {
        let reason = "it was created with --rm, so it could not be brought back; recreate it by hand, use the strategy \
                      `remove`, or label it imagewatch.allow-rm=true";
        Some(reason.to_owned())
    } else {
        let nameless = mounts(old).find(|mount| is_nameless_volume(mount))?;
        let place = nameless["Destination"].as_str().unwrap_or_default();
        Some(format!("the engine does not name its volume at {place}, so its data would be lost; name the volume"))
    }
}

/// Why this container is not replaced as long as it is in this state, as a lowercase fragment.
pub fn reason_to_postpone(old: &Value) -> Option<&'static str> {
    let state = &old["State"];
    if state["Dead"] == true || matches!(state["Status"].as_str(), Some("removing" | "dead")) {
        Some("it is being removed")
    } else {
        (state["Paused"] == true).then_some("it is paused; unpause it first")
    }
}

/// Why this container, which only asked to be restarted with another, is not stopped for that, as a lowercase fragment.
pub fn reason_against_restart(old: &Value) -> Option<Cow<'static, str>> {
    if let Some(reason) = reason_it_is_anothers(old) {
        Some(reason)
    } else if old["HostConfig"]["AutoRemove"] == true {
        Some("it was created with --rm, and would be gone when it is stopped".into())
    } else {
        reason_to_postpone(old).map(Cow::from)
    }
}

/// Who else starts and ends this container, as a lowercase fragment that says what to do instead.
fn reason_it_is_anothers(old: &Value) -> Option<Cow<'static, str>> {
    let labels = &old["Config"]["Labels"];
    if let Some(reason) = reason_against_removal(old) {
        Some(reason)
    } else if labels.get("PODMAN_SYSTEMD_UNIT").is_some() {
        Some("it belongs to a systemd unit; restart the unit instead".into())
    } else {
        let is_one_off = labels["com.docker.compose.oneoff"] == "True";
        is_one_off.then_some("it is a one-off container of `docker compose run`; it ends by itself".into())
    }
}

/// An id in full, or the beginning of the id that it runs.
fn is_image_an_id(old: &Value) -> bool {
    let digits = |value: &Value| value.as_str().map(|id| id.trim_start_matches("sha256:").to_owned());
    let (Some(created_from), Some(runs)) = (old["Config"]["Image"].as_str(), digits(&old["Image"])) else {
        return false;
    };
    created_from.starts_with("sha256:") || (!created_from.is_empty() && runs.starts_with(created_from))
}

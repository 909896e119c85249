//! The updater updates itself: it starts its successor and waits to be stopped by it, so that there is no moment at
//! which nobody could bring the other back. The successor, once it has shown that it works, stops and removes its
//! predecessor and takes its name. Knows how to find the container that this program runs in.

use std::time::Duration;

use imagewatch_abi::Fault;
use serde_json::Value;
use tokio::time::{Instant, sleep};
use tracing::info;

use super::Replacer;
use super::ending::{facts_of, name_of};
use super::facts::Swap;
use super::labels::UPDATER;
use super::plan::{endpoints, fixed_host_port, has_static_address};
use super::setback::Setback;
use crate::engine::{Engine, EngineError};

/// How long a successor may take to stop its predecessor.
const TAKES_OVER_WITHIN: Duration = Duration::from_mins(2);
const LOOK_EVERY: Duration = Duration::from_millis(500);
const ID_LENGTH: usize = 64;

/// The id of the container that this program runs in; none when it runs in none. A host name can be anything, so
/// the mounts that an engine makes for each container are asked, and then the control group.
pub fn own_container_id() -> Option<String> {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    find_id(&read("/proc/self/mountinfo"), &read("/proc/self/cgroup"))
}

fn find_id(mountinfo: &str, cgroup: &str) -> Option<String> {
    let hostnames = mountinfo.lines().filter(|line| line.contains("/hostname"));
    let roots = hostnames.filter_map(|line| line.split(' ').nth(3));
    roots.chain(cgroup.lines()).find_map(id_in)
}

/// The last part of a path that is a container's id, with what engines write around it.
fn id_in(path: &str) -> Option<String> {
    let parts = path.split(['/', ':', '-', '.']);
    let is_id = |part: &&str| part.len() == ID_LENGTH && part.bytes().all(|b| b.is_ascii_hexdigit());
    parts.rev().find(is_id).map(str::to_owned)
}

/// Another updater that runs on this engine, by name; one updater and its successor count as one.
///
/// # Errors
/// When the containers cannot be listed.
pub async fn other_updater(engine: &dyn Engine, own_id: Option<&str>) -> Result<Option<String>, EngineError> {
    let partner = match own_id {
        Some(own) => facts_of(&engine.inspect_container(own).await?).map(|facts| facts.part.old),
        None => None,
    };
    let listed = engine.list().await?;
    let other = listed.iter().find(|container| {
        let is_updater = container.labels().get(UPDATER).is_some_and(|value| value != "false");
        is_updater
            && container.state == "running"
            && Some(container.id.as_str()) != own_id
            && partner.as_ref() != Some(&container.id)
    });
    Ok(other.map(|container| container.name().to_owned()))
}

/// Why an updater cannot run beside its successor, as a lowercase fragment; `None` if it can.
pub(super) fn reason_against_handover(own: &Value, has_dependents: bool) -> Option<String> {
    let why = if own["HostConfig"]["AutoRemove"] == true {
        "was created with --rm"
    } else if fixed_host_port(&own["HostConfig"]["PortBindings"]).is_some() {
        "publishes a host port"
    } else if endpoints(own).any(|(_, endpoint)| has_static_address(endpoint)) {
        "has a fixed address"
    } else if has_dependents {
        "has containers that need it"
    } else {
        return None;
    };
    Some(format!(
        "it is this updater, which {why}, so that it cannot run beside its successor; take that away, or update it by hand"
    ))
}

impl Replacer {
    /// Waits for a started successor to stop this program. Returns only when it does not.
    pub(super) async fn await_successor(&self, new: &str) -> Result<(), Setback> {
        let until = Instant::now() + TAKES_OVER_WITHIN;
        loop {
            let inspection = match self.engine.inspect_container(new).await {
                Ok(inspection) => inspection,
                // It may be stopping us at this very moment: to give up for want of one answer would end both.
                Err(error) if !error.is_gone() && Instant::now() < until => {
                    sleep(LOOK_EVERY).await;
                    continue;
                }
                Err(error) => return Err(Setback::engine("watch the successor", &error)),
            };
            let state = &inspection["State"];
            let is_restarted = inspection["RestartCount"].as_u64().unwrap_or(0) > 0 || state["Restarting"] == true;
            if state["Running"] != true || is_restarted {
                let reason = format!("the new updater exited with code {}", state["ExitCode"]);
                return Err(Setback::of(Fault::Image, reason));
            }
            if Instant::now() >= until {
                let reason = format!("the new updater did not take over within {} s", TAKES_OVER_WITHIN.as_secs());
                return Err(Setback::of(Fault::Image, reason));
            }
            sleep(LOOK_EVERY).await;
        }
    }

    /// At the start of a program that works: if it is a successor, its predecessor goes. To be called before anything
    /// that the predecessor holds is wanted. Returns the predecessor's name.
    ///
    /// # Errors
    /// A step that the engine did not do. Whoever is started next begins it again.
    pub async fn take_over(&self) -> Result<Option<String>, EngineError> {
        let Some(own) = &self.own_id else { return Ok(None) };
        let Some(inspection) = self.find(own).await? else { return Ok(None) };
        let Some(facts) = facts_of(&inspection).filter(|facts| facts.swap == Swap::Handover) else { return Ok(None) };
        let part = &facts.part;
        let temporary = part.temporary_name(&facts.transaction);
        let Some(old) = self.find(&part.old).await? else {
            if name_of(&inspection) == temporary {
                self.engine.rename(own, &part.name).await?;
            }
            return Ok(None);
        };
        info!(container = %part.name, "taking over from the updater before this one");
        self.disarm(part).await?;
        self.stop(&part.old).await?;
        if name_of(&old) == part.name {
            self.engine.rename(&part.old, &part.aside_name(&facts.transaction)).await?;
        }
        if name_of(&inspection) == temporary {
            self.engine.rename(own, &part.name).await?;
        }
        self.remove(&part.old).await?;
        Ok(Some(part.name.clone()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn t40_the_own_container_is_found_by_what_its_engine_mounts_into_it() {
        let id = "0123456789abcdef".repeat(4);
        let docker = format!("1 2 8:1 /var/lib/docker/containers/{id}/hostname /etc/hostname rw - ext4 /dev/vda rw");
        let podman =
            format!("1 2 0:2 /containers/overlay-containers/{id}/userdata/hostname /etc/hostname rw - tmpfs tmpfs rw");
        for (case, mountinfo, cgroup, expected) in [
            ("docker", docker.as_str(), "0::/", Some(&id)),
            ("podman", podman.as_str(), "", Some(&id)),
            ("cgroup v1", "", &format!("12:pids:/docker/{id}"), Some(&id)),
            ("systemd's cgroup", "", &format!("0::/system.slice/docker-{id}.scope"), Some(&id)),
            ("no container", "1 2 8:1 / / rw - ext4 /dev/vda rw", "0::/user.slice", None),
            ("a host name file of one's own", "1 2 8:1 /home/me/hostname /etc/hostname rw", "", None),
        ] {
            assert_eq!(find_id(mountinfo, cgroup).as_ref(), expected, "{case}");
        }
    }
}

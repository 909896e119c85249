//! Whether the new container can run beside the old one before that is stopped. Decides nothing else:
//! who is refused here is replaced stop-first.

use serde_json::Value;

use super::networks::has_configured_mac;
use super::{Object, is_empty, mounts, strings};
use crate::labels::{Labels, PROBE, SHARED_VOLUMES_SAFE};
use imagewatch_engine::EngineFacts;

/// Why the two cannot run side by side, as a lowercase fragment; `None` if they can.
///
/// `old` and the images are raw inspections, `is_swarm` whether the engine is a node of a swarm, and `has_hard_dependents` whether other containers use its namespaces,
/// volumes or legacy links.
pub fn reason_against_start_first(
    old: &Value,
    [old_image, new_image]: [&Value; 2],
    engine: EngineFacts,
    is_swarm: bool,
    has_hard_dependents: bool,
) -> Option<String> {
    let host = &old["HostConfig"];
    let mode = host["NetworkMode"].as_str().unwrap_or_default();
    let name = old["Name"].as_str().unwrap_or_default().trim_start_matches('/');
    if let Some(port) = fixed_host_port(&host["PortBindings"]) {
        return Some(format!("it publishes host port {port}, which only one container can have"));
    }
    if mode == "host" || mode.starts_with("container:") {
        return Some(format!("its network is {mode}, where two would listen on the same ports"));
    }
    if let Some((network, _)) = endpoints(old).find(|(_, endpoint)| has_static_address(endpoint)) {
        return Some(format!("it has a fixed address on network {network}, which only one container can have"));
    }
    if has_configured_mac(old, engine) {
        return Some("it has a configured MAC address, which only one container can have".to_owned());
    }
    if has_hard_dependents {
        return Some("other containers use its namespaces, volumes or links".to_owned());
    }
    if host["AutoRemove"] == true {
        return Some("it was created with --rm".to_owned());
    }
    if !is_empty(&host["Devices"]) || !is_empty(&host["DeviceRequests"]) {
        return Some("it uses devices of the host, which may bear only one user".to_owned());
    }
    if let Some(path) = writable_mount(old).filter(|_| !Labels::of(old).is_yes(SHARED_VOLUMES_SAFE)) {
        let label = format!("label it {SHARED_VOLUMES_SAFE}=true if they may");
        return Some(format!("two containers would write to its volume at {path} at once; {label}"));
    }
    if !has_health_check(old, old_image, new_image) && Labels::of(old).value(PROBE).is_none() {
        return Some(format!("nothing tells when the new one serves; give it a health check or a label {PROBE}"));
    }
    let mut user_networks = endpoints(old).filter(|(network, _)| network.as_str() != "bridge");
    if is_swarm && let Some((network, _)) = user_networks.find(|(_, e)| !strings(&e["Aliases"]).contains(&name)) {
        let why = "a node of a swarm does not follow the renaming of running containers";
        return Some(format!("{why}; give it the alias {name} on network {network}"));
    }
    None
}

pub(crate) fn endpoints(old: &Value) -> impl Iterator<Item = (&String, &Value)> {
    old["NetworkSettings"]["Networks"].as_object().into_iter().flatten()
}

/// The first host port that is not left to the engine.
pub(crate) fn fixed_host_port(bindings: &Value) -> Option<&str> {
    let all = bindings.as_object().into_iter().flat_map(serde_json::Map::values);
    let each = all.filter_map(Value::as_array).flatten().filter_map(|binding| binding["HostPort"].as_str());
    each.into_iter().find(|port| !matches!(*port, "" | "0"))
}

pub(crate) fn has_static_address(endpoint: &Value) -> bool {
    endpoint["IPAMConfig"].as_object().is_some_and(|config: &Object| config.values().any(|value| !is_empty(value)))
}

/// Where it can write to something that outlives it.
fn writable_mount(old: &Value) -> Option<&str> {
    let mut shared = mounts(old).filter(|mount| mount["Type"] != "tmpfs" && mount["RW"] != false);
    shared.find_map(|mount| mount["Destination"].as_str())
}

/// The container's own check goes before the image's; `NONE` means none. What it has of the old image is not its own.
fn has_health_check(old: &Value, old_image: &Value, new_image: &Value) -> bool {
    let test =
        |of: &Value| strings(&of["Config"]["Healthcheck"]["Test"]).into_iter().map(str::to_owned).collect::<Vec<_>>();
    let own = Some(test(old)).filter(|own| !own.is_empty() && *own != test(old_image));
    own.unwrap_or_else(|| test(new_image)).first().is_some_and(|kind| kind != "NONE")
}

//! What the new container is created with: the old one's inspection, less what its image contributed,
//! so that the new image contributes its own. Pure; works on the engine's raw JSON, so that fields this
//! program does not know are carried as they are.
//!
//! Carried: all of `Config` but the old image's defaults (user, working directory, stop signal, environment,
//! labels, entrypoint and command, exposed ports, volumes, health check per field) and a host name that the
//! engine made up; all of `HostConfig` but removed fields, with legacy links put right and empty port
//! bindings written out; anonymous volumes; per network the addresses, aliases, links, driver options and
//! priority that were asked for. Not carried, since no inspection shows them: the writable layer,
//! and MAC addresses of any but the primary network.
//! Namespaces and volumes of other containers stay as they are written.

mod config;
mod networks;
mod storage;

use std::collections::BTreeSet;

use serde_json::{Map, Value, json};

use crate::engine::ApiVersion;

type Object = Map<String, Value>;

/// What a plan is made from; all of it raw inspections.
#[derive(Debug, Clone, Copy)]
pub struct PlanInput<'a> {
    /// The container to be replaced.
    pub old: &'a Value,
    /// The image that it runs, by id: what came from it is not carried.
    pub old_image: &'a Value,
    /// The containers that its `VolumesFrom` names: their volumes come with them, not with the plan.
    pub volume_sources: &'a [Value],
    /// The platform that the new image was pulled for; absent: the old image's.
    pub platform: Option<&'a str>,
    /// The version that the plan is carried out with.
    pub api: ApiVersion,
}

/// How the new container is made.
#[derive(Debug, Clone, PartialEq)]
pub struct Plan {
    /// The body of the engine's create call.
    pub body: Value,
    /// Networks with their endpoint settings, to be connected before the start. Empty where the engine
    /// creates a container with all of them.
    pub networks_to_connect: Vec<(String, Value)>,
    /// The create call's `os/arch[/variant]`.
    pub platform: Option<String>,
}

/// Turns a container into the plan for its successor.
pub fn build_plan(input: &PlanInput<'_>) -> Plan {
    let network_mode = input.old["HostConfig"]["NetworkMode"].as_str().unwrap_or_default();
    let (endpoints, networks_to_connect) = networks::build_endpoints(input.old, network_mode, input.api);

    let mut body = config::subtract_image(input.old, &input.old_image["Config"]);
    config::clear_derived_names(&mut body, input.old, network_mode);
    if input.api >= ApiVersion::MANY_ENDPOINTS {
        body.remove("MacAddress"); // the endpoint has it
    }
    body.insert("HostConfig".to_owned(), Value::Object(build_host_config(input)));
    body.insert("NetworkingConfig".to_owned(), json!({ "EndpointsConfig": endpoints }));
    Plan {
        body: Value::Object(body),
        networks_to_connect,
        platform: input.platform.map(str::to_owned).or_else(|| platform_of(input.old_image)),
    }
}

/// Why this container is not replaced at all, as a lowercase fragment that says what to do instead.
pub fn reason_to_refuse(old: &Value) -> Option<String> {
    let labels = &old["Config"]["Labels"];
    let has_label = |wanted: &str| labels.as_object().is_some_and(|labels| labels.keys().any(|key| key == wanted));
    let is_kubernetes = || labels.as_object().is_some_and(|l| l.keys().any(|key| key.starts_with("io.kubernetes.")));
    let state = &old["State"];
    let reason = if has_label("com.docker.swarm.service.id") {
        "it is a task of a swarm service; update the service instead"
    } else if is_kubernetes() {
        "it belongs to Kubernetes; update its workload instead"
    } else if has_label("PODMAN_SYSTEMD_UNIT") {
        "it belongs to a systemd unit; restart the unit instead"
    } else if labels["com.docker.compose.oneoff"] == "True" {
        "it is a one-off container of `docker compose run`; it ends by itself"
    } else if old["HostConfig"]["AutoRemove"] == true {
        "it was created with --rm, so it could not be brought back; recreate it by hand or use the strategy `remove`"
    } else if state["Paused"] == true {
        "it is paused; unpause it first"
    } else if state["Dead"] == true || state["Status"] == "removing" {
        "it is being removed"
    } else {
        return None;
    };
    Some(reason.to_owned())
}

fn build_host_config(input: &PlanInput<'_>) -> Object {
    let mut host = object(&input.old["HostConfig"]);
    // Removed from the API, or facts of the client that created the old container.
    for field in ["KernelMemory", "KernelMemoryTCP", "ConsoleSize", "ContainerIDFile"] {
        host.remove(field);
    }
    if let Some(links) = host.get("Links").and_then(Value::as_array) {
        let links: Vec<Value> = links.iter().filter_map(Value::as_str).map(|link| json!(build_link(link))).collect();
        host.insert("Links".to_owned(), Value::Array(links));
    }
    for bindings in host.get_mut("PortBindings").and_then(Value::as_object_mut).into_iter().flat_map(Map::values_mut) {
        // Newer engines drop a port with an empty list; this means the same everywhere.
        if bindings.as_array().is_none_or(Vec::is_empty) {
            *bindings = json!([{ "HostIp": "", "HostPort": "" }]);
        }
    }
    storage::keep_volumes(&mut host, input.old, input.volume_sources);
    host
}

/// An inspection shows `/target:/me/alias` where the create call wants `target:alias`.
fn build_link(inspected: &str) -> String {
    let (target, alias) = inspected.split_once(':').unwrap_or((inspected, inspected));
    let last = |path: &str| path.rsplit('/').next().unwrap_or_default().to_owned();
    format!("{}:{}", last(target), last(alias))
}

fn platform_of(image: &Value) -> Option<String> {
    let part = |key: &str| image[key].as_str().filter(|text| !text.is_empty());
    let mut platform = format!("{}/{}", part("Os")?, part("Architecture")?);
    if let Some(variant) = part("Variant") {
        platform.push('/');
        platform.push_str(variant);
    }
    Some(platform)
}

fn object(value: &Value) -> Object {
    value.as_object().cloned().unwrap_or_default()
}

fn strings(value: &Value) -> Vec<&str> {
    value.as_array().into_iter().flatten().filter_map(Value::as_str).collect()
}

fn keys(value: &Value) -> BTreeSet<&str> {
    value.as_object().into_iter().flat_map(Map::keys).map(String::as_str).collect()
}

/// Null, zero, and the empty text, list and object: the engine treats them all as not given.
fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Bool(flag) => !flag,
        Value::Number(number) => number.as_f64() == Some(0.0),
        Value::String(text) => text.is_empty(),
        Value::Array(items) => items.is_empty(),
        Value::Object(fields) => fields.is_empty(),
    }
}

#[cfg(test)]
mod tests;

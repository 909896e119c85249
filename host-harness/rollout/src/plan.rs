//! What the new container is created with: the old one's inspection, less what its image contributed,
//! so that the new image contributes its own. Pure; works on the engine's raw JSON, so that fields this
//! program does not know are carried as they are.
//!
//! Carried: all of `Config` but the old image's defaults (user, working directory, stop signal, environment,
//! labels, entrypoint and command, exposed ports, volumes, health check per field) and a host name that the
//! engine made up; all of `HostConfig` but removed fields, with legacy links put right, empty port bindings
//! written out, and other containers called by name; unnamed volumes; per network what was asked for.
//! Not carried, since no inspection shows it: the writable layer, and a MAC address configured for a network
//! other than the primary one, unless the label `imagewatch.keep-mac=NETWORK` says that it was.

mod compose;
mod config;
mod host;
mod networks;
mod outside;
mod podman;
mod skip;
mod start_first;
mod storage;

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value, json};

pub use self::outside::filled_from_outside;
pub use self::podman::command_line::reason_against_podman;
pub use self::skip::{reason_against_removal, reason_against_restart, reason_to_postpone, reason_to_refuse};
pub use self::start_first::reason_against_start_first;
pub(super) use self::start_first::{endpoints, fixed_host_port, has_static_address};
use imagewatch_engine::ApiVersion;
use imagewatch_engine::image_facts::{platform_of, platform_of_manifest};

type Object = Map<String, Value>;

/// From here on a container is created for a platform.
const PLATFORM: ApiVersion = ApiVersion { major: 1, minor: 41 };

/// What a plan is made from; inspections are the engine's own, raw.
#[derive(Debug, Clone, Copy)]
pub struct PlanInput<'a> {
    /// The container to be replaced, inspected at API 1.51 or below: later ones hide a configured MAC address.
    pub old: &'a Value,
    /// The image that it runs, by id: what came from it is not carried.
    pub old_image: &'a Value,
    /// The image that the new container will run; with its `Manifests` where the engine can list them.
    pub new_image: &'a Value,
    /// The containers that its `VolumesFrom` names: their volumes come with them, not with the plan.
    pub volume_sources: &'a [Value],
    /// Full id and name of every container on the engine. A container refers to others by ids that change when
    /// those are replaced; the new one refers to them by name.
    pub names: &'a BTreeMap<String, String>,
    /// What the new container is created from; absent: what the old one was.
    pub reference: Option<&'a str>,
    /// The platform to create for; absent: none is named, and the engine takes what the reference has for its machine.
    pub platform: Option<&'a str>,
    /// The version that the plan is carried out with.
    pub api: ApiVersion,
    /// Whether the engine is Podman, which shows containers otherwise than Docker.
    pub is_podman: bool,
}

/// How the new container is made.
#[derive(Debug, Clone, PartialEq)]
pub struct Plan {
    /// The body of the engine's create call.
    pub body: Value,
    /// Networks with their endpoint settings, to be connected before the start. Empty where the engine
    /// creates a container with all of them.
    pub networks_to_connect: Vec<(String, Value)>,
    /// Networks that the create call connects whether asked or not, to be disconnected before the start.
    pub networks_to_disconnect: Vec<String>,
    /// The create call's `os/arch[/variant]`; absent where the engine takes none.
    pub platform: Option<String>,
}

/// Turns a container into the plan for its successor.
///
/// # Errors
/// Why this container cannot be made again as it is and what to do, as a lowercase fragment.
pub fn build_plan(input: &PlanInput<'_>) -> Result<Plan, String> {
    let old = if input.is_podman {
        Cow::Owned(podman::show_as_docker(input.old, input.old_image)?)
    } else {
        Cow::Borrowed(input.old)
    };
    let input = &PlanInput { old: &old, ..*input };
    let mut body = config::build_config(input);
    let mut host = host::build_host_config(input)?;
    let endpoints = networks::build_endpoints(input, &mut host)?;

    body.insert("HostConfig".to_owned(), Value::Object(host));
    body.insert("NetworkingConfig".to_owned(), json!({ "EndpointsConfig": endpoints.created }));
    Ok(Plan {
        body: Value::Object(body),
        networks_to_connect: endpoints.connected_after,
        networks_to_disconnect: endpoints.unwanted,
        platform: build_platform(input),
    })
}

fn build_platform(input: &PlanInput<'_>) -> Option<String> {
    input.platform.map(str::to_owned).filter(|_| input.api >= PLATFORM)
}

/// The platform of what `container` runs, to create it again on the same image.
pub(super) fn own_platform(container: &Value, image: &Value) -> Option<String> {
    platform_of_manifest(&container["ImageManifestDescriptor"]).or_else(|| platform_of(image))
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

/// Null, zero, and the empty text, list and object: the engine treats them all as not given, and newer ones omit them.
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

/// An absolute path as the engine keeps it, without what makes no difference.
fn clean_path(path: &str) -> String {
    let parts: Vec<&str> = path.split('/').filter(|part| !part.is_empty() && *part != ".").collect();
    format!("/{}", parts.join("/"))
}

fn short_id(container: &Value) -> Option<&str> {
    container["Id"].as_str().and_then(|id| id.get(..12))
}

/// Whether a network mode leaves the container without a network of its own.
fn is_shared_network(mode: &str) -> bool {
    matches!(mode, "host" | "none") || mode.starts_with("container:")
}

fn mounts(container: &Value) -> impl Iterator<Item = &Value> {
    container["Mounts"].as_array().into_iter().flatten()
}

#[cfg(test)]
mod tests;

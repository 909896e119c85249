//! `HostConfig`: everything as it is, but for what the create call takes otherwise than an inspection shows it.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use super::{Object, PlanInput, object, storage, strings};

/// The host config of the new container; its networks are put right by `networks`.
pub(super) fn build_host_config(input: &PlanInput<'_>) -> Result<Object, String> {
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
    call_others_by_name(&mut host, input.names)?;
    storage::keep_volumes(&mut host, input.old, input.volume_sources);
    Ok(host)
}

/// An inspection shows `/target:/me/alias` where the create call wants `target:alias`.
fn build_link(inspected: &str) -> String {
    let (target, alias) = inspected.split_once(':').unwrap_or((inspected, inspected));
    let last = |path: &str| path.rsplit('/').next().unwrap_or_default().to_owned();
    format!("{}:{}", last(target), last(alias))
}

/// Namespaces and volumes of other containers. The engine would take the id of one that is gone and fail
/// only at the start, so that is refused here.
fn call_others_by_name(host: &mut Object, names: &BTreeMap<String, String>) -> Result<(), String> {
    for (field, what) in [("NetworkMode", "network"), ("PidMode", "process namespace"), ("IpcMode", "IPC namespace")] {
        let Some(other) = host.get(field).and_then(Value::as_str).and_then(|mode| mode.strip_prefix("container:"))
        else {
            continue;
        };
        let name = find_name(names, other).ok_or_else(|| refuse_gone(what, other))?;
        host.insert(field.to_owned(), json!(format!("container:{name}")));
    }
    let mut sources = Vec::new();
    for source in strings(host.get("VolumesFrom").unwrap_or(&Value::Null)) {
        let (other, mode) = source.find(':').map_or((source, ""), |colon| source.split_at(colon));
        let name = find_name(names, other).ok_or_else(|| refuse_gone("volumes", other))?;
        sources.push(format!("{name}{mode}"));
    }
    if !sources.is_empty() {
        host.insert("VolumesFrom".to_owned(), json!(sources));
    }
    Ok(())
}

fn refuse_gone(what: &str, other: &str) -> String {
    let other = other.get(..12).filter(|_| other.len() == 64).unwrap_or(other);
    format!("it uses the {what} of container {other}, which is gone; recreate that one, then this one, by hand")
}

/// The name of a container that is called by id, by name or by the beginning of its id, in the engine's own order.
fn find_name<'a>(names: &'a BTreeMap<String, String>, other: &str) -> Option<&'a str> {
    let by_name = || names.values().find(|name| *name == other);
    let by_prefix = || {
        let mut found = names.iter().filter(|(id, _)| !other.is_empty() && id.starts_with(other));
        found.next().filter(|_| found.next().is_none()).map(|(_, name)| name)
    };
    names.get(other).or_else(by_name).or_else(by_prefix).map(String::as_str)
}

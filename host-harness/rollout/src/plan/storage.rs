//! Volumes: the new container gets the very volumes of the old one, the unnamed ones too.
//! Touches no data.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::{Object, clean_path, mounts, strings};

/// Names the old container's volumes wherever `host`, its host config, leaves the choice to the engine.
pub(super) fn keep_volumes(host: &mut Object, old: &Value, volume_sources: &[Value]) {
    let volumes: Vec<&Value> = mounts(old).filter(|mount| mount["Type"] == "volume").collect();
    let name_at = |destination: &str| {
        let mount = volumes.iter().find(|mount| same_path(&mount["Destination"], destination))?;
        mount["Name"].as_str()
    };
    let mut binds: Vec<String> =
        strings(host.get("Binds").unwrap_or(&Value::Null)).into_iter().map(|bind| name_bind(bind, name_at)).collect();
    for mount in host.get_mut("Mounts").and_then(Value::as_array_mut).into_iter().flatten() {
        name_mount(mount, name_at);
    }

    let covered = covered_destinations(&binds, host.get("Mounts").unwrap_or(&Value::Null), volume_sources);
    for volume in volumes {
        let (Some(name), Some(destination)) = (volume["Name"].as_str(), volume["Destination"].as_str()) else {
            continue;
        };
        if !covered.contains(&clean_path(destination)) {
            let mode = if volume["RW"] == false { ":ro" } else { "" };
            binds.push(format!("{name}:{destination}{mode}"));
        }
    }
    if !binds.is_empty() {
        host.insert("Binds".to_owned(), json!(binds));
    }
}

fn same_path(value: &Value, path: &str) -> bool {
    value.as_str().is_some_and(|text| clean_path(text) == clean_path(path))
}

/// A bind of a bare destination stands for an unnamed volume.
fn name_bind<'a>(bind: &str, name_at: impl Fn(&str) -> Option<&'a str>) -> String {
    match name_at(bind) {
        Some(name) if !bind.contains(':') => format!("{name}:{bind}"),
        _ => bind.to_owned(),
    }
}

fn name_mount<'a>(mount: &mut Value, name_at: impl Fn(&str) -> Option<&'a str>) {
    let is_unnamed = mount["Type"] == "volume" && mount["Source"].as_str().is_none_or(str::is_empty);
    let name = mount["Target"].as_str().and_then(name_at).map(str::to_owned);
    if let (true, Some(name)) = (is_unnamed, name) {
        mount["Source"] = Value::String(name);
    }
}

/// Where something is mounted already, so that another bind there would be a duplicate.
fn covered_destinations(binds: &[String], host_mounts: &Value, volume_sources: &[Value]) -> BTreeSet<String> {
    let of_binds = binds.iter().map(|bind| bind.split(':').nth(1).unwrap_or(bind));
    let of_mounts = host_mounts.as_array().into_iter().flatten().filter_map(|mount| mount["Target"].as_str());
    let of_sources = volume_sources.iter().flat_map(mounts).filter_map(|mount| mount["Destination"].as_str());
    of_binds.chain(of_mounts).chain(of_sources).map(clean_path).collect()
}

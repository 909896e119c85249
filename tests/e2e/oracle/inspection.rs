//! Compares two inspections. It removes what always differs between two containers, and explains what is unavoidable.
//! Every other difference is an error.

use serde_json::{Map, Value, json};

use super::sets::OptionSet;

/// The paths of values that are generated for each container. `*` stands for any name.
const GENERATED: [&str; 14] = [
    "/Id",
    "/Created",
    "/State",
    "/ExecIDs",
    "/GraphDriver/Data",
    "/Storage",
    "/NetworkSettings/SandboxID",
    "/NetworkSettings/SandboxKey",
    "/NetworkSettings/EndpointID",
    "/NetworkSettings/Networks/*/EndpointID",
    "/ResolvConfPath",
    "/HostnamePath",
    "/HostsPath",
    "/LogPath",
];
/// Addresses that the engine chooses if none is requested.
const ADDRESSES: [&str; 3] = ["IPAddress", "GlobalIPv6Address", "MacAddress"];
/// Values that a container gets at its start. A container that was started earlier still has them.
const OF_RUNNING_ENDPOINTS: [&str; 2] = ["NetworkID", "DNSNames"];

/// A difference that the replacement cannot avoid: the path, the values, and the reason.
struct Unavoidable {
    path: &'static str,
    /// The arguments are the values of the replaced container and of the new run.
    is_it: fn(&Value, &Value) -> bool,
    #[expect(dead_code, reason = "documentation")]
    why: &'static str,
}

const UNAVOIDABLE: [Unavoidable; 9] = [
    Unavoidable {
        path: "/HostConfig/Binds",
        is_it: |replaced, fresh| *fresh == without_kept_volumes(replaced),
        why: "an anonymous volume is kept by its name, to keep its data",
    },
    Unavoidable {
        path: "/HostConfig/Mounts/*/Source",
        is_it: |replaced, fresh| replaced == "<volume>" && fresh.is_null(),
        why: "the same for an anonymous volume of a mount",
    },
    Unavoidable {
        path: "/Mounts/*/Mode",
        is_it: |replaced, fresh| replaced == "z" && fresh == "",
        why: "a bind of a named volume gets the engine's default mode, an anonymous one gets none; both are shared",
    },
    Unavoidable {
        path: "/Mounts/only-a",
        is_it: |replaced, fresh| replaced["Name"] == "<volume>" && fresh.is_null(),
        why: "the data of a volume that the new image no longer declares are kept",
    },
    Unavoidable {
        path: "/HostConfig/NetworkMode",
        is_it: |replaced, fresh| replaced.is_string() && fresh == "<network id>",
        why: "a network given by id is requested by name, because the id is lost when the network is recreated",
    },
    Unavoidable {
        path: "/NetworkSettings/Networks/<network id>",
        is_it: |replaced, fresh| replaced.is_null() && fresh.is_object(),
        why: "therefore the engine no longer lists it a second time, under its id",
    },
    Unavoidable {
        path: "/NetworkSettings/Networks/*/DriverOpts",
        is_it: |replaced, fresh| replaced.is_null() && *fresh == json!({}),
        why: "`network connect` stores an empty request; an empty request is not repeated",
    },
    Unavoidable {
        path: "/NetworkSettings/Networks/*/IPAMConfig",
        is_it: |replaced, fresh| replaced.is_null() && *fresh == json!({}),
        why: "the same here",
    },
    Unavoidable {
        path: "/Config/Labels/imagewatch.transaction",
        is_it: |replaced, fresh| replaced.is_string() && fresh.is_null(),
        why: "the label by which an interrupted replacement is found",
    },
];

/// Returns one line for each difference that is not in the table.
pub(super) fn unexplained_differences(set: &OptionSet, replaced: &Value, fresh: &Value) -> Vec<String> {
    let mut found = Vec::new();
    differences("", &normalise(set, replaced), &normalise(set, fresh), &mut found);
    let unexplained = found.into_iter().filter(|(path, replaced, fresh)| {
        !UNAVOIDABLE.iter().any(|row| matches(row.path, path) && (row.is_it)(replaced, fresh))
    });
    unexplained.map(|(path, replaced, fresh)| format!("{path} is {replaced}, in a new run {fresh}")).collect()
}

/// Whether the text is a full id. The engine uses such ids as the names of anonymous volumes.
pub(super) fn is_id(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(|byte| byte.is_ascii_hexdigit())
}

fn normalise(set: &OptionSet, inspection: &Value) -> Value {
    let mut normal = inspection.clone();
    let id = inspection["Id"].as_str().unwrap_or_default().to_owned();
    let is_running = inspection["State"]["Running"] == true;
    for path in GENERATED {
        remove(&mut normal, path);
    }
    let networks = normal["NetworkSettings"]["Networks"].take();
    normal["NetworkSettings"]["Networks"] = normalise_networks(networks, &id, is_running);
    let chosen = |option: &str| set.options.contains(option) || set.after.contains(option);
    blank_addresses(&mut normal["NetworkSettings"], chosen("--ip "), chosen("mac-address"));
    blank_ports(&mut normal);
    // The command line sends these in any order.
    for path in ["/Config/Env", "/HostConfig/Binds"] {
        if let Some(entries) = normal.pointer_mut(path).and_then(Value::as_array_mut) {
            entries.sort_by(|one, other| one.as_str().cmp(&other.as_str()));
        }
    }
    normal["Mounts"] = mounts_by_destination(&normal["Mounts"]);
    blank_ids(&mut normal, &id);
    blank_network_id(&mut normal);
    normal["State"] = json!({ "Running": is_running });
    normal
}

fn remove(value: &mut Value, path: &str) {
    let Some((parent, field)) = path.rsplit_once('/') else { return };
    match parent.split_once("/*") {
        Some((outer, inner)) => {
            for each in value.pointer_mut(outer).and_then(Value::as_object_mut).into_iter().flat_map(Map::values_mut) {
                remove(each, &format!("{inner}/{field}"));
            }
        }
        None => {
            value.pointer_mut(parent).and_then(Value::as_object_mut).and_then(|parent| parent.remove(field));
        }
    }
}

/// Whether the short id is among the aliases depends on the version of the engine.
fn normalise_networks(mut networks: Value, id: &str, is_running: bool) -> Value {
    for endpoint in networks.as_object_mut().into_iter().flat_map(Map::values_mut) {
        if let Some(aliases) = endpoint["Aliases"].as_array_mut() {
            aliases.retain(|alias| *alias != id[..12]);
        }
        if endpoint["Aliases"] == json!([]) {
            endpoint["Aliases"] = Value::Null;
        }
        if !is_running {
            for field in OF_RUNNING_ENDPOINTS {
                endpoint[field] = Value::Null;
            }
        }
    }
    networks
}

fn blank_addresses(value: &mut Value, is_ip_chosen: bool, is_mac_chosen: bool) {
    for (key, field) in value.as_object_mut().into_iter().flatten() {
        let is_chosen = if key == "MacAddress" { is_mac_chosen } else { is_ip_chosen };
        if ADDRESSES.contains(&key.as_str()) && !is_chosen && field.as_str().is_some_and(|text| !text.is_empty()) {
            *field = json!("<chosen by the engine>");
        }
        blank_addresses(field, is_ip_chosen, is_mac_chosen);
    }
}

/// Replaces host ports that the engine chose.
fn blank_ports(inspection: &mut Value) {
    let asked = inspection["HostConfig"]["PortBindings"].clone();
    for (port, bindings) in inspection["NetworkSettings"]["Ports"].as_object_mut().into_iter().flatten() {
        let is_chosen = asked[port][0]["HostPort"].as_str().is_some_and(|port| !port.is_empty());
        for binding in bindings.as_array_mut().into_iter().flatten().filter(|_| !is_chosen) {
            binding["HostPort"] = json!("<chosen by the engine>");
        }
    }
}

/// Sorts the mounts by destination. The engine lists them in any order.
fn mounts_by_destination(mounts: &Value) -> Value {
    let mounts = mounts.as_array().into_iter().flatten();
    let key = |mount: &Value| mount["Destination"].as_str().unwrap_or_default().trim_start_matches('/').to_owned();
    Value::Object(mounts.map(|mount| (key(mount), mount.clone())).collect())
}

/// Replaces the container's own id and the ids of anonymous volumes.
fn blank_ids(value: &mut Value, id: &str) {
    match value {
        Value::String(text) => {
            let whole = text.replace(id, "<id>").replace(&id[..12], "<id>");
            let parts = whole.split_inclusive(['/', ':']).map(|part| {
                let end = part.trim_end_matches(['/', ':']);
                if is_id(end) { part.replace(end, "<volume>") } else { part.to_owned() }
            });
            *text = if text.starts_with("container:") || text.starts_with("sha256:") { whole } else { parts.collect() };
        }
        Value::Array(items) => items.iter_mut().for_each(|item| blank_ids(item, id)),
        Value::Object(fields) => fields.values_mut().for_each(|field| blank_ids(field, id)),
        _ => {}
    }
}

/// A network that was given by id is listed by name and by id. Both differ in each run of the tests.
fn blank_network_id(inspection: &mut Value) {
    let Some(networks) = inspection["NetworkSettings"]["Networks"].as_object_mut() else { return };
    let is_short_id = |name: &str| name.len() == 12 && name.bytes().all(|byte| byte.is_ascii_hexdigit());
    if let Some(short_id) = networks.keys().find(|name| is_short_id(name)).cloned() {
        let shown = networks.remove(&short_id);
        networks.extend(shown.map(|shown| ("<network id>".to_owned(), shown)));
        inspection["HostConfig"]["NetworkMode"] = json!("<network id>");
    }
}

/// Removes the binds of anonymous volumes. An empty list becomes null.
fn without_kept_volumes(binds: &Value) -> Value {
    let binds = binds.as_array().into_iter().flatten();
    let given: Vec<&Value> =
        binds.filter(|bind| !bind.as_str().is_some_and(|bind| bind.starts_with("<volume>:"))).collect();
    if given.is_empty() { Value::Null } else { json!(given) }
}

fn differences(path: &str, replaced: &Value, fresh: &Value, found: &mut Vec<(String, Value, Value)>) {
    match (replaced, fresh) {
        (Value::Object(one), Value::Object(other)) => {
            let mut keys: Vec<&String> = one.keys().chain(other.keys()).collect();
            keys.sort();
            keys.dedup();
            for key in keys {
                differences(&format!("{path}/{key}"), &replaced[key], &fresh[key], found);
            }
        }
        (Value::Array(one), Value::Array(other)) if one.len() == other.len() && one.iter().all(Value::is_object) => {
            for (index, (one, other)) in one.iter().zip(other).enumerate() {
                differences(&format!("{path}/{index}"), one, other, found);
            }
        }
        _ if replaced == fresh => {}
        _ => found.push((path.to_owned(), replaced.clone(), fresh.clone())),
    }
}

fn matches(pattern: &str, path: &str) -> bool {
    let (mut wanted, mut has) = (pattern.split('/'), path.split('/'));
    loop {
        match (wanted.next(), has.next()) {
            (None, None) => return true,
            (Some(part), Some(other)) if part == "*" || part == other => {}
            _ => return false,
        }
    }
}

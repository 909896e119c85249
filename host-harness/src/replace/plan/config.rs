//! `Config`: the inverse of how the engine merges a create call with the image's config
//! (moby, `daemon/commit.go`). A user's value that equals the old image's cannot be told from it.

use serde_json::{Value, json};

use super::{Object, is_empty, keys, object, strings};

const COMPOSE: &str = "com.docker.compose.";
const COMPOSE_PROJECT_MEMBER: &str = "com.docker.compose.config-hash";

/// The container's config without what `image`, its image's config, contributed.
pub(super) fn subtract_image(old: &Value, image: &Value) -> Object {
    let mut config = object(&old["Config"]);
    config.remove("OnBuild");
    for field in ["User", "WorkingDir", "StopSignal"] {
        if config.get(field) == image.get(field) {
            config.remove(field);
        }
    }
    set(&mut config, "Env", subtract_env(&old["Config"]["Env"], &image["Env"]));
    set(&mut config, "Labels", subtract_labels(&old["Config"]["Labels"], &image["Labels"]));
    subtract_command(&mut config, image);
    set(&mut config, "ExposedPorts", subtract_ports(old, image));
    set(&mut config, "Volumes", subtract_keys(&old["Config"]["Volumes"], &image["Volumes"]));
    set(&mut config, "Healthcheck", subtract_healthcheck(&old["Config"]["Healthcheck"], &image["Healthcheck"]));
    config
}

/// Takes out the host name that the engine filled in, which the create call would refuse or freeze.
pub(super) fn clear_derived_names(config: &mut Object, old: &Value, network_mode: &str) {
    let short_id = old["Id"].as_str().and_then(|id| id.get(..12));
    let is_short_id = short_id.is_some() && config.get("Hostname").and_then(Value::as_str) == short_id;
    let shares_network = network_mode.starts_with("container:");
    let shares_names = shares_network || network_mode == "host" || old["HostConfig"]["UTSMode"] == "host";
    if is_short_id || shares_names {
        config.remove("Hostname");
    }
    if shares_network {
        config.remove("Domainname"); // the engine copied the other container's
    }
}

fn set(config: &mut Object, field: &str, value: Value) {
    if is_empty(&value) {
        config.remove(field);
    } else {
        config.insert(field.to_owned(), value);
    }
}

fn subtract_env(old: &Value, image: &Value) -> Value {
    let image = strings(image);
    json!(strings(old).into_iter().filter(|entry| !image.contains(entry)).collect::<Vec<_>>())
}

/// Compose finds its project by labels that `docker compose build` also writes into the image,
/// so a project member keeps them even where they are equal.
fn subtract_labels(old: &Value, image: &Value) -> Value {
    let is_member = old.get(COMPOSE_PROJECT_MEMBER).is_some();
    let mut labels = object(old);
    labels.retain(|key, value| image.get(key) != Some(value) || (is_member && key.starts_with(COMPOSE)));
    Value::Object(labels)
}

fn subtract_keys(old: &Value, image: &Value) -> Value {
    let mut entries = object(old);
    entries.retain(|key, _| image.get(key).is_none());
    Value::Object(entries)
}

/// Published ports stay exposed, also where the image exposed them. A container in another one's network exposes none.
fn subtract_ports(old: &Value, image: &Value) -> Value {
    let host = &old["HostConfig"];
    if host["NetworkMode"].as_str().is_some_and(|mode| mode.starts_with("container:")) {
        return Value::Null;
    }
    let mut ports = subtract_keys(&old["Config"]["ExposedPorts"], &image["ExposedPorts"]);
    for port in keys(&host["PortBindings"]) {
        ports[port] = json!({});
    }
    ports
}

/// The image's command holds only for a container that was given neither; its entrypoint only for one
/// that was given none. `[""]` is how a create call says "no entrypoint"; an inspection shows it as null.
fn subtract_command(config: &mut Object, image: &Value) {
    let given = |config: &Object, field: &str| strings(config.get(field).unwrap_or(&Value::Null)).join("\0");
    let of_image = |field: &str| strings(&image[field]).join("\0");
    let (entrypoint, command) = (given(config, "Entrypoint"), given(config, "Cmd"));
    let same_entrypoint = entrypoint == of_image("Entrypoint");
    let same_command = command == of_image("Cmd");

    if same_entrypoint && (same_command || !command.is_empty()) {
        config.remove("Entrypoint");
        if same_command {
            config.remove("Cmd");
        }
    } else if entrypoint.is_empty() {
        config.insert("Entrypoint".to_owned(), json!([""]));
    }
}

/// Field by field, as the engine merges it; what is left are the user's own.
fn subtract_healthcheck(old: &Value, image: &Value) -> Value {
    let mut check = object(old);
    if check.get("Test") == Some(&json!(["NONE"])) {
        return Value::Object(check);
    }
    check.retain(|field, value| !is_empty(value) && image.get(field) != Some(value));
    Value::Object(check)
}

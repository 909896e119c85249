//! `Config`: the inverse of how the engine merges a create call with the image's config
//! (moby, `daemon/commit.go`). A user's value that equals the old image's cannot be told from it.

use serde_json::{Value, json};

use super::{Object, PlanInput, clean_path, compose, is_empty, keys, object, short_id, strings};
use crate::label;
use crate::labels::{KEEP_ENV, Labels, OURS};
use imagewatch_engine::ApiVersion;

const COMPOSE: &str = "com.docker.compose.";
const COMPOSE_PROJECT_MEMBER: &str = "com.docker.compose.config-hash";

/// The container's config without what its image contributed and what the engine made up.
pub(super) fn build_config(input: &PlanInput<'_>) -> Object {
    let (old, image) = (&input.old["Config"], &input.old_image["Config"]);
    let mut config = object(old);
    config.remove("OnBuild"); // a builder's, not a container's
    if let Some(reference) = input.reference {
        config.insert("Image".to_owned(), json!(reference));
    }
    for field in ["User", "StopSignal"] {
        if old[field] == image[field] {
            config.remove(field);
        }
    }
    // The engine cleans the container's, not the image's.
    let folder = |config: &Value| config["WorkingDir"].as_str().filter(|path| !path.is_empty()).map(clean_path);
    if folder(old) == folder(image) {
        config.remove("WorkingDir");
    }
    set(&mut config, "Env", subtract_env(input.old, &image["Env"]));
    let mut own_labels = subtract_labels(&old["Labels"], &image["Labels"]);
    compose::update_image(&mut own_labels, input);
    set(&mut config, "Labels", Value::Object(own_labels));
    subtract_command(&mut config, image);
    set(&mut config, "ExposedPorts", subtract_ports(input.old, image));
    set(&mut config, "Volumes", subtract_keys(&old["Volumes"], &image["Volumes"]));
    set(&mut config, "Healthcheck", subtract_healthcheck(&old["Healthcheck"], &image["Healthcheck"]));
    clear_derived_names(&mut config, input.old);
    if input.api >= ApiVersion::MANY_ENDPOINTS {
        config.remove("MacAddress"); // the endpoint has it
    }
    config
}

/// Takes out host names that the engine filled in and that the create call would refuse or freeze.
/// On the host's network it fills one in too, but there it cannot be told from one that was given, and is taken back.
fn clear_derived_names(config: &mut Object, old: &Value) {
    let host = &old["HostConfig"];
    let shares_network = host["NetworkMode"].as_str().is_some_and(|mode| mode.starts_with("container:"));
    let is_short_id = short_id(old).is_some_and(|id| config.get("Hostname") == Some(&json!(id)));
    if is_short_id || shares_network || host["UTSMode"] == "host" {
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
    let (image, kept) = (strings(image), Labels::of(old).list(KEEP_ENV).collect::<Vec<_>>());
    let is_kept = |entry: &str| kept.contains(&entry.split('=').next().unwrap_or(entry));
    let entries = strings(&old["Config"]["Env"]).into_iter();
    json!(entries.filter(|entry| is_kept(entry) || !image.contains(entry)).collect::<Vec<_>>())
}

/// Compose finds its project by labels that `docker compose build` also writes into the image,
/// so a project member keeps them even where they are equal; so for our own.
fn subtract_labels(old: &Value, image: &Value) -> Object {
    let is_member = old.get(COMPOSE_PROJECT_MEMBER).is_some();
    let mut own = object(old);
    own.retain(|key, value| {
        let is_kept = key.starts_with(OURS) || (is_member && key.starts_with(COMPOSE));
        key != label::LABEL && (is_kept || image.get(key) != Some(value))
    });
    own
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
    let is_off = check.get("Test") == Some(&json!(["NONE"]));
    check.retain(|field, value| {
        let is_switch = is_off && field == "Test";
        is_switch || (!is_empty(value) && image.get(field) != Some(value))
    });
    Value::Object(check)
}

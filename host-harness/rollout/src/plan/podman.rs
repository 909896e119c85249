//! Podman behind Docker's API (tried with 4.3): turns what it shows into what Docker would show, so that the
//! rest of the plan needs to know of one engine only. What it does not show at all: see `command_line`.

pub(super) mod command_line;

use serde_json::{Value, json};

use super::is_empty;

/// What Podman gives `/run`, `/tmp` and `/var/tmp` of a container with a read-only root.
const AUTOMATIC_TMPFS: &str = "rw,rprivate,nosuid,nodev,tmpcopyup";
const AUTOMATIC_TMPFS_PATHS: [&str; 3] = ["/run", "/tmp", "/var/tmp"];
/// Filled in where the image's check has none.
const DEFAULT_HEALTH_TIMEOUT_NS: u64 = 30_000_000_000;
const SIGTERM: u8 = 15;
/// Signals by the names that images use.
const SIGNALS: [(&str, u8); 8] =
    [("HUP", 1), ("INT", 2), ("QUIT", 3), ("KILL", 9), ("USR1", 10), ("USR2", 12), ("TERM", SIGTERM), ("WINCH", 28)];

/// The inspection as Docker would give it.
///
/// # Errors
/// What Podman's create call refuses, as a lowercase fragment.
pub(super) fn show_as_docker(old: &Value, old_image: &Value) -> Result<Value, String> {
    let mut old = old.clone();
    if !is_empty(&old["HostConfig"]["Links"]) {
        return Err("it has legacy links, which Podman's API refuses; recreate it by hand on a network".to_owned());
    }
    let short_id = super::short_id(&old).unwrap_or_default().to_owned();
    correct_host_config(&mut old["HostConfig"]);
    correct_config(&mut old["Config"], &old_image["Config"], &short_id);
    Ok(old)
}

fn correct_host_config(host: &mut Value) {
    let Some(fields) = host.as_object_mut() else { return };
    fields.remove("Links");
    // It shows all three, and takes the first only without the others.
    if fields.get("NanoCpus").is_some_and(|value| !is_empty(value)) {
        fields.remove("CpuPeriod");
        fields.remove("CpuQuota");
    }
    if fields.get("MemorySwappiness") == Some(&json!(-1)) {
        fields.remove("MemorySwappiness");
    }
    for (field, default) in
        [("PidMode", "private"), ("UTSMode", "private"), ("UsernsMode", "private"), ("Runtime", "oci")]
    {
        if fields.get(field) == Some(&json!(default)) {
            fields.remove(field);
        }
    }
    for limit in fields.get_mut("Ulimits").and_then(Value::as_array_mut).into_iter().flatten() {
        if let Some(name) = limit["Name"].as_str().and_then(|name| name.strip_prefix("RLIMIT_")) {
            limit["Name"] = json!(name.to_lowercase());
        }
    }
    for device in fields.get_mut("Devices").and_then(Value::as_array_mut).into_iter().flatten() {
        if is_empty(&device["CgroupPermissions"]) {
            device["CgroupPermissions"] = json!("rwm");
        }
    }
    let is_read_only = fields.get("ReadonlyRootfs") == Some(&json!(true));
    if let Some(tmpfs) = fields.get_mut("Tmpfs").and_then(Value::as_object_mut).filter(|_| is_read_only) {
        tmpfs.retain(|path, options| !(AUTOMATIC_TMPFS_PATHS.contains(&path.as_str()) && *options == AUTOMATIC_TMPFS));
    }
}

fn correct_config(config: &mut Value, image: &Value, short_id: &str) {
    let hostname = config["Hostname"].as_str().unwrap_or_default().to_owned();
    let Some(fields) = config.as_object_mut() else { return };
    if let Some(entries) = fields.get_mut("Env").and_then(Value::as_array_mut) {
        entries.retain(|entry| !is_automatic_variable(entry.as_str().unwrap_or_default(), &hostname, short_id));
    }
    let signal = fields.get("StopSignal").and_then(Value::as_str).and_then(signal_number);
    let of_image = image["StopSignal"].as_str().map_or(Some(SIGTERM), signal_number);
    if signal.is_some() && signal == of_image {
        fields.remove("StopSignal");
    }
    if let Some(check) = fields.get_mut("Healthcheck").and_then(Value::as_object_mut) {
        let is_filled_in = is_empty(&image["Healthcheck"]["Timeout"]);
        if is_filled_in && check.get("Timeout") == Some(&json!(DEFAULT_HEALTH_TIMEOUT_NS)) {
            check.remove("Timeout");
        }
    }
}

/// What it sets in every container.
fn is_automatic_variable(entry: &str, hostname: &str, short_id: &str) -> bool {
    match entry.split_once('=') {
        Some(("HOSTNAME", value)) => value == hostname || value == short_id,
        Some(("container", value)) => matches!(value, "podman" | "oci"),
        Some(("TERM", value)) => value == "xterm",
        _ => false,
    }
}

/// `15`, `TERM` and `SIGTERM` are the same.
fn signal_number(text: &str) -> Option<u8> {
    let name = text.to_uppercase();
    let name = name.trim_start_matches("SIG");
    text.parse().ok().or_else(|| SIGNALS.iter().find(|(known, _)| *known == name).map(|(_, number)| *number))
}

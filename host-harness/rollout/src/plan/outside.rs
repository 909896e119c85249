//! Files that `docker compose` puts into a container before it starts it: configs and secrets whose content is
//! written in the compose file. No inspection shows them, so a copy of the container would run without them.
//! What is seen here is a hint; nothing is read from the container.

use std::collections::BTreeSet;

use serde_json::Value;

use super::{clean_path, keys, mounts};
use crate::labels::{CARRY_NOTHING, COMPOSE_PROJECT, COMPOSE_SERVICE, Labels};

/// The engine's word for something that the image has not.
const ADDED: u64 = 1;
const SECRETS: &str = "/run/secrets/";
/// What a runtime adds to an image that lacks it. Never where compose puts a file.
const USUAL_FOLDERS: [&str; 20] = [
    "/bin", "/boot", "/dev", "/etc", "/home", "/lib", "/lib32", "/lib64", "/media", "/mnt", "/opt", "/proc", "/root",
    "/run", "/sbin", "/srv", "/sys", "/tmp", "/usr", "/var",
];
const OF_THE_ENGINE: [&str; 4] = ["/.dockerenv", "/etc/hostname", "/etc/hosts", "/etc/resolv.conf"];

/// Why a container of a compose project cannot be made again from what is known of it, as a lowercase fragment.
/// `changes` is the engine's list of what its file system has that its image has not: `Path` and `Kind`, 1 for added.
///
/// Only files directly below `/`, where compose puts a config by default, and below `/run/secrets` count.
/// A service may have written such a file itself; the label `imagewatch.carry-nothing=true` says so.
pub fn filled_from_outside(old: &Value, changes: &Value) -> Option<String> {
    let labels = Labels::of(old);
    labels.value(COMPOSE_PROJECT)?;
    if labels.is_yes(CARRY_NOTHING) {
        return None;
    }
    let changed: BTreeSet<String> = paths(changes, |_| true).collect();
    let explained = explained_paths(old);
    let file = paths(changes, |kind| kind == ADDED).find(|path| {
        is_where_compose_writes(path) && !is_folder_among(&changed, path) && !is_explained(&explained, path)
    })?;
    let service = labels.value(COMPOSE_SERVICE).unwrap_or("SERVICE");
    Some(format!(
        "{file} was put into it from outside, as compose does with a config or secret that is written in its file, \
         and would be lost; run `docker compose up -d --no-deps {service}` instead, or label it {CARRY_NOTHING}=true"
    ))
}

fn paths(changes: &Value, is_wanted: impl Fn(u64) -> bool) -> impl Iterator<Item = String> {
    let listed = changes.as_array().into_iter().flatten();
    let wanted = listed.filter(move |change| change["Kind"].as_u64().is_some_and(&is_wanted));
    wanted.filter_map(|change| change["Path"].as_str()).map(clean_path)
}

fn is_where_compose_writes(path: &str) -> bool {
    let is_at_top = path.rfind('/') == Some(0) && path.len() > 1;
    path.starts_with(SECRETS) || (is_at_top && !USUAL_FOLDERS.contains(&path))
}

fn is_folder_among(changed: &BTreeSet<String>, path: &str) -> bool {
    let inside = format!("{path}/");
    changed.range(inside.clone()..).next().is_some_and(|next| next.starts_with(&inside))
}

/// Where the engine makes a file or folder of its own.
fn explained_paths(old: &Value) -> BTreeSet<String> {
    let (config, host) = (&old["Config"], &old["HostConfig"]);
    let destinations = mounts(old).filter_map(|mount| mount["Destination"].as_str());
    let targets = host["Mounts"].as_array().into_iter().flatten().filter_map(|mount| mount["Target"].as_str());
    let devices = host["Devices"].as_array().into_iter().flatten();
    let devices = devices.filter_map(|device| device["PathInContainer"].as_str());
    destinations
        .chain(targets)
        .chain(devices)
        .chain(keys(&host["Tmpfs"]))
        .chain(keys(&config["Volumes"]))
        .chain(config["WorkingDir"].as_str())
        .chain(OF_THE_ENGINE)
        .map(clean_path)
        .collect()
}

/// The mount point itself, a folder on the way to it, or something within it.
fn is_explained(explained: &BTreeSet<String>, path: &str) -> bool {
    let is_within = |inner: &str, outer: &str| inner.strip_prefix(outer).is_some_and(|rest| rest.starts_with('/'));
    explained.iter().any(|known| known == path || is_within(known, path) || is_within(path, known))
}

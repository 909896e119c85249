//! What only the command line that made a Podman container tells of it. Reads the options, runs nothing.

use serde_json::Value;

use crate::plan::{is_empty, strings};

/// Options of `podman run` that Docker's API neither shows nor takes.
const NOT_IN_THE_API: [&str; 33] = [
    "annotation",
    "cgroup-conf",
    "cgroups",
    "chrootdirs",
    "decryption-key",
    "gidmap",
    "group-entry",
    "health-on-failure",
    "hostuser",
    "init",
    "init-path",
    "ip",
    "ip6",
    "mac-address",
    "no-hosts",
    "passwd-entry",
    "personality",
    "pod",
    "pod-id-file",
    "preserve-fds",
    "requires",
    "rootfs",
    "sdnotify",
    "secret",
    "subgidname",
    "subuidname",
    "systemd",
    "timeout",
    "tz",
    "uidmap",
    "umask",
    "unsetenv",
    "unsetenv-all",
];
const WITHOUT_VALUE: [&str; 24] = [
    "detach",
    "disable-content-trust",
    "env-host",
    "help",
    "http-proxy",
    "init",
    "interactive",
    "no-healthcheck",
    "no-hosts",
    "oom-kill-disable",
    "passwd",
    "privileged",
    "publish-all",
    "quiet",
    "read-only",
    "read-only-tmpfs",
    "replace",
    "rm",
    "rmi",
    "rootfs",
    "sig-proxy",
    "tls-verify",
    "tty",
    "unsetenv-all",
];
const SHORT_WITHOUT_VALUE: &str = "dhiPqt";
/// Parts of `--network NAME:…` that no inspection shows.
const NETWORK_PARTS: [&str; 4] = ["ip", "ip6", "mac", "interface_name"];

/// Why Podman's container cannot be made again through Docker's API, as a lowercase fragment. `libpod` is
/// Podman's own inspection, which has the command line that created the container. One created through
/// an API has none, and then a fixed address cannot be told from a dynamic one: nothing is refused.
pub fn reason_against_podman(libpod: &Value) -> Option<String> {
    if !is_empty(&libpod["Pod"]) {
        return Some("it is part of a pod; recreate the pod instead".to_owned());
    }
    let command = strings(&libpod["Config"]["CreateCommand"]);
    let start = command.iter().position(|word| matches!(*word, "run" | "create"))? + 1;
    let (option, _) = options(&command[start..]).find(|(name, value)| is_lost(name, value))?;
    Some(format!(
        "it was created with --{option}, which Podman's Docker API cannot carry over; recreate it by hand, \
         or run it from a systemd unit"
    ))
}

fn is_lost(name: &str, value: &str) -> bool {
    let is_network = matches!(name, "network" | "net");
    let parts = value.split_once(':').map_or("", |(_, parts)| parts).split(',');
    let mut keys = parts.filter_map(|part| part.split('=').next());
    NOT_IN_THE_API.contains(&name) && value != "false"
        || name.starts_with("health-startup-")
        || (is_network && keys.any(|key| NETWORK_PARTS.contains(&key)))
}

/// Long options and their values, until the first word that is none, which is the image.
fn options<'a>(words: &'a [&'a str]) -> impl Iterator<Item = (&'a str, &'a str)> {
    let mut words = words.iter().copied();
    std::iter::from_fn(move || {
        let word = words.next()?;
        if let Some(long) = word.strip_prefix("--") {
            if let Some(option) = long.split_once('=') {
                return Some(option);
            }
            let value = if WITHOUT_VALUE.contains(&long) { "" } else { words.next().unwrap_or_default() };
            return (!long.is_empty()).then_some((long, value));
        }
        let short = word.strip_prefix('-')?;
        // In `-itv DATA:/data` only the last one takes a value, which is the next word unless it follows at once.
        let first_with_value = short.find(|letter| !SHORT_WITHOUT_VALUE.contains(letter));
        if first_with_value.is_some_and(|at| at + 1 == short.len()) {
            words.next();
        }
        Some(("", ""))
    })
}

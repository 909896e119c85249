//! Which of a container's mounts hold data that another container may share with it. Pure; reads the `Mounts` of a list
//! line or of an inspection, which have the same form.

use std::collections::BTreeSet;
use std::path::Path;

use serde_json::Value;

/// Folders of the host that hold no data of a service: what the kernel or the running system puts there.
const SYSTEM_FOLDERS: [&str; 5] = ["/dev", "/proc", "/sys", "/run", "/var/run"];
/// Files of the host that are often mounted without `:ro`, and that no service writes to.
const SYSTEM_FILES: [&str; 3] = ["/etc/localtime", "/etc/timezone", "/etc/resolv.conf"];

/// The named volumes and host folders that a container with these `mounts` can write to.
pub fn writable_mounts(mounts: &Value) -> BTreeSet<String> {
    let text = |mount: &Value, key: &str| mount[key].as_str().filter(|text| !text.is_empty()).map(str::to_owned);
    let source = |mount: &Value| match mount["Type"].as_str() {
        Some("volume") => text(mount, "Name"),
        Some("bind") => text(mount, "Source").filter(|source| holds_data(source)),
        _ => None,
    };
    mounts.as_array().into_iter().flatten().filter(|mount| mount["RW"] == true).filter_map(source).collect()
}

fn holds_data(source: &str) -> bool {
    let is_socket = Path::new(source).extension().is_some_and(|extension| extension == "sock");
    let is_of_system = SYSTEM_FOLDERS.iter().any(|folder| Path::new(source).starts_with(folder));
    !is_socket && !is_of_system && !SYSTEM_FILES.contains(&source)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn f36_what_two_containers_can_write_to_is_a_volume_or_a_folder_with_data() {
        let bind = |source: &str, rw: bool| json!({ "Type": "bind", "Source": source, "RW": rw });
        for (case, mount, expected) in [
            (
                "a named volume",
                json!({ "Type": "volume", "Name": "data", "Source": "/v/data/_data", "RW": true }),
                Some("data"),
            ),
            ("a read-only volume", json!({ "Type": "volume", "Name": "data", "RW": false }), None),
            ("a host folder", bind("/srv/data", true), Some("/srv/data")),
            ("a read-only host folder", bind("/srv/data", false), None),
            ("memory", json!({ "Type": "tmpfs", "Source": "", "RW": true }), None),
            ("the engine's socket", bind("/var/run/docker.sock", true), None),
            ("a socket elsewhere", bind("/srv/db.sock", true), None),
            ("the time zone", bind("/etc/localtime", true), None),
            ("a device", bind("/dev/dri", true), None),
            ("a name that begins like a system folder", bind("/development", true), Some("/development")),
        ] {
            let found = writable_mounts(&json!([mount]));
            assert_eq!(found.iter().map(String::as_str).next(), expected, "{case}");
        }
        assert_eq!(writable_mounts(&Value::Null), BTreeSet::new());
    }
}

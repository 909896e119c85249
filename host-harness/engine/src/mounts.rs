//! A container's mounts: the names of its volumes, and the mounts with data that another container may share. All
//! functions are pure. They read the `Mounts` of a list entry or of an inspection, which have the same form.

use std::collections::BTreeSet;
use std::path::Path;

use serde_json::Value;

/// Folders of the host whose content comes from the kernel or the running system. They contain no data of a service.
const SYSTEM_FOLDERS: [&str; 5] = ["/dev", "/proc", "/sys", "/run", "/var/run"];
/// Files of the host that are often mounted without `:ro`, although no service writes to them.
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

/// Adds volume names that the engine omits. Docker 28 omits the name of a volume from `Binds` that has only a
/// destination. The volume's source, `…/volumes/NAME/_data`, still contains the name.
pub fn complete_names(inspection: &mut Value) {
    let mounts = inspection.get_mut("Mounts").and_then(Value::as_array_mut).into_iter().flatten();
    for mount in mounts.filter(|mount| is_nameless_volume(mount)) {
        let mut parts = mount["Source"].as_str().unwrap_or_default().rsplit('/');
        if let (Some("_data"), Some(name), Some("volumes")) = (parts.next(), parts.next(), parts.next()) {
            mount["Name"] = Value::String(name.to_owned());
        }
    }
}

/// Whether `mount` is a volume for which the engine reports no name.
pub fn is_nameless_volume(mount: &Value) -> bool {
    mount["Type"] == "volume" && mount["Name"].as_str().is_none_or(str::is_empty)
}

fn holds_data(source: &str) -> bool {
    let is_socket = Path::new(source).extension().is_some_and(|extension| extension == "sock");
    let is_system_folder = SYSTEM_FOLDERS.iter().any(|folder| Path::new(source).starts_with(folder));
    !is_socket && !is_system_folder && !SYSTEM_FILES.contains(&source)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_missing_volume_name_is_read_from_the_source() {
        let id = "0397f577ea0f6fac06996fd5130ff97df6d2eaf06cc73ab16c02c7aac4ca55a6";
        let source = format!("/var/lib/docker/volumes/{id}/_data");
        for (case, mount, expected) in [
            ("Docker 28", json!({ "Type": "volume", "Source": source }), Some(id)),
            ("an empty name", json!({ "Type": "volume", "Name": "", "Source": source }), Some(id)),
            ("a name", json!({ "Type": "volume", "Name": "data", "Source": source }), Some("data")),
            ("a volume of another driver", json!({ "Type": "volume", "Source": "/mnt/nfs/data" }), None),
            ("no source", json!({ "Type": "volume" }), None),
            ("a host folder", json!({ "Type": "bind", "Source": source }), None),
        ] {
            let mut inspection = json!({ "Mounts": [mount] });
            complete_names(&mut inspection);
            assert_eq!(inspection["Mounts"][0]["Name"].as_str().filter(|name| !name.is_empty()), expected, "{case}");
        }
        for other in [json!({ "Mounts": null }), json!({}), json!(["no object"])] {
            let mut same = other.clone();
            complete_names(&mut same);
            assert_eq!(same, other);
        }
    }

    #[test]
    fn f36_writable_mounts_are_volumes_and_folders_with_data() {
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
            ("a tmpfs", json!({ "Type": "tmpfs", "Source": "", "RW": true }), None),
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

//! Who may run beside its successor.

use super::*;
use imagewatch_engine::EngineFacts;

/// Docker, at version 1.`minor` of its API.
fn engine(minor: u16) -> EngineFacts {
    EngineFacts { api: ApiVersion { major: 1, minor }, is_podman: false }
}

/// A container that may be replaced start-first, with `change` merged in at the top.
fn container(change: &Value) -> Value {
    let mut old = json!({
        "Name": "/web",
        "Config": { "Healthcheck": { "Test": ["CMD", "x"] }, "Labels": {} },
        "HostConfig": { "NetworkMode": "front", "PortBindings": { "80/tcp": [{ "HostIp": "", "HostPort": "" }] } },
        "NetworkSettings": { "Networks": { "front": { "IPAMConfig": {}, "Aliases": ["web"], "MacAddress": "02:42:0a:00:00:09" } } },
        "Mounts": [{ "Type": "volume", "Destination": "/ro", "RW": false }, { "Type": "tmpfs", "Destination": "/t", "RW": true }],
    });
    for (key, fields) in object(change) {
        for (field, value) in object(&fields) {
            old[&key][&field] = value;
        }
        if !fields.is_object() {
            old[key] = fields;
        }
    }
    old
}

#[test]
fn t39_two_run_side_by_side_only_where_nothing_of_theirs_collides() {
    let host = |field: &str, value: Value| json!({ "HostConfig": { field: value } });
    let network = |endpoint: Value| json!({ "NetworkSettings": { "Networks": { "front": endpoint } } });
    let port = |port: &str| host("PortBindings", json!({ "80/tcp": [{ "HostIp": "", "HostPort": port }] }));
    let writable = json!([{ "Type": "volume", "Destination": "/data", "RW": true }]);
    let shared = json!({ "Mounts": writable, "Config": { "Labels": { "imagewatch.shared-volumes-safe": "true" } } });
    for (case, change, says) in [
        ("nothing", json!({}), None),
        ("host port", port("8080"), Some("host port 8080")),
        ("host port of the engine's choice", port("0"), None),
        ("host network", host("NetworkMode", json!("host")), Some("network is host")),
        ("another one's network", host("NetworkMode", json!("container:db")), Some("network is container:db")),
        (
            "fixed address",
            network(json!({ "IPAMConfig": { "IPv4Address": "10.0.0.9" } })),
            Some("fixed address on network front"),
        ),
        ("no address asked for", network(json!({ "IPAMConfig": { "IPv4Address": "" } })), None),
        ("configured MAC address", json!({ "Config": { "MacAddress": "02:00:00:00:00:01" } }), Some("MAC address")),
        ("--rm", host("AutoRemove", json!(true)), Some("--rm")),
        ("device", host("Devices", json!([{ "PathOnHost": "/dev/x" }])), Some("devices")),
        ("GPU", host("DeviceRequests", json!([{ "Count": 1 }])), Some("devices")),
        ("writable volume", json!({ "Mounts": writable }), Some("its volume at /data")),
        ("writable volume, labelled", shared, None),
        (
            "writable bind",
            json!({ "Mounts": [{ "Type": "bind", "Destination": "/b", "RW": true }] }),
            Some("its volume at /b"),
        ),
    ] {
        let reason = reason_against_start_first(&container(&change), [&NOTHING; 2], engine(51), false, false);
        assert_eq!(reason.is_some(), says.is_some(), "{case}: {reason:?}");
        assert!(reason.unwrap_or_default().contains(says.unwrap_or_default()), "{case}");
    }
    let reason = reason_against_start_first(&container(&json!({})), [&NOTHING; 2], engine(51), false, true);
    assert!(reason.unwrap().starts_with("other containers use"), "hard dependents");
}

#[test]
fn t39_something_must_tell_when_the_new_one_serves() {
    let (none, check, off) = (Value::Null, json!({ "Test": ["CMD", "x"] }), json!({ "Test": ["NONE"] }));
    let interval = json!({ "Interval": 5 });
    for (case, own, before, of_image, probe, is_allowed) in [
        ("none at all", &none, &none, &none, None, false),
        ("its own", &check, &none, &none, None, true),
        ("the image's", &none, &none, &check, None, true),
        ("the image's, at its own interval", &interval, &none, &check, None, true),
        ("the old image's, and the new one's", &check, &check, &check, None, true),
        ("the old image's, and not the new one's", &check, &check, &none, None, false),
        ("switched off", &off, &none, &check, None, false),
        ("switched off in the image", &none, &none, &off, None, false),
        ("a probe", &off, &none, &none, Some("tcp:80"), true),
    ] {
        let config = json!({ "Config": { "Healthcheck": own, "Labels": { "imagewatch.probe": probe } } });
        let images = [before, of_image].map(|check| json!({ "Config": { "Healthcheck": check } }));
        let reason = reason_against_start_first(&container(&config), images.each_ref(), engine(51), false, false);
        assert_eq!(reason.is_none(), is_allowed, "{case}: {reason:?}");
        assert!(reason.is_none_or(|reason| reason.contains("health check")), "{case}");
    }
}

#[test]
fn t38_a_node_of_a_swarm_needs_the_name_as_an_alias() {
    for (case, networks, is_allowed) in [
        ("an alias", json!({ "front": { "Aliases": ["web"] } }), true),
        ("another alias", json!({ "front": { "Aliases": ["www"] } }), false),
        (
            "none on the second network",
            json!({ "front": { "Aliases": ["web"] }, "second": { "Aliases": null } }),
            false,
        ),
        ("the default network has no names", json!({ "front": { "Aliases": ["web"] }, "bridge": {} }), true),
    ] {
        let mut old = container(&json!({}));
        old["NetworkSettings"]["Networks"] = networks;
        assert_eq!(
            reason_against_start_first(&old, [&NOTHING; 2], engine(51), true, false).is_none(),
            is_allowed,
            "{case}"
        );
        assert_eq!(
            reason_against_start_first(&old, [&NOTHING; 2], engine(51), false, false),
            None,
            "{case}, without a swarm"
        );
    }
}

#[test]
fn t39_a_mac_address_that_was_asked_for_on_any_network_is_only_ones_own() {
    let second = |mac: &str| json!({ "IPAddress": "10.0.1.9", "MacAddress": mac });
    let keep = json!({ "imagewatch.keep-mac": "second" });
    for (case, minor, mac, labels, is_allowed) in [
        ("generated from the address", 47, "02:42:0a:00:01:09", json!({}), true),
        ("asked for", 47, "02:00:00:00:00:01", json!({}), false),
        ("where nobody can tell", 51, "02:00:00:00:00:01", json!({}), true),
        ("where the label tells", 51, "02:00:00:00:00:01", keep, false),
    ] {
        let mut old = container(&json!({ "Config": { "Labels": labels } }));
        old["NetworkSettings"]["Networks"]["second"] = second(mac);
        let reason = reason_against_start_first(&old, [&NOTHING; 2], engine(minor), false, false);
        assert_eq!(reason.is_none(), is_allowed, "{case}: {reason:?}");
        assert!(reason.is_none_or(|reason| reason.contains("MAC address")), "{case}");
    }
}

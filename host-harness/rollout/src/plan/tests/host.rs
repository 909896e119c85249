//! `HostConfig`, volumes included.

use super::*;

#[test]
fn t37_t45_host_settings_are_carried_but_what_the_create_call_would_refuse() {
    let kept = json!({
        "Memory": 1000, "NanoCpus": 5, "Novelty": [1], "ShmSize": 64, "Runtime": "runc", "Init": true, "CgroupParent": "/p",
        "Devices": [{ "PathOnHost": "/dev/null", "PathInContainer": "/dev/x", "CgroupPermissions": "rw" }],
        "DeviceRequests": [{ "Count": -1, "Capabilities": [["gpu"]] }], "Tmpfs": { "/t": "size=1m" },
        "Ulimits": [{ "Name": "nofile", "Soft": 1, "Hard": 2 }], "LogConfig": { "Type": "json-file", "Config": { "max-size": "1m" } },
        "Sysctls": { "net.ipv4.conf.eth0.forwarding": "1" }, "Annotations": { "a": "b" }, "CapAdd": ["NET_ADMIN"],
        "ReadonlyRootfs": true, "MaskedPaths": [], "AutoRemove": false,
        "RestartPolicy": { "Name": "on-failure", "MaximumRetryCount": 3 },
    });
    let mut host = object(&kept);
    let odd = json!({
        "KernelMemory": 5, "KernelMemoryTCP": 5, "ConsoleSize": [1, 2], "ContainerIDFile": "/x",
        "Links": ["/db:/web/database"],
        "PortBindings": { "80/tcp": [], "82/tcp": null, "81/tcp": [{ "HostIp": "127.0.0.1", "HostPort": "81" }] },
    });
    host.extend(object(&odd));
    let mut expected = kept;
    expected["Links"] = json!(["db:database"]);
    expected["PortBindings"] = json!({
        "80/tcp": [{ "HostIp": "", "HostPort": "" }], "82/tcp": [{ "HostIp": "", "HostPort": "" }],
        "81/tcp": [{ "HostIp": "127.0.0.1", "HostPort": "81" }],
    });
    assert_eq!(plan_config(&json!({}), &Value::Object(host), &json!({}))["HostConfig"], expected);
}

#[test]
fn t17_other_containers_are_called_by_name_or_the_plan_is_refused() {
    let id = |field: &str, value: &str| json!({ field: format!("container:{value}") });
    for (case, host, expected) in [
        ("network by id", id("NetworkMode", DB_ID), Ok(id("NetworkMode", "db"))),
        ("network by short id", id("NetworkMode", "dbdbdbdbdbdb"), Ok(id("NetworkMode", "db"))),
        ("network by name", id("NetworkMode", "db"), Ok(id("NetworkMode", "db"))),
        ("a name that begins an id is a name", id("NetworkMode", "cafe"), Ok(id("NetworkMode", "cafe"))),
        ("processes", id("PidMode", DB_ID), Ok(id("PidMode", "db"))),
        ("ipc", id("IpcMode", DB_ID), Ok(id("IpcMode", "db"))),
        ("not another one's", json!({ "IpcMode": "shareable" }), Ok(json!({ "IpcMode": "shareable" }))),
        (
            "volumes, with their mode",
            json!({ "VolumesFrom": [format!("{DB_ID}:ro"), "cafe"] }),
            Ok(json!({ "VolumesFrom": ["db:ro", "cafe"] })),
        ),
        (
            "network of a dead one",
            id("NetworkMode", &"f".repeat(64)),
            Err("network of container ffffffffffff, which is gone"),
        ),
        ("processes of a dead one", id("PidMode", "gone"), Err("process namespace of container gone, which is gone")),
        (
            "volumes of a dead one",
            json!({ "VolumesFrom": ["gone:ro"] }),
            Err("volumes of container gone, which is gone"),
        ),
    ] {
        let old = json!({ "Id": ID, "HostConfig": host });
        match (build_plan(&input(&old, &NOTHING)), expected) {
            (Ok(plan), Ok(expected)) => assert_eq!(plan.body["HostConfig"], expected, "{case}"),
            (Err(reason), Err(says)) => assert!(reason.contains(says), "{case}: {reason}"),
            (other, _) => panic!("{case}: {other:?}"),
        }
    }
}

#[test]
fn t19_a_legacy_link_is_written_as_the_create_call_wants_it() {
    let links = json!({ "Links": ["/a:/b/a", "/a:/b/alias"] });
    assert_eq!(plan_config(&json!({}), &links, &json!({}))["HostConfig"]["Links"], json!(["a:a", "a:alias"]));
}

#[test]
fn t15_every_volume_of_the_old_container_is_the_new_ones_too() {
    let volume = |name: &str, destination: &str, rw: bool| json!({ "Type": "volume", "Name": name, "Destination": destination, "RW": rw });
    let old = json!({
        "Id": ID, "Config": {},
        "HostConfig": {
            "Binds": ["named:/named", "/host:/bound:ro", "/bare"], "VolumesFrom": ["db"],
            "Mounts": [{ "Type": "volume", "Target": "/unnamed/" }, { "Type": "volume", "Source": "m", "Target": "/m" }],
        },
        "Mounts": [
            volume("named", "/named", true), volume("v1", "/bare", true), volume("v2", "/unnamed", true),
            volume("m", "/m", true), volume("v3", "/from-image", true), volume("v4", "/read-only", false),
            volume("v5", "/from-other", true), { "Type": "bind", "Source": "/host", "Destination": "/bound" },
        ],
    });
    let other = [json!({ "Mounts": [volume("v5", "/from-other", true)] })];
    let plan = build_plan(&PlanInput { volume_sources: &other, ..input(&old, &json!({})) }).unwrap();
    let host = &plan.body["HostConfig"];
    let binds = ["named:/named", "/host:/bound:ro", "v1:/bare", "v3:/from-image", "v4:/read-only:ro"];
    assert_eq!(host["Binds"], json!(binds));
    let mounts = json!([
        { "Type": "volume", "Target": "/unnamed/", "Source": "v2" }, { "Type": "volume", "Source": "m", "Target": "/m" },
    ]);
    assert_eq!(host["Mounts"], mounts);
}

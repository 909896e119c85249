//! Podman behind Docker's API.

use super::*;

fn plan(old: &Value, image: &Value) -> Result<Plan, String> {
    build_plan(&PlanInput { is_podman: true, ..input(old, image) })
}

#[test]
fn t46_what_podman_shows_otherwise_than_its_create_call_wants_it_is_put_right() {
    let auto = "rw,rprivate,nosuid,nodev,tmpcopyup";
    let nothing = json!({});
    for (case, host, expected) in [
        ("processors", json!({ "NanoCpus": 5, "CpuPeriod": 1, "CpuQuota": 2 }), json!({ "NanoCpus": 5 })),
        ("a quota of its own", json!({ "NanoCpus": 0, "CpuPeriod": 1 }), json!({ "NanoCpus": 0, "CpuPeriod": 1 })),
        ("swappiness not set", json!({ "MemorySwappiness": -1 }), nothing.clone()),
        ("swappiness", json!({ "MemorySwappiness": 10 }), json!({ "MemorySwappiness": 10 })),
        (
            "namespaces of its own",
            json!({ "PidMode": "private", "UTSMode": "private", "UsernsMode": "private", "IpcMode": "shareable" }),
            json!({ "IpcMode": "shareable" }),
        ),
        ("namespaces of the host", json!({ "PidMode": "host" }), json!({ "PidMode": "host" })),
        ("runtime", json!({ "Runtime": "oci" }), nothing.clone()),
        (
            "limits",
            json!({ "Ulimits": [{ "Name": "RLIMIT_NOFILE", "Soft": 1, "Hard": 2 }] }),
            json!({ "Ulimits": [{ "Name": "nofile", "Soft": 1, "Hard": 2 }] }),
        ),
        (
            "devices",
            json!({ "Devices": [{ "PathOnHost": "/dev/x", "CgroupPermissions": "" }] }),
            json!({ "Devices": [{ "PathOnHost": "/dev/x", "CgroupPermissions": "rwm" }] }),
        ),
        ("links", json!({ "Links": [] }), nothing),
        (
            "tmpfs of a read-only container",
            json!({ "ReadonlyRootfs": true, "Tmpfs": { "/run": auto, "/tmp": "size=1m", "/mine": auto } }),
            json!({ "ReadonlyRootfs": true, "Tmpfs": { "/tmp": "size=1m", "/mine": auto } }),
        ),
        ("tmpfs otherwise", json!({ "Tmpfs": { "/run": auto } }), json!({ "Tmpfs": { "/run": auto } })),
    ] {
        let old = json!({ "Id": ID, "HostConfig": host });
        assert_eq!(plan(&old, &NOTHING).unwrap().body["HostConfig"], expected, "{case}");
    }
}

#[test]
fn t46_what_podman_fills_in_is_left_to_it() {
    let second = 1_000_000_000_u64;
    let old = json!({ "Id": ID, "Config": {
        "Hostname": "0123456789ab", "StopSignal": "2",
        "Env": ["HOSTNAME=0123456789ab", "container=podman", "TERM=xterm", "A=1", "MINE=1"],
        "Healthcheck": { "Test": ["CMD", "x"], "Timeout": 30 * second, "Interval": 5 * second },
    } });
    let image =
        json!({ "Config": { "Env": ["A=1"], "StopSignal": "SIGINT", "Healthcheck": { "Test": ["CMD", "x"] } } });
    let body = plan(&old, &image).unwrap().body;
    let (hostname, signal) = (body.get("Hostname"), body.get("StopSignal"));
    assert_eq!((hostname, signal), (None, None));
    assert_eq!((&body["Env"], &body["Healthcheck"]), (&json!(["MINE=1"]), &json!({ "Interval": 5 * second })));

    let given = json!({ "Id": ID, "Config": {
        "Hostname": "web", "StopSignal": "3", "Env": ["HOSTNAME=other", "container=mine", "TERM=vt100"],
    } });
    let body = plan(&given, &NOTHING).unwrap().body;
    assert_eq!((&body["Hostname"], &body["StopSignal"]), (&json!("web"), &json!("3")));
    assert_eq!(body["Env"], json!(["HOSTNAME=other", "container=mine", "TERM=vt100"]));
    let default = json!({ "Id": ID, "Config": { "StopSignal": "15" } });
    assert_eq!(plan(&default, &NOTHING).unwrap().body.get("StopSignal"), None);
}

#[test]
fn t46_podman_takes_all_networks_at_once_and_no_address_of_its_own_giving() {
    let shown =
        json!({ "Aliases": ["web", "0123456789ab"], "IPAddress": "10.0.0.9", "MacAddress": "9a:00:00:00:00:02" });
    for (case, mode, networks, created, disconnected) in [
        (
            "two",
            "bridge",
            json!({ "rn1": shown, "rn2": {} }),
            json!({ "rn1": { "Aliases": ["web"] }, "rn2": {} }),
            None,
        ),
        ("the default one", "bridge", json!({ "podman": shown }), json!({ "podman": {} }), None),
        ("none any more", "bridge", json!({}), json!({}), Some("podman")),
        ("a user's own stack", "slirp4netns", json!({}), json!({}), None),
    ] {
        let old = json!({
            "Id": ID, "HostConfig": { "NetworkMode": mode }, "NetworkSettings": { "Networks": networks },
        });
        let plan = plan(&old, &NOTHING).unwrap();
        assert_eq!(plan.body["NetworkingConfig"]["EndpointsConfig"], created, "{case}");
        assert_eq!(plan.body["HostConfig"]["NetworkMode"], mode, "{case}");
        assert_eq!(plan.networks_to_connect, [], "{case}");
        assert_eq!(plan.networks_to_disconnect, Vec::from_iter(disconnected), "{case}");
    }
}

#[test]
fn t46_legacy_links_are_refused() {
    let old = json!({ "Id": ID, "HostConfig": { "Links": ["/db:/web/db"] } });
    assert!(plan(&old, &NOTHING).unwrap_err().contains("legacy links"));
}

#[test]
fn t46_the_command_line_tells_what_podmans_api_hides() {
    for (case, command, says) in [
        ("fixed address", "podman run -d --name web --ip 10.0.0.9 app", Some("--ip")),
        ("fixed address, with an equals sign", "podman run --ip=10.0.0.9 app", Some("--ip")),
        ("fixed IPv6 address", "podman container create --ip6 fd00::9 app", Some("--ip6")),
        ("MAC address", "podman run -it --mac-address 02:00:00:00:00:01 app", Some("--mac-address")),
        ("address of a network", "podman run --network rn1:alias=web,ip=10.0.0.9 app", Some("--network")),
        ("MAC address of a network", "podman run --net=rn1:mac=02:00:00:00:00:01 app", Some("--net")),
        ("alias of a network", "podman run --network rn1:alias=web app", None),
        ("init", "podman run --init app", Some("--init")),
        ("init after a cluster with a value", "podman run -dv data:/data --init app", Some("--init")),
        ("no init", "podman run --init=false app", None),
        ("time zone", "podman --log-level debug run --tz=local app", Some("--tz")),
        ("start-up check", "podman run --health-startup-cmd x app", Some("--health-startup-cmd")),
        ("the command's own option", "podman run -d app --ip 10.0.0.9", None),
        ("a value that looks like one", "podman run --name --ip app", None),
        ("after the end of options", "podman run -d -- app --init", None),
        (
            "nothing of the kind",
            "podman run -d -p 80:80 -e A=1 --network rn1 -v data:/data --restart always app sh",
            None,
        ),
        ("made through an API", "podman system service --time=0 unix:///run/podman.sock", None),
        ("unknown", "", None),
    ] {
        let words: Vec<&str> = command.split_whitespace().collect();
        let reason = reason_against_podman(&json!({ "Config": { "CreateCommand": words } }));
        let expected = says.map(|option| format!("it was created with {option}, "));
        assert_eq!(reason.is_some(), expected.is_some(), "{case}: {reason:?}");
        assert!(reason.unwrap_or_default().starts_with(&expected.unwrap_or_default()), "{case}");
    }
    assert!(reason_against_podman(&json!({ "Pod": "abc" })).unwrap().contains("pod"));
}

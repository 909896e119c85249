#![allow(clippy::unwrap_used, clippy::panic)]

use super::*;

const OLD_API: ApiVersion = ApiVersion { major: 1, minor: 41 };
const ID: &str = "0123456789abcdef";

fn input<'a>(old: &'a Value, old_image: &'a Value) -> PlanInput<'a> {
    PlanInput { old, old_image, volume_sources: &[], platform: None, api: OLD_API }
}

fn plan_config(config: &Value, host: &Value, image_config: &Value) -> Value {
    let old = json!({ "Id": ID, "Config": config, "HostConfig": host });
    build_plan(&input(&old, &json!({ "Config": image_config }))).body
}

/// Rows: what an image default and a container's value leave for the create call.
#[test]
fn what_the_old_image_contributed_is_left_to_the_new_one() {
    for (case, field, image, container, expected) in [
        ("user from the image", "User", json!("app"), json!("app"), Value::Null),
        ("user given", "User", json!("app"), json!("root"), json!("root")),
        ("stop signal from the image", "StopSignal", json!("INT"), json!("INT"), Value::Null),
        ("working directory given", "WorkingDir", json!("/a"), json!("/b"), json!("/b")),
        ("shell is not merged", "Shell", json!(["sh"]), json!(["sh"]), json!(["sh"])),
        ("stop timeout is not merged", "StopTimeout", Value::Null, json!(30), json!(30)),
        ("on-build is the image's", "OnBuild", Value::Null, json!(["RUN x"]), Value::Null),
        ("unknown fields are carried", "Novelty", Value::Null, json!({ "a": 1 }), json!({ "a": 1 })),
        (
            "environment: the user's entries in their order",
            "Env",
            json!(["PATH=/bin", "VER=1", "ONLYA=1"]),
            json!(["FOO=user", "VER=mine", "UNSET", "PATH=/bin", "ONLYA=1"]),
            json!(["FOO=user", "VER=mine", "UNSET"]),
        ),
        ("environment all from the image", "Env", json!(["A=1"]), json!(["A=1"]), Value::Null),
        (
            "labels: pairs that differ",
            "Labels",
            json!({ "a": "1", "b": "1" }),
            json!({ "a": "1", "b": "2", "c": "3" }),
            json!({ "b": "2", "c": "3" }),
        ),
        (
            "labels: a project member keeps compose's own",
            "Labels",
            json!({ "com.docker.compose.project": "p", "a": "1" }),
            json!({ "com.docker.compose.project": "p", "com.docker.compose.config-hash": "h", "a": "1" }),
            json!({ "com.docker.compose.project": "p", "com.docker.compose.config-hash": "h" }),
        ),
        (
            "labels: no member, no exception",
            "Labels",
            json!({ "com.docker.compose.project": "p" }),
            json!({ "com.docker.compose.project": "p" }),
            Value::Null,
        ),
        ("volumes of the image", "Volumes", json!({ "/a": {} }), json!({ "/a": {}, "/b": {} }), json!({ "/b": {} })),
        (
            "health check: only the interval is the user's",
            "Healthcheck",
            json!({ "Test": ["CMD", "x"], "Interval": 10, "Retries": 3 }),
            json!({ "Test": ["CMD", "x"], "Interval": 5, "Retries": 3, "StartInterval": 0 }),
            json!({ "Interval": 5 }),
        ),
        (
            "health check all from the image",
            "Healthcheck",
            json!({ "Test": ["CMD"] }),
            json!({ "Test": ["CMD"] }),
            Value::Null,
        ),
        (
            "health check switched off",
            "Healthcheck",
            json!({ "Test": ["NONE"] }),
            json!({ "Test": ["NONE"] }),
            json!({ "Test": ["NONE"] }),
        ),
    ] {
        let body = plan_config(&json!({ field: container }), &json!({}), &json!({ field: image }));
        assert_eq!(body[field], expected, "{case}");
    }
}

#[test]
fn entrypoint_and_command_follow_what_the_user_gave() {
    let none = Value::Null;
    let (e, c, x) = (json!(["entry"]), json!(["cmd"]), json!(["mine"]));
    for (case, image, old, expected) in [
        ("both from the image", (&e, &c), (&e, &c), (&none, &none)),
        ("both unset everywhere", (&none, &none), (&none, &none), (&none, &none)),
        ("only the command given", (&e, &c), (&e, &x), (&none, &x)),
        ("command given, image has no entrypoint", (&none, &c), (&none, &x), (&none, &x)),
        ("the image's entrypoint given again, no command", (&e, &c), (&e, &none), (&e, &none)),
        ("entrypoint given", (&e, &c), (&x, &none), (&x, &none)),
        ("entrypoint given, and the image's command again", (&e, &c), (&x, &c), (&x, &c)),
        ("entrypoint switched off", (&e, &c), (&none, &x), (&json!([""]), &x)),
        ("everything switched off", (&e, &c), (&none, &none), (&json!([""]), &none)),
    ] {
        let config = |(entrypoint, command): (&Value, &Value)| json!({ "Entrypoint": entrypoint, "Cmd": command });
        let body = plan_config(&config(old), &json!({}), &config(image));
        assert_eq!((&body["Entrypoint"], &body["Cmd"]), expected, "{case}");
    }
}

#[test]
fn names_that_the_engine_made_up_are_not_carried() {
    let id_like = "0123456789ab";
    for (case, host, hostname, expected, domain) in [
        ("short id", json!({ "NetworkMode": "bridge" }), id_like, Value::Null, json!("d")),
        ("given", json!({ "NetworkMode": "bridge" }), "web", json!("web"), json!("d")),
        ("host network", json!({ "NetworkMode": "host" }), "machine", Value::Null, json!("d")),
        ("host names", json!({ "UTSMode": "host" }), "machine", Value::Null, json!("d")),
        ("another one's network", json!({ "NetworkMode": "container:x" }), "its", Value::Null, Value::Null),
    ] {
        let body = plan_config(&json!({ "Hostname": hostname, "Domainname": "d" }), &host, &json!({}));
        assert_eq!((&body["Hostname"], &body["Domainname"]), (&expected, &domain), "{case}");
    }
}

#[test]
fn exposed_ports_are_the_users_and_the_published_ones() {
    let bindings = json!({ "81/tcp": [{ "HostIp": "", "HostPort": "8081" }] });
    let config = json!({ "ExposedPorts": { "80/tcp": {}, "81/tcp": {}, "90/tcp": {} } });
    let image = json!({ "ExposedPorts": { "80/tcp": {}, "81/tcp": {} } });
    let body = plan_config(&config, &json!({ "PortBindings": bindings }), &image);
    assert_eq!(body["ExposedPorts"], json!({ "81/tcp": {}, "90/tcp": {} }));
    let shared = plan_config(&config, &json!({ "NetworkMode": "container:x" }), &image);
    assert_eq!(shared["ExposedPorts"], Value::Null, "a container without a network of its own exposes none");
}

#[test]
fn host_settings_are_carried_but_what_the_create_call_would_refuse() {
    let host = json!({
        "Memory": 1000, "Novelty": [1], "VolumesFrom": ["other:ro"], "PidMode": "container:x",
        "KernelMemory": 5, "KernelMemoryTCP": 5, "ConsoleSize": [1, 2], "ContainerIDFile": "/x",
        "Links": ["/db:/web/database"],
        "PortBindings": { "80/tcp": [], "81/tcp": [{ "HostIp": "127.0.0.1", "HostPort": "81" }] },
    });
    let body = plan_config(&json!({}), &host, &json!({}));
    let expected = json!({
        "Memory": 1000, "Novelty": [1], "VolumesFrom": ["other:ro"], "PidMode": "container:x",
        "Links": ["db:database"],
        "PortBindings": {
            "80/tcp": [{ "HostIp": "", "HostPort": "" }], "81/tcp": [{ "HostIp": "127.0.0.1", "HostPort": "81" }],
        },
    });
    assert_eq!(body["HostConfig"], expected);
}

#[test]
fn every_volume_of_the_old_container_is_the_new_ones_too() {
    let volume = |name: &str, destination: &str, rw: bool| json!({ "Type": "volume", "Name": name, "Destination": destination, "RW": rw });
    let old = json!({
        "Id": ID, "Config": {},
        "HostConfig": {
            "Binds": ["named:/named", "/host:/bound:ro", "/bare"],
            "Mounts": [{ "Type": "volume", "Target": "/unnamed/" }, { "Type": "volume", "Source": "m", "Target": "/m" }],
        },
        "Mounts": [
            volume("named", "/named", true), volume("v1", "/bare", true), volume("v2", "/unnamed", true),
            volume("m", "/m", true), volume("v3", "/from-image", true), volume("v4", "/read-only", false),
            volume("v5", "/from-other", true), { "Type": "bind", "Source": "/host", "Destination": "/bound" },
        ],
    });
    let other = [json!({ "Mounts": [volume("v5", "/from-other", true)] })];
    let plan = build_plan(&PlanInput { volume_sources: &other, ..input(&old, &json!({})) });
    let host = &plan.body["HostConfig"];
    let binds = ["named:/named", "/host:/bound:ro", "v1:/bare", "v3:/from-image", "v4:/read-only:ro"];
    assert_eq!(host["Binds"], json!(binds));
    let mounts = json!([
        { "Type": "volume", "Target": "/unnamed/", "Source": "v2" }, { "Type": "volume", "Source": "m", "Target": "/m" },
    ]);
    assert_eq!(host["Mounts"], mounts);
}

fn networked(mode: &str, networks: &Value) -> Value {
    json!({
        "Id": ID, "Config": { "MacAddress": "02:00:00:00:00:01" },
        "HostConfig": { "NetworkMode": mode }, "NetworkSettings": { "Networks": networks },
    })
}

#[test]
fn an_endpoint_asks_for_what_was_asked_for_and_no_more() {
    let inspected = json!({
        "IPAMConfig": { "IPv4Address": "10.0.0.9" }, "Links": ["db:database"], "DriverOpts": { "a": "b" }, "GwPriority": 1,
        "Aliases": ["web", "0123456789ab"], "NetworkID": "n", "EndpointID": "e", "Gateway": "10.0.0.1",
        "IPAddress": "10.0.0.9", "IPPrefixLen": 24, "MacAddress": "02:42:0a:00:00:09", "DNSNames": ["web"],
    });
    let of_user_network = json!({
        "IPAMConfig": { "IPv4Address": "10.0.0.9" }, "Links": ["db:database"], "DriverOpts": { "a": "b" }, "GwPriority": 1,
        "Aliases": ["web"],
    });
    let of_bridge = json!({ "DriverOpts": { "a": "b" }, "GwPriority": 1 });
    for (case, mode, network, expected) in
        [("user network", "front", "front", of_user_network), ("default network", "default", "bridge", of_bridge)]
    {
        let plan = build_plan(&input(&networked(mode, &json!({ network: inspected })), &json!({})));
        assert_eq!(plan.body["NetworkingConfig"]["EndpointsConfig"], json!({ network: expected }), "{case}");
        assert_eq!(plan.body["MacAddress"], "02:00:00:00:00:01", "{case}: where endpoints cannot have one");
    }
}

#[test]
fn the_primary_network_is_never_lost() {
    let three = json!({ "a": {}, "main": {}, "z": {} });
    let two = json!({ "a": {}, "z": {} });
    let new_api = ApiVersion::MANY_ENDPOINTS;
    let mac = json!({ "MacAddress": "02:00:00:00:00:01" });
    for (case, api, mode, networks, created, connected) in [
        ("old engine", OLD_API, "main", &three, json!({ "main": {} }), vec!["a", "z"]),
        ("new engine", new_api, "main", &three, json!({ "a": {}, "main": mac, "z": {} }), vec![]),
        ("old engine, disconnected from it", OLD_API, "main", &two, json!({ "a": {} }), vec!["z"]),
        ("host", OLD_API, "host", &json!({ "host": {} }), json!({}), vec![]),
        ("none", new_api, "none", &json!({ "none": {} }), json!({}), vec![]),
        ("another one's", OLD_API, "container:x", &json!({}), json!({}), vec![]),
    ] {
        let old = networked(mode, networks);
        let plan = build_plan(&PlanInput { api, ..input(&old, &json!({})) });
        assert_eq!(plan.body["NetworkingConfig"]["EndpointsConfig"], created, "{case}");
        assert_eq!(plan.body["HostConfig"]["NetworkMode"], mode, "{case}");
        let names: Vec<&str> = plan.networks_to_connect.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names, connected, "{case}");
        assert_eq!(plan.body.get("MacAddress").is_some(), api < new_api, "{case}");
    }
}

#[test]
fn the_platform_is_the_orders_or_else_the_old_images() {
    let (old, arm) = (json!({ "Id": ID }), json!({ "Os": "linux", "Architecture": "arm64", "Variant": "v8" }));
    let amd = json!({ "Os": "linux", "Architecture": "amd64", "Variant": "" });
    for (case, image, wanted, expected) in [
        ("with a variant", &arm, None, Some("linux/arm64/v8")),
        ("without one", &amd, None, Some("linux/amd64")),
        ("ordered", &arm, Some("linux/amd64"), Some("linux/amd64")),
        ("unknown", &json!({}), None, None),
    ] {
        let plan = build_plan(&PlanInput { platform: wanted, ..input(&old, image) });
        assert_eq!(plan.platform.as_deref(), expected, "{case}");
    }
}

#[test]
fn containers_that_something_else_looks_after_are_refused() {
    let labelled = |label: &str, value: &str| json!({ "Config": { "Labels": { label: value } } });
    for (case, old, says) in [
        ("swarm", labelled("com.docker.swarm.service.id", "x"), Some("update the service")),
        ("kubernetes", labelled("io.kubernetes.pod.name", "x"), Some("Kubernetes")),
        ("systemd", labelled("PODMAN_SYSTEMD_UNIT", "x.service"), Some("restart the unit")),
        ("compose run", labelled("com.docker.compose.oneoff", "True"), Some("one-off")),
        ("compose service", labelled("com.docker.compose.oneoff", "False"), None),
        ("--rm", json!({ "HostConfig": { "AutoRemove": true } }), Some("--rm")),
        ("paused", json!({ "State": { "Paused": true } }), Some("unpause")),
        ("removing", json!({ "State": { "Status": "removing" } }), Some("being removed")),
        ("usual", json!({ "State": { "Status": "running" }, "Config": { "Labels": null } }), None),
    ] {
        let reason = reason_to_refuse(&old);
        assert_eq!(reason.is_some(), says.is_some(), "{case}");
        assert!(reason.unwrap_or_default().contains(says.unwrap_or_default()), "{case}");
    }
}

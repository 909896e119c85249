//! `Config`: what of it is the user's.

use super::*;

/// Rows: what an image default and a container's value leave for the create call.
#[test]
fn what_the_old_image_contributed_is_left_to_the_new_one() {
    for (case, field, image, container, expected) in [
        ("user from the image", "User", json!("app"), json!("app"), Value::Null),
        ("user given", "User", json!("app"), json!("root"), json!("root")),
        ("t04 stop signal from the image", "StopSignal", json!("INT"), json!("INT"), Value::Null),
        ("t04 stop signal given", "StopSignal", json!("INT"), json!("QUIT"), json!("QUIT")),
        ("working directory given", "WorkingDir", json!("/a"), json!("/b"), json!("/b")),
        ("working directory from the image, cleaned", "WorkingDir", json!("/a/b/"), json!("/a/b"), Value::Null),
        ("working directory given where the image has none", "WorkingDir", Value::Null, json!("/b"), json!("/b")),
        ("shell is not merged", "Shell", json!(["sh"]), json!(["sh"]), json!(["sh"])),
        ("stop timeout is not merged", "StopTimeout", Value::Null, json!(30), json!(30)),
        ("on-build is the image's", "OnBuild", Value::Null, json!(["RUN x"]), Value::Null),
        ("unknown fields are carried", "Novelty", Value::Null, json!({ "a": 1 }), json!({ "a": 1 })),
        ("the reference stays as written", "Image", Value::Null, json!("r.io/a:v1"), json!("r.io/a:v1")),
        (
            "t01 environment: the user's entries in their order",
            "Env",
            json!(["PATH=/bin", "VER=1", "ONLYA=1"]),
            json!(["FOO=user", "VER=mine", "UNSET", "PATH=/bin", "ONLYA=1"]),
            json!(["FOO=user", "VER=mine", "UNSET"]),
        ),
        ("t01 environment all from the image", "Env", json!(["A=1"]), json!(["A=1"]), Value::Null),
        (
            "labels: pairs that differ",
            "Labels",
            json!({ "a": "1", "b": "1" }),
            json!({ "a": "1", "b": "2", "c": "3" }),
            json!({ "b": "2", "c": "3" }),
        ),
        (
            "t06 labels: a project member keeps compose's own",
            "Labels",
            json!({ "com.docker.compose.project": "p", "a": "1" }),
            json!({ "com.docker.compose.project": "p", "com.docker.compose.config-hash": "h", "a": "1" }),
            json!({ "com.docker.compose.project": "p", "com.docker.compose.config-hash": "h" }),
        ),
        (
            "t06 labels: no member, no exception",
            "Labels",
            json!({ "com.docker.compose.project": "p" }),
            json!({ "com.docker.compose.project": "p" }),
            Value::Null,
        ),
        (
            "labels: our own are never the image's",
            "Labels",
            json!({ "imagewatch.updater": "true" }),
            json!({ "imagewatch.updater": "true" }),
            json!({ "imagewatch.updater": "true" }),
        ),
        (
            "labels: the mark of an earlier replacement goes",
            "Labels",
            Value::Null,
            json!({ "imagewatch.transaction": "{}", "imagewatch.enable": "true" }),
            json!({ "imagewatch.enable": "true" }),
        ),
        ("volumes of the image", "Volumes", json!({ "/a": {} }), json!({ "/a": {}, "/b": {} }), json!({ "/b": {} })),
        (
            "t05 health check: only the interval is the user's",
            "Healthcheck",
            json!({ "Test": ["CMD", "x"], "Interval": 10, "Retries": 3, "StartInterval": 7 }),
            json!({ "Test": ["CMD", "x"], "Interval": 5, "Retries": 3, "StartInterval": 7, "Timeout": 0 }),
            json!({ "Interval": 5 }),
        ),
        (
            "t05 health check all from the image",
            "Healthcheck",
            json!({ "Test": ["CMD"] }),
            json!({ "Test": ["CMD"] }),
            Value::Null,
        ),
        (
            "t05 health check switched off: the image's other fields are not carried",
            "Healthcheck",
            json!({ "Test": ["CMD", "x"], "Interval": 10 }),
            json!({ "Test": ["NONE"], "Interval": 10 }),
            json!({ "Test": ["NONE"] }),
        ),
        (
            "t05 health check switched off stays so where the image has none either",
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
fn t02_t03_entrypoint_and_command_follow_what_the_user_gave() {
    let none = Value::Null;
    let (e, c, x) = (json!(["entry"]), json!(["cmd"]), json!(["mine"]));
    for (case, image, old, expected) in [
        ("both from the image", (&e, &c), (&e, &c), (&none, &none)),
        ("both unset everywhere", (&none, &none), (&none, &none), (&none, &none)),
        ("t03 only the command given", (&e, &c), (&e, &x), (&none, &x)),
        ("t03 command given, image has no entrypoint", (&none, &c), (&none, &x), (&none, &x)),
        ("the image's entrypoint given again, no command", (&e, &c), (&e, &none), (&e, &none)),
        ("entrypoint given", (&e, &c), (&x, &none), (&x, &none)),
        ("entrypoint given, and the image's command again", (&e, &c), (&x, &c), (&x, &c)),
        ("t02 entrypoint switched off", (&e, &c), (&none, &x), (&json!([""]), &x)),
        ("t02 everything switched off", (&e, &c), (&none, &none), (&json!([""]), &none)),
    ] {
        let config = |(entrypoint, command): (&Value, &Value)| json!({ "Entrypoint": entrypoint, "Cmd": command });
        let body = plan_config(&config(old), &json!({}), &config(image));
        assert_eq!((&body["Entrypoint"], &body["Cmd"]), expected, "{case}");
    }
}

#[test]
fn t01_variables_that_a_label_keeps_stay_although_the_old_image_had_the_same_value() {
    let image = json!({ "Env": ["A=1", "B=1", "AB=1"] });
    let config = json!({ "Env": ["A=1", "B=1", "AB=1"], "Labels": { "imagewatch.keep-env": " A, MISSING" } });
    assert_eq!(plan_config(&config, &json!({}), &image)["Env"], json!(["A=1"]));
}

#[test]
fn t08_names_that_the_engine_made_up_are_not_carried() {
    let id_like = "0123456789ab";
    for (case, host, hostname, expected, domain) in [
        ("short id", json!({ "NetworkMode": "bridge" }), id_like, Value::Null, json!("d")),
        ("given", json!({ "NetworkMode": "bridge" }), "web", json!("web"), json!("d")),
        ("host network: the same again", json!({ "NetworkMode": "host" }), "machine", json!("machine"), json!("d")),
        ("host names", json!({ "UTSMode": "host" }), "machine", Value::Null, json!("d")),
        ("another one's network", json!({ "NetworkMode": "container:db" }), "its", Value::Null, Value::Null),
    ] {
        let body = plan_config(&json!({ "Hostname": hostname, "Domainname": "d" }), &host, &json!({}));
        assert_eq!((&body["Hostname"], &body["Domainname"]), (&expected, &domain), "{case}");
    }
}

#[test]
fn t07_exposed_ports_are_the_users_and_the_published_ones() {
    let bindings = json!({ "81/tcp": [{ "HostIp": "", "HostPort": "8081" }] });
    let config = json!({ "ExposedPorts": { "80/tcp": {}, "81/tcp": {}, "90/tcp": {} } });
    let image = json!({ "ExposedPorts": { "80/tcp": {}, "81/tcp": {} } });
    let body = plan_config(&config, &json!({ "PortBindings": bindings }), &image);
    assert_eq!(body["ExposedPorts"], json!({ "81/tcp": {}, "90/tcp": {} }));
    let shared = plan_config(&config, &json!({ "NetworkMode": "container:db" }), &image);
    assert_eq!(shared["ExposedPorts"], Value::Null, "a container without a network of its own exposes none");
}

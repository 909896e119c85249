//! Files that no inspection shows.

use super::*;

#[test]
fn t35_files_that_compose_put_there_are_told_from_what_the_engine_and_the_service_made() {
    let added = |path: &str| json!([{ "Path": path, "Kind": 1 }]);
    let member = json!({ "com.docker.compose.project": "p", "com.docker.compose.service": "web" });
    let mut overruled = member.clone();
    overruled["imagewatch.carry-nothing"] = json!("true");
    for (case, labels, changes, expected) in [
        ("an inline config", &member, added("/nginx_conf"), Some("/nginx_conf was put into it")),
        ("an inline secret", &member, added("/run/secrets/token"), Some("/run/secrets/token was put into it")),
        ("overruled", &overruled, added("/nginx_conf"), None),
        ("not of compose", &json!({}), added("/nginx_conf"), None),
        ("nothing changed", &member, Value::Null, None),
        ("changed, not added", &member, json!([{ "Path": "/nginx_conf", "Kind": 0 }]), None),
        ("deeper than compose's default", &member, added("/etc/app.conf"), None),
        ("of the engine", &member, added("/.dockerenv"), None),
        ("a usual folder that the image lacks", &member, added("/sys"), None),
        ("a mount point", &member, added("/data"), None),
        ("the folder of a mount point", &member, added("/deep"), None),
        ("a mounted secret", &member, added("/run/secrets/mounted"), None),
        ("a tmpfs", &member, added("/scratch"), None),
        ("a device", &member, added("/fuse"), None),
        ("the working directory", &member, added("/app"), None),
        (
            "a folder with something in it",
            &member,
            json!([{ "Path": "/cache", "Kind": 1 }, { "Path": "/cache/a", "Kind": 1 }]),
            None,
        ),
        (
            "a file beside a folder of a similar name",
            &member,
            json!([{ "Path": "/a", "Kind": 1 }, { "Path": "/a.d", "Kind": 1 }, { "Path": "/a.d/x", "Kind": 1 }]),
            Some("/a was put into it"),
        ),
        (
            "the folder of secrets itself",
            &member,
            json!([{ "Path": "/run", "Kind": 0 }, { "Path": "/run/secrets", "Kind": 1 }, { "Path": "/run/secrets/mounted", "Kind": 1 }]),
            None,
        ),
    ] {
        let old = json!({
            "Config": { "Labels": labels, "WorkingDir": "/app" },
            "HostConfig": { "Tmpfs": { "/scratch": "" }, "Devices": [{ "PathInContainer": "/fuse" }] },
            "Mounts": [
                { "Destination": "/data" }, { "Destination": "/deep/er" }, { "Destination": "/run/secrets/mounted" },
            ],
        });
        let reason = filled_from_outside(&old, &changes);
        assert_eq!(reason.is_some(), expected.is_some(), "{case}: {reason:?}");
        assert!(reason.unwrap_or_default().starts_with(expected.unwrap_or_default()), "{case}");
    }
}

#[test]
fn t35_the_refusal_says_what_to_do_instead() {
    let labels = json!({ "com.docker.compose.project": "p", "com.docker.compose.service": "web" });
    let old = json!({ "Config": { "Labels": labels } });
    let reason = filled_from_outside(&old, &json!([{ "Path": "/c", "Kind": 1 }])).unwrap();
    assert!(reason.contains("docker compose up -d --no-deps web"), "{reason}");
    assert!(reason.contains("imagewatch.carry-nothing=true"), "{reason}");
}

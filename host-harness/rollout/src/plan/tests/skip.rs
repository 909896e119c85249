//! Who is not replaced at all.

use super::*;

#[test]
fn t44_containers_that_something_else_looks_after_are_refused_and_stopped_ones_are_not() {
    let labelled = |label: &str, value: &str| json!({ "Config": { "Labels": { label: value } } });
    let rm = |label: &str| json!({ "HostConfig": { "AutoRemove": true }, "Config": { "Labels": { "imagewatch.allow-rm": label } } });
    let on = |reference: &str| json!({ "Image": "sha256:0d07a439861c55", "Config": { "Image": reference } });
    let in_state = |status: &str| json!({ "State": { "Status": status } });
    for (case, old, says) in [
        ("swarm", labelled("com.docker.swarm.service.id", "x"), Some("update the service")),
        ("kubernetes", labelled("io.kubernetes.pod.name", "x"), Some("Kubernetes")),
        ("systemd", labelled("PODMAN_SYSTEMD_UNIT", "x.service"), Some("restart the unit")),
        ("compose run", labelled("com.docker.compose.oneoff", "True"), Some("one-off")),
        ("compose service", labelled("com.docker.compose.oneoff", "False"), None),
        ("t16 --rm", rm("false"), Some("imagewatch.allow-rm=true")),
        (
            "t15 a volume whose name is not known",
            json!({ "Mounts": [{ "Type": "volume", "Source": "/mnt/nfs", "Destination": "/data" }] }),
            Some("its volume at /data"),
        ),
        ("t16 --rm, allowed", rm("true"), None),
        ("created from an id", on("sha256:0d07a439861c55"), Some("image id")),
        ("created from a short id", on("0d07a439861c"), Some("image id")),
        ("created from a tag", on("app:v1"), None),
        ("created from a tag with a digest", on("app:v1@sha256:0d07a439861c55"), None),
        ("t44 exited", in_state("exited"), None),
        ("t44 never started", in_state("created"), None),
        ("usual", json!({ "State": { "Status": "running" }, "Config": { "Labels": null } }), None),
    ] {
        let reason = reason_to_refuse(&old);
        assert_eq!(reason.is_some(), says.is_some(), "{case}");
        assert!(reason.unwrap_or_default().contains(says.unwrap_or_default()), "{case}");
    }
}

#[test]
fn t43_a_paused_or_dying_container_waits_and_is_no_lost_cause() {
    let paused = json!({ "State": { "Paused": true, "Status": "paused", "Running": true } });
    let in_state = |status: &str| json!({ "State": { "Status": status } });
    for (old, says) in [
        (paused, "unpause"),
        (in_state("removing"), "being removed"),
        (in_state("dead"), "being removed"),
        (json!({ "State": { "Dead": true } }), "being removed"),
    ] {
        assert!(reason_to_postpone(&old).is_some_and(|reason| reason.contains(says)), "{old}");
        assert_eq!(reason_to_refuse(&old), None, "{old}");
    }
    assert_eq!(reason_to_postpone(&in_state("running")), None);
}

#[test]
fn who_would_not_come_back_from_a_restart_or_is_anothers_is_not_restarted() {
    let labelled = |label: &str| json!({ "Config": { "Labels": { label: "True" } } });
    for (case, old, is_left) in [
        ("swarm", labelled("com.docker.swarm.service.id"), true),
        ("systemd", labelled("PODMAN_SYSTEMD_UNIT"), true),
        ("compose run", labelled("com.docker.compose.oneoff"), true),
        (
            "--rm, which may be made again",
            json!({ "HostConfig": { "AutoRemove": true }, "Config": { "Labels": { "imagewatch.allow-rm": "true" } } }),
            true,
        ),
        ("paused", json!({ "State": { "Paused": true } }), true),
        ("dying", json!({ "State": { "Status": "removing" } }), true),
        (
            "created from an id",
            json!({ "Image": "sha256:0d07a439861c55", "Config": { "Image": "0d07a439861c" } }),
            false,
        ),
        ("usual", json!({ "State": { "Status": "running" } }), false),
    ] {
        assert_eq!(reason_against_restart(&old).is_some(), is_left, "{case}");
    }
}

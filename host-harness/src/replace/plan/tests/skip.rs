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
        ("t16 --rm, allowed", rm("true"), None),
        ("created from an id", on("sha256:0d07a439861c55"), Some("image id")),
        ("created from a short id", on("0d07a439861c"), Some("image id")),
        ("created from a tag", on("app:v1"), None),
        ("created from a tag with a digest", on("app:v1@sha256:0d07a439861c55"), None),
        ("removing", in_state("removing"), Some("being removed")),
        ("dead", json!({ "State": { "Dead": true } }), Some("being removed")),
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
fn t43_a_paused_container_waits_and_is_no_lost_cause() {
    let paused = json!({ "State": { "Paused": true, "Status": "paused", "Running": true } });
    assert!(reason_to_postpone(&paused).is_some_and(|reason| reason.contains("unpause")));
    assert_eq!(reason_to_refuse(&paused), None);
    assert_eq!(reason_to_postpone(&json!({ "State": { "Status": "running" } })), None);
}

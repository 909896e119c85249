//! The image label of compose.

use super::*;

#[test]
fn t34_composes_image_label_follows_the_image_as_the_compose_that_wrote_it_counts() {
    let manifest = |id: &str, kind: &str, available: bool, architecture: &str| {
        let platform = json!({ "os": "linux", "architecture": architecture });
        json!({ "ID": id, "Kind": kind, "Available": available, "ImageData": { "Platform": platform } })
    };
    let attestation = || manifest("att", "attestation", true, "amd64");
    let both = json!([attestation(), manifest("arm", "image", true, "arm64"), manifest("amd", "image", true, "amd64")]);
    let absent =
        json!([attestation(), manifest("arm", "image", true, "arm64"), manifest("amd", "image", false, "amd64")]);
    let api_1_47 = ApiVersion { major: 1, minor: 47 };
    for (case, version, api, manifests, platform, expected) in [
        ("compose before manifests", "5.3.1", NEW_API, &both, None, "new"),
        ("python's compose", "1.29.2", NEW_API, &both, None, "new"),
        ("compose of a distribution", "2.24.6+ds1-0ubuntu1", NEW_API, &both, None, "new"),
        ("unreadable version", "dev", NEW_API, &both, None, "new"),
        ("an engine that lists none", "5.4.0", api_1_47, &both, None, "new"),
        ("an image store that has none", "v5.4.0", NEW_API, &json!(null), None, "new"),
        ("the image's platform", "5.4.0", NEW_API, &both, None, "amd"),
        ("the ordered platform", "5.10.0", NEW_API, &both, Some("linux/arm64"), "arm"),
        (
            "a platform with a variant that the manifest leaves open",
            "6.0",
            NEW_API,
            &both,
            Some("linux/arm64/v8"),
            "arm",
        ),
        ("only another platform's is here", "5.4.0", NEW_API, &absent, None, "arm"),
        ("no such platform among several", "5.4.0", NEW_API, &both, Some("linux/s390x"), "new"),
    ] {
        let labels = json!({ "com.docker.compose.image": "old", "com.docker.compose.version": version });
        let old = json!({ "Id": ID, "Config": { "Labels": labels } });
        let image = json!({ "Id": "new", "Os": "linux", "Architecture": "amd64", "Manifests": manifests });
        let plan = build_plan(&PlanInput { new_image: &image, platform, api, ..input(&old, &NOTHING) }).unwrap();
        let expected = json!({ "com.docker.compose.image": expected, "com.docker.compose.version": version });
        assert_eq!(plan.body["Labels"], expected, "{case}");
    }
}

#[test]
fn t34_composes_image_label_is_not_added() {
    let labels = json!({ "com.docker.compose.project": "p", "com.docker.compose.config-hash": "h" });
    let old = json!({ "Id": ID, "Config": { "Labels": labels } });
    let image = json!({ "Id": "new" });
    let plan = build_plan(&PlanInput { new_image: &image, ..input(&old, &NOTHING) }).unwrap();
    assert_eq!(plan.body["Labels"], labels);
}

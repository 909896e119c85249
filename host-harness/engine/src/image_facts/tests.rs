use serde_json::json;

use super::*;
use crate::testing::MemoryEngine;
use crate::{ApiVersion, Engine as _, EngineFacts};

const NAME: &str = "r.io/app:latest";

/// Answers of Docker 29 to `identity=1`, derived from its source; see `derived/README.md`.
const DOCKER_29: [(&str, &str, ImageOrigin); 4] = [
    ("pulled", include_str!("../derived/api-1.55-pulled.json"), ImageOrigin::Registry),
    ("built", include_str!("../derived/api-1.55-built.json"), ImageOrigin::Local),
    ("imported", include_str!("../derived/api-1.55-imported.json"), ImageOrigin::Local),
    ("retagged", include_str!("../derived/api-1.55-retagged.json"), ImageOrigin::Unknown),
];

#[tokio::test]
async fn f08_docker_29_reports_the_origin_of_an_image() {
    for (case, text, expected) in DOCKER_29 {
        let image: Value = serde_json::from_str(text).expect("a recorded answer");
        assert_eq!(ImageFacts::parse(&image, true).origin(NAME, false), expected, "{case}");
        assert_eq!(ImageFacts::parse(&image, false).origin(NAME, false), ImageOrigin::Unknown, "{case}, older API");
        for (minor, expected) in [(55, expected), (51, ImageOrigin::Unknown)] {
            let engine = MemoryEngine::new();
            engine.set_facts(EngineFacts { api: ApiVersion { major: 1, minor }, is_podman: false });
            engine.add_image(NAME, &image);
            engine.add_container("web", NAME, json!({}), true).await;
            let shown = engine.containers(&imagewatch_abi::Selector::default()).await.expect("listed");
            assert_eq!(shown[0].origin, Some(expected), "{case}, API 1.{minor}");
        }
    }
}

#[test]
fn f08_only_data_that_a_pull_sets_decides_the_origin() {
    let digest = format!("r.io/app@sha256:{}", "a".repeat(64));
    let other = format!("docker.io/library/alpine@sha256:{}", "a".repeat(64));
    let graph = |digests: &[&String]| json!({ "Id": "sha256:1", "RepoDigests": digests });
    for (case, image, is_podman, expected) in [
        ("graph driver, pulled", graph(&[&digest]), false, ImageOrigin::Registry),
        ("graph driver, built or loaded", graph(&[]), false, ImageOrigin::Local),
        ("graph driver, retagged", graph(&[&other]), false, ImageOrigin::Unknown),
        ("Podman sets digests for all images", graph(&[&digest]), true, ImageOrigin::Unknown),
        ("the image does not exist", Value::Null, false, ImageOrigin::Unknown),
    ] {
        assert_eq!(ImageFacts::parse(&image, false).origin(NAME, is_podman), expected, "{case}");
    }
    let by_id = ImageFacts::parse(&graph(&[&digest]), false).origin(&format!("sha256:{}", "1".repeat(64)), false);
    assert_eq!(by_id, ImageOrigin::Unknown, "an id names no repository");
}

#[test]
fn digests_and_platform_are_read_from_an_inspection() {
    let hex = "2".repeat(64);
    let containerd = json!({
        "RepoDigests": null, "Os": "linux", "Architecture": "arm64", "Variant": "v8",
        "Descriptor": { "mediaType": "application/vnd.oci.image.index.v1+json", "digest": format!("sha256:{hex}") },
    });
    let facts = ImageFacts::parse(&containerd, false);
    assert_eq!(facts.target.map(|digest| digest.to_string()), Some(format!("sha256:{hex}")), "an image without a name");
    assert_eq!((facts.repo_digests.len(), facts.platform.as_deref()), (0, Some("linux/arm64/v8")));
    let graph = json!({ "RepoDigests": ["r.io/app@sha256:1"], "Os": "linux", "Architecture": "amd64", "Variant": "" });
    let facts = ImageFacts::parse(&graph, false);
    assert_eq!(facts.repo_digests, ["r.io/app@sha256:1"]);
    assert_eq!((facts.target, facts.platform.as_deref()), (None, Some("linux/amd64")));
    assert_eq!(ImageFacts::parse(&Value::Null, false).platform, None);
}

#[test]
fn the_platform_of_a_manifest_comes_from_its_descriptor() {
    let arm = json!({ "digest": "sha256:1", "platform": { "os": "linux", "architecture": "arm", "variant": "v6" } });
    for (descriptor, expected) in [(arm, Some("linux/arm/v6")), (Value::Null, None), (json!({ "digest": "x" }), None)] {
        assert_eq!(platform_of_manifest(&descriptor).as_deref(), expected);
    }
}

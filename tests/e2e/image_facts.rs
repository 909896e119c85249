//! Tests that the facts of an image are those of the manifest that a container runs (class K1), and that an image
//! belongs to a registry only if it came from there (class K2). The result depends on the image store of the engine
//! under test.

use std::path::Path;

use bollard::body_full;
use bollard::models::{ContainerInspectResponse, ImageInspect};
use bollard::query_parameters::{CreateImageOptionsBuilder, PruneImagesOptions};
use futures_util::TryStreamExt;
use imagewatch_tests::components;
use imagewatch_tests::engine::RunSpec;
use imagewatch_tests::image::ImageSpec;
use imagewatch_tests::private_engine::PrivateEngine;
use imagewatch_tests::proxy::Proxy;
use imagewatch_tests::registry::{Registry, RegistryAuth};
use imagewatch_tests::wait::wait_for;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::stage::{LONG_TIMEOUT, SHORT_TIMEOUT, Stage, run_to_end, watch_with};

const OTHER: &str = "linux/386";
const OWN: &str = "linux/amd64";

/// A release for this machine's platform and another one. Both run here. `v2` also has another command.
fn release(stage: &Stage, version: &str) -> Vec<(&'static str, ImageSpec)> {
    let image = |platform: &'static str| {
        let spec = ImageSpec::sleeper(&stage.scope.name(&format!("{version}-{}", platform.replace('/', "-"))));
        (platform, ImageSpec { platform: Some(platform.to_owned()), ..spec })
    };
    let mut images = vec![image(OWN), image(OTHER)];
    if version != "v1" {
        let script = "trap 'exit 0' TERM; echo the second release; while :; do sleep 3600 & wait $!; done";
        images = images.into_iter().map(|(platform, spec)| (platform, spec.running(script))).collect();
    }
    images
}

async fn inspect(stage: &Stage, role: &str) -> ContainerInspectResponse {
    let docker = stage.scope.engine().docker();
    docker.inspect_container(&stage.scope.name(role), None).await.expect("the container exists")
}

async fn inspect_image(stage: &Stage, image: &str) -> ImageInspect {
    stage.scope.engine().docker().inspect_image(image).await.expect("the image exists")
}

/// Runs `check` on a manifest and returns the JSON.
async fn check(stage: &Stage, manifest: &Path) -> Value {
    let args = ["check", "--json", manifest.to_str().expect("the path is UTF-8")];
    let (_, output) = run_to_end(stage.scope.engine().host(), &args, &[]).await;
    serde_json::from_str(&output).unwrap_or_else(|error| panic!("{error}: {output}"))
}

/// Tests an update with a manifest named `name`. The container was created with `--platform linux/386`.
async fn follows_on_its_platform(name: &str, config: &[(&str, &str)], is_other_pulled_before: bool) {
    let stage = Stage::new().await;
    let target = stage.registry.target();
    let repository = stage.scope.name("web");
    target.push_index(&repository, "latest", &release(&stage, "v1")).await;
    if is_other_pulled_before {
        stage.scope.pull_for(&stage.image("web"), OWN).await;
    }
    let spec = RunSpec { image: stage.image("web"), platform: Some(OTHER.to_owned()), ..RunSpec::default() };
    stage.run_as("web", spec).await;
    let manifest = config.iter().fold(stage.manifest(), |manifest, (key, value)| manifest.config(key, value));
    let manifest = if config.is_empty() { manifest.config("containers", "labelled") } else { manifest };
    let manifest = if config.is_empty() { manifest } else { manifest.config("images", &stage.image("web")) };
    let daemon = stage.watch(&[stage.write(&manifest, name)]);
    daemon.wait_for_line("first seen").await;
    let second = release(&stage, "v2");
    let v2 = target.push_index(&repository, "latest", &second).await;
    stage.wait_until_on("web", &v2, LONG_TIMEOUT).await;
    daemon.wait_for_line("recreated").await;
    let config = inspect(&stage, "web").await.config.expect("the container has a config");
    let expected = &second.iter().find(|(platform, _)| *platform == OTHER).expect("the platform was pushed").1;
    assert_eq!(config.labels.unwrap_or_default()["version"], expected.labels["version"], "{name}");
    assert_eq!(config.cmd.as_ref(), Some(&expected.cmd), "{name}");
    assert_eq!(config.env.map(sorted), Some(sorted(expected.env.clone())), "{name}");
    assert_eq!(stage.scope.exec(&repository, &["cat", "/version"]).await, expected.labels["version"], "{name}");
    if !stage.scope.engine().has_containerd_store() {
        let tagged = inspect_image(&stage, &stage.image("web")).await;
        assert_eq!(
            tagged.architecture.as_deref(),
            Some("386"),
            "{name}: the tag names the image that a container runs"
        );
    }
}

fn sorted(mut texts: Vec<String>) -> Vec<String> {
    texts.sort();
    texts
}

#[tokio::test(flavor = "multi_thread")]
async fn f03_a_container_keeps_its_platform_and_follows_the_image() {
    follows_on_its_platform("labelled", &[], false).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn f03_a_container_keeps_its_platform_if_the_manifest_names_it() {
    follows_on_its_platform("named", &[("platform", OTHER)], false).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn f03_a_container_keeps_its_platform_if_the_engine_has_both() {
    let stage = Stage::new().await;
    if stage.scope.engine().has_containerd_store() {
        return follows_on_its_platform("both", &[], true).await;
    }
    // A graph driver stores the second image of an index without a digest.
    let target = stage.registry.target();
    let repository = stage.scope.name("web");
    target.push_index(&repository, "latest", &release(&stage, "v1")).await;
    stage.scope.pull_for(&stage.image("web"), OWN).await;
    let spec = RunSpec { image: stage.image("web"), platform: Some(OTHER.to_owned()), ..RunSpec::default() };
    let id = stage.run_as("web", spec).await;
    let manifest = stage.write(&stage.manifest().config("containers", "labelled"), "both");
    target.push_index(&repository, "latest", &release(&stage, "v2")).await;
    let daemon = stage.watch(std::slice::from_ref(&manifest));
    daemon.wait_for_line("pulled first for another platform").await;
    let row = check(&stage, &manifest).await["images"][0].clone();
    assert_eq!(row["status"]["kind"], "local", "{row}");
    assert_eq!(stage.container("web").await.map(|now| (now.id, now.is_running)), Some((id, true)));
}

#[tokio::test(flavor = "multi_thread")]
async fn f03_attestations_in_an_index_are_not_platforms() {
    let stage = Stage::new().await;
    let target = stage.registry.target();
    let repository = stage.scope.name("web");
    let images = |version: &str| {
        let attestation = ImageSpec::label_only(&stage.scope.name(&format!("{version}-attestation")));
        vec![(OWN, ImageSpec::sleeper(&stage.scope.name(version))), ("unknown/unknown", attestation)]
    };
    target.push_index(&repository, "latest", &images("v1")).await;
    stage.run("web").await;
    let daemon = stage.watch(&[stage.write(&stage.manifest().config("containers", "labelled"), "one")]);
    daemon.wait_for_line("first seen").await;
    let v2 = target.push_index(&repository, "latest", &images("v2")).await;
    stage.wait_until_on("web", &v2, LONG_TIMEOUT).await;
    assert_eq!(stage.scope.exec(&repository, &["cat", "/version"]).await, stage.scope.name("v2"));
}

#[tokio::test(flavor = "multi_thread")]
async fn f04_an_image_whose_declared_architecture_changes_is_followed() {
    let stage = Stage::new().await;
    // The last row is not in the report: a variant is removed.
    let rows = [
        ("corrected", "linux/arm64", "linux/amd64"),
        ("corrected-variant", "linux/arm/v7", "linux/amd64"),
        ("mislabelled", "linux/amd64", "linux/arm64"),
        ("variant-added", "linux/amd64", "linux/amd64/v3"),
        ("variant-dropped", "linux/amd64/v2", "linux/amd64"),
        ("variant-changed", "linux/arm/v6", "linux/arm/v7"),
    ];
    let image = |role: &str, version: &str, platform: &str| {
        let spec = ImageSpec::sleeper(&stage.scope.name(&format!("{role}-{version}")));
        ImageSpec { platform: Some(platform.to_owned()), ..spec }
    };
    for (role, first, _) in rows {
        stage.push_image(role, &image(role, "v1", first)).await;
        stage.run(role).await;
    }
    let daemon = stage.watch(&[stage.write(&stage.manifest().config("containers", "labelled"), "one")]);
    daemon.wait_for_more("first seen", rows.len() - 1).await;
    let mut moved = Vec::new();
    for (role, _, second) in rows {
        moved.push((role, stage.push_image(role, &image(role, "v2", second)).await));
    }
    for (role, digest) in moved {
        stage.wait_until_on(role, &digest, LONG_TIMEOUT).await;
        let served = stage.scope.exec(&stage.scope.name(role), &["cat", "/version"]).await;
        assert_eq!(served, stage.scope.name(&format!("{role}-v2")));
    }
}

/// Imports an image into the engine with `docker import`, under the name of an image in the registry.
async fn import(stage: &Stage, image: &str) {
    let busybox = std::fs::read(components::busybox()).expect("busybox can be read");
    let mut tar = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_gnu();
    header.set_size(busybox.len() as u64);
    header.set_mode(0o755);
    tar.append_data(&mut header, "bin/busybox", busybox.as_slice()).expect("a write to a vector succeeds");
    let tar = tar.into_inner().expect("a write to a vector succeeds");
    let (repository, tag) = image.rsplit_once(':').expect("the reference has a tag");
    let options = CreateImageOptionsBuilder::new().from_src("-").repo(repository).tag(tag).build();
    let docker = stage.scope.engine().docker();
    let imported = docker.create_image(Some(options), Some(body_full(tar.into())), None);
    imported.try_for_each(async |_| Ok(())).await.expect("the engine imports an archive");
}

/// Runs an image that was built on this machine. The registry has an image of another publisher under the same name,
/// and it moves.
async fn assert_not_replaced(baseline: &str) {
    let stage = Stage::new().await;
    let registry = Proxy::to_registry(&stage.registry.host()).await;
    let mine = format!("{}/{}:latest", registry.host(), stage.scope.name("mine"));
    import(&stage, &mine).await;
    let command = ["/bin/busybox", "sh", "-c", "trap 'exit 0' TERM; while :; do /bin/busybox sleep 1; done"];
    let cmd = Some(command.map(str::to_owned).to_vec());
    let id = stage.run_as("mine", RunSpec { image: mine, cmd, ..RunSpec::default() }).await;
    stage.push("mine", "v1").await;
    stage.push("other", "v1").await;
    let manifest = stage.manifest_for(&registry.host()).config("containers", "labelled");
    let manifest = manifest.config("unknown_origin", "hold").config("baseline", baseline);
    let manifest = stage.write(&manifest, baseline);
    let proxy = Proxy::to_engine(stage.scope.engine().host()).await;
    let _daemon = watch_with(&proxy.host(), std::slice::from_ref(&manifest), &[]);
    let polls = async |count: usize| {
        let before = proxy.count("/containers/json");
        wait_for("some polls", SHORT_TIMEOUT, || async {
            let now = proxy.count("/containers/json") - before;
            if now >= count { Ok(()) } else { Err(now) }
        })
        .await;
    };
    polls(3).await;
    stage.push("mine", "v2").await;
    polls(3).await;
    let now = stage.container("mine").await.expect("the container exists");
    assert_eq!((now.id, now.is_running), (id, true), "{baseline}");
    let row = check(&stage, &manifest).await["images"][0].clone();
    assert_eq!(row["container"], json!(stage.scope.name("mine")), "{row}");
    let reason = row["reason"].as_str().unwrap_or_default();
    let expected = if stage.scope.engine().has_containerd_store() { "came from" } else { "built or loaded" };
    assert!(reason.contains(expected), "{baseline}: {row}");
    assert_eq!(registry.count(&stage.scope.name("mine")), 0, "{baseline}: {:?}", registry.requests());
}

#[tokio::test(flavor = "multi_thread")]
async fn f08_an_image_built_on_this_machine_is_not_replaced() {
    assert_not_replaced("seen").await;
    assert_not_replaced("running").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn f03_a_rollback_works_after_the_old_image_lost_its_name() {
    // In the containerd store, a prune breaks every running pull on the same engine (moby issue 53321).
    let engine = PrivateEngine::start().await;
    let stage = Stage {
        scope: engine.connect().await.scope(),
        registry: Registry::start_at(engine.outer_address(), RegistryAuth::None).await,
        folder: TempDir::new().expect("the temp folder is writable"),
    };
    stage.push("web", "v1").await;
    let id = stage.run("web").await;
    // Another program pulls the next release and removes all images without a name.
    stage.push_image("web", &ImageSpec::broken(&stage.scope.name("v2"))).await;
    stage.scope.pull(&stage.image("web"), None).await;
    stage.scope.engine().docker().prune_images(None::<PruneImagesOptions>).await.expect("images are pruned");
    let manifest = stage.manifest().config("containers", "labelled").config("baseline", "running");
    let manifest = manifest.config("host.insecure_registries", &stage.registry.host());
    let daemon = stage.watch(&[stage.write(&manifest, "one")]);
    daemon.process.wait_for_line("is quarantined", LONG_TIMEOUT).await;
    let now = stage.container("web").await.expect("the container exists");
    assert_eq!((now.id, now.is_running), (id, true));
    let version = inspect(&stage, "web").await.config.and_then(|config| config.labels).unwrap_or_default();
    assert_eq!(version["version"], stage.scope.name("v1"));
}

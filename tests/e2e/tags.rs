//! Tests that a container follows the newest tag of its update policy, and is created from that tag.

use imagewatch_abi::Digest;
use imagewatch_tests::engine::RunSpec;
use imagewatch_tests::image::ImageSpec;
use imagewatch_tests::proxy::Proxy;
use imagewatch_tests::wait::wait_for;
use reqwest::StatusCode;

use crate::stage::{LONG_TIMEOUT, SHORT_TIMEOUT, Stage, labels, run_to_end, watch_with};

const POLICY: &str = "imagewatch.update-policy";

fn tagged(stage: &Stage, tag: &str) -> String {
    format!("{}/{}:{tag}", stage.registry.host(), stage.scope.name("web"))
}

/// Pushes a version. Each version is a different image.
async fn push(stage: &Stage, tag: &str) -> Digest {
    let spec = ImageSpec::sleeper(&stage.scope.name(&format!("v{tag}")));
    stage.registry.target().push(&stage.scope.name("web"), tag, &spec).await
}

async fn run(stage: &Stage, tag: &str, more: &[(&str, &str)]) -> String {
    let env = vec!["GREETING=hello".to_owned()];
    stage.run_as("web", RunSpec { image: tagged(stage, tag), env, labels: labels(more), ..RunSpec::default() }).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_container_follows_the_newest_tag_and_keeps_its_settings() {
    let stage = Stage::new().await;
    push(&stage, "1.0.0").await;
    let old_id = run(&stage, "1.0.0", &[(POLICY, "semver:^1"), ("com.docker.compose.project", "shop")]).await;
    let newer = push(&stage, "1.1.0").await;
    push(&stage, "2.0.0-rc").await;
    push(&stage, "2.0.0").await;
    let manifest = stage.write(&stage.manifest().config("containers", "labelled"), "labelled");

    let check = ["check", manifest.to_str().expect("text")];
    let (code, shown) = run_to_end(stage.scope.engine().host(), &check, &[]).await;
    assert_eq!(code, 0, "{shown}");
    assert!(shown.contains("1.0.0 → 1.1.0") && shown.contains("1 to update"), "{shown}");

    let daemon = stage.watch(&[manifest]);
    let now = stage.wait_until_on("web", &newer, SHORT_TIMEOUT).await;
    assert_ne!(now.id, old_id);
    assert_eq!(now.image, tagged(&stage, "1.1.0"), "the container is created from the tag that it follows");
    let env = stage.scope.exec(&stage.scope.name("web"), &["env"]).await;
    assert!(env.contains("GREETING=hello"), "{env}");
    assert!(
        env.contains(&format!("VERSION={}", stage.scope.name("v1.1.0"))),
        "the image's own variable has the new value: {env}"
    );
    assert_eq!(now.labels[POLICY], "semver:^1");
    daemon.wait_for_line("1.0.0 → 1.1.0: pulled, recreated").await;
    daemon.wait_for_line("the next `docker compose up` goes back").await;

    // The same tag moves again, and then the next tag appears.
    let spec = ImageSpec::sleeper(&stage.scope.name("v1.1.0-again"));
    let again = stage.registry.target().push(&stage.scope.name("web"), "1.1.0", &spec).await;
    assert_eq!(stage.wait_until_on("web", &again, SHORT_TIMEOUT).await.image, tagged(&stage, "1.1.0"));
    let next = push(&stage, "1.2.0").await;
    assert_eq!(stage.wait_until_on("web", &next, SHORT_TIMEOUT).await.image, tagged(&stage, "1.2.0"));
    daemon.wait_for_line("1.1.0 → 1.2.0: pulled, recreated").await;
    assert_eq!(stage.containers().await, [stage.scope.name("web")], "no other container remains");
    assert_eq!(daemon.stop().await.iter().filter(|line| line.contains("moved")).count(), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broken_tag_is_held_until_a_newer_one_appears() {
    let stage = Stage::new().await;
    let old = push(&stage, "1.0.0").await;
    let old_id = run(&stage, "1.0.0", &[(POLICY, "semver:~1")]).await;
    let broken = ImageSpec::broken(&stage.scope.name("v1.1.0"));
    stage.registry.target().push(&stage.scope.name("web"), "1.1.0", &broken).await;
    let daemon = stage.watch(&[stage.write(&stage.manifest().config("containers", "labelled"), "labelled")]);
    daemon.wait_for_line("is quarantined").await;
    let now = stage.container("web").await.expect("the container has its name again");
    assert_eq!((now.id, now.is_running, now.digests.contains(&old)), (old_id, true, true));
    assert_eq!(now.image, tagged(&stage, "1.0.0"));

    let fixed = push(&stage, "1.1.1").await;
    assert_eq!(stage.wait_until_on("web", &fixed, SHORT_TIMEOUT).await.image, tagged(&stage, "1.1.1"));
    assert_eq!(daemon.count("refreshing (1.0.0 → 1.1.0)"), 1, "the tag was tried once");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_listed_image_keeps_its_current_tag_after_a_restart() {
    let stage = Stage::new().await;
    push(&stage, "build-9").await;
    run(&stage, "build-9", &[]).await;
    let manifest = stage
        .manifest()
        .config("images", &tagged(&stage, "build-9"))
        .config("update_policy", "numeric")
        // A single `$` would be a variable.
        .config("tag_filter", "^build-([0-9]+)$$");
    let manifest = stage.write(&manifest, "listed");
    let daemon = stage.watch(std::slice::from_ref(&manifest));
    daemon.wait_for_line("first seen").await;
    let tenth = push(&stage, "build-10").await;
    push(&stage, "nightly-11").await;
    assert_eq!(stage.wait_until_on("web", &tenth, SHORT_TIMEOUT).await.image, tagged(&stage, "build-10"));
    daemon.wait_for_line("build-9 → build-10: pulled, recreated").await;
    daemon.stop().await;

    let eleventh = push(&stage, "build-11").await;
    let daemon = stage.watch(&[manifest]);
    assert_eq!(stage.wait_until_on("web", &eleventh, SHORT_TIMEOUT).await.image, tagged(&stage, "build-11"));
    daemon.wait_for_line("build-10 → build-11: pulled, recreated").await;
}

/// The next best tag is pulled once, and the newest one never.
#[tokio::test(flavor = "multi_thread")]
async fn f15_an_unavailable_newest_tag_causes_no_pull_per_poll() {
    const POLLS: usize = 20;
    for (case, platform, is_missing) in [("a", "linux/amd64", true), ("b", "linux/s390x", false)] {
        let stage = Stage::new().await;
        let web = stage.scope.name("web");
        let registry = Proxy::to_registry(&stage.registry.host()).await;
        let engine = Proxy::to_engine(stage.scope.engine().host()).await;
        push(&stage, "1.0.0").await;
        let image = format!("{}/{web}:1.0.0", registry.host());
        let labels = labels(&[(POLICY, "semver:^1")]);
        stage.run_as("web", RunSpec { image, labels, ..RunSpec::default() }).await;
        let available = push(&stage, "1.1.0").await;
        let spec = ImageSpec::sleeper(&stage.scope.name("v1.2.0"));
        stage.registry.target().push_index(&web, "1.2.0", &[(platform, spec)]).await;
        if is_missing {
            registry.answer_all("/manifests/1.2.0", StatusCode::NOT_FOUND);
        }
        let insecure = format!("loopback {}", registry.host());
        let manifest = stage.manifest_for(&registry.host()).config("containers", "labelled");
        let manifest = stage.write(&manifest.config("host.insecure_registries", &insecure), "labelled");
        let daemon = watch_with(&engine.host(), &[manifest], &[]);
        stage.wait_until_on("web", &available, SHORT_TIMEOUT).await;

        let polls = || engine.count("/containers/json");
        let before = polls();
        wait_for("twenty polls", LONG_TIMEOUT, || async {
            let now = polls() - before;
            if now >= POLLS { Ok(()) } else { Err(now) }
        })
        .await;
        assert_eq!(engine.count("/images/create"), 1, "{case}: {:#?}", engine.requests());
        drop(daemon);
    }
}

//! Tests the main task: a tag moves and its containers follow, with the real program, registry and engine.

use std::path::PathBuf;
use std::time::Duration;

use imagewatch_tests::engine::RunSpec;
use imagewatch_tests::program::STATE_DIR;
use imagewatch_tests::registry::{Registry, RegistryAuth, host_that_is_down};

use crate::stage::{LONG_TIMEOUT, SHORT_TIMEOUT, Stage, ignores_sigterm, watch_with};

#[tokio::test(flavor = "multi_thread")]
async fn a_container_follows_its_moved_tag_by_digest() {
    let stage = Stage::new().await;
    let v1 = stage.push("web", "v1").await;
    let old_id = stage.run("web").await;
    let manifest = stage.write(&stage.manifest().config("images", &stage.image("web")), "one");
    let daemon = stage.watch(&[manifest]);
    daemon.wait_for_line(&format!("first seen at {}", v1.short())).await;

    let v2 = stage.push("web", "v2").await;
    let now = stage.wait_until_on("web", &v2, SHORT_TIMEOUT).await;
    assert_ne!(now.id, old_id);
    assert_eq!(now.image, stage.image("web"), "the container still follows the tag");
    assert_eq!(stage.scope.exec(&stage.scope.name("web"), &["cat", "/version"]).await, stage.scope.name("v2"));
    daemon.wait_for_line(&format!("moved from {} to {}", v1.short(), v2.short())).await;
    daemon.wait_for_line(&format!("recreated {}", stage.scope.name("web"))).await;
    assert_eq!(stage.containers().await, [stage.scope.name("web")], "no other container remains");

    let v3 = stage.push("web", "v3").await;
    stage.wait_until_on("web", &v3, SHORT_TIMEOUT).await;
    let lines = daemon.stop().await;
    assert_eq!(lines.iter().filter(|line| line.contains("moved from")).count(), 2, "{lines:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_labelled_container_is_followed_and_a_pinned_one_is_not() {
    let stage = Stage::new().await;
    let v1 = stage.push("web", "v1").await;
    stage.run("web").await;
    let pinned = format!("{}@{v1}", stage.image("web"));
    let pinned_id = stage.run_as("pinned", RunSpec { image: pinned, ..RunSpec::default() }).await;
    let manifest = stage.write(&stage.manifest().config("containers", "labelled"), "labelled");
    let daemon = stage.watch(&[manifest]);
    daemon.wait_for_line("first seen").await;

    let v2 = stage.push("web", "v2").await;
    stage.wait_until_on("web", &v2, SHORT_TIMEOUT).await;
    let pinned = stage.container("pinned").await.expect("the container exists");
    assert_eq!((pinned.id, pinned.digests.contains(&v1), pinned.is_running), (pinned_id, true, true));
    assert_eq!(daemon.count(&format!("{}: moved", stage.scope.name("pinned"))), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn strategy_remove_removes_the_granted_containers_of_the_image() {
    let stage = Stage::new().await;
    stage.push("app", "v1").await;
    let image = || RunSpec { image: stage.image("app"), ..RunSpec::default() };
    stage.run_as("ws-1", image()).await;
    stage.run_as("other", image()).await;
    let manifest = stage
        .manifest()
        .config("images", &stage.image("app"))
        .config("strategy", "remove")
        .config("container_name_contains", "ws-");
    let daemon = stage.watch(&[stage.write(&manifest, "remove")]);
    daemon.wait_for_line("first seen").await;
    let v2 = stage.push("app", "v2").await;
    daemon.wait_for_line(&format!("recreated {}", stage.scope.name("ws-1"))).await;
    assert_eq!(stage.containers().await, [stage.scope.name("other")]);
    stage.run_as("ws-2", image()).await;
    let seen = daemon.count("policy called");
    drop(daemon);
    assert_eq!(seen, 0, "debug lines are off by default");
    assert!(stage.container("ws-2").await.expect("provisioned again").digests.contains(&v2), "the pull moved the tag");
}

#[tokio::test(flavor = "multi_thread")]
async fn with_state_in_memory_a_restart_seeds_again_without_updates() {
    let stage = Stage::new().await;
    let v1 = stage.push("web", "v1").await;
    let id = stage.run("web").await;
    let manifest = stage.manifest().config("images", &stage.image("web")).config("host.state", "memory");
    let manifest = stage.write(&manifest, "one");
    let watch = || {
        let envs = [(STATE_DIR, stage.state_dir())];
        watch_with(stage.scope.engine().host(), std::slice::from_ref(&manifest), &envs)
    };
    let daemon = watch();
    daemon.wait_for_line(&format!("first seen at {}", v1.short())).await;
    daemon.stop().await;
    let v2 = stage.push("web", "v2").await;
    let daemon = watch();
    daemon.wait_for_line(&format!("first seen at {}", v2.short())).await;
    let lines = daemon.stop().await;
    assert!(!lines.iter().any(|line| line.contains("moved")), "{lines:#?}");
    assert_eq!(stage.container("web").await.expect("the container exists").id, id);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failing_registry_does_not_stop_the_others() {
    let stage = Stage::new().await;
    let mut third = Registry::start(RegistryAuth::None).await;
    let down = host_that_is_down();
    stage.push("a", "v1").await;
    stage.run("a").await;
    let images = format!("{} {down}/gone:latest {}/{}:latest", stage.image("a"), third.host(), stage.scope.name("c"));
    let spec = imagewatch_tests::image::ImageSpec::sleeper(&stage.scope.name("c1"));
    third.target().push(&stage.scope.name("c"), "latest", &spec).await;
    let image = format!("{}/{}:latest", third.host(), stage.scope.name("c"));
    stage.run_as("c", RunSpec { image, ..RunSpec::default() }).await;
    let manifest = stage
        .manifest()
        .allow_host(&third.host())
        .allow_host(&down)
        .config("images", &images)
        .config("grant.images", "127.0.0.1:*");
    let daemon = stage.watch(&[stage.write(&manifest, "three")]);
    daemon.wait_for_line(&format!("{down}/gone:latest: failed to look up: ")).await;

    let c2 = third
        .target()
        .push(&stage.scope.name("c"), "latest", &imagewatch_tests::image::ImageSpec::sleeper(&stage.scope.name("c2")))
        .await;
    stage.wait_until_on("c", &c2, SHORT_TIMEOUT).await;
    third.stop();
    daemon.wait_for_line(&format!("{}/{}:latest: failed to look up: ", third.host(), stage.scope.name("c"))).await;
    let a2 = stage.push("a", "v2").await;
    stage.wait_until_on("a", &a2, SHORT_TIMEOUT).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_replacement_delays_no_other_poll_or_replacement() {
    let stage = Stage::new().await;
    stage.push("slow", "s1").await;
    stage.push("quick", "q1").await;
    let slow_id = stage.run_as("slow", ignores_sigterm(stage.image("slow"), 60)).await;
    stage.run("quick").await;
    let images = format!("{} {}", stage.image("slow"), stage.image("quick"));
    let daemon = stage.watch(&[stage.write(&stage.manifest().config("images", &images), "two")]);
    daemon.wait_for_more("first seen", 1).await;

    stage.push("slow", "s2").await;
    daemon.wait_for_line(&format!("{}: moved", stage.image("slow"))).await;
    for version in ["q2", "q3"] {
        let digest = stage.push("quick", version).await;
        stage.wait_until_on("quick", &digest, SHORT_TIMEOUT).await;
    }
    let slow = stage.scope.inspect(&slow_id).await.expect("the old container still exists");
    assert!(slow.is_running, "the slow replacement is still waiting for the stop");
    assert_eq!(daemon.count(&format!("{}: moved", stage.image("slow"))), 1, "a pending update is not ordered twice");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bad_manifest_does_not_stop_the_other_manifests() {
    let stage = Stage::new().await;
    stage.push("a", "v1").await;
    stage.run("a").await;
    let good = stage.write(&stage.manifest().config("images", &stage.image("a")), "good");
    let bad = stage.write(&stage.manifest().config("imagess", "x"), "bad");
    let daemon = stage.watch(&[bad, PathBuf::from("/nowhere/none.json"), good]);
    daemon.wait_for_line("config key `imagess`: is unknown").await;
    daemon.wait_for_line("/nowhere/none.json").await;
    daemon.wait_for_line("first seen").await;
    let a2 = stage.push("a", "v2").await;
    stage.wait_until_on("a", &a2, LONG_TIMEOUT).await;
    let url = daemon.admin_url("/readyz").await;
    let (status, body) = crate::stage::answer_of(imagewatch_tests::http_client::build_client().get(url)).await;
    assert_eq!(status, 503, "{body}");
    assert!(body.to_string().contains("imagess"), "{body}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_that_exits_immediately_leaves_the_old_container_running() {
    let stage = Stage::new().await;
    let v1 = stage.push("web", "v1").await;
    let id = stage.run("web").await;
    let daemon = stage.watch(&[stage.write(&stage.manifest().config("images", &stage.image("web")), "one")]);
    daemon.wait_for_line("first seen").await;
    let broken = imagewatch_tests::image::ImageSpec::broken(&stage.scope.name("v2"));
    stage.registry.target().push(&stage.scope.name("web"), "latest", &broken).await;
    daemon.process.wait_for_line("runs again as before", Duration::from_mins(3)).await;
    let now = stage.container("web").await.expect("the container has its name again");
    assert_eq!((now.id, now.is_running, now.digests.contains(&v1)), (id, true, true));
    assert_eq!(stage.containers().await, [stage.scope.name("web")], "no other container remains");
}

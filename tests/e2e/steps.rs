//! Tests steps of an update that take long, fail in the middle, or find a container that does not run. Also tests which
//! images stay on the engine. The numbers T… are from the list of cases in the design.

use std::time::{Duration, Instant};

use imagewatch_tests::engine::RunSpec;
use imagewatch_tests::image::ImageSpec;
use imagewatch_tests::program::STATE_DIR;
use imagewatch_tests::proxy::Proxy;
use imagewatch_tests::wait::wait_for;

use crate::stage::{Daemon, LONG_TIMEOUT, SHORT_TIMEOUT, Stage, ignores_sigterm, run_to_end, watch_with};

/// Starts a program that watches the image of `web`, and waits until it has seen the image.
async fn watch_web(stage: &Stage) -> Daemon {
    let daemon = stage.watch(&[stage.write(&stage.manifest().config("images", &stage.image("web")), "one")]);
    daemon.wait_for_line("first seen").await;
    daemon
}

/// Runs `imagewatch refresh` for `web`.
async fn refresh_web(stage: &Stage) -> (i32, String) {
    let manifest = stage.write(&stage.manifest().config("images", &stage.image("web")), "by-hand");
    let args = ["refresh", "--manifest", manifest.to_str().expect("the path is UTF-8")];
    run_to_end(stage.scope.engine().host(), &args, &[]).await
}

#[tokio::test(flavor = "multi_thread")]
async fn t31_a_failed_pull_changes_nothing_and_is_retried() {
    let stage = Stage::new().await;
    stage.push("web", "v1").await;
    stage.run("web").await;
    let before = stage.container("web").await;
    let daemon = watch_web(&stage).await;
    let damaged = ImageSpec::sleeper(&stage.scope.name("v2"));
    stage.registry.target().push_damaged(&stage.scope.name("web"), "latest", &damaged).await;
    daemon.wait_for_line("is held, tried again in").await;
    assert_eq!(stage.container("web").await, before);
    assert_eq!(stage.containers().await, [stage.scope.name("web")]);
    assert_eq!(daemon.count("is quarantined"), 0);
    let v3 = stage.push("web", "v3").await;
    stage.wait_until_on("web", &v3, LONG_TIMEOUT).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn t29_a_slow_stop_is_awaited_without_a_kill_or_a_second_container() {
    let stage = Stage::new().await;
    let proxy = Proxy::to_engine(stage.scope.engine().host()).await;
    stage.push("web", "v1").await;
    let old = stage.run_as("web", ignores_sigterm(stage.image("web"), 8)).await;
    let manifest = stage.write(&stage.manifest().config("images", &stage.image("web")), "one");
    let daemon = watch_with(&proxy.host(), &[manifest], &[]);
    daemon.wait_for_line("first seen").await;
    let v2 = stage.push("web", "v2").await;
    wait_for("the stop", SHORT_TIMEOUT, || async {
        let requests = proxy.requests();
        if proxy.count("/stop") > 0 { Ok(()) } else { Err(requests) }
    })
    .await;
    let asked = Instant::now();
    wait_for("the old container to end", SHORT_TIMEOUT, || async {
        let now = stage.scope.inspect(&old).await;
        if now.as_ref().is_some_and(|now| now.is_running) { Err(now) } else { Ok(()) }
    })
    .await;
    assert!(asked.elapsed() > Duration::from_secs(7), "killed after {:?}", asked.elapsed());
    stage.wait_until_on("web", &v2, LONG_TIMEOUT).await;
    daemon.wait_for_line("recreated").await;
    let counts = ["/containers/create", "/stop", "/kill"].map(|path| proxy.count(path));
    assert_eq!(counts, [1, 1, 0], "{:#?}", proxy.requests());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_check_beside_an_update_shows_it_as_updating() {
    let stage = Stage::new().await;
    stage.push("web", "v1").await;
    stage.run_as("web", ignores_sigterm(stage.image("web"), 8)).await;
    let manifest = stage.write(&stage.manifest().config("images", &stage.image("web")), "one");
    let envs = [(STATE_DIR, stage.state_dir())];
    let host = stage.scope.engine().host();
    let daemon = watch_with(host, std::slice::from_ref(&manifest), &envs);
    daemon.wait_for_line("first seen").await;
    let v2 = stage.push("web", "v2").await;
    let new = format!("{}.", stage.scope.name("web"));
    wait_for("the new container", SHORT_TIMEOUT, || async {
        let names = stage.containers().await;
        if names.iter().any(|name| name.starts_with(&new)) { Ok(()) } else { Err(names) }
    })
    .await;
    let args = ["check", "--json", manifest.to_str().expect("the path is UTF-8")];
    let (_, during) = run_to_end(host, &args, &envs).await;
    assert!(during.contains("\"updating\""), "{during}");
    stage.wait_until_on("web", &v2, LONG_TIMEOUT).await;
    daemon.wait_for_line("recreated").await;
    let (_, after) = run_to_end(host, &args, &envs).await;
    assert!(after.contains("\"up_to_date\""), "{after}");
}

#[tokio::test(flavor = "multi_thread")]
async fn t43_a_paused_container_is_updated_after_it_is_unpaused() {
    let stage = Stage::new().await;
    stage.push("web", "v1").await;
    stage.run("web").await;
    let docker = stage.scope.engine().docker();
    docker.pause_container(&stage.scope.name("web")).await.expect("the container can be paused");
    let before = stage.container("web").await;
    let daemon = watch_web(&stage).await;
    let v2 = stage.push("web", "v2").await;
    let line = daemon.wait_for_line("rolled back, the next poll tries again").await;
    assert!(line.contains("it is paused; unpause it first"), "{line}");
    assert_eq!(stage.container("web").await, before);
    let state = docker.inspect_container(&stage.scope.name("web"), None).await.expect("the container exists").state;
    assert_eq!(state.and_then(|state| state.paused), Some(true));

    docker.unpause_container(&stage.scope.name("web")).await.expect("the container was paused");
    stage.wait_until_on("web", &v2, SHORT_TIMEOUT).await;
    assert_eq!(daemon.count("is quarantined"), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn t44_a_stopped_container_is_recreated_and_stays_stopped() {
    let stage = Stage::new().await;
    stage.push("web", "v1").await;
    let network = stage.scope.name("net");
    stage.scope.create_network(&network).await;
    let web = stage.scope.name("web");
    let spec = RunSpec { image: stage.image("web"), network: Some(network.clone()), ..RunSpec::default() };
    let id = stage.run_as("web", RunSpec { aliases: vec!["shop".to_owned()], ..spec }).await;
    let docker = stage.scope.engine().docker();
    docker.stop_container(&web, None).await.expect("the container can be stopped");
    let v2 = stage.push("web", "v2").await;
    let (code, output) = refresh_web(&stage).await;
    assert_eq!(code, 0, "{output}");

    let now = stage.container("web").await.expect("the container exists");
    assert!(now.id != id && !now.is_running && now.digests.contains(&v2), "{now:?}");
    assert_eq!(stage.containers().await, [stage.scope.name("web")], "no other container remains");
    docker.start_container(&web, None).await.expect("the container can be started");
    let found = docker.inspect_container(&web, None).await.expect("the container exists");
    let networks = found.network_settings.and_then(|settings| settings.networks).unwrap_or_default();
    assert_eq!(networks.keys().collect::<Vec<_>>(), [&network]);
    let aliases = networks[&network].aliases.clone().unwrap_or_default();
    assert!(aliases.contains(&"shop".to_owned()), "{aliases:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn only_the_configured_number_of_old_images_is_kept() {
    let stage = Stage::new().await;
    let mut digests = vec![stage.push("web", "v1").await];
    stage.run("web").await;
    let manifest = stage.manifest().config("images", &stage.image("web")).config("host.keep_images", "1");
    let daemon = stage.watch(&[stage.write(&manifest, "one")]);
    daemon.wait_for_line("first seen").await;
    for version in ["v2", "v3", "v4"] {
        let digest = stage.push("web", version).await;
        stage.wait_until_on("web", &digest, LONG_TIMEOUT).await;
        daemon.wait_for_more("recreated", digests.len() - 1).await;
        digests.push(digest);
    }
    let mut is_there = Vec::new();
    for digest in &digests {
        is_there.push(stage.has_image("web", digest).await);
    }
    assert_eq!(is_there, [false, false, true, true]);
    assert_eq!(daemon.count("removed an old image"), 2);
}

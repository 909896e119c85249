//! Tests updates that start the new container first: clients observe no failure. Where this is not possible, the old
//! container is stopped first, and the log has the reason. The numbers T… are from the list of cases in the design.

use std::collections::BTreeMap;

use imagewatch_tests::engine::RunSpec;
use imagewatch_tests::image::{ImageSpec, LINGERING, WEB_PORT};
use imagewatch_tests::load::{Load, Tries};
use imagewatch_tests::unique::free_port;
use imagewatch_tests::wait::wait_for;

use crate::stage::{LONG_TIMEOUT, SHORT_TIMEOUT, Stage, labels};

/// The name of the service for its clients, independent of the container.
const ALIAS: &str = "shop";

fn start_first(image: String) -> RunSpec {
    RunSpec { image, labels: labels(&[("imagewatch.strategy", "start-first")]), ..RunSpec::default() }
}

#[tokio::test(flavor = "multi_thread")]
async fn start_first_causes_no_failed_request() {
    let stage = Stage::new().await;
    let [v1, v2] = ["v1", "v2"].map(|version| stage.scope.name(version));
    stage.push_image("web", &ImageSpec::graceful(&v1)).await;
    let network = stage.scope.name("net");
    stage.scope.create_network(&network).await;
    let aliases = vec![ALIAS.to_owned()];
    let web = RunSpec { network: Some(network.clone()), aliases, ..start_first(stage.image("web")) };
    let old_id = stage.run_as("web", web).await;
    // After a container ends, the engine still resolves its address for a short time. No server listens there.
    let client = Load::start(&stage, "client", &network, ALIAS, Tries::All).await;
    let daemon = stage.watch(&[stage.write(&stage.manifest().config("images", &stage.image("web")), "one")]);
    daemon.wait_for_line("first seen").await;
    client.wait_until_served_by(&v1).await;

    let url = format!("http://{ALIAS}:{WEB_PORT}{LINGERING}");
    let command = ["wget", "-q", "-O", "-", &url];
    let update = async {
        wait_for("the request to be in progress", SHORT_TIMEOUT, || async {
            let busy = stage.scope.exec(&stage.scope.name("web"), &["sh", "-c", "ls /busy-*"]).await;
            if busy.starts_with("/busy-") && !busy.contains('*') { Ok(()) } else { Err(busy) }
        })
        .await;
        let digest = stage.push_image("web", &ImageSpec::graceful(&v2)).await;
        daemon.process.wait_for_line("recreated", LONG_TIMEOUT).await;
        stage.wait_until_on("web", &digest, SHORT_TIMEOUT).await
    };
    let (under_way, now) = tokio::join!(stage.scope.exec(&client.container, &command), update);
    assert_eq!(under_way, format!("{v1}, while stopping\n"));
    assert_ne!(now.id, old_id);
    client.wait_until_served_by(&v2).await;
    let seen = client.answers().await;
    assert_eq!(seen.keys().collect::<Vec<_>>(), [&v1, &v2], "no request failed: {seen:?}");
    assert_eq!(daemon.count("stopped first"), 0);
    assert_eq!(stage.containers().await, [client.container, stage.scope.name("web")], "no other container remains");
}

#[tokio::test(flavor = "multi_thread")]
async fn t39_an_exclusive_resource_prevents_start_first_and_is_logged() {
    let stage = Stage::new().await;
    stage.push_image("web", &ImageSpec::graceful(&stage.scope.name("v1"))).await;
    let port = free_port();
    let spec = RunSpec { fixed_ports: BTreeMap::from([(WEB_PORT, port)]), ..start_first(stage.image("web")) };
    stage.run_as("web", spec).await;
    let daemon = stage.watch(&[stage.write(&stage.manifest().config("images", &stage.image("web")), "one")]);
    daemon.wait_for_line("first seen").await;
    let v2 = stage.push_image("web", &ImageSpec::graceful(&stage.scope.name("v2"))).await;
    let line = daemon.wait_for_line("stopped first, as it cannot be started first").await;
    assert!(line.contains(&format!("it publishes host port {port}")), "{line}");
    let now = stage.wait_until_on("web", &v2, LONG_TIMEOUT).await;
    assert_eq!(now.published[&WEB_PORT], format!("127.0.0.1:{port}"));
}

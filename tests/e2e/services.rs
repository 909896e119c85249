//! Tests containers that belong together: replicas of a service, and containers that share a volume. Checks which
//! containers serve during an update, and that all end on one version. The numbers F… are those of the field reports.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use bollard::models::HealthConfig;
use imagewatch_tests::engine::{ContainerNow, RunSpec};
use imagewatch_tests::image::ImageSpec;
use imagewatch_tests::program::STATE_DIR;
use imagewatch_tests::wait::wait_for;
use serde_json::Value;

use crate::stage::{Daemon, LONG_TIMEOUT, Stage, labels, run_to_end, watch_with};

const REPLICAS: [&str; 3] = ["web-1", "web-2", "web-3"];

/// A web server that serves 3 s after its start. Its health check reports when.
fn slow_web(version: &str) -> ImageSpec {
    let script = "trap 'exit 0' TERM; sleep 3; httpd -p 8080 -h /www; while :; do sleep 3600 & wait $!; done";
    let health_command = Some("wget -q -O /dev/null http://127.0.0.1:8080/".to_owned());
    ImageSpec { health_command, ..ImageSpec::web(version).running(script) }
}

fn compose(service: &str, number: &str) -> BTreeMap<String, String> {
    labels(&[
        ("imagewatch.enable", "true"),
        ("com.docker.compose.project", "shop"),
        ("com.docker.compose.service", service),
        ("com.docker.compose.container-number", number),
    ])
}

/// Starts `roles` on the image of role `web`, either as one compose service or as one service each, and watches them.
async fn start(stage: &Stage, spec: impl Fn(&str) -> RunSpec, roles: &[&str]) -> Daemon {
    for role in roles {
        stage.run_as(role, RunSpec { image: stage.image("web"), ..spec(role) }).await;
    }
    let manifest = stage.manifest().config("containers", "labelled").config("host.stable_for", "6s");
    let manifest = stage.write(&manifest, "labelled");
    let envs = [(STATE_DIR, stage.state_dir()), ("IMAGEWATCH_LOG", "info,imagewatch::daemon::effects=debug")];
    let daemon = watch_with(stage.scope.engine().host(), &[manifest], &envs);
    daemon.wait_for_more("first seen", roles.len() - 1).await;
    daemon
}

async fn all(stage: &Stage, roles: &[&str]) -> Vec<ContainerNow> {
    let mut found = Vec::new();
    for role in roles {
        found.push(stage.container(role).await.expect("the container has its name"));
    }
    found
}

/// Whether the container of `role` answers over HTTP at its own address.
async fn serves(stage: &Stage, client: &reqwest::Client, role: &str) -> bool {
    let docker = stage.scope.engine().docker();
    let Ok(found) = docker.inspect_container(&stage.scope.name(role), None).await else { return false };
    let networks = found.network_settings.and_then(|settings| settings.networks).unwrap_or_default();
    let address = networks.into_values().filter_map(|endpoint| endpoint.ip_address).find(|ip| !ip.is_empty());
    let Some(address) = address else { return false };
    let request = client.get(format!("http://{address}:8080/")).timeout(Duration::from_millis(500));
    request.send().await.is_ok_and(|answer| answer.status().is_success())
}

/// Counts the serving replicas repeatedly until `is_over` is set. Returns the lowest count.
async fn watch_lowest(stage: &Stage, is_over: Arc<AtomicBool>, looks: Arc<AtomicUsize>) -> usize {
    let client = reqwest::Client::builder().no_proxy().pool_max_idle_per_host(0).build().expect("the client builds");
    let mut lowest = REPLICAS.len();
    while !is_over.load(Ordering::Relaxed) {
        let answers = futures_util::future::join_all(REPLICAS.iter().map(|role| serves(stage, &client, role))).await;
        lowest = lowest.min(answers.into_iter().filter(|serves| *serves).count());
        looks.fetch_add(1, Ordering::Relaxed);
    }
    lowest
}

#[tokio::test(flavor = "multi_thread")]
async fn f18_two_of_three_replicas_serve_throughout_an_update() {
    let stage = Stage::new().await;
    stage.push_image("web", &slow_web(&stage.scope.name("v1"))).await;
    // The start period is longer than the 3 s that the server needs, so no failure counts before.
    let (interval, start_period) = (Some(500_000_000), Some(30_000_000_000));
    let health = HealthConfig { interval, start_period, ..HealthConfig::default() };
    let spec = |role: &str| RunSpec {
        labels: compose("web", role.rsplit('-').next().unwrap_or_default()),
        health: Some(health.clone()),
        ..RunSpec::default()
    };
    let _daemon = start(&stage, spec, &REPLICAS).await;
    let client = reqwest::Client::builder().no_proxy().build().expect("the client builds");
    for role in REPLICAS {
        wait_for(&format!("{role} to serve"), LONG_TIMEOUT, || async {
            if serves(&stage, &client, role).await { Ok(()) } else { Err(()) }
        })
        .await;
    }
    let (is_over, looks) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let move_all = async {
        let v2 = stage.push_image("web", &slow_web(&stage.scope.name("v2"))).await;
        for role in REPLICAS {
            stage.wait_until_on(role, &v2, LONG_TIMEOUT).await;
        }
        is_over.store(true, Ordering::Relaxed);
    };
    let (lowest, ()) = tokio::join!(watch_lowest(&stage, is_over.clone(), looks.clone()), move_all);
    println!("F18: the lowest of {} counts: {lowest} replicas serve", looks.load(Ordering::Relaxed));
    assert!(looks.load(Ordering::Relaxed) > 50, "too few counts for a result");
    assert!(lowest >= 2, "only {lowest} served");
}

#[tokio::test(flavor = "multi_thread")]
async fn f18_a_bad_image_is_tried_on_one_replica_and_quarantined_for_all() {
    let stage = Stage::new().await;
    stage.push_image("web", &ImageSpec::web(&stage.scope.name("v1"))).await;
    let spec = |role: &str| RunSpec {
        labels: compose("web", role.rsplit('-').next().unwrap_or_default()),
        ..RunSpec::default()
    };
    let daemon = start(&stage, spec, &REPLICAS).await;
    let before = all(&stage, &REPLICAS).await;
    let bad = ImageSpec::sleeper(&stage.scope.name("v2")).running("sleep 3; exit 1");
    stage.push_image("web", &bad).await;
    daemon.wait_for_line("is quarantined").await;
    let barred = wait_for("all three replicas to be quarantined", LONG_TIMEOUT, || async {
        let barred = quarantined(&stage).await;
        if barred.len() == REPLICAS.len() { Ok(barred) } else { Err(barred) }
    })
    .await;
    let reason = barred[0]["reason"].as_str().unwrap_or_default().to_owned();
    assert!(barred.iter().all(|entry| entry["fault"] == "image" && entry["reason"] == reason.as_str()), "{barred:#?}");
    daemon.wait_for_line("not touched, because").await;
    // Two more polls try the image on no replica.
    let held = daemon.count("is held");
    daemon.wait_for_more("is held", held + 2 * REPLICAS.len()).await;
    let now = all(&stage, &REPLICAS).await;
    let touched: Vec<&str> = REPLICAS
        .iter()
        .zip(before.iter().zip(&now))
        .filter(|(_, (before, now))| before.started_at != now.started_at)
        .map(|(role, _)| *role)
        .collect();
    assert_eq!(touched.len(), 1, "{touched:?} were stopped");
    for (before, now) in before.iter().zip(&now) {
        assert_eq!((&now.id, now.is_running), (&before.id, true), "the same containers must run");
    }
}

async fn quarantined(stage: &Stage) -> Vec<Value> {
    let args = ["quarantine", "list", "--json"];
    let (code, listed) = run_to_end(stage.scope.engine().host(), &args, &[(STATE_DIR, stage.state_dir())]).await;
    let listed: Value = serde_json::from_str(&listed).unwrap_or_else(|error| panic!("{code} {error}: {listed}"));
    listed["quarantine"].as_array().cloned().unwrap_or_default()
}

/// The migration of this image fails if it runs twice at the same time.
fn migrating(version: &str, after: &str) -> ImageSpec {
    let script = format!(
        "mkdir /data/lock || exit 1; sleep 4; rmdir /data/lock; {after}trap 'exit 0' TERM; while :; do sleep 3600 & wait $!; done"
    );
    ImageSpec::web(version).running(&script)
}

#[tokio::test(flavor = "multi_thread")]
async fn f36_two_containers_on_one_volume_end_on_one_version() {
    for (case, after, is_updated) in [
        ("a good image", "", true),
        ("bad for the second one", "[ -e /data/first ] && exit 1; touch /data/first; ", false),
    ] {
        let stage = Stage::new().await;
        stage.push_image("web", &ImageSpec::web(&stage.scope.name("v1"))).await;
        let roles = ["app", "cron"];
        let volume = format!("{}:/data", stage.scope.name("data"));
        let spec =
            |role: &str| RunSpec { labels: compose(role, "1"), volumes: vec![volume.clone()], ..RunSpec::default() };
        let daemon = start(&stage, spec, &roles).await;
        let before = all(&stage, &roles).await;
        let v2 = stage.push_image("web", &migrating(&stage.scope.name("v2"), after)).await;
        if is_updated {
            for role in roles {
                stage.wait_until_on(role, &v2, LONG_TIMEOUT).await;
            }
            assert_eq!(quarantined(&stage).await, Vec::<Value>::new(), "{case}");
        } else {
            daemon.wait_for_line("is quarantined").await;
            daemon.wait_for_line("not touched, because").await;
            let now = all(&stage, &roles).await;
            for (before, now) in before.iter().zip(&now) {
                assert_eq!((&now.id, now.is_running), (&before.id, true), "{case}: both containers must be unchanged");
            }
            assert_eq!(quarantined(&stage).await.len(), 2, "{case}: both must be quarantined");
        }
        drop(daemon);
    }
}

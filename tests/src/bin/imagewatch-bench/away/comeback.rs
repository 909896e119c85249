//! How soon the old container serves again after the new one becomes unhealthy.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use imagewatch_tests::engine::RunSpec;
use imagewatch_tests::engine_events::EngineEvents;
use imagewatch_tests::image::{ImageSpec, WEB_PORT};
use imagewatch_tests::prober::Prober;
use imagewatch_tests::stage::{SHORT_TIMEOUT, Stage};
use imagewatch_tests::unique::free_port;
use imagewatch_tests::wait::wait_for;

use super::Service;
use crate::report::{Aim, Row, Samples};

/// Measures `rounds` updates that fail.
pub(crate) async fn measure(rounds: usize) -> Vec<Row> {
    crate::say("failing health checks");
    let stage = Stage::new().await;
    let good = stage.scope.name("v0");
    stage.push_image("web", &ImageSpec::web(&good)).await;
    let port = free_port();
    let fixed_ports = BTreeMap::from([(WEB_PORT, port)]);
    let old = stage.run_as("web", RunSpec { image: stage.image("web"), fixed_ports, ..RunSpec::default() }).await;
    let events = EngineEvents::start(stage.scope.engine().docker().clone());
    let service = Service::watch(stage, ImageSpec::web).await;
    let prober = Prober::start(format!("http://127.0.0.1:{port}/"));
    let (mut backs, mut stops, mut starts) = (Vec::new(), Vec::new(), Vec::new());
    for round in 1..=rounds {
        let new = fail(&service, round, &old).await;
        let at = |action: &str| events.find(action, &new).unwrap_or_else(|| panic!("the engine reported no {action}"));
        let unhealthy = at("health_status: unhealthy");
        let stop = since(at("kill"), at("stop"));
        let back = first_answer(&prober, &good, unhealthy).await;
        backs.push(since(unhealthy, back).saturating_sub(stop).as_secs_f64());
        stops.push(stop.as_secs_f64());
        starts.push(start_again(&service.stage, &prober, &good).await.as_secs_f64());
    }
    vec![
        Row::new("unhealthy to the old one serving, without the stop", "s", Samples::new(backs)).aim(Aim::AtMost(1.0)),
        Row::new("  the stop", "s", Samples::new(stops)),
        Row::new("  a start of the old one alone, until it serves", "s", Samples::new(starts)),
    ]
}

/// Moves the tag to an image that serves but reports that it is unhealthy. Returns the id of its container after the
/// rollback.
async fn fail(service: &Service, round: usize, old: &str) -> String {
    let bad = ImageSpec::web(&service.stage.scope.name(&format!("bad{round}")));
    service.stage.push_image("web", &ImageSpec { health_command: Some("false".to_owned()), ..bad }).await;
    let new = wait_for("the new container to be tried", SHORT_TIMEOUT, || async {
        let now = service.stage.container("web").await;
        now.as_ref().filter(|now| now.id != old).map(|now| now.id.clone()).ok_or(now)
    })
    .await;
    service.daemon.wait_for_more("is quarantined", round - 1).await;
    new
}

/// The floor: how long the engine alone needs to start the container until it serves.
async fn start_again(stage: &Stage, prober: &Prober, version: &str) -> Duration {
    let (docker, web) = (stage.scope.engine().docker(), stage.scope.name("web"));
    docker.stop_container(&web, None).await.expect("the container can be stopped");
    let begin = SystemTime::now();
    docker.start_container(&web, None).await.expect("the container can be started");
    since(begin, first_answer(prober, version, begin).await)
}

/// When `version` first answered after the moment `after`.
async fn first_answer(prober: &Prober, version: &str, after: SystemTime) -> SystemTime {
    wait_for("the container to answer", SHORT_TIMEOUT, || async {
        let probes = prober.probes();
        let found = probes.iter().find(|probe| probe.at > after && probe.version.as_deref() == Some(version));
        found.map(|probe| probe.at).ok_or(probes.len())
    })
    .await
}

fn since(from: SystemTime, to: SystemTime) -> Duration {
    to.duration_since(from).unwrap_or_default()
}

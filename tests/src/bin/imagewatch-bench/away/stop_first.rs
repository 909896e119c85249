//! How long a service with strategy stop-first does not answer. The floor is a stop and a start of the same container.

use std::collections::BTreeMap;
use std::time::Duration;

use imagewatch_tests::engine::RunSpec;
use imagewatch_tests::image::{ImageSpec, WEB_PORT};
use imagewatch_tests::prober::{Prober, longest_absence};
use imagewatch_tests::stage::{SHORT_TIMEOUT, Stage};
use imagewatch_tests::unique::free_port;
use imagewatch_tests::wait::wait_for;

use super::Service;
use crate::report::{Aim, Row, Samples, ms};

/// Measures `rounds` pairs.
pub(crate) async fn measure(rounds: usize) -> Vec<Row> {
    crate::say("updating, compared with a stop and a start");
    let stage = Stage::new().await;
    stage.push_image("web", &ImageSpec::web(&stage.scope.name("v0"))).await;
    let port = free_port();
    let fixed_ports = BTreeMap::from([(WEB_PORT, port)]);
    stage.run_as("web", RunSpec { image: stage.image("web"), fixed_ports, ..RunSpec::default() }).await;
    let url = format!("http://127.0.0.1:{port}/");
    let service = Service::watch(stage, ImageSpec::web).await;
    let (mut updates, mut floors) = (Vec::new(), Vec::new());
    for _ in 0..rounds {
        floors.push(ms(away(&url, restart(&service.stage)).await));
        updates.push(ms(away(&url, service.update()).await));
    }
    let pairs = Samples::new(updates.iter().zip(&floors).map(|(update, floor)| update / floor));
    let [updates, floors] = [updates, floors].map(Samples::new);
    let ratio = Samples::new([updates.median() / floors.median()]);
    vec![
        Row::new("time without an answer / stop and start, of the medians", "x", ratio).aim(Aim::Median(1.25)),
        Row::new("  time without an answer / stop and start, of each pair", "x", pairs),
        Row::new("  time without an answer in an update, stop-first", "ms", updates),
        Row::new("  time without an answer in a stop and a start", "ms", floors),
    ]
}

/// How long the service at `url` did not answer during `change`.
async fn away<T>(url: &str, change: impl Future<Output = T>) -> Duration {
    let prober = Prober::start(url.to_owned());
    let answers = async |when: &str| {
        wait_for(when, SHORT_TIMEOUT, || async {
            if prober.is_answered() { Ok(()) } else { Err(prober.probes().len()) }
        })
        .await;
    };
    answers("an answer before the change").await;
    change.await;
    answers("an answer after the change").await;
    longest_absence(&prober.probes())
}

/// Restarts the same container with the engine alone.
async fn restart(stage: &Stage) {
    let (docker, web) = (stage.scope.engine().docker(), stage.scope.name("web"));
    docker.stop_container(&web, None).await.expect("the container can be stopped");
    docker.start_container(&web, None).await.expect("the container can be started");
}

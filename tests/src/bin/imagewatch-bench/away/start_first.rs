//! What the clients of a service observe during updates that start the new container first.

use imagewatch_tests::engine::RunSpec;
use imagewatch_tests::image::ImageSpec;
use imagewatch_tests::load::{FAILED, Load, Tries};
use imagewatch_tests::stage::{Stage, labels};

use super::Service;
use crate::report::{Aim, Row, Samples};

const SERVICE: &str = "shop";

/// Measures `rounds` updates under load.
#[expect(clippy::cast_precision_loss, reason = "a few thousand")]
pub(crate) async fn measure(rounds: usize) -> Vec<Row> {
    crate::say("updating under load");
    let stage = Stage::new().await;
    stage.push_image("web", &ImageSpec::graceful(&stage.scope.name("v0"))).await;
    let network = stage.scope.name("net");
    stage.scope.create_network(&network).await;
    let labels = labels(&[("imagewatch.strategy", "start-first")]);
    let aliases = vec![SERVICE.to_owned()];
    let spec = RunSpec { image: stage.image("web"), labels, aliases, ..RunSpec::default() };
    stage.run_as("web", RunSpec { network: Some(network.clone()), ..spec }).await;
    let service = Service::watch(stage, ImageSpec::graceful).await;
    let (mut asked, mut failed, mut failed_at_first) = (Vec::new(), Vec::new(), Vec::new());
    for round in 0..rounds {
        let roles = [format!("all-{round}"), format!("first-{round}")];
        let counted = under_load(&service, &network, &roles).await;
        let [[all, all_failed], [_, first_failed]] = counted.map(|counts| counts.map(|count| count as f64));
        asked.push(all);
        failed.push(all_failed);
        failed_at_first.push(first_failed);
    }
    let [asked, failed, failed_at_first] = [asked, failed, failed_at_first].map(Samples::new);
    vec![
        Row::new("failed requests of an update, start-first", "", failed).aim(Aim::Exactly(0.0)),
        Row::new("  all requests", "", asked),
        Row::new("  failed, of a client that tries one address only", "", failed_at_first),
    ]
}

/// Updates once under two clients. Returns the number of requests and of failures for each.
async fn under_load(service: &Service, network: &str, roles: &[String; 2]) -> [[usize; 2]; 2] {
    let mut loads = Vec::new();
    for (role, tries) in roles.iter().zip([Tries::All, Tries::First]) {
        let load = Load::start(&service.stage, role, network, SERVICE, tries).await;
        load.wait_until_served_by(&service.version()).await;
        loads.push(load);
    }
    service.update().await;
    let mut counts = [[0; 2]; 2];
    for (load, counted) in loads.iter().zip(&mut counts) {
        load.wait_until_served_by(&service.version()).await;
        let answers = load.answers().await;
        *counted = [answers.values().sum(), answers.get(FAILED).copied().unwrap_or_default()];
        service.stage.scope.remove_container(&load.container).await;
    }
    counts
}

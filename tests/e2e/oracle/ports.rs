//! Replaced containers stay published.

use imagewatch_engine::Engine;
use serde_json::json;

use super::rig::Rig;
use super::sets::{Images, run};

#[tokio::test(flavor = "multi_thread")]
async fn t37_a_port_whose_list_of_bindings_is_empty_stays_published() {
    let rig = Rig::new().await;
    let place = rig.place(210, &run("t37", "")).await;
    place.point_tag_at(&Images::Plain.old_role()).await;
    // Docker's command line always writes a binding; other clients do not.
    let body = json!({ "Image": place.tag(), "HostConfig": { "PortBindings": { "91/tcp": [] } } });
    let id = rig.engine.create_container(&place.name(), &body, None).await.unwrap();
    rig.engine.start(&id).await.unwrap();
    place.point_tag_at(&Images::Plain.new_role()).await;
    let new = place.replace().await.unwrap_or_else(|reason| panic!("it was not replaced: {reason}"));
    let ports = &new["NetworkSettings"]["Ports"];
    assert!(ports["91/tcp"][0]["HostPort"].as_str().is_some_and(|port| port != "0" && !port.is_empty()), "{ports}");
    place.clear().await;
}

//! Tests that replaced containers keep their published ports.

use imagewatch_engine::Engine;
use serde_json::json;

use super::rig::OracleFixture;
use super::sets::{Images, run};

#[tokio::test(flavor = "multi_thread")]
async fn t37_a_port_with_an_empty_list_of_bindings_stays_published() {
    let rig = OracleFixture::new().await;
    let sandbox = rig.sandbox(210, &run("t37", "")).await;
    sandbox.point_tag_at(&Images::Plain.old_role()).await;
    // Docker's command line always writes a binding. Other clients do not.
    let body = json!({ "Image": sandbox.tag(), "HostConfig": { "PortBindings": { "91/tcp": [] } } });
    let id = rig.engine.create_container(&sandbox.name(), &body, None).await.unwrap();
    rig.engine.start(&id).await.unwrap();
    sandbox.point_tag_at(&Images::Plain.new_role()).await;
    let new = sandbox.replace().await.unwrap_or_else(|reason| panic!("the container was not replaced: {reason}"));
    let ports = &new["NetworkSettings"]["Ports"];
    assert!(ports["91/tcp"][0]["HostPort"].as_str().is_some_and(|port| port != "0" && !port.is_empty()), "{ports}");
    sandbox.clear().await;
}

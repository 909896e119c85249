//! Tests that replaced containers keep their networks. The oracle compares text; these tests check the result on the
//! container.

use serde_json::{Value, json};

use super::rig::{Network, OracleFixture, Sandbox};
use super::sets::{Images, OptionSet, run};

const SECOND_LATER: &str = "network connect --alias later --ip {ip2} {net2} {name}";

/// Creates a container, moves its tag and replaces it. Returns both inspections.
async fn create_and_replace(sandbox: &Sandbox<'_>, set: &OptionSet) -> (Value, Value) {
    sandbox.point_tag_at(&Images::Plain.old_role()).await;
    sandbox.make(set).await;
    let old = sandbox.inspect().await;
    sandbox.point_tag_at(&Images::Plain.new_role()).await;
    let new = sandbox.replace().await.unwrap_or_else(|reason| panic!("the container was not replaced: {reason}"));
    assert_ne!(new["Id"], old["Id"]);
    (old, new)
}

fn networks(container: &Value) -> Vec<&str> {
    container["NetworkSettings"]["Networks"].as_object().into_iter().flatten().map(|(name, _)| name.as_str()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn t09_two_networks_keep_their_addresses_and_aliases() {
    let set = run("t09", "--network {net} --network-alias a --network-alias b --ip {ip}").after(SECOND_LATER);
    let rig = OracleFixture::new().await;
    let sandbox = rig.sandbox(200, &set).await;
    let (old, new) = create_and_replace(&sandbox, &set).await;
    let shown = &new["NetworkSettings"]["Networks"];
    for (which, aliases) in [(Network::First, &["a", "b"][..]), (Network::Second, &["later"])] {
        let endpoint = &shown[sandbox.network(which)];
        assert_eq!(endpoint["IPAddress"], sandbox.address(which), "{which:?}");
        let has = endpoint["Aliases"].as_array().unwrap_or_else(|| panic!("{which:?}: {endpoint}"));
        assert!(aliases.iter().all(|alias| has.contains(&json!(alias))), "{which:?}: {has:?}");
    }
    let old_id = &old["Id"].as_str().unwrap()[..12];
    assert!(!shown.to_string().contains(old_id), "{shown}");
    sandbox.clear().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn t12_a_configured_mac_address_stays_and_a_generated_one_does_not() {
    const MAC: &str = "02:11:22:33:44:55";
    let rig = OracleFixture::new().await;
    for (index, options, expected) in [
        (201, "--network {net} --mac-address 02:11:22:33:44:55", Some(MAC)),
        (202, "--mac-address 02:11:22:33:44:55", Some(MAC)),
        (203, "--network {net}", None),
        (204, "", None),
    ] {
        let set = run("t12", options);
        let sandbox = rig.sandbox(index, &set).await;
        let (_, new) = create_and_replace(&sandbox, &set).await;
        assert_eq!(new["Config"]["MacAddress"].as_str(), expected, "{options:?}: requested");
        let primary = &new["NetworkSettings"]["Networks"][networks(&new)[0]];
        assert_eq!(
            primary["MacAddress"] == MAC,
            expected.is_some(),
            "{options:?}: in use is {}",
            primary["MacAddress"]
        );
        sandbox.clear().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn t13_a_network_given_by_short_id_stays_one_network() {
    let set = run("t13", "--network {net-id} --network-alias a");
    let rig = OracleFixture::new().await;
    let sandbox = rig.sandbox(205, &set).await;
    let (_, new) = create_and_replace(&sandbox, &set).await;
    let name = sandbox.network(Network::First);
    assert_eq!((networks(&new), &new["HostConfig"]["NetworkMode"]), (vec![name.as_str()], &json!(name)));
    let aliases = &new["NetworkSettings"]["Networks"][&name]["Aliases"];
    assert!(aliases.as_array().is_some_and(|aliases| aliases.contains(&json!("a"))), "{aliases}");
    sandbox.clear().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn t14_a_container_stays_disconnected_from_its_primary_network() {
    let set = run("t14", "--network {net}")
        .after("network connect --alias later --ip {ip2} {net2} {name}\nnetwork disconnect {net} {name}");
    let rig = OracleFixture::new().await;
    let sandbox = rig.sandbox(206, &set).await;
    let (_, new) = create_and_replace(&sandbox, &set).await;
    assert_eq!(networks(&new), [sandbox.network(Network::Second)]);
    sandbox.clear().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn t14_a_container_stays_disconnected_from_all_networks() {
    let rig = OracleFixture::new().await;
    for (index, options, leave) in
        [(207, "--network {net}", "network disconnect {net} {name}"), (208, "", "network disconnect bridge {name}")]
    {
        let set = run("t14", options).after(leave);
        let sandbox = rig.sandbox(index, &set).await;
        let (old, new) = create_and_replace(&sandbox, &set).await;
        assert_eq!((networks(&old), networks(&new)), (vec![], vec![]), "{options:?}");
        assert_eq!(new["State"]["Running"], true, "{options:?}");
        sandbox.clear().await;
    }
}

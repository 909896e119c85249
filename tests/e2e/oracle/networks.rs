//! Replaced containers keep their networks: what the oracle compares as text, seen from the container.

use serde_json::{Value, json};

use super::rig::{Network, Place, Rig};
use super::sets::{Images, OptionSet, run};

const SECOND_LATER: &str = "network connect --alias later --ip {ip2} {net2} {name}";

/// Makes a container, moves its tag and replaces it; returns both inspections.
async fn replace_made_with(place: &Place<'_>, set: &OptionSet) -> (Value, Value) {
    place.point_tag_at(&Images::Plain.old_role()).await;
    place.make(set).await;
    let old = place.inspect().await;
    place.point_tag_at(&Images::Plain.new_role()).await;
    let new = place.replace().await.unwrap_or_else(|reason| panic!("it was not replaced: {reason}"));
    assert_ne!(new["Id"], old["Id"]);
    (old, new)
}

fn networks(container: &Value) -> Vec<&str> {
    container["NetworkSettings"]["Networks"].as_object().into_iter().flatten().map(|(name, _)| name.as_str()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn t09_two_networks_keep_their_fixed_addresses_and_aliases_and_lose_the_old_id() {
    let set = run("t09", "--network {net} --network-alias a --network-alias b --ip {ip}").after(SECOND_LATER);
    let rig = Rig::new().await;
    let place = rig.place(200, &set).await;
    let (old, new) = replace_made_with(&place, &set).await;
    let shown = &new["NetworkSettings"]["Networks"];
    for (which, aliases) in [(Network::First, &["a", "b"][..]), (Network::Second, &["later"])] {
        let endpoint = &shown[place.network(which)];
        assert_eq!(endpoint["IPAddress"], place.address(which), "{which:?}");
        let has = endpoint["Aliases"].as_array().unwrap_or_else(|| panic!("{which:?}: {endpoint}"));
        assert!(aliases.iter().all(|alias| has.contains(&json!(alias))), "{which:?}: {has:?}");
    }
    let old_id = &old["Id"].as_str().unwrap()[..12];
    assert!(!shown.to_string().contains(old_id), "{shown}");
    place.clear().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn t12_a_configured_mac_address_stays_and_a_generated_one_is_not_pinned() {
    const MAC: &str = "02:11:22:33:44:55";
    let rig = Rig::new().await;
    for (index, options, expected) in [
        (201, "--network {net} --mac-address 02:11:22:33:44:55", Some(MAC)),
        (202, "--mac-address 02:11:22:33:44:55", Some(MAC)),
        (203, "--network {net}", None),
        (204, "", None),
    ] {
        let set = run("t12", options);
        let place = rig.place(index, &set).await;
        let (_, new) = replace_made_with(&place, &set).await;
        assert_eq!(new["Config"]["MacAddress"].as_str(), expected, "{options:?}: asked for");
        let primary = &new["NetworkSettings"]["Networks"][networks(&new)[0]];
        assert_eq!(
            primary["MacAddress"] == MAC,
            expected.is_some(),
            "{options:?}: in use is {}",
            primary["MacAddress"]
        );
        place.clear().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn t13_a_network_given_by_its_short_id_stays_one_network_with_its_aliases() {
    let set = run("t13", "--network {net-id} --network-alias a");
    let rig = Rig::new().await;
    let place = rig.place(205, &set).await;
    let (_, new) = replace_made_with(&place, &set).await;
    let name = place.network(Network::First);
    assert_eq!((networks(&new), &new["HostConfig"]["NetworkMode"]), (vec![name.as_str()], &json!(name)));
    let aliases = &new["NetworkSettings"]["Networks"][&name]["Aliases"];
    assert!(aliases.as_array().is_some_and(|aliases| aliases.contains(&json!("a"))), "{aliases}");
    place.clear().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn t14_a_container_that_was_taken_off_its_primary_network_stays_off_it() {
    let set = run("t14", "--network {net}")
        .after("network connect --alias later --ip {ip2} {net2} {name}\nnetwork disconnect {net} {name}");
    let rig = Rig::new().await;
    let place = rig.place(206, &set).await;
    let (_, new) = replace_made_with(&place, &set).await;
    assert_eq!(networks(&new), [place.network(Network::Second)]);
    place.clear().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn t14_a_container_that_was_taken_off_all_networks_stays_off_them() {
    let rig = Rig::new().await;
    for (index, options, leave) in
        [(207, "--network {net}", "network disconnect {net} {name}"), (208, "", "network disconnect bridge {name}")]
    {
        let set = run("t14", options).after(leave);
        let place = rig.place(index, &set).await;
        let (old, new) = replace_made_with(&place, &set).await;
        assert_eq!((networks(&old), networks(&new)), (vec![], vec![]), "{options:?}");
        assert_eq!(new["State"]["Running"], true, "{options:?}");
        place.clear().await;
    }
}

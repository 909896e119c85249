//! Endpoints, MAC addresses and settings of one interface.

use super::*;

const MAC: &str = "02:00:00:00:00:01";

fn networked(mode: &str, networks: &Value) -> Value {
    json!({
        "Id": ID, "Config": { "MacAddress": MAC },
        "HostConfig": { "NetworkMode": mode }, "NetworkSettings": { "Networks": networks },
    })
}

#[test]
fn t09_t11_an_endpoint_asks_for_what_was_asked_for_and_no_more() {
    let inspected = json!({
        "IPAMConfig": { "IPv4Address": "10.0.0.9" }, "Links": ["db:database"], "DriverOpts": { "a": "b" }, "GwPriority": 1,
        "Aliases": ["web", "0123456789ab"], "NetworkID": "n", "EndpointID": "e", "Gateway": "10.0.0.1",
        "IPAddress": "10.0.0.9", "IPPrefixLen": 24, "MacAddress": "02:42:0a:00:00:09", "DNSNames": ["web"],
    });
    let of_user_network = json!({
        "IPAMConfig": { "IPv4Address": "10.0.0.9" }, "Links": ["db:database"], "DriverOpts": { "a": "b" }, "GwPriority": 1,
        "Aliases": ["web"],
    });
    let of_bridge = json!({ "DriverOpts": { "a": "b" }, "GwPriority": 1 });
    for (case, mode, network, expected) in [
        ("user network", "front", "front", of_user_network),
        ("default network", "default", "bridge", of_bridge.clone()),
        ("default network by name", "bridge", "bridge", of_bridge),
    ] {
        let plan = build_plan(&input(&networked(mode, &json!({ network: inspected })), &json!({}))).unwrap();
        assert_eq!(plan.body["NetworkingConfig"]["EndpointsConfig"], json!({ network: expected }), "{case}");
        assert_eq!(plan.body["MacAddress"], MAC, "{case}: where endpoints cannot have one");
    }
}

#[test]
fn t10_t11_t14_the_container_gets_its_very_networks() {
    let (three, two, none) = (json!({ "a": {}, "main": {}, "z": {} }), json!({ "a": {}, "z": {} }), json!({}));
    let mac = json!({ "MacAddress": MAC });
    for (case, api, mode, networks, created, connected, disconnected) in [
        ("t10 old engine", OLD_API, "main", &three, json!({ "main": {} }), vec!["a", "z"], None),
        ("t10 new engine", NEW_API, "main", &three, json!({ "a": {}, "main": mac, "z": {} }), vec![], None),
        ("t14 off the primary, old engine", OLD_API, "main", &two, json!({ "a": {} }), vec!["z"], None),
        ("t14 off the primary, new engine", NEW_API, "main", &two, two.clone(), vec![], None),
        ("t14 off all, old engine", OLD_API, "main", &none, json!({}), vec![], Some("main")),
        ("t14 off all, new engine", NEW_API, "main", &none, json!({}), vec![], Some("main")),
        ("t14 off the default one", NEW_API, "default", &none, json!({}), vec![], Some("bridge")),
        ("t11 host", OLD_API, "host", &json!({ "host": {} }), json!({}), vec![], None),
        ("t11 none", NEW_API, "none", &json!({ "none": {} }), json!({}), vec![], None),
        ("another one's", OLD_API, "container:db", &none, json!({}), vec![], None),
    ] {
        let old = networked(mode, networks);
        let plan = build_plan(&PlanInput { api, ..input(&old, &json!({})) }).unwrap();
        assert_eq!(plan.body["NetworkingConfig"]["EndpointsConfig"], created, "{case}");
        assert_eq!(plan.body["HostConfig"]["NetworkMode"], mode, "{case}");
        let names: Vec<&str> = plan.networks_to_connect.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names, connected, "{case}");
        assert_eq!(plan.networks_to_disconnect, Vec::from_iter(disconnected), "{case}");
        assert_eq!(plan.body.get("MacAddress").is_some(), api < NEW_API, "{case}");
    }
}

#[test]
fn t13_a_network_that_was_asked_for_by_id_is_asked_for_by_name() {
    let id = format!("69700e44ea49{}", "0".repeat(52));
    let other = "1".repeat(64);
    let alias = json!({ "Aliases": ["web"] });
    for (case, mode, networks, expected_mode, expected) in [
        (
            "shown twice",
            "69700e44ea49",
            json!({ "69700e44ea49": { "Aliases": ["web"], "NetworkID": "" }, "dn1": { "NetworkID": id } }),
            "dn1",
            json!({ "dn1": alias }),
        ),
        (
            "shown twice, with the same aliases",
            "69700e44ea49",
            json!({ "69700e44ea49": { "Aliases": ["web"], "NetworkID": id }, "dn1": { "Aliases": ["web"], "NetworkID": id } }),
            "dn1",
            json!({ "dn1": alias }),
        ),
        ("shown once", &id, json!({ "dn1": { "Aliases": ["web"], "NetworkID": id } }), "dn1", json!({ "dn1": alias })),
        (
            "shown by id only: nothing is known but that",
            "69700e44ea49",
            json!({ "69700e44ea49": { "Aliases": ["web"], "NetworkID": id } }),
            "69700e44ea49",
            json!({ "69700e44ea49": alias }),
        ),
        (
            "a name that looks like another one's id",
            "111111111111",
            json!({ "111111111111": { "NetworkID": id }, "dn1": { "NetworkID": other } }),
            "111111111111",
            json!({ "111111111111": {}, "dn1": {} }),
        ),
        ("a short name is no id", "69", json!({ "dn1": { "NetworkID": id } }), "69", json!({ "dn1": {} })),
    ] {
        let mut old = networked(mode, &networks);
        old["Config"] = json!({});
        let plan = build_plan(&PlanInput { api: NEW_API, ..input(&old, &json!({})) }).unwrap();
        assert_eq!(plan.body["HostConfig"]["NetworkMode"], expected_mode, "{case}");
        assert_eq!(plan.body["NetworkingConfig"]["EndpointsConfig"], expected, "{case}");
    }
}

#[test]
fn t12_a_mac_address_is_asked_for_where_it_was_and_never_where_it_was_generated() {
    let api_1_47 = ApiVersion { major: 1, minor: 47 };
    let (generated, random) = ("02:42:0a:00:00:09", "9a:00:00:00:00:02");
    for (case, api, network, current, label, expected) in [
        ("primary, configured", NEW_API, "main", random, None, Ok(Some(MAC))),
        ("secondary, made from the address", api_1_47, "other", generated, None, Ok(None)),
        ("secondary, surely configured", api_1_47, "other", random, None, Ok(Some(random))),
        ("secondary, maybe generated", NEW_API, "other", random, None, Ok(None)),
        ("secondary, labelled", NEW_API, "other", random, Some("x, other"), Ok(Some(random))),
        ("secondary, another one labelled", NEW_API, "other", random, Some("x"), Ok(None)),
        ("secondary, labelled, not shown", NEW_API, "other", "", Some("other"), Err("network other is not shown")),
        ("secondary, an engine that takes none", OLD_API, "other", random, Some("other"), Ok(None)),
    ] {
        let inspected = json!({ network: { "IPAddress": "10.0.0.9", "MacAddress": current } });
        let mut old = networked("main", &inspected);
        old["Config"]["Labels"] = json!({ "imagewatch.keep-mac": label });
        match (build_plan(&PlanInput { api, ..input(&old, &json!({})) }), expected) {
            (Ok(plan), Ok(expected)) => {
                let endpoint = &plan.body["NetworkingConfig"]["EndpointsConfig"][network];
                assert_eq!(endpoint["MacAddress"].as_str(), expected, "{case}");
            }
            (Err(reason), Err(says)) => assert!(reason.contains(says), "{case}: {reason}"),
            (other, _) => panic!("{case}: {other:?}"),
        }
    }
}

#[test]
fn t12_a_generated_address_of_the_primary_network_is_not_pinned() {
    for api in [OLD_API, NEW_API] {
        let inspected = json!({ "main": { "IPAddress": "10.0.0.9", "MacAddress": "9a:00:00:00:00:02" } });
        let mut old = networked("main", &inspected);
        old["Config"] = json!({});
        let plan = build_plan(&PlanInput { api, ..input(&old, &json!({})) }).unwrap();
        assert_eq!(plan.body["NetworkingConfig"]["EndpointsConfig"], json!({ "main": {} }), "{api}");
        assert_eq!(plan.body.get("MacAddress"), None, "{api}");
    }
}

#[test]
fn t36_settings_of_eth0_move_to_its_endpoint_where_the_engine_wants_them_there() {
    const OPTION: &str = "com.docker.network.endpoint.sysctls";
    let sysctls =
        json!({ "net.ipv4.conf.eth0.forwarding": "1", "net.ipv6.neigh.eth0.a.b": "2", "net.core.somaxconn": "3" });
    let left = json!({ "net.core.somaxconn": "3" });
    let moved = "net.ipv4.conf.IFNAME.forwarding=1,net.ipv6.neigh.IFNAME.a.b=2";
    let with = |text: &str| json!({ "DriverOpts": { OPTION: text } });
    let own = "net.ipv4.conf.IFNAME.x=0";
    for (case, api, networks, host, created) in [
        ("old engine", OLD_API, json!({ "main": {} }), &sysctls, json!({ "main": {} })),
        ("new engine", NEW_API, json!({ "a": {}, "main": {} }), &left, json!({ "a": {}, "main": with(moved) })),
        (
            "beside its own",
            NEW_API,
            json!({ "main": with(own) }),
            &left,
            json!({ "main": with(&format!("{own},{moved}")) }),
        ),
        ("off the primary", NEW_API, json!({ "a": {} }), &left, json!({ "a": with(moved) })),
        ("off all", NEW_API, json!({}), &left, json!({ "main": with(moved) })),
    ] {
        let mut old = networked("main", &networks);
        old["Config"] = json!({});
        old["HostConfig"]["Sysctls"] = sysctls.clone();
        let plan = build_plan(&PlanInput { api, ..input(&old, &json!({})) }).unwrap();
        assert_eq!(&plan.body["HostConfig"]["Sysctls"], host, "{case}");
        assert_eq!(plan.body["NetworkingConfig"]["EndpointsConfig"], created, "{case}");
    }
}

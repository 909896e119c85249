//! Every way to an engine that leads through one of its own containers, and ways that do not.

use std::sync::Arc;

use serde_json::json;

use super::*;
use imagewatch_engine::testing::MemoryEngine;

const IMAGE: &str = "r.io/app:1";

/// A container to be: its name, its create body, and the ports that the engine lists.
type Spec = (&'static str, Value, Value);

fn plain(name: &'static str) -> Spec {
    (name, json!({}), json!([]))
}

fn published(name: &'static str, ip: &str) -> Spec {
    (name, json!({}), json!([{ "IP": ip, "PrivatePort": 2375, "PublicPort": 2375, "Type": "tcp" }]))
}

fn on_network_of(name: &'static str, owner: &str) -> Spec {
    (name, json!({ "HostConfig": { "NetworkMode": format!("container:{owner}") } }), json!([]))
}

fn at(name: &'static str, endpoint: &Value) -> Spec {
    (name, json!({ "NetworkingConfig": { "EndpointsConfig": { "net": endpoint } } }), json!([]))
}

fn on_host_network(name: &'static str, mut body: Value) -> Spec {
    body["HostConfig"] = json!({ "NetworkMode": "host" });
    (name, body, json!([]))
}

fn mounting(name: &'static str, source: &str, is_writable: bool) -> Spec {
    let mount = json!({ "Type": "bind", "Source": source, "Destination": "/run/proxy", "RW": is_writable });
    (name, json!({ "TestMounts": [mount] }), json!([]))
}

/// The names of the carriers among `containers` for a connection to `address`.
async fn carriers(address: &str, containers: &[Spec], own: Option<&str>) -> Vec<String> {
    let mut engine = MemoryEngine::new();
    engine.address = address.to_owned();
    let engine = Arc::new(engine);
    engine.add_image(IMAGE, &json!({ "Id": "sha256:1" }));
    let mut names = BTreeMap::new();
    for (name, body, ports) in containers {
        let id = engine.add_container(name, IMAGE, body.clone(), true).await;
        engine.edit(&id, |container| {
            container["TestPorts"] = ports.clone();
            if let Some(mounts) = body.get("TestMounts") {
                container["Mounts"] = mounts.clone();
            }
        });
        names.insert(id, (*name).to_owned());
    }
    let own_id = own.and_then(|own| names.iter().find(|(_, name)| *name == own).map(|(id, _)| id.clone()));
    let found = find_carriers(&*engine, own_id.as_deref()).await.expect("the engine is there");
    let mut found: Vec<String> = found.keys().map(|id| names[id].clone()).collect();
    found.sort();
    found
}

#[tokio::test]
async fn f33_the_container_that_an_address_leads_to_is_found() {
    let own = |body: Value| ("updater", body, json!([]));
    let beside_proxy = || own(json!({ "HostConfig": { "NetworkMode": "container:proxy" } }));
    for (case, address, containers, expected) in [
        (
            "published on loopback",
            "tcp://127.0.0.1:2375",
            vec![published("proxy", "127.0.0.1"), plain("web")],
            &["proxy"][..],
        ),
        ("published on all addresses", "tcp://127.0.0.1:2375", vec![published("proxy", "0.0.0.0")], &["proxy"]),
        ("over IPv6", "tcp://[::1]:2375", vec![published("proxy", "::")], &["proxy"]),
        ("by the name of this machine", "tcp://localhost:2375", vec![published("proxy", "0.0.0.0")], &["proxy"]),
        ("over the bridge's gateway", "tcp://172.17.0.1:2375", vec![published("proxy", "0.0.0.0")], &["proxy"]),
        ("http", "http://127.0.0.1:2375", vec![published("proxy", "127.0.0.1")], &["proxy"]),
        ("the default port", "tcp://127.0.0.1", vec![published("proxy", "127.0.0.1")], &["proxy"]),
        ("published on another address", "tcp://127.0.0.1:2375", vec![published("proxy", "192.0.2.7")], &[]),
        ("another port", "tcp://127.0.0.1:2376", vec![published("web", "0.0.0.0")], &[]),
        (
            "its own address",
            "tcp://172.18.0.5:2375",
            vec![at("proxy", &json!({ "IPAddress": "172.18.0.5" })), at("web", &json!({ "IPAddress": "172.18.0.6" }))],
            &["proxy"],
        ),
        (
            "its own address, though another one has the port on the host",
            "tcp://172.18.0.5:2375",
            vec![at("proxy", &json!({ "IPAddress": "172.18.0.5" })), published("web", "0.0.0.0")],
            &["proxy"],
        ),
        ("its name", "tcp://proxy:2375", vec![plain("proxy"), plain("web")], &["proxy"]),
        (
            "its alias",
            "tcp://engine.invalid:2375",
            vec![at("proxy", &json!({ "Aliases": ["engine.invalid"] }))],
            &["proxy"],
        ),
        (
            "the network of another one",
            "tcp://127.0.0.1:2375",
            vec![published("net", "127.0.0.1"), on_network_of("proxy", "net"), plain("web")],
            &["net", "proxy"],
        ),
        ("an updater on the proxy's network", "tcp://127.0.0.1:2375", vec![plain("proxy"), beside_proxy()], &["proxy"]),
        (
            "the host's network, by what it exposes",
            "tcp://127.0.0.1:2375",
            vec![
                on_host_network("proxy", json!({ "ExposedPorts": { "2375/tcp": {} } })),
                on_host_network("web", json!({})),
            ],
            &["proxy"],
        ),
        (
            "the host's network, by its command",
            "tcp://127.0.0.1:2375",
            vec![on_host_network("proxy", json!({ "Cmd": ["socat", "TCP-LISTEN:2375,fork"] }))],
            &["proxy"],
        ),
        ("the engine itself", "tcp://127.0.0.1:2375", vec![plain("web"), on_host_network("db", json!({}))], &[]),
        (
            "a socket in a folder",
            "unix:///run/proxy/docker.sock",
            vec![mounting("proxy", "/run/proxy", true)],
            &["proxy"],
        ),
        ("a socket above", "unix:///srv/a/b/docker.sock", vec![mounting("proxy", "/srv/a", true)], &["proxy"]),
        ("a reader of the folder", "unix:///run/proxy/docker.sock", vec![mounting("web", "/run/proxy", false)], &[]),
        ("a volume, whose source a list leaves empty", "unix:///run/x.sock", vec![mounting("web", "", true)], &[]),
        ("a client of the socket", "unix:///srv/docker.sock", vec![mounting("web", "/srv/docker.sock", true)], &[]),
        ("the engine's own socket", "unix:///var/run/docker.sock", vec![mounting("web", "/var/run", true)], &[]),
        ("one that has all of the host", "unix:///srv/docker.sock", vec![mounting("agent", "/", true)], &[]),
    ] {
        let own = containers.iter().any(|(name, ..)| *name == "updater").then_some("updater");
        assert_eq!(carriers(address, &containers, own).await, expected, "{case}");
    }
}

#[tokio::test]
async fn f33_an_updater_in_a_container_knows_its_socket_by_its_place_on_the_host() {
    let socket = |source: &str| {
        let mount = json!({ "Type": "bind", "Source": source, "Destination": "/var/run/docker.sock", "RW": true });
        ("updater", json!({ "TestMounts": [mount] }), json!([]))
    };
    for (case, source, expected) in [
        ("served by a container", "/run/proxy/docker.sock", &["proxy"][..]),
        ("served by the engine", "/var/run/docker.sock", &[]),
    ] {
        let containers = [mounting("proxy", "/run/proxy", true), socket(source)];
        assert_eq!(carriers("unix:///var/run/docker.sock", &containers, Some("updater")).await, expected, "{case}");
    }
}

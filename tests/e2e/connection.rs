//! The connection to the engine: a container that carries it is never stopped (field report F33), and one that would have
//! to be encrypted, or that a context names, is not opened at all (field report F07).

use std::io::ErrorKind;
use std::net::TcpListener;

use bollard::models::{HealthConfig, HostConfig};
use imagewatch_tests::engine::RunSpec;
use imagewatch_tests::image::ImageSpec;
use imagewatch_tests::unique::free_port;
use imagewatch_tests::wait::wait_for;

use crate::stage::{LATER, SOON, Stage, labels, run_to_end, watch_with};

/// The port that proxies listen on in their containers.
const PORT: u16 = 2375;

/// A container that forwards what comes at `address` to the engine.
fn proxy(stage: &Stage, address: &str) -> RunSpec {
    let forward = env!("CARGO_BIN_EXE_imagewatch-forward");
    let socket = stage.scope.engine().host().trim_start_matches("unix://");
    let same = |folder: &str| format!("{folder}:{folder}:ro");
    let mounts = [format!("{forward}:/forward:ro"), format!("{socket}:/engine.sock:ro")];
    RunSpec {
        image: stage.image("proxy"),
        cmd: Some(["/forward", address, "/engine.sock"].map(str::to_owned).to_vec()),
        volumes: ["/lib", "/lib64", "/usr"].into_iter().map(same).chain(mounts).collect(),
        restart_policy: Some("unless-stopped".to_owned()),
        ..RunSpec::default()
    }
}

async fn address_of(stage: &Stage, role: &str) -> String {
    let docker = stage.scope.engine().docker();
    let found = docker.inspect_container(&stage.scope.name(role), None).await.expect("it runs");
    let networks = found.network_settings.and_then(|settings| settings.networks).unwrap_or_default();
    networks.into_values().find_map(|endpoint| endpoint.ip_address).expect("it has an address")
}

/// A port that a container publishes on all addresses.
async fn published(stage: &Stage, role: &str) -> String {
    stage.container(role).await.expect("it runs").published[&PORT].clone()
}

/// Moves the images of `carriers` and of a container `web` that is none, with an updater that reaches the engine at
/// `docker_host`: `web` is updated, and they stay as they are.
async fn assert_is_left_alone(case: &str, stage: &Stage, docker_host: &str, carriers: &[&str]) {
    let mut before = Vec::new();
    for role in carriers {
        before.push(stage.container(role).await.expect("it runs"));
    }
    let manifest = stage.write(&stage.manifest().config("containers", "labelled"), "all");
    let daemon = watch_with(docker_host, std::slice::from_ref(&manifest), &[]);
    daemon.wait_for_line("first seen").await;
    stage.push("proxy", "v2").await;
    let v2 = stage.push("web", "v2").await;
    stage.wait_until_on("web", &v2, LATER).await;
    let check = ["check", "--json", manifest.to_str().expect("it is text")];
    let shown = wait_for(&format!("{case}: a check that says so"), SOON, || async {
        let (_, shown) = run_to_end(docker_host, &check, &[]).await;
        if shown.contains("this updater's connection to the engine") { Ok(shown) } else { Err(shown) }
    })
    .await;
    assert!(shown.contains(docker_host), "{case}: {shown}");
    for (role, before) in carriers.iter().zip(before) {
        let now = stage.container(role).await.expect("it is there");
        // The same id and the same start: it ran at every moment.
        assert_eq!((now.id, now.started_at, now.is_running), (before.id, before.started_at, true), "{case}: {role}");
        assert_eq!(now.restart_policy, "unless-stopped", "{case}: {role}");
    }
    let lines = daemon.process.lines();
    assert!(!lines.iter().any(|line| line.contains("restored")), "{case}: {lines:#?}");
}

async fn stage() -> Stage {
    let stage = Stage::new().await;
    stage.push("proxy", "v1").await;
    stage.push("web", "v1").await;
    stage.run("web").await;
    stage
}

#[tokio::test(flavor = "multi_thread")]
async fn f33_a_proxy_that_publishes_a_port_is_never_touched() {
    let stage = stage().await;
    let port = free_port();
    let spec = RunSpec { fixed_ports: [(PORT, port)].into(), ..proxy(&stage, "0.0.0.0:2375") };
    stage.run_as("proxy", spec).await;
    assert_is_left_alone("published", &stage, &format!("tcp://127.0.0.1:{port}"), &["proxy"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn f33_a_proxy_that_publishes_a_port_on_all_addresses_is_never_touched() {
    let stage = stage().await;
    let spec = proxy(&stage, "0.0.0.0:2375");
    stage
        .push_image("proxy", &ImageSpec { exposed_ports: vec![PORT], ..ImageSpec::sleeper(&stage.scope.name("v1p")) })
        .await;
    let host = HostConfig { publish_all_ports: Some(true), ..HostConfig::default() };
    stage.run_as("proxy", RunSpec { host, ..spec }).await;
    let published = published(&stage, "proxy").await;
    let port = published.rsplit(':').next().expect("a port");
    assert_is_left_alone("all addresses", &stage, &format!("tcp://127.0.0.1:{port}"), &["proxy"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn f33_a_proxy_that_is_reached_at_its_own_address_is_never_touched() {
    let stage = stage().await;
    stage.run_as("proxy", proxy(&stage, "0.0.0.0:2375")).await;
    let address = address_of(&stage, "proxy").await;
    assert_is_left_alone("variant", &stage, &format!("tcp://{address}:{PORT}"), &["proxy"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn f33a_a_container_whose_network_the_proxy_shares_is_never_touched() {
    let stage = stage().await;
    let port = free_port();
    let net = RunSpec {
        image: stage.image("proxy"),
        fixed_ports: [(PORT, port)].into(),
        restart_policy: Some("unless-stopped".to_owned()),
        ..RunSpec::default()
    };
    stage.run_as("net", net).await;
    let spec = RunSpec {
        network: Some(format!("container:{}", stage.scope.name("net"))),
        labels: labels(&[("imagewatch.enable", "false")]),
        ..proxy(&stage, "0.0.0.0:2375")
    };
    stage.run_as("proxy", spec).await;
    assert_is_left_alone("a", &stage, &format!("tcp://127.0.0.1:{port}"), &["net", "proxy"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn f33b_a_healthy_proxy_is_not_started_first_either() {
    let stage = stage().await;
    let health = HealthConfig {
        test: Some(["CMD", "true"].map(str::to_owned).to_vec()),
        interval: Some(1_000_000_000),
        ..HealthConfig::default()
    };
    let spec = RunSpec {
        labels: labels(&[("imagewatch.strategy", "start-first")]),
        health: Some(health),
        ..proxy(&stage, "0.0.0.0:2375")
    };
    stage.run_as("proxy", spec).await;
    let address = address_of(&stage, "proxy").await;
    assert_is_left_alone("b", &stage, &format!("tcp://{address}:{PORT}"), &["proxy"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn f33_a_container_that_serves_a_socket_in_a_folder_is_never_touched() {
    let stage = stage().await;
    let folder = stage.folder.path().join("sockets");
    std::fs::create_dir(&folder).expect("it is new");
    let mut spec = proxy(&stage, "/sockets/docker.sock");
    spec.volumes.push(format!("{}:/sockets", folder.display()));
    stage.run_as("proxy", spec).await;
    let socket = folder.join("docker.sock");
    wait_for("the socket", SOON, || async { if socket.exists() { Ok(()) } else { Err(()) } }).await;
    assert_is_left_alone("socket", &stage, &format!("unix://{}", socket.display()), &["proxy"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn f33_a_proxy_that_asks_to_be_restarted_with_another_container_is_not() {
    let stage = stage().await;
    let port = free_port();
    let spec = RunSpec {
        labels: labels(&[("imagewatch.depends-on", &stage.scope.name("web"))]),
        fixed_ports: [(PORT, port)].into(),
        ..proxy(&stage, "0.0.0.0:2375")
    };
    stage.run_as("proxy", spec).await;
    assert_is_left_alone("depends on web", &stage, &format!("tcp://127.0.0.1:{port}"), &["proxy"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn f07_an_encrypted_connection_is_refused_by_name_and_not_opened() {
    let engine = TcpListener::bind("127.0.0.1:0").expect("a port");
    engine.set_nonblocking(true).expect("it can be");
    let tcp = format!("tcp://{}", engine.local_addr().expect("it is bound"));
    let https = tcp.replace("tcp", "https");
    for (case, docker_host, variables, named) in [
        ("verify", &*tcp, &[("DOCKER_TLS_VERIFY", "1"), ("DOCKER_CERT_PATH", "/certs")][..], "DOCKER_TLS_VERIFY"),
        ("certificates", &tcp, &[("DOCKER_CERT_PATH", "/certs")], "DOCKER_CERT_PATH"),
        ("without verifying", &tcp, &[("DOCKER_TLS", "1")], "DOCKER_TLS"),
        ("context", "", &[("DOCKER_CONTEXT", "x")], "DOCKER_CONTEXT"),
        ("https", &https, &[], "TLS"),
        ("ssh", "ssh://me@127.0.0.1", &[], "SSH"),
    ] {
        for command in ["check", "run", "refresh"] {
            let (code, said) = run_to_end(docker_host, &[command], variables).await;
            assert_eq!(code, 3, "{case}: {command}: {said}");
            assert!(said.contains(named), "{case}: {command}: {said}");
        }
    }
    let connected = engine.accept().expect_err("nobody opens a connection");
    assert_eq!(connected.kind(), ErrorKind::WouldBlock);
}

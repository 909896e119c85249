//! Tests the connection to the engine. A container that carries the connection is never stopped (field report F33). A
//! connection that needs encryption, or that a context names, is not opened (field report F07).

use std::io::ErrorKind;
use std::net::TcpListener;

use bollard::models::{HealthConfig, HostConfig};
use imagewatch_tests::engine::RunSpec;
use imagewatch_tests::image::ImageSpec;
use imagewatch_tests::unique::free_port;
use imagewatch_tests::wait::wait_for;

use crate::stage::{LONG_TIMEOUT, SHORT_TIMEOUT, Stage, labels, run_to_end, watch_with};

/// The port on which the proxies listen in their containers.
const PORT: u16 = 2375;

/// A container that forwards connections from `address` to the engine.
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
    let found = docker.inspect_container(&stage.scope.name(role), None).await.expect("the container exists");
    let networks = found.network_settings.and_then(|settings| settings.networks).unwrap_or_default();
    networks.into_values().find_map(|endpoint| endpoint.ip_address).expect("the container has an address")
}

/// The address of a port that a container publishes on all addresses.
async fn published(stage: &Stage, role: &str) -> String {
    stage.container(role).await.expect("the container exists").published[&PORT].clone()
}

/// Moves the images of `carriers` and of another container `web`. The updater reaches the engine at `docker_host`. It
/// must update `web` and must not touch the carriers.
async fn assert_not_touched(case: &str, stage: &Stage, docker_host: &str, carriers: &[&str]) {
    let mut before = Vec::new();
    for role in carriers {
        before.push(stage.container(role).await.expect("the container exists"));
    }
    let manifest = stage.write(&stage.manifest().config("containers", "labelled"), "all");
    let daemon = watch_with(docker_host, std::slice::from_ref(&manifest), &[]);
    daemon.wait_for_line("first seen").await;
    stage.push("proxy", "v2").await;
    let v2 = stage.push("web", "v2").await;
    stage.wait_until_on("web", &v2, LONG_TIMEOUT).await;
    let check = ["check", "--json", manifest.to_str().expect("the path is UTF-8")];
    let shown = wait_for(&format!("{case}: a check to report the connection"), SHORT_TIMEOUT, || async {
        let (_, shown) = run_to_end(docker_host, &check, &[]).await;
        if shown.contains("this updater's connection to the engine") { Ok(shown) } else { Err(shown) }
    })
    .await;
    assert!(shown.contains(docker_host), "{case}: {shown}");
    for (role, before) in carriers.iter().zip(before) {
        let now = stage.container(role).await.expect("the container exists");
        // The same id and the same start time: the container ran all the time.
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
async fn f33_a_proxy_on_a_published_port_is_never_touched() {
    let stage = stage().await;
    let port = free_port();
    let spec = RunSpec { fixed_ports: [(PORT, port)].into(), ..proxy(&stage, "0.0.0.0:2375") };
    stage.run_as("proxy", spec).await;
    assert_not_touched("published", &stage, &format!("tcp://127.0.0.1:{port}"), &["proxy"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn f33_a_proxy_on_a_port_of_all_addresses_is_never_touched() {
    let stage = stage().await;
    let spec = proxy(&stage, "0.0.0.0:2375");
    stage
        .push_image("proxy", &ImageSpec { exposed_ports: vec![PORT], ..ImageSpec::sleeper(&stage.scope.name("v1p")) })
        .await;
    let host = HostConfig { publish_all_ports: Some(true), ..HostConfig::default() };
    stage.run_as("proxy", RunSpec { host, ..spec }).await;
    let published = published(&stage, "proxy").await;
    let port = published.rsplit(':').next().expect("the address has a port");
    assert_not_touched("all addresses", &stage, &format!("tcp://127.0.0.1:{port}"), &["proxy"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn f33_a_proxy_at_its_container_address_is_never_touched() {
    let stage = stage().await;
    stage.run_as("proxy", proxy(&stage, "0.0.0.0:2375")).await;
    let address = address_of(&stage, "proxy").await;
    assert_not_touched("variant", &stage, &format!("tcp://{address}:{PORT}"), &["proxy"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn f33a_the_owner_of_the_proxys_network_is_never_touched() {
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
    assert_not_touched("a", &stage, &format!("tcp://127.0.0.1:{port}"), &["net", "proxy"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn f33b_start_first_does_not_apply_to_a_healthy_proxy() {
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
    assert_not_touched("b", &stage, &format!("tcp://{address}:{PORT}"), &["proxy"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn f33_a_proxy_that_serves_a_unix_socket_is_never_touched() {
    let stage = stage().await;
    let folder = stage.folder.path().join("sockets");
    std::fs::create_dir(&folder).expect("the folder is new");
    let mut spec = proxy(&stage, "/sockets/docker.sock");
    spec.volumes.push(format!("{}:/sockets", folder.display()));
    stage.run_as("proxy", spec).await;
    let socket = folder.join("docker.sock");
    wait_for("the socket", SHORT_TIMEOUT, || async { if socket.exists() { Ok(()) } else { Err(()) } }).await;
    assert_not_touched("socket", &stage, &format!("unix://{}", socket.display()), &["proxy"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn f33_a_proxy_is_not_restarted_with_a_container_it_depends_on() {
    let stage = stage().await;
    let port = free_port();
    let spec = RunSpec {
        labels: labels(&[("imagewatch.depends-on", &stage.scope.name("web"))]),
        fixed_ports: [(PORT, port)].into(),
        ..proxy(&stage, "0.0.0.0:2375")
    };
    stage.run_as("proxy", spec).await;
    assert_not_touched("depends on web", &stage, &format!("tcp://127.0.0.1:{port}"), &["proxy"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn f07_an_encrypted_connection_is_refused_and_not_opened() {
    let engine = TcpListener::bind("127.0.0.1:0").expect("loopback has a free port");
    engine.set_nonblocking(true).expect("a socket can be non-blocking");
    let tcp = format!("tcp://{}", engine.local_addr().expect("a bound socket has an address"));
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
    let connected = engine.accept().expect_err("no connection is opened");
    assert_eq!(connected.kind(), ErrorKind::WouldBlock);
}

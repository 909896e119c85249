//! Tests a registry with TLS, HTTP/2, tokens and its own authority, with the real program.

use std::fs;
use std::time::Duration;

use imagewatch_tests::fake_registry::{FakeRegistry, FakeRegistrySettings};

use crate::stage::{Stage, watch_with};

const SETTINGS: FakeRegistrySettings =
    FakeRegistrySettings { repositories: 2, latency: Duration::ZERO, has_tokens: true, has_tls: true };

#[tokio::test(flavor = "multi_thread")]
async fn a_private_authority_is_trusted_without_a_restart() {
    let stage = Stage::new().await;
    let (registry, stranger) = (FakeRegistry::start(SETTINGS), FakeRegistry::start(SETTINGS));
    let host = registry.host();
    let images = [registry.reference(0), registry.reference(1)];
    // Loopback uses plain HTTP unless the config key lists another host.
    let manifest = stage.manifest_for(&host).config("host.insecure_registries", "nobody.invalid");
    let manifest = stage.write(&manifest.config("images", &images.join(",")), "tls");
    let folder = stage.state_dir();
    let daemon = watch_with(stage.scope.engine().host(), &[manifest], &[("DOCKER_CONFIG", folder)]);
    let line = daemon.wait_for_line("from an unknown issuer").await;
    assert!(line.contains(&host) && line.contains("certs.d"), "{line}");

    let trusted = stage.folder.path().join("certs.d").join(&host);
    fs::create_dir_all(&trusted).expect("the folder is writable");
    let trust = |other: &FakeRegistry| fs::write(trusted.join("ca.crt"), other.ca_pem().expect("the registry has TLS"));
    trust(&stranger).expect("written");
    let line = daemon.wait_for_line("its certificate is not signed by the trusted issuer with that name").await;
    assert!(line.contains(&host) && line.contains("certs.d"), "{line}");
    assert_eq!(registry.counts().requests(), 0, "no request may reach an untrusted server");

    trust(&registry).expect("written");
    for (index, image) in images.iter().enumerate() {
        let line = daemon.wait_for_line(&format!("{image}: first seen at")).await;
        assert!(line.contains(&registry.digest(index)[7..19]), "{line}");
    }
    assert!(registry.counts().tokens > 0, "the token endpoint uses the same TLS");
    let lines = daemon.stop().await;
    assert!(!lines.iter().any(|line| line.contains("ERROR")), "only the policy reports the failure: {lines:#?}");
    assert_eq!(stranger.counts().requests(), 0);
}

//! A registry behind TLS with an authority of its own and HTTP/2, and tokens, with the real program.

use std::fs;
use std::time::Duration;

use imagewatch_tests::fake_registry::{FakeRegistry, FakeRegistrySettings};

use crate::stage::{Stage, watch_with};

const SETTINGS: FakeRegistrySettings =
    FakeRegistrySettings { repositories: 2, latency: Duration::ZERO, has_tokens: true, has_tls: true };

#[tokio::test(flavor = "multi_thread")]
async fn an_authority_of_ones_own_is_named_until_its_certificate_is_there_and_trusted_without_a_restart() {
    let stage = Stage::new().await;
    let (registry, stranger) = (FakeRegistry::start(SETTINGS), FakeRegistry::start(SETTINGS));
    let host = registry.host();
    let images = [registry.reference(0), registry.reference(1)];
    // Loopback is spoken to in plain unless somebody else is named.
    let manifest = stage.manifest_for(&host).config("host.insecure_registries", "nobody.invalid");
    let manifest = stage.write(&manifest.config("images", &images.join(",")), "tls");
    let folder = stage.state_dir();
    let daemon = watch_with(stage.scope.engine().host(), &[manifest], &[("DOCKER_CONFIG", folder)]);
    let line = daemon.wait_for_line("issuer unknown here").await;
    assert!(line.contains(&host) && line.contains("certs.d"), "{line}");

    let trusted = stage.folder.path().join("certs.d").join(&host);
    fs::create_dir_all(&trusted).expect("a folder");
    let trust = |other: &FakeRegistry| fs::write(trusted.join("ca.crt"), other.ca_pem().expect("it has TLS"));
    trust(&stranger).expect("written");
    let line = daemon.wait_for_line("the issuer known here by that name did not sign").await;
    assert!(line.contains(&host) && line.contains("certs.d"), "{line}");
    assert_eq!(registry.counts().requests(), 0, "nothing was sent to whom nobody vouches for");

    trust(&registry).expect("written");
    for (index, image) in images.iter().enumerate() {
        let line = daemon.wait_for_line(&format!("{image}: first seen at")).await;
        assert!(line.contains(&registry.digest(index)[7..19]), "{line}");
    }
    assert!(registry.counts().tokens > 0, "its tokens came the same way");
    let lines = daemon.stop().await;
    assert!(!lines.iter().any(|line| line.contains("ERROR")), "said once, by the policy: {lines:#?}");
    assert_eq!(stranger.counts().requests(), 0);
}

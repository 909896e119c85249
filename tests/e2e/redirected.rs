//! Tests a registry that redirects to another registry with its own tokens (field bug F05). No engine is needed.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::time::Duration;

use imagewatch_tests::fake_registry::{FakeRegistry, FakeRegistrySettings};
use imagewatch_tests::plugin_manifest::PluginManifest;
use imagewatch_tests::wait::wait_for;
use tempfile::TempDir;

use crate::stage::{SHORT_TIMEOUT, watch_with};

const NO_ENGINE: &str = "unix:///nonexistent/docker.sock";

fn start(has_tokens: bool, has_tls: bool) -> FakeRegistry {
    FakeRegistry::start(FakeRegistrySettings { repositories: 1, latency: Duration::ZERO, has_tokens, has_tls })
}

/// Creates a `DOCKER_CONFIG` folder that trusts the registries' authorities.
fn trust(folder: &Path, registries: [&FakeRegistry; 2]) {
    for registry in registries {
        let certificates = folder.join("certs.d").join(registry.host());
        fs::create_dir_all(&certificates).expect("the folder is writable");
        fs::write(certificates.join("ca.crt"), registry.ca_pem().unwrap_or_default()).expect("written");
    }
}

/// Watches an image of `first`, which redirects to `second`, until three requests have arrived. Returns the log.
async fn watch_redirected(first: &FakeRegistry, second: &FakeRegistry, is_tls: bool) -> Vec<String> {
    let folder = TempDir::new().expect("the temp folder is writable");
    first.redirect_to(second);
    let manifest = PluginManifest::new().allow_host(&first.host()).allow_host(&second.host());
    let manifest =
        manifest.config("images", &first.reference(0)).config("grant.images", "*").config("interval", "200ms");
    // Loopback uses plain HTTP unless the config key lists another host.
    let plain = if is_tls { "nobody.invalid" } else { "loopback" };
    let manifest = manifest.config("host.allow_unhashed", "true").config("host.insecure_registries", plain);
    let manifest = manifest.write(folder.path(), "redirected");
    if is_tls {
        trust(folder.path(), [first, second]);
    }
    let config = folder.path().to_str().expect("text");
    let daemon = watch_with(NO_ENGINE, &[manifest], &[("DOCKER_CONFIG", config)]);
    daemon.wait_for_line(&format!("redirects to {}", second.host())).await;
    let before = (first.counts(), second.counts());
    wait_for("two more polls", SHORT_TIMEOUT, || async {
        let heads = first.counts().since(before.0).heads;
        if heads >= 2 { Ok(()) } else { Err(heads) }
    })
    .await;
    let lines = daemon.stop().await;
    let (first, second) = (first.counts().since(before.0), second.counts().since(before.1));
    assert_eq!((first.tokens, second.tokens), (0, 0), "a known token is not requested again");
    assert_eq!(first.gets + first.others + second.gets + second.others, 0, "a poll sends one HEAD to each registry");
    // The count can start and end in the middle of a poll.
    assert!(first.heads.abs_diff(second.heads) <= 1, "and no other requests: {first:?} {second:?}");
    lines
}

#[tokio::test(flavor = "multi_thread")]
async fn f05_no_registry_gets_the_token_of_another_registry() {
    for (case, has_tokens, is_tls) in [
        ("redirects every client", false, false),
        ("redirects clients with its token", true, false),
        ("redirects every client, with TLS", false, true),
        ("redirects clients with its token, with TLS", true, true),
    ] {
        let (first, second) = (start(has_tokens, is_tls), start(true, is_tls));
        let lines = watch_redirected(&first, &second, is_tls).await;
        let own = if has_tokens { BTreeSet::from(["first"]) } else { BTreeSet::new() };
        let token_of_first = format!("of-{}", first.host().replace(':', "-"));
        let sent = first.authorizations();
        let owners: BTreeSet<_> =
            sent.iter().map(|sent| if sent.ends_with(&token_of_first) { "first" } else { "another" }).collect();
        assert_eq!(owners, own, "{case}: {sent:?}");
        assert_eq!(second.authorizations(), BTreeSet::new(), "{case}");
        assert_eq!(second.counts().tokens, 0, "{case}: the second registry's tokens must not be requested");
        let advice = format!("write {}/{}", second.host(), FakeRegistry::repository(0));
        assert!(lines.iter().any(|line| line.contains(&advice)), "{case}: {lines:#?}");
        for wrong in ["configure", "auth_realms", "credential"] {
            assert!(!lines.iter().any(|line| line.contains(wrong)), "{case}: {lines:#?}");
        }
    }
}

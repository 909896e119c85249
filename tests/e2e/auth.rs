//! Tests private registries with token auth and Basic auth, against the real registry in both modes. The host attaches
//! a credential only to requests to its registry, and the credential is never visible elsewhere.

use std::collections::BTreeMap;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use imagewatch_tests::program::start_imagewatch;
use imagewatch_tests::registry::RegistryAuth;
use imagewatch_tests::token_server::{TokenPolicy, TokenServer};

use crate::stage::{Daemon, SHORT_TIMEOUT, Stage, watch_with};

const USER: &str = "alice";

/// Contains characters that need the URL-safe base64 alphabet in the engine's header.
const PASSWORD: &str = "canary-~?>:Zz~~~9";

async fn token_server() -> Arc<TokenServer> {
    let users = BTreeMap::from([(USER.to_owned(), PASSWORD.to_owned())]);
    Arc::new(TokenServer::start(TokenPolicy { users, is_anonymous_allowed: false, expires_in_s: 300 }).await)
}

fn basic() -> RegistryAuth {
    RegistryAuth::Htpasswd { user: USER.to_owned(), password: PASSWORD.to_owned() }
}

/// Runs a container on v1 of a private image, and watches it with `config` and `envs`.
async fn watch_private(stage: &Stage, config: &[(&str, &str)], envs: &[(&str, &str)]) -> Daemon {
    run_private(stage).await;
    watch(stage, config, envs)
}

async fn run_private(stage: &Stage) {
    stage.push("web", "v1").await;
    let first = stage.write(&stage.manifest().config("images", &stage.image("web")), "first");
    let (own, args) = (credential(stage), ["refresh", "--no-recreate", "--manifest"]);
    let args = args.map(std::ffi::OsStr::new).into_iter().chain([first.as_os_str()]);
    // The engine gets the credential from imagewatch, whatever characters the password contains.
    let mut pull = start_imagewatch(stage.scope.engine().host(), args, &[("IMAGEWATCH_CREDENTIAL_TEST", &own)]);
    assert_eq!(pull.wait_exit(SHORT_TIMEOUT).await, Some(0), "{:?}", pull.lines());
    stage.run("web").await;
}

fn watch(stage: &Stage, config: &[(&str, &str)], envs: &[(&str, &str)]) -> Daemon {
    let mut manifest = stage.manifest().config("images", &stage.image("web"));
    for (key, value) in config {
        manifest = manifest.config(key, value);
    }
    // Even at the most detailed log level, no line may contain a secret.
    let envs = [&[("IMAGEWATCH_LOG", "trace")], envs].concat();
    watch_with(stage.scope.engine().host(), &[stage.write(&manifest, "private")], &envs)
}

fn credential(stage: &Stage) -> String {
    format!("{}={USER}:{PASSWORD}", stage.registry.host())
}

/// Panics if a line contains the password or a token. Every JSON Web Token starts with the same characters.
fn assert_no_secret(lines: &[String]) {
    assert!(!lines.iter().any(|line| line.contains("canary") || line.contains("eyJ")), "{lines:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn token_auth_follows_a_private_image() {
    let server = token_server().await;
    let stage = Stage::with(RegistryAuth::Token { token_server: server.clone() }).await;
    let realm = format!("{}={}", stage.registry.host(), server.host());
    let value = credential(&stage);
    let daemon =
        watch_private(&stage, &[("host.auth_realms", &realm)], &[("IMAGEWATCH_CREDENTIAL_TEST", &value)]).await;
    daemon.wait_for_line("first seen").await;
    let v2 = stage.push("web", "v2").await;
    stage.wait_until_on("web", &v2, SHORT_TIMEOUT).await;
    let own = |request: &&imagewatch_tests::token_server::TokenRequest| {
        request.user.as_deref() == Some(USER)
            && request.scopes == [format!("repository:{}:pull", stage.scope.name("web"))]
    };
    assert!(server.requests().iter().any(|request| own(&request)), "{:?}", server.requests());
    assert_no_secret(&daemon.stop().await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cached_token_saves_token_requests() {
    let server = token_server().await;
    let stage = Stage::with(RegistryAuth::Token { token_server: server.clone() }).await;
    let realm = format!("{}={}", stage.registry.host(), server.host());
    let value = credential(&stage);
    let envs = [("IMAGEWATCH_CREDENTIAL_TEST", value.as_str())];
    let daemon = watch_private(&stage, &[("host.auth_realms", &realm)], &envs).await;
    daemon.wait_for_line("first seen").await;
    let before = server.requests().len();
    daemon.wait_for_more("policy called", daemon.count("policy called") + 9).await;
    assert_eq!(server.requests().len(), before, "ten polls without a token request");
    assert_no_secret(&daemon.stop().await);
}

#[tokio::test(flavor = "multi_thread")]
async fn basic_auth_follows_a_private_image() {
    let stage = Stage::with(basic()).await;
    let value = credential(&stage);
    let daemon = watch_private(&stage, &[], &[("IMAGEWATCH_CREDENTIAL_TEST", &value)]).await;
    daemon.wait_for_line("first seen").await;
    let v2 = stage.push("web", "v2").await;
    stage.wait_until_on("web", &v2, SHORT_TIMEOUT).await;
    assert_no_secret(&daemon.stop().await);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_seed_systems_variables_apply_to_the_registry_prefix() {
    let stage = Stage::with(basic()).await;
    let prefix = format!("{}/org", stage.registry.host());
    let envs = [("GHCR_USER", " alice "), ("GHCR_TOKEN", PASSWORD), ("MOLECULE_IMAGE_REGISTRY", prefix.as_str())];
    let daemon = watch_private(&stage, &[], &envs).await;
    daemon.wait_for_line("first seen").await;
    assert_no_secret(&daemon.stop().await);
}

/// A running watcher notices a new Docker log-in, and uses it for its pulls too.
#[tokio::test(flavor = "multi_thread")]
async fn a_docker_log_in_is_used_and_a_broken_config_file_is_reported() {
    let stage = Stage::with(basic()).await;
    let config = stage.folder.path().join("config.json");
    std::fs::write(&config, "{\"auths\": {\"canary").unwrap();
    let daemon = watch_private(&stage, &[], &[("DOCKER_CONFIG", stage.folder.path().to_str().unwrap())]).await;
    let line = daemon.wait_for_line("failed to look up").await;
    assert!(line.contains("config.json: it is not valid JSON"), "{line}");
    let auth = STANDARD.encode(format!("{USER}:{PASSWORD}"));
    let key = format!("http://{}/v1/", stage.registry.host());
    std::fs::write(&config, serde_json::json!({ "auths": { key: { "auth": auth } } }).to_string()).unwrap();
    daemon.wait_for_line("first seen").await;
    let v2 = stage.push("web", "v2").await;
    stage.wait_until_on("web", &v2, SHORT_TIMEOUT).await;
    let lines = daemon.stop().await;
    assert_no_secret(&lines);
    assert!(!lines.iter().any(|line| line.contains(&auth)), "{lines:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_or_wrong_credential_is_reported_with_advice() {
    let stage = Stage::with(basic()).await;
    let daemon = watch_private(&stage, &[], &[]).await;
    let line = daemon.wait_for_line("failed to look up").await;
    assert!(line.contains("IMAGEWATCH_CREDENTIAL_") && line.contains(&stage.registry.host()), "{line}");
    drop(daemon);
    let wrong = format!("{}={USER}:canary-wrong", stage.registry.host());
    let daemon = watch(&stage, &[], &[("IMAGEWATCH_CREDENTIAL_TEST", &wrong)]);
    daemon.wait_for_line("the credential configured for").await;
    assert_no_secret(&daemon.stop().await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_realm_that_is_not_bound_to_its_registry_gets_no_request() {
    let server = token_server().await;
    let stage = Stage::with(RegistryAuth::Token { token_server: server.clone() }).await;
    let value = credential(&stage);
    let daemon = watch_private(&stage, &[], &[("IMAGEWATCH_CREDENTIAL_TEST", &value)]).await;
    let before = server.requests().len();
    let line = daemon.wait_for_line("failed to look up").await;
    assert!(line.contains("host.auth_realms") && line.contains(server.host()), "{line}");
    assert_eq!(server.requests().len(), before, "the token server got no request");
    assert_no_secret(&daemon.stop().await);
}

//! Tests the support library against the real components, so that a failing scenario is a fault of the program.

use std::collections::BTreeMap;
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bollard::Docker;
use bollard::query_parameters::{CreateImageOptionsBuilder, EventsOptions};
use futures_util::{StreamExt, TryStreamExt};
use imagewatch_abi::Digest;
use imagewatch_tests::engine::{RunSpec, TestEngine};
use imagewatch_tests::http_client::build_client;
use imagewatch_tests::image::{ImageSpec, WEB_PORT, sha256};
use imagewatch_tests::plugin_manifest::PluginManifest;
use imagewatch_tests::process::{Process, Signal};
use imagewatch_tests::proxy::Proxy;
use imagewatch_tests::push::{PushAuth, RegistryTarget};
use imagewatch_tests::registry::{Registry, RegistryAuth, host_that_is_down};
use imagewatch_tests::token_server::{SERVICE, TokenPolicy, TokenServer};
use imagewatch_tests::wait::wait_for;
use serde_json::Value;

const SHORT_TIMEOUT: Duration = Duration::from_mins(1);

async fn start_token_server() -> Arc<TokenServer> {
    let users = BTreeMap::from([("alice".to_owned(), "s3cret:pw".to_owned())]);
    Arc::new(TokenServer::start(TokenPolicy { users, is_anonymous_allowed: true, expires_in_s: 120 }).await)
}

async fn status_of(request: reqwest::RequestBuilder) -> u16 {
    request.send().await.expect("loopback answers").status().as_u16()
}

fn manifest_request(host: &str, path: &str) -> reqwest::RequestBuilder {
    let accept = "application/vnd.oci.image.manifest.v1+json";
    build_client().head(format!("http://{host}/v2/{path}")).header("accept", accept)
}

#[tokio::test]
async fn a_pushed_digest_is_read_back_with_every_kind_of_auth() {
    let login = RegistryAuth::Htpasswd { user: "alice".to_owned(), password: "s3cret:pw".to_owned() };
    let token = RegistryAuth::Token { token_server: start_token_server().await };
    for (case, auth, anonymous_status) in
        [("none", RegistryAuth::None, 200), ("htpasswd", login, 401), ("token", token, 401)]
    {
        let registry = Registry::start(auth).await;
        let target = registry.target();
        let first = target.push("team/app", "latest", &ImageSpec::sleeper("1")).await;
        assert_eq!(target.digest_of("team/app", "latest").await.as_ref(), Some(&first), "{case}");
        let second = target.push("team/app", "latest", &ImageSpec::sleeper("2")).await;
        assert_ne!(first, second, "{case}: distinct specs");
        assert_eq!(target.digest_of("team/app", "latest").await, Some(second), "{case}");
        assert_eq!(target.digest_of("team/app", "absent").await, None, "{case}");
        let anonymous = manifest_request(&registry.host(), "team/app/manifests/latest");
        assert_eq!(status_of(anonymous).await, anonymous_status, "{case}");
    }
}

#[tokio::test]
async fn the_token_server_follows_its_policy_and_records_requests() {
    let token_server = start_token_server().await;
    let registry = Registry::start(RegistryAuth::Token { token_server: Arc::clone(&token_server) }).await;
    registry.target().push("app", "v1", &ImageSpec::label_only("1")).await;
    assert_eq!(token_server.requests(), [], "a push signs its own tokens");

    let scope = "repository:app:pull";
    let ask = || {
        let url = format!("{}?service={SERVICE}&scope={scope}", token_server.realm());
        build_client().get(url)
    };
    let body: Value = ask().send().await.expect("the token server answers").json().await.expect("the answer is JSON");
    assert_eq!(body["expires_in"], 120);
    let token = body["token"].as_str().expect("the answer has a token");
    assert_eq!(status_of(manifest_request(&registry.host(), "app/manifests/v1").bearer_auth(token)).await, 200);
    assert_eq!(status_of(manifest_request(&registry.host(), "other/manifests/v1").bearer_auth(token)).await, 401);
    assert_eq!(status_of(ask().basic_auth("alice", Some("s3cret:pw"))).await, 200);
    assert_eq!(status_of(ask().basic_auth("alice", Some("wrong"))).await, 401);

    let seen: Vec<_> = token_server.requests().into_iter().map(|request| (request.user, request.status)).collect();
    let alice = || Some("alice".to_owned());
    assert_eq!(seen, [(None, 200), (alice(), 200), (alice(), 401)]);
    let first = &token_server.requests()[0];
    assert_eq!((first.service.as_deref(), &first.scopes[..]), (Some(SERVICE), &[scope.to_owned()][..]));
}

#[tokio::test]
async fn a_stopped_registry_refuses_and_restarts_with_its_images() {
    let mut registry = Registry::start(RegistryAuth::None).await;
    let digest = registry.target().push("app", "v1", &ImageSpec::label_only("1")).await;
    let is_refused = async |host: &str| match manifest_request(host, "app/manifests/v1").send().await {
        Ok(_) => false,
        Err(error) => error.is_connect(),
    };
    registry.stop();
    assert!(is_refused(&registry.host()).await);
    assert!(is_refused(&host_that_is_down()).await);
    registry.restart_on_same_port().await;
    assert_eq!(registry.target().digest_of("app", "v1").await, Some(digest));
}

#[tokio::test]
async fn five_hundred_repositories_are_pushed_in_seconds() {
    let registry = Registry::start(RegistryAuth::Token { token_server: start_token_server().await }).await;
    let target = registry.target();
    let start = Instant::now();
    let digest = target.push_many("bench/app", 500, "latest", &ImageSpec::label_only("1")).await;
    assert!(start.elapsed() < SHORT_TIMEOUT, "took {:?}", start.elapsed());
    for repository in ["bench/app-0", "bench/app-499"] {
        assert_eq!(target.digest_of(repository, "latest").await.as_ref(), Some(&digest), "{repository}");
    }
    assert_eq!(target.digest_of("bench/app-500", "latest").await, None);
}

#[tokio::test]
async fn a_pushed_image_runs_and_its_scope_removes_everything() {
    let engine = TestEngine::connect().await;
    let registry = Registry::start(RegistryAuth::None).await;
    let scope = engine.scope();
    let (name, repository, version) = (scope.name("web"), scope.name("app"), scope.name("v1"));
    let digest = registry.target().push(&repository, "latest", &ImageSpec::web(&version)).await;
    let image = format!("{}/{repository}:latest", registry.host());
    scope.create_network(&scope.name("net")).await;
    let spec = RunSpec {
        name: name.clone(),
        image: image.clone(),
        labels: BTreeMap::from([("role".to_owned(), "web".to_owned())]),
        ports: vec![WEB_PORT],
        network: Some(scope.name("net")),
        ..RunSpec::default()
    };
    let id = scope.run(&spec).await;

    let now = scope.inspect(&name).await.expect("the container exists");
    assert_eq!((now.id, now.image, now.is_running), (id, image, true));
    assert_eq!(now.digests, [digest]);
    assert_eq!(now.labels["role"], "web");
    assert_eq!(scope.exec(&name, &["cat", "/version"]).await, version);
    let url = format!("http://{}/", now.published[&WEB_PORT]);
    let served = wait_for("the web server to answer", SHORT_TIMEOUT, || async { fetch_text(&url).await }).await;
    assert_eq!(served, version);
    assert_eq!(scope.containers().await, std::slice::from_ref(&name));

    let stranger = engine.scope();
    drop(scope);
    assert!(stranger.inspect(&name).await.is_none(), "the container is removed");
    assert!(engine.docker().inspect_image(&now.image_id).await.is_err(), "the image is removed");
    assert_eq!(stranger.containers().await, Vec::<String>::new());
}

async fn fetch_text(url: &str) -> Result<String, String> {
    let response = build_client().get(url).send().await.map_err(|error| error.to_string())?;
    response.text().await.map_err(|error| error.to_string())
}

#[tokio::test]
async fn a_scope_cleans_up_after_a_failed_test_and_keeps_other_scopes() {
    let engine = TestEngine::connect().await;
    let registry = Registry::start(RegistryAuth::None).await;
    let (spared, failed) = (engine.scope(), engine.scope());
    // One image in two scopes. The engine stores it once, under both names.
    let version = spared.name("v1");
    let mut names = Vec::new();
    for scope in [&spared, &failed] {
        registry.target().push(&scope.name("app"), "latest", &ImageSpec::sleeper(&version)).await;
        let image = format!("{}/{}:latest", registry.host(), scope.name("app"));
        scope.run(&RunSpec { name: scope.name("web"), image, ..RunSpec::default() }).await;
        names.push(scope.name("web"));
    }
    let failing = std::thread::spawn(move || {
        let _scope = failed;
        panic!("a failing test panics");
    });
    failing.join().expect_err("the thread panicked");
    assert!(spared.inspect(&names[1]).await.is_none());
    assert!(spared.inspect(&names[0]).await.expect("the other scope's container exists").is_running);
    assert_eq!(spared.image_references().await.len(), 2, "its tag and its digest");
}

#[tokio::test]
async fn an_engine_needs_a_password_to_pull() {
    let engine = TestEngine::connect().await;
    let login = RegistryAuth::Htpasswd { user: "alice".to_owned(), password: "pw".to_owned() };
    let registry = Registry::start(login).await;
    let scope = engine.scope();
    registry.target().push(&scope.name("app"), "v1", &ImageSpec::broken("1")).await;
    let image = format!("{}/{}:v1", registry.host(), scope.name("app"));
    scope.try_pull(&image, None).await.expect_err("the registry needs a password");
    scope.pull(&image, Some(("alice", "pw"))).await;
    let name = scope.name("web");
    scope.run(&RunSpec { name: name.clone(), image, ..RunSpec::default() }).await;
    wait_for("the broken release to end", SHORT_TIMEOUT, || async {
        let now = scope.inspect(&name).await.expect("the container exists");
        if now.is_running { Err(now) } else { Ok(()) }
    })
    .await;
}

#[tokio::test]
async fn a_proxy_can_disconnect_and_reconnect_an_engine() {
    let engine = TestEngine::connect().await;
    let proxy = Proxy::to_engine(engine.host()).await;
    let through = Docker::connect_with_host(&proxy.host()).expect("a socket's address");
    through.ping().await.expect("the engine answers");
    let mut events = through.events(None::<EventsOptions>);
    // Other tests cause events. Only a cut ends the stream.
    let in_the_middle = tokio::spawn(async move { while let Some(Ok(_)) = events.next().await {} });
    wait_for("the stream of events to open", SHORT_TIMEOUT, || async {
        if proxy.count("/events") == 1 { Ok(()) } else { Err(proxy.requests()) }
    })
    .await;
    proxy.cut().await;
    tokio::time::timeout(SHORT_TIMEOUT, in_the_middle).await.expect("a cut ends a response").expect("no panic");
    through.ping().await.expect_err("the proxy is cut");
    proxy.heal().await;
    through.ping().await.expect("the engine answers again");
}

#[tokio::test]
async fn a_held_pull_continues_after_release_and_fails_after_a_cut() {
    let engine = TestEngine::connect().await;
    let registry = Registry::start(RegistryAuth::None).await;
    let scope = engine.scope();
    registry.target().push(&scope.name("app"), "v1", &ImageSpec::sleeper(&scope.name("v1"))).await;
    let image = format!("{}/{}:v1", registry.host(), scope.name("app"));
    let proxy = Proxy::to_engine(engine.host()).await;
    let pull = || {
        let through = Docker::connect_with_host(&proxy.host()).expect("a socket's address");
        let options = CreateImageOptionsBuilder::new().from_image(&image).build();
        tokio::spawn(async move {
            through.create_image(Some(options), None, None).try_collect::<Vec<_>>().await.map(|_| ())
        })
    };
    let is_held = async |count: usize| {
        wait_for("the pull to arrive", SHORT_TIMEOUT, || async {
            let requests = proxy.requests();
            if proxy.count("POST /images/create") == count { Ok(()) } else { Err(requests) }
        })
        .await;
    };

    let hold = proxy.hold("POST /images/create");
    let (first, second) = (pull(), pull());
    is_held(2).await;
    assert_eq!(scope.image_references().await, Vec::<String>::new(), "nothing has reached the engine");
    drop(hold);
    first.await.expect("no panic").expect("the pull went on");
    second.await.expect("no panic").expect("the pull went on");
    assert_eq!(scope.image_references().await.len(), 2, "a tag and a digest");

    let _hold = proxy.hold("POST /images/create");
    let third = pull();
    is_held(3).await;
    proxy.cut().await;
    third.await.expect("no panic").expect_err("the connection is cut");
}

#[tokio::test]
async fn a_proxy_counts_and_delays_requests_to_a_registry() {
    let registry = Registry::start(RegistryAuth::None).await;
    let proxy = Proxy::to_registry(&registry.host()).await;
    let target = RegistryTarget::new(&proxy.host(), PushAuth::Anonymous);
    let digest = target.push("app", "v1", &ImageSpec::sleeper("1")).await;
    assert_eq!(proxy.count("PUT /v2/app/manifests/v1"), 1);
    assert_eq!(proxy.connections(), 1, "one client keeps its connection, requests: {:?}", proxy.requests());

    let latency = Duration::from_millis(150);
    proxy.set_latency(latency);
    let start = Instant::now();
    assert_eq!(target.digest_of("app", "v1").await, Some(digest));
    assert!(start.elapsed() >= latency);
}

#[tokio::test]
async fn a_process_can_be_read_signalled_and_awaited() {
    let mut command = Command::new("/bin/sh");
    command.args(["-c", "trap 'echo ending >&2; exit 3' TERM; echo ready; while :; do sleep 0.05; done"]);
    let mut process = Process::start(command);
    assert_eq!(process.wait_for_line("read", SHORT_TIMEOUT).await, "ready");
    process.signal(Signal::TERM);
    assert_eq!(process.wait_exit(SHORT_TIMEOUT).await, Some(3));
    process.signal(Signal::KILL);
    assert_eq!(process.lines(), ["ready", "ending"]);
}

#[tokio::test]
#[should_panic(expected = "last seen: 7")]
async fn a_timed_out_condition_panics_with_the_last_value() {
    wait_for::<(), _, _, _>("an eight", Duration::from_millis(30), || async { Err(7) }).await;
}

#[test]
fn a_plugin_manifest_has_the_format_of_extism() {
    let folder = tempfile::tempdir().expect("the temp folder takes folders");
    let manifest = PluginManifest {
        wasm: "/plugins/imagewatch.wasm".into(),
        hash: Some("00ff".to_owned()),
        config: BTreeMap::new(),
        allowed_hosts: Vec::new(),
    };
    let path = manifest.config("images", "app:v1").allow_host("127.0.0.1:5000").write(folder.path(), "ours");
    assert_eq!(path, folder.path().join("ours.json"));
    let written: Value =
        serde_json::from_slice(&std::fs::read(path).expect("the manifest was written")).expect("the manifest is JSON");
    let expected = serde_json::json!({
        "wasm": [{"path": "/plugins/imagewatch.wasm", "hash": "00ff"}],
        "config": {"images": "app:v1"},
        "allowed_hosts": ["127.0.0.1:5000"],
    });
    assert_eq!(written, expected);
    assert_eq!(std::fs::read_dir(folder.path()).expect("the folder exists").count(), 1, "no staging file is left");
}

#[test]
fn a_digest_is_the_sha256_of_the_bytes() {
    let empty: Digest =
        "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855".parse().expect("the digest is valid");
    assert_eq!(sha256(b""), empty);
}

//! Tests a registry that limits its clients, with the real program. All images of this registry wait and are reported.
//! Other images do not wait, and the registry gets no further request until its limit ends.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use imagewatch_tests::http_client::build_client;
use serde_json::Value;
use wiremock::matchers::any;
use wiremock::{Mock, MockServer, Request, ResponseTemplate};

use crate::stage::{ADMIN_TOKEN, Daemon, SHORT_TIMEOUT, Stage, answer_of, run_to_end};

const IMAGES: [&str; 3] = ["team/a:latest", "team/b:latest", "team/c:latest"];
const DIGEST: &str = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
/// Long enough for many polls and a check. Jitter is added to it.
const WAIT_S: &str = "6";

/// A registry that answers with `status` and a `Retry-After` while the flag is set.
async fn limiting(status: u16) -> (MockServer, Arc<AtomicBool>) {
    let (server, is_limiting) = (MockServer::start().await, Arc::new(AtomicBool::new(true)));
    let flag = Arc::clone(&is_limiting);
    let answer = move |_: &Request| {
        if flag.load(Ordering::Relaxed) {
            return ResponseTemplate::new(status).insert_header("retry-after", WAIT_S);
        }
        ResponseTemplate::new(200).insert_header("docker-content-digest", DIGEST)
    };
    Mock::given(any()).respond_with(answer).mount(&server).await;
    (server, is_limiting)
}

async fn requests(server: &MockServer) -> usize {
    server.received_requests().await.expect("requests are recorded").len()
}

/// The admin API's answer for each target: its name and the end of its hold.
async fn kept(daemon: &Daemon) -> Vec<(String, Option<u64>)> {
    let request = build_client().get(daemon.admin_url("/admin/targets").await).bearer_auth(ADMIN_TOKEN);
    let (status, answer) = answer_of(request).await;
    assert_eq!(status, 200, "{answer}");
    let targets = answer["targets"].as_array().expect("the targets are a list").iter();
    let text = |target: &Value| target["target"].as_str().unwrap_or_default().to_owned();
    targets.map(|target| (text(target), target["until_ms"].as_u64())).collect()
}

async fn test_rate_limit(status: u16) {
    let stage = Stage::new().await;
    let (server, is_limiting) = limiting(status).await;
    let limited = server.address().to_string();
    stage.push("web", "v1").await;
    stage.run("web").await;
    let images = IMAGES.map(|image| format!("{limited}/{image}")).join(",");
    let manifest = stage
        .manifest()
        .allow_host(&limited)
        .config("images", &format!("{images},{}", stage.image("web")))
        .config("grant.images", &format!("{limited}/*,{}/*", stage.registry.host()));
    let manifest = stage.write(&manifest, "limited");
    let daemon = stage.watch(std::slice::from_ref(&manifest));
    let line = daemon.wait_for_line("limits the rate until").await;
    assert!(line.contains(&limited), "{line}");
    let asked = requests(&server).await;
    assert!((1..=IMAGES.len()).contains(&asked), "{asked} requests before the first answer arrived");

    let v2 = stage.push("web", "v2").await;
    stage.wait_until_on("web", &v2, SHORT_TIMEOUT).await;
    let kept = kept(&daemon).await;
    let (parked, others): (Vec<_>, Vec<_>) = kept.iter().partition(|(_, until_ms)| until_ms.is_some());
    assert_eq!((parked.len(), others.len()), (IMAGES.len(), 1), "{kept:?}");
    assert_eq!(requests(&server).await, asked, "no poll sends another request");

    // A separate program sends one request and reports the limit too.
    let (code, shown) =
        run_to_end(stage.scope.engine().host(), &["check", manifest.to_str().expect("text")], &[]).await;
    assert!(shown.contains("limits the rate until") && shown.contains("the last limit ends at"), "{code}: {shown}");

    is_limiting.store(false, Ordering::Relaxed);
    for image in IMAGES {
        daemon.wait_for_line(&format!("{limited}/{image}: first seen at")).await;
    }
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_registry_with_429_is_not_queried_until_its_limit_ends() {
    test_rate_limit(429).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_registry_with_503_and_a_time_is_not_queried_until_then() {
    test_rate_limit(503).await;
}

//! Tests of the router, route by route, and of the server on a real socket.

mod quarantine;

use std::sync::Mutex;
use std::time::Duration;

use async_trait::async_trait;
use axum::body::{Body, to_bytes};
use axum::http::Request;
use imagewatch_abi::{Outcome, Verdict};
use rstest::rstest;
use serde_json::{Value, json as value};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_util::sync::CancellationToken;
use tower::ServiceExt;

use super::*;
use crate::store::sample::quarantined;
use imagewatch_policy::Record;

const QUARANTINE: &str = "/admin/quarantine";
const REFRESH: &str = "/admin/workspace-images/refresh";

struct FakeControl {
    answer: RefreshAnswer,
    readiness: Vec<ManifestReadiness>,
    asked: Mutex<Vec<(Option<String>, bool)>>,
    entries: Mutex<Result<Vec<QuarantinedDigest>, String>>,
}

impl FakeControl {
    /// A control with three quarantined digests: `web` under two manifests, `db` under one.
    fn with_quarantine() -> Arc<Self> {
        let entries = [("apps", "db"), ("apps", "web"), ("more", "web")].map(|(manifest, target)| QuarantinedDigest {
            manifest: manifest.to_owned(),
            entry: quarantined(target, "b", 1),
        });
        let control = Self::with_readiness(&[]);
        *control.entries.lock().expect("no test panics while it holds this") = Ok(entries.to_vec());
        control
    }

    fn with_a_broken_store() -> Arc<Self> {
        let control = Self::with_readiness(&[]);
        *control.entries.lock().expect("no test panics while it holds this") = Err("the disk is full".to_owned());
        control
    }

    fn entries(&self) -> Result<Vec<QuarantinedDigest>, String> {
        self.entries.lock().expect("no test panics while it holds this").clone()
    }

    fn answering(answer: RefreshAnswer) -> Arc<Self> {
        Arc::new(Self { answer, readiness: Vec::new(), asked: Mutex::default(), entries: Mutex::new(Ok(Vec::new())) })
    }

    fn with_readiness(readiness: &[(&str, Option<&str>)]) -> Arc<Self> {
        let readiness = readiness.iter().map(|(manifest, why)| ManifestReadiness {
            manifest: (*manifest).to_owned(),
            not_ready: why.map(str::to_owned),
        });
        let answer = RefreshAnswer::NoSuchManifest;
        let entries = Mutex::new(Ok(Vec::new()));
        Arc::new(Self { answer, readiness: readiness.collect(), asked: Mutex::default(), entries })
    }

    fn asked(&self) -> Vec<(Option<String>, bool)> {
        self.asked.lock().expect("no test panics while it holds this").clone()
    }
}

#[async_trait]
impl Control for FakeControl {
    async fn refresh_workspaces(&self, runtime: Option<String>, recreate: bool) -> RefreshAnswer {
        self.asked.lock().expect("no test panics while it holds this").push((runtime, recreate));
        self.answer.clone()
    }

    fn readiness(&self) -> Vec<ManifestReadiness> {
        self.readiness.clone()
    }

    fn plugins(&self) -> Vec<PluginStatus> {
        let record = Record::default();
        record.refused("load it");
        vec![PluginStatus { manifest: "apps".to_owned(), record: record.read() }]
    }

    async fn reload_plugin(&self, manifest: &str) -> ReloadAnswer {
        match manifest {
            "newer" => ReloadAnswer::Swapped { policy: "imagewatch 2".to_owned(), sha256: "00ff".to_owned() },
            "same" => ReloadAnswer::Unchanged,
            "broken" => ReloadAnswer::Refused("failed to load it".to_owned()),
            _ => ReloadAnswer::NoSuchManifest,
        }
    }

    async fn roll_back_plugin(&self, manifest: &str) -> RollbackAnswer {
        match manifest {
            "first" => RollbackAnswer::NothingBefore("failed to roll back".to_owned()),
            "read-only" => RollbackAnswer::Failed("failed to write".to_owned()),
            _ => RollbackAnswer::Done(self.reload_plugin(manifest).await),
        }
    }

    fn targets(&self) -> Vec<TargetStatus> {
        let reason = Some("registry limits the rate until 14:05:09Z".to_owned());
        let outcome = Outcome { reason, until_ms: Some(9_000), ..Outcome::new("web", Verdict::Unknown) };
        vec![TargetStatus { at_ms: 1_000, manifest: "apps".to_owned(), outcome }]
    }

    fn quarantine(&self) -> Result<Vec<QuarantinedDigest>, String> {
        self.entries()
    }

    fn history(&self, target: Option<String>, manifest: Option<String>, limit: u32) -> Result<Vec<Event>, String> {
        self.entries()?;
        let outcome = Outcome::new(target.as_deref().unwrap_or("all"), Verdict::Moved);
        let event = Event { at_ms: 7, manifest: manifest.unwrap_or_else(|| "every".to_owned()), outcome };
        Ok(vec![event; limit.min(3) as usize])
    }

    fn clear_quarantine(&self, target: &str, manifest: Option<&str>) -> Result<Vec<QuarantinedDigest>, String> {
        let is_meant = |digest: &QuarantinedDigest| {
            digest.entry.target == target && manifest.is_none_or(|manifest| manifest == digest.manifest)
        };
        let (cleared, left) = self.entries()?.into_iter().partition(is_meant);
        *self.entries.lock().expect("no test panics while it holds this") = Ok(left);
        Ok(cleared)
    }
}

#[tokio::test]
async fn targets_are_listed_with_verdict_and_until_ms() {
    let control = FakeControl::with_readiness(&[]);
    let (status, body) = ask(&control, "GET", "/admin/targets", Some("Bearer t0ken")).await;
    let row = &body["targets"][0];
    assert_eq!((status, &row["target"], &row["manifest"]), (StatusCode::OK, &value!("web"), &value!("apps")));
    assert_eq!((&row["verdict"], &row["until_ms"]), (&value!("unknown"), &value!(9_000)));
    assert_eq!(ask(&control, "GET", "/admin/targets", None).await.0, StatusCode::UNAUTHORIZED);
}

#[tokio::test]
async fn history_is_filtered_by_target_manifest_and_limit() {
    let control = FakeControl::with_readiness(&[]);
    let (status, body) =
        ask(&control, "GET", "/admin/history?target=web&manifest=apps&limit=2", Some("Bearer t0ken")).await;
    assert_eq!(status, StatusCode::OK);
    assert_eq!(body["history"].as_array().map(Vec::len), Some(2));
    let event = &body["history"][0];
    assert_eq!(
        (&event["target"], &event["manifest"], &event["verdict"]),
        (&value!("web"), &value!("apps"), &value!("moved"))
    );
    let (_, body) = ask(&control, "GET", "/admin/history", Some("Bearer t0ken")).await;
    assert_eq!(body["history"][0]["target"], "all");
    let (status, _) = ask(&control, "GET", "/admin/history?limit=many", Some("Bearer t0ken")).await;
    assert_eq!(status, StatusCode::BAD_REQUEST);
    let (status, _) = ask(&control, "GET", "/admin/history", None).await;
    assert_eq!(status, StatusCode::UNAUTHORIZED);
}

fn token(text: &str) -> SecretString {
    SecretString::from(text)
}

async fn ask(control: &Arc<FakeControl>, method: &str, path: &str, authorization: Option<&str>) -> (StatusCode, Value) {
    let (parts, body) = ask_with(Some(token("t0ken")), control, method, path, authorization).await;
    (parts.status, body)
}

async fn ask_with(
    token: Option<SecretString>,
    control: &Arc<FakeControl>,
    method: &str,
    path: &str,
    authorization: Option<&str>,
) -> (axum::http::response::Parts, Value) {
    let mut request = Request::builder().method(method).uri(path);
    if let Some(authorization) = authorization {
        request = request.header("authorization", authorization);
    }
    let request = request.body(Body::empty()).expect("a well-formed request");
    let control: Arc<dyn Control> = control.clone();
    let (parts, body) = router(token, control).oneshot(request).await.expect("infallible").into_parts();
    let bytes = to_bytes(body, 1 << 20).await.expect("a short body");
    (parts, serde_json::from_slice(&bytes).expect("every answer is JSON"))
}

fn result(pulled: &[&str], failed: &[&str], recreated: &[&str]) -> RefreshResult {
    let own = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
    RefreshResult { pulled: own(pulled), failed: own(failed), recreated: own(recreated), not_recreated: Vec::new() }
}

#[rstest]
#[case::no_parameters("", None, true)]
#[case::one_runtime("?runtime=codex", Some("codex"), true)]
#[case::pull_only("?recreate=false", None, false)]
#[case::both("?runtime=gemini-cli&recreate=true", Some("gemini-cli"), true)]
#[case::empty_runtime("?runtime=", None, true)]
#[case::unknown_parameter("?runtime=codex&x=y", Some("codex"), true)]
#[tokio::test]
async fn a_refresh_passes_on_the_query_parameters(
    #[case] query: &str,
    #[case] runtime: Option<&str>,
    #[case] recreate: bool,
) {
    let control = FakeControl::answering(RefreshAnswer::Done(result(&["codex"], &[], &["ws-1"])));
    let (status, body) = ask(&control, "POST", &format!("{REFRESH}{query}"), Some("Bearer t0ken")).await;
    assert_eq!(status, StatusCode::OK);
    assert_eq!(body, value!({"pulled": ["codex"], "failed": [], "recreated": ["ws-1"]}));
    assert_eq!(control.asked(), [(runtime.map(str::to_owned), recreate)]);
}

#[rstest]
#[case::nothing_done(
    RefreshAnswer::Done(RefreshResult::default()),
    StatusCode::OK,
    value!({"pulled": [], "failed": [], "recreated": []})
)]
#[case::unknown(
    RefreshAnswer::UnknownTarget { known: vec!["autogen".to_owned(), "codex".to_owned()] },
    StatusCode::BAD_REQUEST,
    value!({"error": "unknown runtime: codexx", "known_runtimes": ["autogen", "codex"]})
)]
#[case::failed(
    RefreshAnswer::Failed { error: "list the containers: no engine".to_owned(), partial: result(&["codex"], &[], &[]) },
    StatusCode::INTERNAL_SERVER_ERROR,
    value!({
        "error": "list the containers: no engine",
        "partial_result": {"pulled": ["codex"], "failed": [], "recreated": []}
    })
)]
#[case::no_manifest(
    RefreshAnswer::NoSuchManifest,
    StatusCode::NOT_FOUND,
    value!({"error": "no workspaces manifest is loaded"})
)]
#[tokio::test]
async fn each_refresh_result_has_its_status_and_body(
    #[case] answer: RefreshAnswer,
    #[case] status: StatusCode,
    #[case] body: Value,
) {
    let control = FakeControl::answering(answer);
    let path = format!("{REFRESH}?runtime=codexx");
    assert_eq!(ask(&control, "POST", &path, Some("Bearer t0ken")).await, (status, body));
}

#[rstest]
#[case::no_bool("?recreate=yes", "\"yes\"")]
#[case::empty_bool("?recreate=", "true or false")]
#[case::upper_case("?recreate=False", "\"False\"")]
#[case::twice("?recreate=true&recreate=false", "recreate")]
#[tokio::test]
async fn a_bad_query_is_refused_without_a_refresh(#[case] query: &str, #[case] says: &str) {
    let control = FakeControl::answering(RefreshAnswer::Done(RefreshResult::default()));
    let (status, body) = ask(&control, "POST", &format!("{REFRESH}{query}"), Some("Bearer t0ken")).await;
    assert_eq!(status, StatusCode::BAD_REQUEST);
    assert!(body["error"].as_str().is_some_and(|error| error.contains(says)), "{body}");
    assert_eq!(control.asked(), []);
}

#[rstest]
#[case::nothing_sent(Some("t0ken"), None, "Authorization: Bearer")]
#[case::wrong_token(Some("t0ken"), Some("Bearer t0kem"), "IMAGEWATCH_ADMIN_TOKEN")]
#[case::prefix_of_the_token(Some("t0ken"), Some("Bearer t0k"), "IMAGEWATCH_ADMIN_TOKEN")]
#[case::empty_token(Some("t0ken"), Some("Bearer "), "IMAGEWATCH_ADMIN_TOKEN")]
#[case::another_scheme(Some("t0ken"), Some("Basic t0ken"), "Authorization: Bearer")]
#[case::none_configured(None, Some("Bearer t0ken"), "set IMAGEWATCH_ADMIN_TOKEN")]
#[case::blank_configured(Some(" "), Some("Bearer "), "set IMAGEWATCH_ADMIN_TOKEN")]
#[tokio::test]
async fn admin_routes_refuse_requests_without_the_token(
    #[case] configured: Option<&str>,
    #[case] sent: Option<&str>,
    #[case] says: &str,
) {
    let control = FakeControl::answering(RefreshAnswer::Done(RefreshResult::default()));
    for path in [REFRESH, QUARANTINE, "/admin/nothing-here"] {
        let (parts, body) = ask_with(configured.map(token), &control, "POST", path, sent).await;
        assert_eq!(parts.status, StatusCode::UNAUTHORIZED, "{path}");
        assert_eq!(parts.headers["www-authenticate"], "Bearer", "{path}");
        let error = body["error"].as_str().expect("an error text");
        assert!(error.contains(says) && !error.contains("t0k"), "{error}");
    }
    assert_eq!(control.asked(), []);
}

#[tokio::test]
async fn the_bearer_scheme_is_case_insensitive() {
    let control = FakeControl::answering(RefreshAnswer::Done(RefreshResult::default()));
    assert_eq!(ask(&control, "POST", REFRESH, Some("bearer  t0ken")).await.0, StatusCode::OK);
}

#[rstest]
#[case::unknown_path("GET", "/nothing-here", StatusCode::NOT_FOUND, "no such path: /nothing-here")]
#[case::unknown_admin_path("GET", "/admin/nothing-here", StatusCode::NOT_FOUND, "no such path")]
#[case::get_refresh("GET", REFRESH, StatusCode::METHOD_NOT_ALLOWED, "GET is not allowed for")]
#[case::post_quarantine("POST", QUARANTINE, StatusCode::METHOD_NOT_ALLOWED, "POST is not allowed for")]
#[case::post_health("POST", "/healthz", StatusCode::METHOD_NOT_ALLOWED, "POST is not allowed for /healthz")]
#[tokio::test]
async fn unknown_paths_and_methods_are_refused_in_json(
    #[case] method: &str,
    #[case] path: &str,
    #[case] status: StatusCode,
    #[case] says: &str,
) {
    let control = FakeControl::answering(RefreshAnswer::NoSuchManifest);
    let (parts, body) = ask_with(Some(token("t0ken")), &control, method, path, Some("Bearer t0ken")).await;
    assert_eq!(parts.status, status);
    assert_eq!(parts.headers.contains_key("allow"), status == StatusCode::METHOD_NOT_ALLOWED);
    assert!(body["error"].as_str().is_some_and(|error| error.contains(says)), "{body}");
}

#[rstest]
#[case::all_ready(
    &[("apps", None), ("workspaces", None)],
    StatusCode::OK,
    value!({"status": "ready", "manifests": [
        {"name": "apps", "ready": true}, {"name": "workspaces", "ready": true}]})
)]
#[case::one_is_not(
    &[("apps", None), ("workspaces", Some("the wasm file is missing"))],
    StatusCode::SERVICE_UNAVAILABLE,
    value!({"status": "not ready", "manifests": [
        {"name": "apps", "ready": true},
        {"name": "workspaces", "ready": false, "reason": "the wasm file is missing"}]})
)]
#[case::none_loaded(&[], StatusCode::SERVICE_UNAVAILABLE, value!({"status": "not ready", "manifests": []}))]
#[tokio::test]
async fn readiness_lists_every_manifest_without_a_token(
    #[case] readiness: &[(&str, Option<&str>)],
    #[case] status: StatusCode,
    #[case] body: Value,
) {
    let control = FakeControl::with_readiness(readiness);
    assert_eq!(ask(&control, "GET", "/readyz", None).await, (status, body));
    assert_eq!(ask(&control, "GET", "/healthz", None).await, (StatusCode::OK, value!({"status": "ok"})));
}

#[tokio::test]
async fn a_non_loopback_address_requires_a_token() {
    let everywhere: SocketAddr = "0.0.0.0:0".parse().expect("an address");
    for none in [None, Some(token("  "))] {
        let error = bind(everywhere, none.as_ref()).await.expect_err("no token is set").to_string();
        assert!(error.contains("IMAGEWATCH_ADMIN_TOKEN") && error.contains("--admin-listen"), "{error}");
    }
    for own in ["127.0.0.1:0", "[::ffff:127.0.0.1]:0"] {
        let bound = bind(own.parse().expect("an address"), None).await;
        assert!(!matches!(bound, Err(AdminError::NeedsToken { .. })), "{own}");
    }
}

#[tokio::test]
async fn an_address_in_use_is_named_in_the_error() {
    let first = bind("127.0.0.1:0".parse().expect("an address"), None).await.expect("a free port");
    let address = first.local_addr().expect("bound");
    let error = bind(address, None).await.expect_err("taken");
    assert!(matches!(error, AdminError::InUse { .. }), "{error}");
    assert!(error.to_string().contains(&address.to_string()), "{error}");
}

#[tokio::test]
async fn the_server_answers_requests_and_stops_on_cancel() {
    let listener = bind("127.0.0.1:0".parse().expect("an address"), None).await.expect("a free port");
    let address = listener.local_addr().expect("bound");
    let cancel = CancellationToken::new();
    let control = FakeControl::with_readiness(&[]);
    let server = tokio::spawn(serve(listener, None, control, cancel.clone()));
    let mut stream = TcpStream::connect(address).await.expect("it listens");
    stream.write_all(b"GET /healthz HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n").await.expect("sent");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.expect("answered");
    assert!(answer.starts_with("HTTP/1.1 200") && answer.ends_with("{\"status\":\"ok\"}"), "{answer}");
    cancel.cancel();
    let stopped =
        tokio::time::timeout(Duration::from_secs(20), server).await.expect("it stops within the grace period");
    stopped.expect("no panic").expect("no error");
}

#[rstest]
#[case::swapped("newer/reload", 200, value!({"result": "swapped", "policy": "imagewatch 2", "sha256": "00ff"}))]
#[case::unchanged("same/reload", 200, value!({"result": "unchanged"}))]
#[case::refused("broken/reload", 422, value!({"error": "failed to load it"}))]
#[case::unknown("nobody/reload", 404, value!({"error": "no such manifest: nobody; GET /admin/plugins lists all manifests"}))]
#[case::rolled_back("newer/rollback", 200, value!({"result": "swapped", "policy": "imagewatch 2", "sha256": "00ff"}))]
#[case::nothing_before("first/rollback", 409, value!({"error": "failed to roll back"}))]
#[case::read_only("read-only/rollback", 500, value!({"error": "failed to write"}))]
#[tokio::test]
async fn reload_and_rollback_results_have_their_status_and_body(
    #[case] path: &str,
    #[case] status: u16,
    #[case] body: Value,
) {
    let control = FakeControl::with_readiness(&[]);
    let answered = ask(&control, "POST", &format!("/admin/plugins/{path}"), Some("Bearer t0ken")).await;
    assert_eq!((answered.0.as_u16(), answered.1), (status, body));
    let (status, _) = ask(&control, "POST", &format!("/admin/plugins/{path}"), None).await;
    assert_eq!(status, StatusCode::UNAUTHORIZED);
}

#[tokio::test]
async fn policies_are_listed_with_loads_and_refusals() {
    let control = FakeControl::with_readiness(&[]);
    let (status, body) = ask(&control, "GET", "/admin/plugins", Some("Bearer t0ken")).await;
    assert_eq!(status, StatusCode::OK);
    let plugin = &body["plugins"][0];
    assert_eq!((&plugin["manifest"], &plugin["running"]), (&value!("apps"), &Value::Null));
    assert_eq!((&plugin["loads"], &plugin["refused"]["reason"]), (&value!({"refused": 1}), &value!("load it")));
}

async fn served() -> (SocketAddr, CancellationToken) {
    let listener = bind("127.0.0.1:0".parse().expect("an address"), None).await.expect("a free port");
    let (address, cancel) = (listener.local_addr().expect("bound"), CancellationToken::new());
    tokio::spawn(serve(listener, None, FakeControl::with_readiness(&[]), cancel.clone()));
    (address, cancel)
}

/// Reads until the server closes the connection.
async fn answer_to(stream: &mut TcpStream) -> String {
    let mut answer = String::new();
    let read = tokio::time::timeout(Duration::from_mins(1), stream.read_to_string(&mut answer)).await;
    read.expect("the server closes it").expect("text");
    answer
}

#[rstest]
#[case::nothing("")]
#[case::half_a_head("GET /healthz HTTP/1.1\r\nhost: localhost\r\n")]
#[case::idle_after_an_answer("GET /healthz HTTP/1.1\r\nhost: localhost\r\n\r\n")]
#[tokio::test]
async fn s11_a_connection_without_a_request_is_closed(#[case] sent: &str) {
    let (address, cancel) = served().await;
    let mut stream = TcpStream::connect(address).await.expect("it listens");
    stream.write_all(sent.as_bytes()).await.expect("sent");
    answer_to(&mut stream).await;
    cancel.cancel();
}

#[tokio::test]
async fn s11_connections_over_the_limit_wait_and_are_served_later() {
    let (address, cancel) = served().await;
    let mut idle = Vec::new();
    for _ in 0..300 {
        idle.push(TcpStream::connect(address).await.expect("the system accepts it"));
    }
    let mut stream = TcpStream::connect(address).await.expect("the system accepts it");
    stream.write_all(b"GET /healthz HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n").await.expect("sent");
    drop(idle);
    assert!(answer_to(&mut stream).await.starts_with("HTTP/1.1 200"));
    cancel.cancel();
}

#[rstest]
#[case::health("/healthz")]
#[case::readiness("/readyz")]
#[case::metrics("/metrics")]
#[case::admin("/admin/targets")]
#[case::nothing("/nothing")]
#[tokio::test]
async fn s11_every_route_refuses_a_foreign_host_header(#[case] path: &str) {
    let (address, cancel) = served().await;
    let mut stream = TcpStream::connect(address).await.expect("it listens");
    let request = format!("GET {path} HTTP/1.1\r\nhost: evil.example\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.expect("sent");
    let answer = answer_to(&mut stream).await;
    assert!(answer.starts_with("HTTP/1.1 421") && answer.contains("Host header"), "{answer}");
    cancel.cancel();
}

#[rstest]
#[case::under_admin(REFRESH, "GET")]
#[case::another(QUARANTINE, "POST")]
#[case::outside("/healthz", "DELETE")]
#[tokio::test]
async fn s14_a_refused_method_is_reported_with_the_full_path(#[case] path: &str, #[case] method: &str) {
    let router = router(Some("t".to_owned().into()), FakeControl::with_readiness(&[]));
    let request = Request::builder().method(method).uri(path).header("authorization", "Bearer t");
    let answer = router.oneshot(request.body(Body::empty()).expect("a request")).await.expect("an answer");
    assert_eq!(answer.status(), StatusCode::METHOD_NOT_ALLOWED);
    let body = to_bytes(answer.into_body(), 10_000).await.expect("a body");
    assert!(String::from_utf8_lossy(&body).contains(&format!("is not allowed for {path}\"")), "{body:?}");
}

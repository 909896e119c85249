//! The built policy over two registries, of which one accepts a request and answers when the test says so.

use std::net::SocketAddr;
use std::sync::Arc;

use imagewatch_abi::Verdict;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::sync::watch;
use wiremock::matchers::method;
use wiremock::{Mock, MockServer, ResponseTemplate};

use super::*;
use crate::daemon::session::scene::session_of;
use imagewatch_policy::PluginManifest;

/// Accepts and reads, and answers each request with digest `a` once it is told to.
struct Stalled {
    address: SocketAddr,
    is_answering: watch::Sender<bool>,
    requests: watch::Sender<usize>,
}

impl Stalled {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("it is bound");
        let (is_answering, requests) = (watch::Sender::new(false), watch::Sender::new(0));
        let (may_answer, counted) = (is_answering.subscribe(), requests.clone());
        tokio::spawn(async move {
            while let Ok((mut socket, _)) = listener.accept().await {
                let (mut may_answer, counted) = (may_answer.clone(), counted.clone());
                tokio::spawn(async move {
                    while socket.read(&mut [0; 4096]).await.is_ok_and(|read| read > 0) {
                        counted.send_modify(|count| *count += 1);
                        if may_answer.wait_for(|may| *may).await.is_err() {
                            return;
                        }
                        let digest = format!("sha256:{}", "a".repeat(64));
                        let head = format!("HTTP/1.1 200 OK\r\ndocker-content-digest: {digest}\r\n");
                        let head = head + "content-length: 0\r\n\r\n";
                        let _ = socket.write_all(head.as_bytes()).await;
                    }
                });
            }
        });
        Self { address, is_answering, requests }
    }

    fn requests(&self) -> usize {
        *self.requests.borrow()
    }
}

struct Stage {
    registry: MockServer,
    stalled: Stalled,
}

impl Stage {
    async fn new() -> Self {
        let stage = Self { registry: MockServer::start().await, stalled: Stalled::start().await };
        stage.publish("a").await;
        stage
    }

    async fn publish(&self, letter: &str) {
        self.registry.reset().await;
        let digest = format!("sha256:{}", letter.repeat(64));
        let answer = ResponseTemplate::new(200).insert_header("docker-content-digest", digest.as_str());
        Mock::given(method("HEAD")).respond_with(answer).mount(&self.registry).await;
    }

    /// A policy that watches `web` in the registry and `db` in the stalled one, with requests of at most `timeout`.
    fn session(&self, timeout: &str) -> Session {
        let (registry, stalled) = (self.registry.address(), self.stalled.address);
        let manifest = serde_json::json!({
            "wasm": [{"path": "none"}],
            "allowed_hosts": [registry.to_string(), stalled.to_string()],
            "config": {"images": format!("{stalled}/o/db:1 {registry}/o/web:1"), "grant.images": "*",
                "host.http_timeout": timeout},
        });
        let manifest = PluginManifest::parse("apps", "(test)", &manifest.to_string(), &|_| None);
        let manifest = Arc::new(manifest.expect("a good manifest").with_embedded());
        session_of(manifest)
    }
}

async fn poll(session: &mut Session, only: Option<&[String]>) -> (Vec<Verdict>, Vec<String>, usize) {
    let only = only.map(<[String]>::to_vec);
    let (output, orders) = session.poll(only, Vec::new(), PollMode::Watch).await.expect("the policy answers");
    assert_eq!(output.err, None);
    (output.outcomes.iter().map(|outcome| outcome.verdict).collect(), output.pending, orders.len())
}

#[tokio::test(flavor = "multi_thread")]
async fn targets_with_an_answer_are_ordered_while_another_registry_has_not_answered() {
    let stage = Stage::new().await;
    let mut session = stage.session("1h");
    let (verdicts, pending, _) = poll(&mut session, None).await;
    assert_eq!((verdicts, pending.len()), (vec![Verdict::Unknown, Verdict::Seeded], 1));
    stage.publish("b").await;
    let (verdicts, pending, orders) = poll(&mut session, None).await;
    assert_eq!((verdicts, orders), (vec![Verdict::Unknown, Verdict::Moved], 1));
    assert_eq!(stage.stalled.requests(), 1, "what is pending is not asked again");
    stage.stalled.is_answering.send_replace(true);
    session.answered().await;
    assert_eq!(poll(&mut session, Some(&pending)).await, (vec![Verdict::Seeded], vec![], 0));
    assert_eq!(stage.stalled.requests(), 1, "its answer was kept");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_check_waits_until_every_registry_has_answered_or_failed() {
    for (timeout, is_answering) in [("1h", true), ("1500ms", false)] {
        let stage = Stage::new().await;
        let mut session = stage.session(timeout);
        let mut requests = stage.stalled.requests.subscribe();
        let release = stage.stalled.is_answering.clone();
        tokio::spawn(async move {
            let _ = requests.wait_for(|count| *count > 0).await;
            release.send_replace(is_answering);
        });
        let (output, _) = session.poll_to_end(Vec::new(), PollMode::Check).await.expect("the policy answers");
        assert_eq!((output.pending.len(), output.outcomes.len()), (0, 2));
        let first = &output.outcomes[0];
        let reason = first.reason.clone().unwrap_or_default();
        let (host, expected) =
            (stage.stalled.address.to_string(), if is_answering { Verdict::Unused } else { Verdict::Unknown });
        assert_eq!(first.verdict, expected, "{first:?}");
        assert_eq!(reason.contains(&format!("no answer from {host}")), !is_answering, "{reason}");
        assert_eq!(stage.stalled.requests(), 1);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stalled_request_ends_at_its_timeout_and_its_registry_is_named() {
    let stage = Stage::new().await;
    let mut session = stage.session("1500ms");
    let (_, pending, _) = poll(&mut session, None).await;
    session.answered().await;
    let (output, _) = session.poll(Some(pending), Vec::new(), PollMode::Watch).await.expect("the policy answers");
    let [outcome] = &output.outcomes[..] else { panic!("{output:?}") };
    let reason = outcome.reason.clone().unwrap_or_default();
    assert_eq!((outcome.verdict, output.pending.len()), (Verdict::Unknown, 0));
    assert!(reason.contains(&stage.stalled.address.to_string()) && reason.contains("no answer"), "{reason}");
}

#[test]
fn later_outcomes_stand_where_the_first_ones_stood() {
    let outcome = |target: &str, verdict| Outcome::new(target, verdict);
    let mut all = vec![outcome("a", Verdict::Unknown), outcome("b", Verdict::Seeded)];
    replace_outcomes(&mut all, &["a".to_owned()], vec![outcome("a", Verdict::Moved), outcome("a", Verdict::Held)]);
    let verdicts = |all: &[Outcome]| all.iter().map(|outcome| outcome.verdict).collect::<Vec<_>>();
    assert_eq!(verdicts(&all), [Verdict::Moved, Verdict::Held, Verdict::Seeded]);
    let polled = vec![outcome("a", Verdict::Unknown), outcome("b", Verdict::Unknown), outcome("c", Verdict::Unknown)];
    let kept = keep_known(polled, &["b".to_owned(), "c".to_owned()], &all);
    assert_eq!(verdicts(&kept), [Verdict::Unknown, Verdict::Seeded, Verdict::Unknown]);
}

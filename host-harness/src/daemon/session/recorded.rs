//! The built policy recorded over a registry that wants tokens, and played again: by itself, and otherwise set.

use std::sync::Arc;

use imagewatch_abi::{PollMode, Verdict};
use serde_json::Value;
use tempfile::TempDir;
use wiremock::matchers::{header_exists, method, path};
use wiremock::{Mock, MockServer, ResponseTemplate};

use crate::daemon::session::Session;
use crate::daemon::session::scene::session_of;
use imagewatch_policy::transcript::*;
use imagewatch_policy::{PluginManifest, load};

const CANARY: &str = "t0ken-canary-7f3a";

/// A registry with one image behind a token server, and a place for a transcript.
struct Scene {
    registry: MockServer,
    folder: TempDir,
}

impl Scene {
    async fn new() -> Self {
        Self { registry: MockServer::start().await, folder: TempDir::new().expect("a folder") }
    }

    async fn publish(&self, letter: &str) {
        let registry = &self.registry;
        registry.reset().await;
        let digest = format!("sha256:{}", letter.repeat(64));
        let good = ResponseTemplate::new(200).insert_header("docker-content-digest", digest.as_str());
        Mock::given(method("HEAD")).and(header_exists("authorization")).respond_with(good).mount(registry).await;
        let challenge = format!("Bearer realm=\"{}/token\",service=\"s\"", registry.uri());
        let asked = ResponseTemplate::new(401).insert_header("www-authenticate", challenge.as_str());
        Mock::given(method("HEAD")).respond_with(asked).mount(registry).await;
        let token = serde_json::json!({"token": CANARY, "expires_in": 300});
        let given = ResponseTemplate::new(200).set_body_json(token);
        Mock::given(path("/token")).respond_with(given).mount(registry).await;
    }

    fn manifest(&self, config: &[(&str, &str)]) -> PluginManifest {
        let host = self.registry.address();
        let mut manifest = serde_json::json!({
            "wasm": [{"path": "none"}],
            "allowed_hosts": [host.to_string()],
            "config": {"names": "web", "prefix": format!("{host}/o"), "grant.images": "*"},
        });
        for (key, value) in config {
            manifest["config"][key] = Value::from(*value);
        }
        let manifest = PluginManifest::parse("apps", "(test)", &manifest.to_string(), &|_| None);
        manifest.expect("a good manifest").with_embedded()
    }

    fn session(&self, recorder: &Arc<Recorder>) -> Session {
        let manifest = Arc::new(self.manifest(&[]));
        session_of(manifest).recorded(recorder.clone())
    }

    fn file(&self) -> std::path::PathBuf {
        self.folder.path().join("transcript.jsonl")
    }

    /// Records a first sight, a move, its report, and a quiet poll.
    async fn record(&self) {
        let recorder = Arc::new(Recorder::open(&self.file()).expect("it can be made"));
        let mut session = self.session(&recorder);
        self.publish("a").await;
        session.poll(None, Vec::new(), PollMode::Watch).await.expect("it answers");
        self.publish("b").await;
        let (output, orders) = session.poll(None, Vec::new(), PollMode::Watch).await.expect("it answers");
        assert_eq!((output.outcomes[0].verdict, orders.len()), (Verdict::Moved, 1));
        let report = imagewatch_abi::Report {
            order: orders[0].order.clone(),
            target: "web".to_owned(),
            pulled: true,
            ..imagewatch_abi::Report::default()
        };
        session.settle(vec![report]).await.expect("it answers");
        session.poll(None, Vec::new(), PollMode::Watch).await.expect("it answers");
    }

    fn replay(&self, config: &[(&str, &str)]) -> Replayed {
        let plugin = load(&self.manifest(config)).expect("the policy loads");
        play(&Transcript::read(&self.file(), None).expect("it is one"), &plugin)
    }
}

#[tokio::test]
async fn the_same_policy_decides_the_same_again() {
    let scene = Scene::new().await;
    scene.record().await;
    let replayed = scene.replay(&[]);
    assert_eq!((replayed.calls, replayed.outcomes, &replayed.faults), (4, 4, &Vec::new()));
    assert_eq!(replayed.differences, []);
}

#[tokio::test]
async fn another_policy_shows_what_it_would_have_decided_otherwise() {
    let scene = Scene::new().await;
    scene.record().await;
    let replayed = scene.replay(&[("strategy", "notify")]);
    let verdicts = |said: &Option<Decision>| said.as_ref().map(|said| said.verdict);
    let differences: Vec<_> = replayed
        .differences
        .iter()
        .map(|difference| (difference.export.as_str(), verdicts(&difference.recorded), verdicts(&difference.replayed)))
        .collect();
    // It says that the tag moved as well, and orders nothing: so there is nothing to settle.
    assert_eq!(differences, []);
    assert_eq!(replayed.calls, 3);

    let off = scene.replay(&[("enabled", "false")]);
    let recorded: Vec<_> = off.differences.iter().filter_map(|difference| verdicts(&difference.recorded)).collect();
    assert_eq!(recorded, [Verdict::Seeded, Verdict::Moved, Verdict::Unchanged]);
    assert!(off.differences.iter().all(|difference| difference.replayed.is_none()));
}

#[tokio::test]
async fn a_transcript_is_its_owners_and_holds_no_token() {
    use std::os::unix::fs::PermissionsExt;
    let scene = Scene::new().await;
    scene.record().await;
    let text = std::fs::read_to_string(scene.file()).expect("text");
    assert!(!text.contains(CANARY) && text.contains("www-authenticate"), "{text}");
    let mode = std::fs::metadata(scene.file()).expect("it is there").permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
}

#[tokio::test]
async fn a_transcript_that_was_cut_short_is_read_up_to_there_and_nonsense_is_named() {
    let scene = Scene::new().await;
    scene.record().await;
    let text = std::fs::read_to_string(scene.file()).expect("text");
    std::fs::write(scene.file(), &text[..text.len() - 20]).expect("written");
    assert_eq!(Transcript::read(&scene.file(), None).expect("it is one").calls.len(), 3);
    scene.record().await;
    assert_eq!(Transcript::read(&scene.file(), None).expect("it goes on").calls.len(), 7);
    let error = Transcript::read(&scene.file(), Some("other")).expect_err("it is not there").to_string();
    assert!(error.contains("contains apps") && error.contains("--manifest"), "{error}");
    std::fs::write(scene.file(), "{\"line\":\"policy\",\"format\":99}\n").expect("written");
    let error = Transcript::read(&scene.file(), None).expect_err("it is none").to_string();
    assert!(error.contains("line 1") && error.contains("transcript.jsonl"), "{error}");
}

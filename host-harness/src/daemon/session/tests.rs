//! The built policy over a registry that answers what it is told: what a report bars is held, kept
//! and cleared. No engine: nothing is ordered here that anybody carries out.

use imagewatch_abi::{ContainerFailure, Digest, Fault, Outcome, Verdict};
use tempfile::TempDir;
use wiremock::matchers::method;
use wiremock::{Mock, MockServer, ResponseTemplate};

use super::*;
use crate::daemon::session::scene::{Scene, effects_of};
use imagewatch_policy::inline::Inline;
use imagewatch_policy::load;

/// A registry with one image, and the policy that watches it.
struct Stage {
    registry: MockServer,
    manifest: Arc<PluginManifest>,
    plugin: Arc<LoadedPlugin>,
    folder: TempDir,
}

impl Stage {
    async fn new() -> Self {
        let registry = MockServer::start().await;
        let host = registry.address();
        let manifest = serde_json::json!({
            "wasm": [{"path": "none"}],
            "allowed_hosts": [host.to_string()],
            "config": {"names": "web", "prefix": format!("{host}/o"), "grant.images": "*"},
        });
        let manifest = PluginManifest::parse("apps", "(test)", &manifest.to_string(), &|_| None);
        let manifest = manifest.expect("a good manifest").with_embedded();
        let plugin = Arc::new(load(&manifest).expect("the policy loads"));
        Self { registry, manifest: Arc::new(manifest), plugin, folder: TempDir::new().expect("a folder") }
    }

    fn store(&self) -> Arc<Store> {
        Arc::new(Store::open(self.folder.path()).expect("a store"))
    }

    fn effects(&self, plugin: &Arc<LoadedPlugin>, store: &Arc<Store>) -> Arc<GrantedHost> {
        effects_of(&self.manifest, plugin, store)
    }

    /// As a process that begins: it knows nothing but what is in the store.
    fn session(&self, store: &Arc<Store>) -> Session {
        let effects = self.effects(&self.plugin, store);
        let (record, keeping) = (Arc::new(Record::default()), self.manifest.host.state);
        Session::new(self.manifest.clone(), self.plugin.clone(), effects, store.clone(), record, keeping)
    }

    /// As a reload does it.
    fn swap(&self, session: &mut Session, plugin: &Arc<LoadedPlugin>, store: &Arc<Store>) {
        session.swap(self.manifest.clone(), plugin.clone(), self.effects(plugin, store));
    }

    async fn requests(&self) -> usize {
        self.registry.received_requests().await.expect("they are kept").len()
    }

    async fn publish(&self, letter: &str) {
        self.registry.reset().await;
        let answer = ResponseTemplate::new(200).insert_header("docker-content-digest", digest(letter).as_str());
        Mock::given(method("HEAD")).respond_with(answer).mount(&self.registry).await;
    }
}

fn digest(letter: &str) -> Digest {
    format!("sha256:{}", letter.repeat(64)).parse().expect("a digest")
}

async fn poll(session: &mut Session) -> (Outcome, Vec<Order>) {
    let (output, orders) = session.poll(None, Vec::new(), PollMode::Watch).await.expect("the policy answers");
    assert_eq!(output.err, None);
    let [outcome] = &output.outcomes[..] else { panic!("one target, one outcome: {output:?}") };
    (outcome.clone(), orders)
}

/// The order's container does not work on the new image.
fn fail(order: &str) -> Report {
    let failed =
        ContainerFailure { container: "web".to_owned(), fault: Some(Fault::Image), ..ContainerFailure::default() };
    Report { order: order.to_owned(), pulled: true, failed: vec![failed], ..Report::default() }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_digest_that_failed_is_in_the_store_before_settle_returns_and_held_from_then_on() {
    let stage = Stage::new().await;
    let (store, elsewhere) = (stage.store(), stage.store());
    let mut session = stage.session(&store);
    stage.publish("a").await;
    assert_eq!(poll(&mut session).await.0.verdict, Verdict::Seeded);
    stage.publish("b").await;
    let (outcome, orders) = poll(&mut session).await;
    assert_eq!((outcome.verdict, orders.len()), (Verdict::Moved, 1));

    session.settle(vec![fail(&orders[0].order)]).await.expect("the policy answers");
    let barred = elsewhere.quarantine("apps").expect("it can be read");
    assert_eq!(barred.iter().map(|entry| (&*entry.target, &entry.digest)).collect::<Vec<_>>(), [("web", &digest("b"))]);
    for _ in 0..2 {
        let (outcome, orders) = poll(&mut session).await;
        assert_eq!((outcome.verdict, orders.len()), (Verdict::Held, 0));
        assert!(outcome.reason.is_some_and(|reason| reason.contains("imagewatch quarantine clear web")));
    }

    elsewhere.clear_quarantine(None, &["web".to_owned()]).expect("it can be written");
    let (outcome, orders) = poll(&mut session).await;
    assert_eq!((outcome.verdict, orders.len()), (Verdict::Moved, 1), "cleared by another process");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_barred_outlives_the_process_until_a_newer_digest_comes() {
    let stage = Stage::new().await;
    let report = |letter: &str| Report {
        target: "web".to_owned(),
        reference: stage.plugin.description.targets.first().map(|target| target.reference.clone()),
        digest: Some(digest(letter)),
        ..fail("web-7")
    };
    let mut first = stage.session(&stage.store());
    first.settle(vec![report("b")]).await.expect("the policy answers");
    drop(first);

    let store = stage.store();
    let mut second = stage.session(&store);
    stage.publish("b").await;
    assert_eq!(poll(&mut second).await.0.verdict, Verdict::Seeded);
    assert_eq!(store.quarantine("apps").expect("it can be read").len(), 1);
    stage.publish("c").await;
    let (outcome, orders) = poll(&mut second).await;
    assert_eq!((outcome.verdict, orders.len()), (Verdict::Moved, 1));
    assert_eq!(store.quarantine("apps").expect("it can be read"), []);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_registry_that_is_left_alone_still_is_after_a_reload_of_the_same_module_and_of_no_other() {
    let stage = Stage::new().await;
    let store = stage.store();
    let mut session = stage.session(&store);
    let limited = ResponseTemplate::new(429).insert_header("retry-after", "600");
    Mock::given(method("HEAD")).respond_with(limited).mount(&stage.registry).await;
    assert_eq!(poll(&mut session).await.0.verdict, Verdict::Unknown);
    assert_eq!(stage.requests().await, 1);
    stage.swap(&mut session, &stage.plugin, &store);
    let (outcome, _) = poll(&mut session).await;
    assert!(outcome.until_ms.is_some(), "{outcome:?}");
    assert_eq!(stage.requests().await, 1, "it is not asked again");
    let other = Scene::new(&Inline::default(), &[]).await.session.plugin;
    stage.swap(&mut session, &other, &store);
    stage.swap(&mut session, &stage.plugin, &store);
    poll(&mut session).await;
    assert_eq!(stage.requests().await, 2, "what a module learnt is not handed on to another, and back");
}

#[tokio::test(flavor = "multi_thread")]
async fn s14_a_history_that_cannot_be_written_is_reported_once_until_it_can_be() {
    let stage = Stage::new().await;
    let store = stage.store();
    let mut session = stage.session(&store);
    let moved = [Outcome::new("web", Verdict::Moved)];
    store.set_read_only(true);
    for outcomes in [&moved[..], &[], &moved] {
        session.note(outcomes);
        assert!(session.is_history_reported, "that there is nothing to write does not mean that it works again");
    }
    store.set_read_only(false);
    session.note(&moved);
    assert!(!session.is_history_reported, "the next failure is another one");
}

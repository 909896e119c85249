//! Tests the failure of the engine, of the network, and of imagewatch itself.

use std::sync::Arc;
use std::time::{Duration, Instant};

use imagewatch::daemon::effects::{Adapters, GrantedHost};
use imagewatch::daemon::session::Session;
use imagewatch::store::Store;
use imagewatch_abi::{PollMode, Verdict};
use imagewatch_engine::docker::DockerEngine;
use imagewatch_policy::{PluginManifest, Record, StateKeeping, load};
use imagewatch_registry::client::{HttpClient, HttpSettings};
use imagewatch_registry::credentials::store::CredentialStore;
use imagewatch_registry::egress::EgressRules;
use imagewatch_rollout::Rollout;
use imagewatch_rollout::journal::Journal;
use imagewatch_rollout::orders::{Batch, OrderContext, run_order};
use imagewatch_rollout::slots::Slots;
use imagewatch_tests::engine::RunSpec;
use imagewatch_tests::process::Signal;
use imagewatch_tests::proxy::Proxy;
use imagewatch_tests::wait::wait_for;
use tokio_util::sync::CancellationToken;

use crate::stage::{LONG_TIMEOUT, SHORT_TIMEOUT, Stage, ignores_sigterm, watch_with};

#[tokio::test(flavor = "multi_thread")]
async fn an_unreachable_engine_fails_one_update_and_the_next_poll_succeeds() {
    let stage = Stage::new().await;
    let proxy = Proxy::to_engine(stage.scope.engine().host()).await;
    stage.push("web", "v1").await;
    stage.run("web").await;
    let manifest = stage.write(&stage.manifest().config("images", &stage.image("web")), "one");
    let daemon = watch_with(&proxy.host(), &[manifest], &[]);
    daemon.wait_for_line("first seen").await;

    proxy.cut().await;
    let v2 = stage.push("web", "v2").await;
    // With `unknown_origin` = `ask`, the poll itself needs the engine and fails. Otherwise, its order fails.
    daemon.wait_for_line("does not answer").await;
    proxy.heal().await;
    stage.wait_until_on("web", &v2, SHORT_TIMEOUT).await;
    daemon.wait_for_line(&format!("recreated {}", stage.scope.name("web"))).await;
    let moved = daemon.count("moved from");
    let lines = daemon.stop().await;
    assert_eq!(lines.iter().filter(|line| line.contains("moved from")).count(), moved, "committed, not ordered again");
}

#[tokio::test(flavor = "multi_thread")]
async fn sigterm_during_a_pull_exits_soon_and_changes_nothing() {
    let stage = Stage::new().await;
    let proxy = Proxy::to_registry(&stage.registry.host()).await;
    let v1 = stage.push("web", "v1").await;
    let image = format!("{}/{}:latest", proxy.host(), stage.scope.name("web"));
    let id = stage.run_as("web", RunSpec { image: image.clone(), ..RunSpec::default() }).await;
    let manifest = stage.write(&stage.manifest_for(&proxy.host()).config("images", &image), "one");
    let mut daemon = stage.watch(&[manifest]);
    daemon.wait_for_line("first seen").await;

    let hold = proxy.hold("/blobs/");
    let pulled = proxy.count("/blobs/");
    stage.push("web", "v2").await;
    wait_for("the pull to be held at a blob", SHORT_TIMEOUT, || async {
        let now = proxy.count("/blobs/");
        if now > pulled { Ok(()) } else { Err(now) }
    })
    .await;
    let asked = Instant::now();
    daemon.process.signal(Signal::TERM);
    assert_eq!(daemon.process.wait_exit(LONG_TIMEOUT).await, Some(0), "{:#?}", daemon.process.lines());
    assert!(asked.elapsed() < imagewatch::daemon::watch::SHUTDOWN_GRACE, "took {:?}", asked.elapsed());
    drop(hold);
    let now = stage.container("web").await.expect("the container exists");
    assert_eq!((now.id, now.is_running, now.digests.contains(&v1)), (id, true, true));
    assert_eq!(stage.containers().await, [stage.scope.name("web")]);
}

#[tokio::test(flavor = "multi_thread")]
async fn sigterm_while_the_engine_does_not_answer_exits_soon() {
    let stage = Stage::new().await;
    let proxy = Proxy::to_engine(stage.scope.engine().host()).await;
    let manifest = stage.write(&stage.manifest().config("containers", "labelled"), "labelled");
    let _hold = proxy.hold("/containers/json");
    let mut daemon = watch_with(&proxy.host(), &[manifest], &[]);
    wait_for("the container list to be requested", SHORT_TIMEOUT, || async {
        let asked = proxy.count("/containers/json");
        if asked > 0 { Ok(()) } else { Err(daemon.process.lines()) }
    })
    .await;
    let asked = Instant::now();
    daemon.process.signal(Signal::TERM);
    assert_eq!(daemon.process.wait_exit(LONG_TIMEOUT).await, Some(0), "{:#?}", daemon.process.lines());
    assert!(asked.elapsed() < imagewatch::daemon::watch::SHUTDOWN_GRACE, "took {:?}", asked.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_engine_lost_during_a_replacement_is_awaited_without_loss() {
    let stage = Stage::new().await;
    let proxy = Proxy::to_engine(stage.scope.engine().host()).await;
    let v1 = stage.push("web", "v1").await;
    let id = stage.run("web").await;
    let manifest = stage.write(&stage.manifest().config("images", &stage.image("web")), "one");
    let daemon = watch_with(&proxy.host(), &[manifest], &[]);
    daemon.wait_for_line("first seen").await;
    let hold = proxy.hold("/rename");
    let v2 = stage.push("web", "v2").await;
    wait_for("the old container to be renamed", SHORT_TIMEOUT, || async {
        let asked = proxy.count("/rename");
        if asked > 0 { Ok(()) } else { Err(asked) }
    })
    .await;
    assert!(
        !stage.scope.inspect(&id).await.expect("the container exists").is_running,
        "the container must be stopped now"
    );
    proxy.cut().await;
    drop(hold);
    daemon.wait_for_line("restoring").await;
    assert!(stage.scope.inspect(&id).await.expect("the container exists").digests.contains(&v1));
    proxy.heal().await;
    stage.wait_until_on("web", &v2, LONG_TIMEOUT).await;
    daemon.wait_for_line(&format!("recreated {}", stage.scope.name("web"))).await;
    assert_eq!(stage.containers().await, [stage.scope.name("web")], "no other container remains");
    assert_eq!(daemon.count("could not be brought back"), 0, "{:#?}", daemon.process.lines());
}

#[tokio::test(flavor = "multi_thread")]
async fn sigterm_during_a_replacement_completes_it_first() {
    let stage = Stage::new().await;
    stage.push("web", "v1").await;
    let id = stage.run_as("web", ignores_sigterm(stage.image("web"), 4)).await;
    let mut daemon = stage.watch(&[stage.write(&stage.manifest().config("images", &stage.image("web")), "one")]);
    daemon.wait_for_line("first seen").await;
    let v2 = stage.push("web", "v2").await;
    wait_for("the new container to be created", SHORT_TIMEOUT, || async {
        let names = stage.containers().await;
        if names.len() == 2 { Ok(()) } else { Err(names) }
    })
    .await;
    daemon.process.signal(Signal::TERM);
    assert_eq!(daemon.process.wait_exit(LONG_TIMEOUT).await, Some(0), "{:#?}", daemon.process.lines());
    let now = stage.wait_until_on("web", &v2, Duration::from_secs(1)).await;
    assert_ne!(now.id, id);
    assert_eq!(stage.containers().await, [stage.scope.name("web")], "no other container remains");
}

/// A control plane in the test. It keeps the policy's state across its crashes.
struct ControlPlane {
    session: Session,
    orders: OrderContext,
}

impl ControlPlane {
    /// Starts with the state that the previous control plane left in `store`.
    fn start(stage: &Stage, docker_host: &str, store: &Arc<Store>) -> Self {
        let manifest = stage.manifest().config("images", &stage.image("web"));
        let path = stage.write(&manifest, "control-plane");
        let manifest = Arc::new(PluginManifest::read(&path, &|_| None).expect("the manifest is valid"));
        let plugin = Arc::new(load(&manifest).expect("the plugin loads"));
        let rules = EgressRules::parse(&manifest.allowed_hosts, "loopback", "").expect("the rules are valid");
        let cancel = CancellationToken::new();
        let adapters = Adapters {
            engine: Arc::new(DockerEngine::connect(docker_host).expect("the engine's address is valid")),
            http: Arc::new(HttpClient::new(&HttpSettings::default()).expect("the client builds")),
            credentials: Arc::new(CredentialStore::default()),
            store: store.clone(),
            cancel: cancel.clone(),
        };
        let record = Arc::new(Record::default());
        let effects = GrantedHost::new(manifest.clone(), plugin.clone(), rules, adapters.clone(), record.clone());
        let journal = Journal::new(stage.folder.path().join("journal"));
        let rollout = Rollout::new(adapters.engine, journal, adapters.store.clone(), None);
        let orders = OrderContext {
            manifest: manifest.name.clone(),
            rollout: Arc::new(rollout),
            slots: Slots::new(4),
            services: imagewatch_rollout::orders::Services::default(),
            keep_images: None,
            refused: Arc::default(),
            credentials: Arc::new(|_| Box::pin(async { Ok(None) })),
            pull_timeout: LONG_TIMEOUT,
            stable_for: Duration::from_millis(500),
            progress: Arc::new(|_, _| {}),
            shutdown: cancel,
            is_granted: Arc::new(|_| true),
        };
        let session =
            Session::new(manifest, plugin, Arc::new(effects), adapters.store, record, StateKeeping::Persisted);
        Self { session, orders }
    }

    /// Runs one poll with nothing in flight. Returns the verdict, the reason, and the orders.
    async fn poll(&mut self) -> (Verdict, Option<String>, Vec<imagewatch_abi::Order>) {
        let (output, orders) = self.session.poll(None, Vec::new(), PollMode::Watch).await.expect("the policy answers");
        assert_eq!(output.err, None);
        let outcome = output.outcomes.into_iter().next().expect("one target has one outcome");
        (outcome.verdict, outcome.reason, orders)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_order_lost_in_a_crash_is_repeated_and_done_once() {
    let stage = Stage::new().await;
    let proxy = Proxy::to_engine(stage.scope.engine().host()).await;
    stage.push("web", "v1").await;
    stage.run("web").await;

    let store = Arc::new(Store::open(stage.folder.path()).expect("the folder is writable"));
    let mut first = ControlPlane::start(&stage, &proxy.host(), &store);
    assert_eq!(first.poll().await.0, Verdict::Seeded);
    let v2 = stage.push("web", "v2").await;
    let (verdict, _, orders) = first.poll().await;
    assert_eq!((verdict, orders.len()), (Verdict::Moved, 1));
    drop(first); // crashes between the order and the update

    let mut second = ControlPlane::start(&stage, &proxy.host(), &store);
    let (verdict, reason, orders) = second.poll().await;
    assert_eq!((verdict, orders.len()), (Verdict::Moved, 1));
    assert!(reason.is_some_and(|reason| reason.contains("was lost")));
    let batch = Batch::new(&second.orders.services, orders.clone());
    let report = run_order(&second.orders, &orders[0], &batch).await;
    assert_eq!(report.recreated, [stage.scope.name("web")], "{report:?}");
    let now = stage.wait_until_on("web", &v2, SHORT_TIMEOUT).await;
    drop(second); // crashes between the update and the report

    let mut third = ControlPlane::start(&stage, &proxy.host(), &store);
    let (verdict, _, orders) = third.poll().await;
    assert_eq!((verdict, orders.len()), (Verdict::Unchanged, 0), "the container already runs the image");
    assert_eq!(stage.container("web").await.expect("the container exists").id, now.id);
    assert_eq!(proxy.count("/containers/create"), 1, "only one container was created for two orders");
}

//! Reloads of an actor at work: ticks wait for none, none is lost or doubled by one, and a policy that cannot go on from
//! the state that is there does not get to.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::*;
use crate::daemon::session::scene::Scene;
use crate::store::Store;
use imagewatch_policy::inline::Inline;
use imagewatch_policy::{LoadResult, PolicyStats};
use imagewatch_rollout::Rollout;
use imagewatch_rollout::journal::Journal;

/// Asks the registry once in each poll, so that polls can be counted, and polls every 100 ms.
const ASKS_ONCE: &str =
    r#"(drop (call $http_send «{"requests": [{"method": "GET", "url": "http://REGISTRY/tick"}]}»))"#;

/// An actor at work.
struct Actor {
    registry: wiremock::MockServer,
    record: Arc<imagewatch_policy::Record>,
    requests: mpsc::Sender<RefreshRequest>,
    reloads: mpsc::Sender<ReloadRequest>,
    shutdown: CancellationToken,
    ended: JoinHandle<()>,
}

fn order_context(scene: &Scene, shutdown: &CancellationToken) -> OrderContext {
    let journal = Journal::new(tempfile::TempDir::new().expect("a folder").path().join("journal"));
    OrderContext {
        manifest: scene.session.manifest.name.clone(),
        rollout: Arc::new(Rollout::new(scene.engine.clone(), journal, Arc::new(Store::in_memory()), None)),
        slots: imagewatch_rollout::slots::Slots::new(4),
        services: imagewatch_rollout::orders::Services::default(),
        keep_images: None,
        refused: Arc::default(),
        credentials: Arc::new(|_| Box::pin(async { Ok(None) })),
        pull_timeout: imagewatch_rollout::orders::DEFAULT_PULL_TIMEOUT,
        stable_for: Duration::from_millis(1),
        progress: Arc::new(|_, _| {}),
        shutdown: shutdown.clone(),
        is_granted: Arc::new(|_| true),
    }
}

/// What a swap to the policy of `scene` brings; called as often as wanted.
fn preparing(scene: &Scene, shutdown: &CancellationToken) -> impl Fn() -> Prepared + Send + Sync + use<> {
    let (manifest, plugin) = (scene.session.manifest.clone(), scene.session.plugin.clone());
    let (effects, orders) = (scene.effects.clone(), order_context(scene, shutdown));
    move || Prepared {
        manifest: manifest.clone(),
        plugin: plugin.clone(),
        effects: effects.clone(),
        orders: orders.clone(),
        accepted: Box::new(|| {}),
    }
}

impl Actor {
    /// The policy of `scene`, whose reloads `prepare` prepares.
    fn start(scene: Scene, shutdown: CancellationToken, prepare: Prepare) -> Self {
        let (requests, inbox) = mpsc::channel(8);
        let (reloads, asked) = mpsc::channel(8);
        let (status, _) = watch::channel(Status::default());
        let record = scene.record.clone();
        let orders = order_context(&scene, &shutdown);
        let reload = Reloads { requests: asked, prepare, record: record.clone() };
        let ended = tokio::spawn(Watch::new(scene.session, orders, inbox, status, reload).run());
        Self { registry: scene.registry, record, requests, reloads, shutdown, ended }
    }

    async fn polls(&self) -> usize {
        self.registry.received_requests().await.expect("they are kept").len()
    }

    async fn ask(&self) -> oneshot::Receiver<ReloadReply> {
        let (reply, answer) = oneshot::channel();
        self.reloads.send(ReloadRequest { reply: Some(reply) }).await.expect("the actor lives");
        answer
    }

    async fn reload(&self) -> ReloadReply {
        let answer = self.ask().await;
        timeout(Duration::from_secs(30), answer).await.expect("in time").expect("an answer")
    }

    async fn refresh(&self) -> RefreshReply {
        let (reply, answer) = oneshot::channel();
        let request = RefreshRequest { targets: None, recreate: false, reply };
        self.requests.send(request).await.expect("the actor lives");
        timeout(Duration::from_secs(30), answer).await.expect("in time").expect("an answer")
    }

    async fn stop(self) -> PolicyStats {
        self.shutdown.cancel();
        self.ended.await.expect("no panic");
        self.record.read()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn ticks_do_not_wait_for_a_compilation_and_who_asks_meanwhile_is_answered_by_the_next() {
    let scene = Scene::new(&Inline::polling(ASKS_ONCE), &[]).await;
    let loads = Arc::new(AtomicUsize::new(0));
    let counted = loads.clone();
    let prepare: Prepare = Arc::new(move |_, _| {
        counted.fetch_add(1, Ordering::Relaxed);
        std::thread::sleep(Duration::from_millis(1500));
        Ok(None)
    });
    let actor = Actor::start(scene, CancellationToken::new(), prepare);
    let before = actor.polls().await;
    let first = actor.ask().await;
    let meanwhile = [actor.ask().await, actor.ask().await];
    assert_eq!(first.await, Ok(ReloadReply::Unchanged));
    let polls = actor.polls().await - before;
    assert!(polls >= 4, "{polls} polls of every 100 ms in 1.5 s");
    for answer in meanwhile {
        assert_eq!(answer.await, Ok(ReloadReply::Unchanged));
    }
    assert_eq!(loads.load(Ordering::Relaxed), 2, "files may have changed after they were read, so once more, for both");
    assert_eq!(actor.stop().await.loads, [(LoadResult::Unchanged, 2)].into());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_manual_refresh_is_answered_while_a_registry_has_not_answered_the_poll() {
    let asks = r#"(drop (call $http_send «{"requests": [{"method": "GET", "url": "http://REGISTRY/stalled"}],
        "may_defer": true}»))"#;
    let scene = Scene::new(&Inline::polling(asks), &[("host.http_timeout", "1h")]).await;
    let stalled = wiremock::ResponseTemplate::new(200).set_delay(Duration::from_hours(1));
    let stalled = wiremock::Mock::given(wiremock::matchers::path("/stalled")).respond_with(stalled).with_priority(1);
    stalled.mount(&scene.registry).await;
    let actor = Actor::start(scene, CancellationToken::new(), Arc::new(|_, _| Ok(None)));
    while actor.polls().await == 0 {
        sleep(Duration::from_millis(10)).await;
    }
    assert_eq!(actor.refresh().await.err, None);
    assert_eq!(actor.polls().await, 1, "the request is still open: it would be asked again");
    actor.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_swaps_lose_and_double_no_tick_and_no_refresh() {
    let shutdown = CancellationToken::new();
    let first = Scene::new(&Inline::polling(ASKS_ONCE), &[]).await;
    let second = Scene::new(&Inline::polling(&format!("nop {ASKS_ONCE}")), &[]).await;
    let (one, two) = (preparing(&first, &shutdown), preparing(&second, &shutdown));
    let number = AtomicUsize::new(0);
    let prepare: Prepare = Arc::new(move |_, _| {
        Ok(Some(if number.fetch_add(1, Ordering::Relaxed).is_multiple_of(2) { two() } else { one() }))
    });
    let start = Instant::now();
    let actor = Actor::start(first, shutdown, prepare);
    for swaps in 0..1_000 {
        assert!(matches!(actor.reload().await, ReloadReply::Swapped { .. }));
        if swaps % 10 == 0 {
            assert!(actor.refresh().await.err.is_none());
            // The swaps would be over before a tick is due.
            sleep(Duration::from_millis(20)).await;
        }
    }
    let other = second.registry.received_requests().await.expect("they are kept").len();
    let (polls, most) = (actor.polls().await + other, start.elapsed().as_millis() / 100 + 1);
    assert!(polls as u128 <= most, "{polls} polls where {most} were due: a swap makes no tick");
    assert!(polls as u128 >= most / 3, "{polls} polls where {most} were due: a swap puts off no tick");
    let recorded = actor.stop().await;
    assert_eq!((recorded.loads, recorded.faults.len()), ([(LoadResult::Loaded, 1_000)].into(), 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_policy_that_cannot_go_on_from_the_state_does_not_get_to() {
    let unreadable = r#"(call $output «{"state": null, "outcomes": [], "err": {"code": "bad_state", "message": "state has version 7"}}»)"#;
    for (settle, part) in
        [(unreadable, "state has version 7"), ("unreachable", "settle"), ("(loop $l (br $l))", "fuel")]
    {
        let shutdown = CancellationToken::new();
        let first = Scene::new(&Inline::polling(ASKS_ONCE), &[]).await;
        let second = Scene::new(&Inline { settle: settle.to_owned(), ..Inline::default() }, &[]).await;
        let two = preparing(&second, &shutdown);
        let actor = Actor::start(first, shutdown, Arc::new(move |_, _| Ok(Some(two()))));
        let ReloadReply::Refused(reason) = actor.reload().await else { panic!("refused: {part}") };
        assert!(reason.contains(part), "{reason}");
        let before = actor.polls().await;
        sleep(Duration::from_millis(600)).await;
        assert!(actor.polls().await > before, "the one before goes on");
        let recorded = actor.stop().await;
        assert_eq!(recorded.loads, [(LoadResult::Refused, 1)].into());
        assert!(recorded.refused.expect("it is told").reason.contains(part));
    }
}

#[test]
fn a_policy_that_faults_again_and_again_is_called_less_and_less_often() {
    for (interval_ms, faults, expected_ms) in [
        (100, 0, 100),
        (100, 1, 200),
        (100, 5, 3_200),
        (100, 1_000, 300_000),
        (60_000, 2, 240_000),
        (3_600_000, 3, 3_600_000),
    ] {
        let wait = wait_after_fault(Duration::from_millis(interval_ms), faults);
        assert_eq!(wait, Duration::from_millis(expected_ms), "{faults} faults of {interval_ms} ms");
    }
}

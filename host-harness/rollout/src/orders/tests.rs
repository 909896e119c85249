#![allow(clippy::unwrap_used, clippy::panic)]

mod labels;
mod logins;
mod platforms;
mod removal;
mod services;
mod snapshot;
mod tags;
mod units;

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use imagewatch_abi::{Digest, PullCause, Selector};
use serde_json::json;

use std::sync::Arc;
use std::time::Duration;

use imagewatch_base::secret::Credential;
use imagewatch_engine::PullProgress;
use tokio_util::sync::CancellationToken;

use super::*;
use crate::Rollout;
use crate::image_records::testing::MemoryRecords;
use crate::journal::Journal;
use crate::slots::Slots;
use imagewatch_engine::testing::MemoryEngine;

const REFERENCE: &str = "example.com/ws/codex:latest";
const GONE: &str = "the engine is gone";

fn digest(fill: char) -> Digest {
    format!("sha256:{}", fill.to_string().repeat(64)).parse().unwrap()
}

fn image(id: &str, digest: &Digest) -> Value {
    json!({ "Id": id, "RepoDigests": [format!("example.com/ws/codex@{digest}")] })
}

/// Containers `ws-1` and `ws-2` run image `old`; the registry has image `new` with digest b…b.
async fn engine() -> Arc<MemoryEngine> {
    let engine = MemoryEngine::new();
    engine.add_image(REFERENCE, &image("old", &digest('a')));
    engine.add_container("ws-1", REFERENCE, json!({}), true).await;
    engine.add_container("ws-2", "example.com/ws/codex", json!({}), true).await;
    engine.publish(REFERENCE, image("new", &digest('b')));
    Arc::new(engine)
}

fn context(engine: &Arc<MemoryEngine>) -> OrderContext {
    // Gone when this returns; the journal makes it anew.
    let journal = Journal::new(tempfile::TempDir::new().unwrap().path().join("journal"));
    OrderContext {
        manifest: "one".to_owned(),
        rollout: Arc::new(Rollout::new(engine.clone(), journal, Arc::new(MemoryRecords::default()), None)),
        slots: Slots::new(4),
        services: Services::default(),
        keep_images: None,
        refused: Arc::default(),
        credentials: Arc::new(|_| Box::pin(async { Ok(None) })),
        pull_timeout: DEFAULT_PULL_TIMEOUT,
        stable_for: Duration::from_millis(1),
        progress: Arc::new(|_, _| {}),
        shutdown: CancellationToken::new(),
        is_granted: Arc::new(|_| true),
    }
}

fn order() -> Order {
    Order {
        order: "codex-1".to_owned(),
        target: "codex".to_owned(),
        reference: REFERENCE.parse().unwrap(),
        from: None,
        digest: Some(digest('b')),
        platform: None,
        recreate: true,
        strategy: Strategy::Replace,
        containers: Selector { name_contains: Some("ws-".to_owned()), ..Selector::default() },
        only_outdated: true,
        group: None,
    }
}

fn unavailable() -> EngineError {
    EngineError::Unavailable { host: "unix:///x.sock".to_owned(), reason: GONE.to_owned() }
}

fn code(report: &Report) -> Option<FailureCode> {
    report.err.as_ref().map(|failure| failure.code)
}

fn pulls(engine: &MemoryEngine) -> usize {
    engine.calls().iter().filter(|call| call.starts_with("pull")).count()
}

/// Carries out `order` as the only one of its batch.
async fn run_alone(context: &OrderContext, order: &Order) -> Report {
    run_order(context, order, &Batch::new(&context.services, vec![order.clone()])).await
}

#[tokio::test]
async fn a_moved_image_is_pulled_and_its_containers_are_replaced() {
    let engine = engine().await;
    let report = run_alone(&context(&engine), &order()).await;
    let recreated = vec!["ws-1".to_owned(), "ws-2".to_owned()];
    let expected = Report {
        order: "codex-1".into(),
        target: "codex".into(),
        pulled: true,
        recreated,
        reference: Some(REFERENCE.parse().unwrap()),
        digest: Some(digest('b')),
        ..Report::default()
    };
    assert_eq!(report, expected);
    assert_eq!(engine.overview(), ["ws-1 new running", "ws-2 new running"]);
}

#[tokio::test]
async fn the_same_order_again_pulls_and_recreates_nothing() {
    let engine = engine().await;
    run_alone(&context(&engine), &order()).await;
    let calls = engine.calls();
    let report = run_alone(&context(&engine), &order()).await;
    assert!(report.pulled && report.recreated.is_empty() && report.err.is_none(), "{report:?}");
    assert_eq!(engine.calls(), calls);
}

#[tokio::test]
async fn an_image_is_pulled_unless_the_very_one_is_here() {
    let other_repository = json!({ "Id": "x", "RepoDigests": [format!("example.com/ws/other@{}", digest('b'))] });
    for (case, local, wanted, platform, expected) in [
        ("same digest", image("x", &digest('b')), Some(digest('b')), None, 0),
        ("other digest", image("x", &digest('c')), Some(digest('b')), None, 1),
        ("same digest in another repository", other_repository, Some(digest('b')), None, 1),
        ("no digest wanted", image("x", &digest('b')), None, None, 1),
        ("same platform", image("x", &digest('b')), Some(digest('b')), Some("linux/amd64"), 0),
        ("other platform of one index", image("x", &digest('b')), Some(digest('b')), Some("linux/arm64/v8"), 1),
    ] {
        let engine = engine().await;
        engine.add_image(REFERENCE, &local);
        let order = Order { digest: wanted, platform: platform.map(str::to_owned), recreate: false, ..order() };
        let report = run_alone(&context(&engine), &order).await;
        assert!(report.pulled && report.err.is_none(), "{case}: {report:?}");
        assert_eq!(pulls(&engine), expected, "{case}");
    }
}

#[tokio::test]
async fn pull_only_leaves_containers_alone() {
    let engine = engine().await;
    let report = run_alone(&context(&engine), &Order { recreate: false, ..order() }).await;
    assert!(report.pulled && report.recreated.is_empty(), "{report:?}");
    assert_eq!(engine.calls(), [format!("pull {REFERENCE}")]);
}

#[tokio::test]
async fn a_pull_that_does_not_bring_the_wanted_image_touches_no_container() {
    let failed = |reason: &str| EngineError::pull_failed(&REFERENCE.parse().unwrap(), None, reason.to_owned());
    let (pull, away) = (FailureCode::PullFailed, FailureCode::EngineUnavailable);
    for (case, fault, wanted, says, expected) in [
        ("refused", Some(failed("denied")), digest('b'), "denied", (pull, Some(PullCause::Denied))),
        ("unknown text", Some(failed("what?")), digest('b'), "what?", (pull, Some(PullCause::Other))),
        ("another image", None, digest('c'), "different image than the registry", (pull, Some(PullCause::Mismatch))),
        ("engine away", Some(unavailable()), digest('b'), GONE, (away, None)),
    ] {
        let engine = engine().await;
        if let Some(error) = fault {
            engine.fail("pull", 1, error);
        }
        let report = run_alone(&context(&engine), &Order { digest: Some(wanted), ..order() }).await;
        let failure = report.err.clone().expect(case);
        assert_eq!(((failure.code, failure.cause), report.pulled), (expected, false), "{case}");
        assert!(failure.retryable, "{case}");
        assert!(failure.message.contains(says), "{case}: {failure}");
        assert_eq!(engine.overview(), ["ws-1 old running", "ws-2 old running"], "{case}");
        assert_eq!(engine.calls().len(), 1, "{case}: only the pull");
    }
}

#[tokio::test]
async fn f02_an_engine_that_gets_another_image_than_the_registry_has_names_both() {
    let engine = engine().await;
    let report = run_alone(&context(&engine), &Order { digest: Some(digest('c')), ..order() }).await;
    let message = report.err.unwrap().message;
    for part in [digest('b').to_string(), digest('c').to_string()] {
        assert!(message.contains(&part), "{part} in {message}");
    }
    for part in ["the engine gets a different image than the registry has", "mirror", "cache"] {
        assert!(message.contains(part), "{part} in {message}");
    }
}

#[tokio::test(start_paused = true)]
async fn f19_a_pull_ends_when_no_data_comes_and_not_when_it_takes_long() {
    let line = |advances| PullProgress { advances, ..PullProgress::default() };
    for (case, lines, hangs, cause) in [
        ("slow, but data comes", vec![line(true); 100], false, None),
        ("silent from the start", vec![], true, Some(PullCause::TooSlow)),
        ("silent after some data", vec![line(true); 100], true, Some(PullCause::TooSlow)),
        ("words without data", vec![line(false); 100], false, Some(PullCause::TooSlow)),
    ] {
        let engine = engine().await;
        engine.let_pulls_say(lines);
        if hangs {
            engine.let_pulls_hang();
        }
        let context = OrderContext { pull_timeout: Duration::from_secs(5), ..context(&engine) };
        let report = run_alone(&context, &order()).await;
        let failure = report.err.clone();
        assert_eq!((failure.as_ref().and_then(|f| f.cause), report.pulled), (cause, cause.is_none()), "{case}");
        if let Some(failure) = failure {
            assert!(failure.message.contains("for 5s") && failure.message.contains("host.pull_timeout"), "{failure}");
        }
    }
}

#[tokio::test]
async fn shutting_down_abandons_a_pull_at_once() {
    let engine = engine().await;
    engine.let_pulls_hang();
    let context = context(&engine);
    let order = order();
    let (report, ()) = tokio::join!(run_alone(&context, &order), async { context.shutdown.cancel() });
    assert_eq!(code(&report), Some(FailureCode::ShuttingDown));
    assert!(report.err.unwrap().retryable);
}

#[tokio::test]
async fn shutting_down_ends_an_order_before_the_next_container_never_within_one() {
    let engine = engine().await;
    let shutdown = CancellationToken::new();
    let (cancel, mut context) = (shutdown.clone(), context(&engine));
    context.shutdown = shutdown;
    // Asked for both when they are listed, twice before and once after the pull, and again when the first one's turn has
    // come.
    let asked = AtomicUsize::new(0);
    context.is_granted = Arc::new(move |_| {
        if asked.fetch_add(1, Ordering::Relaxed) == 6 {
            cancel.cancel();
        }
        true
    });
    let report = run_alone(&context, &order()).await;
    assert_eq!(code(&report), Some(FailureCode::ShuttingDown));
    assert_eq!(report.recreated, ["ws-1"], "what was begun is finished");
    assert_eq!(engine.overview(), ["ws-1 new running", "ws-2 old running"]);
}

/// A change to a container's inspection.
type Edit<'a> = &'a dyn Fn(&mut Value);

#[tokio::test]
async fn nothing_is_pulled_for_containers_that_are_all_refused() {
    let rm = |c: &mut Value| c["HostConfig"]["AutoRemove"] = json!(true);
    let swarm = |c: &mut Value| c["Config"]["Labels"] = json!({ "com.docker.swarm.service.id": "x" });
    let sometimes = |c: &mut Value| c["Config"]["Labels"] = json!({ "imagewatch.strategy": "sometimes" });
    let misspelt = |c: &mut Value| c["Config"]["Labels"] = json!({ "imagewatch.stratgey": "notify" });
    let plain = |_: &mut Value| {};
    let mounted = |c: &mut Value| c["Config"]["Labels"] = json!({ "io.kubernetes.pod.name": "p" });
    for (case, edits, refused_calls, pulls) in [
        ("both", [&rm as Edit<'_>, &swarm], &[][..], false),
        ("kinds that differ", [&mounted, &rm], &[], false),
        ("an unreadable strategy label", [&sometimes, &sometimes], &[], false),
        ("an unknown label", [&misspelt, &rm], &[], false),
        ("one of two", [&rm, &plain], &[], true),
        ("none", [&plain, &plain], &[], true),
        ("by a filter", [&plain, &plain], &["/containers/*/start"], false),
        ("by a filter, and not needed", [&plain, &plain], &["/networks/*/connect"], true),
    ] {
        let engine = engine().await;
        for (name, edit) in ["ws-1", "ws-2"].into_iter().zip(edits) {
            let id = engine.inspections()[name]["Id"].as_str().unwrap().to_owned();
            engine.edit(&id, edit);
        }
        engine.refuse_calls(refused_calls);
        let report = run_alone(&context(&engine), &order()).await;
        assert_eq!(engine.calls().iter().any(|call| call.starts_with("pull")), pulls, "{case}: {report:?}");
        assert_eq!(report.pulled, pulls, "{case}");
        if !pulls {
            assert_eq!(report.failed.len(), 2, "{case}: {report:?}");
            assert_eq!(engine.overview(), ["ws-1 old running", "ws-2 old running"], "{case}");
        }
    }
}

#[tokio::test]
async fn f33_a_container_that_carries_the_connection_is_neither_replaced_nor_removed() {
    for strategy in [Strategy::Replace, Strategy::StartFirst, Strategy::Remove] {
        let mut engine = engine().await;
        Arc::get_mut(&mut engine).expect("nobody else has it").address = "tcp://ws-1:2375".to_owned();
        let report = run_alone(&context(&engine), &Order { strategy, ..order() }).await;
        let reason = &report.failed[0].reason;
        assert!(reason.contains("carries this updater's connection to the engine"), "{strategy:?}: {report:?}");
        assert!(engine.overview().contains(&"ws-1 old running".to_owned()), "{strategy:?}: {:?}", engine.overview());
        assert_eq!(report.recreated, ["ws-2"], "{strategy:?}");
    }
}

#[tokio::test]
async fn one_container_that_fails_does_not_stop_the_others() {
    let engine = engine().await;
    engine.fail("start ws-1", 1, EngineError::Refused { status: 500, message: "port is taken".to_owned() });
    let report = run_alone(&context(&engine), &order()).await;
    assert_eq!((&report.recreated[..], &report.restored[..]), (&["ws-2".to_owned()][..], &["ws-1".to_owned()][..]));
    assert_eq!((report.failed.len(), code(&report)), (1, None));
    assert!(report.failed[0].reason.contains("port is taken"), "{report:?}");
    assert_eq!(report.failed[0].fault, Some(Fault::Host));
    assert_eq!(engine.overview(), ["ws-1 old running", "ws-2 new running"]);
}

#[tokio::test]
async fn t21_an_image_that_fails_one_container_is_tried_on_no_other_and_loses_its_tag_here() {
    let engine = engine().await;
    let mut bad = image("new", &digest('b'));
    bad["Behaves"] = json!("exits");
    engine.publish(REFERENCE, bad);
    let report = run_alone(&context(&engine), &order()).await;
    assert_eq!((report.failed.len(), &report.restored[..], code(&report)), (2, &["ws-1".to_owned()][..], None));
    let failure = &report.failed[0];
    assert_eq!((failure.fault, report.failed[1].fault), (Some(Fault::Image), Some(Fault::Postponed)));
    assert!(failure.reason.contains("exited with code 3") && failure.log.len() == 2, "{failure:?}");
    assert_eq!(engine.overview(), ["ws-1 old running", "ws-2 old running"]);
    assert_eq!(engine.tagged(REFERENCE).as_deref(), Some("old"), "nobody makes it from the bad image by hand");
}

#[tokio::test]
async fn a_containers_own_label_says_how_it_is_handled() {
    for (strategy, expected, recreated, faults) in [
        ("remove", vec!["ws-2 new running"], vec!["ws-1", "ws-2"], vec![]),
        ("notify", vec!["ws-1 old running", "ws-2 new running"], vec!["ws-2"], vec![]),
        ("pull-only", vec!["ws-1 old running", "ws-2 new running"], vec!["ws-2"], vec![]),
        ("sometimes", vec!["ws-1 old running", "ws-2 new running"], vec!["ws-2"], vec![Some(Fault::Refused)]),
    ] {
        let engine = engine().await;
        let id = engine.inspections()["ws-1"]["Id"].as_str().unwrap().to_owned();
        engine.edit(&id, |c| c["Config"]["Labels"] = json!({ "imagewatch.strategy": strategy }));
        let report = run_alone(&context(&engine), &order()).await;
        assert_eq!(
            (engine.overview(), &report.recreated[..]),
            (
                expected.iter().map(ToString::to_string).collect(),
                &recreated.iter().map(ToString::to_string).collect::<Vec<_>>()[..]
            ),
            "{strategy}"
        );
        assert_eq!(report.failed.iter().map(|failure| failure.fault).collect::<Vec<_>>(), faults, "{strategy}");
    }
}

#[tokio::test]
async fn old_images_are_removed_but_for_those_that_are_kept_or_used() {
    let engine = engine().await;
    let mut context = context(&engine);
    context.keep_images = Some(1);
    let mut last = "old".to_owned();
    for (id, fill) in [("new", 'b'), ("newer", 'c'), ("newest", 'd')] {
        engine.publish(REFERENCE, image(id, &digest(fill)));
        let report = run_alone(&context, &Order { digest: Some(digest(fill)), ..order() }).await;
        assert_eq!(report.recreated, ["ws-1", "ws-2"]);
        let mut expected = vec![id.to_owned(), last];
        expected.sort();
        assert_eq!(engine.images(), expected);
        last = id.to_owned();
    }
}

#[tokio::test]
async fn an_engine_that_goes_away_ends_the_order_and_what_was_done_stays_in_the_report() {
    let engine = engine().await;
    engine.fail("create ws-2", 1, unavailable());
    let report = run_alone(&context(&engine), &order()).await;
    assert_eq!(code(&report), Some(FailureCode::EngineUnavailable));
    assert!(report.pulled && report.recreated == ["ws-1"] && report.failed[0].container == "ws-2", "{report:?}");
}

#[tokio::test]
async fn containers_that_cannot_be_listed_fail_the_order_after_the_pull() {
    let engine = engine().await;
    engine.fail("list", 3, EngineError::Refused { status: 500, message: "boom".to_owned() });
    let report = run_alone(&context(&engine), &order()).await;
    assert_eq!((code(&report), report.pulled), (Some(FailureCode::ListFailed), true));
}

#[tokio::test]
async fn a_container_outside_the_grant_is_left_alone_and_its_name_is_told_to_no_policy() {
    let engine = engine().await;
    let context = OrderContext { is_granted: Arc::new(|container| container.name == "ws-2"), ..context(&engine) };
    let report = run_alone(&context, &order()).await;
    assert_eq!(report.recreated, ["ws-2"]);
    assert_eq!(report.failed, []);
    assert_eq!(engine.overview(), ["ws-1 old running", "ws-2 new running"]);
}

#[tokio::test]
async fn only_selected_containers_of_that_very_reference_are_handled() {
    let engine = engine().await;
    for (name, reference) in
        [("db-1", REFERENCE), ("ws-3", "example.com/ws/codex:v1"), ("ws-4.0a1b2c3d.old", REFERENCE)]
    {
        if reference != REFERENCE {
            engine.add_image(reference, &image("other", &digest('f')));
        }
        engine.add_container(name, reference, json!({}), true).await;
    }
    let report = run_alone(&context(&engine), &order()).await;
    assert_eq!(report.recreated, ["ws-1", "ws-2"]);
}

#[tokio::test]
async fn orders_that_were_placed_together_go_one_after_the_other_where_containers_depend_on_each_other() {
    let engine = engine().await;
    let reference = "example.com/db:1";
    engine.add_image(reference, &json!({ "Id": "old-db", "RepoDigests": [format!("example.com/db@{}", digest('c'))] }));
    engine.publish(reference, json!({ "Id": "new-db", "RepoDigests": [format!("example.com/db@{}", digest('d'))] }));
    engine.add_container("db", reference, json!({}), true).await;
    let id = engine.inspections()["ws-1"]["Id"].as_str().unwrap().to_owned();
    engine.edit(&id, |c| {
        c["Config"]["Labels"] = json!({ "com.docker.compose.project": "p", "com.docker.compose.depends_on": "db:service_started:false" });
    });
    let id = engine.inspections()["db"]["Id"].as_str().unwrap().to_owned();
    engine.edit(&id, |c| {
        c["Config"]["Labels"] = json!({ "com.docker.compose.project": "p", "com.docker.compose.service": "db" });
    });
    let (reference, digest) = (reference.parse().unwrap(), Some(digest('d')));
    let db = Order {
        order: "db-1".to_owned(),
        target: "db".to_owned(),
        reference,
        digest,
        containers: Selector::default(),
        ..order()
    };
    let (batch, context) = (Batch::new(&Services::default(), vec![order(), db.clone()]), context(&engine));
    let first = order();
    let reports = tokio::join!(run_order(&context, &first, &batch), run_order(&context, &db, &batch));
    assert_eq!((reports.0.recreated.len(), reports.1.recreated.len()), (2, 1), "{reports:?}");
    let calls = engine.calls();
    let at = |call: &str| calls.iter().position(|line| line.starts_with(call)).unwrap();
    assert!(at("remove db.") < at("create ws-1."), "{calls:#?}");
}

#[tokio::test]
async fn two_orders_at_once_replace_a_container_only_once() {
    let engine = engine().await;
    let context = context(&engine);
    let (one, two) = (order(), Order { order: "codex-2".to_owned(), ..order() });
    let held = context.rollout.locks.lock(&["ws-1".to_owned()]).await;
    let both = async { tokio::join!(run_alone(&context, &one), run_alone(&context, &two)) };
    let release = async {
        while pulls(&engine) == 0 {
            tokio::task::yield_now().await;
        }
        drop(held);
    };
    let ((first, second), ()) = tokio::join!(both, release);
    assert_eq!(first.recreated.len() + second.recreated.len(), 2, "{first:?} {second:?}");
    assert!(first.failed.is_empty() && second.failed.is_empty(), "{first:?} {second:?}");
    assert_eq!(engine.calls().iter().filter(|call| call.starts_with("create")).count(), 2);
    assert_eq!(engine.overview(), ["ws-1 new running", "ws-2 new running"]);
}

#[tokio::test]
async fn a_pull_carries_the_credential_of_its_registry_and_its_platform_and_is_watched() {
    let engine = engine().await;
    let seen = Arc::new(Mutex::new(Vec::new()));
    let watch = seen.clone();
    let credentials: CredentialLookup = Arc::new(|reference| {
        let found = (reference.registry() == "example.com").then(|| Credential::basic("robot", "pw"));
        Box::pin(async { Ok(found) })
    });
    let progress: ProgressObserver =
        Arc::new(move |order, progress| watch.lock().unwrap().push((order.target.clone(), progress.status)));
    let context = OrderContext { credentials, progress, ..context(&engine) };
    run_alone(&context, &Order { platform: Some("linux/arm64".to_owned()), recreate: false, ..order() }).await;
    assert_eq!(engine.credentials(), ["robot"]);
    assert_eq!(engine.calls(), [format!("pull {REFERENCE} linux/arm64")]);
    assert_eq!(*seen.lock().unwrap(), [("codex".to_owned(), "Pull complete".to_owned())]);
}

#[tokio::test]
async fn without_its_credential_an_image_is_not_pulled_anonymously() {
    let engine = engine().await;
    let credentials: CredentialLookup = Arc::new(|reference| {
        let failure = Failure::retryable(FailureCode::PullFailed, format!("{reference}: the file is broken"));
        Box::pin(async { Err(failure) })
    });
    let report = run_alone(&OrderContext { credentials, ..context(&engine) }, &order()).await;
    assert_eq!(report.err.unwrap().message, format!("{REFERENCE}: the file is broken"));
    assert_eq!(pulls(&engine), 0);
}

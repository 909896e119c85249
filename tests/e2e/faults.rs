//! An engine that fails at one call of an update, while the program goes on: whatever it does then, nothing is lost.

use std::sync::Arc;
use std::time::Duration;

use futures_util::{StreamExt, stream};
use imagewatch_tests::engine::TestEngine;
use imagewatch_tests::judge::Way;
use imagewatch_tests::kill::end_cleanly;
use imagewatch_tests::proxy::{Fault, Proxy};
use imagewatch_tests::registry::{Registry, RegistryAuth};
use imagewatch_tests::subject::{Arena, IN_ORDER_WITHIN, Subject};
use imagewatch_tests::wait::wait_for;

const PARALLEL: usize = 6;
/// A call by what its request contains, and how many like it pass before.
type Call = (&'static str, usize);
/// All that an update asks the engine to change, in its order: until the old container is stopped, and from then on.
const BEFORE_THE_SWAP: [Call; 4] = [("/containers/create", 0), ("/connect", 0), ("/update", 0), ("/stop", 0)];
const FROM_THE_SWAP_ON: [Call; 4] = [("/rename", 0), ("/rename", 1), ("/start", 0), ("DELETE /", 0)];
/// What is asked on the way back.
const ON_THE_WAY_BACK: [Call; 6] =
    [("/update", 1), ("/rename", 2), ("/rename", 3), ("/update", 2), ("/start", 1), ("DELETE /", 0)];
const FAULTS: [Fault; 4] =
    [Fault::Refuse, Fault::SwallowAnswer, Fault::Delay(Duration::from_millis(1500)), Fault::Drop];

/// One update of a container of its own, through an engine that fails once.
async fn update_with(arena: &Arc<Arena>, role: String, is_good: bool, (call, spared): Call, fault: Fault) -> Way {
    let subject = Subject::new(arena, &role, "unless-stopped").await;
    let proxy = Proxy::to_engine(arena.scope().engine().host()).await;
    let program = subject.start_program(&proxy.host()).await;
    proxy.fail_one(call, spared, fault);
    let update = subject.release("v2", is_good).await;
    wait_for(&format!("{call} to come"), IN_ORDER_WITHIN, || async {
        if proxy.faults_left() == 0 { Ok(()) } else { Err(program.lines()) }
    })
    .await;
    // A refusal is the engine's last word for an hour; all else is tried again.
    let said = if is_good && fault != Fault::Refuse {
        subject.wait_until_forwards(&update, &program).await
    } else {
        subject.wait_for_order(&update, &program).await
    };
    end_cleanly(program).await;
    let way = subject.judge(&update).await;
    let way =
        way.unwrap_or_else(|why| panic!("{fault:?} at {call} {spared}, in order once ({said:?}), then not: {why}"));
    subject.assert_nothing_lost().await;
    println!("good {is_good}, {fault:?} at {call} {spared}: {way:?}");
    subject.retire().await;
    way
}

async fn fail_at_each(is_good: bool, calls: &[Call], faults: &[Fault]) -> Vec<(Call, Fault, Way)> {
    let engine = TestEngine::connect().await;
    let is_connected_by_create = engine.creates_with_all_networks().await;
    let arena = Arena::new(&engine, Registry::start(RegistryAuth::None).await).await;
    let calls = calls.iter().filter(|(path, _)| *path != "/connect" || !is_connected_by_create);
    let cases = calls.flat_map(|call| faults.iter().map(|fault| (*call, *fault)));
    let updates = cases.enumerate().map(|(number, (call, fault))| {
        let (arena, role) = (&arena, format!("f{number:02}"));
        async move { (call, fault, update_with(arena, role, is_good, call, fault).await) }
    });
    stream::iter(updates).buffered(PARALLEL).collect().await
}

async fn assert_nothing_is_lost_at(calls: &[Call]) {
    for (call, fault, way) in fail_at_each(true, calls, &FAULTS).await {
        assert!(fault == Fault::Refuse || way == Way::Forwards, "{fault:?} at {call:?} was not tried again");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_engine_that_fails_once_before_the_old_container_is_stopped_costs_nothing() {
    assert_nothing_is_lost_at(&BEFORE_THE_SWAP).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_engine_that_fails_once_after_the_old_container_was_stopped_costs_nothing() {
    assert_nothing_is_lost_at(&FROM_THE_SWAP_ON).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_engine_that_fails_once_on_the_way_back_is_asked_until_all_is_as_before() {
    let faults = [Fault::Refuse, Fault::SwallowAnswer, Fault::Drop];
    for (call, fault, way) in fail_at_each(false, &ON_THE_WAY_BACK, &faults).await {
        assert_eq!(way, Way::Back, "{fault:?} at {call:?}");
    }
}

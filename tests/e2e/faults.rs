//! Tests an engine that fails at one call of an update while the program continues. No fault may cause a loss.

use std::sync::Arc;
use std::time::Duration;

use futures_util::{StreamExt, stream};
use imagewatch_tests::engine::TestEngine;
use imagewatch_tests::judge::Outcome;
use imagewatch_tests::kill::end_cleanly;
use imagewatch_tests::proxy::{Fault, Proxy};
use imagewatch_tests::registry::{Registry, RegistryAuth};
use imagewatch_tests::subject::{Fixture, IN_ORDER_TIMEOUT, TestContainer};
use imagewatch_tests::wait::wait_for;

const PARALLEL: usize = 6;
/// Text that the request contains, and the number of matching requests that pass first.
type Call = (&'static str, usize);
/// The changing calls of an update in their order, until the old container is stopped, and after that.
const BEFORE_STOP: [Call; 4] = [("/containers/create", 0), ("/connect", 0), ("/update", 0), ("/stop", 0)];
const AFTER_STOP: [Call; 4] = [("/rename", 0), ("/rename", 1), ("/start", 0), ("DELETE /", 0)];
/// The calls of a rollback.
const ROLLBACK: [Call; 6] =
    [("/update", 1), ("/rename", 2), ("/rename", 3), ("/update", 2), ("/start", 1), ("DELETE /", 0)];
const FAULTS: [Fault; 4] =
    [Fault::Refuse, Fault::SwallowAnswer, Fault::Delay(Duration::from_millis(1500)), Fault::Drop];

/// Runs one update of a new container through an engine that fails once.
async fn update_with(
    fixture: &Arc<Fixture>,
    role: String,
    is_good: bool,
    (call, skipped): Call,
    fault: Fault,
) -> Outcome {
    let subject = TestContainer::new(fixture, &role, "unless-stopped").await;
    let proxy = Proxy::to_engine(fixture.scope().engine().host()).await;
    let program = subject.start_program(&proxy.host()).await;
    proxy.fail_one(call, skipped, fault);
    let update = subject.release("v2", is_good).await;
    wait_for(&format!("{call} to arrive"), IN_ORDER_TIMEOUT, || async {
        if proxy.faults_left() == 0 { Ok(()) } else { Err(program.lines()) }
    })
    .await;
    // A refusal is final for an hour. All other faults are retried.
    let said = if is_good && fault != Fault::Refuse {
        subject.wait_until_updated(&update, &program).await
    } else {
        subject.wait_for_order(&update, &program).await
    };
    end_cleanly(program).await;
    let outcome = subject.judge(&update).await;
    let outcome = outcome
        .unwrap_or_else(|why| panic!("{fault:?} at {call} {skipped}: complete at first ({said:?}), but later: {why}"));
    subject.assert_nothing_lost().await;
    println!("good {is_good}, {fault:?} at {call} {skipped}: {outcome:?}");
    subject.retire().await;
    outcome
}

async fn fail_at_each(is_good: bool, calls: &[Call], faults: &[Fault]) -> Vec<(Call, Fault, Outcome)> {
    let engine = TestEngine::connect().await;
    let is_connected_by_create = engine.creates_with_all_networks().await;
    let fixture = Fixture::new(&engine, Registry::start(RegistryAuth::None).await).await;
    let calls = calls.iter().filter(|(path, _)| *path != "/connect" || !is_connected_by_create);
    let cases = calls.flat_map(|call| faults.iter().map(|fault| (*call, *fault)));
    let updates = cases.enumerate().map(|(number, (call, fault))| {
        let (fixture, role) = (&fixture, format!("f{number:02}"));
        async move { (call, fault, update_with(fixture, role, is_good, call, fault).await) }
    });
    stream::iter(updates).buffered(PARALLEL).collect().await
}

async fn assert_no_loss_at(calls: &[Call]) {
    for (call, fault, outcome) in fail_at_each(true, calls, &FAULTS).await {
        assert!(fault == Fault::Refuse || outcome == Outcome::Updated, "{fault:?} at {call:?} was not retried");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn one_engine_fault_before_the_stop_causes_no_loss() {
    assert_no_loss_at(&BEFORE_STOP).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_engine_fault_after_the_stop_causes_no_loss() {
    assert_no_loss_at(&AFTER_STOP).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_engine_fault_in_a_rollback_is_retried_until_it_succeeds() {
    let faults = [Fault::Refuse, Fault::SwallowAnswer, Fault::Drop];
    for (call, fault, outcome) in fail_at_each(false, &ROLLBACK, &faults).await {
        assert_eq!(outcome, Outcome::RolledBack, "{fault:?} at {call:?}");
    }
}

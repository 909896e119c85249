//! Kills the real program with SIGKILL in the middle of real updates and starts it again (T23, T25).

use std::collections::BTreeMap;
use std::sync::Arc;

use futures_util::{StreamExt, stream};
use imagewatch_tests::engine::TestEngine;
use imagewatch_tests::judge::{Outcome, wipe_journal};
use imagewatch_tests::kill::{Ending, Moment, kill_and_recover, observe};
use imagewatch_tests::registry::{Registry, RegistryAuth};
use imagewatch_tests::subject::{Fixture, TestContainer};

/// The number of parallel updates. With more, two cores would miss the moments.
const PARALLEL: usize = 6;
/// The fractions of an update's duration after which the program is killed.
const FRACTIONS: [f64; 5] = [0.04, 0.27, 0.51, 0.74, 0.96];
/// Events that occur within the same call as another event.
const COMPANIONS: [&str; 3] = ["kill", "mount", "unmount"];

async fn fixture() -> Arc<Fixture> {
    Fixture::new(&TestEngine::connect().await, Registry::start(RegistryAuth::None).await).await
}

/// For each moment, kills one update of a new container. Every third program starts without a journal.
async fn kill_at_each(fixture: &Arc<Fixture>, is_good: bool, moments: Vec<Moment>) -> Vec<Ending> {
    let kills = moments.into_iter().enumerate().map(|(index, moment)| async move {
        let policy = if index % 2 == 0 { "always" } else { "unless-stopped" };
        let subject = TestContainer::new(fixture, &format!("k{index:02}-{is_good}"), policy).await;
        let between = async || {
            if index % 3 == 2 {
                wipe_journal(subject.state_dir());
            }
        };
        let ending = kill_and_recover(&subject, "v2", is_good, moment.clone(), between).await;
        println!("good {is_good}, killed at {moment:?}: {:?} after {:?}", ending.outcome, ending.took);
        subject.retire().await;
        ending
    });
    stream::iter(kills).buffered(PARALLEL).collect().await
}

/// Returns one moment for each event of an undisturbed update. For a bad image, these are the events of the rollback:
/// the first start and everything after it. The number of restarts before a container is removed varies, so only the
/// first two starts and ends count.
fn moments_of(events: &[String], is_good: bool) -> Vec<Moment> {
    let mut seen: BTreeMap<&str, usize> = BTreeMap::new();
    let mut moments = Vec::new();
    let first_start = events.iter().position(|event| event == "start").expect("the container was started");
    for (index, event) in events.iter().enumerate() {
        let nth = seen.entry(event).or_default();
        let is_new = is_good || (index >= first_start && (*nth < 2 || event == "rename"));
        if is_new && !COMPANIONS.contains(&event.as_str()) {
            moments.push(Moment::Event(event.clone(), *nth));
        }
        *nth += 1;
    }
    moments
}

#[tokio::test(flavor = "multi_thread")]
async fn t23_t25_a_kill_at_any_event_of_an_update_causes_no_loss() {
    let fixture = fixture().await;
    let (events, _) = observe(&TestContainer::new(&fixture, "undisturbed", "always").await, "v2", true).await;
    for event in ["create", "update", "die", "stop", "rename", "connect", "start", "health_status", "destroy"] {
        assert!(events.iter().any(|seen| seen == event), "no {event} in {events:?}");
    }
    let endings = kill_at_each(&fixture, true, moments_of(&events, true)).await;
    assert!(endings.iter().any(|ending| ending.outcome == Outcome::Updated), "{endings:?}");
    assert!(endings.iter().any(|ending| ending.outcome == Outcome::RolledBack), "{endings:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn t23_t25_a_kill_at_any_event_of_a_rollback_restores_the_container() {
    let fixture = fixture().await;
    let (events, _) = observe(&TestContainer::new(&fixture, "undisturbed", "always").await, "v2", false).await;
    let moments = moments_of(&events, false);
    let renames = moments.iter().filter(|moment| matches!(moment, Moment::Event(event, _) if event == "rename"));
    assert_eq!(renames.count(), 2, "both names are restored after the start: {events:?}");
    let endings = kill_at_each(&fixture, false, moments).await;
    assert!(endings.iter().all(|ending| ending.outcome == Outcome::RolledBack), "{endings:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn t23_t25_a_kill_at_any_moment_of_an_update_causes_no_loss() {
    let fixture = fixture().await;
    for (role, is_good) in [("good", true), ("bad", false)] {
        let undisturbed = TestContainer::new(&fixture, role, "always").await;
        let (_, duration) = observe(&undisturbed, "v2", is_good).await;
        let moments = FRACTIONS.map(|fraction| Moment::After(duration.mul_f64(fraction)));
        kill_at_each(&fixture, is_good, moments.to_vec()).await;
    }
}

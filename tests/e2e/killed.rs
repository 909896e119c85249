//! The real program, killed with SIGKILL in the middle of real updates, and started again (T23, T25).

use std::collections::BTreeMap;
use std::sync::Arc;

use futures_util::{StreamExt, stream};
use imagewatch_tests::engine::TestEngine;
use imagewatch_tests::judge::{Way, wipe_journal};
use imagewatch_tests::kill::{Ending, Moment, kill_and_recover, observe};
use imagewatch_tests::registry::{Registry, RegistryAuth};
use imagewatch_tests::subject::{Arena, Subject};

/// As many at a time as two cores take without the moments being lost in the waiting.
const PARALLEL: usize = 6;
/// The parts of an update's time after which it is killed.
const FRACTIONS: [f64; 5] = [0.04, 0.27, 0.51, 0.74, 0.96];
/// Events that come with others, within the same call.
const COMPANIONS: [&str; 3] = ["kill", "mount", "unmount"];

async fn arena() -> Arc<Arena> {
    Arena::new(&TestEngine::connect().await, Registry::start(RegistryAuth::None).await).await
}

/// Kills one update of a container of its own at each of these moments; every third program finds no journal.
async fn kill_at_each(arena: &Arc<Arena>, is_good: bool, moments: Vec<Moment>) -> Vec<Ending> {
    let kills = moments.into_iter().enumerate().map(|(index, moment)| async move {
        let policy = if index % 2 == 0 { "always" } else { "unless-stopped" };
        let subject = Subject::new(arena, &format!("k{index:02}-{is_good}"), policy).await;
        let between = async || {
            if index % 3 == 2 {
                wipe_journal(subject.state_dir());
            }
        };
        let ending = kill_and_recover(&subject, "v2", is_good, moment.clone(), between).await;
        println!("good {is_good}, killed at {moment:?}: {:?} after {:?}", ending.way, ending.took);
        subject.retire().await;
        ending
    });
    stream::iter(kills).buffered(PARALLEL).collect().await
}

/// One moment for each of an update's events, as they came in one that nobody disturbed. A bad image's are those of
/// the way back: the first start and what comes after it. How often a container is restarted until it is taken away
/// is not always the same, so of its starts and ends only the first two count.
fn moments_of(events: &[String], is_good: bool) -> Vec<Moment> {
    let mut seen: BTreeMap<&str, usize> = BTreeMap::new();
    let mut moments = Vec::new();
    let first_start = events.iter().position(|event| event == "start").expect("it was started");
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
async fn t23_t25_a_kill_at_any_event_of_an_update_loses_nothing() {
    let arena = arena().await;
    let (events, _) = observe(&Subject::new(&arena, "undisturbed", "always").await, "v2", true).await;
    for event in ["create", "update", "die", "stop", "rename", "connect", "start", "health_status", "destroy"] {
        assert!(events.iter().any(|seen| seen == event), "no {event} in {events:?}");
    }
    let endings = kill_at_each(&arena, true, moments_of(&events, true)).await;
    assert!(endings.iter().any(|ending| ending.way == Way::Forwards), "{endings:?}");
    assert!(endings.iter().any(|ending| ending.way == Way::Back), "{endings:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn t23_t25_a_kill_at_any_event_of_the_way_back_brings_the_container_from_before() {
    let arena = arena().await;
    let (events, _) = observe(&Subject::new(&arena, "undisturbed", "always").await, "v2", false).await;
    let moments = moments_of(&events, false);
    let renames = moments.iter().filter(|moment| matches!(moment, Moment::Event(event, _) if event == "rename"));
    assert_eq!(renames.count(), 2, "both names are given back after the start: {events:?}");
    let endings = kill_at_each(&arena, false, moments).await;
    assert!(endings.iter().all(|ending| ending.way == Way::Back), "{endings:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn t23_t25_a_kill_at_any_moment_of_an_update_loses_nothing() {
    let arena = arena().await;
    for (role, is_good) in [("good", true), ("bad", false)] {
        let undisturbed = Subject::new(&arena, role, "always").await;
        let (_, duration) = observe(&undisturbed, "v2", is_good).await;
        let moments = FRACTIONS.map(|fraction| Moment::After(duration.mul_f64(fraction)));
        kill_at_each(&arena, is_good, moments.to_vec()).await;
    }
}

//! The real program, killed with SIGKILL in the middle of real updates, and started again.

use std::collections::BTreeSet;
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
const FRACTIONS: [f64; 6] = [0.03, 0.21, 0.38, 0.55, 0.72, 0.94];

async fn arena() -> Arc<Arena> {
    Arena::new(&TestEngine::connect().await, Registry::start(RegistryAuth::None).await).await
}

/// Kills one update of a container of its own at each of these moments; every third program finds no journal.
async fn kill_at_each(arena: &Arc<Arena>, is_good: bool, moments: Vec<Moment>) -> Vec<Ending> {
    let kills = moments.into_iter().enumerate().map(|(index, moment)| async move {
        let policy = if index % 2 == 0 { "always" } else { "unless-stopped" };
        let subject = Subject::new(arena, &format!("k{index:02}"), policy).await;
        let between = async || {
            if index % 3 == 2 {
                wipe_journal(subject.state_dir());
            }
        };
        kill_and_recover(&subject, "v2", is_good, moment, between).await
    });
    stream::iter(kills).buffered(PARALLEL).collect().await
}

async fn kill_at_each_event(is_good: bool) -> Vec<Ending> {
    let arena = arena().await;
    let undisturbed = Subject::new(&arena, "undisturbed", "always").await;
    let (events, _) = observe(&undisturbed, "v2", is_good).await;
    let endings = kill_at_each(&arena, is_good, (0..events.len()).map(Moment::Event).collect()).await;
    println!("events of an update: {events:?}");
    for ending in &endings {
        println!("killed at {}: {:?} after {:?}", ending.at.as_deref().unwrap_or("?"), ending.way, ending.took);
    }
    let killed_at: BTreeSet<&str> = endings.iter().filter_map(|ending| ending.at.as_deref()).collect();
    for event in ["create", "update", "die", "stop", "rename", "start", "connect", "destroy"] {
        assert!(killed_at.contains(event), "no kill at {event}: {events:?}");
    }
    endings
}

#[tokio::test(flavor = "multi_thread")]
async fn t23_t25_a_kill_at_any_event_of_an_update_loses_nothing() {
    let endings = kill_at_each_event(true).await;
    assert!(endings.iter().any(|ending| ending.way == Way::Forwards), "{endings:?}");
    assert!(endings.iter().any(|ending| ending.way == Way::Back), "{endings:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn t23_t25_a_kill_at_any_event_of_an_update_to_a_bad_image_leaves_the_container_from_before() {
    let endings = kill_at_each_event(false).await;
    assert!(endings.iter().all(|ending| ending.way == Way::Back), "{endings:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn t23_t25_a_kill_at_any_moment_of_an_update_loses_nothing() {
    let arena = arena().await;
    for (role, is_good) in [("good", true), ("bad", false)] {
        let undisturbed = Subject::new(&arena, role, "always").await;
        let (_, duration) = observe(&undisturbed, "v2", is_good).await;
        let moments = FRACTIONS.map(|fraction| Moment::After(duration.mul_f64(fraction)));
        for (moment, ending) in moments.iter().zip(kill_at_each(&arena, is_good, moments.to_vec()).await) {
            println!("good {is_good}, {moment:?} of {duration:?}: {:?} after {:?}", ending.way, ending.took);
        }
    }
}

//! What becomes of updates whose program is killed at a random moment: the real program, real containers, good images
//! and bad ones by turns. Judges with what judges the tests.

use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures_util::{StreamExt, stream};
use imagewatch_tests::engine::TestEngine;
use imagewatch_tests::judge::Way;
use imagewatch_tests::kill::{Ending, Moment, kill_and_recover, observe};
use imagewatch_tests::registry::{Registry, RegistryAuth};
use imagewatch_tests::subject::{Arena, Subject};

use crate::machine;
use crate::report::{Aim, Row, Samples, render};

/// Containers that are updated at the same time; more would only wait for each other.
const PARALLEL: usize = 4;

/// Kills so many programs and prints the table; whether nothing was lost.
pub(crate) async fn measure(kills: usize) -> bool {
    crate::say("updating without a kill");
    let engine = TestEngine::connect().await;
    let arena = Arena::new(&engine, Registry::start(RegistryAuth::None).await).await;
    let undisturbed = Subject::new(&arena, "undisturbed", "always").await;
    let (_, longest) = observe(&undisturbed, "v2", true).await;
    undisturbed.retire().await;
    crate::say(&format!("killing {kills} programs within {longest:?} of an update"));
    let next = AtomicUsize::new(0);
    let series = (0..PARALLEL.min(kills)).map(|number| kill_in_turn(&arena, number, &next, kills, longest));
    let endings: Vec<Option<Ending>> =
        stream::iter(series).buffer_unordered(PARALLEL).flat_map(stream::iter).collect().await;
    println!("updates that take {longest:?}; {}\n\n{}", machine::describe(), render(&rows(&endings)));
    endings.iter().all(Option::is_some)
}

/// Updates one container again and again. After a violation it is another one, since that is no longer in order.
async fn kill_in_turn(
    arena: &Arc<Arena>,
    number: usize,
    next: &AtomicUsize,
    kills: usize,
    longest: Duration,
) -> Vec<Option<Ending>> {
    let mut endings = Vec::new();
    let mut subject = None;
    loop {
        let kill = next.fetch_add(1, Ordering::Relaxed);
        if kill >= kills {
            return endings;
        }
        let present = match subject.take() {
            Some(subject) => subject,
            None => Arc::new(Subject::new(arena, &format!("s{number}-{kill}"), "unless-stopped").await),
        };
        let moment = Moment::After(longest.mul_f64(random_part()));
        let (killed, version, is_good) = (Arc::clone(&present), format!("v{}", kill + 2), kill.is_multiple_of(2));
        // A task of its own: a violation is a panic, which says what was wrong.
        let ending =
            tokio::spawn(async move { kill_and_recover(&killed, &version, is_good, moment, async || {}).await });
        let ending = ending.await.ok();
        subject = ending.as_ref().map(|_| present);
        endings.push(ending);
    }
}

/// At least 0, less than 1.
fn random_part() -> f64 {
    // Each RandomState is keyed anew, from the system's randomness.
    let bits = u32::try_from(RandomState::new().hash_one(()) >> 32).expect("32 bits");
    f64::from(bits) / (f64::from(u32::MAX) + 1.0)
}

fn rows(endings: &[Option<Ending>]) -> Vec<Row> {
    let ended = || endings.iter().flatten();
    let ways = |way| count(ended().filter(|ending| ending.way == way).count());
    let mut rows = vec![
        Row::new("programs killed in an update", "", count(endings.len())),
        Row::new("  updates that went forwards", "", ways(Way::Forwards)),
        Row::new("  updates that went back", "", ways(Way::Back)),
        Row::new("  violations", "", count(endings.len() - ended().count())).aim(Aim::Exactly(0.0)),
    ];
    if ended().next().is_some() {
        let took = Samples::new(ended().map(|ending| ending.took.as_secs_f64()));
        rows.push(Row::new("the program's next start to order", "s", took));
    }
    rows
}

#[expect(clippy::cast_precision_loss, reason = "for a table")]
fn count(value: usize) -> Samples {
    Samples::new([value as f64])
}

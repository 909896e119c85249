//! The outcome of updates whose program is killed at a random moment. It uses the real program and real containers, and
//! alternates good and bad images. It uses the same checks as the tests.

use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures_util::{StreamExt, stream};
use imagewatch_tests::engine::TestEngine;
use imagewatch_tests::judge::Outcome;
use imagewatch_tests::kill::{Ending, Moment, kill_and_recover, observe};
use imagewatch_tests::registry::{Registry, RegistryAuth};
use imagewatch_tests::subject::{Fixture, TestContainer};

use crate::machine;
use crate::report::{Aim, Row, Samples, render};

/// The number of containers that are updated in parallel. More would only wait for each other.
const PARALLEL: usize = 4;

/// Kills `kills` programs and prints the table. Returns whether nothing was lost.
pub(crate) async fn measure(kills: usize) -> bool {
    crate::say("updating without a kill");
    let engine = TestEngine::connect().await;
    let fixture = Fixture::new(&engine, Registry::start(RegistryAuth::None).await).await;
    let undisturbed = TestContainer::new(&fixture, "undisturbed", "always").await;
    let (_, longest) = observe(&undisturbed, "v2", true).await;
    undisturbed.retire().await;
    crate::say(&format!("killing {kills} programs within {longest:?} of an update"));
    let next = AtomicUsize::new(0);
    let series = (0..PARALLEL.min(kills)).map(|number| kill_in_turn(&fixture, number, &next, kills, longest));
    let endings: Vec<Option<Ending>> =
        stream::iter(series).buffer_unordered(PARALLEL).flat_map(stream::iter).collect().await;
    println!("updates that take {longest:?}; {}\n\n{}", machine::describe(), render(&rows(&endings)));
    endings.iter().all(Option::is_some)
}

/// Updates one container repeatedly. After a violation, it continues with a new container, because the old one is
/// damaged.
async fn kill_in_turn(
    fixture: &Arc<Fixture>,
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
            None => Arc::new(TestContainer::new(fixture, &format!("s{number}-{kill}"), "unless-stopped").await),
        };
        let moment = Moment::After(longest.mul_f64(random_part()));
        let (killed, version, is_good) = (Arc::clone(&present), format!("v{}", kill + 2), kill.is_multiple_of(2));
        // A violation is a panic in this task. The panic message says what is wrong.
        let ending =
            tokio::spawn(async move { kill_and_recover(&killed, &version, is_good, moment, async || {}).await });
        let ending = ending.await.ok();
        subject = ending.as_ref().map(|_| present);
        endings.push(ending);
    }
}

/// At least 0, less than 1.
fn random_part() -> f64 {
    // Each RandomState has a new key from the system's randomness.
    let bits = u32::try_from(RandomState::new().hash_one(()) >> 32).expect("32 bits");
    f64::from(bits) / (f64::from(u32::MAX) + 1.0)
}

fn rows(endings: &[Option<Ending>]) -> Vec<Row> {
    let ended = || endings.iter().flatten();
    let outcomes = |outcome| count(ended().filter(|ending| ending.outcome == outcome).count());
    let mut rows = vec![
        Row::new("programs killed during an update", "", count(endings.len())),
        Row::new("  updates that were completed", "", outcomes(Outcome::Updated)),
        Row::new("  updates that were rolled back", "", outcomes(Outcome::RolledBack)),
        Row::new("  violations", "", count(endings.len() - ended().count())).aim(Aim::Exactly(0.0)),
    ];
    if ended().next().is_some() {
        let took = Samples::new(ended().map(|ending| ending.took.as_secs_f64()));
        rows.push(Row::new("from the next start to the outcome", "s", took));
    }
    rows
}

#[expect(clippy::cast_precision_loss, reason = "for a table")]
fn count(value: usize) -> Samples {
    Samples::new([value as f64])
}

//! The oracle of replacements: a container that was replaced must be the one that the same `docker run` would
//! make on the new image. Asks the real engine, with the options of the real command line.
//! What must differ is taken out in `inspection`; what cannot be helped is listed there, each with its reason.

mod inspection;
mod networks;
mod ports;
mod rig;
mod sets;
mod volumes;

use std::collections::BTreeSet;
use std::sync::Mutex;

use futures_util::{StreamExt, stream};

use self::inspection::unexplained_differences;
use self::rig::Rig;
use self::sets::{OptionSet, option_sets};

/// The engine does most of the work; more at once only wait for it.
const SETS_AT_ONCE: usize = 4;
/// What every engine that the tests support can do; newer ones have more.
const FEWEST_SETS: usize = 38;

#[tokio::test(flavor = "multi_thread")]
async fn oracle_replacing_gives_what_running_anew_on_the_new_image_gives() {
    let rig = Rig::new().await;
    let api = rig.api_minor().await;
    let sets: Vec<OptionSet> = option_sets().into_iter().filter(|set| (set.since..=set.until).contains(&api)).collect();
    assert!(sets.len() >= FEWEST_SETS, "only {} sets of options", sets.len());
    let names: BTreeSet<&str> = sets.iter().map(|set| set.name).collect();
    assert_eq!(names.len(), sets.len(), "each set has a name of its own");

    let failures = Mutex::new(Vec::new());
    stream::iter((0..).zip(&sets))
        .for_each_concurrent(SETS_AT_ONCE, async |(index, set)| {
            let found = compare(&rig, index, set).await;
            failures.lock().unwrap().extend(found.into_iter().map(|line| format!("{}: {line}", set.name)));
        })
        .await;
    let failures = failures.into_inner().unwrap();
    assert!(failures.is_empty(), "{} differences:\n{}", failures.len(), failures.join("\n"));
}

/// What is wrong with the replacement of a container that was made with this set of options.
async fn compare(rig: &Rig, index: u8, set: &OptionSet) -> Vec<String> {
    let place = rig.place(index, set).await;
    place.point_tag_at(&set.images.old_role()).await;
    place.make(set).await;
    place.point_tag_at(&set.images.new_role()).await;
    let replaced = match place.replace().await {
        Ok(replaced) => replaced,
        Err(reason) => {
            place.clear().await;
            return vec![format!("it was not replaced: {reason}")];
        }
    };
    place.remove_container().await;
    place.make(set).await;
    let anew = place.inspect().await;
    place.clear().await;
    unexplained_differences(set, &replaced, &anew)
}

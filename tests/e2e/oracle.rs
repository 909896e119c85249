//! The oracle of replacements: a replaced container must be the same as the container that the same `docker run`
//! creates on the new image. It uses the real engine and the real command line. `inspection` removes what always
//! differs, and lists each unavoidable difference with its reason.

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
use self::rig::OracleFixture;
use self::sets::{OptionSet, option_sets};

/// The engine does most of the work. More parallel sets would only wait for each other.
const SETS_AT_ONCE: usize = 4;
/// The number of sets that every supported engine can run. Newer engines run more.
const FEWEST_SETS: usize = 38;

#[tokio::test(flavor = "multi_thread")]
async fn oracle_a_replacement_equals_a_new_run_on_the_new_image() {
    let rig = OracleFixture::new().await;
    let api = rig.api_minor().await;
    let sets: Vec<OptionSet> = option_sets().into_iter().filter(|set| (set.since..=set.until).contains(&api)).collect();
    assert!(sets.len() >= FEWEST_SETS, "only {} sets of options", sets.len());
    let names: BTreeSet<&str> = sets.iter().map(|set| set.name).collect();
    assert_eq!(names.len(), sets.len(), "each set has a different name");

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

/// Returns the differences in the replacement of a container that was created with this set of options.
async fn compare(rig: &OracleFixture, index: u8, set: &OptionSet) -> Vec<String> {
    let sandbox = rig.sandbox(index, set).await;
    sandbox.point_tag_at(&set.images.old_role()).await;
    sandbox.make(set).await;
    sandbox.point_tag_at(&set.images.new_role()).await;
    let replaced = match sandbox.replace().await {
        Ok(replaced) => replaced,
        Err(reason) => {
            sandbox.clear().await;
            return vec![format!("the container was not replaced: {reason}")];
        }
    };
    sandbox.remove_container().await;
    sandbox.make(set).await;
    let fresh = sandbox.inspect().await;
    sandbox.clear().await;
    unexplained_differences(set, &replaced, &fresh)
}

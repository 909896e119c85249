//! Field report F15 and its kin: the newest tag is listed and cannot be had.

use imagewatch_abi::{Outcome, PollMode, StatusKind, Verdict};
use serde_json::{Value, json};

use crate::any_test;
use crate::poll::world::{World, digest};

const LABELS: &[(&str, &str)] = &[("imagewatch.enable", "true"), ("imagewatch.update-policy", "semver:^1")];

/// A container on `1.0.0` of a repository that has `1.1.0` as well.
fn world() -> World {
    let world =
        World::new(&[("containers", "labelled"), ("baseline", "running")]).with("app", "r.io/o/app:1.0.0", 'a', LABELS);
    let mut world = world.tag("o/app:1.0.0", 'a').tag("o/app:1.1.0", 'b');
    world.containers[0].platform = Some("linux/arm64".to_owned());
    for letter in ['a', 'b'] {
        world.documents.insert(digest(letter), index("arm64"));
    }
    world
}

fn index(architecture: &str) -> Value {
    json!({ "manifests": [{ "digest": digest('e'), "platform": { "os": "linux", "architecture": architecture } }] })
}

fn only(outcomes: Vec<Outcome>) -> Outcome {
    let [outcome] = <[Outcome; 1]>::try_from(outcomes).expect("one outcome");
    outcome
}

fn reason(outcome: &Outcome) -> &str {
    outcome.reason.as_deref().unwrap_or_default()
}

/// The tag that the only order of the last poll goes to.
fn ordered(world: &World) -> Option<&str> {
    assert!(world.orders.len() <= 1, "{:?}", world.orders);
    world.orders.first().map(|order| order.reference.tag_or_latest())
}

#[any_test]
fn f15_a_a_newest_tag_without_a_manifest_is_passed_over() {
    let mut world = world();
    world.listed.insert("o/app:1.2.0".to_owned());
    let checked = only(world.poll(PollMode::Check).outcomes);
    assert_eq!(checked.reference.as_ref().map(ToString::to_string).as_deref(), Some("r.io/o/app:1.1.0"));
    let polled = only(world.poll(PollMode::Watch).outcomes);
    assert_eq!((polled.verdict, ordered(&world)), (Verdict::Moved, Some("1.1.0")));
    assert!(reason(&polled).contains("1.2.0 is listed, but its manifest is missing"), "{polled:?}");
}

#[any_test]
fn f15_b_a_newest_tag_without_this_platform_is_passed_over() {
    let mut world = world().tag("o/app:1.2.0", 'c');
    world.documents.insert(digest('c'), index("amd64"));
    let polled = only(world.poll(PollMode::Watch).outcomes);
    assert_eq!((polled.verdict, ordered(&world)), (Verdict::Moved, Some("1.1.0")));
    assert!(reason(&polled).contains("1.2.0 has no image for linux/arm64"), "{polled:?}");
}

#[any_test]
fn f15_a_newest_tag_that_can_be_had_is_taken() {
    let mut world = world().tag("o/app:1.2.0", 'c');
    world.documents.insert(digest('c'), index("arm64"));
    world.poll(PollMode::Watch);
    assert_eq!(ordered(&world), Some("1.2.0"));
}

/// The present tag is followed while no newer one can be had.
#[any_test]
fn f15_a_push_to_the_present_tag_is_followed_meanwhile() {
    let mut world = world().tag("o/app:1.0.0", 'd');
    world.tags.remove("o/app:1.1.0");
    world.listed.insert("o/app:1.2.0".to_owned());
    let polled = only(world.poll(PollMode::Watch).outcomes);
    assert_eq!((polled.verdict, ordered(&world)), (Verdict::Moved, Some("1.0.0")));
    assert!(reason(&polled).contains("1.2.0 is listed"), "{polled:?}");
}

#[any_test]
fn f15_a_container_that_cannot_go_on_is_not_shown_as_up_to_date() {
    let mut world = world();
    world.tags.remove("o/app:1.1.0");
    world.listed.insert("o/app:1.2.0".to_owned());
    let checked = only(world.poll(PollMode::Check).outcomes);
    let status = checked.status.expect("a status");
    assert_eq!(status.kind, StatusKind::Held);
    assert!(status.reason.unwrap_or_default().contains("1.2.0 is listed"));
}

#[any_test]
fn f15_a_platform_in_config_counts_more_than_the_containers() {
    let mut world = world().tag("o/app:1.2.0", 'c');
    world.config.insert("platform".to_owned(), "linux/amd64".to_owned());
    world.documents.insert(digest('c'), index("amd64"));
    world.poll(PollMode::Watch);
    assert_eq!(ordered(&world), Some("1.2.0"));
}

#[any_test]
fn f15_many_missing_tags_cost_few_requests_and_the_rest_is_told() {
    let mut world = world();
    for minor in 2..30 {
        world.listed.insert(format!("o/app:1.{minor}.0"));
    }
    let polled = only(world.poll(PollMode::Watch).outcomes);
    assert_eq!(ordered(&world), None);
    assert!(reason(&polled).contains("1.29.0 is listed"), "{polled:?}");
    assert!(reason(&polled).contains("26 more newer tags were not tried"), "{polled:?}");
    // One list, three missing tags, the present one.
    assert_eq!(world.requests.len(), 5, "{:?}", world.requests);
}

/// A registry that does not answer is no reason to go to an older tag.
#[any_test]
fn f15_a_registry_that_is_down_leaves_everything_as_it_is() {
    let mut world = world().tag("o/app:1.2.0", 'c');
    world.is_down = true;
    let polled = only(world.poll(PollMode::Watch).outcomes);
    assert_eq!((polled.verdict, ordered(&world)), (Verdict::Unknown, None));
}

/// Field report F12, as people see it.
#[any_test]
fn f12_no_comparable_tag_is_told_by_check_and_poll() {
    let world = World::new(&[("containers", "labelled")]).with("app", "r.io/o/app:1.0.0-ls1", 'a', LABELS);
    let mut world = world.tag("o/app:1.0.0-ls1", 'a').tag("o/app:latest", 'a');
    let checked = only(world.poll(PollMode::Check).outcomes);
    assert_eq!(checked.verdict, Verdict::Unknown);
    assert_eq!(checked.status.as_ref().map(|status| status.kind), Some(StatusKind::Unknown));
    assert!(reason(&checked).contains("no other tag of its form (-ls…) among 2 tags"), "{checked:?}");
    let polled = only(world.poll(PollMode::Watch).outcomes);
    assert!(reason(&polled).contains("no other tag of its form (-ls…) among 2 tags"), "{polled:?}");
    world.tags.insert("o/app:1.0.0-ls1".to_owned(), digest('d'));
    world.poll(PollMode::Watch);
    assert_eq!(ordered(&world), Some("1.0.0-ls1"), "its own tag is followed all the same");
}

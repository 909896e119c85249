//! Polls while a registry has not answered: who is decided, who waits, and that waiting comes to an end.

use imagewatch_abi::{PollMode, Verdict};
use serde_json::json;

use super::world::{World, digest};
use crate::any_test;

/// Two containers behind, each in a repository of its own.
fn world() -> World {
    let world = World::new(&[("containers", "all"), ("baseline", "running")]);
    let world = world.with("web", "r.io/o/web:v1", 'a', &[]).with("db", "r.io/o/db:v1", 'a', &[]);
    world.tag("o/web:v1", 'b').tag("o/db:v1", 'b')
}

#[any_test]
fn a_target_without_an_answer_is_left_as_it_was_and_the_others_are_ordered() {
    let mut world = world();
    world.late = Some("/o/db/".to_owned());
    for poll in 0..3 {
        let output = world.poll_only(None, PollMode::Watch);
        let verdicts: Vec<_> = output.outcomes.iter().map(|outcome| outcome.verdict).collect();
        assert_eq!(output.pending, ["db"], "poll {poll}");
        assert_eq!(world.orders.len(), usize::from(poll == 0), "poll {poll}");
        assert_eq!(verdicts[1], Verdict::Unknown, "poll {poll}");
        assert_eq!(output.outcomes[1].reason.as_deref(), Some("r.io has not answered yet"));
        world.in_flight.extend(world.orders.iter().map(|order| order.order.clone()));
    }
    assert_eq!(world.logged.iter().filter(|line| line.contains("not answered")).count(), 0, "it is no failure");
    world.late = None;
    let output = world.poll_only(Some(vec!["db".to_owned()]), PollMode::Watch);
    assert_eq!((output.outcomes[0].verdict, world.orders.len()), (Verdict::Moved, 1));
    assert_eq!(output.pending, Vec::<String>::new());
}

#[any_test]
fn an_order_that_is_lost_is_told_by_the_poll_that_decides_on_its_target() {
    let mut world = world();
    world.poll_only(None, PollMode::Watch);
    world.late = Some("/o/db/".to_owned());
    let output = world.poll_only(None, PollMode::Watch);
    assert_eq!((output.pending, world.orders.len()), (vec!["db".to_owned()], 1));
    world.late = None;
    let output = world.poll_only(Some(vec!["db".to_owned()]), PollMode::Watch);
    assert!(output.outcomes[0].reason.as_ref().is_some_and(|reason| reason.contains("was lost")), "{output:?}");
}

/// Every request is pending the first time, and its answer is forgotten unless the next poll takes it: a policy that
/// began anew each time would never come to an end.
#[any_test]
fn a_registry_that_is_slow_with_every_answer_is_asked_each_thing_once() {
    for mode in [PollMode::Watch, PollMode::Check] {
        let labels = &[("imagewatch.enable", "true"), ("imagewatch.update-policy", "semver:^1")];
        let mut world = World::new(&[("containers", "labelled"), ("baseline", "running")])
            .with("app", "r.io/o/app:1.0.0", 'a', labels)
            .tag("o/app:1.0.0", 'a')
            .tag("o/app:1.1.0", 'b')
            .tag("o/app:1.2.0", 'c');
        world.containers[0].platform = Some("linux/arm64".to_owned());
        for (letter, architecture) in [('a', "arm64"), ('b', "arm64"), ('c', "amd64")] {
            let child = json!({ "digest": digest('e'), "platform": { "os": "linux", "architecture": architecture } });
            world.documents.insert(digest(letter), json!({ "manifests": [child] }));
        }
        let quick = world.clone().poll(mode);
        world.is_slow = true;
        let mut output = world.poll_only(None, mode);
        for _ in 0..20 {
            if !output.pending.is_empty() {
                output = world.poll_only(Some(output.pending), mode);
            }
        }
        assert_eq!(output.pending, Vec::<String>::new(), "{mode:?}: it comes to an end");
        assert_eq!(output.outcomes, quick.outcomes, "{mode:?}: and to the same one");
        let mut answered = world.answered.clone();
        answered.sort();
        answered.dedup();
        assert_eq!(answered.len(), world.answered.len(), "{mode:?}: nothing is answered twice: {:?}", world.answered);
    }
}

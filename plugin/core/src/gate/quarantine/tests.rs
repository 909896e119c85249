//! The waits for each cause, the precedence of faults, and the duration of holds.

use crate::any_test;

use super::*;

fn digest(letter: &str) -> Digest {
    format!("sha256:{}", letter.repeat(64)).parse().expect("a digest")
}

fn reference() -> Reference {
    "r.io/app:v1".parse().expect("a reference")
}

fn cause(fault: Fault) -> Cause {
    Cause { fault, pull: None, reason: "web: why".to_owned() }
}

fn pull(pull: PullCause) -> Cause {
    Cause { fault: Fault::Host, pull: Some(pull), reason: "why".to_owned() }
}

/// Every cause for which a digest is held.
const PULL_CAUSES: [PullCause; 9] = [
    PullCause::NotFound,
    PullCause::NoPlatform,
    PullCause::Denied,
    PullCause::RateLimited,
    PullCause::Mismatch,
    PullCause::NoSpace,
    PullCause::TooSlow,
    PullCause::RegistryUnreachable,
    PullCause::Other,
];

#[any_test]
fn k6_waits_grow_and_then_stay() {
    let long = [60, 60, 360, 1440, 1440, 1440, 1440];
    let short = [1, 1, 5, 30, 120, 360, 360];
    for cause in PULL_CAUSES.map(Some).into_iter().chain([None]) {
        let is_long = matches!(cause, None | Some(PullCause::NoSpace | PullCause::NoPlatform));
        let waits = if is_long { long } else { short };
        for (count, minutes) in [0, 1, 2, 3, 4, 5, u32::MAX].into_iter().zip(waits) {
            assert_eq!(wait_ms(cause, count), minutes * MINUTE_MS, "{cause:?} after {count} failures");
        }
    }
}

#[any_test]
fn k6_a_failed_pull_is_held_and_its_wait_grows_with_the_same_kind() {
    let mut quarantine = Quarantine::new(Vec::new(), 0);
    for (cause, count, minutes) in [
        (pull(PullCause::RegistryUnreachable), 1, 1),
        (pull(PullCause::TooSlow), 2, 5),
        (pull(PullCause::NoSpace), 1, 60),
        (pull(PullCause::NoPlatform), 2, 360),
        (cause(Fault::Host), 3, 1440),
        (pull(PullCause::Denied), 1, 1),
        (cause(Fault::Image), 2, 0),
        (pull(PullCause::NotFound), 3, 0),
    ] {
        quarantine.add("web", &reference(), &digest("b"), &cause);
        let [entry] = &quarantine.entries[..] else { panic!("one entry") };
        let until_ms = (minutes > 0).then_some(minutes * MINUTE_MS);
        assert_eq!((entry.count, entry.until_ms), (count, until_ms), "{cause:?}");
    }
    let [entry] = &quarantine.into_change().expect("the list changed")[..] else { panic!("one entry") };
    assert_eq!((entry.fault, entry.cause), (Fault::Image, None), "a failed pull does not clear a faulty image");
}

#[any_test]
fn k6_a_held_pull_is_free_after_its_wait_and_waits_longer_next_time() {
    let mut quarantine = Quarantine::new(Vec::new(), 0);
    quarantine.add("web", &reference(), &digest("b"), &pull(PullCause::NotFound));
    let kept = quarantine.into_change().expect("it changed");
    let hold = |now_ms| Quarantine::new(kept.clone(), now_ms).hold("web", &reference(), &digest("b"));
    let held = hold(1).expect("it is held");
    assert_eq!(held.reason, "why; held, tried again in 1 min or after `imagewatch quarantine clear web`");
    assert_eq!(held.until_ms, Some(MINUTE_MS));
    assert_eq!(hold(MINUTE_MS), None);
    let mut quarantine = Quarantine::new(kept.clone(), MINUTE_MS);
    quarantine.add("web", &reference(), &digest("b"), &pull(PullCause::NotFound));
    let held = quarantine.hold("web", &reference(), &digest("b")).expect("it is held");
    assert_eq!(held.until_ms, Some(6 * MINUTE_MS));
}

#[any_test]
fn k6_a_fetched_image_is_no_longer_held_for_its_pull() {
    let mut quarantine = Quarantine::new(Vec::new(), 0);
    quarantine.add("web", &reference(), &digest("a"), &pull(PullCause::NoSpace));
    quarantine.add("web", &reference(), &digest("b"), &pull(PullCause::NoSpace));
    quarantine.add("db", &reference(), &digest("a"), &cause(Fault::Image));
    quarantine.lift_fetched("web", &digest("a"));
    quarantine.lift_fetched("db", &digest("a"));
    let kept: Vec<_> = quarantine.entries.iter().map(|entry| (entry.target.as_str(), entry.digest.clone())).collect();
    assert_eq!(kept, [("db", digest("a")), ("web", digest("b"))]);
}

#[any_test]
fn k6_alternating_digests_stay_held_until_their_wait_ends() {
    let mut quarantine = Quarantine::new(Vec::new(), 0);
    quarantine.add("web", &reference(), &digest("a"), &pull(PullCause::NotFound));
    quarantine.add("web", &reference(), &digest("b"), &cause(Fault::Image));
    quarantine.lift_older("web", &digest("c"));
    assert!(quarantine.hold("web", &reference(), &digest("a")).is_some(), "its wait has not ended");
    assert!(quarantine.hold("web", &reference(), &digest("b")).is_none(), "a newer digest is available");
    let mut later = Quarantine::new(quarantine.into_change().expect("it changed"), MINUTE_MS);
    later.lift_older("web", &digest("c"));
    assert_eq!(later.into_change(), Some(Vec::new()), "its wait has ended");
}

#[any_test]
fn k6_an_entry_without_a_cause_is_held_as_before() {
    let kept = include_str!("../../../examples-of-state/quarantine-without-causes.json");
    let entries: Vec<Quarantined> = serde_json::from_str(kept).expect("the example is a list of entries");
    let quarantine = Quarantine::new(entries, 2_000);
    let held = quarantine.hold("web", &reference(), &digest("b")).expect("it is held");
    let says = "web: the port is taken; quarantined, tried again in 60 min or after `imagewatch quarantine clear web`";
    assert_eq!(held.reason, says);
    let held = quarantine.hold("db", &reference(), &digest("c")).expect("it is held");
    let says = "db: exited with code 1; quarantined, until a newer digest comes or `imagewatch quarantine clear db`";
    assert_eq!(held.reason, says);
}

#[any_test]
fn k6_an_order_error_holds_the_digest_only_if_the_pull_failed() {
    let held = |pull| Consequence::Quarantine(Cause { fault: Fault::Host, pull: Some(pull), reason: "why".to_owned() });
    let pulls = PULL_CAUSES.map(|cause| (Failure::pull(cause, "why"), held(cause)));
    let others = [
        (Failure::pull(PullCause::EngineUnreachable, "why"), Consequence::RollBack),
        (Failure::retryable(FailureCode::PullFailed, "why"), held(PullCause::Other)),
        (Failure::retryable(FailureCode::EngineUnavailable, "why"), Consequence::RollBack),
        (Failure::retryable(FailureCode::ShuttingDown, "why"), Consequence::RollBack),
        (Failure::permanent(FailureCode::Denied, "why"), Consequence::RollBack),
    ];
    for (failure, follows) in pulls.into_iter().chain(others) {
        let report = Report { err: Some(failure.clone()), ..Report::default() };
        assert_eq!(Consequence::of(&report), follows, "{failure:?}");
    }
}

#[any_test]
fn waits_are_shown_in_minutes_or_hours_rounded_up() {
    for (ms, words) in [
        (0, "0 min"),
        (1, "1 min"),
        (42 * MINUTE_MS, "42 min"),
        (42 * MINUTE_MS + 1, "43 min"),
        (HOUR_MS, "60 min"),
        (2 * HOUR_MS - 1, "120 min"),
        (2 * HOUR_MS, "2 h"),
        (24 * HOUR_MS, "24 h"),
        (u64::MAX, "5124095576031 h"),
    ] {
        assert_eq!(describe_wait(ms), words, "{ms} ms");
    }
}

#[any_test]
fn the_worst_fault_decides() {
    let (image, host, refused, postponed) =
        (Some(Fault::Image), Some(Fault::Host), Some(Fault::Refused), Some(Fault::Postponed));
    let quarantine = |fault, container: &str| {
        Consequence::Quarantine(Cause { fault, pull: None, reason: format!("{container}: why") })
    };
    for (what, faults, follows) in [
        ("nothing failed", &[][..], Consequence::Keep),
        ("a failure of unknown cause", &[None], Consequence::Keep),
        ("postponed", &[None, postponed], Consequence::Retry),
        ("host", &[postponed, None, host], quarantine(Fault::Host, "c2")),
        ("refused", &[refused, postponed], quarantine(Fault::Refused, "c0")),
        ("the first of two", &[host, refused], quarantine(Fault::Host, "c0")),
        ("image", &[host, image, image], quarantine(Fault::Image, "c1")),
    ] {
        let failed = faults.iter().enumerate().map(|(index, fault)| ContainerFailure {
            container: format!("c{index}"),
            reason: "why".to_owned(),
            fault: *fault,
            ..ContainerFailure::default()
        });
        let report = Report { failed: failed.collect(), ..Report::default() };
        assert_eq!(Consequence::of(&report), follows, "{what}");
    }
}

#[any_test]
fn a_fault_of_the_image_outlasts_a_fault_of_the_host() {
    let mut quarantine = Quarantine::new(Vec::new(), 1_000);
    quarantine.add("web", &reference(), &digest("b"), &cause(Fault::Image));
    quarantine.add("web", &reference(), &digest("b"), &cause(Fault::Host));
    let hold = quarantine.wait("web", &reference(), &digest("b")).expect("it is held");
    assert_eq!(hold, "quarantined, until a newer digest comes or `imagewatch quarantine clear web`");
    let [entry] = &quarantine.into_change().expect("it changed")[..] else { panic!("one entry") };
    assert_eq!((entry.fault, entry.count, entry.until_ms), (Fault::Image, 2, None));
}

#[any_test]
fn an_entry_holds_only_its_own_target_reference_and_digest() {
    let mut quarantine = Quarantine::new(Vec::new(), 0);
    quarantine.add("web", &reference(), &digest("b"), &cause(Fault::Image));
    let other: Reference = "r.io/app:v2".parse().expect("a reference");
    for (what, held, expected) in [
        ("the same", quarantine.hold("web", &reference(), &digest("b")), true),
        ("another target", quarantine.hold("db", &reference(), &digest("b")), false),
        ("another tag", quarantine.hold("web", &other, &digest("b")), false),
        ("another digest", quarantine.hold("web", &reference(), &digest("c")), false),
    ] {
        assert_eq!(held.is_some(), expected, "{what}: {held:?}");
    }
}

#[any_test]
fn the_list_is_sorted_and_reports_changes() {
    let mut quarantine = Quarantine::new(Vec::new(), 0);
    for (target, letter) in [("web", "b"), ("db", "c"), ("web", "a")] {
        quarantine.add(target, &reference(), &digest(letter), &cause(Fault::Host));
    }
    let list = quarantine.into_change().expect("it changed");
    let keys: Vec<_> = list.iter().map(|entry| (entry.target.as_str(), entry.digest.clone())).collect();
    assert_eq!(keys, [("db", digest("c")), ("web", digest("a")), ("web", digest("b"))]);

    let reversed: Vec<Quarantined> = list.iter().rev().cloned().collect();
    let mut quarantine = Quarantine::new(reversed.clone(), 0);
    quarantine.lift("unknown");
    quarantine.lift_older("db", &digest("c"));
    assert_eq!(quarantine.into_change(), None, "nothing was dropped");
    let mut quarantine = Quarantine::new(reversed, 0);
    quarantine.lift_older("web", &digest("b"));
    assert_eq!(quarantine.into_change(), Some(vec![list[0].clone(), list[2].clone()]));
}

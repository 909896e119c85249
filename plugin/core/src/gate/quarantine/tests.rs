//! The table of waits, and which fault goes before which.

use crate::any_test;

use super::*;

fn digest(letter: &str) -> Digest {
    format!("sha256:{}", letter.repeat(64)).parse().expect("a digest")
}

fn reference() -> Reference {
    "r.io/app:v1".parse().expect("a reference")
}

fn cause(fault: Fault) -> Cause {
    Cause { fault, reason: "web: why".to_owned() }
}

#[any_test]
fn waits_grow_and_then_stay() {
    for (count, hours) in [(0, 1), (1, 1), (2, 6), (3, 24), (4, 24), (u32::MAX, 24)] {
        assert_eq!(wait_ms(count), hours * HOUR_MS, "after {count} failures");
    }
}

#[any_test]
fn waits_are_said_in_minutes_and_hours_rounded_up() {
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
        assert_eq!(in_words(ms), words, "{ms} ms");
    }
}

#[any_test]
fn the_worst_fault_decides() {
    let (image, host, refused, postponed) =
        (Some(Fault::Image), Some(Fault::Host), Some(Fault::Refused), Some(Fault::Postponed));
    let bar = |fault, container: &str| Consequence::Bar(Cause { fault, reason: format!("{container}: why") });
    for (what, faults, follows) in [
        ("nothing failed", &[][..], Consequence::Keep),
        ("nobody's fault", &[None], Consequence::Keep),
        ("postponed", &[None, postponed], Consequence::Retry),
        ("host", &[postponed, None, host], bar(Fault::Host, "c2")),
        ("refused", &[refused, postponed], bar(Fault::Refused, "c0")),
        ("the first of two", &[host, refused], bar(Fault::Host, "c0")),
        ("image", &[host, image, image], bar(Fault::Image, "c1")),
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
fn an_images_fault_outlasts_the_hosts() {
    let mut quarantine = Quarantine::new(Vec::new(), 1_000);
    quarantine.bar("web", &reference(), &digest("b"), &cause(Fault::Image));
    let until = quarantine.bar("web", &reference(), &digest("b"), &cause(Fault::Host));
    assert_eq!(until, "until a newer digest comes or `imagewatch quarantine clear web`");
    let [entry] = &quarantine.into_change().expect("it changed")[..] else { panic!("one entry") };
    assert_eq!((entry.fault, entry.count, entry.until_ms), (Fault::Image, 2, None));
}

#[any_test]
fn a_bar_holds_its_own_target_reference_and_digest_and_no_other() {
    let mut quarantine = Quarantine::new(Vec::new(), 0);
    quarantine.bar("web", &reference(), &digest("b"), &cause(Fault::Image));
    let other: Reference = "r.io/app:v2".parse().expect("a reference");
    for (what, held, expected) in [
        ("it", quarantine.hold("web", &reference(), &digest("b")), true),
        ("another target", quarantine.hold("db", &reference(), &digest("b")), false),
        ("another tag", quarantine.hold("web", &other, &digest("b")), false),
        ("another digest", quarantine.hold("web", &reference(), &digest("c")), false),
    ] {
        assert_eq!(held.is_some(), expected, "{what}: {held:?}");
    }
}

#[any_test]
fn the_list_is_sorted_and_says_when_it_changed() {
    let mut quarantine = Quarantine::new(Vec::new(), 0);
    for (target, letter) in [("web", "b"), ("db", "c"), ("web", "a")] {
        quarantine.bar(target, &reference(), &digest(letter), &cause(Fault::Host));
    }
    let list = quarantine.into_change().expect("it changed");
    let keys: Vec<_> = list.iter().map(|entry| (entry.target.as_str(), entry.digest.clone())).collect();
    assert_eq!(keys, [("db", digest("c")), ("web", digest("a")), ("web", digest("b"))]);

    let reversed: Vec<Quarantined> = list.iter().rev().cloned().collect();
    let mut quarantine = Quarantine::new(reversed.clone(), 0);
    quarantine.lift("nobody");
    quarantine.lift_older("db", &digest("c"));
    assert_eq!(quarantine.into_change(), None, "nothing was dropped");
    let mut quarantine = Quarantine::new(reversed, 0);
    quarantine.lift_older("web", &digest("b"));
    assert_eq!(quarantine.into_change(), Some(vec![list[0].clone(), list[2].clone()]));
}

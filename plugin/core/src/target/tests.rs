//! Which containers are watched because of their labels (field report F10), and what is reported about the others.

use imagewatch_abi::{Outcome, PollMode, PollOutput, StatusKind, Verdict};

use crate::any_test;
use crate::poll::world::World;

const IMAGE: &str = "r.io/app:v1";

/// One outdated container under `containers = {watch}` and `baseline = running`: a check, then a poll.
fn watched(watch: &str, labels: &[(&str, &str)]) -> (PollOutput, World) {
    let world = World::new(&[("containers", watch), ("baseline", "running")]);
    let mut world = world.with("web", IMAGE, 'a', labels).tag("app:v1", 'b');
    let checked = world.poll(PollMode::Check);
    world.poll(PollMode::Watch);
    (checked, world)
}

fn kind(outcome: &Outcome) -> Option<StatusKind> {
    outcome.status.as_ref().map(|status| status.kind)
}

#[any_test]
fn f10_a_container_that_opts_out_is_never_ordered() {
    for value in ["false", "False", "FALSE", "0", "no", "off", "f", "False ", "N"] {
        for watch in ["all", "labelled"] {
            let (checked, world) = watched(watch, &[("imagewatch.enable", value)]);
            assert_eq!((&world.orders[..], &checked.outcomes[..]), (&[][..], &[][..]), "{watch} {value:?}");
            let [left] = &checked.not_watched[..] else { panic!("{watch} {value:?}: {checked:?}") };
            let expected = format!("its label imagewatch.enable={} opts out", value.trim());
            assert_eq!((left.container.as_str(), &left.reason), ("web", &expected));
        }
    }
}

#[any_test]
fn f10_a_container_that_opts_in_with_any_word_for_yes_is_ordered() {
    for value in ["true", "True", "TRUE", "1", "yes", "true ", "On", "t"] {
        for watch in ["all", "labelled"] {
            let (checked, world) = watched(watch, &[("imagewatch.enable", value)]);
            assert_eq!(world.orders.len(), 1, "{watch} {value:?}: {checked:?}");
            assert_eq!(kind(&checked.outcomes[0]), Some(StatusKind::UpdateAvailable), "{watch} {value:?}");
        }
    }
}

#[any_test]
fn f10_an_invalid_or_unknown_label_blocks_the_container_with_a_reason() {
    for (case, labels, says) in [
        ("not a word for yes or no", [("imagewatch.enable", "disabled"), ("x", "y")], "write true or false"),
        ("empty value", [("imagewatch.enable", ""), ("x", "y")], "write true or false"),
        ("allow-rm", [("imagewatch.enable", "true"), ("imagewatch.allow-rm", "2")], "imagewatch.allow-rm is \"2\""),
        ("updater", [("imagewatch.enable", "true"), ("imagewatch.updater", "self")], "imagewatch.updater"),
        ("a typo", [("imagewatch.enable", "true"), ("imagewatch.stratgey", "notify")], "is imagewatch.strategy"),
        ("misspelt opt-in", [("imagewatch.enabled", "true"), ("x", "y")], "is imagewatch.enable"),
        ("misspelt opt-out", [("imagewatch.Enable", "false"), ("x", "y")], "is imagewatch.enable"),
        ("strategy", [("imagewatch.enable", "true"), ("imagewatch.strategy", "never")], "it may be replace"),
        ("duration", [("imagewatch.enable", "true"), ("imagewatch.drain", "soon")], "30s or 5m"),
        ("tags", [("imagewatch.enable", "true"), ("imagewatch.update-policy", "newest")], "imagewatch.update-policy"),
    ] {
        for watch in ["all", "labelled"] {
            let (checked, world) = watched(watch, &labels);
            assert!(world.orders.is_empty(), "{case}, {watch}");
            let [outcome] = &checked.outcomes[..] else { panic!("{case}, {watch}: {checked:?}") };
            assert_eq!((outcome.verdict, kind(outcome)), (Verdict::Unknown, Some(StatusKind::Blocked)), "{case}");
            let reason = outcome.reason.as_deref().unwrap_or_default();
            assert!(reason.contains(says), "{case}, {watch}: {reason}");
            assert!(world.logged.iter().any(|line| line.contains(says)), "{case}, {watch}: {:?}", world.logged);
        }
    }
}

#[any_test]
fn f10_a_label_also_blocks_a_container_of_a_listed_image() {
    for (labels, is_ordered) in [
        ([("imagewatch.enable", "no")], false),
        ([("imagewatch.enable", "disabled")], false),
        ([("imagewatch.stratgey", "notify")], false),
        ([("imagewatch.enable", "yes")], true),
        ([("com.example", "no")], true),
    ] {
        let world = World::new(&[("images", IMAGE), ("baseline", "running")]);
        let mut world = world.with("web", IMAGE, 'a', &labels).tag("app:v1", 'b');
        let checked = world.poll(PollMode::Check);
        world.poll(PollMode::Watch);
        assert_eq!(!world.orders.is_empty(), is_ordered, "{labels:?}");
        let expected = if is_ordered { StatusKind::UpdateAvailable } else { StatusKind::Blocked };
        assert_eq!(kind(&checked.outcomes[0]), Some(expected), "{labels:?}");
    }
}

#[any_test]
fn a_check_reports_why_each_container_is_not_watched() {
    let config = [("containers", "labelled"), ("container_name_contains", "w")];
    let mut world = World::new(&config)
        .with("db", IMAGE, 'a', &[("imagewatch.enable", "true")])
        .with("web", IMAGE, 'a', &[])
        .with("web-off", IMAGE, 'a', &[("imagewatch.enable", "off")])
        .with("web-on", IMAGE, 'a', &[("imagewatch.enable", "on")])
        .with("web-stopped", IMAGE, 'a', &[("imagewatch.enable", "on")])
        .tag("app:v1", 'a');
    world.containers[4].state = "exited".to_owned();
    let checked = world.poll(PollMode::Check);
    let skipped: Vec<_> =
        checked.not_watched.iter().map(|left| (left.container.as_str(), left.reason.as_str())).collect();
    assert_eq!(
        skipped,
        [
            ("db", "its name does not contain \"w\" (config key `container_name_contains`)"),
            ("web", "it has no label imagewatch.enable=true"),
            ("web-off", "its label imagewatch.enable=off opts out"),
            ("web-stopped", "it is not running: its state is exited"),
        ]
    );
    assert_eq!(checked.outcomes.len(), 1);
    assert!(world.poll(PollMode::Watch).not_watched.is_empty(), "a poll with targets reports only targets");

    let mut world = World::new(&[("images", IMAGE)])
        .with("by-id", "0d07a439861c", 'a', &[])
        .with("db", "r.io/db:1", 'a', &[])
        .with("web", IMAGE, 'a', &[])
        .tag("app:v1", 'a');
    let skipped: Vec<_> = world.poll(PollMode::Check).not_watched.into_iter().map(|left| left.container).collect();
    assert_eq!(skipped, ["by-id", "db"]);
}

#[any_test]
fn only_strategies_that_replace_are_blocked_by_the_host() {
    let reason = "it was created with --rm";
    for (strategy, orders, is_reported) in [
        ("replace", 0, true),
        ("start-first", 0, true),
        ("remove", 1, false),
        ("pull-only", 1, false),
        ("notify", 0, false),
    ] {
        for (case, config, labels) in [
            ("strategy of the manifest", vec![("strategy", strategy)], vec![("imagewatch.enable", "true")]),
            ("strategy of the label", vec![], vec![("imagewatch.enable", "true"), ("imagewatch.strategy", strategy)]),
        ] {
            let config = [vec![("containers", "labelled"), ("baseline", "running")], config].concat();
            let mut world = World::new(&config).with("web", IMAGE, 'a', &labels).tag("app:v1", 'b');
            world.containers[0].blocked = Some(reason.to_owned());
            let checked = world.poll(PollMode::Check);
            world.poll(PollMode::Watch);
            assert_eq!(world.orders.len(), orders, "{case} {strategy}");
            assert_eq!(
                checked.outcomes[0].reason.as_deref() == Some(reason),
                is_reported,
                "{case} {strategy}: {checked:?}"
            );
        }
    }
}

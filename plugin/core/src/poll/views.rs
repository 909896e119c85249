//! A poll and a check say the same of a container, for as long as it is so.

use imagewatch_abi::{ImageOrigin, Outcome, PollMode, Report, SettleInput, Status, StatusKind, Verdict};

use super::world::World;
use crate::any_test;

const IMAGE: &str = "r.io/app:v1";

fn world(more: &[(&str, &str)], labels: &[(&str, &str)]) -> World {
    let config: Vec<_> =
        [("containers", "all"), ("baseline", "running")].into_iter().chain(more.iter().copied()).collect();
    World::new(&config).with("web", IMAGE, 'a', labels).tag("app:v1", 'b')
}

/// What a poll says of the one container, and what a check says then.
fn views(world: &mut World) -> [Outcome; 2] {
    [PollMode::Watch, PollMode::Check].map(|mode| world.poll(mode).outcomes.remove(0))
}

fn status(outcome: &Outcome) -> &Status {
    outcome.status.as_ref().expect("a status")
}

#[any_test]
fn what_notify_leaves_behind_is_behind_in_every_view_for_as_long_as_it_is() {
    for (config, labels) in
        [(&[("strategy", "notify")][..], &[][..]), (&[][..], &[("imagewatch.strategy", "notify")][..])]
    {
        let mut world = world(config, labels);
        for poll in 0..3 {
            let [polled, checked] = views(&mut world);
            assert_eq!((polled.verdict, checked.verdict), (Verdict::Moved, Verdict::Moved), "poll {poll}");
            assert_eq!(status(&polled), status(&checked), "poll {poll}");
            assert_eq!(status(&polled).kind, StatusKind::Blocked, "poll {poll}");
            assert!(world.orders.is_empty(), "poll {poll}");
        }
        assert_eq!(world.logged.iter().filter(|line| line.contains("moved")).count(), 1, "{:?}", world.logged);
        world.containers[0].repo_digests = vec![format!("r.io/app@{}", super::world::digest('b'))];
        let [polled, checked] = views(&mut world);
        assert_eq!((status(&polled).kind, status(&checked).kind), (StatusKind::UpToDate, StatusKind::UpToDate));
    }
}

#[any_test]
fn what_was_seen_and_left_alone_is_behind_in_every_view_with_either_baseline() {
    for (watch, strategy, baseline) in [
        (("containers", "all"), "notify", "seen"),
        (("containers", "all"), "notify", "running"),
        (("containers", "all"), "pull-only", "seen"),
        (("containers", "all"), "pull-only", "running"),
        (("images", IMAGE), "notify", "seen"),
        (("images", IMAGE), "pull-only", "seen"),
    ] {
        let config = [watch, ("strategy", strategy), ("baseline", baseline)];
        let mut world = World::new(&config).with("web", IMAGE, 'a', &[]).tag("app:v1", 'a');
        let case = format!("{config:?}");
        let [polled, checked] = views(&mut world);
        assert_eq!(
            (status(&polled).kind, status(&checked).kind),
            (StatusKind::UpToDate, StatusKind::UpToDate),
            "{case}"
        );
        world = world.tag("app:v1", 'b');
        for poll in 0..3 {
            let [polled, checked] = views(&mut world);
            assert_eq!(status(&polled), status(&checked), "{case}, poll {poll}");
            assert_eq!(status(&polled).kind, StatusKind::Blocked, "{case}, poll {poll}");
            assert_eq!(world.orders.len(), 0, "a check orders nothing");
            settle_all(&mut world);
        }
        world.containers[0].repo_digests = vec![format!("r.io/app@{}", super::world::digest('b'))];
        let [polled, checked] = views(&mut world);
        assert_eq!(
            (status(&polled).kind, status(&checked).kind),
            (StatusKind::UpToDate, StatusKind::UpToDate),
            "{case}"
        );
    }
}

/// What was ordered and is pending succeeds: it pulled, and left the containers as they are.
fn settle_all(world: &mut World) {
    let pending = world.state["targets"].as_object().into_iter().flatten();
    let reports = pending.filter_map(|(target, seen)| {
        let order = seen["pending"]["order"].as_str()?.to_owned();
        Some(Report { order, target: target.clone(), pulled: true, ..Report::default() })
    });
    let input = SettleInput { reports: reports.collect(), state: world.state.clone(), ..SettleInput::default() };
    world.state = crate::settle::settle(world, SettleInput { now_ms: 1_000, ..input }).state;
}

/// Config key `unknown_origin` = `hold`: that an image of that digest is here is nobody else's business.
#[any_test]
fn f08_no_registry_learns_of_an_image_of_unknown_origin() {
    for baseline in ["seen", "running"] {
        let mut world = World::new(&[("images", IMAGE), ("baseline", baseline)]).with("web", IMAGE, 'a', &[]);
        world = world.tag("app:v1", 'b');
        world.containers[0].origin = Some(ImageOrigin::Unknown);
        for mode in [PollMode::Check, PollMode::Watch] {
            world.poll(mode);
            let own = super::world::digest('a').to_string();
            assert!(!world.requests.iter().any(|request| request.contains(&own)), "{baseline}: {:?}", world.requests);
        }
    }
}

#[any_test]
fn f08_nothing_is_pulled_for_a_listed_image_that_only_containers_of_other_images_use() {
    for (case, origins, orders, kind) in [
        ("made here", &[ImageOrigin::Local][..], 0, StatusKind::Local),
        ("unknown", &[ImageOrigin::Unknown], 0, StatusKind::Unknown),
        ("both", &[ImageOrigin::Local, ImageOrigin::Unknown], 0, StatusKind::Unknown),
        ("one of three may be updated", &[ImageOrigin::Local, ImageOrigin::Registry], 1, StatusKind::UpdateAvailable),
        ("no container", &[], 1, StatusKind::UpdateAvailable),
    ] {
        let mut world = World::new(&[("images", IMAGE), ("baseline", "seen")]).tag("app:v1", 'a');
        for (number, origin) in origins.iter().enumerate() {
            world = world.with(&format!("c{number}"), IMAGE, 'a', &[]);
            world.containers[number].origin = Some(*origin);
        }
        world.poll(PollMode::Watch);
        assert!(world.orders.is_empty(), "{case}: the first poll only remembers");
        world = world.tag("app:v1", 'b');
        let polled = world.poll(PollMode::Watch).outcomes.remove(0);
        assert_eq!((world.orders.len(), status(&polled).kind), (orders, kind), "{case}: {polled:?}");
    }
}

#[any_test]
fn with_baseline_seen_a_container_that_was_updated_by_hand_is_not_updated_again() {
    for watch in [("images", IMAGE), ("containers", "all")] {
        let mut world = World::new(&[watch, ("baseline", "seen")]).with("web", IMAGE, 'a', &[]).tag("app:v1", 'a');
        world.poll(PollMode::Watch);
        world = world.tag("app:v1", 'b');
        world.containers[0].repo_digests = vec![format!("r.io/app@{}", super::world::digest('b'))];
        let [polled, checked] = views(&mut world);
        assert_eq!((status(&polled).kind, status(&checked).kind), (StatusKind::UpToDate, StatusKind::UpToDate));
        assert!(world.orders.is_empty(), "{watch:?}");
    }
}

#[any_test]
fn what_the_host_refuses_is_told_before_anything_is_pulled() {
    let swarm = "task of service shop_web: not handled on this platform";
    let pinned = format!("{IMAGE}@{}", super::world::digest('a'));
    for (case, image, reason, verdict) in [
        ("--rm", IMAGE, "it was created with --rm", Verdict::Held),
        ("carries the connection", IMAGE, "it carries this updater's connection to the engine", Verdict::Held),
        ("a task by digest", &pinned, swarm, Verdict::Pinned),
    ] {
        let mut world = world(&[], &[]);
        (world.containers[0].image, world.containers[0].blocked) = (image.to_owned(), Some(reason.to_owned()));
        for _ in 0..2 {
            let [polled, checked] = views(&mut world);
            assert!(world.orders.is_empty(), "{case}");
            assert_eq!((polled.verdict, checked.verdict), (verdict, verdict), "{case}");
            assert_eq!(status(&polled), &Status::new(StatusKind::Blocked, reason), "{case}");
            assert_eq!(status(&checked), &Status::new(StatusKind::Blocked, reason), "{case}");
        }
        world.containers[0].blocked = None;
        world.poll(PollMode::Watch);
        assert_eq!(world.orders.len(), usize::from(image == IMAGE), "{case}: what is not refused any more is updated");
    }
}

#[any_test]
fn of_a_listed_image_one_blocked_container_is_told_and_the_others_are_updated() {
    let misspelt = [("imagewatch.stratgey", "notify")];
    for (case, blocked, labels, mounts, except, reason) in [
        ("--rm", Some("it was created with --rm"), &[][..], &[][..], &["old"][..], "old: it was created with --rm"),
        ("a label", None, &misspelt[..], &[], &["old"], "old: its label \"imagewatch.stratgey\" is unknown"),
        ("apart", Some("--rm"), &[], &[("old", "data"), ("web", "logs")], &["old"], "old: --rm"),
        // All of a volume are updated, or none: the host sees to that, and has to know of the blocked one.
        ("one volume", Some("--rm"), &[], &[("old", "data"), ("web", "data")], &[], ""),
        ("opted out", None, &[("imagewatch.enable", "off")], &[], &["old"], "old: its label imagewatch.enable=off"),
    ] {
        let config = [("images", IMAGE), ("baseline", "running")];
        let mut world = World::new(&config).with("old", IMAGE, 'a', labels).with("web", IMAGE, 'a', &[]);
        world = world.tag("app:v1", 'b');
        world.containers[0].blocked = blocked.map(str::to_owned);
        for (name, mount) in mounts {
            let container = world.containers.iter_mut().find(|container| container.name == *name);
            container.expect("it is there").writable_mounts.push((*mount).to_owned());
        }
        let checked = world.poll(PollMode::Check).outcomes;
        let kinds: Vec<_> = checked.iter().map(|outcome| status(outcome).kind).collect();
        assert_eq!(kinds, [StatusKind::Blocked, StatusKind::UpdateAvailable], "{case}");
        let polled = world.poll(PollMode::Watch).outcomes.remove(0);
        assert_eq!((polled.verdict, world.orders.len()), (Verdict::Moved, 1), "{case}");
        assert_eq!(world.orders[0].containers.except, except, "{case}");
        let told = polled.reason.unwrap_or_default();
        assert!(told.contains(reason) && told.is_empty() == reason.is_empty(), "{case}: {told}");
    }
}

#[any_test]
fn a_blocked_container_is_told_after_the_others_were_updated() {
    let config = [("images", IMAGE), ("baseline", "running")];
    let mut world = World::new(&config).with("old", IMAGE, 'a', &[]).with("web", IMAGE, 'a', &[]);
    world = world.tag("app:v1", 'b');
    world.containers[0].blocked = Some("it was created with --rm".to_owned());
    world.poll(PollMode::Watch);
    let order = world.orders.remove(0);
    let report = Report { order: order.order, target: order.target, pulled: true, ..Report::default() };
    let input = SettleInput { now_ms: 1_000, state: world.state.clone(), reports: vec![report], quarantine: vec![] };
    world.state = crate::settle::settle(&mut world, input).state;
    world.containers[1].repo_digests = vec![format!("r.io/app@{}", super::world::digest('b'))];
    let polled = world.poll(PollMode::Watch).outcomes.remove(0);
    assert_eq!(status(&polled), &Status::new(StatusKind::Blocked, "it was created with --rm"));
    assert!(world.orders.is_empty(), "nothing is left to be done");
}

#[any_test]
fn an_order_that_is_under_way_is_told_and_a_lost_one_is_announced_again() {
    let mut world = world(&[], &[]);
    world.poll(PollMode::Watch);
    world.in_flight = world.orders.iter().map(|order| order.order.clone()).collect();
    let [polled, checked] = views(&mut world);
    assert_eq!(
        (polled.verdict, status(&polled).kind, status(&checked).kind),
        (Verdict::Pending, StatusKind::Updating, StatusKind::Updating)
    );
    world.in_flight.clear();
    let checked = world.poll(PollMode::Check).outcomes.remove(0);
    assert_eq!(status(&checked).kind, StatusKind::UpdateAvailable);
    world.poll(PollMode::Watch);
    assert_eq!(world.orders.len(), 1);
}

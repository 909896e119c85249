use imagewatch_abi::{Container, ImageOrigin, PollMode, StatusKind};

use crate::any_test;
use crate::poll::world::{World, digest};

const HOLD: &[(&str, &str)] = &[];
const ASK: &[(&str, &str)] = &[("unknown_origin", "ask")];

/// What a row says of the container `web`, which runs image `a` under the name `r.io/app:v1`.
type Origin = fn(&mut Container);

fn reported(container: &mut Container, origin: ImageOrigin) {
    container.origin = Some(origin);
    container.target_digest = Some(digest('a'));
}

fn world(config: &[(&str, &str)], watch: (&str, &str), baseline: &str, origin: Origin) -> World {
    let config: Vec<_> = [watch, ("baseline", baseline)].into_iter().chain(config.iter().copied()).collect();
    let labels = [("imagewatch.enable", "true")];
    let mut world = World::new(&config).with("web", "r.io/app:v1", 'a', &labels).tag("app:v1", 'b');
    origin(&mut world.containers[0]);
    world
}

#[any_test]
fn f08_an_image_that_did_not_come_from_its_registry_is_not_replaced_and_no_registry_is_asked() {
    type Row = (&'static str, &'static [(&'static str, &'static str)], Origin, StatusKind, &'static str);
    let rows: &[Row] = &[
        (
            "built here, says the engine",
            HOLD,
            |c| reported(c, ImageOrigin::Local),
            StatusKind::Local,
            "built or loaded",
        ),
        (
            "built here, and unknown ones are asked for",
            ASK,
            |c| reported(c, ImageOrigin::Local),
            StatusKind::Local,
            "built",
        ),
        (
            "the engine cannot tell",
            HOLD,
            |c| reported(c, ImageOrigin::Unknown),
            StatusKind::Unknown,
            "`unknown_origin`",
        ),
        (
            "a host that reports no origin, on a store that gives digests to every image",
            HOLD,
            |c| c.target_digest = Some(digest('a')),
            StatusKind::Unknown,
            "built or loaded on this machine",
        ),
        ("no digest at all", HOLD, |c| c.repo_digests.clear(), StatusKind::Local, "built or loaded on this machine"),
        (
            "created from a short image id",
            HOLD,
            |c| c.image = "aaaaaaaaaaaa".to_owned(),
            StatusKind::Blocked,
            "image id",
        ),
        ("created from an id of 3 digits", ASK, |c| c.image = "aaa".to_owned(), StatusKind::Blocked, "image id"),
        ("created from the full id", HOLD, |c| c.image = digest('a').to_string(), StatusKind::Blocked, "image id"),
    ];
    for (case, config, origin, kind, reason) in rows {
        for baseline in ["running", "seen"] {
            let mut world = world(config, ("containers", "labelled"), baseline, *origin);
            for mode in [PollMode::Check, PollMode::Watch, PollMode::Watch] {
                let output = world.poll(mode);
                let [outcome] = output.outcomes.as_slice() else { panic!("{case}: {:?}", output.outcomes) };
                let status = outcome.status.clone().expect("a status");
                assert_eq!(status.kind, *kind, "{case}, {baseline}, {mode:?}");
                assert!(status.reason.unwrap_or_default().contains(reason), "{case}, {baseline}, {mode:?}");
                assert!(world.orders.is_empty(), "{case}, {baseline}, {mode:?}");
                world = world.tag("app:v1", 'c');
            }
            assert_eq!(world.requests, [""; 0], "{case}, {baseline}");
        }
    }
}

#[any_test]
fn f08_an_image_of_unknown_origin_is_updated_only_if_its_registry_has_it() {
    type Row<'a> = (&'a str, &'a dyn Fn(World) -> World, bool);
    let there = |world: World| world.tag(&format!("app:{}", digest('a')), 'a');
    let elsewhere = |world: World| world.tag(&format!("other:{}", digest('a')), 'a');
    let rows: &[Row<'_>] = &[
        ("its repository has it", &there, true),
        ("a local build", &|world| world, false),
        ("a retag of what another repository has", &elsewhere, false),
        ("the registry does not answer", &|world| World { is_down: true, ..there(world) }, false),
    ];
    for (case, prepare, is_updated) in rows {
        for watch in [("containers", "labelled"), ("images", "r.io/app:v1")] {
            let mut world = prepare(world(ASK, watch, "running", |c| reported(c, ImageOrigin::Unknown)));
            let checked = world.poll(PollMode::Check);
            let is_announced =
                checked.outcomes[0].status.as_ref().is_some_and(|s| s.kind == StatusKind::UpdateAvailable);
            world.poll(PollMode::Watch);
            assert_eq!(world.orders.len(), usize::from(*is_updated), "{case}, {watch:?}");
            assert_eq!(is_announced, *is_updated, "{case}, {watch:?}: a check announces what a poll does");
        }
    }
}

#[any_test]
fn f08_the_tag_that_an_image_had_confirms_it_after_the_tag_has_moved() {
    for baseline in ["running", "seen"] {
        let mut world = world(ASK, ("containers", "labelled"), baseline, |c| reported(c, ImageOrigin::Unknown));
        let cache = {
            world = world.tag("app:v1", 'a');
            let input = imagewatch_abi::PollInput { now_ms: 1, ..Default::default() };
            let output = crate::poll::poll(&mut world, input);
            world.state = output.state;
            output.cache
        };
        world = world.tag("app:v1", 'b');
        let input = imagewatch_abi::PollInput { now_ms: 2, state: world.state.clone(), cache, ..Default::default() };
        let before = world.requests.len();
        crate::poll::poll(&mut world, input);
        assert_eq!(world.orders.len(), 1, "{baseline}");
        assert_eq!(world.requests.len(), before + 1, "{baseline}: {:?}", world.requests);
    }
}

#[any_test]
fn f08_of_a_listed_image_the_containers_built_here_are_left_out_of_the_order() {
    let mut world = world(HOLD, ("images", "r.io/app:v1"), "running", |c| reported(c, ImageOrigin::Local));
    world = world.with("pulled", "r.io/app:v1", 'd', &[]);
    world.poll(PollMode::Watch);
    let [order] = world.orders.as_slice() else { panic!("{:?}", world.orders) };
    assert_eq!(order.containers.except, ["web"]);
    assert!(!order.containers.unknown_origin, "the host leaves those of unknown origin alone as well");
}

#[any_test]
fn the_manifest_that_a_container_runs_is_what_it_is_compared_by() {
    let mut world = World::new(&[("containers", "all"), ("baseline", "running")]).tag("app:v1", 'b');
    world = world.with("web", "r.io/app:v1", 'a', &[]);
    reported(&mut world.containers[0], ImageOrigin::Registry);
    world.containers[0].manifest_digest = Some(digest('b'));
    let output = world.poll(PollMode::Check);
    assert_eq!(output.outcomes[0].status.as_ref().map(|status| status.kind), Some(StatusKind::UpToDate));
    assert_eq!(output.outcomes[0].running, Some(digest('b')));
}

//! What a check announces is what the next poll does, in worlds at random.

use std::collections::BTreeSet;

use imagewatch_abi::{
    Container, ContainerFailure, Fault, ImageOrigin, PollMode, PollOutput, Quarantined, Report, SettleInput, StatusKind,
};
use proptest::collection::vec;
use proptest::option::of;
use proptest::prelude::*;
use proptest::sample::select;

use super::world::{World, digest};

const IMAGES: &[&str] = &[
    "r.io/app:v1",
    "r.io/app:v2",
    "r.io/db:1",
    "r.io/gone:1",
    "r.io/app:v1@sha256:aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
    "local",
    "sha256:aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
];
const ENABLE: &[&str] = &["true", "True", "yes", "1", "false", "off", "0", "disabled", ""];
const STRATEGIES: &[&str] = &["replace", "start-first", "remove", "pull-only", "notify", "sometimes"];
const WATCHES: &[(&str, &str)] =
    &[("containers", "all"), ("containers", "labelled"), ("images", "r.io/app:v1 r.io/db:1 r.io/gone:1")];
const ORIGINS: &[ImageOrigin] = &[ImageOrigin::Registry, ImageOrigin::Local, ImageOrigin::Unknown];

fn letters() -> impl Strategy<Value = char> {
    select(vec!['a', 'b', 'c'])
}

fn labels() -> impl Strategy<Value = Vec<(String, String)>> {
    let named = |name: &'static str, value: &'static str| (name.to_owned(), value.to_owned());
    let enable = of(select(ENABLE).prop_map(move |value| named("imagewatch.enable", value)));
    let strategy = of(select(STRATEGIES).prop_map(move |value| named("imagewatch.strategy", value)));
    let odd = prop::option::weighted(0.1, Just(named("imagewatch.stratgey", "notify")));
    (enable, strategy, odd).prop_map(|(enable, strategy, odd)| [enable, strategy, odd].into_iter().flatten().collect())
}

fn containers() -> impl Strategy<Value = Vec<Container>> {
    let repositories = select(vec!["r.io/app", "r.io/db", "r.io/gone", "else.io/app"]);
    let digests = vec((repositories, letters()), 0..3);
    let own = prop::option::weighted(0.8, letters());
    let states = prop_oneof![4 => Just("running"), 1 => Just("exited"), 1 => Just("restarting")];
    let blocked = prop::option::weighted(0.15, Just("it was created with --rm".to_owned()));
    let origin = of(select(ORIGINS));
    let one = (select(IMAGES), labels(), digests, own, states, blocked, origin);
    vec(one, 0..6).prop_map(|all| {
        let mut containers: Vec<Container> = Vec::new();
        for (image, labels, digests, own, state, blocked, origin) in all {
            let repository = image.split([':', '@']).next().unwrap_or_default();
            let own = own.map(|letter| format!("{repository}@{}", digest(letter)));
            let name = format!("c{}", containers.len());
            containers.push(Container {
                id: format!("id-of-{name}"),
                name,
                image: image.to_owned(),
                image_id: digest('f').to_string(),
                repo_digests: digests
                    .iter()
                    .map(|(repository, letter)| format!("{repository}@{}", digest(*letter)))
                    .chain(own)
                    .collect(),
                labels: labels.into_iter().collect(),
                state: state.to_owned(),
                blocked,
                origin,
                ..Container::default()
            });
        }
        containers
    })
}

fn quarantine() -> impl Strategy<Value = Vec<Quarantined>> {
    let targets = select(vec!["c0", "c1", "c2", "r.io/app:v1", "r.io/db:1"]);
    let references = select(vec!["r.io/app:v1", "r.io/app:v2", "r.io/db:1"]);
    let until = of(select(vec![500_u64, 5_000]));
    vec((targets, references, letters(), until), 0..5).prop_map(|all| {
        all.into_iter()
            .map(|(target, reference, letter, until_ms)| Quarantined {
                target: target.to_owned(),
                reference: reference.parse().expect("a reference"),
                digest: digest(letter),
                fault: if until_ms.is_some() { Fault::Host } else { Fault::Image },
                cause: None,
                reason: "it failed".to_owned(),
                count: 1,
                first_ms: 0,
                last_ms: 0,
                until_ms,
            })
            .collect()
    })
}

fn tags() -> impl Strategy<Value = Vec<(&'static str, char)>> {
    let tag = |tag: &'static str| prop::option::weighted(0.85, letters()).prop_map(move |letter| (tag, letter));
    (tag("app:v1"), tag("app:v2"), tag("db:1")).prop_map(|(one, other, db)| {
        [one, other, db].into_iter().filter_map(|(tag, letter)| Some((tag, letter?))).collect()
    })
}

fn worlds() -> impl Strategy<Value = World> {
    let policy = prop_oneof![2 => Just(None), 1 => Just(Some("numeric"))];
    let baseline = (select(vec!["running", "seen"]), select(vec!["hold", "ask"]));
    let config = (select(WATCHES), select(STRATEGIES), of(select(vec!["c1", "c"])), policy, baseline);
    (config, containers(), tags(), quarantine(), prop::bool::weighted(0.1)).prop_map(
        |((watch, strategy, part, policy, (baseline, origin)), containers, tags, quarantine, is_down)| {
            let mut config = vec![watch, ("baseline", baseline), ("unknown_origin", origin)];
            config.extend((strategy != "sometimes").then_some(("strategy", strategy)));
            config.extend(part.map(|part| ("container_name_contains", part)));
            if let Some(policy) = policy {
                config.extend([("update_policy", policy), ("tag_filter", "^v?([0-9]+)$")]);
            }
            let mut world = World { containers, is_down, quarantine, ..World::new(&config) };
            for (tag, letter) in tags {
                world = world.tag(tag, letter);
            }
            world
        },
    )
}

/// How the orders of a poll end.
#[derive(Debug, Clone, Copy)]
enum Ending {
    Succeeded,
    Failed,
    Lost,
    UnderWay,
}

/// Ends the orders of the last poll.
fn end(world: &mut World, ending: Ending) {
    let orders = std::mem::take(&mut world.orders);
    world.in_flight = match ending {
        Ending::UnderWay => orders.iter().map(|order| order.order.clone()).collect(),
        _ => Vec::new(),
    };
    let failure = |name: &str| ContainerFailure {
        container: name.to_owned(),
        reason: "exited with code 1".to_owned(),
        fault: Some(Fault::Image),
        ..ContainerFailure::default()
    };
    let report = |order: &imagewatch_abi::Order| Report {
        order: order.order.clone(),
        target: order.target.clone(),
        pulled: true,
        failed: if matches!(ending, Ending::Failed) { vec![failure(&order.target)] } else { Vec::new() },
        ..Report::default()
    };
    if matches!(ending, Ending::Succeeded | Ending::Failed) {
        let reports = orders.iter().map(report).collect();
        let (state, quarantine) = (world.state.clone(), world.quarantine.clone());
        let settled = crate::settle::settle(world, SettleInput { now_ms: 1_000, state, reports, quarantine });
        world.state = settled.state;
        world.quarantine = settled.quarantine.unwrap_or(std::mem::take(&mut world.quarantine));
    }
}

/// The targets that `checked` announces an order for, which updates a container or only pulls.
fn announced(checked: &PollOutput) -> (BTreeSet<&str>, BTreeSet<&str>) {
    let of = |is_it: &dyn Fn(&imagewatch_abi::Status) -> bool| {
        let meant = checked.outcomes.iter().filter(|outcome| outcome.status.as_ref().is_some_and(is_it));
        meant.map(|outcome| outcome.target.as_str()).collect()
    };
    let pulls = |status: &imagewatch_abi::Status| {
        status.kind == StatusKind::Blocked
            && status.reason.as_ref().is_some_and(|reason| reason.contains("`pull-only`"))
    };
    (of(&|status| status.kind == StatusKind::UpdateAvailable), of(&pulls))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_next_poll_does_what_a_check_announces(
        before in worlds(),
        now in worlds(),
        ending in select(vec![Ending::Succeeded, Ending::Failed, Ending::Lost, Ending::UnderWay]),
        has_past in any::<bool>(),
        changes_containers in any::<bool>(),
    ) {
        let mut world = World { config: now.config.clone(), ..before };
        if has_past {
            world.poll(PollMode::Watch);
            end(&mut world, ending);
            (world.tags, world.is_down) = (now.tags, now.is_down);
            if changes_containers {
                world.containers = now.containers;
            }
        }
        let state = world.state.clone();
        let checked = world.poll(PollMode::Check);
        prop_assert_eq!(&world.state, &state, "a check changes nothing");
        prop_assert!(world.orders.is_empty(), "a check orders nothing");
        world.state = state;
        let polled = world.poll(PollMode::Watch);
        let (updates, pulls) = announced(&checked);
        let ordered = |recreate: bool| -> BTreeSet<&str> {
            world.orders.iter().filter(|order| order.recreate == recreate).map(|order| order.target.as_str()).collect()
        };
        prop_assert_eq!(ordered(true), updates, "{:#?}\n{:#?}", &checked.outcomes, &polled.outcomes);
        prop_assert!(ordered(false).is_subset(&pulls), "{:#?}\n{:#?}", &checked.outcomes, &polled.outcomes);
    }
}

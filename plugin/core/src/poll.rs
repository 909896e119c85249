//! One tick: targets, their digests, the decision for each, and the orders that follow from it.
//! Waits for nothing: what it orders is reported later, see `settle`.

#[cfg(all(test, not(target_arch = "wasm32")))]
mod agreement;
mod check;
mod decide;
mod desired_reference;
mod outdated;
mod standing;
#[cfg(test)]
mod views;
#[cfg(test)]
mod waiting;
#[cfg(test)]
pub(crate) mod world;

use std::collections::{BTreeMap, BTreeSet};
use std::mem::take;

use imagewatch_abi::{
    Digest, Failure, FailureCode, LogLevel, Order, OrdersAccepted, Outcome, PollInput, PollMode, PollOutput, Reference,
    Report, StatusKind, Strategy, Verdict,
};

use check::{Checked, check};
use decide::{Decided, decide, is_settled, unanswered};
use desired_reference::{Aims, find_aims};
use outdated::{LeftAlone, concerned, leaves_containers, left_alone, pair_up};
use standing::{Course, remote_at, strategy_of};

use crate::config::{Baseline, Config, UnknownOrigin};
use crate::gate::quarantine::Quarantine;
use crate::image_match::{confirm_origins, list_used, load_wrappers, used_by};
use crate::settle::settle_report;
use crate::state::{Cache, Pending, State};
use crate::target::{Target, Targets};
use crate::{Host, log};

/// Asked again after this time when not even the config's interval is known.
const FALLBACK_INTERVAL_MS: u64 = 300_000;

/// One tick. A failure of the whole leaves state and cache as they came.
pub(crate) fn poll(host: &mut dyn Host, mut input: PollInput) -> PollOutput {
    let config = Config::parse(host);
    let next_poll_ms = config.as_ref().map_or(FALLBACK_INTERVAL_MS, |config| config.interval_ms);
    config.and_then(|config| tick(host, &config, &mut input)).unwrap_or_else(|failure| PollOutput {
        state: input.state,
        cache: input.cache,
        next_poll_ms,
        err: Some(failure),
        ..PollOutput::default()
    })
}

/// Takes nothing out of `input` that is to be as it came where this fails.
fn tick(host: &mut dyn Host, config: &Config, input: &mut PollInput) -> Result<PollOutput, Failure> {
    if !config.enabled && input.mode == PollMode::Watch {
        return Err(Failure {
            key: Some("enabled".to_owned()),
            ..Failure::permanent(FailureCode::Disabled, "polling is off: config key `enabled` is not `true`")
        });
    }
    let mut state = State::parse(&input.state)?;
    let mut cache = Cache::parse(&input.cache);
    let mut quarantine = Quarantine::new(take(&mut input.quarantine), input.now_ms);
    let mut found = Targets::find(host, config)?;
    if let Some(only) = &input.only {
        found
            .retain(only)
            .map_err(|name| Failure::permanent(FailureCode::UnknownTarget, format!("unknown target {name:?}")))?;
    }
    let output = if input.mode == PollMode::Check {
        drop_lost_orders(&mut state, &input.in_flight);
        let Checked { outcomes, not_watched, pending } =
            check(host, config, &mut cache, (&state, &quarantine), input.now_ms, found)?;
        PollOutput { state: take(&mut input.state), outcomes, pending, not_watched, ..PollOutput::default() }
    } else {
        let not_watched = take(&mut found.not_watched);
        let (outcomes, pending) = watch(host, config, input, (&mut state, &mut cache, &mut quarantine), found)?;
        // Told only where it is all that there is to tell: it is the same at each poll.
        let not_watched = if outcomes.is_empty() { not_watched } else { Vec::new() };
        let (state, quarantine) = (state.into_value(), quarantine.into_change());
        PollOutput { state, outcomes, pending, not_watched, quarantine, ..PollOutput::default() }
    };
    Ok(PollOutput { cache: cache.into_value(input.now_ms), next_poll_ms: config.interval_ms, ..output })
}

/// Decides each target on what its registry has, and places the orders that follow. Also names the targets that wait for
/// an answer.
fn watch(
    host: &mut dyn Host,
    config: &Config,
    input: &PollInput,
    (state, cache, quarantine): (&mut State, &mut Cache, &mut Quarantine),
    found: Targets,
) -> Result<(Vec<Outcome>, Vec<String>), Failure> {
    let mut lost = drop_lost_orders(state, &input.in_flight);
    if input.only.is_none() {
        forget_departed(state, quarantine, &found);
    }
    let is_open = |target: &Target| !is_settled(state, target);
    let Aims { all: aims, lookups, lists } = find_aims(host, config, cache, input.now_ms, &found.targets, &is_open);
    let is_compared = config.baseline == Baseline::Running || config.unknown_origin == UnknownOrigin::Ask;
    let is_left = found.targets.iter().any(|target| leaves_containers(config, target));
    // Before a move is ordered: a pull would move the tag of an image that came from no registry, and a container may
    // run the new image already.
    let courses: Vec<_> = found
        .targets
        .iter()
        .zip(&aims)
        .map(|(target, aim)| Course::new(state, target, aim, remote_at(aim, &lookups)))
        .collect();
    let is_moving = courses.iter().any(|course| {
        let is_held = |remote| quarantine.hold(&course.target.name, course.aim, remote).is_some();
        course.is_moving() && !course.is_ordered && !course.remote.is_ok_and(is_held)
    });
    let containers = if is_compared {
        list_used(host)?
    } else if is_left || is_moving {
        // Without them, what was seen decides; an order lists them again before it changes anything.
        list_used(host).unwrap_or_default()
    } else {
        Vec::new()
    };
    let pairs = pair_up(config, &containers, &found.targets, &aims, &lookups);
    confirm_origins(host, cache, &config.insecure, input.now_ms, &pairs);
    if config.baseline == Baseline::Running || is_left {
        load_wrappers(host, cache, &config.insecure, input.now_ms, &pairs);
    }
    let (mut orders, mut pending) = (Vec::new(), Vec::new());
    let mut outcomes = found.unwatchable;
    for outcome in &outcomes {
        log_outcome(host, outcome);
    }
    for course in &courses {
        let target = course.target;
        if !is_settled(state, target) && cache.unfinished.is_waiting(&target.reference) {
            pending.push(target.name.clone());
            outcomes.push(unanswered(target));
            put_back(state, lost.remove(&target.name), target);
            continue;
        }
        let all = used_by(&containers, target);
        let shown = if leaves_containers(config, target) { all.clone() } else { Vec::new() };
        let used = if is_compared || is_moving { all } else { Vec::new() };
        let left = left_alone(config, cache, target, &used);
        let used = concerned((config, cache), course, used);
        let Decided { mut outcome, order, is_news } =
            decide((config, cache), state, quarantine, course, (&used, &shown));
        if let Some(order) = order {
            tell_left_alone(&mut outcome, &left);
            orders.push(select(config, order, left));
        }
        if let Some(Pending { order, .. }) = lost.get(&target.name) {
            add_reason(&mut outcome, format!("order {order} was lost before it was reported"));
        }
        if is_news {
            log_outcome(host, &outcome);
        }
        outcomes.push(outcome);
    }
    cache.unfinished.keep(lists, lookups);
    outcomes.extend(place(host, state, quarantine, &orders));
    Ok((outcomes, pending))
}

/// Adds why the order of `outcome` does not touch some containers of its target.
fn tell_left_alone(outcome: &mut Outcome, left: &[LeftAlone]) {
    for LeftAlone { name, reason } in left {
        add_reason(outcome, format!("{name}: {reason}"));
    }
}

fn add_reason(outcome: &mut Outcome, more: String) {
    outcome.reason = outcome.reason.take().into_iter().chain([more]).reduce(|reason, more| format!("{reason}; {more}"));
}

/// An order that the host no longer knows was lost in a crash: its move is rolled back, by
/// target, so that this tick finds it again.
fn drop_lost_orders(state: &mut State, in_flight: &[String]) -> BTreeMap<String, Pending> {
    let mut lost = BTreeMap::new();
    for (name, seen) in &mut state.targets {
        if let Some(pending) = seen.pending.take_if(|pending| !in_flight.contains(&pending.order)) {
            lost.insert(name.clone(), pending);
        }
    }
    lost
}

/// The poll that decides on `target` is the one that finds its order lost.
fn put_back(state: &mut State, lost: Option<Pending>, target: &Target) {
    if let (Some(seen), Some(lost)) = (state.targets.get_mut(&target.name), lost) {
        seen.pending = Some(lost);
    }
}

/// Forgets targets that are gone, or that follow another reference now and so are new ones. A
/// container that only rests, stopped for a backup say, is not gone. Nothing stays barred for a target that is.
fn forget_departed(state: &mut State, quarantine: &mut Quarantine, found: &Targets) {
    let known = |name: &str, what: String| format!("{name} {what}");
    let current: BTreeSet<String> =
        found.targets.iter().map(|target| known(&target.name, target.history_key())).collect();
    let is_there = |name: &String, reference: &Reference| {
        let is_known = |what| current.contains(&known(name, what));
        found.resting.contains(name) || is_known(reference.to_string()) || is_known(reference.name())
    };
    state.targets.retain(|name, seen| seen.pending.is_some() || is_there(name, &seen.reference));
    let is_pending = |name: &String| state.targets.get(name).is_some_and(|seen| seen.pending.is_some());
    quarantine.retain(|entry| is_pending(&entry.target) || is_there(&entry.target, &entry.reference));
}

/// An order for `target`, by the tick (with the tag to go to and the digest that it saw there) or by hand (with none).
/// Where containers are to be left alone, by hand too, it only pulls.
pub(crate) fn build_order(
    config: &Config,
    order: String,
    target: &Target,
    to: Option<(&Reference, &Digest)>,
    recreate: bool,
) -> Order {
    let reference = to.map_or(&target.reference, |(reference, _)| reference);
    let strategy = strategy_of(config, target);
    Order {
        order,
        target: target.name.clone(),
        reference: reference.clone(),
        from: (*reference != target.reference).then(|| target.reference.clone()),
        // By hand, `remove` takes away every container of the image, as the seed system does.
        only_outdated: to.is_some() || strategy != Strategy::Remove,
        digest: to.map(|(_, digest)| digest.clone()),
        platform: config.platform.clone(),
        recreate: recreate && !matches!(strategy, Strategy::PullOnly | Strategy::Notify),
        // Who asks by hand has been told, and wants more.
        strategy: if strategy == Strategy::Notify { Strategy::PullOnly } else { strategy },
        containers: target.containers.clone(),
        group: target.group.clone(),
    }
}

/// `order`, less the containers that are `left` alone. The host leaves containers of unknown origin alone, unless their
/// registry was asked.
fn select(config: &Config, mut order: Order, left: Vec<LeftAlone>) -> Order {
    order.containers.except = left.into_iter().map(|left| left.name).collect();
    order.containers.unknown_origin = config.unknown_origin == UnknownOrigin::Ask;
    order
}

/// Hands the orders to the host. Those it did at once are settled here; those it did not take are rolled back.
fn place(host: &mut dyn Host, state: &mut State, quarantine: &mut Quarantine, orders: &[Order]) -> Vec<Outcome> {
    if orders.is_empty() {
        return Vec::new();
    }
    let placed = host.docker_refresh(orders.to_vec()).into_result();
    let (placed, refusal) = match placed {
        Ok(placed) => (placed, Failure::retryable(FailureCode::Other, "the host did not take the order")),
        Err(failure) => (OrdersAccepted::default(), failure),
    };
    let is_reported = |order: &Order| placed.reports.iter().any(|report| report.order == order.order);
    let is_taken = |order: &&Order| placed.accepted.contains(&order.order) || is_reported(order);
    let refused = orders.iter().filter(|order| !is_taken(order)).map(|order| Report {
        order: order.order.clone(),
        target: order.target.clone(),
        err: Some(refusal.clone()),
        ..Report::default()
    });
    let reports: Vec<_> = placed.reports.iter().cloned().chain(refused).collect();
    reports.iter().map(|report| settle_report(host, state, quarantine, report)).collect()
}

fn log_outcome(host: &mut dyn Host, outcome: &Outcome) {
    let target = &outcome.target;
    let short = |digest: &Option<Digest>| digest.as_ref().map_or("nothing", Digest::short).to_owned();
    let reason = outcome.reason.as_ref().map(|reason| format!(" ({reason})")).unwrap_or_default();
    let (level, message) = match outcome.verdict {
        Verdict::Seeded => (LogLevel::Info, format!("{target}: first seen at {}{reason}", short(&outcome.digest))),
        Verdict::Moved => (
            LogLevel::Info,
            format!(
                "{target}: moved{} to {}{}{reason}",
                outcome.previous.as_ref().map(|digest| format!(" from {}", digest.short())).unwrap_or_default(),
                short(&outcome.digest),
                if outcome.order.is_some() { ", refreshing" } else { "" }
            ),
        ),
        Verdict::Held if outcome.status.as_ref().is_some_and(|status| status.kind == StatusKind::Blocked) => {
            (LogLevel::Warn, format!("{target}: {} is not rolled out{reason}", short(&outcome.digest)))
        }
        // The log said so when the digest was quarantined.
        Verdict::Held => (LogLevel::Debug, format!("{target}: {} is held{reason}", short(&outcome.digest))),
        Verdict::Unknown => {
            (LogLevel::Warn, format!("{target}: {}", outcome.reason.as_deref().unwrap_or("nothing is known")))
        }
        // A line for each image that did not move is a cost of every tick and tells nobody anything.
        _ => return,
    };
    log(host, level, message);
}

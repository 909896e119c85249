//! One tick: targets, their digests, the decision for each, and the orders that follow from it.
//! Waits for nothing: what it orders is reported later, see `settle`.

mod check;

use std::collections::BTreeMap;

use imagewatch_abi::{
    Digest, Failure, FailureCode, LogLevel, Order, Outcome, Placed, PollInput, PollMode, PollOutput, Reference, Report,
    Strategy, Verdict,
};

use crate::config::Config;
use crate::gate::quarantine::Quarantine;
use crate::registry::resolve::{Lookup, resolve};
use crate::settle::settle_report;
use crate::state::{Cache, Pending, Seen, State};
use crate::target::{Target, Targets};
use crate::{Host, gather, log};

/// Asked again after this time when not even the config's interval is known.
const FALLBACK_INTERVAL_MS: u64 = 300_000;

/// One tick. A failure of the whole leaves state and cache as they came.
pub(crate) fn poll(host: &mut dyn Host, input: PollInput) -> PollOutput {
    let kept = (input.state.clone(), input.cache.clone());
    let config = Config::parse(host);
    let next_poll_ms = config.as_ref().map_or(FALLBACK_INTERVAL_MS, |config| config.interval_ms);
    config.and_then(|config| tick(host, &config, input)).unwrap_or_else(|failure| PollOutput {
        state: kept.0,
        cache: kept.1,
        next_poll_ms,
        err: Some(failure),
        ..PollOutput::default()
    })
}

fn tick(host: &mut dyn Host, config: &Config, input: PollInput) -> Result<PollOutput, Failure> {
    if !config.enabled && input.mode == PollMode::Watch {
        return Err(Failure {
            key: Some("enabled".to_owned()),
            ..Failure::lasting(FailureCode::Disabled, "polling is off: config key `enabled` is not `true`")
        });
    }
    let mut state = State::parse(&input.state)?;
    let mut cache = Cache::parse(&input.cache);
    let mut quarantine = Quarantine::new(input.quarantine, input.now_ms);
    let mut found = Targets::find(host, config)?;
    if let Some(only) = &input.only {
        found
            .retain(only)
            .map_err(|name| Failure::lasting(FailureCode::UnknownTarget, format!("unknown target {name:?}")))?;
    }
    if input.mode == PollMode::Check {
        let outcomes = check::check(host, config, &mut cache, &quarantine, input.now_ms, found)?;
        let cache = cache.into_value(input.now_ms);
        return Ok(PollOutput {
            state: input.state,
            cache,
            next_poll_ms: config.interval_ms,
            outcomes,
            ..PollOutput::default()
        });
    }
    let lost = drop_lost_orders(&mut state, &input.in_flight);
    if input.only.is_none() {
        forget_departed(&mut state, &mut quarantine, &found);
    }
    let open = found.targets.iter().filter(|target| !is_settled(&state, target)).map(|target| target.reference.clone());
    let lookups = resolve(host, &mut cache, &config.insecure, input.now_ms, gather(open));
    let mut orders = Vec::new();
    let mut outcomes = found.unwatchable;
    for outcome in &outcomes {
        log_outcome(host, outcome);
    }
    for target in &found.targets {
        let mut outcome =
            decide(config, &mut state, &mut quarantine, target, lookups.get(&target.reference), &mut orders);
        if let (Some(order), None) = (lost.get(&target.name), &outcome.reason) {
            outcome.reason = Some(format!("order {order} was lost before it was reported"));
        }
        log_outcome(host, &outcome);
        outcomes.push(outcome);
    }
    outcomes.extend(place(host, &mut state, &mut quarantine, &orders));
    Ok(PollOutput {
        state: state.into_value(),
        cache: cache.into_value(input.now_ms),
        next_poll_ms: config.interval_ms,
        outcomes,
        quarantine: quarantine.into_change(),
        err: None,
    })
}

/// An order that the host no longer knows was lost in a crash: its move is rolled back, by
/// target, so that this tick finds it again.
fn drop_lost_orders(state: &mut State, in_flight: &[String]) -> BTreeMap<String, String> {
    let mut lost = BTreeMap::new();
    for (name, seen) in &mut state.targets {
        if let Some(pending) = seen.pending.take_if(|pending| !in_flight.contains(&pending.order)) {
            lost.insert(name.clone(), pending.order);
        }
    }
    lost
}

/// Forgets targets that are gone, or that follow another reference now and so are new ones. A
/// container that only rests, stopped for a backup say, is not gone. Nothing stays barred for a target that is.
fn forget_departed(state: &mut State, quarantine: &mut Quarantine, found: &Targets) {
    let current: BTreeMap<&str, &Reference> =
        gather(found.targets.iter().map(|target| (target.name.as_str(), &target.reference)));
    let is_there = |name: &String, reference: &Reference| {
        found.resting.contains(name) || current.get(name.as_str()) == Some(&reference)
    };
    state.targets.retain(|name, seen| seen.pending.is_some() || is_there(name, &seen.reference));
    let is_pending = |name: &String| state.targets.get(name).is_some_and(|seen| seen.pending.is_some());
    quarantine.retain(|entry| is_pending(&entry.target) || is_there(&entry.target, &entry.reference));
}

/// Whether nothing needs to be asked for `target`.
fn is_settled(state: &State, target: &Target) -> bool {
    target.reference.digest().is_some() || state.targets.get(&target.name).is_some_and(|seen| seen.pending.is_some())
}

/// Seed, unchanged, or move: the whole bookkeeping of one target.
fn decide(
    config: &Config,
    state: &mut State,
    quarantine: &mut Quarantine,
    target: &Target,
    lookup: Option<&Lookup>,
    orders: &mut Vec<Order>,
) -> Outcome {
    let outcome =
        |verdict| Outcome { reference: Some(target.reference.clone()), ..Outcome::new(&target.name, verdict) };
    if target.reference.digest().is_some() {
        return Outcome { digest: target.reference.digest().cloned(), ..outcome(Verdict::Pinned) };
    }
    let known = state.targets.get(&target.name).cloned();
    if let Some(Seen { digest, pending: Some(pending), .. }) = known {
        return Outcome {
            previous: Some(digest),
            digest: Some(pending.digest),
            order: Some(pending.order),
            ..outcome(Verdict::Pending)
        };
    }
    let previous = known.filter(|seen| seen.reference == target.reference).map(|seen| seen.digest);
    let remote = match lookup {
        Some(Ok(digest)) => digest.clone(),
        Some(Err(failure)) => return Outcome { reason: Some(failure.message.clone()), ..outcome(Verdict::Unknown) },
        None => return Outcome { reason: Some("was not looked up".to_owned()), ..outcome(Verdict::Unknown) },
    };
    quarantine.lift_older(&target.name, &remote);
    let held = quarantine.hold(&target.name, &target.reference, &remote);
    let seen = |digest: &Digest, pending| Seen { reference: target.reference.clone(), digest: digest.clone(), pending };
    let (verdict, reason, now) = match &previous {
        None => (Verdict::Seeded, held, Some(seen(&remote, None))),
        Some(digest) if *digest == remote => (Verdict::Unchanged, None, None),
        Some(_) if strategy_of(config, target) == Strategy::Notify => {
            (Verdict::Moved, Some("strategy is `notify`: nothing was done".to_owned()), Some(seen(&remote, None)))
        }
        Some(_) if held.is_some() => (Verdict::Held, held, None),
        Some(digest) => {
            let order = build_order(config, state.next_order(&target.name), target, Some(remote.clone()), true);
            let pending = Pending { order: order.order.clone(), digest: remote.clone() };
            orders.push(order);
            (Verdict::Moved, None, Some(seen(digest, Some(pending))))
        }
    };
    let order = now.as_ref().and_then(|seen| seen.pending.as_ref()).map(|pending| pending.order.clone());
    if let Some(now) = now {
        state.targets.insert(target.name.clone(), now);
    }
    Outcome { previous, digest: Some(remote), reason, order, ..outcome(verdict) }
}

fn strategy_of(config: &Config, target: &Target) -> Strategy {
    target.strategy.unwrap_or(config.strategy)
}

/// An order for `target`, by the tick (with the digest that it saw) or by hand (with none). Where
/// containers are to be left alone, by hand too, it only pulls.
pub(crate) fn build_order(
    config: &Config,
    order: String,
    target: &Target,
    digest: Option<Digest>,
    recreate: bool,
) -> Order {
    let strategy = strategy_of(config, target);
    Order {
        order,
        target: target.name.clone(),
        reference: target.reference.clone(),
        // By hand, `remove` takes away every container of the image, as the seed system does.
        only_outdated: digest.is_some() || strategy != Strategy::Remove,
        digest,
        platform: config.platform.clone(),
        recreate: recreate && !matches!(strategy, Strategy::PullOnly | Strategy::Notify),
        // Who asks by hand has been told, and wants more.
        strategy: if strategy == Strategy::Notify { Strategy::PullOnly } else { strategy },
        containers: target.containers.clone(),
    }
}

/// Hands the orders to the host. Those it did at once are settled here; those it did not take are rolled back.
fn place(host: &mut dyn Host, state: &mut State, quarantine: &mut Quarantine, orders: &[Order]) -> Vec<Outcome> {
    if orders.is_empty() {
        return Vec::new();
    }
    let placed = host.docker_refresh(orders.to_vec()).into_result();
    let (placed, refusal) = match placed {
        Ok(placed) => (placed, Failure::passing(FailureCode::Other, "the host did not take the order")),
        Err(failure) => (Placed::default(), failure),
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
                "{target}: moved from {} to {}{}{reason}",
                short(&outcome.previous),
                short(&outcome.digest),
                if outcome.order.is_some() { ", refreshing" } else { "" }
            ),
        ),
        // It was said aloud when the digest was barred.
        Verdict::Held => (LogLevel::Debug, format!("{target}: {} is held{reason}", short(&outcome.digest))),
        Verdict::Unknown => {
            (LogLevel::Warn, format!("{target}: {}", outcome.reason.as_deref().unwrap_or("nothing is known")))
        }
        // A line for each image that did not move is a cost of every tick and tells nobody anything.
        _ => return,
    };
    log(host, level, message);
}

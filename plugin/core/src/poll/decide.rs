//! The decision for one target: what is remembered of it, and the order that follows. Where its containers stand decides;
//! see `status`. Asks nobody and hands nothing over.

use imagewatch_abi::{Container, Digest, Order, Outcome, Verdict};

use super::build_order;
use super::standing::{Course, Standing, Standings};
use crate::config::{Baseline, Config};
use crate::gate::quarantine::Quarantine;
use crate::image_match::{Used, digests_of};
use crate::state::{Cache, Pending, Seen, State};
use crate::status::Rule;
use crate::target::Target;
use crate::update::describe_change;

/// What follows for one target.
pub(super) struct Decided {
    pub(super) outcome: Outcome,
    pub(super) order: Option<Order>,
    /// Whether the outcome tells what the one before it did not.
    pub(super) is_news: bool,
}

/// What is done about a target.
enum Decision {
    /// Nothing, and nothing new is remembered.
    Wait(Verdict, Option<String>),
    /// Nothing; that it needs no order for what its aim points to is remembered.
    Remember(Verdict, Option<String>),
    /// An order is placed.
    Order,
}

/// Whether nothing needs to be asked for `target`.
pub(super) fn is_settled(state: &State, target: &Target) -> bool {
    target.reference.digest().is_some() || state.targets.get(&target.name).is_some_and(|seen| seen.pending.is_some())
}

/// Decides on one target. `used` are the containers that the decision is about; none: what was seen decides. `shown` are
/// the containers whose status is shown, if they are others.
pub(super) fn decide(
    (config, cache): (&Config, &Cache),
    state: &mut State,
    quarantine: &mut Quarantine,
    course: &Course<'_>,
    (used, shown): (&[&Used], &[&Used]),
) -> Decided {
    let Course { target, aim, remote, .. } = *course;
    let standings = Standings::new((config, cache, quarantine), course, used);
    let shown = (config.baseline == Baseline::Seen && !shown.is_empty()).then_some(shown);
    let shown = shown.map(|shown| Standings::new((config, cache, quarantine), course, shown));
    let status = Some(shown.as_ref().unwrap_or(&standings).leading().status());
    if let Some(outcome) = settled(target, state.targets.get(&target.name)) {
        return Decided { outcome: Outcome { status, ..outcome }, order: None, is_news: false };
    }
    let remote = match remote {
        Ok(remote) => remote.clone(),
        Err((reason, until_ms)) => {
            let reason = Some(reason.to_owned());
            let outcome = Outcome { reason, until_ms, status, ..outcome_of(target, Verdict::Unknown) };
            return Decided { outcome, order: None, is_news: true };
        }
    };
    if is_newer(course, &standings) {
        quarantine.lift_older(&target.name, &remote);
    }
    let is_news = !course.is_reached;
    let decision = judge(course, &standings);
    let outcome = outcome_of_move(course, &standings, &remote);
    let (verdict, reason, order) = match decision {
        Decision::Wait(verdict, reason) => (verdict, reason, None),
        Decision::Remember(verdict, reason) => {
            state.targets.insert(target.name.clone(), reached(course, &standings, remote));
            (verdict, reason, None)
        }
        Decision::Order => {
            let updates = standings.leading().rule == Rule::Due;
            let order = build_order(config, state.next_order(&target.name), target, Some((aim, &remote)), updates);
            let pending = pending(course, &standings, &order, outcome.previous.clone(), remote);
            state.targets.insert(target.name.clone(), pending);
            (Verdict::Moved, None, Some(order))
        }
    };
    let words = course.from.as_ref().map(|from| describe_change(from, aim));
    let reason = words.into_iter().chain(reason).reduce(|words, reason| format!("{words}: {reason}"));
    let reason = with_note(reason, course);
    let id = order.as_ref().map(|order| order.order.clone());
    let until_ms = status.as_ref().filter(|_| verdict == Verdict::Held).and_then(|status| status.until_ms);
    Decided { outcome: Outcome { verdict, reason, until_ms, order: id, status, ..outcome }, order, is_news }
}

/// `reason` with what there is to say of the choice of the tag, unless it says that already.
fn with_note(reason: Option<String>, course: &Course<'_>) -> Option<String> {
    let note = course.note.map(|note| note.reason.clone());
    let note = note.filter(|note| !reason.as_ref().is_some_and(|reason| reason.contains(note.as_str())));
    reason.into_iter().chain(note).reduce(|reason, note| format!("{reason}; {note}"))
}

fn outcome_of(target: &Target, verdict: Verdict) -> Outcome {
    Outcome { reference: Some(target.reference.clone()), ..Outcome::new(&target.name, verdict) }
}

/// What there is to say of a target for which an answer is pending.
pub(super) fn unanswered(target: &Target) -> Outcome {
    let reason = Some(format!("{} has not answered yet", target.reference.api_host()));
    Outcome { reason, ..outcome_of(target, Verdict::Unknown) }
}

/// What there is to say of a target that is pinned, or for which an order is under way.
fn settled(target: &Target, known: Option<&Seen>) -> Option<Outcome> {
    if let Some(digest) = target.reference.digest() {
        return Some(Outcome { digest: Some(digest.clone()), ..outcome_of(target, Verdict::Pinned) });
    }
    let Seen { digest, pending: Some(pending), .. } = known? else { return None };
    let to = pending.reference.as_ref().unwrap_or(&target.reference);
    Some(Outcome {
        from: (*to != target.reference).then(|| target.reference.clone()),
        reference: Some(to.clone()),
        previous: digest.clone(),
        digest: Some(pending.digest.clone()),
        order: Some(pending.order.clone()),
        ..outcome_of(target, Verdict::Pending)
    })
}

/// Whether the aim points to neither what was seen before nor what runs. A tag that points back for a while, or a mirror
/// that lags, frees nothing that failed since.
fn is_newer(course: &Course<'_>, standings: &Standings<'_>) -> bool {
    let seen = &course.seen.digest;
    let is_on_it = if standings.are_compared() {
        standings.behind().all(|(container, _)| course.was_tried(container))
    } else {
        !course.is_first_sight && seen.is_none() && course.from.is_none()
    };
    !is_on_it && seen.as_ref() != course.remote.ok()
}

/// What the place where the target stands has the poll do.
fn judge(course: &Course<'_>, standings: &Standings<'_>) -> Decision {
    let leading = standings.leading();
    let reason = || leading.status().reason;
    let wait = |verdict| Decision::Wait(verdict, reason());
    match leading.rule {
        Rule::Due | Rule::PullDue => Decision::Order,
        Rule::Held | Rule::Blocked => wait(Verdict::Held),
        Rule::Local | Rule::Incomparable | Rule::NotLookedUp => wait(Verdict::Unknown),
        // What runs is known: it is said for as long as the containers are behind.
        Rule::Notified if course.is_reached && !standings.are_compared() => {
            Decision::Remember(Verdict::Unchanged, None)
        }
        Rule::Notified => Decision::Remember(Verdict::Moved, Some("strategy is `notify`: nothing was done".to_owned())),
        Rule::Left => Decision::Remember(Verdict::Unchanged, reason()),
        Rule::UpToDate if course.seen.digest.is_none() && course.from.is_none() => {
            Decision::Remember(Verdict::Seeded, leading.facts.hold.as_ref().map(|hold| hold.reason.clone()))
        }
        Rule::UpToDate if course.is_reached => {
            let stays =
                course.from.as_ref().map(|_| "an update to this image succeeded before; the containers kept their tag");
            Decision::Remember(Verdict::Unchanged, stays.map(str::to_owned))
        }
        Rule::UpToDate => Decision::Remember(Verdict::Unchanged, Some("its containers run it already".to_owned())),
        Rule::Resting | Rule::Pinned | Rule::Ordered => wait(Verdict::Unchanged),
    }
}

fn reached(course: &Course<'_>, standings: &Standings<'_>, remote: Digest) -> Seen {
    let is_tried = |(container, _): &(&Container, _)| course.was_tried(container);
    Seen {
        reference: course.aim.clone(),
        digest: Some(remote),
        from: course.from.clone(),
        tried: standings.behind().filter(is_tried).map(|(container, _)| container.id.clone()).collect(),
        pending: None,
    }
}

/// On its way by `order`; until that succeeded, where it was is what is remembered.
fn pending(
    course: &Course<'_>,
    standings: &Standings<'_>,
    order: &Order,
    previous: Option<Digest>,
    digest: Digest,
) -> Seen {
    let is_tried = |standing: &Standing<'_>| standing.rule.is_due() || standing.rule == Rule::Left;
    let tried = standings.behind().filter(|(_, standing)| is_tried(standing));
    let pending = Pending {
        order: order.order.clone(),
        digest,
        reference: course.from.as_ref().map(|_| course.aim.clone()),
        tried: tried.map(|(container, _)| container.id.clone()).collect(),
        previous: previous.filter(|previous| course.seen.digest.as_ref() != Some(previous)),
        group: order.group.clone(),
    };
    Seen { pending: Some(pending), ..course.seen.clone() }
}

/// What there is to say of a target, less what follows.
fn outcome_of_move(course: &Course<'_>, standings: &Standings<'_>, remote: &Digest) -> Outcome {
    let runs = standings.behind().find_map(|(container, _)| digests_of(container, course.aim).pop());
    // What was seen was reached, and yet another image runs: that one is left.
    let seen = course.seen.digest.clone();
    Outcome {
        reference: Some(course.aim.clone()),
        from: course.from.clone(),
        previous: if course.is_reached { runs.or(seen) } else { seen.or(runs) },
        digest: Some(remote.clone()),
        ..outcome_of(course.target, Verdict::Unknown)
    }
}

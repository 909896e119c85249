//! The decision for one target: pinned, pending, unknown, seeded, unchanged, held or moved; what is remembered of it, and
//! the order that follows. Asks nobody and hands nothing over.

use imagewatch_abi::{Digest, Failure, Order, Outcome, Reference, Strategy, Verdict};

use super::behind::Behind;
use super::build_order;
use crate::config::Config;
use crate::gate::quarantine::Quarantine;
use crate::registry::resolve::Lookup;
use crate::state::{Pending, Seen, State};
use crate::target::Target;
use crate::update::in_words;

/// What comes of one target.
pub(super) struct Decided {
    pub(super) outcome: Outcome,
    pub(super) order: Option<Order>,
}

/// What to do about a target whose aim is known.
enum Decision {
    /// Nothing; where it is now is remembered.
    Remember(Verdict, Option<String>),
    /// Nothing yet, and why.
    Hold(String),
    Move,
}

/// What a decision is made of.
struct Facts<'a> {
    /// Where the target is to go.
    aim: &'a Reference,
    /// What is there.
    remote: Digest,
    /// The tag that it is on, where the aim is another.
    from: Option<Reference>,
    /// What was seen before, at the aim or on the tag that it is on.
    known: Seen,
    /// Whether it was brought to `remote` before.
    is_reached: bool,
    /// Whether containers run another image, and were not left there by a move that came off; none where nothing is known
    /// of containers, or nobody asks.
    is_behind: Option<bool>,
    /// The containers that run another image.
    behind: Vec<String>,
    /// Those of them that were left there.
    tried: Vec<String>,
    /// What one of them runs, if the engine says so.
    runs: Option<Digest>,
}

/// Whether nothing needs to be asked for `target`.
pub(super) fn is_settled(state: &State, target: &Target) -> bool {
    target.reference.digest().is_some() || state.targets.get(&target.name).is_some_and(|seen| seen.pending.is_some())
}

pub(super) fn strategy_of(config: &Config, target: &Target) -> Strategy {
    target.strategy.unwrap_or(config.strategy)
}

/// The whole bookkeeping of one target. `aim` is where it is to go, with what was looked up; `behind` goes before what was
/// seen, where it is known.
pub(super) fn decide(
    config: &Config,
    state: &mut State,
    quarantine: &mut Quarantine,
    target: &Target,
    aim: Result<(&Reference, Option<&Lookup>), &Failure>,
    behind: Option<Behind>,
) -> Decided {
    let known = state.targets.get(&target.name).cloned();
    if let Some(outcome) = settled(target, known.as_ref()) {
        return Decided { outcome, order: None };
    }
    let (aim, remote) = match looked_up(aim) {
        Ok(found) => found,
        Err((reason, until_ms)) => {
            let reason = Some(reason.to_owned());
            let outcome = Outcome { reason, until_ms, ..outcome_of(target, Verdict::Unknown) };
            return Decided { outcome, order: None };
        }
    };
    let is_first_sight = known.is_none();
    let facts = Facts::new(target, aim, remote, known, behind);
    if facts.is_news(is_first_sight) {
        quarantine.lift_older(&target.name, &facts.remote);
    }
    let held = quarantine.hold(&target.name, aim, &facts.remote);
    let (verdict, reason, now) = match facts.judge(strategy_of(config, target), held) {
        Decision::Remember(verdict, reason) => (verdict, reason, Some(facts.reached())),
        Decision::Hold(reason) => (Verdict::Held, Some(reason), None),
        Decision::Move => (Verdict::Moved, None, Some(facts.pending(state.next_order(&target.name)))),
    };
    let id = now.as_ref().and_then(|seen| seen.pending.as_ref()).map(|pending| pending.order.clone());
    state.targets.extend(now.map(|now| (target.name.clone(), now)));
    let order = id.clone().map(|id| build_order(config, id, target, Some((aim, &facts.remote)), true));
    Decided { outcome: facts.into_outcome(target, verdict, reason, id), order }
}

fn outcome_of(target: &Target, verdict: Verdict) -> Outcome {
    Outcome { reference: Some(target.reference.clone()), ..Outcome::new(&target.name, verdict) }
}

/// What there is to say without a look at the registry, if that is all.
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

/// Where to go and what is there, or why and until when that is not known.
fn looked_up<'a>(
    aim: Result<(&'a Reference, Option<&'a Lookup>), &'a Failure>,
) -> Result<(&'a Reference, Digest), (&'a str, Option<u64>)> {
    match aim {
        Ok((aim, Some(Ok(digest)))) => Ok((aim, digest.clone())),
        Ok((_, Some(Err(failure)))) | Err(failure) => Err((&failure.message, failure.until_ms)),
        Ok((_, None)) => Err(("was not looked up", None)),
    }
}

impl<'a> Facts<'a> {
    fn new(target: &Target, aim: &'a Reference, remote: Digest, known: Option<Seen>, behind: Option<Behind>) -> Self {
        let present = &target.reference;
        let from = Some(present).filter(|present| *present != aim).cloned();
        // Brought there before, and nevertheless still on the same tag: a strategy left its containers alone, say.
        let is_there = |seen: &Seen| seen.reference == *aim && (from.is_none() || seen.from == from);
        let unseen = || Seen { reference: present.clone(), digest: None, from: None, tried: Vec::new(), pending: None };
        let known = known.filter(|seen| is_there(seen) || seen.reference == *present).unwrap_or_else(unseen);
        let is_reached = known.digest.as_ref() == Some(&remote) && is_there(&known);
        let mut tried = if is_reached { known.tried.clone() } else { Vec::new() };
        let is_behind = behind.as_ref().map(|behind| behind.ids.iter().any(|id| !tried.contains(id)));
        let (behind, runs) = behind.map_or_else(Default::default, |behind| (behind.ids, behind.runs));
        tried.retain(|id| behind.contains(id));
        Self { aim, remote, from, known, is_reached, is_behind, behind, tried, runs }
    }

    /// Whether what is there is neither what was seen before nor what runs: a tag that points back for a while, or a
    /// mirror that lags, frees nothing that failed since.
    fn is_news(&self, is_first_sight: bool) -> bool {
        let is_on_it = match self.is_behind {
            Some(is_behind) => !is_behind,
            None => !is_first_sight && self.known.digest.is_none() && self.from.is_none(),
        };
        !is_on_it && self.known.digest.as_ref() != Some(&self.remote)
    }

    fn judge(&self, strategy: Strategy, held: Option<String>) -> Decision {
        let notifies = strategy == Strategy::Notify;
        match (&self.known.digest, self.is_behind) {
            (None, None | Some(false)) if self.from.is_none() => Decision::Remember(Verdict::Seeded, held),
            (_, None | Some(false)) if self.is_reached => {
                let stays = self.from.is_some() || !self.tried.is_empty();
                let reason = stays.then(|| "came off before, and its containers stayed".to_owned());
                Decision::Remember(Verdict::Unchanged, reason)
            }
            (_, Some(false)) if self.from.is_none() => {
                Decision::Remember(Verdict::Unchanged, Some("its containers run it already".to_owned()))
            }
            _ if self.is_reached && notifies => Decision::Remember(Verdict::Unchanged, None),
            _ if notifies => {
                Decision::Remember(Verdict::Moved, Some("strategy is `notify`: nothing was done".to_owned()))
            }
            _ => held.map_or(Decision::Move, Decision::Hold),
        }
    }

    fn reached(&self) -> Seen {
        Seen {
            reference: self.aim.clone(),
            digest: Some(self.remote.clone()),
            from: self.from.clone(),
            tried: self.tried.clone(),
            pending: None,
        }
    }

    /// On its way by `order`; until that came off, where it was is what is remembered.
    fn pending(&self, order: String) -> Seen {
        let reference = self.from.as_ref().map(|_| self.aim.clone());
        let pending = Pending { order, digest: self.remote.clone(), reference, tried: self.behind.clone() };
        Seen { pending: Some(pending), ..self.known.clone() }
    }

    fn into_outcome(self, target: &Target, verdict: Verdict, reason: Option<String>, order: Option<String>) -> Outcome {
        // What is seen was reached, and yet another image runs: that one is left.
        let seen = self.known.digest;
        let previous = if self.is_reached { self.runs.or(seen) } else { seen.or(self.runs) };
        let words = self.from.as_ref().map(|from| in_words(from, self.aim));
        let reason = words.into_iter().chain(reason).reduce(|words, reason| format!("{words}: {reason}"));
        Outcome {
            reference: Some(self.aim.clone()),
            from: self.from,
            previous,
            digest: Some(self.remote),
            reason,
            order,
            ..outcome_of(target, verdict)
        }
    }
}

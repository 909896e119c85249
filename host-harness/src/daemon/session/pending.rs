//! Polls that some registry has not answered yet: who is waited for, and how what comes later joins what was said before.

use std::collections::{BTreeMap, BTreeSet};

use imagewatch_abi::{Order, Outcome, PollMode, PollOutput};

use super::Session;
use imagewatch_policy::CallError;

/// A policy that never comes to an end is not polled for ever.
const MOST_POLLS: usize = 200;

impl Session {
    /// Waits until a registry has answered what a poll did not wait for.
    pub async fn answered(&self) {
        self.effects.deferred().arrived().await;
    }

    /// One tick in which every registry has answered or failed: what it says of all targets.
    ///
    /// # Errors
    /// As [`poll`](Self::poll).
    pub async fn poll_to_end(
        &mut self,
        in_flight: Vec<String>,
        mode: PollMode,
    ) -> Result<(PollOutput, Vec<Order>), CallError> {
        let (mut output, mut orders) = self.poll(None, in_flight.clone(), mode).await?;
        for _ in 0..MOST_POLLS {
            if output.pending.is_empty() || !self.effects.deferred().is_busy() {
                break;
            }
            self.answered().await;
            let only = std::mem::take(&mut output.pending);
            let under_way: Vec<String> = orders.iter().map(|order: &Order| order.order.clone()).collect();
            let in_flight = in_flight.iter().cloned().chain(under_way).collect();
            let (more, new) = self.poll(Some(only.clone()), in_flight, mode).await?;
            orders.extend(new);
            if more.err.is_some() {
                output.err = more.err;
                break;
            }
            replace_outcomes(&mut output.outcomes, &only, more.outcomes);
            output.pending = more.pending;
        }
        Ok((output, orders))
    }
}

/// Puts `newer` in the places of what `outcomes` say of the targets `only`.
pub(crate) fn replace_outcomes(outcomes: &mut Vec<Outcome>, only: &[String], newer: Vec<Outcome>) {
    let only: BTreeSet<&String> = only.iter().collect();
    let mut by_target: BTreeMap<String, Vec<Outcome>> = BTreeMap::new();
    for outcome in newer {
        by_target.entry(outcome.target.clone()).or_default().push(outcome);
    }
    let mut replaced = Vec::with_capacity(outcomes.len());
    for outcome in outcomes.drain(..) {
        // All of a target stand in the place of the first.
        let newer = by_target.remove(&outcome.target);
        if !only.contains(&outcome.target) {
            replaced.push(outcome);
        }
        replaced.extend(newer.into_iter().flatten());
    }
    replaced.extend(by_target.into_values().flatten());
    *outcomes = replaced;
}

/// `polled`, with what was known before, `known`, in the place of targets that are `pending`.
pub(crate) fn keep_known(polled: Vec<Outcome>, pending: &[String], known: &[Outcome]) -> Vec<Outcome> {
    let pending: BTreeSet<&String> = pending.iter().collect();
    let known: Vec<Outcome> = known.iter().filter(|outcome| pending.contains(&outcome.target)).cloned().collect();
    let kept: Vec<String> = known.iter().map(|outcome| outcome.target.clone()).collect();
    let mut outcomes = polled;
    replace_outcomes(&mut outcomes, &kept, known);
    outcomes
}

#[cfg(test)]
mod tests;

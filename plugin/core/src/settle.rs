//! Processes the reports of ended orders. A report either commits the digest of the order, or rolls back to the
//! previous one. After a rollback, the digest still counts as a move: the next tick tries it again, or a quarantine
//! holds it. Orders that the host completed at once are processed by the same code.

use imagewatch_abi::{Fault, LogLevel, Outcome, Report, SettleInput, SettleOutput, Verdict};

use crate::gate::quarantine::{Consequence, Quarantine};
use crate::state::{Pending, Seen, State};
use crate::update::describe_change;
use crate::{Host, log};

/// Processes reports. If the state cannot be parsed, nothing changes.
pub(crate) fn settle(host: &mut dyn Host, input: SettleInput) -> SettleOutput {
    match State::parse(&input.state) {
        Err(failure) => SettleOutput { state: input.state, err: Some(failure), ..SettleOutput::default() },
        Ok(mut state) => {
            let mut quarantine = Quarantine::new(input.quarantine, input.now_ms);
            let settled = |report| settle_report(host, &mut state, &mut quarantine, report);
            let outcomes = input.reports.iter().map(settled).collect();
            SettleOutput {
                state: state.into_value(),
                outcomes,
                quarantine: quarantine.into_change(),
                ..SettleOutput::default()
            }
        }
    }
}

/// Processes one report. If no target waits for the order, the order was a manual refresh or was lost. The state then
/// stays the same, but a failed digest is still quarantined.
pub(crate) fn settle_report(
    host: &mut dyn Host,
    state: &mut State,
    quarantine: &mut Quarantine,
    report: &Report,
) -> Outcome {
    let consequence = Consequence::of(report);
    let waiting = state.pending_target(&report.order).or_else(|| state.pending_by_another_run(report));
    let is_waited_for = waiting.is_some();
    let ended = match &consequence {
        // An update that another run of the host started is not a manual refresh, even if the policy no longer knows
        // it.
        Consequence::Keep if report.is_recovered => Verdict::Committed,
        _ if report.is_recovered => Verdict::RolledBack,
        _ if report.err.is_none() => Verdict::Refreshed,
        _ => Verdict::Failed,
    };
    let mut outcome = Outcome {
        reference: report.reference.clone(),
        digest: report.digest.clone(),
        order: Some(report.order.clone()),
        reason: Some(summarise(report)),
        ..Outcome::new(waiting.as_deref().unwrap_or(&report.target), ended)
    };
    let members = state.members_moving_along(&outcome.target);
    if let Some(seen) = waiting.and_then(|name| state.targets.get_mut(&name))
        && let Some(pending) = seen.pending.take()
    {
        commit_or_roll_back(seen, pending, &consequence, &mut outcome);
    }
    // A pull alone does not show that the image works.
    if report.failed.is_empty() && (outcome.verdict == Verdict::Committed || !report.recreated.is_empty()) {
        quarantine.lift(&outcome.target);
    }
    if let (true, Some(digest)) = (report.pulled, &outcome.digest) {
        quarantine.lift_fetched(&outcome.target, digest);
    }
    let follows = match (&consequence, &outcome.reference, &outcome.digest) {
        (Consequence::Quarantine(cause), Some(reference), Some(digest)) => {
            // If an image fails for one container of a service, it is not tried on the others.
            for (member, reference) in members.iter().filter(|_| cause.fault == Fault::Image) {
                quarantine.add_unless_held(member, reference, digest, cause);
            }
            if is_waited_for {
                // No order is placed for a held digest. If it is held now, the failure of a group member caused that.
                // It counts once.
                quarantine.add_unless_held(&outcome.target, reference, digest, cause);
            } else {
                quarantine.add(&outcome.target, reference, digest, cause);
            }
            outcome.until_ms = quarantine.hold(&outcome.target, reference, digest).and_then(|hold| hold.until_ms);
            let wait = quarantine.wait(&outcome.target, reference, digest);
            wait.map_or_else(String::new, |wait| format!("; {} is {wait}", digest.short()))
        }
        _ if outcome.verdict == Verdict::RolledBack => "; rolled back, the next poll tries again".to_owned(),
        _ => String::new(),
    };
    let is_postponed = consequence == Consequence::Retry;
    let is_good = report.err.is_none() && report.failed.is_empty();
    let level = if is_good || is_postponed { LogLevel::Info } else { LogLevel::Warn };
    log(host, level, format!("{}: {}{follows}", outcome.target, outcome.reason.as_deref().unwrap_or_default()));
    outcome
}

/// Commits the order if its consequence is [`Consequence::Keep`]. Otherwise the recorded digest stays, and the move
/// remains.
fn commit_or_roll_back(seen: &mut Seen, pending: Pending, consequence: &Consequence, outcome: &mut Outcome) {
    let to = pending.reference.unwrap_or_else(|| seen.reference.clone());
    if to != seen.reference {
        let reason = outcome.reason.take().unwrap_or_default();
        outcome.reason = Some(format!("{}: {reason}", describe_change(&seen.reference, &to)));
        outcome.from = Some(seen.reference.clone());
    }
    outcome.reference = Some(to.clone());
    outcome.previous = pending.previous.or_else(|| seen.digest.clone());
    outcome.digest = Some(pending.digest.clone());
    if *consequence == Consequence::Keep {
        outcome.verdict = Verdict::Committed;
        seen.digest = Some(pending.digest);
        seen.tried = pending.tried;
        if let Some(from) = &outcome.from {
            seen.from = Some(from.clone());
            seen.reference = to;
        }
    } else {
        outcome.verdict = Verdict::RolledBack;
    }
}

fn summarise(report: &Report) -> String {
    if let Some(failure) = &report.err {
        return failure.message.clone();
    }
    let mut parts = vec![if report.pulled { "pulled".to_owned() } else { "not pulled".to_owned() }];
    if !report.recreated.is_empty() {
        parts.push(format!("recreated {}", report.recreated.join(" ")));
    }
    for failure in &report.failed {
        let restored = if report.restored.contains(&failure.container) { " (runs again as before)" } else { "" };
        parts.push(format!("failed {}: {}{restored}", failure.container, failure.reason));
    }
    parts.join(", ")
}

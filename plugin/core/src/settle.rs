//! Reports of ended orders: commit the digest that was moved to, or roll back to the one before,
//! so that the next tick tries again. The same code serves orders that the host did at once.

use imagewatch_abi::{LogLevel, Outcome, Report, SettleInput, SettleOutput, Verdict};

use crate::state::State;
use crate::{Host, log};

/// Settles reports. A state that cannot be read leaves everything as it came.
pub(crate) fn settle(host: &mut dyn Host, input: SettleInput) -> SettleOutput {
    match State::parse(&input.state) {
        Err(failure) => SettleOutput { state: input.state, err: Some(failure), ..SettleOutput::default() },
        Ok(mut state) => {
            let outcomes = input.reports.iter().map(|report| settle_report(host, &mut state, report)).collect();
            SettleOutput { state: state.into_value(), outcomes, ..SettleOutput::default() }
        }
    }
}

/// One report. An order that no target waits for was a manual refresh, or is settled already: the state stays.
pub(crate) fn settle_report(host: &mut dyn Host, state: &mut State, report: &Report) -> Outcome {
    let is_good = report.err.is_none();
    let waiting = state.pending_target(&report.order);
    let mut outcome = Outcome {
        order: Some(report.order.clone()),
        reason: Some(summarise(report)),
        ..Outcome::new(
            waiting.as_deref().unwrap_or(&report.target),
            if is_good { Verdict::Refreshed } else { Verdict::Failed },
        )
    };
    if let Some(seen) = waiting.and_then(|name| state.targets.get_mut(&name))
        && let Some(pending) = seen.pending.take()
    {
        outcome.reference = Some(seen.reference.clone());
        outcome.previous = Some(seen.digest.clone());
        outcome.digest = Some(pending.digest.clone());
        outcome.verdict = if is_good { Verdict::Committed } else { Verdict::RolledBack };
        if is_good {
            seen.digest = pending.digest;
        }
    }
    let level = if is_good && report.failed.is_empty() { LogLevel::Info } else { LogLevel::Warn };
    let retry = if outcome.verdict == Verdict::RolledBack { "; rolled back, the next poll tries again" } else { "" };
    log(host, level, format!("{}: {}{retry}", outcome.target, outcome.reason.as_deref().unwrap_or_default()));
    outcome
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

//! Manual refresh: pulls and recreates named targets without a look-up at the registry. It works while polling is off,
//! and for digests in quarantine. The recorded digests do not change.

use imagewatch_abi::{Failure, FailureCode, Outcome, RefreshInput, RefreshOutput, Verdict};

use crate::Host;
use crate::config::Config;
use crate::gate::quarantine::Quarantine;
use crate::poll::build_order;
use crate::settle::settle_report;
use crate::state::State;
use crate::target::Targets;

/// Orders a refresh of the named targets, or of all targets.
pub(crate) fn refresh(host: &mut dyn Host, input: &RefreshInput) -> RefreshOutput {
    let kept = input.state.clone();
    let unchanged = |failure, known_targets| RefreshOutput {
        state: kept,
        known_targets,
        err: Some(failure),
        ..RefreshOutput::default()
    };
    let found =
        Config::parse(host).and_then(|config| Ok((Targets::find(host, &config)?, State::parse(&input.state)?, config)));
    let (mut found, state, config) = match found {
        Ok(found) => found,
        Err(failure) => return unchanged(failure, Vec::new()),
    };
    let known = found.names();
    if let Some(Err(name)) = input.targets.as_ref().map(|names| found.retain(names)) {
        return unchanged(Failure::permanent(FailureCode::UnknownTarget, format!("unknown target: {name}")), known);
    }
    match place(host, &config, state, found, input) {
        Ok(output) => output,
        Err(failure) => unchanged(failure, Vec::new()),
    }
}

fn place(
    host: &mut dyn Host,
    config: &Config,
    mut state: State,
    found: Targets,
    input: &RefreshInput,
) -> Result<RefreshOutput, Failure> {
    let (pinned, movable): (Vec<_>, Vec<_>) = found.targets.into_iter().partition(|t| t.reference.digest().is_some());
    let orders: Vec<_> = movable
        .iter()
        .map(|target| build_order(config, state.next_order(&target.name), target, None, input.recreate))
        .collect();
    let mut outcomes = found.unwatchable;
    outcomes.extend(pinned.into_iter().map(|target| Outcome {
        digest: target.reference.digest().cloned(),
        reference: Some(target.reference),
        ..Outcome::new(&target.name, Verdict::Pinned)
    }));
    let placed = host.docker_refresh(orders).into_result()?;
    // The operator sees the result of a manual refresh and no automatic retry follows. So failures are not quarantined.
    let mut quarantine = Quarantine::new(Vec::new(), input.now_ms);
    let settled = |report| settle_report(host, &mut state, &mut quarantine, report);
    outcomes.extend(placed.reports.iter().map(settled));
    Ok(RefreshOutput { state: state.into_value(), orders: placed.accepted, outcomes, ..RefreshOutput::default() })
}

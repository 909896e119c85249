//! The one-shot commands `check` and `refresh`. Each runs over every loaded manifest.

use std::collections::BTreeSet;
use std::sync::Arc;

use futures_util::future::join_all;
use imagewatch_abi::{FailureCode, Order, Outcome, PollMode, Report, Verdict};
use serde::Serialize;

use crate::cli::exit_code::Exit;
use crate::daemon::control::build_result;
use crate::daemon::first_load::Refused;
use crate::daemon::loading::{Deps, LoadedManifest};
use crate::daemon::session::Session;
use crate::daemon::unwatched::{Unwatched, drop_watched, explain};
use crate::daemon::{App, AppError};
use imagewatch_policy::StateKeeping;
use imagewatch_rollout::orders::{Batch, ProgressObserver, no_progress, run_order};

/// The result of `check`, printed as JSON with `--json`.
#[derive(Debug, Default, Serialize)]
pub struct CheckResult {
    /// One outcome for each container of each target.
    pub images: Vec<Outcome>,
    /// The containers that no manifest watches, with the reasons.
    pub not_watched: Vec<Unwatched>,
    /// One line for each manifest that watches nothing, with the reason.
    pub explanations: Vec<String>,
    /// Failures that concern a whole manifest.
    pub errors: Vec<ManifestFailure>,
    #[serde(skip)]
    exit: Option<Exit>,
}

/// The result of `refresh`, printed as JSON with `--json`.
#[derive(Debug, Default, Serialize)]
pub struct RefreshSummary {
    /// Targets with an image that is up to date now.
    pub pulled: Vec<String>,
    /// Targets with an image that is not up to date.
    pub failed: Vec<String>,
    /// Containers that were replaced or removed.
    pub recreated: Vec<String>,
    /// One report for each order.
    pub reports: Vec<Report>,
    /// Targets that the policy did not order, with the reason.
    pub outcomes: Vec<Outcome>,
    /// Failures that concern a whole manifest.
    pub errors: Vec<ManifestFailure>,
    #[serde(skip)]
    exit: Option<Exit>,
}

/// A failure of a manifest or of the whole command.
#[derive(Debug, Serialize)]
pub struct ManifestFailure {
    /// The manifest's name. `None` if the whole command failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub manifest: Option<String>,
    /// The failure as a fragment that reads after "failed to".
    pub message: String,
}

impl CheckResult {
    /// The exit code for this result.
    pub fn exit(&self) -> Exit {
        let is_unknown = self.images.iter().any(|outcome| outcome.verdict == Verdict::Unknown);
        self.exit.unwrap_or(if is_unknown { Exit::Incomplete } else { Exit::Success })
    }
}

impl RefreshSummary {
    /// The exit code for this result.
    pub fn exit(&self) -> Exit {
        let engine_unavailable =
            |report: &Report| report.err.as_ref().is_some_and(|f| f.code == FailureCode::EngineUnavailable);
        let is_not_refreshed = |outcome: &Outcome| matches!(outcome.verdict, Verdict::Failed | Verdict::Unknown);
        let is_incomplete = |report: &Report| report.err.is_some() || !report.failed.is_empty();
        match self.exit {
            Some(exit) => exit,
            None if self.reports.iter().any(engine_unavailable) => Exit::Engine,
            None if self.reports.iter().any(is_incomplete) || self.outcomes.iter().any(is_not_refreshed) => {
                Exit::Incomplete
            }
            None => Exit::Success,
        }
    }
}

/// The orders that one manifest's policy placed for a manual refresh. They have not started yet.
struct PlannedRefresh<'a> {
    ready: &'a LoadedManifest,
    session: Session,
    orders: Vec<Order>,
}

impl App {
    /// Compares what runs with what the registries have. All manifests are checked at the same time.
    pub async fn check(&self) -> CheckResult {
        let tools = self.tools(1, no_progress());
        let mut checked = CheckResult::default();
        self.note_refused(&mut checked.errors, &mut checked.exit);
        let polls = self.ready.iter().map(|ready| async {
            // The check reads the state that `run` stores, so that it predicts the next poll. It writes nothing.
            let mut session = tools.session(ready, &Arc::default(), ready.manifest.host.state);
            // An update by an `imagewatch run` on the same state folder counts as in flight, as in the polls of that
            // run.
            let under_way = self.rollout.journal.open_orders(&ready.manifest.name);
            let polled = session.poll_to_end(under_way, PollMode::Check).await;
            (ready.manifest.name.clone(), polled)
        });
        for (manifest, polled) in join_all(polls).await {
            match polled {
                Err(fault) => {
                    checked.errors.push(ManifestFailure { manifest: Some(manifest), message: fault.to_string() });
                    checked.exit = Some(Exit::Policy);
                }
                Ok((output, _)) => {
                    if output.outcomes.is_empty() && output.err.is_none() {
                        checked.explanations.push(explain(&manifest, &output.not_watched));
                    }
                    let unwatched = |container| Unwatched { manifest: manifest.clone(), container };
                    checked.not_watched.extend(output.not_watched.into_iter().map(unwatched));
                    checked.images.extend(output.outcomes);
                    if let Some(failure) = output.err {
                        checked.exit = Some(exit_of(failure.code));
                        checked
                            .errors
                            .push(ManifestFailure { manifest: Some(manifest), message: format!("check: {failure}") });
                    }
                }
            }
        }
        drop_watched(&mut checked.not_watched, &checked.images);
        checked
    }

    /// Refreshes the targets in `names` in every manifest that knows them. An empty `names` means all targets.
    ///
    /// If no manifest knows one of the names, nothing is refreshed and the result holds the failure.
    ///
    /// # Errors
    /// Another updater runs on the engine.
    pub async fn refresh(
        &self,
        names: &[String],
        recreate: bool,
        parallel: u16,
        progress: &ProgressObserver,
    ) -> Result<RefreshSummary, AppError> {
        self.refuse_beside_another().await?;
        let tools = self.tools(parallel, progress.clone());
        let mut refreshed = RefreshSummary::default();
        self.note_refused(&mut refreshed.errors, &mut refreshed.exit);
        let mut planned = Vec::new();
        let mut unknown: BTreeSet<&String> = names.iter().collect();
        let mut known = BTreeSet::new();
        for ready in &self.ready {
            // Only `imagewatch run` writes the policy's state. This command must not overwrite it.
            let mut session = tools.session(ready, &Arc::default(), StateKeeping::Memory);
            if let Some(orders) = ask(&mut session, names, recreate, &mut unknown, &mut known, &mut refreshed).await {
                planned.push(PlannedRefresh { ready, session, orders });
            }
        }
        if let Some(name) = unknown.first()
            && refreshed.exit.is_none()
        {
            let known: Vec<String> = known.into_iter().collect();
            let message = format!("refresh {name}: unknown target; known targets are {}", known.join(", "));
            refreshed.errors.push(ManifestFailure { manifest: None, message });
            refreshed.exit = Some(Exit::Usage);
            return Ok(refreshed);
        }
        let runs = planned.into_iter().map(|planned| carry_out(planned, &tools));
        refreshed.reports = join_all(runs).await.into_iter().flatten().collect();
        let result = build_result(&refreshed.reports, &refreshed.outcomes);
        (refreshed.pulled, refreshed.failed, refreshed.recreated) = (result.pulled, result.failed, result.recreated);
        Ok(refreshed)
    }

    fn note_refused(&self, errors: &mut Vec<ManifestFailure>, exit: &mut Option<Exit>) {
        for Refused { source, error } in &self.refused {
            errors.push(ManifestFailure { manifest: Some(source.to_string()), message: error.to_string() });
            *exit = Some(error.exit());
        }
    }
}

async fn carry_out(mut planned: PlannedRefresh<'_>, tools: &Deps) -> Vec<Report> {
    let context = tools.orders(&planned.ready.manifest, &planned.ready.plugin);
    let batch = Batch::new(&context.services, planned.orders.clone());
    let reports = join_all(planned.orders.iter().map(|order| run_order(&context, order, &batch))).await;
    // The policy logs the results. Its state ends with this process.
    let mut to_settle = reports.clone();
    to_settle.extend(context.rollout.failures_before(&context.manifest));
    match planned.session.settle(to_settle.clone()).await {
        Err(fault) => tracing::warn!(manifest = planned.ready.manifest.name, "failed to {fault}"),
        Ok(_) => to_settle.iter().for_each(|report| context.rollout.settled(&context.manifest, &report.target)),
    }
    reports
}

/// Lets one policy order a refresh of the targets in `names` that it knows. `None` if it knows none of them or failed.
async fn ask(
    session: &mut Session,
    names: &[String],
    recreate: bool,
    unknown: &mut BTreeSet<&String>,
    known: &mut BTreeSet<String>,
    refreshed: &mut RefreshSummary,
) -> Option<Vec<Order>> {
    let mut targets = (!names.is_empty()).then(|| names.to_vec());
    loop {
        let manifest = session.manifest.name.clone();
        let (output, orders) = match session.refresh(targets.clone(), recreate, &[]).await {
            Ok(answered) => answered,
            Err(fault) => {
                refreshed.errors.push(ManifestFailure { manifest: Some(manifest), message: fault.to_string() });
                refreshed.exit = Some(Exit::Policy);
                return None;
            }
        };
        match output.err {
            None => {
                unknown.retain(|name| targets.as_ref().is_none_or(|targets| !targets.contains(name)));
                refreshed.outcomes.extend(output.outcomes);
                return Some(orders);
            }
            Some(failure) if failure.code == FailureCode::UnknownTarget => {
                let known_here: Vec<String> =
                    names.iter().filter(|name| output.known_targets.contains(name)).cloned().collect();
                known.extend(output.known_targets);
                if known_here.is_empty() || targets.as_ref() == Some(&known_here) {
                    return None;
                }
                targets = Some(known_here);
            }
            Some(failure) => {
                refreshed
                    .errors
                    .push(ManifestFailure { manifest: Some(manifest), message: format!("refresh: {failure}") });
                refreshed.exit = Some(exit_of(failure.code));
                return None;
            }
        }
    }
}

fn exit_of(code: FailureCode) -> Exit {
    match code {
        FailureCode::EngineUnavailable | FailureCode::ListFailed => Exit::Engine,
        FailureCode::ShuttingDown => Exit::Interrupted,
        _ => Exit::Incomplete,
    }
}

//! The commands that end: `check` and `refresh`, over every loaded manifest.

use std::collections::BTreeSet;
use std::sync::Arc;

use futures_util::future::join_all;
use imagewatch_abi::{FailureCode, Order, Outcome, PollMode, Report, Verdict};
use serde::Serialize;

use crate::cli::exit_code::Exit;
use crate::daemon::control::build_result;
use crate::daemon::first_load::Refused;
use crate::daemon::loading::{Ready, Tools};
use crate::daemon::session::Session;
use crate::daemon::unwatched::{Unwatched, drop_watched, explain};
use crate::daemon::{App, AppError};
use imagewatch_policy::StateKeeping;
use imagewatch_rollout::orders::{Batch, ProgressObserver, no_progress, run_order};

/// What a check found.
#[derive(Debug, Default, Serialize)]
pub struct Checked {
    /// One for each container of each target.
    pub images: Vec<Outcome>,
    /// The containers that no manifest watches, and why.
    pub not_watched: Vec<Unwatched>,
    /// Why a manifest watches nothing, a line for each that does.
    pub explanations: Vec<String>,
    /// What went wrong with whole manifests.
    pub errors: Vec<ManifestFailure>,
    #[serde(skip)]
    exit: Option<Exit>,
}

/// What a refresh did.
#[derive(Debug, Default, Serialize)]
pub struct Refreshed {
    /// Targets whose image is there now.
    pub pulled: Vec<String>,
    /// Targets whose image is not.
    pub failed: Vec<String>,
    /// Containers replaced or removed.
    pub recreated: Vec<String>,
    /// Of every order.
    pub reports: Vec<Report>,
    /// Targets that were not ordered, with the reason.
    pub outcomes: Vec<Outcome>,
    /// What went wrong with whole manifests.
    pub errors: Vec<ManifestFailure>,
    #[serde(skip)]
    exit: Option<Exit>,
}

/// A manifest, or a whole command, that failed.
#[derive(Debug, Serialize)]
pub struct ManifestFailure {
    /// The manifest's name; absent where it is no manifest's failure.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub manifest: Option<String>,
    /// A fragment that reads after "failed to".
    pub message: String,
}

impl Checked {
    /// The exit code that goes with it.
    pub fn exit(&self) -> Exit {
        let is_unknown = self.images.iter().any(|outcome| outcome.verdict == Verdict::Unknown);
        self.exit.unwrap_or(if is_unknown { Exit::Incomplete } else { Exit::Success })
    }
}

impl Refreshed {
    /// The exit code that goes with it.
    pub fn exit(&self) -> Exit {
        let is_away = |report: &Report| report.err.as_ref().is_some_and(|f| f.code == FailureCode::EngineUnavailable);
        let is_left_out = |outcome: &Outcome| matches!(outcome.verdict, Verdict::Failed | Verdict::Unknown);
        let is_incomplete = |report: &Report| report.err.is_some() || !report.failed.is_empty();
        match self.exit {
            Some(exit) => exit,
            None if self.reports.iter().any(is_away) => Exit::Engine,
            None if self.reports.iter().any(is_incomplete) || self.outcomes.iter().any(is_left_out) => Exit::Incomplete,
            None => Exit::Success,
        }
    }
}

/// One manifest's answer to a manual refresh, not yet begun.
struct Asked<'a> {
    ready: &'a Ready,
    session: Session,
    orders: Vec<Order>,
}

impl App {
    /// Compares what runs with what registries have, for every manifest side by side.
    pub async fn check(&self) -> Checked {
        let tools = self.tools(1, no_progress());
        let mut checked = Checked::default();
        self.note_refused(&mut checked.errors, &mut checked.exit);
        let polls = self.ready.iter().map(|ready| async {
            // It reads what `run` has seen and ordered, so that it announces what the next poll does; it writes nothing.
            let mut session = tools.session(ready, &Arc::default(), ready.manifest.host.state);
            // An update of a `run` beside it is under way, as that program's own polls have it.
            let under_way = self.replacer.journal.open_orders(&ready.manifest.name);
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

    /// Refreshes the targets in `names`, or all, wherever a manifest knows them. A name that none
    /// knows is refused before anything is touched.
    ///
    /// # Errors
    /// When another updater runs on the engine.
    pub async fn refresh(
        &self,
        names: &[String],
        recreate: bool,
        parallel: u16,
        progress: &ProgressObserver,
    ) -> Result<Refreshed, AppError> {
        self.refuse_beside_another().await?;
        let tools = self.tools(parallel, progress.clone());
        let mut refreshed = Refreshed::default();
        self.note_refused(&mut refreshed.errors, &mut refreshed.exit);
        let mut asked = Vec::new();
        let mut unknown: BTreeSet<&String> = names.iter().collect();
        let mut known = BTreeSet::new();
        for ready in &self.ready {
            // What `run` keeps is its own: a command that ends beside it writes no state.
            let mut session = tools.session(ready, &Arc::default(), StateKeeping::Memory);
            if let Some(orders) = ask(&mut session, names, recreate, &mut unknown, &mut known, &mut refreshed).await {
                asked.push(Asked { ready, session, orders });
            }
        }
        if let Some(name) = unknown.first()
            && refreshed.exit.is_none()
        {
            let known: Vec<String> = known.into_iter().collect();
            let message = format!("refresh {name}: unknown target; known are {}", known.join(", "));
            refreshed.errors.push(ManifestFailure { manifest: None, message });
            refreshed.exit = Some(Exit::Usage);
            return Ok(refreshed);
        }
        let runs = asked.into_iter().map(|asked| carry_out(asked, &tools));
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

async fn carry_out(mut asked: Asked<'_>, tools: &Tools) -> Vec<Report> {
    let context = tools.orders(&asked.ready.manifest, &asked.ready.plugin);
    let batch = Batch::new(&context.services, asked.orders.clone());
    let reports = join_all(asked.orders.iter().map(|order| run_order(&context, order, &batch))).await;
    // The policy logs what became of them; its state ends with this process.
    let mut told = reports.clone();
    told.extend(context.replacer.failures_before(&context.manifest));
    match asked.session.settle(told.clone()).await {
        Err(fault) => tracing::warn!(manifest = asked.ready.manifest.name, "failed to {fault}"),
        Ok(_) => told.iter().for_each(|report| context.replacer.settled(&context.manifest, &report.target)),
    }
    reports
}

/// Asks one policy for those of `names` that it knows. `None` when it knows none, or failed.
async fn ask(
    session: &mut Session,
    names: &[String],
    recreate: bool,
    unknown: &mut BTreeSet<&String>,
    known: &mut BTreeSet<String>,
    refreshed: &mut Refreshed,
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
                let here: Vec<String> =
                    names.iter().filter(|name| output.known_targets.contains(name)).cloned().collect();
                known.extend(output.known_targets);
                if here.is_empty() || targets.as_ref() == Some(&here) {
                    return None;
                }
                targets = Some(here);
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

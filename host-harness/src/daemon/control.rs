//! What the admin API can reach of the running actors.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;

use async_trait::async_trait;
use imagewatch_abi::{FailureCode, Outcome, Report, Verdict};
use tokio::sync::{mpsc, oneshot, watch};
use tracing::info;

use super::history::as_events;
use super::quarantine::name_manifests;
use crate::daemon::status::{
    Control, Event, ManifestReadiness, NotRecreated, PluginStatus, QuarantinedDigest, RefreshAnswer, RefreshResult,
    ReloadAnswer, RollbackAnswer, TargetStatus,
};
use crate::daemon::watch::{RefreshReply, RefreshRequest, ReloadReply, ReloadRequest, Status};
use crate::store::{HistoryQuery, Store};
use imagewatch_policy::{Record, RollbackError, roll_back};

/// The manifest that the workspaces endpoint serves.
const WORKSPACES: &str = "workspaces";

/// Every manifest, loaded or not.
#[derive(Debug)]
pub(crate) struct Handles {
    pub(crate) manifests: Vec<ManifestHandle>,
    pub(crate) store: Arc<Store>,
    pub(crate) state_dir: PathBuf,
}

/// An actor from outside.
#[derive(Debug)]
pub(crate) struct ManifestHandle {
    pub(crate) name: String,
    pub(crate) requests: mpsc::Sender<RefreshRequest>,
    pub(crate) status: watch::Receiver<Status>,
    pub(crate) reloads: mpsc::Sender<ReloadRequest>,
    pub(crate) record: Arc<Record>,
}

impl ManifestHandle {
    async fn reload(&self) -> ReloadAnswer {
        let (reply, answer) = oneshot::channel();
        let is_sent = self.reloads.send(ReloadRequest { reply: Some(reply) }).await.is_ok();
        match answer.await {
            Ok(ReloadReply::Swapped { policy, sha256 }) if is_sent => ReloadAnswer::Swapped { policy, sha256 },
            Ok(ReloadReply::Unchanged) => ReloadAnswer::Unchanged,
            Ok(ReloadReply::Refused(reason)) => ReloadAnswer::Refused(format!("failed to {reason}")),
            _ => ReloadAnswer::Refused("imagewatch is stopping".to_owned()),
        }
    }
}

impl Handles {
    fn handle(&self, manifest: &str) -> Option<&ManifestHandle> {
        self.manifests.iter().find(|handle| handle.name == manifest)
    }

    /// The manifest named `workspaces`, or the only one that is at work.
    fn workspaces(&self) -> Option<&ManifestHandle> {
        let named = self.handle(WORKSPACES);
        named.or_else(|| {
            let mut at_work = self.manifests.iter().filter(|handle| handle.record.read().running.is_some());
            at_work.next().filter(|_| at_work.next().is_none())
        })
    }
}

#[async_trait]
impl Control for Handles {
    async fn refresh_workspaces(&self, runtime: Option<String>, recreate: bool) -> RefreshAnswer {
        let Some(handle) = self.workspaces() else { return RefreshAnswer::NoSuchManifest };
        let (reply, answer) = oneshot::channel();
        let request = RefreshRequest { targets: runtime.map(|name| vec![name]), recreate, reply };
        let is_sent = handle.requests.send(request).await.is_ok();
        match answer.await {
            Ok(reply) if is_sent => build_answer(reply, recreate),
            _ => {
                RefreshAnswer::Failed { error: "imagewatch is stopping".to_owned(), partial: RefreshResult::default() }
            }
        }
    }

    fn readiness(&self) -> Vec<ManifestReadiness> {
        let of = |handle: &ManifestHandle| ManifestReadiness {
            manifest: handle.name.clone(),
            not_ready: if handle.status.has_changed().is_err() {
                Some("its actor has ended".to_owned())
            } else {
                handle.status.borrow().not_ready.clone()
            },
        };
        self.manifests.iter().map(of).collect()
    }

    fn plugins(&self) -> Vec<PluginStatus> {
        let of = |handle: &ManifestHandle| PluginStatus { manifest: handle.name.clone(), record: handle.record.read() };
        self.manifests.iter().map(of).collect()
    }

    async fn reload_plugin(&self, manifest: &str) -> ReloadAnswer {
        match self.handle(manifest) {
            Some(handle) => handle.reload().await,
            None => ReloadAnswer::NoSuchManifest,
        }
    }

    async fn roll_back_plugin(&self, manifest: &str) -> RollbackAnswer {
        let Some(handle) = self.handle(manifest) else { return RollbackAnswer::NoSuchManifest };
        let (state_dir, name) = (self.state_dir.clone(), manifest.to_owned());
        let rolled_back = tokio::task::spawn_blocking(move || roll_back(&state_dir, &name)).await;
        match rolled_back {
            Ok(Ok(_)) => RollbackAnswer::Done(handle.reload().await),
            Ok(Err(error @ RollbackError::Refused { .. })) => RollbackAnswer::Failed(format!("failed to {error}")),
            Ok(Err(error)) => RollbackAnswer::NothingBefore(format!("failed to {error}")),
            Err(error) => RollbackAnswer::Failed(format!("the host panicked: {error}; please report it")),
        }
    }

    fn targets(&self) -> Vec<TargetStatus> {
        let of = |handle: &ManifestHandle| {
            let (outcomes, at_ms) = {
                let status = handle.status.borrow();
                (status.outcomes.clone(), status.at_ms)
            };
            let manifest = handle.name.clone();
            outcomes.into_iter().map(move |outcome| TargetStatus { at_ms, manifest: manifest.clone(), outcome })
        };
        self.manifests.iter().flat_map(of).collect()
    }

    fn quarantine(&self) -> Result<Vec<QuarantinedDigest>, String> {
        self.store.all_quarantined().map(name_manifests).map_err(|error| format!("failed to {error}"))
    }

    fn history(&self, target: Option<String>, manifest: Option<String>, limit: u32) -> Result<Vec<Event>, String> {
        let query = HistoryQuery { manifest, target, limit };
        self.store.history(&query).map(as_events).map_err(|error| format!("failed to {error}"))
    }

    fn clear_quarantine(&self, target: &str, manifest: Option<&str>) -> Result<Vec<QuarantinedDigest>, String> {
        let cleared = self.store.clear_quarantine(manifest, &[target.to_owned()]);
        let cleared = cleared.map(name_manifests).map_err(|error| format!("failed to {error}"))?;
        for QuarantinedDigest { manifest, entry } in &cleared {
            info!(manifest, target = entry.target, digest = entry.digest.short(), "cleared from quarantine by hand");
        }
        Ok(cleared)
    }
}

fn build_answer(reply: RefreshReply, recreate: bool) -> RefreshAnswer {
    match reply.err {
        Some(failure) if failure.code == FailureCode::UnknownTarget => {
            RefreshAnswer::UnknownTarget { known: reply.known_targets }
        }
        Some(failure) => RefreshAnswer::Failed { error: failure.message, partial: RefreshResult::default() },
        None => {
            let result = build_result(&reply.reports, &reply.outcomes);
            // Who only pulls lists no containers.
            match reply.reports.iter().filter(|_| recreate).find_map(listing_failure) {
                Some(error) => RefreshAnswer::Failed { error, partial: result },
                None => RefreshAnswer::Done(result),
            }
        }
    }
}

/// The seed system's rule: a failed pull is that runtime's own; containers that cannot be listed are an error of the whole.
fn listing_failure(report: &Report) -> Option<String> {
    let is_whole =
        |code| matches!(code, FailureCode::ListFailed | FailureCode::EngineUnavailable | FailureCode::ShuttingDown);
    report.err.as_ref().filter(|failure| is_whole(failure.code)).map(|failure| failure.message.clone())
}

/// Targets pulled and failed (refused ones too), containers recreated and not; each sorted.
pub(crate) fn build_result(reports: &[Report], outcomes: &[Outcome]) -> RefreshResult {
    let sorted = |names: &mut dyn Iterator<Item = &String>| {
        names.cloned().collect::<BTreeSet<String>>().into_iter().collect::<Vec<String>>()
    };
    let pulled = |is: bool| reports.iter().filter(move |report| report.pulled == is).map(|report| &report.target);
    let refused = outcomes.iter().filter(|outcome| outcome.verdict == Verdict::Failed).map(|outcome| &outcome.target);
    let failures = reports.iter().flat_map(|report| &report.failed);
    let not_recreated: BTreeSet<NotRecreated> = failures
        .map(|failure| NotRecreated { container: failure.container.clone(), reason: failure.reason.clone() })
        .collect();
    RefreshResult {
        pulled: sorted(&mut pulled(true)),
        failed: sorted(&mut pulled(false).chain(refused)),
        recreated: sorted(&mut reports.iter().flat_map(|report| &report.recreated)),
        not_recreated: not_recreated.into_iter().collect(),
    }
}

#[cfg(test)]
mod tests {
    use imagewatch_abi::Failure;

    use super::*;

    fn report(target: &str, pulled: bool, code: Option<FailureCode>) -> Report {
        Report {
            target: target.to_owned(),
            pulled,
            recreated: if pulled { vec![format!("ws-{target}")] } else { vec![] },
            err: code.map(|code| Failure::retryable(code, "why")),
            ..Report::default()
        }
    }

    #[test]
    fn a_failed_pull_is_its_runtimes_own() {
        let reports = vec![report("b", true, None), report("a", false, Some(FailureCode::PullFailed))];
        let RefreshAnswer::Done(result) = build_answer(RefreshReply { reports, ..RefreshReply::default() }, true)
        else {
            panic!("the refresh as a whole is done")
        };
        assert_eq!(
            (result.pulled, result.failed, result.recreated),
            (vec!["b".to_owned()], vec!["a".to_owned()], vec!["ws-b".to_owned()])
        );
    }

    #[test]
    fn a_container_that_was_not_recreated_is_told_with_the_reason_beside_what_was() {
        let failure = |container: &str, reason: &str| imagewatch_abi::ContainerFailure {
            container: container.to_owned(),
            reason: reason.to_owned(),
            ..imagewatch_abi::ContainerFailure::default()
        };
        let failed =
            vec![failure("ws-c", "it is unhealthy; the old container is back"), failure("ws-a", "it is paused")];
        let reports = vec![Report { failed, ..report("b", true, None) }];
        let answer = build_answer(RefreshReply { reports, ..RefreshReply::default() }, true);
        let RefreshAnswer::Done(result) = answer else { panic!("the refresh as a whole is done") };
        let expected = serde_json::json!({
            "pulled": ["b"], "failed": [], "recreated": ["ws-b"],
            "not_recreated": [
                { "container": "ws-a", "reason": "it is paused" },
                { "container": "ws-c", "reason": "it is unhealthy; the old container is back" },
            ],
        });
        assert_eq!(serde_json::to_value(result).expect("it can be written"), expected);
    }

    #[test]
    fn without_recreate_an_engine_that_is_away_is_a_failed_pull() {
        let reports = vec![report("a", false, Some(FailureCode::EngineUnavailable))];
        let answer = build_answer(RefreshReply { reports, ..RefreshReply::default() }, false);
        assert!(matches!(answer, RefreshAnswer::Done(result) if result.failed == ["a"]));
    }

    #[test]
    fn a_target_whose_order_was_refused_is_a_failed_one() {
        let outcomes = vec![Outcome::new("a", Verdict::Failed), Outcome::new("b", Verdict::Pinned)];
        let answer = build_answer(RefreshReply { outcomes, ..RefreshReply::default() }, true);
        assert!(matches!(answer, RefreshAnswer::Done(result) if result.failed == ["a"]));
    }

    #[test]
    fn containers_that_cannot_be_listed_fail_the_whole_with_the_partial_result() {
        let reports = vec![report("a", true, Some(FailureCode::ListFailed))];
        let answer = build_answer(RefreshReply { reports, ..RefreshReply::default() }, true);
        assert!(matches!(answer, RefreshAnswer::Failed { partial, .. } if partial.pulled == ["a"]));
    }
}

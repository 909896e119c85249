//! Updating the updater itself where it cannot run beside its successor, since both want one port or one address: a
//! helper, a container on the image that is known to work, carries the usual transaction out on the updater from
//! outside, and then removes itself.
//!
//! What it is to do is a label on it. It is started again by the engine when it is killed, and by any updater that
//! finds it dead; until it is gone, nobody else touches its transaction. What failed it leaves in the journal, for the
//! updater that runs after it.

use std::path::Path;
use std::time::Duration;

use imagewatch_abi::{ContainerFailure, Fault, Strategy};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};
use tracing::{info, warn};

use super::ending::{name_of, tolerate_fixed_policy};
use super::journal::{Claim, JournalEntry};
use super::label::TransactionLabel;
use super::labels::{ENABLE, UPDATER};
use super::plan::Plan;
use super::preflight::Preflight;
use super::recovery::Incomplete;
use super::snapshot::EngineSnapshot;
use super::step_error::StepError;
use super::{Job, NewImage, ReplaceError, Rollout};
use imagewatch_engine::{EngineError, Listed};

/// The label that makes a container a helper.
const LABEL: &str = imagewatch_abi::label::ERRAND;
/// From here on a helper that has begun nothing is called back; long, for hooks come before the beginning.
const BEGINS_TIMEOUT: Duration = Duration::from_mins(15);
/// A helper that ended so often before it began anything will not begin.
const FAILED_STARTS: u64 = 3;
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// What a helper is to do.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct SelfUpdateJob {
    /// The updater as it was, and on whose behalf; the transaction's id is that of the job.
    facts: TransactionLabel,
    /// The id of the image that it is to run.
    image: String,
    /// The reference that it is to be created from; absent: the one it has.
    #[serde(default)]
    reference: Option<String>,
    /// What that was pulled for.
    #[serde(default)]
    platform: Option<String>,
}

impl SelfUpdateJob {
    fn of(listed: &Listed) -> Option<Self> {
        serde_json::from_str(listed.labels().get(LABEL)?).ok()
    }

    fn container(&self) -> &str {
        &self.facts.state.name
    }

    fn job(&self) -> Job<'_> {
        Job {
            image: NewImage {
                id: &self.image,
                reference: self.reference.as_deref(),
                platform: self.platform.as_deref(),
            },
            strategy: Strategy::Replace,
            stable_for: Duration::from_millis(self.facts.stable_for_ms),
            companions: Vec::new(),
            origin: self.facts.origin.clone(),
            slot: None,
        }
    }
}

/// Why no helper can replace this updater, as a lowercase fragment that says what to do; `None` if one can.
pub(super) fn reason_against_helper(own: &Value, state_folder: &Path) -> Option<String> {
    if own["HostConfig"]["AutoRemove"] == true {
        return Some("would be gone when it is stopped; update it by hand".to_owned());
    }
    let mounts = own["Mounts"].as_array().into_iter().flatten().filter_map(|mount| mount["Destination"].as_str());
    let is_shared = mounts.into_iter().any(|mount| state_folder.starts_with(mount));
    (!is_shared).then(|| {
        let folder = state_folder.display();
        format!("its state folder {folder} is on no volume, where its helper would find it; give it one, or update it by hand")
    })
}

/// The updater's own create body, less all that only one container can have and all that others know it by.
fn helper_body(plan: &Plan, job: &SelfUpdateJob) -> Value {
    let mut body = plan.body.clone();
    let label = serde_json::to_string(job).unwrap_or_default();
    body["Image"] = json!(job.facts.state.old_image);
    // Its image may carry these with other values.
    body["Labels"] = json!({ LABEL: label, UPDATER: "false", ENABLE: "false" });
    body["Healthcheck"] = json!({ "Test": ["NONE"] });
    body["ExposedPorts"] = json!({});
    for field in ["MacAddress", "Hostname"] {
        body.as_object_mut().map(|body| body.remove(field));
    }
    let host = &mut body["HostConfig"];
    host["PortBindings"] = json!({});
    host["PublishAllPorts"] = json!(false);
    host["Links"] = Value::Null;
    host["RestartPolicy"] = working_policy();
    let endpoints = body["NetworkingConfig"]["EndpointsConfig"].as_object_mut();
    endpoints.into_iter().flatten().for_each(|(_, endpoint)| *endpoint = json!({}));
    body
}

/// Until it ends by itself.
fn working_policy() -> Value {
    json!({ "Name": "on-failure" })
}

impl Rollout {
    /// Has this updater replaced by a helper. Returns only when that did not come off: else this program is stopped.
    pub(super) async fn send_helper(&self, preflight: Preflight, job: &mut Job<'_>) -> ReplaceError {
        drop(job.slot.take());
        let job = SelfUpdateJob {
            facts: preflight.transaction.facts(0),
            image: job.image.id.to_owned(),
            reference: job.image.reference.map(str::to_owned),
            platform: job.image.platform.map(str::to_owned),
        };
        match self.start_helper(&preflight, &job).await {
            Ok(helper) => self.await_helper(&job, &helper).await,
            Err(step_error) => ReplaceError::untouched(step_error),
        }
    }

    async fn start_helper(&self, preflight: &Preflight, job: &SelfUpdateJob) -> Result<String, StepError> {
        let failed = |error: EngineError| StepError::engine("start a helper to replace this updater", &error);
        let listed = self.engine.list().await.map_err(failed)?;
        if listed.iter().filter_map(SelfUpdateJob::of).any(|other| other.container() == job.container()) {
            return Err(StepError::of(Fault::Postponed, "a helper is at work on it"));
        }
        let plan = self.plan_again(&preflight.transaction, preflight.root()).await.map_err(failed)?;
        let name = job.facts.state.helper_name(&job.facts.transaction);
        let body = helper_body(&plan, job);
        let helper = self.engine.create_container(&name, &body, plan.platform.as_deref()).await.map_err(failed)?;
        info!(container = job.container(), helper = %name, "a helper replaces this updater");
        let started = async {
            for (network, _) in &plan.networks_to_connect {
                self.engine.connect_network(network, &helper, &json!({})).await?;
            }
            for network in &plan.networks_to_disconnect {
                self.engine.disconnect_network(network, &helper).await?;
            }
            self.engine.start(&helper).await
        };
        if let Err(error) = started.await {
            // One that stays is removed with the next poll, as it was never started, or ends by itself.
            if let Err(error) = self.call_back(job, &helper).await {
                warn!(helper = %name, %error, "the helper could not be removed yet");
            }
            return Err(failed(error));
        }
        Ok(helper)
    }

    /// Until the helper stops this program, or has gone without.
    async fn await_helper(&self, job: &SelfUpdateJob, helper: &str) -> ReplaceError {
        let until = Instant::now() + BEGINS_TIMEOUT;
        loop {
            sleep(LOOK_EVERY).await;
            let inspection = match self.find(helper).await {
                Ok(Some(inspection)) => inspection,
                Ok(None) => return self.failure_of(job),
                // It needs the engine as much as this program does.
                Err(_) => continue,
            };
            let state = &inspection["State"];
            let is_up = state["Running"] == true || state["Restarting"] == true;
            if !is_up && state["ExitCode"] == 0 {
                // What is not removed now is with the next poll.
                let _ = self.remove(helper).await;
                return self.failure_of(job);
            }
            let is_failing = inspection["RestartCount"].as_u64().is_some_and(|count| count >= FAILED_STARTS);
            if (!is_up || is_failing || Instant::now() >= until)
                && self.call_back(job, helper).await.is_ok_and(|is_back| is_back)
            {
                return self.failure_of(job);
            }
        }
    }

    /// Removes a helper that has begun nothing; one that has goes on. Whether it is gone.
    async fn call_back(&self, job: &SelfUpdateJob, helper: &str) -> Result<bool, EngineError> {
        // Stopped first: one that is still there could begin at the very moment at which nothing is found.
        tolerate_fixed_policy(self.engine.set_restart_policy(helper, &json!({ "Name": "no" })).await)?;
        self.stop(helper).await?;
        let is_its = |open: &Incomplete| open.names().iter().any(|name| name == job.container());
        if self.open().await?.iter().any(is_its) {
            tolerate_fixed_policy(self.engine.set_restart_policy(helper, &working_policy()).await)?;
            self.engine.start(helper).await?;
            return Ok(false);
        }
        self.remove(helper).await?;
        Ok(true)
    }

    /// What a helper wrote down before it went.
    fn failure_of(&self, job: &SelfUpdateJob) -> ReplaceError {
        let written = match self.journal.claim(&job.facts.transaction) {
            Claim::Acquired(record, entry) => {
                let failure = entry.failure.clone();
                self.keep_until_settled(record, *entry);
                failure
            }
            Claim::Missing | Claim::Held => None,
        };
        let Some(ContainerFailure { reason, fault, log, .. }) = written else {
            let reason = "the helper that was to replace this updater ended without a word";
            return ReplaceError::untouched(StepError::of(Fault::Host, reason));
        };
        let step_error = StepError { reason: reason.clone(), fault, engine_unreachable: false, log };
        ReplaceError { reason, is_restored: false, is_down: false, step_error }
    }

    /// At the start of a program: if it runs in a helper, does what that is for. Whether it was one.
    ///
    /// # Errors
    /// What did not come off; to be begun again by the next start.
    pub async fn run_self_update(&self) -> Result<bool, ReplaceError> {
        let failed =
            |error: EngineError| ReplaceError::untouched(StepError::engine("look for a self-update job", &error));
        let Some(own) = &self.own_id else { return Ok(false) };
        let listed = self.engine.list().await.map_err(failed)?;
        let Some(job) = listed.iter().find(|listed| listed.id == *own).and_then(SelfUpdateJob::of) else {
            return Ok(false);
        };
        info!(container = job.container(), "replacing the updater from outside");
        if let Some(failure) = self.do_self_update(&job).await? {
            warn!(container = job.container(), reason = %failure.reason, "the updater was not replaced");
            self.leave_word(&job, failure);
            // What this program took down of it says no more.
            self.settled(&job.facts.origin.manifest, &job.facts.origin.target);
        }
        // This ends the program. One that is left over, having ended well, is removed by whoever finds it.
        if let Err(error) = self.remove(own).await {
            warn!(%error, "the helper could not remove itself");
        }
        Ok(true)
    }

    /// Returns why the updater stays as it is; fails as long as something is half done.
    async fn do_self_update(&self, job: &SelfUpdateJob) -> Result<Option<ContainerFailure>, ReplaceError> {
        let names = [job.container().to_owned()];
        {
            let _locked = self.locks.lock(&names).await;
            self.recover_names(&names).await.map_err(ReplaceError::untouched)?;
        }
        let mut reports = self.take_reports(&job.facts.origin.manifest).into_iter();
        if let Some(failure) = reports.find_map(|report| report.failed.into_iter().next()) {
            return Ok(Some(failure));
        }
        let mut replacement = job.job();
        let ended = match self.preflight(job.container(), &replacement, &EngineSnapshot::default()).await {
            Ok(Some(preflight)) if preflight.root().container["Image"] != job.image.as_str() => {
                self.replace(preflight, &mut replacement).await.map(drop)
            }
            Ok(_) => Ok(()),
            Err(error) => Err(error),
        };
        let Err(error) = ended else { return Ok(None) };
        let open = self.open().await;
        let is_half_done = |open: &Incomplete| open.names().contains(&names[0]);
        if error.step_error.engine_unreachable || open.is_err() || open.is_ok_and(|open| open.iter().any(is_half_done))
        {
            return Err(error);
        }
        if let (Some(Fault::Image), Some(reference)) = (error.step_error.fault, &job.facts.origin.reference) {
            self.give_tag_back(reference, &job.facts.state.old_image).await;
        }
        Ok(Some(ContainerFailure { reason: error.reason, ..error.step_error.as_failure(job.container()) }))
    }

    fn leave_word(&self, job: &SelfUpdateJob, failure: ContainerFailure) {
        let failure = ContainerFailure { log: Vec::new(), ..failure };
        let entry = JournalEntry {
            facts: Some(job.facts.clone()),
            failure: Some(failure),
            is_over: true,
            ..JournalEntry::default()
        };
        if let Err(error) = self.journal.begin(&job.facts.transaction, &entry) {
            warn!(container = job.container(), %error, "the journal cannot be written; the updater will not know why");
        }
    }

    /// Helpers that were killed are started again, and those that are through are removed.
    pub(super) async fn tend_helpers(&self) -> Result<(), EngineError> {
        let own = self.journal.owner();
        for listed in self.engine.list().await? {
            let Some(job) = SelfUpdateJob::of(&listed).filter(|job| job.facts.owner == own) else { continue };
            let is_up = !matches!(listed.state.as_str(), "created" | "exited" | "stopped" | "dead");
            // Who sent it and waits for it has the lock.
            let Some(_locked) = self.locks.try_lock(&[job.container().to_owned()]).filter(|_| !is_up) else {
                continue;
            };
            let Some(inspection) = self.find(&listed.id).await? else { continue };
            let is_through = listed.state == "created" || inspection["State"]["ExitCode"] == 0;
            if is_through {
                self.remove(&listed.id).await?;
            } else {
                warn!(helper = name_of(&inspection), "a helper was killed in the middle; started again");
                self.engine.start(&listed.id).await?;
            }
        }
        Ok(())
    }

    /// Whether a helper is at work on one of a transaction's containers, or will be again. In doubt it is.
    pub(super) async fn is_left_to_helper(&self, open: &Incomplete) -> bool {
        let names = open.names();
        let is_its = |listed: &Listed| {
            Some(listed.id.as_str()) != self.own_id.as_deref()
                && SelfUpdateJob::of(listed).is_some_and(|job| names.contains(&job.facts.state.name))
        };
        self.engine.list().await.map_or(true, |listed| listed.iter().any(is_its))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn t40_a_helper_needs_the_state_folder_of_the_updater() {
        let own =
            |rm: bool, mount: &str| json!({ "HostConfig": { "AutoRemove": rm }, "Mounts": [{ "Destination": mount }] });
        for (case, own, says) in [
            ("the folder itself", own(false, "/var/lib/imagewatch"), None),
            ("a folder above it", own(false, "/var/lib"), None),
            ("another folder", own(false, "/var/lib/image"), Some("on no volume")),
            ("nothing", json!({}), Some("on no volume")),
            ("--rm", own(true, "/var/lib"), Some("would be gone")),
        ] {
            let reason = reason_against_helper(&own, Path::new("/var/lib/imagewatch"));
            assert_eq!(reason.is_some(), says.is_some(), "{case}: {reason:?}");
            assert!(reason.unwrap_or_default().contains(says.unwrap_or_default()), "{case}");
        }
    }
}

//! Swapping containers for ones on a newer image, so that either all of it happens or nothing.
//!
//! Every new container is created completely, under a temporary name, before its predecessor is touched; that one
//! is kept, stopped and renamed, until the new one is healthy. Volumes are never removed. What is done is written
//! into labels as it is done (`facts`), so that `recovery` can end any transaction whose program died. Decides
//! nothing about whether to replace.

use std::ops::Range;
use std::time::Duration;

use imagewatch_abi::{ContainerFailure, Fault, Reference};
use serde_json::{Value, json};
use tracing::{info, warn};

use super::ending::{Transaction, gone_is_fine, id_of};
use super::health::{GateError, HealthGate};
use super::journal::{JournalEntry, JournalHandle};
use super::label::{self, MemberAction, MemberState, SwapMode, TransactionLabel};
use super::labels::{Hook, Labels};
use super::plan::{Plan, PlanInput, build_plan, own_platform};
use super::preflight::Preflight;
use super::recovery::Incomplete;
use super::step_error::StepError;
use super::{Job, ReplaceError, Replaced, Rollout};
use imagewatch_engine::EngineError;

/// Lines of a failed container's log that are kept.
const LOG_LINES: u16 = 20;

impl Rollout {
    /// Replaces the container `job` names, and whatever cannot live without it. Its reference must already
    /// name the new image locally. Containers that ran must then be healthy; those that were stopped are left stopped.
    ///
    /// # Errors
    /// Why not, and what became of the old container: it was not touched, or it is back, or where to look for it.
    pub async fn replace(&self, preflight: Preflight, job: &mut Job<'_>) -> Result<Replaced, ReplaceError> {
        if preflight.needs_helper {
            return Err(self.send_helper(preflight, job).await);
        }
        let untouched = |step_error| ReplaceError::untouched(step_error);
        self.ask_all(&preflight, Hook::PreCheck).await.map_err(untouched)?;
        // A container's settings may hold secrets, so they are written down only where they would be lost.
        let snapshots = preflight.snapshots.iter().filter(|snapshot| snapshot.goes_when_stopped()).cloned().collect();
        let states = preflight.transaction.members.iter().map(|member| member.state.old.clone());
        let networks = states.zip(preflight.snapshots.iter().map(|snapshot| snapshot.networks().clone())).collect();
        let entry = JournalEntry {
            facts: Some(preflight.transaction.facts(0)),
            snapshots,
            networks,
            ..JournalEntry::default()
        };
        let record = self.journal.begin(&preflight.transaction.id, &entry).map_err(|error| {
            let folder = "the state folder's journal; make room there or choose another with --state-dir";
            // Nothing is wrong with the image or the container: as soon as there is room the next poll goes on.
            untouched(StepError::of(Fault::Postponed, format!("failed to write {folder}: {error}")))
        })?;
        let mut attempt =
            Attempt { rollout: self, preflight, job, record, entry, is_touched: false, is_answer_lost: false };
        match attempt.run().await {
            Ok(()) => Ok(attempt.succeed().await),
            Err(step_error) => Err(attempt.give_up(step_error).await),
        }
    }
}

/// A transaction under way in this program.
struct Attempt<'a, 'j> {
    rollout: &'a Rollout,
    preflight: Preflight,
    job: &'a mut Job<'j>,
    record: JournalHandle,
    entry: JournalEntry,
    /// Whether an old container may no longer be as it was.
    is_touched: bool,
    /// Whether a new container may be there of which nobody heard, since the engine could not be asked. One that it only
    /// makes later is not known of either, and is found by its label.
    is_answer_lost: bool,
}

impl Attempt<'_, '_> {
    async fn run(&mut self) -> Result<(), StepError> {
        self.create(0).await?;
        self.be_the_only_one().await?;
        for index in 1..self.members().len() {
            let state = &self.members()[index].state;
            if state.leads {
                self.create(index).await?;
            } else if state.action == MemberAction::Recreate {
                // A dependent that cannot be recreated must be found before anything is stopped.
                self.plan(index).await?;
            }
        }
        self.rollout.ask_all(&self.preflight, Hook::PreUpdate).await?;
        match self.preflight.transaction.swap {
            SwapMode::StopFirst => self.stop_first().await,
            SwapMode::StartFirst => self.start_first().await,
            SwapMode::Handover => self.hand_over().await,
        }
    }

    /// Another program may have begun at the same moment; both then leave it at that.
    async fn be_the_only_one(&self) -> Result<(), StepError> {
        let open = self.rollout.open().await;
        let open = open.map_err(|error| StepError::engine("look for other replacements", &error))?;
        let names: Vec<&String> = self.members().iter().map(|member| &member.state.name).collect();
        let is_other = |other: &Incomplete| {
            other.transaction.id != self.preflight.transaction.id
                && other.names().iter().any(|name| names.contains(&name))
        };
        if open.iter().any(is_other) {
            return Err(StepError::of(Fault::Postponed, "another program is replacing it"));
        }
        Ok(())
    }

    async fn stop_first(&mut self) -> Result<(), StepError> {
        self.is_touched = true;
        self.entry.is_stopping = true;
        for stage in self.preflight.transaction.stages() {
            self.entry.untouched = self.members()[stage.end..].iter().map(|member| member.state.old.clone()).collect();
            self.write_down();
            self.swap(stage).await?;
        }
        Ok(())
    }

    /// Puts the new containers of a stage in the place of the old ones.
    async fn swap(&mut self, stage: Range<usize>) -> Result<(), StepError> {
        let (first, others) = (stage.start, stage.start + 1..stage.end);
        for index in others.clone().rev() {
            self.take_down_old(index).await?;
        }
        self.take_down_old(first).await?;
        self.take_over(first).await?;
        for index in others {
            if self.members()[index].state.action == MemberAction::Recreate {
                // Only now: its predecessor's parent goes by this name again.
                self.create(index).await?;
                self.take_over(index).await?;
            }
        }
        Ok(())
    }

    /// The new container takes the name while both run; the old one is stopped last.
    async fn start_first(&mut self) -> Result<(), StepError> {
        let drain = Labels::of(&self.preflight.root().container).drain().map_err(StepError::refused)?;
        let new = self.new_id(0)?.to_owned();
        self.rollout.engine.start(&new).await.map_err(|error| StepError::start(&error))?;
        self.pass_gate(0).await?;
        self.is_touched = true;
        let state = self.members()[0].state.clone();
        self.rollout
            .suspend_restart_policy(&state)
            .await
            .map_err(|error| StepError::engine("change the old container's policy", &error))?;
        self.rename(0).await?;
        if let Some(drain) = drain {
            tokio::time::sleep(drain).await;
        }
        Ok(())
    }

    /// The updater itself: its successor is started and does the rest, see `handover`.
    async fn hand_over(&mut self) -> Result<(), StepError> {
        let new = self.new_id(0)?.to_owned();
        self.is_touched = true;
        self.rollout.engine.start(&new).await.map_err(|error| StepError::start(&error))?;
        self.rollout.await_successor(&new).await
    }

    /// Puts the old container to rest under no policy, so that nothing wakes it.
    async fn take_down_old(&mut self, index: usize) -> Result<(), StepError> {
        let state = self.members()[index].state.clone();
        let about = |what: &str| format!("{what} {}", state.name);
        if state.action == MemberAction::Recreate {
            let disarmed = self.rollout.suspend_restart_policy(&state).await;
            disarmed.map_err(|error| StepError::engine(&about("change the policy of"), &error))?;
        }
        self.rollout.stop(&state.old).await.map_err(|error| StepError::engine(&about("stop"), &error))?;
        if self.preflight.snapshots[index].goes_when_stopped() {
            self.rollout
                .wait_until_gone(&state.old)
                .await
                .map_err(|error| StepError::engine(&about("see the end of"), &error))?;
        }
        Ok(())
    }

    /// The new container gets its name, is started if the old one ran, and must be healthy.
    async fn take_over(&mut self, index: usize) -> Result<(), StepError> {
        self.rename(index).await?;
        if self.members()[index].state.was_running {
            let new = self.new_id(index)?.to_owned();
            self.rollout.engine.start(&new).await.map_err(|error| StepError::start(&error))?;
            self.pass_gate(index).await?;
        }
        Ok(())
    }

    async fn rename(&self, index: usize) -> Result<(), StepError> {
        let (engine, id) = (&self.rollout.engine, &self.preflight.transaction.id);
        let state = &self.members()[index].state;
        // One that was created with --rm is gone by now.
        if !self.preflight.snapshots[index].goes_when_stopped() {
            // One that somebody removed meanwhile has given its name up as well.
            let renamed = gone_is_fine(engine.rename(&state.old, &state.aside_name(id)).await);
            renamed.map_err(|error| StepError::engine("rename the old container", &error))?;
        }
        let renamed = engine.rename(self.new_id(index)?, &state.name).await;
        renamed.map_err(|error| StepError::engine("rename the new container", &error))
    }

    async fn pass_gate(&mut self, index: usize) -> Result<(), StepError> {
        // Waiting takes nothing of the machine that others would have to wait for.
        drop(self.job.slot.take());
        let stable_for = self.preflight.transaction.stable_for;
        let passed = self.rollout.gate(&self.members()[index].state, self.new_id(index)?, stable_for).await;
        // One that only goes along stays on its image, so the new image of the root is not to blame.
        passed.map_err(|step_error| match step_error.fault {
            Some(Fault::Image) if !self.preflight.transaction.is_updated(index) => {
                StepError { fault: Some(Fault::Host), ..step_error }
            }
            _ => step_error,
        })
    }

    /// Creates the new container of a member, with all that it is to have.
    async fn create(&mut self, index: usize) -> Result<(), StepError> {
        let plan = self.plan(index).await?;
        let transaction = &self.preflight.transaction;
        let name = self.members()[index].state.temporary_name(&transaction.id);
        let mut body = plan.body.clone();
        body["Labels"][label::LABEL] = json!(transaction.facts(index).to_label());
        let engine = &self.rollout.engine;
        let created = if transaction.is_updated(index) {
            engine.create_container(&name, &body, plan.platform.as_deref()).await
        } else {
            self.create_on_own_image(index, &name, &body, plan.platform.as_deref()).await
        };
        if let Err(EngineError::Timeout { .. } | EngineError::Unavailable { .. }) = &created {
            // It may have been made all the same; then it is to go.
            let found = self.rollout.find(&name).await;
            self.is_answer_lost = found.is_err();
            self.preflight.transaction.members[index].new = found.ok().flatten().as_ref().map(id_of);
        }
        let id = created.map_err(|error| StepError::create(&error))?;
        self.preflight.transaction.members[index].new = Some(id.clone());
        self.complete(index, &plan, &id).await
    }

    /// Creates a dependent on the image that it ran before. Its own target decides about an update, even if the engine
    /// already has a newer image under its tag. While the dependent is created, its tag names the old image again.
    async fn create_on_own_image(
        &self,
        index: usize,
        name: &str,
        body: &Value,
        platform: Option<&str>,
    ) -> Result<String, EngineError> {
        let engine = &self.rollout.engine;
        let old_image = &self.members()[index].state.old_image;
        let reference = body["Image"].as_str().and_then(|image| image.parse::<Reference>().ok());
        let Some(reference) = reference else { return engine.create_container(name, body, platform).await };
        let newer = self.rollout.let_name(&reference, old_image).await?;
        let created = engine.create_container(name, body, platform).await;
        if let Some(newer) = newer {
            self.rollout.give_tag_back(&reference, &newer).await;
        }
        created
    }

    async fn plan(&self, index: usize) -> Result<Plan, StepError> {
        let (snapshot, is_updated) = (&self.preflight.snapshots[index], self.preflight.transaction.is_updated(index));
        let sources = self.preflight.volume_sources(index, &*self.rollout.engine).await?;
        // One that only goes along stays on the image that it has.
        let own = (!is_updated).then(|| own_platform(&snapshot.container, &snapshot.image)).flatten();
        let input = PlanInput {
            old: &snapshot.container,
            old_image: &snapshot.image,
            new_image: self.preflight.new_image(index),
            volume_sources: &sources,
            names: &self.preflight.container_names,
            reference: is_updated.then_some(self.job.image.reference).flatten(),
            platform: if is_updated { self.job.image.platform } else { own.as_deref() },
            api: self.preflight.engine.api,
            is_podman: self.preflight.engine.is_podman,
        };
        build_plan(&input).map_err(StepError::refused)
    }

    /// Networks that the create call could not give, and the check that the tag has not moved in between.
    async fn complete(&self, index: usize, plan: &Plan, new: &str) -> Result<(), StepError> {
        let engine = &self.rollout.engine;
        let step = |error| StepError::engine("connect the new container to its networks", &error);
        for (network, endpoint) in &plan.networks_to_connect {
            engine.connect_network(network, new, endpoint).await.map_err(step)?;
        }
        for network in &plan.networks_to_disconnect {
            engine.disconnect_network(network, new).await.map_err(step)?;
        }
        let created = engine.inspect_container(new).await;
        let created = created.map_err(|error| StepError::engine("inspect the new container", &error))?;
        let runs = created["Image"].as_str().unwrap_or_default();
        let is_updated = self.preflight.transaction.is_updated(index);
        let expected = if is_updated { self.job.image.id } else { &self.members()[index].state.old_image };
        if runs == expected {
            return Ok(());
        }
        let short = imagewatch_abi::short_digest;
        let reference = created["Config"]["Image"].as_str().unwrap_or_default();
        let reason =
            format!("{reference} names the image {} here, not {}; its tag moved", short(runs), short(expected));
        Err(StepError::of(Fault::Postponed, reason))
    }

    /// A journal that cannot be written any more is gone without; labels and names tell the rest.
    fn write_down(&self) {
        if let Err(error) = self.record.write(&self.entry) {
            let container = &self.preflight.transaction.root().state.name;
            warn!(%container, %error, "the journal cannot be written; going on without it");
        }
    }

    /// The old containers go, last of all.
    async fn succeed(mut self) -> Replaced {
        let members = self.members();
        let recreated = members.iter().filter(|member| member.state.action == MemberAction::Recreate);
        let replaced = Replaced {
            new_id: self.new_id(0).unwrap_or_default().to_owned(),
            containers: recreated.map(|member| member.state.name.clone()).collect(),
        };
        let members = std::mem::take(&mut self.preflight.transaction.members);
        let transaction = Transaction { members, ..self.preflight.transaction };
        match self.rollout.commit(&transaction, &mut self.entry, Some(&self.record)).await {
            Ok(_) => self.record.close(),
            Err(error) => {
                let name = &transaction.root().state.name;
                warn!(container = %name, %error, "replaced, but not all of the old is gone; tried again with the next poll");
            }
        }
        replaced
    }

    /// Everything goes back to where it was.
    async fn give_up(mut self, mut step_error: StepError) -> ReplaceError {
        let transaction = &self.preflight.transaction;
        let root = &transaction.root().state.name;
        if step_error.fault == Some(Fault::Image) {
            step_error.log = self.last_log().await;
        }
        // Written down first: who dies now must still know tomorrow that the image was bad.
        self.entry.failure = Some(ContainerFailure { log: Vec::new(), ..step_error.as_failure(root) });
        self.write_down();
        if !self.is_touched {
            // The old container was not changed, and another program may be replacing it by now.
            match self.rollout.discard(transaction).await {
                Ok(()) => self.settle(),
                Err(error) => warn!(container = %root, %error, "the unused new container could not be removed yet"),
            }
            return ReplaceError::untouched(step_error);
        }
        info!(container = %root, reason = %step_error.reason, "restoring");
        let known = JournalEntry { snapshots: self.preflight.snapshots.clone(), ..self.entry.clone() };
        match self.rollout.roll_back_with_retry(transaction, &known).await {
            Ok(problems) => {
                self.entry.is_restored = problems.is_empty();
                self.settle();
                ReplaceError::restored(step_error, &problems)
            }
            Err(error) => ReplaceError::unfinished(step_error, &error, transaction),
        }
    }

    /// Nothing is left to do, unless a container turns up of which nobody heard: who finds that must know from the record
    /// that no stop is under way, or would see to the end of one.
    fn settle(mut self) {
        if !self.is_answer_lost {
            return self.rollout.keep_until_settled(self.record, self.entry);
        }
        let container = &self.preflight.transaction.root().state.name;
        warn!(%container, "whether a new container was created is not known; looked for with the next poll");
        self.entry.is_stopping = false;
        self.write_down();
    }

    /// The last log lines of the newest container that this attempt created.
    async fn last_log(&self) -> Vec<String> {
        let Some(new) = self.members().iter().rev().find_map(|member| member.new.as_deref()) else { return Vec::new() };
        self.rollout.engine.last_log(new, LOG_LINES).await.unwrap_or_default()
    }

    fn members(&self) -> &[super::ending::Member] {
        &self.preflight.transaction.members
    }

    fn new_id(&self, index: usize) -> Result<&str, StepError> {
        let missing = || StepError::refused("its new container was not made");
        self.members()[index].new.as_deref().ok_or_else(missing)
    }
}

impl Rollout {
    /// Whether the new container of a part may stay.
    pub(super) async fn gate(&self, state: &MemberState, new: &str, stable_for: Duration) -> Result<(), StepError> {
        let inspect = |error| StepError::engine("inspect the new container", &error);
        let inspection: Value = self.engine.inspect_container(new).await.map_err(inspect)?;
        let is_podman = self.engine.facts().await.is_ok_and(|facts| facts.is_podman);
        let gate =
            HealthGate::of(&inspection, stable_for, state.prior_health, is_podman).map_err(StepError::refused)?;
        match gate.wait(&*self.engine, new).await {
            Ok(()) => Ok(()),
            Err(GateError::Failed(reason)) => {
                Err(StepError::of(Fault::Image, format!("the new container of {} did not pass: {reason}", state.name)))
            }
            // The engine did not call it unhealthy: to wait no longer is this program's decision.
            Err(GateError::Undecided(reason)) => Err(StepError::of(
                Fault::Host,
                format!("the new container of {} was not waited for any longer: {reason}", state.name),
            )),
            Err(GateError::Engine(error)) => Err(StepError::engine("watch the new container", &error)),
        }
    }
}

impl Transaction {
    /// What the new container of a member says of itself.
    pub(super) fn facts(&self, index: usize) -> TransactionLabel {
        let others =
            if index == 0 { self.members[1..].iter().map(|member| member.state.clone()).collect() } else { Vec::new() };
        TransactionLabel {
            transaction: self.id.clone(),
            state: self.members[index].state.clone(),
            root: self.root().state.name.clone(),
            others,
            swap: self.swap,
            stable_for_ms: u64::try_from(self.stable_for.as_millis()).unwrap_or(u64::MAX),
            origin: self.origin.clone(),
            owner: self.owner.clone(),
            is_restored: false,
        }
    }
}

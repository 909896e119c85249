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
use super::facts::{self, Facts, Handling, Part, Swap};
use super::health::{Gate, GateError};
use super::journal::{Entry, Record};
use super::labels::{Hook, Labels};
use super::plan::{Plan, PlanInput, build_plan, own_platform};
use super::recovery::Open;
use super::setback::Setback;
use super::survey::Survey;
use super::{Job, ReplaceError, Replaced, Replacer};
use imagewatch_engine::EngineError;

/// Lines of a failed container's log that are kept.
const LOG_LINES: u16 = 20;

impl Replacer {
    /// Replaces the container `job` names, and whatever cannot live without it. Its reference must already
    /// name the new image locally. Containers that ran must then be healthy; those that were stopped are left stopped.
    ///
    /// # Errors
    /// Why not, and what became of the old container: it was not touched, or it is back, or where to look for it.
    pub async fn replace(&self, survey: Survey, job: &mut Job<'_>) -> Result<Replaced, ReplaceError> {
        if survey.needs_helper {
            return Err(self.send_helper(survey, job).await);
        }
        let untouched = |setback| ReplaceError::untouched(setback);
        self.ask_all(&survey, Hook::PreCheck).await.map_err(untouched)?;
        // A container's settings may hold secrets, so they are written down only where they would be lost.
        let snapshots = survey.snapshots.iter().filter(|snapshot| snapshot.goes_when_stopped()).cloned().collect();
        let parts = survey.transaction.sides.iter().map(|side| side.part.old.clone());
        let networks = parts.zip(survey.snapshots.iter().map(|snapshot| snapshot.networks().clone())).collect();
        let entry = Entry { facts: Some(survey.transaction.facts(0)), snapshots, networks, ..Entry::default() };
        let record = self.journal.begin(&survey.transaction.id, &entry).map_err(|error| {
            let folder = "the state folder's journal; make room there or choose another with --state-dir";
            // Nothing is wrong with the image or the container: as soon as there is room the next poll goes on.
            untouched(Setback::of(Fault::Postponed, format!("failed to write {folder}: {error}")))
        })?;
        let mut attempt =
            Attempt { replacer: self, survey, job, record, entry, is_touched: false, is_answer_lost: false };
        match attempt.run().await {
            Ok(()) => Ok(attempt.succeed().await),
            Err(setback) => Err(attempt.give_up(setback).await),
        }
    }
}

/// A transaction under way in this program.
struct Attempt<'a, 'j> {
    replacer: &'a Replacer,
    survey: Survey,
    job: &'a mut Job<'j>,
    record: Record,
    entry: Entry,
    /// Whether an old container may no longer be as it was.
    is_touched: bool,
    /// Whether a new container may be there of which nobody heard, since the engine could not be asked. One that it only
    /// makes later is not known of either, and is found by its label.
    is_answer_lost: bool,
}

impl Attempt<'_, '_> {
    async fn run(&mut self) -> Result<(), Setback> {
        self.create(0).await?;
        self.be_the_only_one().await?;
        for index in 1..self.sides().len() {
            let part = &self.sides()[index].part;
            if part.leads {
                self.create(index).await?;
            } else if part.handling == Handling::Recreate {
                // A dependent that cannot be recreated must be found before anything is stopped.
                self.plan(index).await?;
            }
        }
        self.replacer.ask_all(&self.survey, Hook::PreUpdate).await?;
        match self.survey.transaction.swap {
            Swap::StopFirst => self.stop_first().await,
            Swap::StartFirst => self.start_first().await,
            Swap::Handover => self.hand_over().await,
        }
    }

    /// Another program may have begun at the same moment; both then leave it at that.
    async fn be_the_only_one(&self) -> Result<(), Setback> {
        let open = self.replacer.open().await;
        let open = open.map_err(|error| Setback::engine("look for other replacements", &error))?;
        let names: Vec<&String> = self.sides().iter().map(|side| &side.part.name).collect();
        let is_other = |other: &Open| {
            other.transaction.id != self.survey.transaction.id && other.names().iter().any(|name| names.contains(&name))
        };
        if open.iter().any(is_other) {
            return Err(Setback::of(Fault::Postponed, "another program is replacing it"));
        }
        Ok(())
    }

    async fn stop_first(&mut self) -> Result<(), Setback> {
        self.is_touched = true;
        self.entry.is_stopping = true;
        for stage in self.survey.transaction.stages() {
            self.entry.untouched = self.sides()[stage.end..].iter().map(|side| side.part.old.clone()).collect();
            self.write_down();
            self.swap(stage).await?;
        }
        Ok(())
    }

    /// Puts the new containers of a stage in the place of the old ones.
    async fn swap(&mut self, stage: Range<usize>) -> Result<(), Setback> {
        let (first, others) = (stage.start, stage.start + 1..stage.end);
        for index in others.clone().rev() {
            self.take_down_old(index).await?;
        }
        self.take_down_old(first).await?;
        self.take_over(first).await?;
        for index in others {
            if self.sides()[index].part.handling == Handling::Recreate {
                // Only now: its predecessor's parent goes by this name again.
                self.create(index).await?;
                self.take_over(index).await?;
            }
        }
        Ok(())
    }

    /// The new container takes the name while both run; the old one is stopped last.
    async fn start_first(&mut self) -> Result<(), Setback> {
        let drain = Labels::of(&self.survey.root().container).drain().map_err(Setback::refused)?;
        let new = self.new_id(0)?.to_owned();
        self.replacer.engine.start(&new).await.map_err(|error| Setback::start(&error))?;
        self.pass_gate(0).await?;
        self.is_touched = true;
        let part = self.sides()[0].part.clone();
        self.replacer
            .disarm(&part)
            .await
            .map_err(|error| Setback::engine("change the old container's policy", &error))?;
        self.rename(0).await?;
        if let Some(drain) = drain {
            tokio::time::sleep(drain).await;
        }
        Ok(())
    }

    /// The updater itself: its successor is started and does the rest, see `handover`.
    async fn hand_over(&mut self) -> Result<(), Setback> {
        let new = self.new_id(0)?.to_owned();
        self.is_touched = true;
        self.replacer.engine.start(&new).await.map_err(|error| Setback::start(&error))?;
        self.replacer.await_successor(&new).await
    }

    /// Puts the old container to rest under no policy, so that nothing wakes it.
    async fn take_down_old(&mut self, index: usize) -> Result<(), Setback> {
        let part = self.sides()[index].part.clone();
        let about = |what: &str| format!("{what} {}", part.name);
        if part.handling == Handling::Recreate {
            let disarmed = self.replacer.disarm(&part).await;
            disarmed.map_err(|error| Setback::engine(&about("change the policy of"), &error))?;
        }
        self.replacer.stop(&part.old).await.map_err(|error| Setback::engine(&about("stop"), &error))?;
        if self.survey.snapshots[index].goes_when_stopped() {
            self.replacer
                .wait_until_gone(&part.old)
                .await
                .map_err(|error| Setback::engine(&about("see the end of"), &error))?;
        }
        Ok(())
    }

    /// The new container gets its name, is started if the old one ran, and must be healthy.
    async fn take_over(&mut self, index: usize) -> Result<(), Setback> {
        self.rename(index).await?;
        if self.sides()[index].part.was_running {
            let new = self.new_id(index)?.to_owned();
            self.replacer.engine.start(&new).await.map_err(|error| Setback::start(&error))?;
            self.pass_gate(index).await?;
        }
        Ok(())
    }

    async fn rename(&self, index: usize) -> Result<(), Setback> {
        let (engine, id) = (&self.replacer.engine, &self.survey.transaction.id);
        let part = &self.sides()[index].part;
        // One that was created with --rm is gone by now.
        if !self.survey.snapshots[index].goes_when_stopped() {
            // One that somebody removed meanwhile has given its name up as well.
            let renamed = gone_is_fine(engine.rename(&part.old, &part.aside_name(id)).await);
            renamed.map_err(|error| Setback::engine("rename the old container", &error))?;
        }
        let renamed = engine.rename(self.new_id(index)?, &part.name).await;
        renamed.map_err(|error| Setback::engine("rename the new container", &error))
    }

    async fn pass_gate(&mut self, index: usize) -> Result<(), Setback> {
        // Waiting takes nothing of the machine that others would have to wait for.
        drop(self.job.turn.take());
        let stable_for = self.survey.transaction.stable_for;
        let passed = self.replacer.gate(&self.sides()[index].part, self.new_id(index)?, stable_for).await;
        // One that only goes along stays on its image, so the new image of the root is not to blame.
        passed.map_err(|setback| match setback.fault {
            Some(Fault::Image) if !self.survey.transaction.is_updated(index) => {
                Setback { fault: Some(Fault::Host), ..setback }
            }
            _ => setback,
        })
    }

    /// Creates the new container of a side, with all that it is to have.
    async fn create(&mut self, index: usize) -> Result<(), Setback> {
        let plan = self.plan(index).await?;
        let transaction = &self.survey.transaction;
        let name = self.sides()[index].part.temporary_name(&transaction.id);
        let mut body = plan.body.clone();
        body["Labels"][facts::LABEL] = json!(transaction.facts(index).to_label());
        let engine = &self.replacer.engine;
        let created = if transaction.is_updated(index) {
            engine.create_container(&name, &body, plan.platform.as_deref()).await
        } else {
            self.create_on_own_image(index, &name, &body, plan.platform.as_deref()).await
        };
        if let Err(EngineError::Timeout { .. } | EngineError::Unavailable { .. }) = &created {
            // It may have been made all the same; then it is to go.
            let found = self.replacer.find(&name).await;
            self.is_answer_lost = found.is_err();
            self.survey.transaction.sides[index].new = found.ok().flatten().as_ref().map(id_of);
        }
        let id = created.map_err(|error| create_setback(&error))?;
        self.survey.transaction.sides[index].new = Some(id.clone());
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
        let engine = &self.replacer.engine;
        let old_image = &self.sides()[index].part.old_image;
        let reference = body["Image"].as_str().and_then(|image| image.parse::<Reference>().ok());
        let Some(reference) = reference else { return engine.create_container(name, body, platform).await };
        let newer = self.replacer.let_name(&reference, old_image).await?;
        let created = engine.create_container(name, body, platform).await;
        if let Some(newer) = newer {
            self.replacer.give_tag_back(&reference, &newer).await;
        }
        created
    }

    async fn plan(&self, index: usize) -> Result<Plan, Setback> {
        let (snapshot, is_updated) = (&self.survey.snapshots[index], self.survey.transaction.is_updated(index));
        let sources = self.survey.volume_sources(index, &*self.replacer.engine).await?;
        // One that only goes along stays on the image that it has.
        let own = (!is_updated).then(|| own_platform(&snapshot.container, &snapshot.image)).flatten();
        let input = PlanInput {
            old: &snapshot.container,
            old_image: &snapshot.image,
            new_image: self.survey.new_image(index),
            volume_sources: &sources,
            names: &self.survey.container_names,
            reference: is_updated.then_some(self.job.image.reference).flatten(),
            platform: if is_updated { self.job.image.platform } else { own.as_deref() },
            api: self.survey.engine.api,
            is_podman: self.survey.engine.is_podman,
        };
        build_plan(&input).map_err(Setback::refused)
    }

    /// Networks that the create call could not give, and the check that the tag has not moved in between.
    async fn complete(&self, index: usize, plan: &Plan, new: &str) -> Result<(), Setback> {
        let engine = &self.replacer.engine;
        let step = |error| Setback::engine("connect the new container to its networks", &error);
        for (network, endpoint) in &plan.networks_to_connect {
            engine.connect_network(network, new, endpoint).await.map_err(step)?;
        }
        for network in &plan.networks_to_disconnect {
            engine.disconnect_network(network, new).await.map_err(step)?;
        }
        let created = engine.inspect_container(new).await;
        let created = created.map_err(|error| Setback::engine("inspect the new container", &error))?;
        let runs = created["Image"].as_str().unwrap_or_default();
        let is_updated = self.survey.transaction.is_updated(index);
        let expected = if is_updated { self.job.image.id } else { &self.sides()[index].part.old_image };
        if runs == expected {
            return Ok(());
        }
        let short = imagewatch_abi::short_digest;
        let reference = created["Config"]["Image"].as_str().unwrap_or_default();
        let reason =
            format!("{reference} names the image {} here, not {}; its tag moved", short(runs), short(expected));
        Err(Setback::of(Fault::Postponed, reason))
    }

    /// A journal that cannot be written any more is gone without; labels and names tell the rest.
    fn write_down(&self) {
        if let Err(error) = self.record.write(&self.entry) {
            let container = &self.survey.transaction.root().part.name;
            warn!(%container, %error, "the journal cannot be written; going on without it");
        }
    }

    /// The old containers go, last of all.
    async fn succeed(mut self) -> Replaced {
        let sides = self.sides();
        let recreated = sides.iter().filter(|side| side.part.handling == Handling::Recreate);
        let replaced = Replaced {
            new_id: self.new_id(0).unwrap_or_default().to_owned(),
            containers: recreated.map(|side| side.part.name.clone()).collect(),
        };
        let sides = std::mem::take(&mut self.survey.transaction.sides);
        let transaction = Transaction { sides, ..self.survey.transaction };
        match self.replacer.commit(&transaction, &mut self.entry, Some(&self.record)).await {
            Ok(_) => self.record.close(),
            Err(error) => {
                let name = &transaction.root().part.name;
                warn!(container = %name, %error, "replaced, but not all of the old is gone; tried again with the next poll");
            }
        }
        replaced
    }

    /// Everything goes back to where it was.
    async fn give_up(mut self, mut setback: Setback) -> ReplaceError {
        let transaction = &self.survey.transaction;
        let root = &transaction.root().part.name;
        if setback.fault == Some(Fault::Image) {
            setback.log = self.last_log().await;
        }
        // Written down first: who dies now must still know tomorrow that the image was bad.
        self.entry.failure = Some(ContainerFailure { log: Vec::new(), ..setback.as_failure(root) });
        self.write_down();
        if !self.is_touched {
            // The old container was not changed, and another program may be replacing it by now.
            match self.replacer.discard(transaction).await {
                Ok(()) => self.settle(),
                Err(error) => warn!(container = %root, %error, "the unused new container could not be removed yet"),
            }
            return ReplaceError::untouched(setback);
        }
        info!(container = %root, reason = %setback.reason, "restoring");
        let known = Entry { snapshots: self.survey.snapshots.clone(), ..self.entry.clone() };
        match self.replacer.abort_patiently(transaction, &known).await {
            Ok(problems) => {
                self.entry.is_restored = problems.is_empty();
                self.settle();
                ReplaceError::restored(setback, &problems)
            }
            Err(error) => ReplaceError::unfinished(setback, &error, transaction),
        }
    }

    /// Nothing is left to do, unless a container turns up of which nobody heard: who finds that must know from the record
    /// that no stop is under way, or would see to the end of one.
    fn settle(mut self) {
        if !self.is_answer_lost {
            return self.replacer.keep_until_settled(self.record, self.entry);
        }
        let container = &self.survey.transaction.root().part.name;
        warn!(%container, "whether a new container was created is not known; looked for with the next poll");
        self.entry.is_stopping = false;
        self.write_down();
    }

    /// The last log lines of the newest container that this attempt created.
    async fn last_log(&self) -> Vec<String> {
        let Some(new) = self.sides().iter().rev().find_map(|side| side.new.as_deref()) else { return Vec::new() };
        self.replacer.engine.last_log(new, LOG_LINES).await.unwrap_or_default()
    }

    fn sides(&self) -> &[super::ending::Side] {
        &self.survey.transaction.sides
    }

    fn new_id(&self, index: usize) -> Result<&str, Setback> {
        let missing = || Setback::refused("its new container was not made");
        self.sides()[index].new.as_deref().ok_or_else(missing)
    }
}

/// A container that the engine does not take as it is, which trying again does not change.
fn create_setback(error: &EngineError) -> Setback {
    let setback = Setback::engine("create the new container", error);
    let is_refusal = matches!(error, EngineError::Refused { .. } | EngineError::NotFound { .. });
    if is_refusal { Setback { fault: Some(Fault::Refused), ..setback } } else { setback }
}

impl Replacer {
    /// Whether the new container of a part may stay.
    pub(super) async fn gate(&self, part: &Part, new: &str, stable_for: Duration) -> Result<(), Setback> {
        let inspect = |error| Setback::engine("inspect the new container", &error);
        let inspection: Value = self.engine.inspect_container(new).await.map_err(inspect)?;
        let is_podman = self.engine.facts().await.is_ok_and(|facts| facts.is_podman);
        let gate = Gate::of(&inspection, stable_for, part.was_ill, is_podman).map_err(Setback::refused)?;
        match gate.wait(&*self.engine, new).await {
            Ok(()) => Ok(()),
            Err(GateError::Failed(reason)) => {
                Err(Setback::of(Fault::Image, format!("the new container of {} did not pass: {reason}", part.name)))
            }
            // The engine did not call it unhealthy: to wait no longer is this program's decision.
            Err(GateError::Undecided(reason)) => Err(Setback::of(
                Fault::Host,
                format!("the new container of {} was not waited for any longer: {reason}", part.name),
            )),
            Err(GateError::Engine(error)) => Err(Setback::engine("watch the new container", &error)),
        }
    }
}

impl Transaction {
    /// What the new container of a side says of itself.
    pub(super) fn facts(&self, index: usize) -> Facts {
        let others =
            if index == 0 { self.sides[1..].iter().map(|side| side.part.clone()).collect() } else { Vec::new() };
        Facts {
            transaction: self.id.clone(),
            part: self.sides[index].part.clone(),
            root: self.root().part.name.clone(),
            others,
            swap: self.swap,
            stable_for_ms: u64::try_from(self.stable_for.as_millis()).unwrap_or(u64::MAX),
            origin: self.origin.clone(),
            owner: self.owner.clone(),
            is_restored: false,
        }
    }
}

//! Ends what a dead program left half done. Which way is decided by who owns the final name, told from the engine's
//! containers and their labels alone; the journal on disk adds only what labels cannot hold. Runs at start and with
//! each poll, since what was asked of the engine by the dead may come about later.

mod classify;

use std::collections::BTreeSet;
use std::sync::PoisonError;

use futures_util::future::join_all;
use imagewatch_abi::{Container, ContainerFailure, Fault, Reference, Report};
use tracing::{debug, info, warn};

use super::Rollout;
use super::Unsettled;
use super::ending::{Member, Transaction, name_of};
use super::journal::{Claim, JournalEntry, JournalHandle};
use super::label::{MemberAction, MemberState};
use super::step_error::StepError;
use imagewatch_base::clock::now_ms;
use imagewatch_engine::{EngineError, Listed};

pub(super) use classify::transaction_of;
pub use classify::{Incomplete, Resolution, classify};

/// Whether a container is granted to who asks.
pub type Granted<'a> = dyn Fn(&Container) -> bool + Send + Sync + 'a;

impl Rollout {
    /// Ends every open transaction that nobody works on, side by side: those of this state folder, whoever may handle their
    /// containers by now, since who stopped them is who owes them an end; and others whose container is granted. Remembers
    /// the images of granted containers. Returns what the policy of `manifest` ought to know.
    ///
    /// # Errors
    /// When the engine cannot be asked; the next time will do.
    pub async fn tend(&self, manifest: &str, is_granted: &Granted<'_>) -> Result<Vec<Report>, EngineError> {
        self.tend_helpers().await?;
        let (open, own) = (self.open().await?, self.journal.owner());
        let owed = open.iter().filter(|open| open.is_of(&own) || is_granted(&open.container()));
        // Each may wait for a health check, and a container that is down would wait for those of all others.
        join_all(owed.map(|found| self.recover_listed(found))).await.into_iter().collect::<Result<(), _>>()?;
        let unfinished = self.journal.unfinished();
        let journaled = unfinished.iter().map(|transaction| self.recover_journaled(transaction));
        join_all(journaled).await.into_iter().collect::<Result<(), _>>()?;
        let listed = self.engine.list().await?;
        let granted: Vec<Listed> = listed.into_iter().filter(|line| is_granted(&line.to_container())).collect();
        self.remember_images(&granted).await?;
        Ok(self.failures_before(manifest))
    }

    async fn recover_listed(&self, found: &Incomplete) -> Result<(), EngineError> {
        let Some(_locked) = self.locks.try_lock(&found.names()) else { return Ok(()) };
        // What was listed may be over by now, or another one.
        let now = self.open().await?;
        if let Some(current) = now.iter().find(|other| other.transaction.id == found.transaction.id) {
            self.recover(current).await;
        }
        Ok(())
    }

    /// The transactions that are not over.
    pub(super) async fn open(&self) -> Result<Vec<Incomplete>, EngineError> {
        Ok(classify(&self.engine.list().await?, &self.journal.unfinished()))
    }

    /// The failures that programs before this one left for the policy of `manifest`: to be taken before it decides anything,
    /// or what is to be barred is ordered once more. Asks the engine nothing.
    pub fn failures_before(&self, manifest: &str) -> Vec<Report> {
        self.report_failures();
        self.take_reports(manifest)
    }

    /// Where nothing is left to do but to report.
    fn report_failures(&self) {
        for id in self.journal.transactions() {
            let Claim::Acquired(record, entry) = self.journal.claim(&id) else { continue };
            let (true, Some(facts)) = (entry.is_over, &entry.facts) else { continue };
            // Who still waits for it takes it there.
            let Some(_locked) = self.locks.try_lock(std::slice::from_ref(&facts.state.name)) else { continue };
            self.report_end(record, *entry);
        }
    }

    /// Nothing is left to do but to tell how it failed, if it did.
    fn report_end(&self, record: JournalHandle, entry: JournalEntry) {
        if let (Some(facts), Some(failure)) = (&entry.facts, entry.failure.clone()) {
            let transaction = transaction_of(facts, vec![Member { state: facts.state.clone(), new: None }]);
            self.put_report(&transaction, Some(failed(&transaction, failure, entry.is_restored)));
        }
        self.keep_until_settled(record, entry);
    }

    /// Ends the record of a transaction that is over, once the policy has taken why it failed, if it did.
    pub(super) fn keep_until_settled(&self, record: JournalHandle, entry: JournalEntry) {
        let (Some(facts), Some(_)) = (&entry.facts, &entry.failure) else { return record.close() };
        let (origin, container) = (facts.origin.clone(), facts.state.name.clone());
        if !entry.is_over
            && let Err(error) = record.write(&entry.over())
        {
            debug!(%error, "the journal cannot be written; going on without it");
        }
        self.unsettled.lock().unwrap_or_else(PoisonError::into_inner).push(Unsettled { origin, container, record });
    }

    /// Whether the last replacement of a container for `manifest` failed, and its policy does not know yet.
    pub(super) fn is_unsettled(&self, container: &str, manifest: &str) -> bool {
        let unsettled = self.unsettled.lock().unwrap_or_else(PoisonError::into_inner);
        unsettled.iter().any(|one| one.container == container && one.origin.manifest == manifest)
    }

    /// Ends the records of failures that programs before this one left for manifests which are none of `manifests`, where
    /// nobody takes them. A manifest that is only refreshed by hand may be told of its failure no more, and try once more.
    pub fn drop_failures_of_others(&self, manifests: &BTreeSet<&str>) {
        self.report_failures();
        self.reports.lock().unwrap_or_else(PoisonError::into_inner).retain(|(of, _)| manifests.contains(of.as_str()));
        let mut unsettled = self.unsettled.lock().unwrap_or_else(PoisonError::into_inner);
        for Unsettled { origin, container, record } in
            unsettled.extract_if(.., |one| !manifests.contains(one.origin.manifest.as_str()))
        {
            let manifest = origin.manifest;
            warn!(
                container,
                manifest, "its last replacement failed; no such manifest is watched any more to bar the image"
            );
            record.close();
        }
    }

    /// The policy of `manifest` has taken what became of `target`.
    pub fn settled(&self, manifest: &str, target: &str) {
        let mut unsettled = self.unsettled.lock().unwrap_or_else(PoisonError::into_inner);
        let is_it = |Unsettled { origin, .. }: &mut Unsettled| origin.manifest == manifest && origin.target == target;
        unsettled.extract_if(.., is_it).for_each(|unsettled| unsettled.record.close());
    }

    /// Reports wait for the policy that wanted the replacement, whoever ended it.
    pub(super) fn take_reports(&self, manifest: &str) -> Vec<Report> {
        let mut reports = self.reports.lock().unwrap_or_else(PoisonError::into_inner);
        reports.extract_if(.., |(of, _)| of == manifest).map(|(_, report)| report).collect()
    }

    pub(super) fn put_report(&self, transaction: &Transaction, report: Option<Report>) {
        let mut reports = self.reports.lock().unwrap_or_else(PoisonError::into_inner);
        reports.extend(report.map(|report| (transaction.origin.manifest.clone(), report)));
    }

    /// A transaction of which the engine shows nothing: it is over, unless both containers went when they were stopped.
    async fn recover_journaled(&self, id: &str) -> Result<(), EngineError> {
        let Claim::Acquired(record, mut entry) = self.journal.claim(id) else { return Ok(()) };
        // Asked only now: before, its program may have been at work.
        let listed = self.engine.list().await?;
        if classify(&listed, &self.journal.unfinished()).iter().any(|open| open.transaction.id == id) {
            return Ok(());
        }
        // What has passed and is gone since was taken down by somebody, or has another name by now.
        let lost = entry.facts.as_ref().filter(|facts| {
            let is_there = |c: &Listed| c.name() == facts.state.name || c.id == facts.state.old;
            !entry.is_passed && entry.snapshot_of(&facts.state.old).is_some() && !listed.iter().any(is_there)
        });
        let Some(facts) = lost else {
            // It died between the end of the old container and that of the transaction.
            if let (true, Some(facts)) = (entry.is_passed, entry.facts.clone()) {
                let states: Vec<&MemberState> = facts.states().collect();
                self.clean_up(&facts.origin, &states, Some(id), Some((&record, &mut entry))).await;
            }
            // Or between the end of the way back and its word of it.
            self.report_end(record, *entry);
            return Ok(());
        };
        let members: Vec<Member> = facts.states().map(|state| Member { state: state.clone(), new: None }).collect();
        let names: Vec<String> = members.iter().map(|member| member.state.name.clone()).collect();
        let Some(_locked) = self.locks.try_lock(&names) else { return Ok(()) };
        let lost = transaction_of(facts, members);
        let report = self.go_back(&lost, &entry, entry.failure.clone()).await?;
        self.put_report(&lost, report);
        self.keep_until_settled(record, *entry);
        Ok(())
    }

    /// Ends what is open of containers whose locks the caller holds. Whether one of them had failed, which its policy is
    /// to know before it asks for another.
    ///
    /// # Errors
    /// What did not come off; or another program is at work on one of them, or something is still not over.
    pub(super) async fn recover_names(&self, names: &[String]) -> Result<bool, StepError> {
        let list = |error| StepError::engine("look for replacements that are not over", &error);
        let is_named = |open: &Incomplete| open.names().iter().any(|name| names.contains(name));
        let mut has_failed = false;
        for open in self.open().await.map_err(list)?.iter().filter(|open| is_named(open)) {
            has_failed |= self.recover(open).await;
        }
        if self.open().await.map_err(list)?.iter().any(is_named) {
            let reason = "an earlier replacement of it is not over; tried again with the next poll";
            return Err(StepError::of(Fault::Postponed, reason));
        }
        Ok(has_failed)
    }

    /// Whether it turned out to have failed.
    async fn recover(&self, open: &Incomplete) -> bool {
        let transaction = &open.transaction;
        let container = &transaction.root().state.name;
        let Some((record, mut entry)) = self.claim_open(open).await else { return false };
        info!(%container, transaction = %transaction.id, way = ?open.way, "ending what was left half done");
        let report = match self.end_open(open, &mut entry, record.as_ref()).await {
            Ok(report) => report,
            Err(error) => {
                warn!(%container, %error, "not ended yet; tried again with the next poll");
                return false;
            }
        };
        // The old one may be back already, and nothing more be known than what was written down.
        if report.is_none() && entry.failure.is_some() {
            if let Some(record) = record {
                let is_restored = open.way == Resolution::Start;
                self.report_end(record, JournalEntry { is_restored, ..*entry });
            }
            return true;
        }
        let failure = report.as_ref().and_then(|report| report.failed.first().cloned());
        let is_restored = report.as_ref().is_some_and(|report| !report.restored.is_empty());
        let has_failed = failure.is_some();
        self.put_report(transaction, report);
        if let Some(record) = record {
            self.keep_until_settled(record, JournalEntry { failure, is_restored, ..*entry });
        }
        has_failed
    }

    /// What was written down of `open`, unless it is somebody else's to end. Where nothing is, it is not known how far it was.
    async fn claim_open(&self, open: &Incomplete) -> Option<(Option<JournalHandle>, Box<JournalEntry>)> {
        let container = &open.transaction.root().state.name;
        if self.is_left_to_helper(open).await {
            debug!(%container, "left to its helper");
            return None;
        }
        match self.journal.claim(&open.transaction.id) {
            Claim::Held => None,
            Claim::Missing if open.may_be_anothers(&self.journal.owner(), now_ms()) => {
                debug!(%container, "another program may be at work on it");
                None
            }
            Claim::Missing => Some((None, Box::new(JournalEntry { is_stopping: true, ..JournalEntry::default() }))),
            Claim::Acquired(record, entry) => Some((Some(record), entry)),
        }
    }

    /// Ends it the way that was found. What its policy ought to know, if that was found out only now.
    async fn end_open(
        &self,
        open: &Incomplete,
        entry: &mut JournalEntry,
        record: Option<&JournalHandle>,
    ) -> Result<Option<Report>, EngineError> {
        let transaction = &open.transaction;
        match open.way {
            Resolution::Forwards | Resolution::Back if self.is_successor(transaction) => {
                self.stay(transaction, entry, record).await.map(Some)
            }
            Resolution::Start => self.start_again(transaction).await.map(|()| None),
            Resolution::Discard => {
                warn!(container = %transaction.root().state.name, "somebody else has the name by now; left alone");
                self.discard(transaction).await.map(|()| None)
            }
            Resolution::Forwards if entry.failure.is_none() => self.go_forwards(transaction, entry, record).await,
            // What is healthy stays, whoever changed names or containers since; unless they brought the old one back.
            Resolution::Back
                if entry.is_passed && entry.failure.is_none() && !self.is_old_back(transaction).await? =>
            {
                self.go_forwards(transaction, entry, record).await
            }
            Resolution::Forwards | Resolution::Back => self.go_back(transaction, entry, entry.failure.clone()).await,
        }
    }

    /// Whether somebody gave an old container its own name back.
    async fn is_old_back(&self, transaction: &Transaction) -> Result<bool, EngineError> {
        for state in transaction
            .members
            .iter()
            .map(|member| &member.state)
            .filter(|state| state.action == MemberAction::Recreate)
        {
            if self.find(&state.old).await?.is_some_and(|old| name_of(&old) == state.name) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    async fn start_again(&self, transaction: &Transaction) -> Result<(), EngineError> {
        match &transaction.root().new {
            Some(new) => self.engine.start(new).await,
            None => Ok(()),
        }
    }

    async fn go_forwards(
        &self,
        transaction: &Transaction,
        entry: &mut JournalEntry,
        record: Option<&JournalHandle>,
    ) -> Result<Option<Report>, EngineError> {
        let made = transaction.members.iter().filter(|member| member.state.action == MemberAction::Recreate);
        // What was healthy once is not judged again: it may have been stopped by hand since.
        for member in made.filter(|_| !entry.is_passed) {
            if let Err(step_error) = self.bring_new_up(transaction, member).await {
                if step_error.engine_unreachable {
                    return Err(EngineError::Unavailable { host: "its address".to_owned(), reason: step_error.reason });
                }
                let failure = step_error.as_failure(&member.state.name);
                return self.go_back(transaction, entry, Some(failure)).await;
            }
        }
        self.commit(transaction, entry, record).await.map(Some)
    }

    async fn bring_new_up(&self, transaction: &Transaction, member: &Member) -> Result<(), StepError> {
        let Some(new) = &member.new else { return Ok(()) };
        let inspect = |error| StepError::engine("inspect the new container", &error);
        let inspection = self.engine.inspect_container(new).await.map_err(inspect)?;
        if name_of(&inspection) == member.state.temporary_name(&transaction.id) {
            let renamed = self.engine.rename(new, &member.state.name).await;
            renamed.map_err(|error| StepError::engine("rename the new container", &error))?;
        }
        // Who died on the way back may have taken it away.
        let rearmed = self.restore_restart_policy(&member.state, new, &inspection).await;
        rearmed.map_err(|error| StepError::engine("change the new container's policy", &error))?;
        if !member.state.was_running {
            return Ok(());
        }
        if inspection["State"]["Running"] != true {
            // One that could not be started may have lost its networks by that, and is not started again.
            if let Some(error) = inspection["State"]["Error"].as_str().filter(|error| !error.is_empty()) {
                return Err(StepError::start(&EngineError::Refused { status: 500, message: error.to_owned() }));
            }
            self.engine.start(new).await.map_err(|error| StepError::start(&error))?;
        }
        self.gate(&member.state, new, transaction.stable_for).await
    }

    /// An old container that is gone can only come back from what was written down.
    async fn go_back(
        &self,
        transaction: &Transaction,
        entry: &JournalEntry,
        failure: Option<ContainerFailure>,
    ) -> Result<Option<Report>, EngineError> {
        let root = &transaction.root().state;
        let is_gone = self.find(&root.old).await?.is_none();
        if is_gone && entry.snapshot_of(&root.old).is_none() {
            warn!(container = %root.name, "the old container is gone for good; the new one stays as it is");
            return Ok(failure.map(|failure| failed(transaction, failure, false)));
        }
        let problems = self.roll_back_with_retry(transaction, entry).await?;
        for problem in &problems {
            warn!(container = %root.name, %problem, "not all is as before");
        }
        if failure.as_ref().is_some_and(|failure| failure.fault == Some(Fault::Image))
            && let (Some(reference), None) = (&transaction.origin.reference, &transaction.origin.from)
        {
            self.give_tag_back(reference, &root.old_image).await;
        }
        info!(container = %root.name, "restored");
        Ok(failure.map(|failure| failed(transaction, failure, problems.is_empty())))
    }

    /// Lets `reference` name `image_id` here again: a tag that names a bad image would give it to whoever makes
    /// the container by hand.
    pub async fn give_tag_back(&self, reference: &Reference, image_id: &str) {
        if let Err(error) = self.engine.tag_image(image_id, reference).await {
            debug!(%reference, %error, "the tag could not be given back to the image before");
        }
    }
}

/// What is the same in all reports of a transaction that is ended for somebody else.
pub(super) fn report_of(transaction: &Transaction) -> Report {
    let origin = transaction.origin.clone();
    Report {
        order: origin.order.unwrap_or_else(|| format!("recovered-{}", transaction.id)),
        is_recovered: true,
        target: origin.target,
        reference: origin.reference,
        digest: origin.digest,
        pulled: true,
        ..Report::default()
    }
}

fn failed(transaction: &Transaction, failure: ContainerFailure, is_restored: bool) -> Report {
    let restored = if is_restored { vec![failure.container.clone()] } else { Vec::new() };
    Report { failed: vec![failure], restored, ..report_of(transaction) }
}

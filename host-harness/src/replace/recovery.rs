//! Ends what a dead program left half done. Which way is decided by who owns the final name, told from the engine's
//! containers and their labels alone; the journal on disk adds only what labels cannot hold. Runs at start and with
//! each poll, since what was asked of the engine by the dead may come about later.

use std::collections::BTreeMap;
use std::time::Duration;

use imagewatch_abi::{Container, ContainerFailure, Fault, Reference, Report};
use tracing::{debug, info, warn};

use super::Replacer;
use super::ending::{Side, Transaction};
use super::facts::{Facts, Handling, LABEL, Swap};
use super::journal::{Claim, Entry};
use super::setback::Setback;
use crate::engine::{EngineError, Listed};

/// A transaction that is not over, and which way it is to go.
#[derive(Debug, Clone, PartialEq)]
pub struct Open {
    /// As its labels tell it.
    pub transaction: Transaction,
    /// Which way.
    pub way: Way,
    /// Its root's new container as the engine lists it.
    listed: Listed,
}

/// Which way an open transaction goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// The new containers have their names: they are started, must be healthy, and the old ones go.
    Forwards,
    /// The old containers come back.
    Back,
    /// The old container was made again and not started any more.
    Start,
    /// Somebody else has the name: the new container goes, and nobody else is touched.
    Discard,
}

/// Finds the open transactions among all containers; `journaled` are those that are written down on disk.
pub fn diagnose(listed: &[Listed], journaled: &[String]) -> Vec<Open> {
    let view = View::new(listed, journaled);
    let roots = view.labelled.iter().filter(|(_, facts)| facts.part.name == facts.root && !facts.others.is_empty());
    let groups: Vec<Open> = roots.filter_map(|(root, facts)| view.diagnose_group(root, facts)).collect();
    let in_group = |facts: &Facts| groups.iter().any(|open| open.transaction.id == facts.transaction);
    let singles = view.labelled.iter().filter(|(_, facts)| !in_group(facts));
    let singles: Vec<Open> = singles.filter_map(|(new, facts)| view.diagnose_one(new, facts)).collect();
    groups.into_iter().chain(singles).collect()
}

/// The engine's containers, looked at from all sides.
struct View<'a> {
    by_id: BTreeMap<&'a str, &'a Listed>,
    by_name: BTreeMap<&'a str, &'a Listed>,
    /// Made by a transaction, and not replaced by another since.
    labelled: Vec<(&'a Listed, Facts)>,
    journaled: &'a [String],
}

impl<'a> View<'a> {
    fn new(listed: &'a [Listed], journaled: &'a [String]) -> Self {
        let facts = |container: &'a Listed| Some((container, Facts::parse(container.labels().get(LABEL)?)?));
        let mut labelled: Vec<(&Listed, Facts)> = listed.iter().filter_map(facts).collect();
        let replaced: Vec<String> = labelled.iter().map(|(_, facts)| facts.part.old.clone()).collect();
        labelled.retain(|(container, _)| !replaced.contains(&container.id));
        Self {
            by_id: listed.iter().map(|container| (container.id.as_str(), container)).collect(),
            by_name: listed.iter().map(|container| (container.name(), container)).collect(),
            labelled,
            journaled,
        }
    }

    /// A group goes forwards only when all of its new containers have their names.
    fn diagnose_group(&self, root: &Listed, facts: &Facts) -> Option<Open> {
        let new_of = |name: &str| {
            let mut siblings = self.labelled.iter().filter(|(_, other)| other.transaction == facts.transaction);
            siblings.find(|(_, other)| other.part.name == name).map(|(container, _)| container.id.clone())
        };
        let others = facts.others.iter().map(|part| Side { part: part.clone(), new: new_of(&part.name) });
        let own = Side { part: facts.part.clone(), new: Some(root.id.clone()) };
        let sides: Vec<Side> = std::iter::once(own).chain(others).collect();
        let made = || sides.iter().filter(|side| side.part.handling == Handling::Recreate);
        let owns_name = |side: &Side| {
            let owner = self.by_name.get(side.part.name.as_str());
            side.new.is_some() && owner.map(|owner| &owner.id) == side.new.as_ref()
        };
        let is_old_there = |side: &Side| self.by_id.contains_key(side.part.old.as_str());
        let way = if made().all(owns_name) {
            made().any(is_old_there).then_some(Way::Forwards)?
        } else if is_old_there(&sides[0]) {
            Way::Back
        } else {
            return None; // then each of them is looked at by itself
        };
        Some(Open { transaction: transaction(facts, sides), way, listed: root.clone() })
    }

    fn diagnose_one(&self, new: &Listed, facts: &Facts) -> Option<Open> {
        let part = &facts.part;
        let is_temporary = new.name() == part.temporary_name(&facts.transaction);
        let is_old_there = self.by_id.contains_key(part.old.as_str());
        let owner = self.by_name.get(part.name.as_str()).map(|owner| owner.id.as_str());
        let is_up = matches!(new.state.as_str(), "running" | "restarting" | "paused");
        let way = match owner {
            Some(owner) if owner == new.id && is_old_there => Way::Forwards,
            Some(owner) if owner == new.id => {
                let was_never_started = new.state == "created" && part.was_running;
                // One that went when it was stopped leaves nothing but the journal to tell whether all is done.
                let is_unfinished = was_never_started || self.journaled.contains(&facts.transaction);
                let way = if facts.is_restored { Way::Start } else { Way::Forwards };
                (if facts.is_restored { was_never_started } else { is_unfinished }).then_some(way)?
            }
            // It is at work, and will end this itself.
            Some(owner) if owner == part.old && facts.swap == Swap::Handover && is_up => return None,
            Some(owner) if owner == part.old => Way::Back,
            Some(_) => (is_temporary && !is_up).then_some(Way::Discard)?,
            None if is_old_there => Way::Back,
            // The old one went when it was stopped, or somebody removed it.
            None => is_temporary.then_some(Way::Forwards)?,
        };
        let side = Side { part: part.clone(), new: Some(new.id.clone()) };
        Some(Open { transaction: transaction(facts, vec![side]), way, listed: new.clone() })
    }
}

fn transaction(facts: &Facts, sides: Vec<Side>) -> Transaction {
    Transaction {
        id: facts.transaction.clone(),
        swap: facts.swap,
        sides,
        stable_for: Duration::from_millis(facts.stable_for_ms),
        origin: facts.origin.clone(),
    }
}

impl Open {
    /// The names of all its containers.
    fn names(&self) -> Vec<String> {
        self.transaction.sides.iter().map(|side| side.part.name.clone()).collect()
    }

    /// Its container, for the grants.
    fn container(&self) -> Container {
        Container { name: self.transaction.root().part.name.clone(), ..self.listed.to_container() }
    }
}

impl Replacer {
    /// Ends every open transaction whose container is granted and that nobody works on, and remembers the images of
    /// granted containers. Returns what policies ought to know.
    ///
    /// # Errors
    /// When the engine cannot be asked; the next time will do.
    pub async fn tend(
        &self,
        is_granted: &(dyn Fn(&Container) -> bool + Send + Sync),
    ) -> Result<Vec<(String, Report)>, EngineError> {
        let listed = self.engine.list().await?;
        let mut reports = Vec::new();
        let open = diagnose(&listed, &self.journal.transactions());
        for found in open.iter().filter(|open| is_granted(&open.container())) {
            let Some(_locked) = self.locks.try_lock(&found.names()) else { continue };
            // What was listed may be over by now.
            if let Some(current) = self.reread(found).await? {
                reports.extend(self.recover(&current).await);
            }
        }
        for transaction in self.journal.transactions() {
            if !open.iter().any(|open| open.transaction.id == transaction) {
                reports.extend(self.recover_journaled(&transaction, &listed, is_granted).await?);
            }
        }
        let granted: Vec<Listed> = listed.into_iter().filter(|line| is_granted(&line.to_container())).collect();
        self.remember_images(&granted).await?;
        Ok(reports)
    }

    /// A transaction of which the engine shows nothing: it is over, unless both containers went when they were stopped.
    async fn recover_journaled(
        &self,
        transaction: &str,
        listed: &[Listed],
        is_granted: &(dyn Fn(&Container) -> bool + Send + Sync),
    ) -> Result<Option<(String, Report)>, EngineError> {
        let Claim::Ours(record, entry) = self.journal.claim(transaction) else { return Ok(None) };
        let old_of = |facts: &Facts| entry.snapshots.iter().find(|s| s.container["Id"] == facts.part.old.as_str());
        let lost = entry.facts.as_ref().and_then(|facts| Some((facts, &old_of(facts)?.container)));
        let lost = lost.filter(|(facts, _)| {
            let is_there = |c: &Listed| c.name() == facts.part.name || c.id == facts.part.old;
            !listed.iter().any(is_there)
        });
        let Some((facts, old)) = lost else {
            record.close();
            return Ok(None);
        };
        let labels = serde_json::from_value(old["Config"]["Labels"].clone()).unwrap_or_default();
        let container = Container { name: facts.part.name.clone(), labels, ..Listed::default().to_container() };
        let Some(_locked) =
            self.locks.try_lock(std::slice::from_ref(&facts.part.name)).filter(|_| is_granted(&container))
        else {
            return Ok(None);
        };
        let sides = vec![Side { part: facts.part.clone(), new: None }];
        let lost = self::transaction(facts, sides);
        let report = self.go_back(&lost, &entry, entry.failure.clone()).await?;
        record.close();
        Ok(report.map(|report| (lost.origin.manifest.clone(), report)))
    }

    /// The same for containers whose locks the caller holds; reports are lost on nobody, as these are replaced anew.
    pub(super) async fn recover_names(&self, names: &[String]) -> Result<(), EngineError> {
        let open = diagnose(&self.engine.list().await?, &self.journal.transactions());
        for open in open.iter().filter(|open| open.names().iter().any(|name| names.contains(name))) {
            self.recover(open).await;
        }
        Ok(())
    }

    async fn reread(&self, open: &Open) -> Result<Option<Open>, EngineError> {
        let now = diagnose(&self.engine.list().await?, &self.journal.transactions());
        Ok(now.into_iter().find(|other| other.transaction.id == open.transaction.id))
    }

    async fn recover(&self, open: &Open) -> Option<(String, Report)> {
        let transaction = &open.transaction;
        let container = &transaction.root().part.name;
        let (record, entry) = match self.journal.claim(&transaction.id) {
            Claim::Theirs => return None,
            Claim::Lost => (None, Box::default()),
            Claim::Ours(record, entry) => (Some(record), entry),
        };
        info!(%container, transaction = %transaction.id, way = ?open.way, "ending what was left half done");
        let ended = match open.way {
            Way::Start => self.start_again(transaction).await.map(|()| None),
            Way::Discard => self.discard(transaction).await.map(|()| None),
            Way::Forwards if entry.failure.is_none() => self.go_forwards(transaction, &entry).await,
            Way::Forwards | Way::Back => self.go_back(transaction, &entry, entry.failure.clone()).await,
        };
        match ended {
            Ok(report) => {
                if let Some(record) = record {
                    record.close();
                }
                report.map(|report| (transaction.origin.manifest.clone(), report))
            }
            Err(error) => {
                warn!(%container, %error, "not ended yet; tried again with the next poll");
                None
            }
        }
    }

    async fn start_again(&self, transaction: &Transaction) -> Result<(), EngineError> {
        match &transaction.root().new {
            Some(new) => self.engine.start(new).await,
            None => Ok(()),
        }
    }

    async fn discard(&self, transaction: &Transaction) -> Result<(), EngineError> {
        let part = &transaction.root().part;
        warn!(container = %part.name, "somebody else took the name meanwhile; left alone");
        for side in transaction.sides.iter().rev() {
            if let Some(new) = &side.new {
                self.remove(new).await?;
            }
        }
        Ok(())
    }

    async fn go_forwards(&self, transaction: &Transaction, entry: &Entry) -> Result<Option<Report>, EngineError> {
        for side in transaction.sides.iter().filter(|side| side.part.handling == Handling::Recreate) {
            if let Err(setback) = self.bring_new_up(transaction, side).await {
                if setback.is_engine_away {
                    return Err(EngineError::Unavailable { host: "its address".to_owned(), reason: setback.reason });
                }
                let failure = setback.as_failure(&side.part.name);
                return self.go_back(transaction, entry, Some(failure)).await;
            }
        }
        self.finish(transaction).await?;
        let recreated = transaction.sides.iter().filter(|side| side.part.handling == Handling::Recreate);
        let recreated = recreated.map(|side| side.part.name.clone()).collect();
        Ok(Some(Report { recreated, ..report(transaction) }))
    }

    async fn bring_new_up(&self, transaction: &Transaction, side: &Side) -> Result<(), Setback> {
        let Some(new) = &side.new else { return Ok(()) };
        let inspect = |error| Setback::engine("inspect the new container", &error);
        let inspection = self.engine.inspect_container(new).await.map_err(inspect)?;
        if super::ending::name_of(&inspection) == side.part.temporary_name(&transaction.id) {
            let renamed = self.engine.rename(new, &side.part.name).await;
            renamed.map_err(|error| Setback::engine("rename the new container", &error))?;
        }
        // Who died on the way back may have taken it away.
        let rearmed = self.rearm(&side.part, new, &inspection).await;
        rearmed.map_err(|error| Setback::engine("change the new container's policy", &error))?;
        if !side.part.was_running {
            return Ok(());
        }
        if inspection["State"]["Running"] != true {
            self.engine.start(new).await.map_err(|error| Setback::start(&error))?;
        }
        self.gate(&side.part, new, transaction.stable_for).await
    }

    /// An old container that is gone can only come back from what was written down.
    async fn go_back(
        &self,
        transaction: &Transaction,
        entry: &Entry,
        failure: Option<ContainerFailure>,
    ) -> Result<Option<Report>, EngineError> {
        let root = &transaction.root().part;
        let is_gone = self.find(&root.old).await?.is_none();
        if is_gone && !entry.snapshots.iter().any(|snapshot| snapshot.container["Id"] == root.old.as_str()) {
            warn!(container = %root.name, "the old container is gone for good; the new one stays as it is");
            return Ok(failure.map(|failure| failed(transaction, failure, false)));
        }
        let problems = self.abort_patiently(transaction, &entry.snapshots).await?;
        for problem in &problems {
            warn!(container = %root.name, %problem, "not all is as before");
        }
        if failure.as_ref().is_some_and(|failure| failure.fault == Some(Fault::Image))
            && let Some(reference) = &transaction.origin.reference
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
fn report(transaction: &Transaction) -> Report {
    let origin = transaction.origin.clone();
    Report {
        order: format!("recovered-{}", transaction.id),
        target: origin.target,
        reference: origin.reference,
        digest: origin.digest,
        pulled: true,
        ..Report::default()
    }
}

fn failed(transaction: &Transaction, failure: ContainerFailure, is_restored: bool) -> Report {
    let restored = if is_restored { vec![failure.container.clone()] } else { Vec::new() };
    Report { failed: vec![failure], restored, ..report(transaction) }
}

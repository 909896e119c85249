//! What is there before a transaction begins: the container and those that go with it, as they are, under lock.
//! Changes nothing.

mod who;

use std::collections::BTreeMap;
use std::hash::{BuildHasher, RandomState};

use futures_util::{StreamExt, TryStreamExt, stream};
use imagewatch_abi::{Fault, Strategy};
use serde_json::Value;
use tracing::{info, warn};

use super::connection::find_carriers;
use super::ending::{Side, Transaction, name_of, volume_sources};
use super::facts::{Handling, Part, Swap};
use super::health::{illness, illness_or_silence};
use super::journal::Snapshot;
use super::locks::Locked;
use super::order::{Group, group_of};
use super::plan::reason_against_start_first;
use super::setback::Setback;
use super::{Job, ReplaceError, Replacer};
use crate::engine::{Engine, EngineError, EngineFacts, Listed};

pub use who::refuse_for_now;

const PARALLEL_INSPECTIONS: usize = 8;
/// Groups that change while their locks are waited for; more often than this nobody does that.
const ATTEMPTS: usize = 5;

/// What was found.
#[derive(Debug)]
pub struct Survey {
    pub(super) transaction: Transaction,
    /// Of each side, in the same order.
    pub(super) snapshots: Vec<Snapshot>,
    /// Of all containers on the engine, by id.
    pub(super) container_names: BTreeMap<String, String>,
    pub(super) engine: EngineFacts,
    /// It is this updater, and cannot run beside its successor.
    pub(super) needs_helper: bool,
    new_image: Value,
    /// Nobody else works on these containers while this is held.
    _locked: Locked,
}

impl Survey {
    /// The container that it is about.
    pub fn root(&self) -> &Snapshot {
        &self.snapshots[0]
    }

    /// The image that a side's new container runs. Those that only go along stay on theirs.
    pub(super) fn new_image(&self, index: usize) -> &Value {
        if index == 0 { &self.new_image } else { &self.snapshots[index].image }
    }

    /// The containers whose volumes a side uses. One that is gone gives none.
    pub(super) async fn volume_sources(&self, index: usize, engine: &dyn Engine) -> Result<Vec<Value>, Setback> {
        let mut sources = Vec::new();
        for source in volume_sources(&self.snapshots[index].container) {
            match engine.inspect_container(source).await {
                Ok(inspection) => sources.push(inspection),
                Err(error) if error.is_gone() => {}
                Err(error) => return Err(Setback::engine("inspect the containers whose volumes it uses", &error)),
            }
        }
        Ok(sources)
    }
}

impl Replacer {
    /// Surveys the container named `name` under the locks of all that goes with it. What a dead program left of it is
    /// ended first. `None` when there is no such container. Nothing is changed, so this may be given up at any time.
    ///
    /// # Errors
    /// Why it is not replaced; nothing was touched.
    pub async fn survey(&self, name: &str, job: &Job<'_>) -> Result<Option<Survey>, ReplaceError> {
        let untouched = |error| ReplaceError::untouched(Setback::engine("inspect the container", &error));
        let mut names = vec![name.to_owned()];
        for _ in 0..ATTEMPTS {
            let locked = self.locks.lock(&names).await;
            let is_recovered = self.recover_names(&names).await.map_err(ReplaceError::untouched)?;
            if is_recovered || self.is_unsettled(name, &job.origin.manifest) {
                let why =
                    "its last replacement had failed, and was only now taken back; tried again with the next poll";
                return Err(ReplaceError::untouched(Setback::of(Fault::Postponed, why)));
            }
            let all = self.inspect_all(name).await.map_err(untouched)?;
            let Some(root) = all.iter().find(|container| name_of(container) == name) else { return Ok(None) };
            let group = group_of(root, &all);
            let found = group_names(root, &group);
            if found == names {
                let found = self.look_closer(root, group, &all, job, locked).await;
                return found.map(Some).map_err(ReplaceError::untouched);
            }
            names = found;
        }
        let why = "the containers that need it change all the time";
        Err(ReplaceError::untouched(Setback::of(Fault::Postponed, why)))
    }

    /// All containers. One that the engine itself cannot show needs nobody, unless it is the one that is meant: nobody's
    /// update is to depend on what somebody else's container does to the engine. To find out that one hangs takes a call's
    /// time limit, two minutes, each time that a group is looked at; its locks are held for that, and no others.
    async fn inspect_all(&self, name: &str) -> Result<Vec<Value>, EngineError> {
        let inspect = async |listed: Listed| match self.find(&listed.id).await {
            Err(
                error @ (EngineError::Refused { .. } | EngineError::BadAnswer { .. } | EngineError::Timeout { .. }),
            ) if listed.name() != name => {
                warn!(container = listed.name(), %error, "taken for one that needs no other");
                Ok(None)
            }
            found => found,
        };
        let listed = self.engine.list().await?;
        let found: Vec<Option<Value>> =
            stream::iter(listed).map(inspect).buffered(PARALLEL_INSPECTIONS).try_collect().await?;
        Ok(found.into_iter().flatten().collect())
    }

    async fn look_closer(
        &self,
        root: &Value,
        group: Group,
        all: &[Value],
        job: &Job<'_>,
        locked: Locked,
    ) -> Result<Survey, Setback> {
        let inspect = |error| Setback::engine("inspect the container", &error);
        let engine = self.engine.facts().await.map_err(inspect)?;
        let Group { recreate, mut restart } = group;
        let carriers = find_carriers(&*self.engine, self.own_id.as_deref()).await.map_err(inspect)?;
        for container in std::iter::once(root).chain(&recreate) {
            self.refuse(container, &carriers).await.map_err(|setback| Self::about(root, container, setback))?;
        }
        self.check_permissions(std::iter::once(root).chain(&recreate)).await?;
        let needs_helper = self.needs_helper(root, &recreate, all)?;
        restart.retain(|container| self.is_restarted(container, &carriers));
        let found = self.engine.inspect_image(job.image.id).await.map_err(inspect)?;
        let new_image = found.ok_or_else(|| Setback::of(Fault::Postponed, "its new image is gone again"))?;
        let root_snapshot = self.snapshot(root).await?;
        let has_dependents = !recreate.is_empty() || !restart.is_empty();
        let swap = self.choose_swap(root, [&root_snapshot.image, &new_image], job, engine, has_dependents).await;
        let mut sides = vec![self.side(root).await];
        let mut snapshots = vec![root_snapshot];
        for container in &recreate {
            sides.push(self.side(container).await);
            let snapshot = self.snapshot_of_dependent(container).await;
            snapshots.push(snapshot.map_err(|setback| Self::about(root, container, setback))?);
        }
        for container in restart {
            sides.push(Side { part: part_of(&container, Handling::Restart), new: None });
            snapshots.push(Snapshot { container, image: Value::Null });
        }
        let transaction = Transaction {
            id: new_id(name_of(root)),
            swap,
            sides,
            stable_for: job.stable_for,
            origin: job.origin.clone(),
            owner: self.journal.owner(),
        };
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let container_names = all.iter().map(|c| (text(&c["Id"]), name_of(c).to_owned())).collect();
        Ok(Survey { transaction, snapshots, container_names, engine, needs_helper, new_image, _locked: locked })
    }

    async fn choose_swap(
        &self,
        root: &Value,
        images: [&Value; 2],
        job: &Job<'_>,
        engine: EngineFacts,
        has_dependents: bool,
    ) -> Swap {
        if self.is_own(root) {
            return Swap::Handover;
        }
        if job.strategy != Strategy::StartFirst {
            return Swap::StopFirst;
        }
        if root["State"]["Running"] != true {
            return Swap::StopFirst;
        }
        // Where the call is refused, the engine is treated as a node of a swarm, which start-first does not suit.
        let is_swarm = self.engine.is_swarm().await.unwrap_or_else(|error| {
            info!(container = name_of(root), %error, "whether the engine is a node of a swarm is unknown");
            true
        });
        match reason_against_start_first(root, images, engine, is_swarm, has_dependents) {
            None => Swap::StartFirst,
            Some(reason) => {
                info!(container = name_of(root), %reason, "stopped first, as it cannot be started first");
                Swap::StopFirst
            }
        }
    }

    /// Whether a container is the one that this program runs in.
    pub fn is_own(&self, container: &Value) -> bool {
        self.own_id.as_deref().is_some_and(|own| container["Id"] == own)
    }

    /// One that is to be made again.
    async fn side(&self, container: &Value) -> Side {
        Side { part: self.part_to_remake(container).await, new: None }
    }

    /// A container as it is before it is made again.
    pub(super) async fn part_to_remake(&self, container: &Value) -> Part {
        let was_ill = illness_or_silence(&*self.engine, container).await;
        Part { was_ill, ..part_of(container, Handling::Recreate) }
    }

    async fn snapshot(&self, container: &Value) -> Result<Snapshot, Setback> {
        let id = container["Image"].as_str().unwrap_or_default();
        let image =
            self.image_of(container).await.map_err(|error| Setback::engine("inspect the container's image", &error))?;
        let Some(image) = image else {
            let why = "is gone and was never seen, so the container's own settings cannot be told from the image's; recreate it by hand";
            warn!(container = name_of(container), "its image is gone");
            return Err(Setback::refused(format!("its image {} {why}", imagewatch_abi::short_digest(id))));
        };
        Ok(Snapshot { container: container.clone(), image })
    }

    /// It is created on the image that it has, for which what is remembered of that is not enough.
    async fn snapshot_of_dependent(&self, container: &Value) -> Result<Snapshot, Setback> {
        let snapshot = self.snapshot(container).await?;
        let id = container["Image"].as_str().unwrap_or_default();
        let image = self.engine.inspect_image(id).await;
        if image.map_err(|error| Setback::engine("inspect the container's image", &error))?.is_none() {
            let why = "is gone, so it could not be made again; pull that image, or recreate the container by hand";
            return Err(Setback::refused(format!("its image {} {why}", imagewatch_abi::short_digest(id))));
        }
        Ok(snapshot)
    }
}

/// A container as it is before.
fn part_of(container: &Value, handling: Handling) -> Part {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    Part {
        name: name_of(container).to_owned(),
        old: text(&container["Id"]),
        old_image: text(&container["Image"]),
        handling,
        was_running: container["State"]["Running"] == true,
        policy: container["HostConfig"]["RestartPolicy"].clone(),
        was_ill: illness(container),
    }
}

fn group_names(root: &Value, group: &Group) -> Vec<String> {
    let containers = std::iter::once(root).chain(&group.recreate).chain(&group.restart);
    let mut names: Vec<String> = containers.map(|container| name_of(container).to_owned()).collect();
    names.sort();
    names.dedup();
    names
}

/// Eight hex digits that no transaction had before.
fn new_id(name: &str) -> String {
    format!("{:08x}", RandomState::new().hash_one(name) >> 32)
}

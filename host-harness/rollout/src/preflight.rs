//! What is there before a transaction begins: the container and those that go with it, as they are, under lock.
//! Changes nothing.

mod who;

use std::collections::BTreeMap;
use std::hash::{BuildHasher, RandomState};

use imagewatch_abi::{Fault, Strategy};
use serde_json::Value;
use tracing::{info, warn};

use super::connection::{Carriers, find_carriers};
use super::dependents::{Dependents, dependents_of};
use super::ending::{Member, Transaction, name_of, volume_sources};
use super::health::{illness, illness_or_silence};
use super::journal::Snapshot;
use super::label::{MemberAction, MemberState, SwapMode};
use super::locks::Locked;
use super::plan::reason_against_start_first;
use super::step_error::StepError;
use super::{Job, ReplaceError, Rollout};
use crate::snapshot::EngineSnapshot;
use imagewatch_engine::{Engine, EngineFacts, names_same_image};

pub use who::refuse_for_now;

/// Groups that change while their locks are waited for; more often than this nobody does that.
const ATTEMPTS: usize = 5;

/// What was found.
#[derive(Debug)]
pub struct Preflight {
    pub(super) transaction: Transaction,
    /// Of each member, in the same order.
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

impl Preflight {
    /// The container that it is about.
    pub fn root(&self) -> &Snapshot {
        &self.snapshots[0]
    }

    /// The image that a member's new container runs. Those that only go along stay on theirs.
    pub(super) fn new_image(&self, index: usize) -> &Value {
        if self.transaction.is_updated(index) { &self.new_image } else { &self.snapshots[index].image }
    }

    /// The containers whose volumes a member uses. One that is gone gives none.
    pub(super) async fn volume_sources(&self, index: usize, engine: &dyn Engine) -> Result<Vec<Value>, StepError> {
        let mut sources = Vec::new();
        for source in volume_sources(&self.snapshots[index].container) {
            match engine.inspect_container(source).await {
                Ok(inspection) => sources.push(inspection),
                Err(error) if error.is_gone() => {}
                Err(error) => return Err(StepError::engine("inspect the containers whose volumes it uses", &error)),
            }
        }
        Ok(sources)
    }
}

impl Rollout {
    /// Surveys the container named `name` under the locks of all that goes with it. What a dead program left of it is
    /// ended first. `None` when there is no such container. Nothing is changed, so this may be given up at any time.
    ///
    /// # Errors
    /// Why it is not replaced; nothing was touched.
    pub async fn preflight(
        &self,
        name: &str,
        job: &Job<'_>,
        snapshot: &EngineSnapshot,
    ) -> Result<Option<Preflight>, ReplaceError> {
        let untouched = |error| ReplaceError::untouched(StepError::engine("inspect the container", &error));
        let mut names = vec![name.to_owned()];
        for _ in 0..ATTEMPTS {
            let locked = self.locks.lock(&names).await;
            let is_recovered = self.recover_names(&names).await.map_err(ReplaceError::untouched)?;
            if is_recovered || self.is_unsettled(name, &job.origin.manifest) {
                let why =
                    "its last replacement had failed, and was only now taken back; tried again with the next poll";
                return Err(ReplaceError::untouched(StepError::of(Fault::Postponed, why)));
            }
            let all = snapshot.inspect_all(&*self.engine, &names).await.map_err(untouched)?;
            let Some(root) = all.iter().find(|container| name_of(container) == name) else { return Ok(None) };
            let groups = self.groups_of(root, &all, job).map_err(ReplaceError::untouched)?;
            let found = group_names(&groups);
            if found == names {
                let found = self.assess(groups, &all, job, locked).await;
                return found.map(Some).map_err(ReplaceError::untouched);
            }
            names = found;
        }
        let why = "the containers that need it change all the time";
        Err(ReplaceError::untouched(StepError::of(Fault::Postponed, why)))
    }

    async fn assess(
        &self,
        groups: Vec<Dependents>,
        all: &[Value],
        job: &Job<'_>,
        locked: Locked,
    ) -> Result<Preflight, StepError> {
        let inspect = |error| StepError::engine("inspect the container", &error);
        let engine = self.engine.facts().await.map_err(inspect)?;
        let carriers = find_carriers(&*self.engine, self.own_id.as_deref()).await.map_err(inspect)?;
        let root = &groups[0].root;
        let mut remade: Vec<&Value> = Vec::new();
        for group in &groups {
            remade.extend(std::iter::once(&group.root).chain(&group.recreate));
        }
        for container in &remade {
            self.refuse(container, &carriers)
                .await
                .map_err(|step_error| Self::blame_member(root, container, step_error))?;
        }
        self.check_permissions(remade.iter().copied()).await?;
        let needs_helper = self.needs_helper(root, &groups[0].recreate, all)?;
        let found = self.engine.inspect_image(job.image.id).await.map_err(inspect)?;
        let new_image = found.ok_or_else(|| StepError::of(Fault::Postponed, "its new image is gone again"))?;
        let has_others = groups.len() > 1 || !groups[0].recreate.is_empty() || !groups[0].restart.is_empty();
        let (mut members, mut snapshots) = (Vec::new(), Vec::new());
        for group in &groups {
            let found = self.look_at_group(group, job, &carriers).await;
            let found = found.map_err(|(container, step_error)| Self::blame_member(root, container, step_error))?;
            for (member, snapshot) in found {
                members.push(member);
                snapshots.push(snapshot);
            }
        }
        // The first one is the root, which is no companion of its own.
        (members[0].state.is_companion, members[0].state.leads) = (false, false);
        let swap = self.choose_swap(root, [&snapshots[0].image, &new_image], job, engine, has_others).await;
        let transaction = Transaction {
            id: new_id(name_of(root)),
            swap,
            members,
            stable_for: job.stable_for,
            origin: job.origin.clone(),
            owner: self.journal.owner(),
        };
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let container_names = all.iter().map(|c| (text(&c["Id"]), name_of(c).to_owned())).collect();
        Ok(Preflight { transaction, snapshots, container_names, engine, needs_helper, new_image, _locked: locked })
    }

    /// The root with all that goes with it, and then each companion with all that goes with that. A companion that goes with the
    /// root anyway is only marked there, see [`Self::look_at_group`].
    ///
    /// # Errors
    /// One container needs two that are updated one after the other.
    fn groups_of(&self, root: &Value, all: &[Value], job: &Job<'_>) -> Result<Vec<Dependents>, StepError> {
        let is_companion = |container: &&Value| {
            let is_outdated = container["Image"] != job.image.id && is_created_from_same(container, root);
            is_outdated && !self.is_own(container) && container["Id"] != root["Id"]
        };
        let named = job.companions.iter().filter(|_| !self.is_own(root));
        let found = named.filter_map(|name| all.iter().find(|container| name_of(container) == name));
        let mut groups = vec![dependents_of(root, all)];
        for companion in found.filter(is_companion) {
            // It is swapped, not only restarted.
            for group in &mut groups {
                group.restart.retain(|container| container["Id"] != companion["Id"]);
            }
            if groups.iter().any(|group| group.has(companion)) {
                continue;
            }
            let mut own = dependents_of(companion, all);
            let is_known = |container: &Value| groups.iter().any(|group| group.has(container));
            own.restart.retain(|container| !is_known(container));
            if let Some(needy) = own.recreate.iter().find(|container| is_known(container)) {
                let reason = format!(
                    "{} needs both {} and {}, which write to one volume and are updated one after the other; update them by hand",
                    name_of(needy),
                    name_of(root),
                    name_of(companion)
                );
                return Err(StepError::refused(reason));
            }
            groups.push(own);
        }
        Ok(groups)
    }

    /// The members of one group with what they are now; the container that is to blame where that fails.
    async fn look_at_group<'a>(
        &self,
        group: &'a Dependents,
        job: &Job<'_>,
        carriers: &Carriers,
    ) -> Result<Vec<(Member, Snapshot)>, (&'a Value, StepError)> {
        let is_named = |container: &Value| job.companions.iter().any(|name| name_of(container) == name);
        let mut found = Vec::new();
        for (index, container) in std::iter::once(&group.root).chain(&group.recreate).enumerate() {
            let is_outdated = container["Image"] != job.image.id;
            let is_companion = is_outdated && is_named(container) && is_created_from_same(container, &group.root);
            let snapshot = if index == 0 || is_companion {
                self.snapshot(container).await
            } else {
                self.snapshot_of_dependent(container).await
            };
            let state = MemberState { is_companion, leads: index == 0, ..self.part_to_remake(container).await };
            found.push((Member { state, new: None }, snapshot.map_err(|step_error| (container, step_error))?));
        }
        for container in group.restart.iter().filter(|container| self.is_restarted(container, carriers)) {
            let member = Member { state: part_of(container, MemberAction::Restart), new: None };
            found.push((member, Snapshot { container: container.clone(), image: Value::Null }));
        }
        Ok(found)
    }

    async fn choose_swap(
        &self,
        root: &Value,
        images: [&Value; 2],
        job: &Job<'_>,
        engine: EngineFacts,
        has_dependents: bool,
    ) -> SwapMode {
        if self.is_own(root) {
            return SwapMode::Handover;
        }
        if job.strategy != Strategy::StartFirst {
            return SwapMode::StopFirst;
        }
        if root["State"]["Running"] != true {
            return SwapMode::StopFirst;
        }
        // Where the call is refused, the engine is treated as a node of a swarm, which start-first does not suit.
        let is_swarm = self.engine.is_swarm().await.unwrap_or_else(|error| {
            info!(container = name_of(root), %error, "whether the engine is a node of a swarm is unknown");
            true
        });
        match reason_against_start_first(root, images, engine, is_swarm, has_dependents) {
            None => SwapMode::StartFirst,
            Some(reason) => {
                info!(container = name_of(root), %reason, "stopped first, as it cannot be started first");
                SwapMode::StopFirst
            }
        }
    }

    /// Whether a container is the one that this program runs in.
    pub fn is_own(&self, container: &Value) -> bool {
        self.own_id.as_deref().is_some_and(|own| container["Id"] == own)
    }

    /// A container as it is before it is made again.
    pub(super) async fn part_to_remake(&self, container: &Value) -> MemberState {
        let prior_health = illness_or_silence(&*self.engine, container).await;
        MemberState { prior_health, ..part_of(container, MemberAction::Recreate) }
    }

    async fn snapshot(&self, container: &Value) -> Result<Snapshot, StepError> {
        let id = container["Image"].as_str().unwrap_or_default();
        let image = self
            .image_of(container)
            .await
            .map_err(|error| StepError::engine("inspect the container's image", &error))?;
        let Some(image) = image else {
            let why = "is gone and was never seen, so the container's own settings cannot be told from the image's; recreate it by hand";
            warn!(container = name_of(container), "its image is gone");
            return Err(StepError::refused(format!("its image {} {why}", imagewatch_abi::short_digest(id))));
        };
        Ok(Snapshot { container: container.clone(), image })
    }

    /// It is created on the image that it has, for which what is remembered of that is not enough.
    async fn snapshot_of_dependent(&self, container: &Value) -> Result<Snapshot, StepError> {
        let snapshot = self.snapshot(container).await?;
        let id = container["Image"].as_str().unwrap_or_default();
        let image = self.engine.inspect_image(id).await;
        if image.map_err(|error| StepError::engine("inspect the container's image", &error))?.is_none() {
            let why = "is gone, so it could not be made again; pull that image, or recreate the container by hand";
            return Err(StepError::refused(format!("its image {} {why}", imagewatch_abi::short_digest(id))));
        }
        Ok(snapshot)
    }
}

fn is_created_from_same(one: &Value, other: &Value) -> bool {
    let [one, other] = [one, other].map(|container| container["Config"]["Image"].as_str().unwrap_or_default());
    names_same_image(one, other)
}

/// A container as it is before.
fn part_of(container: &Value, action: MemberAction) -> MemberState {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    MemberState {
        name: name_of(container).to_owned(),
        old: text(&container["Id"]),
        old_image: text(&container["Image"]),
        action,
        was_running: container["State"]["Running"] == true,
        policy: container["HostConfig"]["RestartPolicy"].clone(),
        prior_health: illness(container),
        is_companion: false,
        leads: false,
    }
}

fn group_names(groups: &[Dependents]) -> Vec<String> {
    let mut names: Vec<String> =
        groups.iter().flat_map(Dependents::containers).map(|c| name_of(c).to_owned()).collect();
    names.sort();
    names.dedup();
    names
}

/// Eight hex digits that no transaction had before.
fn new_id(name: &str) -> String {
    format!("{:08x}", RandomState::new().hash_one(name) >> 32)
}

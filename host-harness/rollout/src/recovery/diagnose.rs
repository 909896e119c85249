//! Which transactions are not over, and which way each is to go: told from a list of all containers and the labels of
//! those that a transaction made. Pure.

use std::collections::BTreeMap;
use std::time::Duration;

use imagewatch_abi::Container;

use crate::ending::{Side, Transaction};
use crate::facts::{Facts, Handling, LABEL, Swap};
use imagewatch_engine::Listed;

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
        // One that went when it was stopped is not there, and can be made again as long as it is written down.
        let is_open = self.journaled.contains(&facts.transaction);
        let way = if made().all(owns_name) {
            (made().any(is_old_there) || is_open).then_some(Way::Forwards)?
        } else if is_old_there(&sides[0]) || is_open {
            Way::Back
        } else {
            return None; // then each of them is looked at by itself
        };
        Some(Open { transaction: transaction_of(facts, sides), way, listed: root.clone() })
    }

    /// Whether the old container went and somebody has begun to make it again.
    fn is_being_made_again(&self, facts: &Facts) -> bool {
        self.labelled.iter().any(|(_, other)| other.is_restored && other.transaction == facts.transaction)
    }

    fn diagnose_one(&self, new: &Listed, facts: &Facts) -> Option<Open> {
        let part = &facts.part;
        let is_temporary = new.name() == part.temporary_name(&facts.transaction);
        let is_old_there = self.by_id.contains_key(part.old.as_str());
        let owner = self.by_name.get(part.name.as_str()).map(|owner| owner.id.as_str());
        let is_up = matches!(new.state.as_str(), "running" | "restarting" | "paused");
        let was_never_started = new.state == "created" && part.was_running;
        if facts.is_restored {
            // Until it has its name, whoever reads the journal goes on with it.
            let is_complete = owner == Some(new.id.as_str());
            let way = (is_complete && was_never_started).then_some(Way::Start)?;
            return Some(Self::open(new, facts, way));
        }
        let way = match owner {
            Some(owner) if owner == new.id && is_old_there => Way::Forwards,
            // One that went when it was stopped leaves nothing but the journal to tell whether all is done.
            Some(owner) if owner == new.id => {
                let is_unfinished = was_never_started || self.journaled.contains(&facts.transaction);
                is_unfinished.then_some(Way::Forwards)?
            }
            // It is at work, and will end this itself.
            Some(owner) if owner == part.old && facts.swap == Swap::Handover && is_up => return None,
            Some(owner) if owner == part.old => Way::Back,
            Some(_) => (is_temporary && !is_up).then_some(Way::Discard)?,
            None if is_old_there || self.is_being_made_again(facts) => Way::Back,
            // The old one went when it was stopped, or somebody removed it.
            None => is_temporary.then_some(Way::Forwards)?,
        };
        Some(Self::open(new, facts, way))
    }

    fn open(new: &Listed, facts: &Facts, way: Way) -> Open {
        let side = Side { part: facts.part.clone(), new: Some(new.id.clone()) };
        Open { transaction: transaction_of(facts, vec![side]), way, listed: new.clone() }
    }
}

pub(crate) fn transaction_of(facts: &Facts, sides: Vec<Side>) -> Transaction {
    Transaction {
        id: facts.transaction.clone(),
        swap: facts.swap,
        sides,
        stable_for: Duration::from_millis(facts.stable_for_ms),
        origin: facts.origin.clone(),
        owner: facts.owner.clone(),
    }
}

/// How long another program is taken to be at work on what it has begun.
const AT_WORK_FOR_S: u64 = 15 * 60;

impl Open {
    /// Whether it belongs to a program with another state folder, of which nobody here can tell whether it lives.
    pub(crate) fn may_be_anothers(&self, own: &str, now_ms: u64) -> bool {
        let age_s = (now_ms / 1000).saturating_sub(self.listed.created_s);
        !self.transaction.owner.is_empty() && self.transaction.owner != own && age_s < AT_WORK_FOR_S
    }

    /// Whether a program with the state folder `own` began it.
    pub(crate) fn is_of(&self, own: &str) -> bool {
        !own.is_empty() && self.transaction.owner == own
    }

    /// The names of all its containers.
    pub(crate) fn names(&self) -> Vec<String> {
        self.transaction.sides.iter().map(|side| side.part.name.clone()).collect()
    }

    /// Its container, for the grants.
    pub(crate) fn container(&self) -> Container {
        Container { name: self.transaction.root().part.name.clone(), ..self.listed.to_container() }
    }
}

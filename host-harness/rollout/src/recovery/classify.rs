//! Which transactions are not over, and which way each is to go: told from a list of all containers and the labels of
//! those that a transaction made. Pure.

use std::collections::BTreeMap;
use std::time::Duration;

use imagewatch_abi::Container;

use crate::ending::{Member, Transaction};
use crate::label::{LABEL, MemberAction, SwapMode, TransactionLabel};
use imagewatch_engine::Listed;

/// A transaction that is not over, and which way it is to go.
#[derive(Debug, Clone, PartialEq)]
pub struct Incomplete {
    /// As its labels tell it.
    pub transaction: Transaction,
    /// Which way.
    pub way: Resolution,
    /// Its root's new container as the engine lists it.
    listed: Listed,
}

/// Which way an open transaction goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Resolution {
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
pub fn classify(listed: &[Listed], journaled: &[String]) -> Vec<Incomplete> {
    let view = View::new(listed, journaled);
    let roots = view.labelled.iter().filter(|(_, facts)| facts.state.name == facts.root && !facts.others.is_empty());
    let groups: Vec<Incomplete> = roots.filter_map(|(root, facts)| view.diagnose_group(root, facts)).collect();
    let in_group = |facts: &TransactionLabel| groups.iter().any(|open| open.transaction.id == facts.transaction);
    let singles = view.labelled.iter().filter(|(_, facts)| !in_group(facts));
    let singles: Vec<Incomplete> = singles.filter_map(|(new, facts)| view.diagnose_one(new, facts)).collect();
    groups.into_iter().chain(singles).collect()
}

/// The engine's containers, looked at from all members.
struct View<'a> {
    by_id: BTreeMap<&'a str, &'a Listed>,
    by_name: BTreeMap<&'a str, &'a Listed>,
    /// Made by a transaction, and not replaced by another since.
    labelled: Vec<(&'a Listed, TransactionLabel)>,
    journaled: &'a [String],
}

impl<'a> View<'a> {
    fn new(listed: &'a [Listed], journaled: &'a [String]) -> Self {
        let facts = |container: &'a Listed| Some((container, TransactionLabel::parse(container.labels().get(LABEL)?)?));
        let mut labelled: Vec<(&Listed, TransactionLabel)> = listed.iter().filter_map(facts).collect();
        let replaced: Vec<String> = labelled.iter().map(|(_, facts)| facts.state.old.clone()).collect();
        labelled.retain(|(container, _)| !replaced.contains(&container.id));
        Self {
            by_id: listed.iter().map(|container| (container.id.as_str(), container)).collect(),
            by_name: listed.iter().map(|container| (container.name(), container)).collect(),
            labelled,
            journaled,
        }
    }

    /// A group goes forwards only when all of its new containers have their names.
    fn diagnose_group(&self, root: &Listed, facts: &TransactionLabel) -> Option<Incomplete> {
        let new_of = |name: &str| {
            let mut siblings = self.labelled.iter().filter(|(_, other)| other.transaction == facts.transaction);
            siblings.find(|(_, other)| other.state.name == name).map(|(container, _)| container.id.clone())
        };
        let others = facts.others.iter().map(|state| Member { state: state.clone(), new: new_of(&state.name) });
        let own = Member { state: facts.state.clone(), new: Some(root.id.clone()) };
        let members: Vec<Member> = std::iter::once(own).chain(others).collect();
        let made = || members.iter().filter(|member| member.state.action == MemberAction::Recreate);
        let owns_name = |member: &Member| {
            let owner = self.by_name.get(member.state.name.as_str());
            member.new.is_some() && owner.map(|owner| &owner.id) == member.new.as_ref()
        };
        let is_old_there = |member: &Member| self.by_id.contains_key(member.state.old.as_str());
        // One that went when it was stopped is not there, and can be made again as long as it is written down.
        let is_open = self.journaled.contains(&facts.transaction);
        let way = if made().all(owns_name) {
            (made().any(is_old_there) || is_open).then_some(Resolution::Forwards)?
        } else if is_old_there(&members[0]) || is_open {
            Resolution::Back
        } else {
            return None; // then each of them is looked at by itself
        };
        Some(Incomplete { transaction: transaction_of(facts, members), way, listed: root.clone() })
    }

    /// Whether the old container went and somebody has begun to make it again.
    fn is_being_made_again(&self, facts: &TransactionLabel) -> bool {
        self.labelled.iter().any(|(_, other)| other.is_restored && other.transaction == facts.transaction)
    }

    fn diagnose_one(&self, new: &Listed, facts: &TransactionLabel) -> Option<Incomplete> {
        let state = &facts.state;
        let is_temporary = new.name() == state.temporary_name(&facts.transaction);
        let is_old_there = self.by_id.contains_key(state.old.as_str());
        let owner = self.by_name.get(state.name.as_str()).map(|owner| owner.id.as_str());
        let is_up = matches!(new.state.as_str(), "running" | "restarting" | "paused");
        let was_never_started = new.state == "created" && state.was_running;
        if facts.is_restored {
            // Until it has its name, whoever reads the journal goes on with it.
            let is_complete = owner == Some(new.id.as_str());
            let way = (is_complete && was_never_started).then_some(Resolution::Start)?;
            return Some(Self::open(new, facts, way));
        }
        let way = match owner {
            Some(owner) if owner == new.id && is_old_there => Resolution::Forwards,
            // One that went when it was stopped leaves nothing but the journal to tell whether all is done.
            Some(owner) if owner == new.id => {
                let is_unfinished = was_never_started || self.journaled.contains(&facts.transaction);
                is_unfinished.then_some(Resolution::Forwards)?
            }
            // It is at work, and will end this itself.
            Some(owner) if owner == state.old && facts.swap == SwapMode::Handover && is_up => return None,
            Some(owner) if owner == state.old => Resolution::Back,
            Some(_) => (is_temporary && !is_up).then_some(Resolution::Discard)?,
            None if is_old_there || self.is_being_made_again(facts) => Resolution::Back,
            // The old one went when it was stopped, or somebody removed it.
            None => is_temporary.then_some(Resolution::Forwards)?,
        };
        Some(Self::open(new, facts, way))
    }

    fn open(new: &Listed, facts: &TransactionLabel, way: Resolution) -> Incomplete {
        let member = Member { state: facts.state.clone(), new: Some(new.id.clone()) };
        Incomplete { transaction: transaction_of(facts, vec![member]), way, listed: new.clone() }
    }
}

pub(crate) fn transaction_of(facts: &TransactionLabel, members: Vec<Member>) -> Transaction {
    Transaction {
        id: facts.transaction.clone(),
        swap: facts.swap,
        members,
        stable_for: Duration::from_millis(facts.stable_for_ms),
        origin: facts.origin.clone(),
        owner: facts.owner.clone(),
    }
}

/// How long another program is taken to be at work on what it has begun.
const AT_WORK_FOR_S: u64 = 15 * 60;

impl Incomplete {
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
        self.transaction.members.iter().map(|member| member.state.name.clone()).collect()
    }

    /// Its container, for the grants.
    pub(crate) fn container(&self) -> Container {
        Container { name: self.transaction.root().state.name.clone(), ..self.listed.to_container() }
    }
}

//! The orders of one group, over all polls and manifests on one engine: which of them may handle containers now, and
//! which of their containers are left alone because another one of the group failed. Knows no engine.

use std::collections::{BTreeMap, BTreeSet};

use imagewatch_abi::{Container, ContainerFailure, Fault, Order};
use tokio::sync::watch;

/// The orders of all groups that have not ended. Clones share them.
#[derive(Debug, Clone, Default)]
pub struct Services(watch::Sender<Rounds>);

#[derive(Debug, Default)]
struct Rounds {
    last: u64,
    /// By group, in the order in which they were placed.
    open: BTreeMap<String, Vec<JournalEntry>>,
}

/// One order that has not ended.
#[derive(Debug)]
struct JournalEntry {
    round: u64,
    order: Order,
    stops: Vec<Stop>,
}

/// What follows for others from a container that was not updated.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Stop {
    /// The container that failed.
    pub(super) container: String,
    /// Why it failed.
    pub(super) reason: String,
    /// Where the fault lies.
    pub(super) fault: Option<Fault>,
    /// Containers that were to be updated together with it.
    pub(super) companions: BTreeSet<String>,
    /// Whether all other containers of the group are left alone too.
    pub(super) is_for_all: bool,
}

impl Stop {
    /// What follows from `failure` of a container that was to be updated together with `companions`.
    pub(super) fn of(failure: &ContainerFailure, companions: &[String], is_for_all: bool) -> Self {
        Self {
            container: failure.container.clone(),
            reason: failure.reason.clone(),
            fault: failure.fault,
            companions: companions.iter().cloned().collect(),
            is_for_all,
        }
    }

    /// What there is to report of `container`, if it is left alone because of this.
    pub(super) fn failure_of(&self, container: &Container) -> Option<ContainerFailure> {
        let is_companion = self.companions.contains(&container.name);
        // What is updated together is also tried again together, so its containers wait equally long.
        let fault = if is_companion { self.fault } else { Some(Fault::Postponed) };
        (is_companion || self.is_for_all).then(|| ContainerFailure {
            container: container.name.clone(),
            reason: format!("not touched, because {} of the same update failed: {}", self.container, self.reason),
            fault,
            ..ContainerFailure::default()
        })
    }
}

/// Orders that were placed together, until this is dropped.
#[derive(Debug)]
pub(super) struct Round {
    services: Services,
    number: u64,
}

impl Services {
    /// Takes in `orders` behind all that were placed before.
    pub(super) fn enter(&self, orders: &[Order]) -> Round {
        let mut number = 0;
        self.0.send_modify(|rounds| {
            rounds.last += 1;
            number = rounds.last;
            for order in orders.iter().filter(|order| order.recreate) {
                let Some(group) = &order.group else { continue };
                let entry = JournalEntry { round: number, order: order.clone(), stops: Vec::new() };
                rounds.open.entry(group.clone()).or_default().push(entry);
            }
        });
        Round { services: self.clone(), number }
    }
}

impl Round {
    /// Waits until no order of the same group that was placed in an earlier round is left.
    pub(super) async fn wait_for_earlier(&self, order: &Order) {
        let Some(group) = &order.group else { return };
        let mut rounds = self.services.0.subscribe();
        let is_first = |rounds: &Rounds| {
            rounds.open.get(group).is_none_or(|open| open.iter().all(|entry| entry.round >= self.number))
        };
        // An error says that there is no sender any more, and this holds one.
        let _ = rounds.wait_for(is_first).await;
    }

    /// What was found out in the meantime that keeps `order` from containers.
    pub(super) fn stops(&self, order: &Order) -> Vec<Stop> {
        let rounds = self.services.0.borrow();
        let open = order.group.as_ref().and_then(|group| rounds.open.get(group));
        open.into_iter()
            .flatten()
            .find(|entry| self.has(entry, &order.order))
            .map(|e| e.stops.clone())
            .unwrap_or_default()
    }

    /// Tells all orders of the group of `order` that have not ended and bring the same image.
    pub(super) fn stop_others(&self, order: &Order, stop: &Stop) {
        let Some(group) = &order.group else { return };
        self.services.0.send_modify(|rounds| {
            let open = rounds.open.get_mut(group).into_iter().flatten();
            for entry in open.filter(|entry| brings_same_image(&entry.order, order)) {
                entry.stops.push(stop.clone());
            }
        });
    }

    /// `order` has ended.
    pub(super) fn end(&self, order: &str) {
        self.leave(|entry| self.has(entry, order));
    }

    fn has(&self, entry: &JournalEntry, order: &str) -> bool {
        entry.round == self.number && entry.order.order == order
    }

    fn leave(&self, is_leaving: impl Fn(&JournalEntry) -> bool) {
        self.services.0.send_modify(|rounds| {
            rounds.open.retain(|_, open| {
                open.retain(|entry| !is_leaving(entry));
                !open.is_empty()
            });
        });
    }
}

impl Drop for Round {
    fn drop(&mut self) {
        self.leave(|entry| entry.round == self.number);
    }
}

/// Whether two orders bring the same image, as far as they say which one.
pub(super) fn brings_same_image(one: &Order, other: &Order) -> bool {
    let is_same_digest = one.digest.is_none() || other.digest.is_none() || one.digest == other.digest;
    is_same_digest && one.reference == other.reference && one.platform == other.platform
}

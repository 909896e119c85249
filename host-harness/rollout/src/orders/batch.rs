//! Orders that were placed together: in which order they handle containers. One whose containers only ask for an order,
//! as compose's `depends_on` does without `restart`, waits until the orders of those that they need have ended; those of
//! one group go one after the other. Pulls wait for nobody.

use std::collections::{BTreeMap, BTreeSet};

use imagewatch_abi::{Container, Order, Selector};
use serde_json::{Value, json};
use tokio::sync::{OnceCell, watch};
use tracing::debug;

use super::service::{Round, Services, Stop, brings_same_image};
use super::{OrderContext, created_from, is_created_from};
use crate::dependents::asks_for_order;
use crate::snapshot::EngineSnapshot;

/// No compose project moves so many at once; a policy may place more.
const MOST_SORTED: usize = 500;

/// Orders that were placed together.
#[derive(Debug)]
pub struct Batch {
    orders: Vec<Order>,
    /// By order, the orders that go before it; found out once.
    before: OnceCell<BTreeMap<String, BTreeSet<String>>>,
    ended: watch::Sender<BTreeSet<String>>,
    round: Round,
    /// What the engine has, inspected once for all orders.
    pub(super) snapshot: EngineSnapshot,
}

/// An order has ended when this is dropped, however it ended.
#[derive(Debug)]
pub(super) struct Ends<'a> {
    batch: &'a Batch,
    order: &'a str,
}

impl Drop for Ends<'_> {
    fn drop(&mut self) {
        self.batch.round.end(self.order);
        self.batch.ended.send_modify(|ended| {
            ended.insert(self.order.to_owned());
        });
    }
}

impl Batch {
    /// A batch of `orders`, behind all of their groups that were placed before.
    pub fn new(services: &Services, orders: Vec<Order>) -> Self {
        let round = services.enter(&orders);
        Self {
            orders,
            before: OnceCell::new(),
            ended: watch::Sender::default(),
            round,
            snapshot: EngineSnapshot::default(),
        }
    }

    /// To be held while `order` runs.
    pub(super) fn begin<'a>(&'a self, order: &'a Order) -> Ends<'a> {
        Ends { batch: self, order: &order.order }
    }

    /// Waits until `order` may touch its containers. Returns why some of them are left alone. Engines that cannot list
    /// are not waited for.
    pub(super) async fn wait_for_turn(&self, ctx: &OrderContext, order: &Order) -> Vec<Stop> {
        let turn = async {
            self.wait_for_batch(ctx, order).await;
            self.round.wait_for_earlier(order).await;
        };
        // A shutdown is noticed by the order itself.
        let _ = ctx.shutdown.run_until_cancelled(turn).await;
        self.round.stops(order)
    }

    /// A container of `order` was not updated: what follows for the others of its group.
    pub(super) fn stop_others(&self, order: &Order, stop: &Stop) {
        self.round.stop_others(order, stop);
    }

    /// The other orders of the group of `order` that bring the same image to containers of the same reference.
    pub(super) fn mates<'a>(&'a self, order: &'a Order) -> impl Iterator<Item = &'a Order> {
        self.orders.iter().filter(move |other| {
            order.group.is_some()
                && other.order != order.order
                && other.recreate
                && other.group == order.group
                && other.from == order.from
                && brings_same_image(other, order)
        })
    }

    async fn wait_for_batch(&self, ctx: &OrderContext, order: &Order) {
        if self.orders.len() < 2 {
            return;
        }
        let before = self.before.get_or_init(|| self.find_order(ctx)).await;
        let Some(before) = before.get(&order.order).filter(|before| !before.is_empty()) else { return };
        debug!(target = %order.target, orders = ?before, "waits for orders that go before it");
        let mut ended = self.ended.subscribe();
        // An error says that there is no sender any more, and this holds one.
        let _ = ended.wait_for(|ended| before.is_subset(ended)).await;
    }

    async fn find_order(&self, ctx: &OrderContext) -> BTreeMap<String, BTreeSet<String>> {
        let containers = if self.orders.len() > MOST_SORTED {
            debug!("orders are not sorted by what depends on what: they are too many");
            Vec::new()
        } else {
            ctx.rollout.engine.containers(&Selector::default()).await.unwrap_or_else(|error| {
                debug!(%error, "orders are not sorted by what depends on what");
                Vec::new()
            })
        };
        // It compares them in pairs, which is not for a thread that others wait for.
        let orders = self.orders.clone();
        let sorted = tokio::task::spawn_blocking(move || {
            let mut before = order_of(&orders, &containers);
            put_groups_in_order(&orders, &mut before);
            before
        });
        sorted.await.unwrap_or_else(|panic| {
            debug!(%panic, "orders are not sorted");
            BTreeMap::new()
        })
    }
}

/// Adds to `before` that the orders of a group go one after the other, as they were placed, unless one of them has to
/// wait for a later one anyway.
fn put_groups_in_order(orders: &[Order], before: &mut BTreeMap<String, BTreeSet<String>>) {
    let mut chains: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for order in orders.iter().filter(|order| order.recreate) {
        let (Some(group), id) = (&order.group, order.order.as_str()) else { continue };
        let chain = chains.entry(group).or_default();
        let is_waited_for = before.values().any(|others| others.contains(id));
        let waits = chain.iter().position(|companion| is_waited_for && reaches(before, companion, id));
        let place = waits.unwrap_or(chain.len());
        if let Some(next) = chain.get(place) {
            before.entry((*next).to_owned()).or_default().insert(id.to_owned());
        }
        if let Some(previous) = place.checked_sub(1).and_then(|index| chain.get(index)) {
            before.entry(id.to_owned()).or_default().insert((*previous).to_owned());
        }
        chain.insert(place, id);
    }
}

/// By order, the orders that go before it. Where they go in a circle, the first one placed goes first. A container that
/// several orders mean counts for the first of them.
fn order_of(orders: &[Order], containers: &[Container]) -> BTreeMap<String, BTreeSet<String>> {
    let first = |container: &Container| {
        let meant = orders.iter().position(|order| is_meant(order, container))?;
        Some((meant, as_inspected(container)))
    };
    let mut meant: Vec<(usize, Value)> = containers.iter().filter_map(first).collect();
    meant.sort_by_key(|(order, _)| *order);
    let mut before: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for (of, container) in &meant {
        for (other, _) in meant.iter().filter(|(order, other)| order != of && asks_for_order(container, other)) {
            let (of, other) = (&orders[*of].order, &orders[*other].order);
            if !reaches(&before, other, of) {
                before.entry(of.clone()).or_default().insert(other.clone());
            }
        }
    }
    before
}

/// Whether `from` waits for `to`, maybe through others.
fn reaches(before: &BTreeMap<String, BTreeSet<String>>, from: &str, to: &str) -> bool {
    let (mut seen, mut open) = (BTreeSet::new(), vec![from]);
    while let Some(next) = open.pop() {
        if next == to {
            return true;
        }
        if seen.insert(next) {
            open.extend(before.get(next).into_iter().flatten().map(String::as_str));
        }
    }
    false
}

/// Whether `order` is about `container`.
pub(super) fn is_meant(order: &Order, container: &Container) -> bool {
    order.recreate
        && order.containers.matches(&container.name, &container.labels)
        && is_created_from(&container.image, &created_from(order))
}

/// As much of an inspection as tells what depends on what.
fn as_inspected(container: &Container) -> Value {
    json!({ "Id": container.id, "Name": container.name, "Config": { "Labels": container.labels } })
}

#[cfg(test)]
mod tests {
    use imagewatch_abi::Strategy;

    use super::*;

    fn order(name: &str) -> Order {
        Order {
            order: name.to_owned(),
            target: name.to_owned(),
            reference: format!("a.io/{name}:1").parse().expect("a reference"),
            from: None,
            digest: None,
            platform: None,
            recreate: true,
            strategy: Strategy::Replace,
            containers: Selector::default(),
            only_outdated: true,
            group: None,
        }
    }

    fn container(service: &str, depends_on: &str) -> Container {
        let labels = [
            ("com.docker.compose.project", "p"),
            ("com.docker.compose.service", service),
            ("com.docker.compose.depends_on", depends_on),
        ];
        Container {
            id: service.to_owned(),
            name: format!("p-{service}-1"),
            image: format!("a.io/{service}:1"),
            labels: labels.map(|(key, value)| (key.to_owned(), value.to_owned())).into(),
            state: "running".to_owned(),
            ..Container::default()
        }
    }

    #[test]
    fn f18_orders_of_a_group_go_one_after_the_other_as_placed_unless_they_depend_on_each_other() {
        let grouped = |name: &str, group: &str| Order { group: Some(group.to_owned()), ..order(name) };
        let waits_for = |pairs: &[(&str, &str)]| {
            let mut before: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
            for (one, other) in pairs {
                before.entry((*one).to_owned()).or_default().insert((*other).to_owned());
            }
            before
        };
        let crossed = [("a1", "b2"), ("b1", "a2")];
        for (case, orders, dependencies, sequences) in [
            ("as placed", vec![grouped("a", "g"), grouped("b", "g"), grouped("c", "g")], waits_for(&[]), vec!["a b c"]),
            ("two groups", vec![grouped("a", "g"), grouped("b", "h"), grouped("c", "g")], waits_for(&[]), vec!["a c"]),
            ("no group", vec![order("a"), order("b")], waits_for(&[]), vec![]),
            (
                "the first needs the second",
                vec![grouped("a", "g"), grouped("b", "g"), grouped("c", "g")],
                waits_for(&[("a", "b")]),
                vec!["b a c"],
            ),
            (
                "two groups that need each other",
                vec![grouped("a1", "a"), grouped("a2", "a"), grouped("b1", "b"), grouped("b2", "b")],
                waits_for(&crossed),
                vec!["a1 a2 b1", "b2 a1"],
            ),
        ] {
            let mut before = dependencies;
            put_groups_in_order(&orders, &mut before);
            for sequence in sequences {
                let sequence: Vec<&str> = sequence.split(' ').collect();
                for pair in sequence.windows(2) {
                    assert!(
                        reaches(&before, pair[1], pair[0]),
                        "{case}: {} waits for {}: {before:?}",
                        pair[1],
                        pair[0]
                    );
                }
            }
            for order in &orders {
                let waits = before.get(&order.order).into_iter().flatten();
                assert!(waits.into_iter().all(|other| !reaches(&before, other, &order.order)), "{case}: a circle");
            }
        }
    }

    #[test]
    fn an_order_goes_after_those_that_its_containers_depend_on_and_circles_are_cut() {
        for (case, containers, expected) in [
            ("nothing", vec![container("web", ""), container("db", "")], vec![]),
            (
                "one after the other",
                vec![container("web", "db:service_healthy:false"), container("db", "")],
                vec![("web", "db")],
            ),
            (
                "a circle",
                vec![container("web", "db:service_started:false"), container("db", "web:service_started:false")],
                vec![("web", "db")],
            ),
            (
                "of a service that does not move",
                vec![container("web", "cache:service_started:false"), container("db", "")],
                vec![],
            ),
        ] {
            let before = order_of(&[order("web"), order("db")], &containers);
            let found: Vec<(&str, &str)> = before
                .iter()
                .flat_map(|(one, others)| others.iter().map(|other| (one.as_str(), other.as_str())))
                .collect();
            assert_eq!(found, expected, "{case}");
        }
    }
}

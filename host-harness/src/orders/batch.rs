//! Orders that were placed together: one whose containers only ask for an order, as compose's `depends_on` does without
//! `restart`, waits until the orders of those that they need have ended. Pulls wait for nobody.

use std::collections::{BTreeMap, BTreeSet};

use imagewatch_abi::{Container, Order, Selector};
use serde_json::{Value, json};
use tokio::sync::{OnceCell, watch};
use tracing::debug;

use super::{OrderContext, created_from, is_created_from};
use crate::engine::is_selected;
use crate::replace::order::asks_for_order;

/// No compose project moves so many at once; a policy may place more.
const MOST_SORTED: usize = 500;

/// Orders that were placed together.
#[derive(Debug)]
pub struct Batch {
    orders: Vec<Order>,
    /// By order, the orders that go before it; found out once.
    before: OnceCell<BTreeMap<String, BTreeSet<String>>>,
    ended: watch::Sender<BTreeSet<String>>,
}

/// An order has ended when this is dropped, however it ended.
#[derive(Debug)]
pub(super) struct Ends<'a> {
    batch: &'a Batch,
    order: &'a str,
}

impl Drop for Ends<'_> {
    fn drop(&mut self) {
        self.batch.ended.send_modify(|ended| {
            ended.insert(self.order.to_owned());
        });
    }
}

impl Batch {
    /// A batch of `orders`.
    pub fn new(orders: Vec<Order>) -> Self {
        Self { orders, before: OnceCell::new(), ended: watch::Sender::default() }
    }

    /// To be held while `order` runs.
    pub(super) fn begin<'a>(&'a self, order: &'a Order) -> Ends<'a> {
        Ends { batch: self, order: &order.order }
    }

    /// Waits until `order` may touch its containers. Engines that cannot list are not waited for.
    pub(super) async fn wait_for_turn(&self, ctx: &OrderContext, order: &Order) {
        if self.orders.len() < 2 {
            return;
        }
        let before = self.before.get_or_init(|| self.find_order(ctx)).await;
        let Some(before) = before.get(&order.order).filter(|before| !before.is_empty()) else { return };
        debug!(target = %order.target, orders = ?before, "waits for what it depends on");
        let mut ended = self.ended.subscribe();
        let all = ended.wait_for(|ended| before.is_subset(ended));
        // Closed never, as the sender is ours; a shutdown is noticed by the order itself.
        let _ = ctx.shutdown.run_until_cancelled(all).await;
    }

    async fn find_order(&self, ctx: &OrderContext) -> BTreeMap<String, BTreeSet<String>> {
        let unsorted = |why: &str| {
            debug!(why, "orders are not sorted by what depends on what");
            BTreeMap::new()
        };
        if self.orders.len() > MOST_SORTED {
            return unsorted("they are too many");
        }
        match ctx.replacer.engine.containers(&Selector::default()).await {
            // It compares them in pairs, which is not for a thread that others wait for.
            Ok(containers) => {
                let orders = self.orders.clone();
                let sorted = tokio::task::spawn_blocking(move || order_of(&orders, &containers)).await;
                sorted.unwrap_or_else(|panic| unsorted(&panic.to_string()))
            }
            Err(error) => unsorted(&error.to_string()),
        }
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

fn is_meant(order: &Order, container: &Container) -> bool {
    order.recreate
        && is_selected(&order.containers, &container.name, &container.labels)
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

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
        match ctx.replacer.engine.containers(&Selector::default()).await {
            Ok(containers) => order_of(&self.orders, &containers),
            Err(error) => {
                debug!(%error, "orders are not sorted by what depends on what");
                BTreeMap::new()
            }
        }
    }
}

/// By order, the orders that go before it. Where they go in a circle, the first one placed goes first.
fn order_of(orders: &[Order], containers: &[Container]) -> BTreeMap<String, BTreeSet<String>> {
    let of =
        |order: &Order| -> Vec<Value> { containers.iter().filter(|c| is_meant(order, c)).map(as_inspected).collect() };
    let groups: Vec<(&str, Vec<Value>)> = orders.iter().map(|order| (order.order.as_str(), of(order))).collect();
    let needs = |(_, group): &(&str, Vec<Value>), (_, other): &(&str, Vec<Value>)| {
        group.iter().any(|container| other.iter().any(|other| asks_for_order(container, other)))
    };
    let mut before: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for group in &groups {
        for other in groups.iter().filter(|other| other.0 != group.0 && needs(group, other)) {
            if !reaches(&before, other.0, group.0) {
                before.entry(group.0.to_owned()).or_default().insert(other.0.to_owned());
            }
        }
    }
    before
}

/// Whether `from` waits for `to`, maybe through others.
fn reaches(before: &BTreeMap<String, BTreeSet<String>>, from: &str, to: &str) -> bool {
    before.get(from).is_some_and(|waits| waits.iter().any(|other| other == to || reaches(before, other, to)))
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
            image_id: String::new(),
            repo_digests: Vec::new(),
            target_digest: None,
            platform: None,
            labels: labels.map(|(key, value)| (key.to_owned(), value.to_owned())).into(),
            state: "running".to_owned(),
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

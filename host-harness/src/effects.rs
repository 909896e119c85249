//! What one manifest's policy can make happen: its host functions over the adapters, as far as
//! the manifest's grants go. Takes orders but does not run them: that is for who called the policy,
//! once the call has come back well.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};

use imagewatch_abi::{
    Answer, Container, Containers, Failure, FailureCode, HttpBatch, HttpResponses, LogLevel, LogLine, Order, Orders,
    Placed, Report, Selector,
};
use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;

use crate::credentials::store::CredentialStore;
use crate::engine::Engine;
use crate::http::client::{HttpClient, HttpLimits};
use crate::http::egress::EgressRules;
use crate::plugin::{Effects, PluginManifest};
use crate::replace::facts::usual_name;
use crate::store::Store;

/// Longest log line taken from a policy, in characters.
const MAX_LOG_CHARS: usize = 2_000;

/// What all manifests share.
#[derive(Debug, Clone)]
pub struct Adapters {
    /// The container engine.
    pub engine: Arc<dyn Engine>,
    /// Towards registries.
    pub http: Arc<HttpClient>,
    /// For registries and pulls.
    pub credentials: Arc<CredentialStore>,
    /// What outlives the process.
    pub store: Arc<Store>,
    /// Ends requests that are under way.
    pub cancel: CancellationToken,
}

/// The effects of one manifest.
#[derive(Debug)]
pub struct ManifestEffects {
    manifest: Arc<PluginManifest>,
    rules: EgressRules,
    limits: HttpLimits,
    adapters: Adapters,
    runtime: Handle,
    placed: Mutex<Vec<Order>>,
}

impl ManifestEffects {
    /// The effects that `manifest` grants. Must be made on the runtime that is to run them.
    pub fn new(manifest: Arc<PluginManifest>, rules: EgressRules, adapters: Adapters) -> Self {
        let limits = HttpLimits { deadline: manifest.host.http_timeout, ..HttpLimits::default() };
        Self { manifest, rules, limits, adapters, runtime: Handle::current(), placed: Mutex::default() }
    }

    /// The orders taken since the last time. Those of a call that failed are to be thrown away:
    /// the policy's state does not know them.
    pub fn take_placed(&self) -> Vec<Order> {
        std::mem::take(&mut *self.placed.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Why `manifest` does not let `order` be carried out.
fn refuse(manifest: &PluginManifest, order: &Order) -> Option<Failure> {
    let mut images = order.from.iter().chain([&order.reference]);
    let message = if let Some(refused) = images.find(|image| !manifest.grants.has_image(image)) {
        format!("manifest {} does not grant image {refused}; add it to config key `grant.images`", manifest.name)
    } else {
        let from = order.from.as_ref().filter(|from| from.name() != order.reference.name())?;
        format!("{} is not in the repository of {from}, which a container never leaves", order.reference)
    };
    Some(Failure::lasting(FailureCode::Denied, message))
}

/// In the middle of a replacement a container goes by another name. A policy sees it under its own, and its
/// successor not before it has that.
fn show_as_usual(containers: Vec<Container>) -> Vec<Container> {
    let names: BTreeSet<String> = containers.iter().map(|container| container.name.clone()).collect();
    let show = |container: Container| match usual_name(&container.name) {
        None => Some(container),
        Some((name, is_old)) if is_old && !names.contains(name) => {
            Some(Container { name: name.to_owned(), ..container })
        }
        Some(_) => None,
    };
    let mut shown: Vec<Container> = containers.into_iter().filter_map(show).collect();
    shown.sort_by(|a, b| a.name.cmp(&b.name));
    shown
}

fn stopping<T>() -> Answer<T> {
    Answer::Err(Failure::passing(FailureCode::ShuttingDown, "imagewatch is stopping"))
}

impl Effects for ManifestEffects {
    fn http_send(&self, batch: HttpBatch) -> Answer<HttpResponses> {
        let Adapters { http, credentials, cancel, .. } = &self.adapters;
        Answer::Ok(self.runtime.block_on(http.send_all(&self.rules, credentials, batch, &self.limits, cancel)))
    }

    fn docker_containers(&self, selector: Selector) -> Answer<Containers> {
        let Adapters { engine, cancel, .. } = &self.adapters;
        let listed = self.runtime.block_on(cancel.run_until_cancelled(engine.containers(&selector)));
        match listed {
            None => stopping(),
            Some(Err(error)) => Answer::Err(error.failure()),
            Some(Ok(containers)) => {
                let mut containers = show_as_usual(containers);
                containers.retain(|container| self.manifest.grants.shows(container));
                Answer::Ok(Containers { containers })
            }
        }
    }

    fn docker_refresh(&self, orders: Orders) -> Answer<Placed> {
        if self.adapters.cancel.is_cancelled() {
            return stopping();
        }
        let mut placed = Placed::default();
        let mut taken = self.placed.lock().unwrap_or_else(PoisonError::into_inner);
        for order in orders.orders {
            if let Some(failure) = refuse(&self.manifest, &order) {
                let Order { order, target, .. } = order;
                placed.reports.push(Report { order, target, err: Some(failure), ..Report::default() });
            } else {
                placed.accepted.push(order.order.clone());
                taken.push(order);
            }
        }
        Answer::Ok(placed)
    }

    fn log(&self, line: LogLine) {
        let manifest = self.manifest.name.as_str();
        let message: String = line.message.chars().filter(|c| !c.is_control()).take(MAX_LOG_CHARS).collect();
        match line.level {
            // What a policy could not do because the program is stopping is no news.
            LogLevel::Warn if self.adapters.cancel.is_cancelled() => tracing::debug!(%manifest, "{message}"),
            LogLevel::Debug => tracing::debug!(%manifest, "{message}"),
            LogLevel::Info => tracing::info!(%manifest, "{message}"),
            LogLevel::Warn => tracing::warn!(%manifest, "{message}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn container(name: &str, id: &str) -> Container {
        Container {
            id: id.to_owned(),
            name: name.to_owned(),
            image: "a.io/b:1".to_owned(),
            image_id: String::new(),
            repo_digests: Vec::new(),
            target_digest: None,
            platform: None,
            labels: std::collections::BTreeMap::new(),
            state: "running".to_owned(),
        }
    }

    #[test]
    fn an_order_is_refused_that_leaves_or_reaches_what_is_not_granted_or_another_repository() {
        let manifest =
            serde_json::json!({"wasm": [{"path": "none"}], "config": {"grant.images": "a.io/b:1* a.io/c:*"}});
        let manifest = PluginManifest::parse("m", "(test)", &manifest.to_string(), &|_| None).expect("a good manifest");
        for (from, to, refused) in [
            (None, "a.io/b:1.1", None),
            (Some("a.io/b:1.0"), "a.io/b:1.1", None),
            (Some("a.io/b:1.0"), "a.io/b:2.0", Some("grant image a.io/b:2.0")),
            (Some("a.io/b:0.9"), "a.io/b:1.0", Some("grant image a.io/b:0.9")),
            (Some("a.io/b:1.0"), "a.io/c:1.1", Some("never leaves")),
        ] {
            let order = serde_json::json!({"order": "1", "target": "t", "reference": to, "from": from, "recreate": true,
                "strategy": "replace"});
            let order = serde_json::from_value(order).expect("an order");
            let message = refuse(&manifest, &order).map(|failure| failure.message);
            assert_eq!(message.is_some(), refused.is_some(), "{message:?}");
            assert!(message.unwrap_or_default().contains(refused.unwrap_or_default()), "{to}");
        }
    }

    #[test]
    fn a_policy_sees_a_container_in_the_middle_of_a_replacement_once_and_under_its_own_name() {
        for (case, there, shown) in [
            (
                "made, not yet renamed",
                vec![("a", "1"), ("web", "2"), ("web.0a1b2c3d.new", "3")],
                vec![("a", "1"), ("web", "2")],
            ),
            (
                "nobody has the name",
                vec![("web.0a1b2c3d.new", "3"), ("web.0a1b2c3d.old", "2"), ("x", "4")],
                vec![("web", "2"), ("x", "4")],
            ),
            ("taken over", vec![("web", "3"), ("web.0a1b2c3d.old", "2")], vec![("web", "3")]),
        ] {
            let there = there.into_iter().map(|(name, id)| container(name, id)).collect();
            let seen = show_as_usual(there);
            let seen: Vec<_> = seen.iter().map(|c| (c.name.as_str(), c.id.as_str())).collect();
            assert_eq!(seen, shown, "{case}");
        }
    }
}

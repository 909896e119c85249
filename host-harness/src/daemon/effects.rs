//! What one manifest's policy can make happen: its host functions over the adapters, as far as
//! the manifest's grants go. Takes orders but does not run them: that is for who called the policy,
//! once the call has come back well.

mod requests;

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use imagewatch_abi::{
    Answer, Container, Containers, Failure, FailureCode, HttpBatch, HttpResponses, LogLevel, LogLine, NotWatched,
    Order, Orders, OrdersAccepted, Report, Selector,
};
use tokio::runtime::Handle;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::daemon::repeats::Repeats;
use crate::store::Store;
use imagewatch_base::text::sanitize_line;
use imagewatch_engine::{Engine, EngineError};
use imagewatch_policy::{Denied, Effects, Grants, LoadedPlugin, PluginManifest, Record};
use imagewatch_registry::client::{HttpClient, HttpLimits, Share};
use imagewatch_registry::credentials::store::CredentialStore;
use imagewatch_registry::deferred::Deferred;
use imagewatch_registry::egress::EgressRules;
use imagewatch_rollout::blocked::Blocked;
use imagewatch_rollout::handover::own_container_id;
use imagewatch_rollout::image_records::complete_origins;
use imagewatch_rollout::label::{LABEL, TransactionLabel, is_working_name, usual_name};

use requests::Requests;

/// Longer ones are no names: an order's id has its target's, and that is an image or a container.
const MAX_NAME_BYTES: usize = 1_024;

/// Refusals that are said once each; of more that differ, only the count is told.
const MAX_SAID: usize = 64;

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

/// The effects of one manifest's policy.
#[derive(Debug)]
pub struct GrantedHost {
    manifest: Arc<PluginManifest>,
    plugin: Arc<LoadedPlugin>,
    requests: Requests,
    adapters: Adapters,
    record: Arc<Record>,
    runtime: Handle,
    blocked: Blocked,
    placed: Mutex<Vec<Order>>,
    /// Ids of orders of earlier calls that have not ended, or are not settled.
    in_flight: Mutex<BTreeSet<String>>,
    /// Refusals that were said.
    said: Mutex<BTreeSet<String>>,
    /// Which warnings of the policy are new.
    repeats: Mutex<Repeats>,
    /// The containers that the policy did not get to see when it last listed them. Only for the operator.
    unshown: Mutex<Vec<NotWatched>>,
}

impl GrantedHost {
    /// The effects that `plugin` gets of what `manifest` grants; `rules` are those of its hosts. Must be made on the
    /// runtime that is to run them.
    pub fn new(
        manifest: Arc<PluginManifest>,
        plugin: Arc<LoadedPlugin>,
        rules: EgressRules,
        adapters: Adapters,
        record: Arc<Record>,
    ) -> Self {
        let host = &manifest.host;
        let default = HttpLimits::default();
        let limits = HttpLimits {
            deadline: host.http_timeout,
            max_text_bytes: default.max_text_bytes.min(host.max_response_bytes),
            max_document_bytes: host.max_response_bytes,
            connections_per_host: host.connections,
            batch_deadline: host.limits.http_send,
            ..default
        };
        let (placed, in_flight, said, repeats, unshown) = Default::default();
        let state_folder = adapters.store.folder().to_owned();
        let blocked = Blocked::new(adapters.engine.clone(), own_container_id(), state_folder);
        let runtime = Handle::current();
        Self {
            manifest,
            plugin,
            requests: Requests::new(rules, limits),
            adapters,
            record,
            runtime,
            blocked,
            placed,
            in_flight,
            said,
            repeats,
            unshown,
        }
    }

    /// Tells which orders are under way: none of them is taken once more, and together with new ones they are no more than
    /// one call may place.
    pub fn set_in_flight(&self, ids: &[String]) {
        *self.in_flight.lock().unwrap_or_else(PoisonError::into_inner) = ids.iter().cloned().collect();
    }

    /// A poll of the policy begins: warnings that it repeats from the poll before are written at level debug.
    pub fn begin_poll(&self) {
        self.repeats.lock().unwrap_or_else(PoisonError::into_inner).begin_poll();
    }

    fn is_new(&self, warning: &str) -> bool {
        self.repeats.lock().unwrap_or_else(PoisonError::into_inner).is_new(warning)
    }

    /// Whether one more log line of the policy may be written in this minute. Lines that may not are counted.
    fn take_log_line(&self) -> bool {
        self.report_suppressed();
        let is_taken = self.record.log_quota.take(self.plugin.compiled.limits().log_lines, Instant::now());
        if !is_taken {
            let message = "log lines of one minute beyond `host.max_log_lines` were dropped";
            self.record.denied(Denied::LogLines, 1, message);
        }
        is_taken
    }

    /// Says how many log lines were suppressed in a minute that is over, once.
    pub fn report_suppressed(&self) {
        if let Some(lines) = self.record.log_quota.suppressed_before(Instant::now()) {
            let most = self.plugin.compiled.limits().log_lines;
            tracing::warn!(
                manifest = self.manifest.name,
                lines,
                "suppressed log lines of the policy: it may write {most} in one minute (`host.max_log_lines`)"
            );
        }
    }

    /// The orders taken since the last time. Those of a call that failed are to be thrown away:
    /// the policy's state does not know them.
    pub fn take_placed(&self) -> Vec<Order> {
        std::mem::take(&mut *self.placed.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// The containers that the policy did not get to see when it last listed them, and why. The policy never gets this.
    pub fn take_unshown(&self) -> Vec<NotWatched> {
        std::mem::take(&mut *self.unshown.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// The requests that may outlive a call.
    pub fn deferred(&self) -> &Deferred<Share> {
        self.requests.deferred()
    }

    fn grants(&self) -> &Grants {
        &self.plugin.grants
    }

    /// The containers that the manifest's grants show, each with the reason why it is not replaced, if it is not.
    async fn list(&self, selector: &Selector) -> Result<Vec<Container>, EngineError> {
        let mut containers = show_as_usual(show_stopped(self.adapters.engine.containers(selector).await?));
        if let Err(error) = complete_origins(&*self.adapters.store, &mut containers) {
            tracing::warn!("failed to {error}; images of unknown origin stay unknown");
        }
        let mut unshown = Vec::new();
        containers.retain(|container| match self.grants().reason_against(container) {
            None => true,
            Some(reason) => {
                let (container, image) = (container.name.clone(), container.image.clone());
                unshown.push(NotWatched { container, image, reason });
                false
            }
        });
        *self.unshown.lock().unwrap_or_else(PoisonError::into_inner) = unshown;
        self.blocked.mark(&mut containers).await.map_err(EngineError::while_listing)?;
        Ok(containers)
    }

    fn refuse(&self, order: &Order, taken: &[Order]) -> Option<Failure> {
        let in_flight = self.in_flight.lock().unwrap_or_else(PoisonError::into_inner);
        let most = self.plugin.compiled.limits().orders;
        let (what, message) =
            too_much(order, &in_flight, taken, most).or_else(|| refusal(&self.manifest.name, self.grants(), order))?;
        self.denied(what, 1, &message);
        Some(Failure::permanent(FailureCode::Denied, message))
    }
}

/// Why `order` is not taken beside those that are `in_flight` and `taken`.
fn too_much(order: &Order, in_flight: &BTreeSet<String>, taken: &[Order], most: usize) -> Option<(Denied, String)> {
    let is_name = |text: &str| text.len() <= MAX_NAME_BYTES && !text.contains(char::is_control);
    let message = if !is_name(&order.order) || !is_name(&order.target) {
        format!("an order or its target has a name of more than {MAX_NAME_BYTES} bytes, or one that is no line")
    } else if in_flight.contains(&order.order) {
        format!("order {} is under way already", order.order)
    } else if in_flight.len() + taken.len() >= most {
        format!("{most} orders are under way, which is all that there may be (`host.max_orders`)")
    } else {
        let is_twice = taken.iter().any(|other| other.order == order.order);
        return is_twice.then(|| {
            let message = format!("order {} stands twice in one call; each order needs an id of its own", order.order);
            (Denied::InvalidOutput, message)
        });
    };
    Some((Denied::Orders, message))
}

/// Why `order` is not taken under `grants`, those of `manifest`.
fn refusal(manifest: &str, grants: &Grants, order: &Order) -> Option<(Denied, String)> {
    let not_granted = |what, thing: String, key| Some((what, not_granted(manifest, &thing, key)));
    let mut images = order.from.iter().chain([&order.reference]);
    if let Some(image) = images.find(|image| !grants.has_image(image)) {
        return not_granted(Denied::Image, format!("image {image}"), "grant.images");
    }
    if let Some(from) = order.from.as_ref().filter(|from| from.name() != order.reference.name()) {
        let message = format!("{} is not in the repository of {from}, which a container never leaves", order.reference);
        return Some((Denied::Image, message));
    }
    if !grants.has_strategy(order.strategy) {
        return not_granted(Denied::Strategy, format!("strategy {:?}", order.strategy), "grant.strategies");
    }
    let name = order.containers.name.as_deref().filter(|name| grants.never_has_name(name))?;
    not_granted(Denied::Container, format!("container {name}"), "grant.containers")
}

/// A container that a replacement stopped and has neither replaced nor started again is shown as running, as it was, and
/// as blocked: it must not vanish from a check because of what imagewatch itself did to it.
fn show_stopped(mut containers: Vec<Container>) -> Vec<Container> {
    let facts = containers.iter().filter(|new| is_working_name(&new.name));
    let facts = facts.filter_map(|new| TransactionLabel::parse(new.labels.get(LABEL)?));
    let stopped: BTreeSet<String> = facts
        .flat_map(|facts| facts.states().cloned().collect::<Vec<_>>())
        .filter_map(|part| part.was_running.then_some(part.old))
        .collect();
    for container in &mut containers {
        if stopped.contains(&container.id) && container.state == "exited" {
            "running".clone_into(&mut container.state);
            let reason = "imagewatch stopped it to replace it, and has neither replaced it nor started it again yet; \
                          the log of `imagewatch run` says why, and it is tried again with each poll";
            container.blocked = Some(reason.to_owned());
        }
    }
    containers
}

fn not_granted(manifest: &str, thing: &str, key: &str) -> String {
    format!("manifest {manifest} does not grant {thing}; add it to config key `{key}`")
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

/// Whether anybody sees lines of `level`: what nobody sees uses up nothing.
fn is_logged(level: LogLevel) -> bool {
    match level {
        LogLevel::Debug => tracing::enabled!(tracing::Level::DEBUG),
        LogLevel::Info => tracing::enabled!(tracing::Level::INFO),
        LogLevel::Warn => true,
    }
}

fn stopping<T>() -> Answer<T> {
    Answer::Err(Failure::retryable(FailureCode::ShuttingDown, "imagewatch is stopping"))
}

impl Effects for GrantedHost {
    fn http_send(&self, batch: HttpBatch, room: usize) -> Answer<HttpResponses> {
        let sent = self.requests.send(&self.adapters, &self.runtime, batch, room);
        for failure in refusals(&sent) {
            self.denied(Denied::Http, 1, &failure.message);
        }
        Answer::Ok(sent)
    }

    fn docker_containers(&self, selector: Selector) -> Answer<Containers> {
        if let Some(name) = selector.name.as_deref().filter(|name| self.grants().never_has_name(name)) {
            let message = not_granted(&self.manifest.name, &format!("container {name}"), "grant.containers");
            self.denied(Denied::Container, 1, &message);
            return Answer::Err(Failure::permanent(FailureCode::Denied, message));
        }
        let cancel = &self.adapters.cancel;
        let deadline = self.plugin.compiled.limits().docker_containers;
        let listed = async { cancel.run_until_cancelled(timeout(deadline, self.list(&selector))).await };
        match self.runtime.block_on(listed) {
            None => stopping(),
            Some(Err(_)) => Answer::Err(Failure::retryable(
                FailureCode::Timeout,
                format!("listing containers did not end within {deadline:?} (`host.docker_containers_timeout`)"),
            )),
            Some(Ok(Err(error))) => Answer::Err(error.failure()),
            Some(Ok(Ok(containers))) => Answer::Ok(Containers { containers }),
        }
    }

    fn docker_refresh(&self, orders: Orders) -> Answer<OrdersAccepted> {
        if self.adapters.cancel.is_cancelled() {
            return stopping();
        }
        let mut placed = OrdersAccepted::default();
        let mut taken = self.placed.lock().unwrap_or_else(PoisonError::into_inner);
        // It only takes down, and waits for nothing: what an order takes is bounded where it is carried out.
        for order in orders.orders {
            if let Some(failure) = self.refuse(&order, &taken) {
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
        if !is_logged(line.level) || !self.take_log_line() {
            return;
        }
        let message = sanitize_line(&line.message);
        match line.level {
            // What a policy could not do because the program is stopping is no news.
            LogLevel::Warn if self.adapters.cancel.is_cancelled() => tracing::debug!(%manifest, "{message}"),
            LogLevel::Warn if !self.is_new(&message) => tracing::debug!(%manifest, "{message}"),
            LogLevel::Debug => tracing::debug!(%manifest, "{message}"),
            LogLevel::Info => tracing::info!(%manifest, "{message}"),
            LogLevel::Warn => tracing::warn!(%manifest, "{message}"),
        }
    }

    fn denied(&self, what: Denied, count: u64, message: &str) {
        let message = sanitize_line(message);
        self.record.denied(what, count, &message);
        let mut said = self.said.lock().unwrap_or_else(PoisonError::into_inner);
        if said.len() < MAX_SAID && said.insert(message.clone()) {
            tracing::warn!(manifest = self.manifest.name, "refused to the policy: {message}");
        }
    }
}

fn refusals(sent: &HttpResponses) -> impl Iterator<Item = &Failure> {
    sent.responses.iter().filter_map(|response| match response {
        Answer::Err(failure) if failure.code == FailureCode::Denied => Some(failure),
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn container(name: &str, id: &str) -> Container {
        Container {
            id: id.to_owned(),
            name: name.to_owned(),
            image: "a.io/b:1".to_owned(),
            labels: std::collections::BTreeMap::new(),
            state: "running".to_owned(),
            ..Container::default()
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
            let message = refusal("m", &manifest.grants, &order).map(|(_, message)| message);
            assert_eq!(message.is_some(), refused.is_some(), "{message:?}");
            assert!(message.unwrap_or_default().contains(refused.unwrap_or_default()), "{to}");
        }
    }

    #[test]
    fn f06_a_container_that_a_replacement_left_stopped_is_still_shown() {
        let part = |was_running: bool| {
            serde_json::json!({ "name": "web", "old": "1", "old_image": "i", "handling": "recreate",
                "was_running": was_running, "policy": {} })
        };
        let label = |was_running| {
            serde_json::json!({ "transaction": "0a1b2c3d", "part": part(was_running), "root": "web",
                "swap": "stop-first", "stable_for_ms": 1, "origin": { "manifest": "m", "target": "web",
                "reference": null, "digest": null } })
        };
        for (case, new_name, was_running, state, is_shown) in [
            ("left stopped", "web.0a1b2c3d.new", true, "exited", true),
            ("it runs", "web.0a1b2c3d.new", true, "running", false),
            ("it had not run before", "web.0a1b2c3d.new", false, "exited", false),
            ("a replacement of long ago", "other", true, "exited", false),
        ] {
            let labels = [(LABEL.to_owned(), label(was_running).to_string())].into();
            let new = Container { labels, ..container(new_name, "2") };
            let old = Container { state: state.to_owned(), ..container("web", "1") };
            let shown = show_stopped(vec![old, new]);
            assert_eq!(shown[0].blocked.is_some(), is_shown, "{case}: {shown:?}");
            assert_eq!(shown[0].state, if is_shown { "running" } else { state }, "{case}");
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

//! Which containers are never replaced as things are, and why: known before an image is pulled for them, and shown by
//! `check`. The reasons are those of `refusal`, by which a survey refuses.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures_util::{StreamExt, TryStreamExt, stream};
use imagewatch_abi::Container;
use serde_json::Value;
use tracing::warn;

use super::connection::find_carriers;
use super::labels::{Labels, PROBE};
use super::plan::reason_to_postpone;
use super::refusal::{find_refusal, needs_helper};
use super::systemd::is_made_by_unit;
use imagewatch_engine::permission::{Needed, Permission, first_needed};
use imagewatch_engine::{Engine, EngineError};

const PARALLEL_INSPECTIONS: usize = 8;
/// Containers that are remembered; where many more come and go, all are asked for again.
const MAX_KNOWN: usize = 10_000;

/// Fills [`Container::blocked`] in. Keeps what never changes of a container, so that a poll does not inspect all of
/// them again.
#[derive(Debug)]
pub struct Blocked {
    engine: Arc<dyn Engine>,
    own_id: Option<String>,
    /// Where the program's state is, for a helper to find.
    state_folder: PathBuf,
    known: Mutex<BTreeMap<String, Known>>,
    /// Refused calls that were warned about.
    warned: Mutex<Vec<&'static Permission>>,
}

/// What an inspection said about one container.
#[derive(Debug, Clone, Default)]
struct Known {
    refusal: Option<String>,
    /// Whether the container must change for another answer.
    is_lasting: bool,
}

impl Blocked {
    /// For containers on `engine`, in a program that runs in the container `own_id`, if in any, with its state in
    /// `state_folder`.
    pub fn new(engine: Arc<dyn Engine>, own_id: Option<String>, state_folder: PathBuf) -> Self {
        Self { engine, own_id, state_folder, known: Mutex::default(), warned: Mutex::default() }
    }

    /// Says of each of `containers` why it is not replaced, if it is not and does not say so already.
    ///
    /// # Errors
    /// The engine is away.
    pub async fn mark(&self, containers: &mut [Container]) -> Result<(), EngineError> {
        let carriers = find_carriers(&*self.engine, self.own_id.as_deref()).await?;
        let refused = self.engine.refused_calls(false).await?;
        self.warn_once(&refused);
        let networks = self.count_networks(&refused).await?;
        let shown: Vec<Container> = containers.to_vec();
        let known: Vec<Known> =
            stream::iter(&shown).map(|shown| self.look_up(shown)).buffered(PARALLEL_INSPECTIONS).try_collect().await?;
        for (container, known) in containers.iter_mut().zip(known) {
            let networks = networks.get(&container.id).copied().unwrap_or(0);
            let missing = || first_needed(&refused, networks).map(Permission::reason);
            let carried = || carriers.get(&container.id).cloned();
            let reason = known.refusal.or_else(carried).or_else(missing);
            container.blocked = container.blocked.take().or(reason);
        }
        Ok(())
    }

    /// Of each container, as the engine lists it now: a running container can be connected to more. Only where it matters.
    async fn count_networks(&self, refused: &[&'static Permission]) -> Result<BTreeMap<String, usize>, EngineError> {
        if !refused.iter().any(|permission| permission.needed == Needed::ManyNetworks) {
            return Ok(BTreeMap::new());
        }
        let count = |settings: &Value| settings["Networks"].as_object().map_or(0, serde_json::Map::len);
        let listed = self.engine.list().await?;
        Ok(listed.into_iter().map(|listed| (listed.id, count(&listed.network_settings))).collect())
    }

    /// Once for each call, and again when it was allowed meanwhile.
    fn warn_once(&self, refused: &[&'static Permission]) {
        let mut warned = self.warned.lock().unwrap_or_else(PoisonError::into_inner);
        for permission in refused.iter().filter(|permission| !warned.contains(*permission)) {
            warn!(needed = ?permission.needed, section = permission.section, "{}", permission.reason());
        }
        refused.clone_into(&mut *warned);
    }

    async fn look_up(&self, shown: &Container) -> Result<Known, EngineError> {
        let id = shown.id.as_str();
        if let Some(known) = self.known().get(id) {
            return Ok(known.clone());
        }
        // Nobody updates one that does not run: it is looked at when it does.
        if !matches!(shown.state.as_str(), "running" | "restarting" | "paused") {
            return Ok(Known::default());
        }
        let inspected = match self.engine.inspect_container(id).await {
            Ok(container) => self.inspect(&container).await,
            Err(error) => Err(error),
        };
        match inspected {
            Ok(known) if !known.is_lasting => Ok(known),
            Ok(known) => {
                let mut all = self.known();
                if all.len() >= MAX_KNOWN {
                    all.clear();
                }
                all.insert(id.to_owned(), known.clone());
                Ok(known)
            }
            Err(error) if error.is_unavailable() => Err(error),
            // It is gone by now, or the engine does not show it: a survey says more.
            Err(_) => Ok(Known::default()),
        }
    }

    async fn inspect(&self, container: &Value) -> Result<Known, EngineError> {
        if is_made_by_unit(&*self.engine, container).await? {
            return Ok(Known { refusal: None, is_lasting: true });
        }
        if let Some(refusal) = find_refusal(&*self.engine, container).await? {
            return Ok(Known { refusal: Some(refusal.reason), is_lasting: !refusal.may_pass });
        }
        let is_own = self.own_id.as_deref().is_some_and(|own| container["Id"] == own);
        let refusal = if is_own { needs_helper(container, false, &self.state_folder).err() } else { None };
        let may_change = reason_to_postpone(container).is_some() || Labels::of(container).value(PROBE).is_some();
        Ok(Known { refusal, is_lasting: !may_change })
    }

    fn known(&self) -> MutexGuard<'_, BTreeMap<String, Known>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use imagewatch_abi::Selector;
    use serde_json::json;

    use super::*;
    use imagewatch_engine::testing::MemoryEngine;

    const IMAGE: &str = "r.io/app:1";

    async fn mark(engine: &Arc<MemoryEngine>, blocked: &Blocked) -> BTreeMap<String, Option<String>> {
        let mut containers = engine.containers(&Selector::default()).await.expect("it lists");
        blocked.mark(&mut containers).await.expect("it is there");
        containers.into_iter().map(|container| (container.name, container.blocked)).collect()
    }

    fn engine() -> MemoryEngine {
        let engine = MemoryEngine::new();
        engine.add_image(IMAGE, &json!({ "Id": "sha256:1" }));
        engine
    }

    #[tokio::test]
    async fn a_container_that_will_be_refused_says_so_before_anything_is_pulled() {
        let labels = |pairs: Value| json!({ "Labels": pairs });
        let swarm = json!({ "com.docker.swarm.service.id": "x1", "com.docker.swarm.service.name": "shop_web" });
        for (case, body, says) in [
            ("plain", json!({}), None),
            ("rm", json!({ "HostConfig": { "AutoRemove": true } }), Some("created with --rm")),
            (
                "rm_allowed",
                json!({ "HostConfig": { "AutoRemove": true }, "Labels": { "imagewatch.allow-rm": "true" } }),
                None,
            ),
            ("swarm", labels(swarm), Some("task of service shop_web: not handled on this platform")),
            ("unnamed", labels(json!({ "com.docker.swarm.service.id": "x1" })), Some("task of service x1:")),
            ("kubernetes", labels(json!({ "io.kubernetes.pod.name": "p" })), Some("belongs to Kubernetes")),
            ("unit", labels(json!({ "PODMAN_SYSTEMD_UNIT": "web.service" })), None),
            ("probe", labels(json!({ "imagewatch.probe": "80" })), Some("write tcp:PORT or http:PORT/PATH")),
            ("other_unit", labels(json!({ "PODMAN_SYSTEMD_UNIT": "web.scope" })), Some("belongs to a systemd unit")),
            ("one_off", labels(json!({ "com.docker.compose.oneoff": "True" })), Some("one-off container")),
        ] {
            let engine = Arc::new(engine());
            engine.add_container(case, IMAGE, body, true).await;
            let reason = mark(&engine, &Blocked::new(engine.clone(), None, PathBuf::new())).await[case].clone();
            assert_eq!(reason.is_some(), says.is_some(), "{case}: {reason:?}");
            assert!(reason.clone().unwrap_or_default().contains(says.unwrap_or_default()), "{case}: {reason:?}");
        }
    }

    #[tokio::test]
    async fn f06_a_refused_call_blocks_the_containers_that_need_it() {
        let two = json!({ "NetworkingConfig": { "EndpointsConfig": { "a": {}, "b": {} } } });
        for (path, one_network, two_networks) in [
            ("/containers/*/start", true, true),
            ("/containers/*", true, true),
            ("/images/create", true, true),
            ("/networks/*/connect", false, true),
            ("/networks/*/disconnect", false, true),
            ("/info", false, false),
        ] {
            let engine = Arc::new(engine());
            engine.add_container("one", IMAGE, json!({}), true).await;
            engine.add_container("two", IMAGE, two.clone(), true).await;
            engine.refuse_calls(&[path]);
            let blocked = Blocked::new(engine.clone(), None, PathBuf::new());
            let marked = mark(&engine, &blocked).await;
            let is_named = |name: &str| marked[name].as_ref().is_some_and(|reason| reason.contains(path));
            assert_eq!((is_named("one"), is_named("two")), (one_network, two_networks), "{path}: {marked:?}");
            engine.refuse_calls(&[]);
            let marked = mark(&engine, &blocked).await;
            assert!(marked.values().all(Option::is_none), "it passes as soon as the call is allowed: {marked:?}");
        }
    }

    #[tokio::test]
    async fn f06_a_network_that_a_container_is_connected_to_later_counts_too() {
        let engine = Arc::new(engine());
        let one = json!({ "NetworkingConfig": { "EndpointsConfig": { "a": {} } } });
        let id = engine.add_container("web", IMAGE, one, true).await;
        engine.refuse_calls(&["/networks/*/connect"]);
        let blocked = Blocked::new(engine.clone(), None, PathBuf::new());
        assert_eq!(mark(&engine, &blocked).await["web"], None);
        engine.edit(&id, |c| c["NetworkSettings"]["Networks"]["b"] = json!({}));
        let reason = mark(&engine, &blocked).await["web"].clone().unwrap_or_default();
        assert!(reason.contains("POST /networks/*/connect was refused"), "{reason}");
    }

    #[tokio::test]
    async fn what_a_survey_refuses_is_announced_and_passes_when_it_no_longer_holds() {
        let probed = json!({ "Labels": { "imagewatch.probe": "tcp:80" }, "HostConfig": { "NetworkMode": "none" } });
        let filled = json!({ "Labels": { "com.docker.compose.project": "shop" } });
        let configs = json!([{ "Path": "/app.conf", "Kind": 1 }]);
        for (case, body, changes, says) in [
            ("a probe without an address", probed, json!(null), "it has none on any network"),
            ("a file of compose", filled, configs, "/app.conf was put into it from outside"),
        ] {
            let engine = Arc::new(engine());
            let id = engine.add_container("web", IMAGE, body, true).await;
            engine.edit(&id, |c| c["TestChanges"] = changes);
            let blocked = Blocked::new(engine.clone(), None, PathBuf::new());
            let reason = mark(&engine, &blocked).await["web"].clone().unwrap_or_default();
            assert!(reason.contains(says), "{case}: {reason}");
            engine.edit(&id, |c| {
                c["TestChanges"] = json!(null);
                c["HostConfig"]["NetworkMode"] = json!("host");
            });
            assert_eq!(mark(&engine, &blocked).await["web"], None, "{case}");
        }
    }

    #[tokio::test]
    async fn t40_an_updater_that_no_helper_can_replace_says_so() {
        let port = json!({ "80/tcp": [{ "HostIp": "", "HostPort": "8080" }] });
        for (case, ports, is_own, is_blocked) in [
            ("a host port, and its state on no volume", port.clone(), true, true),
            ("no host port", json!({}), true, false),
            ("another container", port, false, false),
        ] {
            let engine = Arc::new(engine());
            let body = json!({ "HostConfig": { "PortBindings": ports } });
            let id = engine.add_container("updater", IMAGE, body, true).await;
            let blocked = Blocked::new(engine.clone(), is_own.then_some(id), PathBuf::from("/var/lib/imagewatch"));
            let reason = mark(&engine, &blocked).await["updater"].clone();
            assert_eq!(reason.is_some(), is_blocked, "{case}: {reason:?}");
            assert!(reason.is_none_or(|reason| reason.contains("it is this updater, which publishes a host port")));
        }
    }

    #[tokio::test]
    async fn f33_a_container_that_carries_the_connection_says_so() {
        let mut engine = engine();
        engine.address = "tcp://172.17.0.9:2375".to_owned();
        let engine = Arc::new(engine);
        let at = |address: &str| json!({ "NetworkingConfig": { "EndpointsConfig": { "bridge": { "IPAddress": address } } } });
        engine.add_container("proxy", IMAGE, at("172.17.0.9"), true).await;
        engine.add_container("web", IMAGE, at("172.17.0.8"), true).await;
        let marked = mark(&engine, &Blocked::new(engine.clone(), None, PathBuf::new())).await;
        let reason = marked["proxy"].clone().unwrap_or_default();
        assert!(reason.contains("carries this updater's connection to the engine (tcp://172.17.0.9:2375)"), "{reason}");
        assert_eq!(marked["web"], None);
    }
}

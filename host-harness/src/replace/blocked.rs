//! Which containers are never replaced as things are, and why: known before an image is pulled for them, and shown by
//! `check`. The same functions refuse in a survey, so both always agree.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures_util::{StreamExt, TryStreamExt, stream};
use imagewatch_abi::Container;
use serde_json::Value;
use tracing::warn;

use super::connection::find_carriers;
use super::plan::{reason_against_podman, reason_to_refuse};
use super::systemd::is_made_by_unit;
use crate::engine::permission::{Permission, first_needed};
use crate::engine::{Engine, EngineError};

const PARALLEL_INSPECTIONS: usize = 8;
/// Containers that are remembered; where many more come and go, all are asked for again.
const MAX_KNOWN: usize = 10_000;

/// Why this container is not replaced, whatever happens: how it was created says so. `None`: it may be.
///
/// # Errors
/// The engine does not show what is to be known of it.
pub(super) async fn lasting_refusal(engine: &dyn Engine, container: &Value) -> Result<Option<String>, EngineError> {
    if let Some(reason) = reason_to_refuse(container) {
        return Ok(Some(reason));
    }
    let id = container["Id"].as_str().unwrap_or_default();
    Ok(engine.inspect_libpod(id).await?.and_then(|libpod| reason_against_podman(&libpod)))
}

/// Fills [`Container::blocked`] in. Keeps what never changes of a container, so that a poll does not inspect all of
/// them again.
#[derive(Debug)]
pub struct Blocked {
    engine: Arc<dyn Engine>,
    own_id: Option<String>,
    known: Mutex<BTreeMap<String, Known>>,
    /// Refused calls that were warned about.
    warned: Mutex<Vec<&'static Permission>>,
}

/// What an inspection said about one container.
#[derive(Debug, Clone, Default)]
struct Known {
    refusal: Option<String>,
    networks: usize,
}

impl Blocked {
    /// For containers on `engine`, in a program that runs in the container `own_id`, if in any.
    pub fn new(engine: Arc<dyn Engine>, own_id: Option<String>) -> Self {
        Self { engine, own_id, known: Mutex::default(), warned: Mutex::default() }
    }

    /// Says of each of `containers` why it is not replaced, if it is not and does not say so already.
    ///
    /// # Errors
    /// The engine is away.
    pub async fn mark(&self, containers: &mut [Container]) -> Result<(), EngineError> {
        let carriers = find_carriers(&*self.engine, self.own_id.as_deref()).await?;
        let refused = self.engine.refused_calls(false).await?;
        self.warn_once(&refused);
        let shown: Vec<Container> = containers.to_vec();
        let known: Vec<Known> =
            stream::iter(&shown).map(|shown| self.look_up(shown)).buffered(PARALLEL_INSPECTIONS).try_collect().await?;
        for (container, known) in containers.iter_mut().zip(known) {
            let missing = || first_needed(&refused, known.networks).map(Permission::reason);
            let carried = || carriers.get(&container.id).cloned();
            let reason = known.refusal.or_else(carried).or_else(missing);
            container.blocked = container.blocked.take().or(reason);
        }
        Ok(())
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
        let networks = container["NetworkSettings"]["Networks"].as_object().map_or(0, serde_json::Map::len);
        let refusal = if is_made_by_unit(&*self.engine, container).await? {
            None
        } else {
            lasting_refusal(&*self.engine, container).await?
        };
        Ok(Known { refusal, networks })
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
    use crate::engine::memory::MemoryEngine;

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
            ("other_unit", labels(json!({ "PODMAN_SYSTEMD_UNIT": "web.scope" })), Some("belongs to a systemd unit")),
            ("one_off", labels(json!({ "com.docker.compose.oneoff": "True" })), Some("one-off container")),
        ] {
            let engine = Arc::new(engine());
            engine.add_container(case, IMAGE, body, true).await;
            let reason = mark(&engine, &Blocked::new(engine.clone(), None)).await[case].clone();
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
            ("/info", false, false),
        ] {
            let engine = Arc::new(engine());
            engine.add_container("one", IMAGE, json!({}), true).await;
            engine.add_container("two", IMAGE, two.clone(), true).await;
            engine.refuse_calls(&[path]);
            let blocked = Blocked::new(engine.clone(), None);
            let marked = mark(&engine, &blocked).await;
            let is_named = |name: &str| marked[name].as_ref().is_some_and(|reason| reason.contains(path));
            assert_eq!((is_named("one"), is_named("two")), (one_network, two_networks), "{path}: {marked:?}");
            engine.refuse_calls(&[]);
            let marked = mark(&engine, &blocked).await;
            ("/networks/*/disconnect", false, true),
            assert!(marked.values().all(Option::is_none), "it passes as soon as the call is allowed: {marked:?}");
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
        let marked = mark(&engine, &Blocked::new(engine.clone(), None)).await;
        let reason = marked["proxy"].clone().unwrap_or_default();
        assert!(reason.contains("carries this updater's connection to the engine (tcp://172.17.0.9:2375)"), "{reason}");
        assert_eq!(marked["web"], None);
    }
}

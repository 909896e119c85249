//! An engine in memory, for tests: keeps containers as raw inspections, writes down every call that
//! changes something, fails where it is told to, and lets its caller die at any call. Merges no image defaults. Panics where
//! a test misuses it.

#![expect(clippy::missing_panics_doc, reason = "stated above for the whole module")]

mod calls;

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard};

use imagewatch_abi::Reference;
use serde_json::{Value, json};
use tokio::sync::watch;

use super::permission::{PERMISSIONS, Permission};
use super::{ApiVersion, EngineError, EngineFacts, PullProgress};

/// See the module.
#[derive(Debug)]
pub struct MemoryEngine {
    /// As in `DOCKER_HOST`.
    pub address: String,
    state: Mutex<State>,
    /// Whether the caller is dead.
    dead: watch::Sender<bool>,
}

#[derive(Debug)]
struct State {
    facts: EngineFacts,
    is_swarm: bool,
    refused: Vec<&'static Permission>,
    containers: BTreeMap<String, Value>,
    images: BTreeMap<String, Value>,
    tags: BTreeMap<String, String>,
    registry: BTreeMap<String, Value>,
    credentials: Vec<String>,
    calls: Vec<String>,
    faults: Vec<Fault>,
    interruption: Option<(usize, Interruption)>,
    /// A container that the engine is still stopping.
    stopping: Option<String>,
    /// Calls since the interruption was set.
    changes: usize,
    pulls_hang: bool,
    /// What pulls say before they end or hang, at intervals of a second.
    pull_lines: Vec<PullProgress>,
    last_id: u32,
}

/// Fails calls whose line starts so, so many times.
#[derive(Debug)]
struct Fault {
    call: String,
    times: u32,
    error: EngineError,
}

/// What happens at one call that changes something.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Interruption {
    /// The caller is killed before the engine does it.
    DieBefore,
    /// The caller is killed once the engine has done it.
    DieAfter,
    /// The caller is killed while the engine is at it, which it ends later if it is a stop, and never if it is not.
    DieMeanwhile,
    /// The engine refuses.
    Refuse(EngineError),
    /// The answer does not come in time, and it was not done.
    HangUndone,
    /// The answer does not come in time, and it was done.
    HangDone,
    /// The connection breaks, and it was done.
    BreakDone,
    /// Somebody has removed the container of this id meanwhile.
    Lose(String),
}

/// What a call found on entering: it goes on, and ends so.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ending {
    Well,
    Death,
    Silence,
    Break,
}

impl Default for MemoryEngine {
    fn default() -> Self {
        let facts = EngineFacts { api: ApiVersion { major: 1, minor: 41 }, is_podman: false };
        Self {
            address: "unix:///var/run/docker.sock".to_owned(),
            state: Mutex::new(State {
                facts,
                is_swarm: false,
                refused: Vec::new(),
                containers: BTreeMap::new(),
                images: BTreeMap::new(),
                tags: BTreeMap::new(),
                registry: BTreeMap::new(),
                credentials: Vec::new(),
                calls: Vec::new(),
                faults: Vec::new(),
                interruption: None,
                stopping: None,
                changes: 0,
                pulls_hang: false,
                pull_lines: Vec::new(),
                last_id: 0,
            }),
            dead: watch::Sender::new(false),
        }
    }
}

impl MemoryEngine {
    /// An engine of API 1.41 with no container and no image.
    pub fn new() -> Self {
        Self::default()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no test panics while it holds the state")
    }

    /// Puts an image here, as if pulled before, and lets `reference` name it. Fields the image lacks are made up.
    /// `Behaves` says how its containers do: `exits`, `restarts`, `unhealthy`, `starting`, `healthy`; `BehavesBeside`
    /// the same for those that share the network of a container on that image.
    pub fn add_image(&self, reference: &str, image: &Value) -> String {
        self.state().tag(reference, image)
    }

    /// What the next pull of `reference` brings.
    pub fn publish(&self, reference: &str, image: Value) {
        self.state().registry.insert(reference.to_owned(), image);
    }

    /// Creates and perhaps starts a container.
    pub async fn add_container(&self, name: &str, reference: &str, body: Value, running: bool) -> String {
        use super::Engine as _;
        let mut body = body;
        body["Image"] = json!(reference);
        let id = self.create_container(name, &body, None).await.expect("the test's own container");
        if running {
            self.start(&id).await.expect("the test's own container");
        }
        self.state().calls.clear();
        id
    }

    /// Lets the next `times` calls fail whose line in [`calls`](Self::calls) starts with `call`.
    pub fn fail(&self, call: &str, times: u32, error: EngineError) {
        self.state().faults.push(Fault { call: call.to_owned(), times, error });
    }

    /// Nothing fails any more.
    pub fn heal(&self) {
        self.state().faults.clear();
    }

    /// From now on the `nth` call (from 0) that changes something is interrupted.
    pub fn interrupt(&self, nth: usize, interruption: Interruption) {
        let mut state = self.state();
        state.changes = 0;
        state.interruption = Some((nth, interruption));
    }

    /// Comes when the caller is dead; whoever waits for it drops the caller.
    pub async fn death(&self) {
        let mut dead = self.dead.subscribe();
        dead.wait_for(|dead| *dead).await.expect("the engine outlives its callers");
    }

    /// A new caller: nothing is interrupted any more.
    pub fn revive(&self) {
        self.state().interruption = None;
        self.dead.send_replace(false);
    }

    /// Time passes: what the engine was still at is done.
    pub fn let_time_pass(&self) {
        let mut state = self.state();
        if let Some(container) = state.stopping.take() {
            // It may be gone by now.
            let _ = state.stop(&container);
        }
    }

    /// What the engine's daemon does when it is restarted: everything ends, and what has a policy to comes back.
    pub fn restart_daemon(&self) {
        let mut state = self.state();
        state.stopping = None;
        for container in state.containers.values_mut() {
            let was_started = container["State"]["Status"] != "created";
            let policy = text(&container["HostConfig"]["RestartPolicy"]["Name"]).to_owned();
            // `on-failure` and `always` come back even if they were stopped by hand.
            let comes_back = matches!(policy.as_str(), "always" | "on-failure")
                || (policy == "unless-stopped" && container["State"]["Running"] == true);
            let running = was_started && comes_back;
            if container["State"]["Running"] == true || running {
                container["State"]["Running"] = json!(running);
                container["State"]["Status"] = json!(if running { "running" } else { "exited" });
            }
        }
    }

    /// From now on no pull ends.
    pub fn let_pulls_hang(&self) {
        self.state().pulls_hang = true;
    }

    /// Each pull reports these lines, one per second, before it ends or hangs.
    pub fn let_pulls_say(&self, lines: Vec<PullProgress>) {
        self.state().pull_lines = lines;
    }

    /// Sets what kind of engine it is.
    pub fn set_facts(&self, facts: EngineFacts) {
        self.state().facts = facts;
    }

    /// Whether the engine is a node of a swarm.
    pub fn set_swarm(&self, is_swarm: bool) {
        self.state().is_swarm = is_swarm;
    }

    /// From now on a filter in front of the engine refuses the calls with these paths.
    pub fn refuse_calls(&self, paths: &[&str]) {
        self.state().refused = PERMISSIONS.iter().filter(|permission| paths.contains(&permission.path)).collect();
    }

    /// What was asked, reading aside, with containers by the name they had then.
    pub fn calls(&self) -> Vec<String> {
        self.state().calls.clone()
    }

    /// User names that pulls came with.
    pub fn credentials(&self) -> Vec<String> {
        self.state().credentials.clone()
    }

    /// Every container as `name image-id status`, sorted.
    pub fn overview(&self) -> Vec<String> {
        let state = self.state();
        let line = |c: &Value| format!("{} {} {}", name_of(c), text(&c["Image"]), text(&c["State"]["Status"]));
        let mut lines: Vec<String> = state.containers.values().map(line).collect();
        lines.sort();
        lines
    }

    /// Every container's inspection, by name.
    pub fn inspections(&self) -> BTreeMap<String, Value> {
        self.state().containers.values().map(|c| (name_of(c).to_owned(), c.clone())).collect()
    }

    /// The id of the image that `reference` names.
    pub fn tagged(&self, reference: &str) -> Option<String> {
        self.state().image_id(reference)
    }

    /// The ids of all images.
    pub fn images(&self) -> Vec<String> {
        self.state().images.keys().cloned().collect()
    }

    /// All containers were created at that time.
    pub fn created_at(&self, created_s: u64) {
        let mut state = self.state();
        state.containers.values_mut().for_each(|container| container["TestCreated"] = json!(created_s));
    }

    /// Takes an image away, as `docker rmi -f` does.
    pub fn forget_image(&self, image_id: &str) {
        let mut state = self.state();
        state.images.remove(image_id);
        state.tags.retain(|_, id| id != image_id);
    }

    /// Changes a container's inspection.
    pub fn edit(&self, id: &str, edit: impl FnOnce(&mut Value)) {
        edit(self.state().containers.get_mut(id).expect("the test's own container"));
    }

    /// Writes a changing call down and finds out how it goes. The dead wait for ever.
    async fn enter(&self, line: String) -> Result<Ending, EngineError> {
        if *self.dead.borrow() {
            std::future::pending::<()>().await;
        }
        let stopped = line.strip_prefix("stop ").map(str::to_owned);
        let interruption = {
            let mut state = self.state();
            state.record(line)?;
            let nth = state.changes;
            state.changes += 1;
            state.interruption.clone().filter(|(at, _)| *at == nth).map(|(_, interruption)| interruption)
        };
        match interruption {
            None => Ok(Ending::Well),
            Some(Interruption::DieAfter) => Ok(Ending::Death),
            Some(Interruption::HangDone) => Ok(Ending::Silence),
            Some(Interruption::BreakDone) => Ok(Ending::Break),
            Some(Interruption::DieBefore) => self.die().await,
            Some(Interruption::DieMeanwhile) => {
                self.go_on_stopping(stopped);
                self.die().await
            }
            Some(Interruption::Refuse(error)) => Err(error),
            Some(Interruption::HangUndone) => Err(late()),
            Some(Interruption::Lose(id)) => {
                self.state().containers.remove(&id);
                Ok(Ending::Well)
            }
        }
    }

    fn go_on_stopping(&self, container: Option<String>) {
        let mut state = self.state();
        state.stopping = container.and_then(|name| state.find(&name).ok());
    }

    async fn leave<T>(&self, ending: Ending, value: T) -> Result<T, EngineError> {
        match ending {
            Ending::Well => Ok(value),
            Ending::Death => self.die().await,
            Ending::Silence => Err(late()),
            Ending::Break => {
                Err(EngineError::Unavailable { host: "unix:///x.sock".to_owned(), reason: "reset".to_owned() })
            }
        }
    }

    async fn die<T>(&self) -> T {
        self.dead.send_replace(true);
        std::future::pending().await
    }
}

fn late() -> EngineError {
    EngineError::Timeout { action: "answer".to_owned(), limit: std::time::Duration::from_secs(1) }
}

impl State {
    fn tag(&mut self, reference: &str, image: &Value) -> String {
        let mut image = image.clone();
        let id = image["Id"].as_str().expect("the test's image has an Id").to_owned();
        let defaults = json!({ "Os": "linux", "Architecture": "amd64", "Config": {}, "RepoDigests": [] });
        for (key, value) in defaults.as_object().expect("an object") {
            if image.get(key).is_none() {
                image[key] = value.clone();
            }
        }
        let reference: Reference = reference.parse().expect("the test's reference");
        self.tags.insert(reference.with_explicit_tag().to_string(), id.clone());
        self.images.insert(id.clone(), image);
        id
    }

    fn record(&mut self, call: String) -> Result<(), EngineError> {
        let fault = self.faults.iter_mut().find(|fault| fault.times > 0 && call.starts_with(&fault.call));
        let result = fault.map_or(Ok(()), |fault| {
            fault.times -= 1;
            Err(fault.error.clone())
        });
        if !call.starts_with("inspect") && !call.starts_with("list") {
            self.calls.push(call);
        }
        result
    }

    fn find(&self, container: &str) -> Result<String, EngineError> {
        let is_it = |(id, value): &(&String, &Value)| *id == container || name_of(value) == container;
        let found = self.containers.iter().find(is_it).map(|(id, _)| id.clone());
        found.ok_or_else(|| EngineError::NotFound { message: format!("no such container: {container}") })
    }

    fn name(&self, container: &str) -> Result<String, EngineError> {
        Ok(name_of(&self.containers[&self.find(container)?]).to_owned())
    }

    /// The inspection to be changed.
    fn at(&mut self, container: &str) -> Result<&mut Value, EngineError> {
        let id = self.find(container)?;
        Ok(self.containers.get_mut(&id).expect("just found"))
    }

    fn image_id(&self, image: &str) -> Option<String> {
        let by_reference = || {
            let reference: Reference = image.parse().ok()?;
            self.tags.get(&reference.with_explicit_tag().to_string()).cloned()
        };
        self.images.contains_key(image).then(|| image.to_owned()).or_else(by_reference)
    }
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

fn name_of(container: &Value) -> &str {
    text(&container["Name"]).trim_start_matches('/')
}

fn conflict(message: impl Into<String>) -> EngineError {
    EngineError::Conflict { message: message.into() }
}

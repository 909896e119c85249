//! An in-memory engine for tests. It stores containers as raw inspections and records every call. A test can make calls
//! fail, and can simulate that the caller is killed at any call. The engine merges no image defaults. It panics if a
//! test misuses it.

#![expect(clippy::missing_panics_doc, reason = "stated above for the whole module")]

mod calls;

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard};

use imagewatch_abi::Reference;
use serde_json::{Value, json};
use tokio::sync::watch;

use super::permission::{PERMISSIONS, Permission};
use super::{ApiVersion, EngineError, EngineFacts, PullProgress};

/// An engine that keeps its containers and images in memory.
#[derive(Debug)]
pub struct MemoryEngine {
    /// The address that [`Engine::address`](crate::Engine::address) returns.
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
    reads: Vec<String>,
    faults: Vec<Fault>,
    interruption: Option<(usize, Interruption)>,
    /// The id of a container that the engine is still stopping.
    stopping: Option<String>,
    /// The number of changing calls since the interruption was set.
    changes: usize,
    pulls_hang: bool,
    /// The lines that a pull reports before it ends or hangs, one per second.
    pull_lines: Vec<PullProgress>,
    last_id: u32,
}

/// Makes the next `times` calls fail whose recorded line starts with `call`.
#[derive(Debug)]
struct Fault {
    call: String,
    times: u32,
    error: EngineError,
}

/// What happens at one changing call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Interruption {
    /// The caller is killed before the engine executes the call.
    DieBefore,
    /// The caller is killed after the engine executed the call.
    DieAfter,
    /// The caller is killed while the engine executes the call. The engine completes a stop later, see
    /// [`MemoryEngine::let_time_pass`]. It never completes any other call.
    DieMeanwhile,
    /// The call fails with this error.
    Refuse(EngineError),
    /// The call times out and was not executed.
    HangUndone,
    /// The call times out but was executed.
    HangDone,
    /// The connection breaks but the call was executed.
    BreakDone,
    /// Another program removes the container with this id before the call.
    Lose(String),
}

/// How a call that the engine executes ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ending {
    Success,
    CallerKilled,
    Timeout,
    ConnectionBroken,
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
                reads: Vec::new(),
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
    /// Creates an engine of API 1.41 without containers and images.
    pub fn new() -> Self {
        Self::default()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no test panics while it holds the state")
    }

    /// Adds an image as if it was pulled before, makes the tag of `reference` point to it, and returns its id. Missing
    /// fields get defaults. The field `Behaves` sets the state of its containers after a start: `exits`, `restarts`,
    /// `unhealthy`, `starting` or `healthy`. `BehavesAs` sets it by container name. `BehavesBeside` sets it by image
    /// id, for containers that share the network of a container on that image.
    pub fn add_image(&self, reference: &str, image: &Value) -> String {
        self.state().tag(reference, image)
    }

    /// Sets the image that the next pull of `reference` downloads.
    pub fn publish(&self, reference: &str, image: Value) {
        self.state().registry.insert(reference.to_owned(), image);
    }

    /// Creates a container, starts it if `running` is set, and returns its id. Clears the recorded calls.
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

    /// Makes the next `times` calls fail whose line in [`calls`](Self::calls) or [`reads`](Self::reads) starts with
    /// `call`.
    pub fn fail(&self, call: &str, times: u32, error: EngineError) {
        self.state().faults.push(Fault { call: call.to_owned(), times, error });
    }

    /// Removes all faults that [`fail`](Self::fail) added.
    pub fn heal(&self) {
        self.state().faults.clear();
    }

    /// Interrupts the `nth` changing call from now on, counted from 0.
    pub fn interrupt(&self, nth: usize, interruption: Interruption) {
        let mut state = self.state();
        state.changes = 0;
        state.interruption = Some((nth, interruption));
    }

    /// Waits until the caller is killed. The test then drops the caller's future.
    pub async fn death(&self) {
        let mut dead = self.dead.subscribe();
        dead.wait_for(|dead| *dead).await.expect("the engine outlives its callers");
    }

    /// Starts a new caller, and removes the interruption.
    pub fn revive(&self) {
        self.state().interruption = None;
        self.dead.send_replace(false);
    }

    /// Completes the stop that an interruption left unfinished.
    pub fn let_time_pass(&self) {
        let mut state = self.state();
        if let Some(container) = state.stopping.take() {
            // The container may no longer exist.
            let _ = state.stop(&container);
        }
    }

    /// Simulates a restart of the engine's daemon: all containers stop, and the daemon starts those with a restart
    /// policy.
    pub fn restart_daemon(&self) {
        let mut state = self.state();
        state.stopping = None;
        for container in state.containers.values_mut() {
            let was_started = container["State"]["Status"] != "created";
            let policy = text(&container["HostConfig"]["RestartPolicy"]["Name"]).to_owned();
            // The daemon starts `on-failure` and `always` even if a user stopped them.
            let is_restarted = matches!(policy.as_str(), "always" | "on-failure")
                || (policy == "unless-stopped" && container["State"]["Running"] == true);
            let running = was_started && is_restarted;
            if container["State"]["Running"] == true || running {
                container["State"]["Running"] = json!(running);
                container["State"]["Status"] = json!(if running { "running" } else { "exited" });
            }
        }
    }

    /// Makes all pulls from now on hang.
    pub fn let_pulls_hang(&self) {
        self.state().pulls_hang = true;
    }

    /// Makes each pull report these lines, one per second, before it ends or hangs.
    pub fn let_pulls_say(&self, lines: Vec<PullProgress>) {
        self.state().pull_lines = lines;
    }

    /// Sets the engine's API version and whether it is Podman.
    pub fn set_facts(&self, facts: EngineFacts) {
        self.state().facts = facts;
    }

    /// Sets whether the engine is a node of a swarm.
    pub fn set_swarm(&self, is_swarm: bool) {
        self.state().is_swarm = is_swarm;
    }

    /// Makes [`refused_calls`](crate::Engine::refused_calls) report the calls with these paths.
    pub fn refuse_calls(&self, paths: &[&str]) {
        self.state().refused = PERMISSIONS.iter().filter(|permission| paths.contains(&permission.path)).collect();
    }

    /// The calls so far, except reads. A container appears with the name that it had at the time of the call.
    pub fn calls(&self) -> Vec<String> {
        self.state().calls.clone()
    }

    /// The read calls so far, in order: `list…` and `inspect…`.
    pub fn reads(&self) -> Vec<String> {
        self.state().reads.clone()
    }

    /// The user names of the credentials of all pulls.
    pub fn credentials(&self) -> Vec<String> {
        self.state().credentials.clone()
    }

    /// All containers as `name image-id status`, sorted.
    pub fn overview(&self) -> Vec<String> {
        let state = self.state();
        let line = |c: &Value| format!("{} {} {}", name_of(c), text(&c["Image"]), text(&c["State"]["Status"]));
        let mut lines: Vec<String> = state.containers.values().map(line).collect();
        lines.sort();
        lines
    }

    /// The inspections of all containers, by name.
    pub fn inspections(&self) -> BTreeMap<String, Value> {
        self.state().containers.values().map(|c| (name_of(c).to_owned(), c.clone())).collect()
    }

    /// The id of the image that the tag of `reference` points to.
    pub fn tagged(&self, reference: &str) -> Option<String> {
        self.state().image_id(reference)
    }

    /// The ids of all images.
    pub fn images(&self) -> Vec<String> {
        self.state().images.keys().cloned().collect()
    }

    /// Sets the creation time of all containers, in seconds since the Unix epoch.
    pub fn created_at(&self, created_s: u64) {
        let mut state = self.state();
        state.containers.values_mut().for_each(|container| container["TestCreated"] = json!(created_s));
    }

    /// Removes an image and its tags, as `docker rmi -f` does.
    pub fn forget_image(&self, image_id: &str) {
        let mut state = self.state();
        state.images.remove(image_id);
        state.tags.retain(|_, id| id != image_id);
    }

    /// Changes the inspection of the container `id`.
    pub fn edit(&self, id: &str, edit: impl FnOnce(&mut Value)) {
        edit(self.state().containers.get_mut(id).expect("the test's own container"));
    }

    /// Records a changing call and returns how it must end. A killed caller waits forever.
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
            None => Ok(Ending::Success),
            Some(Interruption::DieAfter) => Ok(Ending::CallerKilled),
            Some(Interruption::HangDone) => Ok(Ending::Timeout),
            Some(Interruption::BreakDone) => Ok(Ending::ConnectionBroken),
            Some(Interruption::DieBefore) => self.die().await,
            Some(Interruption::DieMeanwhile) => {
                self.leave_stopping(stopped);
                self.die().await
            }
            Some(Interruption::Refuse(error)) => Err(error),
            Some(Interruption::HangUndone) => Err(timeout()),
            Some(Interruption::Lose(id)) => {
                self.state().containers.remove(&id);
                Ok(Ending::Success)
            }
        }
    }

    fn leave_stopping(&self, container: Option<String>) {
        let mut state = self.state();
        state.stopping = container.and_then(|name| state.find(&name).ok());
    }

    async fn leave<T>(&self, ending: Ending, value: T) -> Result<T, EngineError> {
        match ending {
            Ending::Success => Ok(value),
            Ending::CallerKilled => self.die().await,
            Ending::Timeout => Err(timeout()),
            Ending::ConnectionBroken => {
                Err(EngineError::Unavailable { host: "unix:///x.sock".to_owned(), reason: "reset".to_owned() })
            }
        }
    }

    async fn die<T>(&self) -> T {
        self.dead.send_replace(true);
        std::future::pending().await
    }
}

fn timeout() -> EngineError {
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
        let is_read = call.starts_with("inspect") || call.starts_with("list");
        if is_read {
            self.reads.push(call);
        } else {
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

    /// The inspection of a container, by id or name.
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

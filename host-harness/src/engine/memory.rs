//! An engine in memory, for tests: keeps containers as raw inspections, writes down every call that
//! changes something, and fails where it is told to. Merges no image defaults.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard};

use async_trait::async_trait;
use imagewatch_abi::{Container, Reference, Selector};
use serde_json::{Value, json};

use super::{ApiVersion, Engine, EngineError, PullProgress, is_selected};
use crate::secret::Credential;

/// See the module.
#[derive(Debug)]
pub(crate) struct MemoryEngine(Mutex<State>);

#[derive(Debug)]
struct State {
    api: ApiVersion,
    containers: BTreeMap<String, Value>,
    images: BTreeMap<String, Value>,
    tags: BTreeMap<String, String>,
    registry: BTreeMap<String, Value>,
    credentials: Vec<String>,
    calls: Vec<String>,
    faults: Vec<Fault>,
    pulls_hang: bool,
    last_id: u32,
}

/// Fails calls whose line starts so, so many times.
#[derive(Debug)]
struct Fault {
    call: String,
    times: u32,
    error: EngineError,
}

impl MemoryEngine {
    pub(crate) fn new() -> Self {
        Self(Mutex::new(State {
            api: ApiVersion { major: 1, minor: 41 },
            containers: BTreeMap::new(),
            images: BTreeMap::new(),
            tags: BTreeMap::new(),
            registry: BTreeMap::new(),
            credentials: Vec::new(),
            calls: Vec::new(),
            faults: Vec::new(),
            pulls_hang: false,
            last_id: 0,
        }))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().expect("no test panics while it holds the state")
    }

    /// Puts an image here, as if pulled before, and lets `reference` name it. Fields the image lacks are made up.
    pub(crate) fn add_image(&self, reference: &str, image: &Value) -> String {
        self.state().tag(reference, image)
    }

    /// What the next pull of `reference` brings.
    pub(crate) fn publish(&self, reference: &str, image: Value) {
        self.state().registry.insert(reference.to_owned(), image);
    }

    /// Creates and perhaps starts a container.
    pub(crate) async fn add_container(&self, name: &str, reference: &str, body: Value, running: bool) -> String {
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
    pub(crate) fn fail(&self, call: &str, times: u32, error: EngineError) {
        self.state().faults.push(Fault { call: call.to_owned(), times, error });
    }

    pub(crate) fn let_pulls_hang(&self) {
        self.state().pulls_hang = true;
    }

    /// What was asked, reading aside, with containers by the name they had then.
    pub(crate) fn calls(&self) -> Vec<String> {
        self.state().calls.clone()
    }

    /// User names that pulls came with.
    pub(crate) fn credentials(&self) -> Vec<String> {
        self.state().credentials.clone()
    }

    /// Every container as `name image-id status`, sorted.
    pub(crate) fn overview(&self) -> Vec<String> {
        let state = self.state();
        let line = |c: &Value| format!("{} {} {}", name_of(c), text(&c["Image"]), text(&c["State"]["Status"]));
        let mut lines: Vec<String> = state.containers.values().map(line).collect();
        lines.sort();
        lines
    }

    /// Changes a container's inspection.
    pub(crate) fn edit(&self, id: &str, edit: impl FnOnce(&mut Value)) {
        edit(self.state().containers.get_mut(id).expect("the test's own container"));
    }
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

    fn image_id(&self, image: &str) -> Option<String> {
        let by_reference = || {
            let reference: Reference = image.parse().ok()?;
            self.tags.get(&reference.with_explicit_tag().to_string()).cloned()
        };
        self.images.contains_key(image).then(|| image.to_owned()).or_else(by_reference)
    }

    /// Records a call on a container and returns its inspection to be changed.
    fn act(&mut self, action: &str, container: &str, rest: &str) -> Result<&mut Value, EngineError> {
        let id = self.find(container)?;
        let name = name_of(&self.containers[&id]).to_owned();
        self.record(format!("{action} {name}{rest}"))?;
        Ok(self.containers.get_mut(&id).expect("just found"))
    }
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

fn name_of(container: &Value) -> &str {
    text(&container["Name"]).trim_start_matches('/')
}

fn conflict(name: &str) -> EngineError {
    EngineError::Conflict { message: format!("the container name {name:?} is already in use") }
}

#[async_trait]
impl Engine for MemoryEngine {
    async fn api_version(&self) -> Result<ApiVersion, EngineError> {
        Ok(self.state().api)
    }

    async fn containers(&self, selector: &Selector) -> Result<Vec<Container>, EngineError> {
        let mut state = self.state();
        state.record("list".to_owned()).map_err(EngineError::while_listing)?;
        let digests = |id: &str| serde_json::from_value(state.images.get(id)?["RepoDigests"].clone()).ok();
        let show = |(id, c): (&String, &Value)| Container {
            id: id.clone(),
            name: name_of(c).to_owned(),
            image: text(&c["Config"]["Image"]).to_owned(),
            image_id: text(&c["Image"]).to_owned(),
            repo_digests: digests(text(&c["Image"])).unwrap_or_default(),
            labels: serde_json::from_value(c["Config"]["Labels"].clone()).unwrap_or_default(),
            state: text(&c["State"]["Status"]).to_owned(),
        };
        let mut containers: Vec<Container> = state.containers.iter().map(show).collect();
        containers.retain(|c| is_selected(selector, &c.name, &c.labels));
        containers.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(containers)
    }

    async fn pull(
        &self,
        reference: &Reference,
        platform: Option<&str>,
        credential: Option<&Credential>,
        progress: &(dyn Fn(PullProgress) + Send + Sync),
    ) -> Result<(), EngineError> {
        let hangs = {
            let mut state = self.state();
            let platform = platform.map(|platform| format!(" {platform}")).unwrap_or_default();
            state.record(format!("pull {reference}{platform}"))?;
            state.credentials.extend(credential.map(|credential| credential.username.clone()));
            state.pulls_hang
        };
        if hangs {
            std::future::pending::<()>().await;
        }
        progress(PullProgress { done_bytes: 1, total_bytes: 1, status: "Pull complete".to_owned() });
        let mut state = self.state();
        let image = state.registry.get(&reference.to_string()).cloned().ok_or_else(|| EngineError::PullFailed {
            reference: reference.to_string(),
            reason: "manifest unknown".to_owned(),
        })?;
        state.tag(&reference.to_string(), &image);
        Ok(())
    }

    async fn inspect_container(&self, container: &str) -> Result<Value, EngineError> {
        self.state().act("inspect", container, "").cloned()
    }

    async fn inspect_image(&self, image: &str) -> Result<Option<Value>, EngineError> {
        let mut state = self.state();
        state.record(format!("inspect image {image}"))?;
        Ok(state.image_id(image).and_then(|id| state.images.get(&id).cloned()))
    }

    async fn create_container(&self, name: &str, body: &Value, _platform: Option<&str>) -> Result<String, EngineError> {
        let mut state = self.state();
        state.record(format!("create {name}"))?;
        if state.find(name).is_ok() {
            return Err(conflict(name));
        }
        let reference = text(&body["Image"]);
        let not_found = || EngineError::NotFound { message: format!("no such image: {reference}") };
        let image = state.image_id(reference).ok_or_else(not_found)?;
        state.last_id += 1;
        let id = format!("{:064x}", state.last_id);
        let mut config = body.clone();
        let fields = config.as_object_mut().expect("a create body is an object");
        let host = fields.remove("HostConfig").unwrap_or_default();
        let networking = fields.remove("NetworkingConfig").unwrap_or_default();
        let container = json!({
            "Id": id, "Name": format!("/{name}"), "Image": image, "Config": config, "HostConfig": host,
            "NetworkSettings": { "Networks": networking["EndpointsConfig"] },
            "State": { "Running": false, "Status": "created" }, "RestartCount": 0, "Mounts": [],
        });
        state.containers.insert(id.clone(), container);
        Ok(id)
    }

    async fn connect_network(&self, network: &str, container: &str, endpoint: &Value) -> Result<(), EngineError> {
        let mut state = self.state();
        let container = state.act("connect", container, &format!(" to {network}"))?;
        container["NetworkSettings"]["Networks"][network] = endpoint.clone();
        Ok(())
    }

    async fn start(&self, container: &str) -> Result<(), EngineError> {
        let mut state = self.state();
        let id = state.find(container)?;
        let image = text(&state.containers[&id]["Image"]).to_owned();
        let exits = state.images.get(&image).is_some_and(|image| image["ExitsAtOnce"] == true);
        let started = if exits {
            json!({ "Running": false, "Status": "exited", "ExitCode": 3 })
        } else {
            json!({ "Running": true, "Status": "running", "ExitCode": 0 })
        };
        state.act("start", container, "")?["State"] = started;
        Ok(())
    }

    async fn stop(&self, container: &str) -> Result<(), EngineError> {
        let mut state = self.state();
        state.act("stop", container, "")?["State"] = json!({ "Running": false, "Status": "exited", "ExitCode": 0 });
        Ok(())
    }

    async fn rename(&self, container: &str, name: &str) -> Result<(), EngineError> {
        let mut state = self.state();
        let is_taken = state.find(name).is_ok();
        let container = state.act("rename", container, &format!(" to {name}"))?;
        if is_taken {
            return Err(conflict(name));
        }
        container["Name"] = json!(format!("/{name}"));
        Ok(())
    }

    async fn remove(&self, container: &str, force: bool) -> Result<(), EngineError> {
        let mut state = self.state();
        let found = state.act("remove", container, "")?;
        if found["State"]["Running"] == true && !force {
            return Err(EngineError::Conflict { message: "it is running".to_owned() });
        }
        let id = text(&found["Id"]).to_owned();
        state.containers.remove(&id);
        Ok(())
    }
}

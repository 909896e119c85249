//! The calls of the in-memory engine. They behave like a Docker engine as far as replacements need.

use std::time::Duration;

use async_trait::async_trait;
use imagewatch_abi::{Container, Reference, Selector};
use serde_json::{Value, json};

use super::{MemoryEngine, State, conflict, name_of, text};
use crate::image_facts::{ImageFacts, platform_of};
use crate::permission::Permission;
use crate::{ApiVersion, Engine, EngineError, EngineFacts, Listed, PullProgress};
use imagewatch_base::secret::Credential;

#[async_trait]
impl Engine for MemoryEngine {
    fn address(&self) -> &str {
        &self.address
    }

    async fn facts(&self) -> Result<EngineFacts, EngineError> {
        Ok(self.state().facts)
    }

    async fn is_swarm(&self) -> Result<bool, EngineError> {
        let mut state = self.state();
        state.record("inspect info".to_owned())?;
        Ok(state.is_swarm)
    }

    async fn refused_calls(&self, _again: bool) -> Result<Vec<&'static Permission>, EngineError> {
        Ok(self.state().refused.clone())
    }

    async fn list(&self) -> Result<Vec<Listed>, EngineError> {
        let mut state = self.state();
        state.record("list all".to_owned())?;
        Ok(state.listed())
    }

    async fn containers(&self, selector: &Selector) -> Result<Vec<Container>, EngineError> {
        let mut state = self.state();
        state.record("list".to_owned()).map_err(EngineError::while_listing)?;
        let has_identity = state.facts.api >= ApiVersion::IMAGE_IDENTITY;
        let show = |listed: Listed| {
            let image = state.images.get(&listed.image_id).cloned().unwrap_or_default();
            listed.complete(listed.image.clone(), ImageFacts::parse(&image, has_identity), state.facts.is_podman)
        };
        let mut containers: Vec<Container> = state.listed().into_iter().map(show).collect();
        containers.retain(|c| selector.matches(&c.name, &c.labels));
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
        let (lines, hangs) = {
            let mut state = self.state();
            let platform = platform.map(|platform| format!(" {platform}")).unwrap_or_default();
            state.record(format!("pull {reference}{platform}"))?;
            state.credentials.extend(credential.map(|credential| match credential {
                Credential::Basic { username, .. } => username.clone(),
                token => format!("{token:?}"),
            }));
            (state.pull_lines.clone(), state.pulls_hang)
        };
        for line in lines {
            tokio::time::sleep(Duration::from_secs(1)).await;
            progress(line);
        }
        if hangs {
            std::future::pending::<()>().await;
        }
        progress(PullProgress { done_bytes: 1, total_bytes: 1, status: "Pull complete".to_owned(), advances: true });
        let mut state = self.state();
        let image = state
            .registry
            .get(&reference.to_string())
            .cloned()
            .ok_or_else(|| EngineError::pull_failed(reference, None, "manifest unknown".to_owned()))?;
        state.tag(&reference.to_string(), &image);
        Ok(())
    }

    async fn inspect_container(&self, container: &str) -> Result<Value, EngineError> {
        let mut state = self.state();
        let name = state.name(container)?;
        state.record(format!("inspect {name}"))?;
        state.at(container).cloned()
    }

    async fn inspect_image(&self, image: &str) -> Result<Option<Value>, EngineError> {
        let mut state = self.state();
        state.record(format!("inspect image {image}"))?;
        Ok(state.image_id(image).and_then(|id| state.images.get(&id).cloned()))
    }

    async fn inspect_platform(&self, image: &str, platform: &str) -> Result<Option<Value>, EngineError> {
        let mut state = self.state();
        state.record(format!("inspect image {image} {platform}"))?;
        let Some(found) = state.image_id(image).and_then(|id| state.images.get(&id).cloned()) else { return Ok(None) };
        // `TestPlatforms` contains the inspection of the image for each platform.
        Ok(match &found["TestPlatforms"] {
            Value::Null => Some(found).filter(|image| platform_of(image).as_deref() == Some(platform)),
            platforms => platforms.get(platform).cloned(),
        })
    }

    async fn platform(&self) -> Result<String, EngineError> {
        Ok("linux/amd64".to_owned())
    }

    async fn changes(&self, container: &str) -> Result<Value, EngineError> {
        Ok(self.state().at(container)?["TestChanges"].clone())
    }

    async fn inspect_libpod(&self, container: &str) -> Result<Option<Value>, EngineError> {
        let mut state = self.state();
        let is_podman = state.facts.is_podman;
        Ok(is_podman.then_some(state.at(container)?["TestLibpod"].clone()))
    }

    async fn last_log(&self, container: &str, lines: u16) -> Result<Vec<String>, EngineError> {
        let state = self.state();
        let name = state.name(container)?;
        Ok((0..lines.min(2)).map(|line| format!("line {line} of {name}")).collect())
    }

    async fn exec(&self, container: &str, command: &[&str], _limit: Duration) -> Result<i64, EngineError> {
        let name = self.state().name(container)?;
        let ending = self.enter(format!("exec {name} {}", command.join(" "))).await?;
        // A command that ends with `exit 75` returns 75. Other commands return 0.
        let code = command.last().and_then(|word| word.strip_prefix("exit ")).and_then(|code| code.parse().ok());
        self.leave(ending, code.unwrap_or(0)).await
    }

    async fn create_container(&self, name: &str, body: &Value, _platform: Option<&str>) -> Result<String, EngineError> {
        let ending = self.enter(format!("create {name}")).await?;
        let created = self.state().create(name, body)?;
        self.leave(ending, created).await
    }

    async fn connect_network(&self, network: &str, container: &str, endpoint: &Value) -> Result<(), EngineError> {
        let name = self.state().name(container)?;
        let ending = self.enter(format!("connect {name} to {network}")).await?;
        self.state().at(container)?["NetworkSettings"]["Networks"][network] = endpoint.clone();
        self.leave(ending, ()).await
    }

    async fn disconnect_network(&self, network: &str, container: &str) -> Result<(), EngineError> {
        let name = self.state().name(container)?;
        let ending = self.enter(format!("disconnect {name} from {network}")).await?;
        if let Some(networks) = self.state().at(container)?["NetworkSettings"]["Networks"].as_object_mut() {
            networks.remove(network);
        }
        self.leave(ending, ()).await
    }

    async fn set_restart_policy(&self, container: &str, policy: &Value) -> Result<(), EngineError> {
        let name = self.state().name(container)?;
        let ending = self.enter(format!("policy {name} {}", text(&policy["Name"]))).await?;
        {
            let mut state = self.state();
            let container = state.at(container)?;
            if container["HostConfig"]["AutoRemove"] == true {
                return Err(conflict("Restart policy cannot be updated because AutoRemove is enabled"));
            }
            container["HostConfig"]["RestartPolicy"] = policy.clone();
        }
        self.leave(ending, ()).await
    }

    async fn start(&self, container: &str) -> Result<(), EngineError> {
        let name = self.state().name(container)?;
        let ending = self.enter(format!("start {name}")).await?;
        self.state().start(container)?;
        self.leave(ending, ()).await
    }

    async fn stop(&self, container: &str) -> Result<(), EngineError> {
        let name = self.state().name(container)?;
        let ending = self.enter(format!("stop {name}")).await?;
        self.state().stop(container)?;
        self.leave(ending, ()).await
    }

    async fn rename(&self, container: &str, name: &str) -> Result<(), EngineError> {
        let before = self.state().name(container)?;
        let ending = self.enter(format!("rename {before} to {name}")).await?;
        {
            let mut state = self.state();
            if state.find(name).is_ok() {
                return Err(conflict(format!("the container name {name:?} is already in use")));
            }
            state.at(container)?["Name"] = json!(format!("/{name}"));
        }
        self.leave(ending, ()).await
    }

    async fn remove(&self, container: &str, force: bool) -> Result<(), EngineError> {
        let name = self.state().name(container)?;
        let ending = self.enter(format!("remove {name}")).await?;
        {
            let mut state = self.state();
            if state.at(container)?["State"]["Running"] == true && !force {
                return Err(conflict("it is running"));
            }
            let id = state.find(container)?;
            state.containers.remove(&id);
        }
        self.leave(ending, ()).await
    }

    async fn tag_image(&self, image_id: &str, reference: &Reference) -> Result<(), EngineError> {
        let ending = self.enter(format!("tag {image_id} {reference}")).await?;
        {
            let mut state = self.state();
            if !state.images.contains_key(image_id) {
                return Err(EngineError::NotFound { message: format!("no such image: {image_id}") });
            }
            state.tags.insert(reference.clone().with_explicit_tag().to_string(), image_id.to_owned());
        }
        self.leave(ending, ()).await
    }

    async fn remove_image(&self, image_id: &str) -> Result<(), EngineError> {
        let ending = self.enter(format!("remove image {image_id}")).await?;
        {
            let mut state = self.state();
            if state.containers.values().any(|container| container["Image"] == image_id) {
                return Err(conflict("image is being used"));
            }
            state.images.remove(image_id);
            state.tags.retain(|_, id| id != image_id);
        }
        self.leave(ending, ()).await
    }
}

impl State {
    fn listed(&self) -> Vec<Listed> {
        let line = |c: &Value| {
            json!({
                "Id": c["Id"], "Names": [c["Name"]], "Image": text(&c["Config"]["Image"]),
                "ImageID": text(&c["Image"]), "Labels": c["Config"]["Labels"], "State": text(&c["State"]["Status"]),
                "Created": c["TestCreated"].as_u64().unwrap_or(0),
                "ImageManifestDescriptor": c["ImageManifestDescriptor"],
                "HostConfig": { "NetworkMode": c["HostConfig"]["NetworkMode"] }, "Mounts": c["Mounts"],
                "NetworkSettings": { "Networks": c["NetworkSettings"]["Networks"] }, "Ports": c["TestPorts"],
            })
        };
        let lines = self.containers.values().map(line);
        lines.map(|line| serde_json::from_value(line).expect("a list entry in Docker's form")).collect()
    }

    fn create(&mut self, name: &str, body: &Value) -> Result<String, EngineError> {
        if self.find(name).is_ok() {
            return Err(conflict(format!("the container name {name:?} is already in use")));
        }
        let reference = text(&body["Image"]);
        let not_found = || EngineError::NotFound { message: format!("no such image: {reference}") };
        let image = self.image_id(reference).ok_or_else(not_found)?;
        self.last_id += 1;
        let id = format!("{:064x}", self.last_id);
        let mut config = body.clone();
        let fields = config.as_object_mut().expect("a create body is an object");
        let mut host = fields.remove("HostConfig").unwrap_or_else(|| json!({}));
        let networking = fields.remove("NetworkingConfig").unwrap_or_default();
        if host["RestartPolicy"].is_null() {
            host["RestartPolicy"] = json!({ "Name": "no", "MaximumRetryCount": 0 });
        }
        self.resolve_namespaces(&mut host)?;
        let endpoints = networking["EndpointsConfig"].as_object().cloned().unwrap_or_default();
        let container = json!({
            "Id": id, "Name": format!("/{name}"), "Image": image, "Config": config, "HostConfig": host,
            "NetworkSettings": { "Networks": endpoints },
            "State": { "Running": false, "Status": "created" }, "RestartCount": 0, "Mounts": Self::mounts(&host, &id),
        });
        self.containers.insert(id.clone(), container);
        Ok(id)
    }

    /// Replaces container names in namespace modes by ids, as Docker does.
    fn resolve_namespaces(&self, host: &mut Value) -> Result<(), EngineError> {
        for mode in ["NetworkMode", "PidMode", "IpcMode"] {
            if let Some(parent) = text(&host[mode]).strip_prefix("container:") {
                host[mode] = json!(format!("container:{}", self.find(parent)?));
            }
        }
        Ok(())
    }

    /// The mounts for `Binds`. A bind without a source gets an anonymous volume.
    fn mounts(host: &Value, id: &str) -> Value {
        let binds = host["Binds"].as_array().into_iter().flatten().filter_map(Value::as_str);
        let mount = |bind: &str| {
            let (name, destination) =
                bind.split_once(':').map_or((format!("anonymous-{id}"), bind), |(n, d)| (n.to_owned(), d));
            json!({ "Type": "volume", "Name": name, "Destination": destination, "RW": true })
        };
        binds.map(mount).collect()
    }

    fn start(&mut self, container: &str) -> Result<(), EngineError> {
        let id = self.find(container)?;
        let this = &self.containers[&id];
        if this["State"]["Running"] == true {
            return Ok(());
        }
        if let Some(parent) = text(&this["HostConfig"]["NetworkMode"]).strip_prefix("container:")
            && self.containers.get(parent).is_none_or(|parent| parent["State"]["Running"] != true)
        {
            return Err(conflict("cannot join network of a non running container"));
        }
        let ports = |c: &Value| {
            let bindings = c["HostConfig"]["PortBindings"].as_object().cloned().unwrap_or_default();
            bindings.values().map(|binding| text(&binding[0]["HostPort"]).to_owned()).collect::<Vec<_>>()
        };
        let wanted = ports(this);
        let is_taken = |other: &Value| {
            other["State"]["Running"] == true
                && ports(other).iter().any(|port| !port.is_empty() && wanted.contains(port))
        };
        if self.containers.values().any(is_taken) {
            // Docker 29 removes the endpoints of a container that fails to start.
            self.at(container)?["NetworkSettings"]["Networks"] = json!({});
            let message = "driver failed programming external connectivity: port is already allocated".to_owned();
            return Err(EngineError::Refused { status: 500, message });
        }
        let image = text(&this["Image"]).to_owned();
        let parent = text(&this["HostConfig"]["NetworkMode"]).strip_prefix("container:").unwrap_or_default();
        let parents_image = self.containers.get(parent).map(|parent| text(&parent["Image"])).unwrap_or_default();
        let image = self.images.get(&image).cloned().unwrap_or_default();
        let beside = &image["BehavesBeside"][parents_image];
        let own = &image["BehavesAs"][name_of(&self.containers[&id])];
        let behaviours = [beside, own, &image["Behaves"]];
        let behaves =
            behaviours.into_iter().find(|behaviour| !behaviour.is_null()).map(text).unwrap_or_default().to_owned();
        let this = self.at(container)?;
        this["State"] = match behaves.as_str() {
            "exits" => json!({ "Running": false, "Status": "exited", "ExitCode": 3 }),
            "restarts" => json!({ "Running": true, "Restarting": true, "Status": "restarting", "ExitCode": 3 }),
            health @ ("unhealthy" | "starting" | "healthy") => {
                json!({ "Running": true, "Status": "running", "ExitCode": 0, "Health": { "Status": health } })
            }
            _ => json!({ "Running": true, "Status": "running", "ExitCode": 0 }),
        };
        if this["State"]["Health"].is_object() {
            this["Config"]["Healthcheck"] = json!({ "Test": ["CMD", "true"] });
        }
        Ok(())
    }

    pub(super) fn stop(&mut self, container: &str) -> Result<(), EngineError> {
        let id = self.find(container)?;
        self.stopping.take_if(|stopping| *stopping == id);
        let this = self.at(container)?;
        if this["State"]["Running"] != true {
            return Ok(());
        }
        this["State"] = json!({ "Running": false, "Status": "exited", "ExitCode": 0 });
        if this["HostConfig"]["AutoRemove"] == true {
            self.containers.remove(&id);
        }
        Ok(())
    }
}

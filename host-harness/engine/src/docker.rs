//! [`Engine`] over the Docker Engine API, with bollard as its transport.
//!
//! Only the pull and the log use bollard's own calls. All other calls are raw JSON, see `raw`. This module makes no
//! decisions about replacements.

mod address;
mod exec;
mod pull;
mod raw;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use async_trait::async_trait;
use bollard::Docker;
use bollard::errors::Error;
use bollard::query_parameters::LogsOptionsBuilder;
use futures_util::{StreamExt, TryStreamExt, stream};
use imagewatch_abi::{Container, Reference, Selector};
use serde_json::{Value, json};

pub use self::address::{AddressError, EngineChoice, choose_engine};
use self::raw::{Call, Connection, Known};
use super::image_facts::ImageFacts;
use super::mounts::complete_names;
use super::permission::Permission;
use super::{ApiVersion, Engine, EngineError, EngineFacts, Listed, PullProgress};
use imagewatch_base::secret::Credential;

/// The engine's grace period for containers without a stop timeout.
const DEFAULT_GRACE: Duration = Duration::from_secs(10);
/// The wait for a container with a negative stop timeout. Docker waits for such a container without a limit.
const ENDLESS_GRACE: Duration = Duration::from_hours(1);
/// Added to the grace period, for the kill and the engine's work after it.
const STOP_MARGIN: Duration = Duration::from_mins(1);
const PARALLEL_INSPECTIONS: usize = 8;
/// The time limit for reading the end of a container's log.
const LOG_LIMIT: Duration = Duration::from_secs(10);

/// A Docker engine behind a unix socket or plain TCP.
#[derive(Debug)]
pub struct DockerEngine {
    connection: Connection,
}

impl DockerEngine {
    /// Creates a client for the engine at `docker_host`. It connects on the first call, so the engine need not run yet.
    ///
    /// # Errors
    /// Returns an error if the scheme of the address is not `unix://`, `tcp://` or `http://`.
    pub fn connect(docker_host: &str) -> Result<Self, EngineError> {
        Self::connect_to(EngineChoice { host: docker_host.to_owned(), api: None })
    }

    /// Creates a client for the engine that [`choose_engine`] returned.
    ///
    /// # Errors
    /// Returns the same errors as [`connect`](Self::connect).
    pub fn connect_to(choice: EngineChoice) -> Result<Self, EngineError> {
        Ok(Self { connection: Connection::new(choice)? })
    }

    /// A client for bollard's own calls, with the negotiated API version.
    async fn versioned_client(&self) -> Result<Docker, EngineError> {
        let version = self.connection.known().await?.version;
        Ok(self.connection.client()?.with_request_modifier(move |request| pull::correct_request(request, version)))
    }

    async fn call(&self, call: Call<'_>) -> Result<Value, EngineError> {
        self.connection.call(call).await
    }

    /// The reference that a container was created with. If the tag now points to another image, the list shows an id
    /// and this method inspects the container. Returns `None` if the container no longer exists.
    async fn reference_as_created(&self, listed: &Listed) -> Result<Option<String>, EngineError> {
        if !listed.image.starts_with("sha256:") {
            return Ok(Some(listed.image.clone()));
        }
        match self.inspect_container(&listed.id).await {
            Ok(inspection) => Ok(Some(inspection["Config"]["Image"].as_str().unwrap_or(&listed.image).to_owned())),
            Err(EngineError::NotFound { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    async fn image_facts(&self, image_id: &str) -> Result<ImageFacts, EngineError> {
        let Known { newest, is_podman, .. } = self.connection.known().await?;
        let has_identity = newest >= ApiVersion::IMAGE_IDENTITY && !is_podman;
        let inspection = if has_identity {
            let path = ["images", image_id, "json"];
            let call = Call { query: &[("identity", "1")], ..Call::new("GET", &path) };
            gone_as_none(self.connection.call_at(ApiVersion::IMAGE_IDENTITY, call).await)?
        } else {
            self.inspect_image(image_id).await?
        };
        let mut facts = ImageFacts::parse(&inspection.unwrap_or_default(), has_identity);
        if facts.repo_digests.is_empty() && is_podman {
            // Podman's native inspection still contains the digest of an image without a name.
            let native = self.call(Call::new("GET", &["libpod", "images", image_id, "json"])).await?;
            facts.target = native["Digest"].as_str().and_then(|digest| digest.parse().ok());
        }
        Ok(facts)
    }

    async fn select(&self, selector: &Selector) -> Result<Vec<Container>, EngineError> {
        let mut listed = self.list().await?;
        listed.retain(|c| selector.matches(c.name(), c.labels()));
        listed.sort_by(|a, b| a.name().cmp(b.name()));

        let is_podman = self.connection.known().await?.is_podman;
        let image_ids: BTreeSet<String> = listed.iter().map(|c| c.image_id.clone()).collect();
        let images: BTreeMap<String, ImageFacts> = stream::iter(image_ids)
            .map(|id| async move { Ok::<_, EngineError>((id.clone(), self.image_facts(&id).await?)) })
            .buffer_unordered(PARALLEL_INSPECTIONS)
            .try_collect()
            .await?;
        let containers: Vec<Option<Container>> = stream::iter(listed)
            .map(|listed| {
                let facts = images.get(&listed.image_id).cloned().unwrap_or_default();
                async move {
                    let image = self.reference_as_created(&listed).await?;
                    Ok::<_, EngineError>(image.map(|image| listed.complete(image, facts, is_podman)))
                }
            })
            .buffered(PARALLEL_INSPECTIONS)
            .try_collect()
            .await?;
        Ok(containers.into_iter().flatten().collect())
    }
}

#[async_trait]
impl Engine for DockerEngine {
    fn address(&self) -> &str {
        self.connection.host()
    }

    async fn facts(&self) -> Result<EngineFacts, EngineError> {
        let Known { version: api, is_podman, .. } = self.connection.known().await?;
        Ok(EngineFacts { api, is_podman })
    }

    async fn is_swarm(&self) -> Result<bool, EngineError> {
        let info = self.call(Call::new("GET", &["info"])).await?;
        Ok(matches!(info["Swarm"]["LocalNodeState"].as_str(), Some("active" | "locked" | "pending")))
    }

    async fn refused_calls(&self, again: bool) -> Result<Vec<&'static Permission>, EngineError> {
        self.connection.refused_calls(again).await
    }

    async fn list(&self) -> Result<Vec<Listed>, EngineError> {
        let call = Call { query: &[("all", "1")], ..Call::new("GET", &["containers", "json"]) };
        serde_json::from_value(self.call(call).await?)
            .map_err(|error| EngineError::BadAnswer { action: call.action(), reason: error.to_string() })
    }

    async fn containers(&self, selector: &Selector) -> Result<Vec<Container>, EngineError> {
        self.select(selector).await.map_err(EngineError::while_listing)
    }

    async fn pull(
        &self,
        reference: &Reference,
        platform: Option<&str>,
        credential: Option<&Credential>,
        progress: &(dyn Fn(PullProgress) + Send + Sync),
    ) -> Result<(), EngineError> {
        let client = self.versioned_client().await?;
        pull::pull(&client, reference, platform, credential, progress).await.map_err(|error| match error {
            Error::DockerStreamError { error } => EngineError::pull_failed(reference, None, error),
            Error::DockerResponseServerError { status_code, message } => {
                EngineError::pull_failed(reference, Some(status_code), message)
            }
            other => match self.connection.translate(other, "POST /images/create") {
                unavailable @ EngineError::Unavailable { .. } => unavailable,
                refusal => EngineError::pull_failed(reference, None, refusal.to_string()),
            },
        })
    }

    async fn inspect_container(&self, container: &str) -> Result<Value, EngineError> {
        let mut inspection = self.call(Call::new("GET", &["containers", container, "json"])).await?;
        complete_names(&mut inspection);
        Ok(inspection)
    }

    async fn inspect_image(&self, image: &str) -> Result<Option<Value>, EngineError> {
        let path: Vec<&str> = ["images"].into_iter().chain(image.split('/')).chain(["json"]).collect();
        let has_manifests = self.connection.known().await?.version >= ApiVersion::IMAGE_MANIFESTS;
        let query: &[_] = if has_manifests { &[("manifests", "1")] } else { &[] };
        gone_as_none(self.call(Call { query, ..Call::new("GET", &path) }).await)
    }

    async fn inspect_platform(&self, image: &str, platform: &str) -> Result<Option<Value>, EngineError> {
        if self.connection.known().await?.version < ApiVersion::IMAGE_PLATFORM {
            return self.inspect_image(image).await;
        }
        let mut parts = platform.splitn(3, '/');
        let mut wanted = json!({ "os": parts.next(), "architecture": parts.next() });
        if let Some(variant) = parts.next() {
            wanted["variant"] = json!(variant);
        }
        let path: Vec<&str> = ["images"].into_iter().chain(image.split('/')).chain(["json"]).collect();
        let query = [("platform", wanted.to_string())];
        let query = query.each_ref().map(|(key, value)| (*key, value.as_str()));
        gone_as_none(self.call(Call { query: &query, ..Call::new("GET", &path) }).await)
    }

    async fn platform(&self) -> Result<String, EngineError> {
        let version = self.call(Call::new("GET", &["version"])).await?;
        let text = |key: &str| version[key].as_str().unwrap_or_default().to_owned();
        Ok(format!("{}/{}", text("Os"), text("Arch")))
    }

    async fn changes(&self, container: &str) -> Result<Value, EngineError> {
        self.call(Call::new("GET", &["containers", container, "changes"])).await
    }

    async fn inspect_libpod(&self, container: &str) -> Result<Option<Value>, EngineError> {
        if !self.connection.known().await?.is_podman {
            return Ok(None);
        }
        self.call(Call::new("GET", &["libpod", "containers", container, "json"])).await.map(Some)
    }

    async fn last_log(&self, container: &str, lines: u16) -> Result<Vec<String>, EngineError> {
        let options = LogsOptionsBuilder::new().stdout(true).stderr(true).tail(&lines.to_string()).build();
        let read = async {
            let client = self.versioned_client().await?;
            let logged = client.logs(container, Some(options)).map_ok(|line| line.to_string());
            let texts: Vec<String> =
                logged.try_collect().await.map_err(|error| self.connection.translate(error, "GET /logs"))?;
            Ok(texts.concat().lines().map(str::to_owned).collect())
        };
        let late = EngineError::Timeout { action: "GET /logs".to_owned(), limit: LOG_LIMIT };
        tokio::time::timeout(LOG_LIMIT, read).await.unwrap_or(Err(late))
    }

    async fn exec(&self, container: &str, command: &[&str], limit: Duration) -> Result<i64, EngineError> {
        exec::exec(&self.connection, container, command, limit).await
    }

    async fn create_container(&self, name: &str, body: &Value, platform: Option<&str>) -> Result<String, EngineError> {
        let query: Vec<(&str, &str)> =
            [("name", name)].into_iter().chain(platform.map(|platform| ("platform", platform))).collect();
        let call = Call { query: &query, body: Some(body), ..Call::new("POST", &["containers", "create"]) };
        let answer = self.call(call).await?;
        answer["Id"]
            .as_str()
            .map(str::to_owned)
            .ok_or_else(|| EngineError::BadAnswer { action: call.action(), reason: "it has no Id".to_owned() })
    }

    async fn connect_network(&self, network: &str, container: &str, endpoint: &Value) -> Result<(), EngineError> {
        let body = json!({ "Container": container, "EndpointConfig": endpoint });
        let path = ["networks", network, "connect"];
        self.call(Call { body: Some(&body), ..Call::new("POST", &path) }).await.map(drop)
    }

    async fn disconnect_network(&self, network: &str, container: &str) -> Result<(), EngineError> {
        let body = json!({ "Container": container, "Force": false });
        let path = ["networks", network, "disconnect"];
        self.call(Call { body: Some(&body), ..Call::new("POST", &path) }).await.map(drop)
    }

    async fn set_restart_policy(&self, container: &str, policy: &Value) -> Result<(), EngineError> {
        let body = json!({ "RestartPolicy": policy });
        let path = ["containers", container, "update"];
        self.call(Call { body: Some(&body), ..Call::new("POST", &path) }).await.map(drop)
    }

    async fn start(&self, container: &str) -> Result<(), EngineError> {
        self.call(Call::new("POST", &["containers", container, "start"])).await.map(drop)
    }

    async fn stop(&self, container: &str) -> Result<(), EngineError> {
        let inspection = self.inspect_container(container).await?;
        let limit = grace_period(&inspection) + STOP_MARGIN;
        self.call(Call { limit, ..Call::new("POST", &["containers", container, "stop"]) }).await.map(drop)
    }

    async fn rename(&self, container: &str, name: &str) -> Result<(), EngineError> {
        let path = ["containers", container, "rename"];
        self.call(Call { query: &[("name", name)], ..Call::new("POST", &path) }).await.map(drop)
    }

    async fn remove(&self, container: &str, force: bool) -> Result<(), EngineError> {
        let force = if force { "1" } else { "0" };
        let query = [("v", "0"), ("force", force)];
        self.call(Call { query: &query, ..Call::new("DELETE", &["containers", container]) }).await.map(drop)
    }

    async fn tag_image(&self, image_id: &str, reference: &Reference) -> Result<(), EngineError> {
        let query = [("repo", reference.name()), ("tag", reference.tag_or_latest().to_owned())];
        let query = query.each_ref().map(|(key, value)| (*key, value.as_str()));
        self.call(Call { query: &query, ..Call::new("POST", &["images", image_id, "tag"]) }).await.map(drop)
    }

    async fn remove_image(&self, image_id: &str) -> Result<(), EngineError> {
        self.call(Call::new("DELETE", &["images", image_id])).await.map(drop)
    }
}

fn gone_as_none(answer: Result<Value, EngineError>) -> Result<Option<Value>, EngineError> {
    match answer {
        Err(EngineError::NotFound { .. }) => Ok(None),
        other => other.map(Some),
    }
}

fn grace_period(inspection: &Value) -> Duration {
    match inspection["Config"]["StopTimeout"].as_i64() {
        None => DEFAULT_GRACE,
        Some(seconds) => u64::try_from(seconds).map_or(ENDLESS_GRACE, Duration::from_secs),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn t29_a_stop_gets_the_containers_grace_period_and_a_margin() {
        let limit = |stop_timeout: Value| {
            (grace_period(&json!({ "Config": { "StopTimeout": stop_timeout } })) + STOP_MARGIN).as_secs()
        };
        assert_eq!((limit(json!(300)), limit(Value::Null), limit(json!(0))), (360, 70, 60));
        assert!(limit(json!(300)) > raw::CALL_LIMIT.as_secs(), "longer than the limit of other calls");
        assert!(limit(json!(-1)) < raw::TRANSPORT_LIMIT_S, "shorter than the limit of the transport");
    }
}

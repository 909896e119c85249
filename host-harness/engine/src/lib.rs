//! The interface to the container engine: its operations, the types they use, and their errors. Inspections and create
//! bodies are raw JSON, so that fields that imagewatch does not know survive a replacement. This crate makes no
//! decisions about replacements and keeps no state about containers between calls.

pub mod docker;
pub mod image_facts;
pub mod mounts;
pub mod permission;
mod pull_cause;
#[cfg(any(test, feature = "testing"))]
pub mod testing;

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use async_trait::async_trait;
use imagewatch_abi::{Container, Failure, FailureCode, PullCause, Reference, Selector};
use serde::Deserialize;
use serde_json::Value;

use imagewatch_base::secret::Credential;

use docker::AddressError;
use image_facts::{ImageFacts, platform_of_manifest};
use mounts::writable_mounts;
use permission::Permission;

/// A container engine. Every method may be called at any time. While the engine is unreachable, methods return
/// [`EngineError::Unavailable`]. They work again as soon as the engine is reachable again.
#[async_trait]
pub trait Engine: Send + Sync + fmt::Debug {
    /// The address of the engine, in the form of `DOCKER_HOST`.
    fn address(&self) -> &str;

    /// The engine's API version, and whether it is Podman.
    async fn facts(&self) -> Result<EngineFacts, EngineError>;

    /// Whether the engine is a node of a swarm, where imagewatch should not rename running containers. Calls `GET
    /// /info`, which some filters in front of an engine refuse.
    async fn is_swarm(&self) -> Result<bool, EngineError>;

    /// The calls that a replacement needs and that a filter in front of the engine refuses. The check sends requests
    /// that change nothing. Its result is cached until `again` is set, a call is refused, or the engine becomes
    /// unreachable.
    async fn refused_calls(&self, again: bool) -> Result<Vec<&'static Permission>, EngineError>;

    /// All containers, including stopped ones, as the engine lists them. Makes one call and inspects nothing.
    async fn list(&self) -> Result<Vec<Listed>, EngineError>;

    /// All containers that `selector` matches, including stopped ones, sorted by name. Their `image` is the reference
    /// that they were created with. Fails only with [`EngineError::Unavailable`] and [`EngineError::ListFailed`].
    async fn containers(&self, selector: &Selector) -> Result<Vec<Container>, EngineError>;

    /// Pulls `reference` by its digest if it has one, otherwise by its tag, and waits until the pull ends. `platform`
    /// is `os/arch[/variant]`; `None` means the engine's default. The pull has no deadline. Dropping the future aborts
    /// it.
    async fn pull(
        &self,
        reference: &Reference,
        platform: Option<&str>,
        credential: Option<&Credential>,
        progress: &(dyn Fn(PullProgress) + Send + Sync),
    ) -> Result<(), EngineError>;

    /// Inspects a container by id or name.
    async fn inspect_container(&self, container: &str) -> Result<Value, EngineError>;

    /// Inspects an image by id or reference. Returns `None` if the engine does not have the image.
    async fn inspect_image(&self, image: &str) -> Result<Option<Value>, EngineError>;

    /// Inspects an image for one platform, `os/arch[/variant]`. Returns `None` if the engine does not have the image or
    /// does not have it for that platform. An engine that stores one platform per image, or whose API has no platform
    /// parameter, ignores `platform`.
    async fn inspect_platform(&self, image: &str, platform: &str) -> Result<Option<Value>, EngineError>;

    /// The platform of the engine's machine, `os/arch`. The engine pulls and runs this platform by default.
    async fn platform(&self) -> Result<String, EngineError>;

    /// The differences between a container's file system and its image, as the engine's list of `Path` and `Kind`.
    async fn changes(&self, container: &str) -> Result<Value, EngineError>;

    /// Podman's native inspection, which contains more about how a container was created. `None` for other engines.
    async fn inspect_libpod(&self, container: &str) -> Result<Option<Value>, EngineError>;

    /// The last lines of a container's log, oldest first. Returns at most `lines` lines.
    async fn last_log(&self, container: &str, lines: u16) -> Result<Vec<String>, EngineError>;

    /// Runs `command` in a running container and returns its exit code. A command that takes longer than `limit` is
    /// killed together with its child processes, and the result is [`EngineError::Timeout`].
    async fn exec(&self, container: &str, command: &[&str], limit: Duration) -> Result<i64, EngineError>;

    /// Creates a container and returns its id. `body` is the engine's raw create body.
    async fn create_container(&self, name: &str, body: &Value, platform: Option<&str>) -> Result<String, EngineError>;

    /// Connects a container to a network. `endpoint` is the engine's raw endpoint settings.
    async fn connect_network(&self, network: &str, container: &str, endpoint: &Value) -> Result<(), EngineError>;

    /// Disconnects a container from a network.
    async fn disconnect_network(&self, network: &str, container: &str) -> Result<(), EngineError>;

    /// Changes a container's restart policy. `policy` is the engine's raw `RestartPolicy` object.
    async fn set_restart_policy(&self, container: &str, policy: &Value) -> Result<(), EngineError>;

    /// Starts a container. Succeeds if it already runs.
    async fn start(&self, container: &str) -> Result<(), EngineError>;

    /// Stops a container with the grace period that it was created with. Succeeds if it is already stopped.
    async fn stop(&self, container: &str) -> Result<(), EngineError>;

    /// Renames a container. Fails with [`EngineError::Conflict`] if the name is taken.
    async fn rename(&self, container: &str, name: &str) -> Result<(), EngineError>;

    /// Removes a container, but never its volumes. `force` also removes a running container.
    async fn remove(&self, container: &str, force: bool) -> Result<(), EngineError>;

    /// Makes the tag of `reference` point to the image `image_id`.
    async fn tag_image(&self, image_id: &str, reference: &Reference) -> Result<(), EngineError>;

    /// Removes an image. Fails with [`EngineError::Conflict`] if a container uses the image.
    async fn remove_image(&self, image_id: &str) -> Result<(), EngineError>;
}

/// The API version and the kind of an engine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EngineFacts {
    /// The API version that imagewatch uses for its calls.
    pub api: ApiVersion,
    /// Whether the engine is Podman behind Docker's API. Podman reports less and merges fewer image settings than
    /// Docker.
    pub is_podman: bool,
}

/// One entry of the engine's container list.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Listed {
    /// The full container id.
    pub id: String,
    names: Option<Vec<String>>,
    /// The reference that the container was created with, or an image id if the tag now points to another image.
    pub image: String,
    /// The id of the image that the container runs.
    #[serde(rename = "ImageID")]
    pub image_id: String,
    /// The descriptor of the manifest that the container runs, as raw JSON. Null on graph drivers.
    #[serde(default)]
    pub image_manifest_descriptor: Value,
    labels: Option<BTreeMap<String, String>>,
    /// The creation time in seconds since the Unix epoch.
    #[serde(default, rename = "Created")]
    pub created_s: u64,
    /// The state that the engine reports: `running`, `exited`, `created`, …
    pub state: String,
    /// The published ports, as raw JSON. Null if the engine lists none.
    #[serde(default)]
    pub ports: Value,
    /// The engine's `HostConfig` summary with the network mode, as raw JSON.
    #[serde(default)]
    pub host_config: Value,
    /// The networks and addresses, as raw JSON.
    #[serde(default)]
    pub network_settings: Value,
    /// The mounts, as raw JSON.
    #[serde(default)]
    pub mounts: Value,
}

impl Listed {
    /// The container's name without the leading slash. Legacy links add names such as `/other/alias` to the list; this
    /// method skips them.
    pub fn name(&self) -> &str {
        let names = self.names.iter().flatten().map(|name| name.strip_prefix('/').unwrap_or(name));
        names.clone().find(|name| !name.contains('/')).unwrap_or_default()
    }

    /// The container's labels. Empty if the engine lists none.
    pub fn labels(&self) -> &BTreeMap<String, String> {
        static NONE: BTreeMap<String, String> = BTreeMap::new();
        self.labels.as_ref().unwrap_or(&NONE)
    }

    /// Converts this entry to the form that a policy sees. `image` is the reference that the container was created
    /// with, and `facts` is what the engine reports about that image.
    pub fn complete(&self, image: String, facts: ImageFacts, is_podman: bool) -> Container {
        let manifest = &self.image_manifest_descriptor;
        Container {
            origin: Some(facts.origin(&image, is_podman)),
            image,
            manifest_digest: manifest["digest"].as_str().and_then(|digest| digest.parse().ok()),
            platform: platform_of_manifest(manifest).or(facts.platform),
            repo_digests: facts.repo_digests,
            target_digest: facts.target,
            ..self.to_container()
        }
    }

    /// Converts this entry to the form that a policy sees, without digests, platform and origin. `image` stays as
    /// listed.
    pub fn to_container(&self) -> Container {
        Container {
            name: self.name().to_owned(),
            id: self.id.clone(),
            image_id: self.image_id.clone(),
            image: self.image.clone(),
            labels: self.labels().clone(),
            state: self.state.clone(),
            writable_mounts: writable_mounts(&self.mounts).into_iter().collect(),
            ..Container::default()
        }
    }
}

/// A version of the engine's API, `major.minor`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct ApiVersion {
    /// The major version. Always 1 so far.
    pub major: u16,
    /// The minor version. It grows with each change of the API.
    pub minor: u16,
}

impl ApiVersion {
    /// Since this version, a create call accepts several networks, and an endpoint contains its MAC address.
    pub const MANY_ENDPOINTS: Self = Self { major: 1, minor: 44 };
    /// Since this version, an image inspection lists the image's manifests.
    pub const IMAGE_MANIFESTS: Self = Self { major: 1, minor: 48 };
    /// Since this version, an image can be inspected for one platform.
    pub const IMAGE_PLATFORM: Self = Self { major: 1, minor: 49 };
    /// Since this version, an image inspection says from which repositories the image was pulled.
    pub const IMAGE_IDENTITY: Self = Self { major: 1, minor: 55 };
}

impl fmt::Display for ApiVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)
    }
}

impl std::str::FromStr for ApiVersion {
    type Err = std::num::ParseIntError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (major, minor) = text.split_once('.').unwrap_or((text, "0"));
        Ok(Self { major: major.parse()?, minor: minor.parse()? })
    }
}

/// The progress of a pull. Both sums grow while the engine discovers layers.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PullProgress {
    /// The downloaded bytes of all layers known so far.
    pub done_bytes: u64,
    /// The size of all layers known so far, in bytes. 0 until the first size is known.
    pub total_bytes: u64,
    /// The engine's latest status line, for display.
    pub status: String,
    /// Whether the pull advanced since the previous status line: data arrived, or a layer reached its next step.
    pub advances: bool,
}

/// Why a call to the engine failed. Never contains a secret.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EngineError {
    /// The connection failed or broke before the answer arrived.
    #[error(
        "the container engine at {host} does not answer ({reason}); check that it runs and that this user may use it, or set DOCKER_HOST to another engine"
    )]
    Unavailable {
        /// The engine's address.
        host: String,
        /// The error of the connection.
        reason: String,
    },
    /// The engine's address, or a setting in the environment, cannot be used. Permanent.
    #[error("{0}")]
    Address(#[from] AddressError),
    /// A filter in front of the engine, or an authorization plugin of the engine, refuses the call.
    #[error(
        "{call} was refused by a proxy or plugin in front of the engine (status {status}); allow this call in the socket proxy, the access filter or the authorization plugin"
    )]
    Forbidden {
        /// The call, `METHOD /path`, without ids.
        call: String,
        /// The HTTP status.
        status: u16,
    },
    /// The container, image or network does not exist.
    #[error("{message}")]
    NotFound {
        /// The engine's error message.
        message: String,
    },
    /// A name is taken, a resource is in use, or another operation on it is in progress.
    #[error("{message}")]
    Conflict {
        /// The engine's error message.
        message: String,
    },
    /// The engine refused the call for another reason.
    #[error("the engine refused with status {status}: {message}")]
    Refused {
        /// The HTTP status.
        status: u16,
        /// The engine's error message.
        message: String,
    },
    /// A pull failed.
    #[error("{reference} was not pulled: {reason}")]
    PullFailed {
        /// The reference of the image.
        reference: String,
        /// The cause of the failure.
        cause: PullCause,
        /// The engine's error message.
        reason: String,
    },
    /// Listing the containers failed.
    #[error("the containers could not be listed: {reason}")]
    ListFailed {
        /// The error of the call that failed.
        reason: String,
    },
    /// No answer arrived in time. It is unknown whether the engine did what was requested.
    #[error("the engine did not {action} within {} s", limit.as_secs())]
    Timeout {
        /// The requested action.
        action: String,
        /// The time limit that was exceeded.
        limit: Duration,
    },
    /// The answer does not have the form that the API describes.
    #[error("the engine's answer to {action} is not valid: {reason}")]
    BadAnswer {
        /// The requested action.
        action: String,
        /// What is wrong with the answer.
        reason: String,
    },
}

impl EngineError {
    /// Creates a [`PullFailed`](Self::PullFailed) error and classifies its cause. `reason` is the engine's error
    /// message. `status` is the HTTP status of the answer; `None` if the pull failed after it began.
    pub fn pull_failed(reference: &Reference, status: Option<u16>, reason: String) -> Self {
        Self::PullFailed { reference: reference.to_string(), cause: pull_cause::classify(status, &reason), reason }
    }

    /// Whether the container, image or network does not exist or no longer exists.
    pub fn is_gone(&self) -> bool {
        matches!(self, Self::NotFound { .. })
    }

    /// Whether the engine is unreachable, so that other calls would fail too.
    pub fn is_unavailable(&self) -> bool {
        matches!(self, Self::Unavailable { .. })
    }

    /// Converts the error to the form used in reports and in answers of host functions.
    pub fn failure(&self) -> Failure {
        let message = self.to_string();
        match self {
            Self::Unavailable { .. } => Failure::retryable(FailureCode::EngineUnavailable, message),
            Self::PullFailed { cause, .. } => Failure::pull(*cause, message),
            Self::ListFailed { .. } => Failure::retryable(FailureCode::ListFailed, message),
            Self::Timeout { .. } => Failure::retryable(FailureCode::Timeout, message),
            Self::Address(_) => Failure::permanent(FailureCode::EngineUnavailable, message),
            Self::Forbidden { .. }
            | Self::NotFound { .. }
            | Self::Conflict { .. }
            | Self::Refused { .. }
            | Self::BadAnswer { .. } => Failure::permanent(FailureCode::Other, message),
        }
    }

    /// Converts an error of a listing to [`EngineError::ListFailed`], unless it is [`EngineError::Unavailable`].
    #[must_use]
    pub fn while_listing(self) -> Self {
        if self.is_unavailable() { self } else { Self::ListFailed { reason: self.to_string() } }
    }
}

/// Whether two references name the same image. Short forms are expanded: `app` means `docker.io/library/app:latest`.
pub fn names_same_image(one: &str, other: &str) -> bool {
    let parse = |text: &str| text.parse::<Reference>().ok().map(Reference::with_explicit_tag);
    one == other || parse(one).is_some_and(|one| parse(other) == Some(one))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_and_full_references_name_the_same_image() {
        for (one, other, expected) in [
            ("nextcloud:29", "docker.io/library/nextcloud:29", true),
            ("nextcloud", "nextcloud:latest", true),
            ("nextcloud:29", "nextcloud:28", false),
            ("nextcloud:29", "ghcr.io/nextcloud:29", false),
            ("sha256:0", "sha256:0", true),
            ("", "nextcloud", false),
        ] {
            assert_eq!(names_same_image(one, other), expected, "{one} {other}");
            assert_eq!(names_same_image(other, one), expected, "{other} {one}");
        }
    }

    #[test]
    fn f06_the_message_names_the_refused_call() {
        let refused = EngineError::Forbidden { call: "POST /containers/*/update".to_owned(), status: 403 };
        for error in [refused.clone(), refused.while_listing()] {
            let message = error.failure().message;
            assert!(message.contains("POST /containers/*/update was refused by a proxy or plugin"), "{message}");
        }
    }

    #[test]
    fn failures_say_whether_a_retry_can_help() {
        let unavailable = EngineError::Unavailable { host: "unix:///x.sock".into(), reason: "refused".into() };
        let refused = EngineError::Refused { status: 500, message: "no".into() };
        let pull =
            EngineError::PullFailed { reference: "a/b:c".into(), cause: PullCause::Denied, reason: "denied".into() };
        for (error, code, retryable) in [
            (unavailable.clone().while_listing(), FailureCode::EngineUnavailable, true),
            (refused.clone().while_listing(), FailureCode::ListFailed, true),
            (refused, FailureCode::Other, false),
            (pull, FailureCode::PullFailed, true),
        ] {
            let failure = error.failure();
            assert_eq!((failure.code, failure.retryable), (code, retryable), "{error}");
        }
        assert!(unavailable.to_string().contains("unix:///x.sock"), "the message names the socket");
    }

    #[test]
    fn api_versions_compare_by_number() {
        let parse = |text: &str| text.parse::<ApiVersion>().expect(text);
        assert!(parse("1.9") < parse("1.44"));
        assert_eq!(parse("1.44"), ApiVersion::MANY_ENDPOINTS);
        assert!("1.x".parse::<ApiVersion>().is_err());
    }
}

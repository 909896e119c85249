//! The container engine as the rest of the host sees it: what it can be asked, and how it fails.
//! Inspections and creations are raw JSON, so that a field this program does not know survives a
//! replacement. Knows no adapter, takes no decision, and keeps nothing between calls.

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

/// A container engine. Every method may be called at any time, also while the engine is away:
/// it then answers [`EngineError::Unavailable`], and works again as soon as the engine is back.
#[async_trait]
pub trait Engine: Send + Sync + fmt::Debug {
    /// The address that the engine is reached at, as in `DOCKER_HOST`.
    fn address(&self) -> &str;

    /// What kind of engine it is.
    async fn facts(&self) -> Result<EngineFacts, EngineError>;

    /// Whether the engine is a node of a swarm, where names of running containers are better left alone. Calls
    /// `GET /info`, which some filters in front of an engine refuse.
    async fn is_swarm(&self) -> Result<bool, EngineError>;

    /// The calls that a replacement needs and that something in front of the engine refuses. Asks in a way that changes
    /// nothing. Asks again only when `again` is set, when a call was refused, or when the engine was away.
    async fn refused_calls(&self, again: bool) -> Result<Vec<&'static Permission>, EngineError>;

    /// All containers, stopped ones too, as the engine lists them: one call, nothing completed.
    async fn list(&self) -> Result<Vec<Listed>, EngineError>;

    /// All containers that `selector` matches, stopped ones too, sorted by name. Their `image` is the
    /// reference as created. Fails only with [`EngineError::Unavailable`] and [`EngineError::ListFailed`].
    async fn containers(&self, selector: &Selector) -> Result<Vec<Container>, EngineError>;

    /// Pulls `reference` by its tag (by its digest, if it is pinned) and waits for the end.
    /// `platform` is `os/arch[/variant]`, absent: the engine's default. No deadline of its own;
    /// dropping the future abandons the pull.
    async fn pull(
        &self,
        reference: &Reference,
        platform: Option<&str>,
        credential: Option<&Credential>,
        progress: &(dyn Fn(PullProgress) + Send + Sync),
    ) -> Result<(), EngineError>;

    /// The engine's inspection of a container, by id or name.
    async fn inspect_container(&self, container: &str) -> Result<Value, EngineError>;

    /// The engine's inspection of an image, by id or reference; `None` if there is no such image.
    async fn inspect_image(&self, image: &str) -> Result<Option<Value>, EngineError>;

    /// The same as one of its platforms, `os/arch[/variant]`, has it; `None` also if the engine has no such platform of
    /// it. An engine that knows one platform of each image, or cannot be asked for one, shows the image as it is.
    async fn inspect_platform(&self, image: &str, platform: &str) -> Result<Option<Value>, EngineError>;

    /// The platform of the engine's machine, `os/arch`: what it pulls and runs where nothing else is asked for.
    async fn platform(&self) -> Result<String, EngineError>;

    /// What a container's file system has that its image has not: the engine's list of `Path` and `Kind`.
    async fn changes(&self, container: &str) -> Result<Value, EngineError>;

    /// Podman's own inspection, which knows more of how a container was made; `None` from any other engine.
    async fn inspect_libpod(&self, container: &str) -> Result<Option<Value>, EngineError>;

    /// The last lines that a container logged, oldest first; at most `lines`.
    async fn last_log(&self, container: &str, lines: u16) -> Result<Vec<String>, EngineError>;

    /// Runs `command` in a running container and returns its exit code; one that takes longer than `limit` is killed,
    /// with all that it started, and is an [`EngineError::Timeout`].
    async fn exec(&self, container: &str, command: &[&str], limit: Duration) -> Result<i64, EngineError>;

    /// Creates a container from the engine's own create body and returns its id.
    async fn create_container(&self, name: &str, body: &Value, platform: Option<&str>) -> Result<String, EngineError>;

    /// Connects a container to a network, with the engine's own endpoint settings.
    async fn connect_network(&self, network: &str, container: &str, endpoint: &Value) -> Result<(), EngineError>;

    /// Takes a container off a network.
    async fn disconnect_network(&self, network: &str, container: &str) -> Result<(), EngineError>;

    /// Gives a container another restart policy, in the engine's own words.
    async fn set_restart_policy(&self, container: &str, policy: &Value) -> Result<(), EngineError>;

    /// Starts a container; one that runs already is fine.
    async fn start(&self, container: &str) -> Result<(), EngineError>;

    /// Stops a container within the grace period it was created with; one that is stopped is fine.
    async fn stop(&self, container: &str) -> Result<(), EngineError>;

    /// Gives a container another name.
    async fn rename(&self, container: &str, name: &str) -> Result<(), EngineError>;

    /// Removes a container, never its volumes. `force` removes a running one too.
    async fn remove(&self, container: &str, force: bool) -> Result<(), EngineError>;

    /// Lets `reference`'s tag name the image of that id.
    async fn tag_image(&self, image_id: &str, reference: &Reference) -> Result<(), EngineError>;

    /// Removes an image that nothing uses; the engine refuses any other with [`EngineError::Conflict`].
    async fn remove_image(&self, image_id: &str) -> Result<(), EngineError>;
}

/// What kind of engine it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EngineFacts {
    /// The API version that calls are made with.
    pub api: ApiVersion,
    /// Podman behind Docker's API, which shows less and merges less.
    pub is_podman: bool,
}

/// A line of the engine's container list.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Listed {
    /// The full id.
    pub id: String,
    names: Option<Vec<String>>,
    /// The reference as created, or an id where its tag has moved on.
    pub image: String,
    /// The id of the image that it runs.
    #[serde(rename = "ImageID")]
    pub image_id: String,
    /// The descriptor of the manifest that it runs, in the engine's own form; null on graph drivers.
    #[serde(default)]
    pub image_manifest_descriptor: Value,
    labels: Option<BTreeMap<String, String>>,
    /// When it was created, seconds since 1970.
    #[serde(default, rename = "Created")]
    pub created_s: u64,
    /// The engine's word: `running`, `exited`, `created`, …
    pub state: String,
    /// The ports that it publishes, in the engine's own form; null where the engine lists none.
    #[serde(default)]
    pub ports: Value,
    /// Its network mode, in the engine's own form.
    #[serde(default)]
    pub host_config: Value,
    /// Its networks with its addresses, in the engine's own form.
    #[serde(default)]
    pub network_settings: Value,
    /// Its mounts, in the engine's own form.
    #[serde(default)]
    pub mounts: Value,
}

impl Listed {
    /// Its own name, without the slash; legacy links add `/other/alias` to the list.
    pub fn name(&self) -> &str {
        let names = self.names.iter().flatten().map(|name| name.strip_prefix('/').unwrap_or(name));
        names.clone().find(|name| !name.contains('/')).unwrap_or_default()
    }

    /// Its labels.
    pub fn labels(&self) -> &BTreeMap<String, String> {
        static NONE: BTreeMap<String, String> = BTreeMap::new();
        self.labels.as_ref().unwrap_or(&NONE)
    }

    /// As a policy sees it: created from `image`, of which the engine knows `facts`.
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

    /// As a policy sees it, but for the digests, and with the image as it is listed.
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
    /// 1 since ever.
    pub major: u16,
    /// What actually moves.
    pub minor: u16,
}

impl ApiVersion {
    /// From here on a container is created with all its networks, and an endpoint carries its MAC address.
    pub const MANY_ENDPOINTS: Self = Self { major: 1, minor: 44 };
    /// From here on an inspected image lists the manifests behind it.
    pub const IMAGE_MANIFESTS: Self = Self { major: 1, minor: 48 };
    /// From here on an image is inspected as one of its platforms has it.
    pub const IMAGE_PLATFORM: Self = Self { major: 1, minor: 49 };
    /// From here on an inspected image says from which repositories it was pulled.
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

/// How far a pull is; the sums grow while layers are discovered.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PullProgress {
    /// Downloaded so far, over all layers known yet.
    pub done_bytes: u64,
    /// The size of all layers known yet; 0 while nothing is known.
    pub total_bytes: u64,
    /// The engine's last word, for people.
    pub status: String,
    /// Whether the engine got or did something since its last word: data came, or a layer reached its next step.
    pub advances: bool,
}

/// Why the engine did not do it. Never holds a secret.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EngineError {
    /// No connection, or it broke off before the answer.
    #[error(
        "the container engine at {host} does not answer ({reason}); check that it runs and that this user may use it, or point DOCKER_HOST elsewhere"
    )]
    Unavailable {
        /// Its address.
        host: String,
        /// What the connection said.
        reason: String,
    },
    /// The engine's address, or what the environment says about the engine, cannot be used. Lasting.
    #[error("{0}")]
    Address(#[from] AddressError),
    /// Something between this program and the engine does not let the call pass, or the engine lets nobody make it.
    #[error(
        "{call} was refused by what is between imagewatch and the engine (status {status}); allow this call in the socket proxy, the access filter or the authorization plugin"
    )]
    Forbidden {
        /// The call, `METHOD /path`, without ids.
        call: String,
        /// The HTTP status.
        status: u16,
    },
    /// The engine knows no such container, image or network.
    #[error("{message}")]
    NotFound {
        /// The engine's words.
        message: String,
    },
    /// A name is taken, or something is in use or in progress.
    #[error("{message}")]
    Conflict {
        /// The engine's words.
        message: String,
    },
    /// Any other refusal.
    #[error("the engine refused with status {status}: {message}")]
    Refused {
        /// The HTTP status.
        status: u16,
        /// The engine's words.
        message: String,
    },
    /// The image was not pulled.
    #[error("{reference} was not pulled: {reason}")]
    PullFailed {
        /// What was to be pulled.
        reference: String,
        /// What kind of failure it is.
        cause: PullCause,
        /// The engine's words.
        reason: String,
    },
    /// The containers were not listed.
    #[error("the containers could not be listed: {reason}")]
    ListFailed {
        /// The engine's words.
        reason: String,
    },
    /// No answer in time; whether the engine did it is unknown.
    #[error("the engine did not {action} within {} s", limit.as_secs())]
    Timeout {
        /// What was asked.
        action: String,
        /// How long was waited.
        limit: Duration,
    },
    /// The answer is none that the API describes.
    #[error("the engine's answer to {action} makes no sense: {reason}")]
    BadAnswer {
        /// What was asked.
        action: String,
        /// What is wrong with it.
        reason: String,
    },
}

impl EngineError {
    /// The engine did not pull `reference` and says `reason`; `status` is that of its answer, absent where the pull failed
    /// after it had begun.
    pub fn pull_failed(reference: &Reference, status: Option<u16>, reason: String) -> Self {
        Self::PullFailed { reference: reference.to_string(), cause: pull_cause::classify(status, &reason), reason }
    }

    /// Whether there is no such thing, or no longer.
    pub fn is_gone(&self) -> bool {
        matches!(self, Self::NotFound { .. })
    }

    /// Whether the engine itself is away, so that asking for something else is of no use.
    pub fn is_unavailable(&self) -> bool {
        matches!(self, Self::Unavailable { .. })
    }

    /// The same as data, for a report or a host function's answer.
    pub fn failure(&self) -> Failure {
        let message = self.to_string();
        match self {
            Self::Unavailable { .. } => Failure::passing(FailureCode::EngineUnavailable, message),
            Self::PullFailed { cause, .. } => Failure::pull(*cause, message),
            Self::ListFailed { .. } => Failure::passing(FailureCode::ListFailed, message),
            Self::Timeout { .. } => Failure::passing(FailureCode::Timeout, message),
            Self::Address(_) => Failure::lasting(FailureCode::EngineUnavailable, message),
            Self::Forbidden { .. }
            | Self::NotFound { .. }
            | Self::Conflict { .. }
            | Self::Refused { .. }
            | Self::BadAnswer { .. } => Failure::lasting(FailureCode::Other, message),
        }
    }

    /// What a listing fails with: [`EngineError::ListFailed`], unless the engine is away.
    #[must_use]
    pub fn while_listing(self) -> Self {
        if self.is_unavailable() { self } else { Self::ListFailed { reason: self.to_string() } }
    }
}

/// Whether two references, each as somebody wrote it, name the same image: `app` is `docker.io/library/app:latest`.
pub fn names_same_image(one: &str, other: &str) -> bool {
    let parse = |text: &str| text.parse::<Reference>().ok().map(Reference::with_explicit_tag);
    one == other || parse(one).is_some_and(|one| parse(other) == Some(one))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn references_name_the_same_image_however_they_are_written() {
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
    fn f06_a_refused_call_is_named_wherever_it_shows() {
        let refused = EngineError::Forbidden { call: "POST /containers/*/update".to_owned(), status: 403 };
        for error in [refused.clone(), refused.while_listing()] {
            let message = error.failure().message;
            assert!(message.contains("POST /containers/*/update was refused by what is between"), "{message}");
        }
    }

    #[test]
    fn failures_say_whether_trying_again_helps() {
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
        assert!(unavailable.to_string().contains("unix:///x.sock"), "names the socket");
    }

    #[test]
    fn api_versions_compare_by_number() {
        let parse = |text: &str| text.parse::<ApiVersion>().expect(text);
        assert!(parse("1.9") < parse("1.44"));
        assert_eq!(parse("1.44"), ApiVersion::MANY_ENDPOINTS);
        assert!("1.x".parse::<ApiVersion>().is_err());
    }
}

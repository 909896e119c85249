//! The real engine of the tests, and the scope that keeps tests apart on it. All calls go directly to the engine, never
//! through a proxy. They change nothing outside the scope.

mod cleaning;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::thread;
use std::time::Duration;

use bollard::Docker;
use bollard::auth::DockerCredentials;
use bollard::errors::Error;
use bollard::exec::StartExecResults;
use bollard::models::{
    ContainerCreateBody, ContainerInspectResponse, EndpointSettings, ExecConfig, HealthConfig, HostConfig,
    ImageInspect, Ipam, IpamConfig, NetworkConnectRequest, NetworkCreateRequest, NetworkingConfig, PortBinding,
    RestartPolicy,
};
use bollard::query_parameters::{CreateContainerOptionsBuilder, CreateImageOptionsBuilder, LogsOptionsBuilder};
use futures_util::TryStreamExt;
use imagewatch_abi::Digest;
use tokio::time::sleep;

use self::cleaning::{clean_all, remove_container, scope_containers, scope_references};
use crate::components;
use crate::unique::{random_bytes, random_hex};

const SCOPE_LABEL: &str = "imagewatch-tests.scope";

/// A connection to the engine at `DOCKER_HOST`, or to a private engine of one test.
#[derive(Debug, Clone)]
pub struct TestEngine {
    docker: Docker,
    host: String,
    has_containerd_store: bool,
}

impl TestEngine {
    /// Connects to the engine at `DOCKER_HOST`. Panics unless the engine answers.
    pub async fn connect() -> Self {
        Self::connect_to(components::docker_host()).await
    }

    /// Connects to the engine at `host`. Panics unless the engine answers.
    pub async fn connect_to(host: String) -> Self {
        let docker = connect_to(&host);
        let answer = docker.ping().await;
        answer.unwrap_or_else(|error| panic!("no engine answers at {host}: {error}; run `cargo xtask test`"));
        let info = docker.info().await.unwrap_or_else(|error| panic!("{host} does not describe itself: {error}"));
        let status = info.driver_status.unwrap_or_default();
        let has_containerd_store = status.iter().flatten().any(|text| text.starts_with("io.containerd.snapshotter"));
        Self { docker, host, has_containerd_store }
    }

    /// The Docker client, for calls that this library does not wrap.
    pub fn docker(&self) -> &Docker {
        &self.docker
    }

    /// Whether the engine keeps images in the containerd image store. With this store, an image id is the digest of an
    /// index or a manifest, and an image keeps its repository digest only while it has a name. Before API 1.55, the
    /// engine does not report where an image came from.
    pub fn has_containerd_store(&self) -> bool {
        self.has_containerd_store
    }

    /// Whether a create call accepts all networks of a container, so that none has to be connected afterwards (API
    /// 1.44).
    pub async fn creates_with_all_networks(&self) -> bool {
        let version =
            self.docker.version().await.unwrap_or_else(|error| panic!("no version of {}: {error}", self.host));
        let minor = version.api_version.as_deref().and_then(|version| version.strip_prefix("1.")?.parse::<u32>().ok());
        minor.is_none_or(|minor| minor >= 44)
    }

    /// The value of the config key `unknown_origin` with which imagewatch updates the containers of a test. The tests
    /// pull images themselves, and the containerd store does not report a pull before API 1.55.
    pub fn unknown_origin(&self) -> &'static str {
        if self.has_containerd_store { "ask" } else { "hold" }
    }

    /// The engine's address, in the format of `DOCKER_HOST`, for the program under test.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// Inspects an image. The containerd store fails to read an image while a pull moves its tag, so the call is
    /// repeated.
    async fn inspect_image(&self, image: &str) -> Result<ImageInspect, Error> {
        loop {
            match self.docker.inspect_image(image).await {
                Err(Error::DockerResponseServerError { status_code: 500, message })
                    if message.contains("data changed during operation") =>
                {
                    sleep(Duration::from_millis(50)).await;
                }
                answer => return answer,
            }
        }
    }

    /// Creates a new scope on this engine.
    pub fn scope(&self) -> Scope {
        Scope { engine: self.clone(), prefix: format!("iw-{}", random_hex()) }
    }
}

/// The part of the engine that belongs to one test. It contains everything named by [`name`](Self::name), every
/// container started by [`run`](Self::run), and every container created from one of those. Dropping the scope removes
/// all of it, whether the test passed or not. Create the scope before the program under test starts, so that the
/// program stops first.
#[derive(Debug)]
pub struct Scope {
    engine: TestEngine,
    prefix: String,
}

/// How to create and start a container.
#[derive(Debug, Clone, Default)]
pub struct RunSpec {
    /// The full name, from [`Scope::name`].
    pub name: String,
    /// The image reference. The image is pulled if the engine does not have it.
    pub image: String,
    /// The labels.
    pub labels: BTreeMap<String, String>,
    /// Replaces the image's `Cmd`.
    pub cmd: Option<Vec<String>>,
    /// Environment variables, as `NAME=value`.
    pub env: Vec<String>,
    /// Ports of the container. Each one is published on a loopback port that the engine chooses.
    pub ports: Vec<u16>,
    /// Ports of the container, each with the loopback port on which it is published. A replacement keeps this port.
    pub fixed_ports: BTreeMap<u16, u16>,
    /// Volumes, as `name:/path`. The name comes from [`Scope::name`].
    pub volumes: Vec<String>,
    /// The network to join, from [`Scope::create_network`], or `container:NAME`. `None` is the default bridge.
    pub network: Option<String>,
    /// Additional names in that network.
    pub aliases: Vec<String>,
    /// Additional networks to join before the start.
    pub more_networks: Vec<String>,
    /// The name of the restart policy. `None` is the engine's default, `no`.
    pub restart_policy: Option<String>,
    /// Replaces the image's health check, completely or field by field.
    pub health: Option<HealthConfig>,
    /// How long a stop waits before the engine kills the container. `None` is the engine's default of 10 s.
    pub stop_timeout_s: Option<i64>,
    /// The platform, as `os/arch`, like `docker run --platform`. If it is set, the image is always pulled for it.
    pub platform: Option<String>,
    /// All other host settings.
    pub host: HostConfig,
}

/// The current state of a container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ContainerNow {
    /// The container's id.
    pub id: String,
    /// The image reference that the container was created from.
    pub image: String,
    /// The id of the image that the container runs.
    pub image_id: String,
    /// The repository digests of that image. In the containerd store also the image's id, which stays the same when a
    /// pull moves the tag.
    pub digests: Vec<Digest>,
    /// Whether the container's process runs.
    pub is_running: bool,
    /// When the container was last started, in UTC. The text can be compared.
    pub started_at: String,
    /// The name of the restart policy, such as `no` or `always`.
    pub restart_policy: String,
    /// The published `host:port` of each container port.
    pub published: BTreeMap<u16, String>,
    /// The labels.
    pub labels: BTreeMap<String, String>,
}

impl Scope {
    /// Returns `iw-<8 hex digits>-<role>`. It is valid as the name of a container, network or repository, and as an
    /// image version.
    pub fn name(&self, role: &str) -> String {
        format!("{}-{role}", self.prefix)
    }

    /// Options for a command line that creates a container. They put the container into this scope.
    pub fn label_option(&self) -> [String; 2] {
        ["--label".to_owned(), format!("{SCOPE_LABEL}={}", self.prefix)]
    }

    /// The engine of this scope.
    pub fn engine(&self) -> &TestEngine {
        &self.engine
    }

    /// Creates and starts a container from `spec` and returns its id. If the registry needs credentials, call
    /// [`pull`](Self::pull) first.
    pub async fn run(&self, spec: &RunSpec) -> String {
        let mut options = CreateContainerOptionsBuilder::new().name(&spec.name);
        if let Some(platform) = &spec.platform {
            self.pull_for(&spec.image, platform).await;
            options = options.platform(platform);
        } else if self.engine.docker.inspect_image(&spec.image).await.is_err() {
            self.pull(&spec.image, None).await;
        }
        let options = options.build();
        let created = self.engine.docker.create_container(Some(options), self.build_body(spec)).await;
        let id = created.unwrap_or_else(|error| panic!("failed to create {}: {error}", spec.name)).id;
        for network in &spec.more_networks {
            let request = NetworkConnectRequest { container: id.clone(), ..NetworkConnectRequest::default() };
            let connected = self.engine.docker.connect_network(network, request).await;
            connected.unwrap_or_else(|error| panic!("failed to connect {} to {network}: {error}", spec.name));
        }
        let started = self.engine.docker.start_container(&id, None).await;
        started.unwrap_or_else(|error| panic!("failed to start {}: {error}", spec.name));
        id
    }

    fn build_body(&self, spec: &RunSpec) -> ContainerCreateBody {
        let anywhere = spec.ports.iter().map(|port| (port, String::new()));
        let fixed = spec.fixed_ports.iter().map(|(port, host_port)| (port, host_port.to_string()));
        let bind = |host_port| vec![PortBinding { host_ip: Some("127.0.0.1".to_owned()), host_port: Some(host_port) }];
        let ports: HashMap<_, _> =
            anywhere.chain(fixed).map(|(port, host_port)| (format!("{port}/tcp"), Some(bind(host_port)))).collect();
        let endpoint = EndpointSettings { aliases: Some(spec.aliases.clone()), ..EndpointSettings::default() };
        let own = spec.network.iter().filter(|network| !network.starts_with("container:"));
        let endpoints = own.map(|network| (network.clone(), endpoint.clone())).collect();
        let restart_policy = spec.restart_policy.as_ref().map(|name| RestartPolicy {
            name: Some(name.parse().unwrap_or_else(|error| panic!("{name} is not a restart policy: {error}"))),
            maximum_retry_count: None,
        });
        let scope_label = (SCOPE_LABEL.to_owned(), self.prefix.clone());
        ContainerCreateBody {
            image: Some(spec.image.clone()),
            labels: Some(spec.labels.clone().into_iter().chain([scope_label]).collect()),
            cmd: spec.cmd.clone(),
            env: Some(spec.env.clone()),
            exposed_ports: Some(ports.keys().cloned().collect()),
            stop_timeout: spec.stop_timeout_s,
            healthcheck: spec.health.clone(),
            host_config: Some(HostConfig {
                port_bindings: Some(ports),
                binds: Some(spec.volumes.clone()),
                network_mode: spec.network.clone(),
                restart_policy: restart_policy.or_else(|| spec.host.restart_policy.clone()),
                ..spec.host.clone()
            }),
            networking_config: Some(NetworkingConfig { endpoints_config: Some(endpoints) }),
            ..ContainerCreateBody::default()
        }
    }

    /// Pulls `reference`. `login` is the user and the password, if the registry needs them.
    pub async fn pull(&self, reference: &str, login: Option<(&str, &str)>) {
        let pulled = self.try_pull(reference, login).await;
        pulled.unwrap_or_else(|error| panic!("failed to pull {reference}: {error}"));
    }

    /// Pulls `reference` for `platform`, which is `os/arch`.
    pub async fn pull_for(&self, reference: &str, platform: &str) {
        let options = CreateImageOptionsBuilder::new().from_image(reference).platform(platform).build();
        let pulled = self.engine.docker.create_image(Some(options), None, None).try_for_each(async |_| Ok(())).await;
        pulled.unwrap_or_else(|error| panic!("failed to pull {reference} for {platform}: {error}"));
    }

    /// Pulls `reference` like [`pull`](Self::pull), but returns an error when the registry or the engine refuses.
    pub async fn try_pull(&self, reference: &str, login: Option<(&str, &str)>) -> Result<(), Error> {
        let options = CreateImageOptionsBuilder::new().from_image(reference).build();
        let credentials = login.map(|(user, password)| DockerCredentials {
            username: Some(user.to_owned()),
            password: Some(password.to_owned()),
            serveraddress: reference.split('/').next().map(str::to_owned),
            ..DockerCredentials::default()
        });
        // The stream reports errors. If it is dropped, the engine stops the pull.
        self.engine.docker.create_image(Some(options), None, credentials).try_for_each(async |_| Ok(())).await
    }

    /// Inspects the container with this name or id. Returns `None` if it does not exist.
    pub async fn inspect(&self, container: &str) -> Option<ContainerNow> {
        let found = absent_as_none(self.engine.docker.inspect_container(container, None).await)?;
        // The image can be removed while its container exists. The container then has no digests.
        let image_id = found.image.clone().unwrap_or_default();
        let image = absent_as_none(self.engine.inspect_image(&image_id).await);
        let own_digest = self.engine.has_containerd_store.then(|| image_id.parse().ok()).flatten();
        Some(read_container(found, image, own_digest))
    }

    /// Runs `command` in a running container and returns its output.
    pub async fn exec(&self, container: &str, command: &[&str]) -> String {
        let config = ExecConfig {
            cmd: Some(command.iter().map(|part| (*part).to_owned()).collect()),
            attach_stdout: Some(true),
            attach_stderr: Some(true),
            ..ExecConfig::default()
        };
        let output = exec(&self.engine.docker, container, config).await;
        output.unwrap_or_else(|error| panic!("failed to run {command:?} in {container}: {error}"))
    }

    /// Returns all lines that a container has written so far.
    pub async fn log(&self, container: &str) -> Vec<String> {
        let options = LogsOptionsBuilder::new().stdout(true).stderr(true).build();
        let output = self.engine.docker.logs(container, Some(options));
        let text = output.try_fold(String::new(), async |text, part| Ok(text + &part.to_string())).await;
        let text = text.unwrap_or_else(|error| panic!("failed to read the log of {container}: {error}"));
        text.lines().map(str::to_owned).collect()
    }

    /// Creates a bridge network. `name` comes from [`name`](Self::name).
    pub async fn create_network(&self, name: &str) {
        let request = NetworkCreateRequest { name: name.to_owned(), ..NetworkCreateRequest::default() };
        let created = self.engine.docker.create_network(request).await;
        created.unwrap_or_else(|error| panic!("failed to create network {name}: {error}"));
    }

    /// Creates a bridge network with 16 addresses that no other network uses. The engine's own address pools are small.
    pub async fn create_small_network(&self, name: &str) {
        loop {
            // 198.18.0.0/15 is reserved for network tests (RFC 2544), so no route of this machine leads there.
            let [high, low] = random_bytes();
            let subnet = format!("198.{}.{high}.{}/28", 18 + (low & 1), low & 0xf0);
            let config = vec![IpamConfig { subnet: Some(subnet), ..IpamConfig::default() }];
            let ipam = Some(Ipam { config: Some(config), ..Ipam::default() });
            let request = NetworkCreateRequest { name: name.to_owned(), ipam, ..NetworkCreateRequest::default() };
            match self.engine.docker.create_network(request).await {
                Err(error) if error.to_string().contains("overlaps") => {}
                Err(error) => panic!("failed to create network {name}: {error}"),
                Ok(_) => return,
            }
        }
    }

    /// Removes an unused network. If the engine refuses, the end of the scope tries again.
    pub async fn remove_network(&self, name: &str) {
        match self.engine.docker.remove_network(name).await {
            Ok(()) | Err(Error::DockerResponseServerError { status_code: 403 | 404, .. }) => {}
            Err(error) => panic!("failed to remove network {name}: {error}"),
        }
    }

    /// Removes a container, running or not, with its anonymous volumes. Does nothing if the container does not exist.
    pub async fn remove_container(&self, container: &str) {
        remove_container(&self.engine.docker, container).await.unwrap_or_else(|error| panic!("{error}"));
    }

    /// The names of the scope's containers, running or not, sorted, without the `/`.
    pub async fn containers(&self) -> Vec<String> {
        let names = scope_containers(&self.engine.docker, &self.prefix).await.unwrap_or_else(|error| panic!("{error}"));
        names.into_values().collect()
    }

    /// The tags and digests under which the engine knows the scope's images, sorted.
    pub async fn image_references(&self) -> Vec<String> {
        scope_references(&self.engine.docker, &self.prefix).await.unwrap_or_else(|error| panic!("{error}"))
    }
}

impl Drop for Scope {
    fn drop(&mut self) {
        let (host, prefix) = (self.engine.host.clone(), self.prefix.clone());
        // The cleaning needs its own thread, runtime and connection, because those of the test may be shutting down.
        let cleaning = thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            runtime.expect("a thread can have a runtime").block_on(clean_all(&connect_to(&host), &prefix))
        });
        let result = cleaning.join().expect("cleaning returns its errors");
        // A second panic would abort the test binary and hide the first reason.
        if !thread::panicking() {
            result.unwrap_or_else(|error| panic!("failed to clean up after scope {}: {error}", self.prefix));
        }
    }
}

async fn exec(docker: &Docker, container: &str, config: ExecConfig) -> Result<String, Error> {
    let exec = docker.create_exec(container, config).await?;
    match docker.start_exec(&exec.id, None).await? {
        StartExecResults::Attached { output, .. } => {
            output.try_fold(String::new(), async |text, line| Ok(text + &line.to_string())).await
        }
        StartExecResults::Detached => unreachable!("the exec is always attached"),
    }
}

fn read_container(
    found: ContainerInspectResponse,
    image: Option<ImageInspect>,
    own_digest: Option<Digest>,
) -> ContainerNow {
    let config = found.config.unwrap_or_default();
    let repo_digests = image.and_then(|image| image.repo_digests).unwrap_or_default();
    let known = repo_digests.iter().filter_map(|name| name.split_once('@')?.1.parse().ok());
    let digests: BTreeSet<Digest> = known.chain(own_digest).collect();
    let ports = found.network_settings.and_then(|settings| settings.ports).unwrap_or_default();
    let state = found.state.unwrap_or_default();
    let policy = found.host_config.and_then(|host| host.restart_policy?.name);
    ContainerNow {
        id: found.id.unwrap_or_default(),
        image: config.image.unwrap_or_default(),
        image_id: found.image.unwrap_or_default(),
        digests: digests.into_iter().collect(),
        is_running: state.running.unwrap_or_default(),
        // The number of fraction digits varies. A trailing letter would sort after any digit, so it is removed.
        started_at: state.started_at.unwrap_or_default().trim_end_matches('Z').to_owned(),
        restart_policy: policy.map(|name| name.to_string()).unwrap_or_default(),
        published: read_ports(ports),
        labels: config.labels.unwrap_or_default().into_iter().collect(),
    }
}

fn read_ports(ports: HashMap<String, Option<Vec<PortBinding>>>) -> BTreeMap<u16, String> {
    let published = ports.into_iter().filter_map(|(port, bindings)| {
        let binding = bindings?.into_iter().next()?;
        let inner = port.split('/').next()?.parse().ok()?;
        Some((inner, format!("{}:{}", binding.host_ip?, binding.host_port?)))
    });
    published.collect()
}

fn connect_to(host: &str) -> Docker {
    Docker::connect_with_host(host)
        .unwrap_or_else(|error| panic!("DOCKER_HOST={host} is not the address of an engine: {error}"))
}

fn is_absent(error: &Error) -> bool {
    matches!(error, Error::DockerResponseServerError { status_code: 404, .. })
}

fn absent_as_none<T>(result: Result<T, Error>) -> Option<T> {
    match result {
        Ok(value) => Some(value),
        Err(error) if is_absent(&error) => None,
        Err(error) => panic!("the engine returned an error: {error}"),
    }
}

fn ignore_absent<T>(result: Result<T, Error>) -> Result<(), Error> {
    match result {
        Err(error) if !is_absent(&error) => Err(error),
        _ => Ok(()),
    }
}

//! The real engine of the tests, and the scope that keeps tests apart on it.
//! Always talks to the engine itself, never through a proxy, and touches nothing outside its scope.

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

/// The engine that `DOCKER_HOST` names, or one of the test's own.
#[derive(Debug, Clone)]
pub struct TestEngine {
    docker: Docker,
    host: String,
    has_containerd_store: bool,
}

impl TestEngine {
    /// Connects, and makes sure that somebody answers.
    pub async fn connect() -> Self {
        Self::connect_to(components::docker_host()).await
    }

    /// The engine at another address than `DOCKER_HOST`.
    pub async fn connect_to(host: String) -> Self {
        let docker = connect_to(&host);
        let answer = docker.ping().await;
        answer.unwrap_or_else(|error| panic!("no engine answers at {host}: {error}; run `cargo xtask test`"));
        let info = docker.info().await.unwrap_or_else(|error| panic!("{host} does not describe itself: {error}"));
        let status = info.driver_status.unwrap_or_default();
        let has_containerd_store = status.iter().flatten().any(|text| text.starts_with("io.containerd.snapshotter"));
        Self { docker, host, has_containerd_store }
    }

    /// For everything that this library has no word for.
    pub fn docker(&self) -> &Docker {
        &self.docker
    }

    /// Whether it keeps images in the containerd image store: an id is then a digest, of an index or a manifest, an image
    /// keeps its repository digest only as long as it has a name, and before API 1.55 nothing says where it came from.
    pub fn has_containerd_store(&self) -> bool {
        self.has_containerd_store
    }

    /// Whether a create call takes all networks of a container, so that none is connected afterwards (API 1.44).
    pub async fn creates_with_all_networks(&self) -> bool {
        let version =
            self.docker.version().await.unwrap_or_else(|error| panic!("no version of {}: {error}", self.host));
        let minor = version.api_version.as_deref().and_then(|version| version.strip_prefix("1.")?.parse::<u32>().ok());
        minor.is_none_or(|minor| minor >= 44)
    }

    /// The value of config key `unknown_origin` with which containers that a test starts are updated. The tests pull
    /// images themselves, and the containerd store does not report a pull before API 1.55.
    pub fn unknown_origin(&self) -> &'static str {
        if self.has_containerd_store { "ask" } else { "hold" }
    }

    /// As `DOCKER_HOST` has it, for the program under test.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// An image. The containerd store fails to read one while a pull moves its tag, and asks for a repetition.
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

    /// A new scope.
    pub fn scope(&self) -> Scope {
        Scope { engine: self.clone(), prefix: format!("iw-{}", random_hex()) }
    }
}

/// One test's part of the engine: everything named by [`name`](Self::name), and every container started by
/// [`run`](Self::run) or made from one of those. Dropping it removes all of that, whether the test passed or not.
/// Make it before the program under test is started, so that the program is stopped first.
#[derive(Debug)]
pub struct Scope {
    engine: TestEngine,
    prefix: String,
}

/// A container to run.
#[derive(Debug, Clone, Default)]
pub struct RunSpec {
    /// Its full name, from [`Scope::name`].
    pub name: String,
    /// The image reference, pulled if the engine lacks it.
    pub image: String,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// Replaces the image's `Cmd`.
    pub cmd: Option<Vec<String>>,
    /// `Env`, as `NAME=value`.
    pub env: Vec<String>,
    /// Ports within the container; each is published on a loopback port that the engine chooses.
    pub ports: Vec<u16>,
    /// Ports within the container, and the loopback port on which each is published: one that a replacement keeps.
    pub fixed_ports: BTreeMap<u16, u16>,
    /// Volumes, as `name:/path`; the name comes from [`Scope::name`].
    pub volumes: Vec<String>,
    /// The network to join, from [`Scope::create_network`], or `container:NAME`; `None` is the default bridge.
    pub network: Option<String>,
    /// Further names in that network.
    pub aliases: Vec<String>,
    /// Networks to join besides, before the start.
    pub more_networks: Vec<String>,
    /// The restart policy's name; `None` is the engine's `no`.
    pub restart_policy: Option<String>,
    /// Replaces the image's health check, wholly or in part.
    pub health: Option<HealthConfig>,
    /// How long a stop waits before it kills; `None` is the engine's ten seconds.
    pub stop_timeout_s: Option<i64>,
    /// The platform to create it for, as `os/arch`, as with `docker run --platform`; the image is always pulled for it.
    pub platform: Option<String>,
    /// What the fields above have no word for.
    pub host: HostConfig,
}

/// A container as it is now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ContainerNow {
    /// The container's id.
    pub id: String,
    /// The reference that it was created from.
    pub image: String,
    /// The id of the image that it runs.
    pub image_id: String,
    /// The digests of that image: those under which the engine knows it, and in the containerd store its id, which
    /// remains when a pull moves the image's tag.
    pub digests: Vec<Digest>,
    /// Whether its process runs.
    pub is_running: bool,
    /// When it was last started, in UTC; comparable as text.
    pub started_at: String,
    /// `no`, `always` and so on.
    pub restart_policy: String,
    /// `host:port` by port within the container.
    pub published: BTreeMap<u16, String>,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
}

impl Scope {
    /// `iw-<8 hex>-<role>`: good as the name of a container, a network, a repository or an image's version.
    pub fn name(&self, role: &str) -> String {
        format!("{}-{role}", self.prefix)
    }

    /// For a container that is made by a command line: how it is told that it belongs to the scope.
    pub fn label_option(&self) -> [String; 2] {
        ["--label".to_owned(), format!("{SCOPE_LABEL}={}", self.prefix)]
    }

    /// The engine.
    pub fn engine(&self) -> &TestEngine {
        &self.engine
    }

    /// Runs `spec` and returns the container's id. A registry that wants credentials needs a [`pull`](Self::pull) first.
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
            name: Some(name.parse().unwrap_or_else(|error| panic!("{name} is no restart policy: {error}"))),
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

    /// Pulls `reference`, with a user and a password where the registry wants them.
    pub async fn pull(&self, reference: &str, login: Option<(&str, &str)>) {
        let pulled = self.try_pull(reference, login).await;
        pulled.unwrap_or_else(|error| panic!("failed to pull {reference}: {error}"));
    }

    /// Pulls `reference` for `platform`, `os/arch`.
    pub async fn pull_for(&self, reference: &str, platform: &str) {
        let options = CreateImageOptionsBuilder::new().from_image(reference).platform(platform).build();
        let pulled = self.engine.docker.create_image(Some(options), None, None).try_for_each(async |_| Ok(())).await;
        pulled.unwrap_or_else(|error| panic!("failed to pull {reference} for {platform}: {error}"));
    }

    /// As [`pull`](Self::pull), for a registry that may refuse.
    pub async fn try_pull(&self, reference: &str, login: Option<(&str, &str)>) -> Result<(), Error> {
        let options = CreateImageOptionsBuilder::new().from_image(reference).build();
        let credentials = login.map(|(user, password)| DockerCredentials {
            username: Some(user.to_owned()),
            password: Some(password.to_owned()),
            serveraddress: reference.split('/').next().map(str::to_owned),
            ..DockerCredentials::default()
        });
        // The stream holds the errors, and the engine stops pulling when it is dropped.
        self.engine.docker.create_image(Some(options), None, credentials).try_for_each(async |_| Ok(())).await
    }

    /// The container of that name or id, or `None` if there is none.
    pub async fn inspect(&self, container: &str) -> Option<ContainerNow> {
        let found = absent_as_none(self.engine.docker.inspect_container(container, None).await)?;
        // An image can be gone while its container is not: then it has no digests.
        let image_id = found.image.clone().unwrap_or_default();
        let image = absent_as_none(self.engine.inspect_image(&image_id).await);
        let own_digest = self.engine.has_containerd_store.then(|| image_id.parse().ok()).flatten();
        Some(read_container(found, image, own_digest))
    }

    /// Runs `command` in a running container and returns what it wrote.
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

    /// All lines that a container has written so far.
    pub async fn log(&self, container: &str) -> Vec<String> {
        let options = LogsOptionsBuilder::new().stdout(true).stderr(true).build();
        let output = self.engine.docker.logs(container, Some(options));
        let text = output.try_fold(String::new(), async |text, part| Ok(text + &part.to_string())).await;
        let text = text.unwrap_or_else(|error| panic!("failed to read the log of {container}: {error}"));
        text.lines().map(str::to_owned).collect()
    }

    /// Makes a bridge network; `name` comes from [`name`](Self::name).
    pub async fn create_network(&self, name: &str) {
        let request = NetworkCreateRequest { name: name.to_owned(), ..NetworkCreateRequest::default() };
        let created = self.engine.docker.create_network(request).await;
        created.unwrap_or_else(|error| panic!("failed to create network {name}: {error}"));
    }

    /// The same, of sixteen addresses that nobody else has: the engine's own pools are few.
    pub async fn create_small_network(&self, name: &str) {
        loop {
            // 198.18.0.0/15 is for tests of networks (RFC 2544), so that no route of this machine leads there.
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

    /// Removes a network that nobody uses any more. Where the engine does not let go of it, the scope's end tries again.
    pub async fn remove_network(&self, name: &str) {
        match self.engine.docker.remove_network(name).await {
            Ok(()) | Err(Error::DockerResponseServerError { status_code: 403 | 404, .. }) => {}
            Err(error) => panic!("failed to remove network {name}: {error}"),
        }
    }

    /// Removes a container with its anonymous volumes, running or not; none of that name is fine.
    pub async fn remove_container(&self, container: &str) {
        remove_container(&self.engine.docker, container).await.unwrap_or_else(|error| panic!("{error}"));
    }

    /// The names of the scope's containers, running or not, sorted, without the `/`.
    pub async fn containers(&self) -> Vec<String> {
        let names = scope_containers(&self.engine.docker, &self.prefix).await.unwrap_or_else(|error| panic!("{error}"));
        names.into_values().collect()
    }

    /// The references, tags and digests, by which the engine knows the scope's images, sorted.
    pub async fn image_references(&self) -> Vec<String> {
        scope_references(&self.engine.docker, &self.prefix).await.unwrap_or_else(|error| panic!("{error}"))
    }
}

impl Drop for Scope {
    fn drop(&mut self) {
        let (host, prefix) = (self.engine.host.clone(), self.prefix.clone());
        // Its own thread, runtime and connection: those of the test may be going down.
        let cleaning = thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            runtime.expect("a thread can have a runtime").block_on(clean_all(&connect_to(&host), &prefix))
        });
        let result = cleaning.join().expect("cleaning returns its errors");
        // Panicking twice would abort the test binary and hide the first reason.
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
        StartExecResults::Detached => unreachable!("only asked for attached"),
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
        // Its fraction has as many digits as it needs, and the letter behind would go after any digit.
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
    Docker::connect_with_host(host).unwrap_or_else(|error| panic!("DOCKER_HOST={host} is no engine's address: {error}"))
}

fn is_absent(error: &Error) -> bool {
    matches!(error, Error::DockerResponseServerError { status_code: 404, .. })
}

fn absent_as_none<T>(result: Result<T, Error>) -> Option<T> {
    match result {
        Ok(value) => Some(value),
        Err(error) if is_absent(&error) => None,
        Err(error) => panic!("the engine failed: {error}"),
    }
}

fn ignore_absent<T>(result: Result<T, Error>) -> Result<(), Error> {
    match result {
        Err(error) if !is_absent(&error) => Err(error),
        _ => Ok(()),
    }
}

//! Wiring: the only module that imports all the others. Loads manifests over shared adapters and
//! starts what a command needs. Prints nothing and never exits.

mod control;
mod oneshot;
mod quarantine;
mod state_folder;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use secrecy::SecretString;
use thiserror::Error;
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use crate::admin::{self, AdminError};
use crate::cli::Listen;
use crate::credentials::env::{CredentialEnvError, parse_credentials};
use crate::effects::{Adapters, ManifestEffects};
use crate::engine::EngineError;
use crate::engine::docker::DockerEngine;
use crate::exit_code::Exit;
use crate::http::client::{DEFAULT_CONNECTIONS_PER_HOST, HttpClient, HttpClientError};
use crate::http::egress::EgressRules;
use crate::orders::{OrderContext, ProgressObserver};
use crate::plugin::{LoadedPlugin, PluginError, PluginManifest, load};
use crate::replace::handover::{other_updater, own_container_id};
use crate::replace::journal::Journal;
use crate::replace::{ReplaceError, Replacer};
use crate::session::Session;
use crate::state_dir::{self, RunLock, StateDirError};
use crate::store::{Store, StoreError};
use crate::watch::{SHUTDOWN_GRACE, Status, Watch};

pub use oneshot::{Checked, Refreshed};
pub use quarantine::{Barred, clear_quarantine, list_quarantine};
pub use state_folder::StateFolder;

use control::{Handles, ManifestHandle};

/// The manifest that is used when none is named; its module is the one built in.
const DEFAULT_MANIFEST: &str = include_str!("../../manifests/generic.json");

/// The journal of replacements in the state folder.
const JOURNAL: &str = "journal";

/// How long an engine may take to show whether another updater runs.
const LOOK_AROUND: Duration = Duration::from_secs(5);

/// Requests that wait for a busy actor.
const REQUEST_QUEUE: usize = 64;

/// Why a command came to nothing.
#[derive(Debug, Error)]
pub enum AppError {
    /// A manifest or its policy.
    #[error(transparent)]
    Plugin(#[from] PluginError),
    /// Another updater runs on the engine.
    #[error(
        "work on this engine: the updater in container {0} does so already; stop that one, ask it instead, or take its label imagewatch.updater away"
    )]
    OtherUpdater(String),
    /// Two manifests with one name.
    #[error("load manifest {0}: another one has the same file name; rename one of them")]
    SameName(String),
    /// A credential variable.
    #[error(transparent)]
    Credential(#[from] CredentialEnvError),
    /// The HTTP client.
    #[error(transparent)]
    Http(#[from] HttpClientError),
    /// The engine's address, or the engine.
    #[error("use the container engine: {0}")]
    Engine(#[from] EngineError),
    /// The admin API.
    #[error(transparent)]
    Admin(#[from] AdminError),
    /// The state folder.
    #[error(transparent)]
    StateDir(#[from] StateDirError),
    /// A helper's errand.
    #[error("replace the updater: {0}")]
    Errand(#[from] ReplaceError),
    /// The store in it.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// There is nothing to clear.
    #[error("clear {target}: it is not in quarantine{under}; in quarantine: {known}")]
    NotBarred {
        /// What was asked for.
        target: String,
        /// Where it was looked for, unless everywhere.
        under: String,
        /// What could have been asked for.
        known: String,
    },
}

impl AppError {
    /// The exit code that goes with it.
    pub fn exit(&self) -> Exit {
        match self {
            Self::Plugin(PluginError::Manifest(_)) | Self::SameName(_) | Self::Credential(_) | Self::Http(_) => {
                Exit::Config
            }
            Self::Plugin(_) => Exit::Policy,
            Self::Engine(EngineError::UnsupportedHost { .. }) => Exit::Config,
            Self::Engine(_) => Exit::Engine,
            Self::Admin(_) => Exit::Admin,
            Self::StateDir(StateDirError::Taken { .. }) | Self::OtherUpdater(_) => Exit::AlreadyRuns,
            Self::StateDir(_) | Self::Store(_) => Exit::Config,
            Self::NotBarred { .. } | Self::Errand(_) => Exit::Incomplete,
        }
    }
}

/// Loaded manifests over shared adapters.
#[derive(Debug)]
pub struct App {
    adapters: Adapters,
    /// The state folder.
    state_dir: PathBuf,
    replacer: Arc<Replacer>,
    ready: Vec<Ready>,
    /// Manifests that cannot be used; the others go on.
    faults: Vec<(String, AppError)>,
}

/// What a program that watches has to itself: the state folder, and the admin API's address.
type Held = (RunLock, Option<TcpListener>);

/// Does the errand of the helper that this program runs in, if it runs in one; whether it did. Needs no manifest, since
/// none may be left that can be read by the time that a helper is started again.
///
/// # Errors
/// The engine cannot be used, or the errand is not over yet; to be begun again.
pub async fn run_errand(
    docker_host: Option<&str>,
    state: &StateFolder,
    cancel: &CancellationToken,
) -> Result<bool, AppError> {
    let engine = Arc::new(DockerEngine::connect(docker_host)?);
    let replacer = build_replacer(engine, &state.path, state.store.clone());
    match cancel.run_until_cancelled(replacer.run_errand()).await {
        Some(ended) => Ok(ended?),
        None => Err(ReplaceError::interrupted().into()),
    }
}

fn build_replacer(engine: Arc<DockerEngine>, state_dir: &Path, store: Arc<Store>) -> Replacer {
    Replacer::new(engine, Journal::new(state_dir.join(JOURNAL)), store, own_container_id())
}

/// A manifest that can be used.
#[derive(Debug)]
struct Ready {
    manifest: Arc<PluginManifest>,
    plugin: Arc<LoadedPlugin>,
    rules: EgressRules,
}

impl App {
    /// Loads `manifests`, or the built-in one, side by side, over the store in `state`. The environment
    /// gives credentials and the variables of manifests.
    ///
    /// # Errors
    /// When nothing can be loaded at all: the first reason.
    pub async fn load(
        manifests: &[PathBuf],
        docker_host: Option<&str>,
        state: StateFolder,
        cancel: CancellationToken,
    ) -> Result<Self, AppError> {
        let credentials = parse_credentials(environment())?;
        let engine = Arc::new(DockerEngine::connect(docker_host)?);
        info!(version = env!("CARGO_PKG_VERSION"), engine = engine.host(), "imagewatch starts");
        let adapters = Adapters {
            engine: engine.clone(),
            http: Arc::new(HttpClient::new(DEFAULT_CONNECTIONS_PER_HOST)?),
            credentials: Arc::new(credentials),
            store: state.store,
            cancel,
        };
        let sources: Vec<Option<PathBuf>> =
            if manifests.is_empty() { vec![None] } else { manifests.iter().cloned().map(Some).collect() };
        let loads = sources.into_iter().map(|source| async {
            let name = source.as_ref().map_or("generic".to_owned(), |path| path.display().to_string());
            let loaded = tokio::task::spawn_blocking(move || load_manifest(source)).await;
            (name, loaded.unwrap_or_else(|panic| std::panic::resume_unwind(panic.into_panic())))
        });
        let replacer = Arc::new(build_replacer(engine, &state.path, adapters.store.clone()));
        let state_dir = state.path;
        let mut app = Self { adapters, state_dir, replacer, ready: Vec::new(), faults: Vec::new() };
        for (name, loaded) in join_all(loads).await {
            app.take(name, loaded);
        }
        crate::memory::release_unused();
        if app.ready.is_empty() && !app.faults.is_empty() {
            let first = app.faults.remove(0).1;
            app.log_faults();
            return Err(first);
        }
        app.log_faults();
        Ok(app)
    }

    fn log_faults(&self) {
        for (manifest, fault) in &self.faults {
            error!(%manifest, "failed to {fault}");
        }
    }

    fn take(&mut self, name: String, loaded: Result<Ready, AppError>) {
        let names: BTreeSet<&str> = self.ready.iter().map(|ready| ready.manifest.name.as_str()).collect();
        let loaded = match loaded {
            Ok(ready) if names.contains(ready.manifest.name.as_str()) => {
                Err(AppError::SameName(ready.manifest.path.clone()))
            }
            loaded => loaded,
        };
        match loaded {
            Ok(ready) => {
                let (description, sha256) = (&ready.plugin.description, &ready.plugin.info.sha256);
                let policy = format!("{} {}", description.name, description.version);
                let sha256 = sha256.get(..12).unwrap_or(sha256);
                info!(manifest = %ready.manifest.name, %policy, %sha256, "loaded");
                self.ready.push(ready);
            }
            Err(fault) => {
                self.faults.push((name, fault));
            }
        }
    }

    /// Watches until cancelled, alone on the state folder. The admin API listens before the first tick.
    ///
    /// # Errors
    /// When another one has the state folder, or the admin API cannot listen.
    pub async fn run(self, listen: Listen, token: Option<SecretString>, parallel: u16) -> Result<(), AppError> {
        let (_alone, listener) = self.succeed(listen, token.as_ref()).await?;
        let cancel = self.adapters.cancel.clone();
        let parallel = Arc::new(Semaphore::new(usize::from(parallel)));
        let mut actors = JoinSet::new();
        let mut handles = Handles { loaded: Vec::new(), faults: Vec::new(), store: self.adapters.store.clone() };
        for ready in &self.ready {
            let (requests, inbox) = mpsc::channel(REQUEST_QUEUE);
            let (status, seen) = watch::channel(Status { not_ready: Some("its first poll is not over".to_owned()) });
            let orders = self.order_context(ready, parallel.clone(), crate::progress::none());
            let watch = Watch::new(self.session(ready), orders, inbox, status);
            actors.spawn(watch.run());
            handles.loaded.push(ManifestHandle { name: ready.manifest.name.clone(), requests, status: seen });
        }
        handles.faults = self.faults.iter().map(|(name, fault)| (name.clone(), format!("failed to {fault}"))).collect();
        if let Some(listener) = listener {
            if let Ok(address) = listener.local_addr() {
                info!(%address, "admin API listens");
            }
            let serving = admin::serve(listener, token, Arc::new(handles), cancel.clone());
            actors.spawn(async move {
                if let Err(error) = serving.await {
                    error!("failed to serve the admin API: {error}");
                }
            });
        }
        let all_ended = async {
            while let Some(ended) = actors.join_next().await {
                if let Err(panic) = ended {
                    error!("failed to go on with a manifest: {panic}; please report it");
                }
            }
        };
        // Actors end by themselves; a policy in the middle of a call may take longer than is promised.
        let overdue = async {
            cancel.cancelled().await;
            tokio::time::sleep(SHUTDOWN_GRACE + Duration::from_secs(5)).await;
        };
        tokio::select! {
            () = all_ended => {}
            () = overdue => warn!("stopped without waiting for a policy that does not answer"),
        }
        info!("imagewatch stopped");
        Ok(())
    }

    /// Takes the place of the updater that this one is the successor of, once it has all that it works with; if it does
    /// not get that, the one before goes on.
    async fn succeed(&self, listen: Listen, token: Option<&SecretString>) -> Result<Held, AppError> {
        let predecessor = self.replacer.rest_predecessor().await?;
        let held = match self.hold(listen, token).await {
            Ok(held) => match &predecessor {
                Some(predecessor) => {
                    self.replacer.take_place_of(predecessor).await.map(|()| held).map_err(AppError::from)
                }
                None => Ok(held),
            },
            Err(error) => Err(error),
        };
        if let (Err(error), Some(predecessor)) = (&held, &predecessor) {
            self.replacer.bring_back(predecessor, &error.to_string()).await;
        }
        held
    }

    async fn hold(&self, listen: Listen, token: Option<&SecretString>) -> Result<Held, AppError> {
        self.refuse_beside_another().await?;
        let lock = state_dir::lock(&self.state_dir)?;
        let listener = match listen {
            Listen::Off => None,
            Listen::On(address) => Some(admin::bind(address, token).await?),
        };
        Ok((lock, listener))
    }

    /// Refuses to work beside another updater. An engine that is away is no reason not to start.
    async fn refuse_beside_another(&self) -> Result<(), AppError> {
        let look = other_updater(&*self.adapters.engine, self.replacer.own_id.as_deref());
        let looked = self.adapters.cancel.run_until_cancelled(timeout(LOOK_AROUND, look)).await;
        match looked {
            Some(Ok(Ok(Some(name)))) => return Err(AppError::OtherUpdater(name)),
            Some(Ok(Err(error))) => warn!("failed to look for another updater: {error}"),
            Some(Err(_)) => warn!("failed to look for another updater: the engine does not answer"),
            None | Some(Ok(Ok(None))) => {}
        }
        Ok(())
    }

    fn session(&self, ready: &Ready) -> Session {
        let effects = ManifestEffects::new(ready.manifest.clone(), ready.rules.clone(), self.adapters.clone());
        let store = self.adapters.store.clone();
        Session::new(ready.manifest.clone(), ready.plugin.clone(), Arc::new(effects), store)
    }

    fn order_context(&self, ready: &Ready, turns: Arc<Semaphore>, progress: ProgressObserver) -> OrderContext {
        let (credentials, manifest) = (self.adapters.credentials.clone(), ready.manifest.clone());
        OrderContext {
            manifest: ready.manifest.name.clone(),
            replacer: self.replacer.clone(),
            turns,
            credentials: Arc::new(move |registry| credentials.for_registry(registry)),
            pull_timeout: ready.manifest.host.pull_timeout,
            stable_for: ready.manifest.host.stable_for,
            keep_images: ready.manifest.host.keep_images,
            progress,
            shutdown: self.adapters.cancel.clone(),
            is_granted: Arc::new(move |container| manifest.grants.has_container(container)),
        }
    }
}

fn load_manifest(source: Option<PathBuf>) -> Result<Ready, AppError> {
    let manifest = match source {
        Some(path) => PluginManifest::read(&path, &variable),
        None => PluginManifest::parse("generic", "(built in)", DEFAULT_MANIFEST, &variable)
            .map(PluginManifest::with_embedded),
    };
    let manifest = manifest.map_err(PluginError::from)?;
    let host = &manifest.host;
    let rules = EgressRules::parse(&manifest.allowed_hosts, &host.insecure_registries, &host.auth_realms)
        .map_err(|error| PluginError::from(manifest.bad_key(error.key, &error.to_string())))?;
    let plugin = load(&manifest)?;
    Ok(Ready { manifest: Arc::new(manifest), plugin: Arc::new(plugin), rules })
}

/// A manifest's variable. One is our own, since a manifest cannot ask: the platform that the seed
/// system pulls on Apple Silicon, whose images have no other.
fn variable(name: &str) -> Option<String> {
    let is_apple_silicon = cfg!(all(target_os = "macos", target_arch = "aarch64"));
    match name {
        "IMAGEWATCH_APPLE_SILICON_PLATFORM" => is_apple_silicon.then(|| "linux/amd64".to_owned()),
        _ => std::env::var(name).ok(),
    }
}

fn environment() -> impl Iterator<Item = (String, String)> {
    std::env::vars_os().filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
}

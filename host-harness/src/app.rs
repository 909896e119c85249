//! Wiring: the only module that imports all the others. Loads manifests over shared adapters and
//! starts what a command needs. Prints nothing and never exits.

mod control;
mod history;
mod oneshot;
mod quarantine;
mod replay;
mod state_folder;

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use imagewatch_abi::{Failure, FailureCode};
use secrecy::SecretString;
use thiserror::Error;
use tokio::sync::{Semaphore, mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use crate::admin::{self, AdminError};
use crate::cli::Listen;
use crate::credentials::env::{CredentialEnvError, parse_credentials};
use crate::credentials::store::CredentialStore;
use crate::effects::{Adapters, ManifestEffects};
use crate::engine::EngineError;
use crate::engine::docker::DockerEngine;
use crate::exit_code::Exit;
use crate::http::client::{HttpClient, HttpClientError, HttpSettings};
use crate::http::egress::EgressRules;
use crate::orders::{CredentialLookup, OrderContext, ProgressObserver};
use crate::plugin::{LoadedPlugin, PluginError, PluginManifest, StateKeeping, load};
use crate::replace::Replacer;
use crate::replace::handover::{other_updater, own_container_id};
use crate::replace::journal::Journal;
use crate::session::Session;
use crate::state_dir::{self, StateDirError};
use crate::store::StoreError;
use crate::transcript::{Recorder, TranscriptError};
use crate::watch::{SHUTDOWN_GRACE, Status, Watch};

pub use history::{Happened, list_history};
pub use oneshot::{Checked, Refreshed};
pub use quarantine::{Barred, clear_quarantine, list_quarantine};
pub use replay::{ReplayRequest, replay};
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
        "watch: the updater in container {0} runs on this engine already; stop one of the two, or take its label imagewatch.updater away"
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
    /// The store in it.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A transcript.
    #[error(transparent)]
    Transcript(#[from] TranscriptError),
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
            Self::Transcript(_) => Exit::Config,
            Self::NotBarred { .. } => Exit::Incomplete,
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
        let http = HttpSettings::parse(environment()).map_err(HttpClientError::from)?;
        let engine = DockerEngine::connect(docker_host)?;
        info!(version = env!("CARGO_PKG_VERSION"), engine = engine.host(), "imagewatch starts");
        let adapters = Adapters {
            engine: Arc::new(engine),
            http: Arc::new(HttpClient::new(&http)?),
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
        let journal = Journal::new(state.path.join(JOURNAL));
        let replacer = Replacer::new(adapters.engine.clone(), journal, adapters.store.clone(), own_container_id());
        let (replacer, state_dir) = (Arc::new(replacer), state.path);
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

    /// Watches until cancelled, alone on the state folder. The admin API listens before the first tick. With a `recorder`
    /// every call of a policy is taken down.
    ///
    /// # Errors
    /// When another one has the state folder, or the admin API cannot listen.
    pub async fn run(
        self,
        listen: Listen,
        token: Option<SecretString>,
        parallel: u16,
        recorder: Option<Recorder>,
    ) -> Result<(), AppError> {
        self.become_the_only_one().await?;
        let _alone = state_dir::lock(&self.state_dir)?;
        let listener = match listen {
            Listen::Off => None,
            Listen::On(address) => Some(admin::bind(address, token.as_ref()).await?),
        };
        let cancel = self.adapters.cancel.clone();
        let parallel = Arc::new(Semaphore::new(usize::from(parallel)));
        let recorder = recorder.map(Arc::new);
        let mut actors = JoinSet::new();
        let mut handles = Handles { loaded: Vec::new(), faults: Vec::new(), store: self.adapters.store.clone() };
        for ready in &self.ready {
            let (requests, inbox) = mpsc::channel(REQUEST_QUEUE);
            let (status, seen) = watch::channel(Status::before_first_poll());
            let orders = self.order_context(ready, parallel.clone(), crate::progress::none());
            let session = self.session(ready, ready.manifest.host.state);
            let session = match &recorder {
                Some(recorder) => session.recorded(recorder.clone()),
                None => session,
            };
            let watch = Watch::new(session, orders, inbox, status);
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

    /// Ends the updater that this one is the successor of, and refuses to work beside any other. Where this program
    /// runs in no container, an engine that is away is no reason not to start.
    async fn become_the_only_one(&self) -> Result<(), AppError> {
        self.replacer.take_over().await?;
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

    fn session(&self, ready: &Ready, keeping: StateKeeping) -> Session {
        let effects = ManifestEffects::new(ready.manifest.clone(), ready.rules.clone(), self.adapters.clone());
        let store = self.adapters.store.clone();
        Session::new(ready.manifest.clone(), ready.plugin.clone(), Arc::new(effects), store, keeping)
    }

    fn order_context(&self, ready: &Ready, turns: Arc<Semaphore>, progress: ProgressObserver) -> OrderContext {
        let manifest = ready.manifest.clone();
        OrderContext {
            manifest: ready.manifest.name.clone(),
            replacer: self.replacer.clone(),
            turns,
            credentials: look_up_in(self.adapters.credentials.clone()),
            pull_timeout: ready.manifest.host.pull_timeout,
            stable_for: ready.manifest.host.stable_for,
            keep_images: ready.manifest.host.keep_images,
            progress,
            shutdown: self.adapters.cancel.clone(),
            is_granted: Arc::new(move |container| manifest.grants.has_container(container)),
        }
    }
}

/// What pulls find their credentials with.
fn look_up_in(credentials: Arc<CredentialStore>) -> CredentialLookup {
    Arc::new(move |reference| {
        let credentials = credentials.clone();
        Box::pin(async move {
            let found = credentials.find(reference.registry(), Some(reference.repository())).await;
            found.map_err(|error| {
                let message = format!("{reference} was not pulled: failed to {error}");
                Failure::passing(FailureCode::PullFailed, message)
            })
        })
    })
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

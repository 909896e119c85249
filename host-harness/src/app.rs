//! Wiring: the only module that imports all the others. Loads manifests over shared adapters and
//! starts what a command needs. Prints nothing and never exits.

mod control;
mod forget;
mod history;
mod inspection;
mod loading;
mod oneshot;
mod quarantine;
mod replay;
mod state_folder;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use imagewatch_abi::{Failure, FailureCode};
use secrecy::SecretString;
use thiserror::Error;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{Notify, Semaphore, mpsc, watch};
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
use crate::orders::{CredentialLookup, ProgressObserver};
use crate::plugin::{FileWatch, Kept, PluginError, RollbackError, StateKeeping, settled};
use crate::replace::handover::{other_updater, own_container_id};
use crate::replace::journal::Journal;
use crate::replace::{ReplaceError, Replacer};
use crate::session::Session;
use crate::state_dir::{self, RunLock, StateDirError};
use crate::store::{Store, StoreError};
use crate::transcript::{Recorder, TranscriptError};
use crate::watch::{ReloadRequest, Reloads, SHUTDOWN_GRACE, Status, Watch};

pub use forget::forget;
pub use history::{Happened, list_history};
pub use inspection::{Inspected, inspect_module, roll_back_policy};
pub use oneshot::{Checked, Refreshed};
pub use quarantine::{Barred, clear_quarantine, list_quarantine};
pub use replay::{ReplayRequest, replay};
pub use state_folder::StateFolder;

use control::{Fault, Handles, ManifestHandle};
use loading::{Ready, Tools, follow, keep_once_accepted, load_manifest};

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
    /// A transcript.
    #[error(transparent)]
    Transcript(#[from] TranscriptError),
    /// A file to look at.
    #[error("{0}")]
    Inspect(String),
    /// A file that is no module.
    #[error("inspect {file}: {reason}")]
    NoModule {
        /// The file.
        file: String,
        /// Why.
        reason: String,
    },
    /// No files of a policy to put back.
    #[error(transparent)]
    Rollback(#[from] RollbackError),
    /// No state to forget.
    #[error("forget what was seen: nothing is kept for manifest {0}; the name is its file's, without the ending")]
    NothingKept(String),
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
            Self::Plugin(_) | Self::NoModule { .. } => Exit::Policy,
            Self::Engine(EngineError::UnsupportedHost { .. })
            | Self::Inspect(_)
            | Self::Rollback(RollbackError::Refused { .. }) => Exit::Config,
            Self::Engine(_) => Exit::Engine,
            Self::Admin(_) => Exit::Admin,
            Self::StateDir(StateDirError::Taken { .. }) | Self::OtherUpdater(_) => Exit::AlreadyRuns,
            Self::StateDir(_) | Self::Store(_) | Self::Transcript(_) => Exit::Config,
            Self::NotBarred { .. } | Self::NothingKept(_) | Self::Errand(_) | Self::Rollback(_) => Exit::Incomplete,
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
    match cancel.run_until_cancelled(Box::pin(replacer.run_errand())).await {
        Some(ended) => Ok(ended?),
        None => Err(ReplaceError::interrupted().into()),
    }
}

fn build_replacer(engine: Arc<DockerEngine>, state_dir: &Path, store: Arc<Store>) -> Replacer {
    Replacer::new(engine, Journal::new(state_dir.join(JOURNAL)), store, own_container_id())
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
        let engine = Arc::new(DockerEngine::connect(docker_host)?);
        info!(version = env!("CARGO_PKG_VERSION"), engine = engine.host(), "imagewatch starts");
        let adapters = Adapters {
            engine: engine.clone(),
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
                let (policy, sha256) = (ready.plugin.title(), &ready.plugin.info.sha256);
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
        mut self,
        listen: Listen,
        token: Option<SecretString>,
        parallel: u16,
        recorder: Option<Recorder>,
    ) -> Result<(), AppError> {
        let (_alone, listener) = self.succeed(listen, token.as_ref()).await?;
        let cancel = self.adapters.cancel.clone();
        let recorder = recorder.map(Arc::new);
        let tools = self.tools(parallel, crate::progress::none());
        let files = FileWatch::new().inspect_err(|error| {
            warn!("failed to watch files: {error}; a changed policy is loaded on SIGHUP or by the admin API");
        });
        let files = files.ok().map(Arc::new);
        let mut actors = JoinSet::new();
        let faults = std::mem::take(&mut self.faults).into_iter().map(|(name, fault)| Fault::new(name, &fault));
        let mut handles = Handles {
            loaded: Vec::new(),
            faults: faults.collect(),
            store: self.adapters.store.clone(),
            state_dir: self.state_dir.clone(),
        };
        for mut ready in std::mem::take(&mut self.ready) {
            let (requests, inbox) = mpsc::channel(REQUEST_QUEUE);
            let (status, seen) = watch::channel(Status::before_first_poll());
            let (reloads, asked) = mpsc::channel(REQUEST_QUEUE);
            let kept = Kept::new(&self.state_dir, &ready.manifest.name);
            keep_once_accepted(kept, &ready.manifest, &std::mem::take(&mut ready.wasm))();
            let changed = Arc::new(Notify::new());
            follow(files.as_deref(), &ready.manifest, changed.clone());
            let prepare = tools.clone().prepare(&ready, &self.state_dir, files.clone(), changed.clone());
            let reload = Reloads { requests: asked, prepare, record: ready.record.clone() };
            let orders = tools.orders(&ready.manifest, &ready.plugin);
            let session = self.session(&ready, ready.manifest.host.state);
            let session = match &recorder {
                Some(recorder) => session.recorded(recorder.clone()),
                None => session,
            };
            actors.spawn(Watch::new(session, orders, inbox, status, reload).run());
            actors.spawn(ask_on_change(changed, reloads.clone(), cancel.clone()));
            let Ready { manifest, record, .. } = ready;
            handles.loaded.push(ManifestHandle {
                name: manifest.name.clone(),
                requests,
                status: seen,
                reloads,
                record,
            });
        }
        actors
            .spawn(ask_on_hangup(handles.loaded.iter().map(|handle| handle.reloads.clone()).collect(), cancel.clone()));
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

    fn session(&self, ready: &Ready, keeping: StateKeeping) -> Session {
        let Ready { manifest, plugin, rules, record, .. } = ready;
        let (adapters, store) = (self.adapters.clone(), self.adapters.store.clone());
        let effects = ManifestEffects::new(manifest.clone(), plugin.clone(), rules.clone(), adapters, record.clone());
        Session::new(manifest.clone(), plugin.clone(), Arc::new(effects), store, record.clone(), keeping)
    }

    fn tools(&self, parallel: u16, progress: ProgressObserver) -> Tools {
        let turns = Arc::new(Semaphore::new(usize::from(parallel)));
        let refused = Arc::default();
        Tools { adapters: self.adapters.clone(), replacer: self.replacer.clone(), turns, progress, refused }
    }
}

/// Asks for a reload whenever the files changed and are quiet again.
async fn ask_on_change(changed: Arc<Notify>, reloads: mpsc::Sender<ReloadRequest>, cancel: CancellationToken) {
    while cancel.run_until_cancelled(settled(&changed)).await.is_some() {
        if reloads.send(ReloadRequest::default()).await.is_err() {
            return;
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

/// Asks every manifest for a reload on SIGHUP.
async fn ask_on_hangup(reloads: Vec<mpsc::Sender<ReloadRequest>>, cancel: CancellationToken) {
    let mut hangup = match signal(SignalKind::hangup()) {
        Ok(hangup) => hangup,
        Err(error) => return warn!("failed to listen for SIGHUP: {error}; reload by the admin API"),
    };
    while let Some(Some(())) = cancel.run_until_cancelled(hangup.recv()).await {
        info!("SIGHUP: loading what changed");
        for reload in &reloads {
            // An actor that has ended has nothing to reload.
            let _ = reload.send(ReloadRequest::default()).await;
        }
    }
}

fn environment() -> impl Iterator<Item = (String, String)> {
    std::env::vars_os().filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
}

//! Loads manifests over shared adapters and starts what a command needs. Prints nothing and never exits.

mod actor;
pub(crate) mod control;
pub mod effects;
mod error;
pub(crate) mod first_load;
mod history;
pub(crate) mod loading;
mod memory;
mod quarantine;
mod repeats;
pub mod session;
pub mod state_folder;
pub mod status;
pub mod unwatched;
pub mod watch;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use imagewatch_abi::{Failure, PullCause};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use crate::daemon::effects::Adapters;
use crate::daemon::watch::{ReloadRequest, SHUTDOWN_GRACE};
use crate::store::Store;
use crate::store::state_dir::{self, RunLock};
use imagewatch_engine::docker::{DockerEngine, choose_engine};
use imagewatch_engine::{Engine as _, EngineError};
use imagewatch_policy::FileWatch;
use imagewatch_policy::transcript::Recorder;
use imagewatch_registry::client::{HttpClient, HttpClientError, HttpSettings};
use imagewatch_registry::credentials::env::parse_credentials;
use imagewatch_registry::credentials::store::CredentialStore;
use imagewatch_rollout::handover::{other_updater, own_container_id};
use imagewatch_rollout::journal::Journal;
use imagewatch_rollout::orders::{CredentialLookup, ProgressObserver, no_progress};
use imagewatch_rollout::slots::Slots;
use imagewatch_rollout::{ReplaceError, Rollout};
use state_folder::StateFolder;

pub use error::AppError;
pub use first_load::WaitFor;
pub use history::{HistoryList, list_history};
pub use quarantine::{QuarantineList, clear_quarantine, list_quarantine};

use actor::{Actor, Shared, names_of};
use control::{Handles, ManifestHandle};
use first_load::{FirstLoad, FirstLoads, Refused};
use loading::{Deps, LoadedManifest, Source};
use status::Control;

/// The journal of replacements in the state folder.
const JOURNAL: &str = "journal";

/// How long an engine may take to show whether another updater runs.
const LOOK_AROUND: Duration = Duration::from_secs(5);

/// Loaded manifests over shared adapters.
#[derive(Debug)]
pub struct App {
    adapters: Adapters,
    /// The state folder.
    state_dir: PathBuf,
    pub(crate) rollout: Arc<Rollout>,
    pub(crate) ready: Vec<LoadedManifest>,
    /// Manifests that cannot be used; the others go on.
    pub(crate) refused: Vec<Refused>,
    /// Manifests that are still being loaded; the others do not wait for them.
    pending: Vec<FirstLoad>,
}

/// Does the errand of the helper that this program runs in, if it runs in one; whether it did. Needs no manifest, since
/// none may be left that can be read by the time that a helper is started again.
///
/// # Errors
/// The engine cannot be used, or the errand is not over yet; to be begun again.
pub async fn run_self_update(
    docker_host: Option<&str>,
    state: &StateFolder,
    cancel: &CancellationToken,
) -> Result<bool, AppError> {
    let engine = Arc::new(connect_engine(docker_host)?);
    let rollout = build_rollout(engine, &state.path, state.store.clone());
    match cancel.run_until_cancelled(Box::pin(rollout.run_self_update())).await {
        Some(ended) => Ok(ended?),
        None => Err(ReplaceError::interrupted().into()),
    }
}

/// The engine that `docker_host` and the environment name.
fn connect_engine(docker_host: Option<&str>) -> Result<DockerEngine, EngineError> {
    DockerEngine::connect_to(choose_engine(docker_host, &|name| std::env::var(name).ok())?)
}

fn build_rollout(engine: Arc<DockerEngine>, state_dir: &Path, store: Arc<Store>) -> Rollout {
    Rollout::new(engine, Journal::new(state_dir.join(JOURNAL)), store, own_container_id())
}

impl App {
    /// Loads `manifests`, or the built-in one, side by side, over the store in `state`, and waits for as many of them as
    /// `wait` says. The environment gives credentials and the variables of manifests.
    ///
    /// # Errors
    /// When nothing can be loaded at all: the first reason. When `cancel` ends the wait.
    pub async fn load(
        manifests: &[PathBuf],
        wait: WaitFor,
        docker_host: Option<&str>,
        state: StateFolder,
        cancel: CancellationToken,
    ) -> Result<Self, AppError> {
        let credentials = parse_credentials(environment())?;
        let http = HttpSettings::parse(environment()).map_err(HttpClientError::from)?;
        let engine = Arc::new(connect_engine(docker_host)?);
        info!(version = env!("CARGO_PKG_VERSION"), engine = engine.address(), "imagewatch starts");
        let adapters = Adapters {
            engine: engine.clone(),
            http: Arc::new(HttpClient::new(&http)?),
            credentials: Arc::new(credentials),
            store: state.store.clone(),
            cancel,
        };
        let sources: Vec<Source> = if manifests.is_empty() {
            vec![Source::BuiltIn]
        } else {
            manifests.iter().cloned().map(Source::File).collect()
        };
        let FirstLoads { ready, mut refused, pending } = FirstLoads::begin(sources, wait, &adapters.cancel).await?;
        let rollout = Arc::new(build_rollout(engine, &state.path, adapters.store.clone()));
        if ready.is_empty() && pending.is_empty() && !refused.is_empty() {
            return Err(refused.remove(0).error);
        }
        for Refused { source, error } in &refused {
            error!(manifest = source.name(), "failed to {error}");
        }
        Ok(Self { adapters, state_dir: state.path, rollout, ready, refused, pending })
    }

    /// Ends everything that this program does when it is cancelled.
    pub fn cancel(&self) -> CancellationToken {
        self.adapters.cancel.clone()
    }

    /// Starts to watch. With a `recorder`, every call of a policy is recorded.
    pub fn start(mut self, parallel: u16, recorder: Option<Recorder>) -> Running {
        let cancel = self.adapters.cancel.clone();
        let mut tasks = JoinSet::new();
        let manifests = self.start_actors(&mut tasks, parallel, recorder);
        tasks.spawn(ask_on_hangup(manifests.iter().map(|handle| handle.reloads.clone()).collect(), cancel.clone()));
        let handles = Handles { manifests, store: self.adapters.store.clone(), state_dir: self.state_dir };
        Running { tasks, handles: Arc::new(handles), cancel }
    }

    /// One for each manifest, whether that could be loaded or not; how they are reached.
    fn start_actors(
        &mut self,
        running: &mut JoinSet<()>,
        parallel: u16,
        recorder: Option<Recorder>,
    ) -> Vec<ManifestHandle> {
        let files = FileWatch::new().inspect_err(|error| {
            warn!("failed to watch files: {error}; a changed policy is loaded on SIGHUP or by the admin API");
        });
        let shared = Shared {
            tools: self.tools(parallel, no_progress()),
            files: files.ok().map(Arc::new),
            state_dir: self.state_dir.clone(),
            recorder: recorder.map(Arc::new),
        };
        let (ready, refused) = (std::mem::take(&mut self.ready), std::mem::take(&mut self.refused));
        let pending = std::mem::take(&mut self.pending);
        let sources: Vec<&Source> =
            pending.iter().map(|load| &load.source).chain(refused.iter().map(|refused| &refused.source)).collect();
        let names = names_of(ready.iter().map(|ready| ready.manifest.name.clone()).collect(), &sources);
        self.rollout.drop_failures_of_others(&names.iter().map(String::as_str).collect());
        let mut manifests = Vec::new();
        let mut actors = names.into_iter().map(|name| {
            let (actor, handle) = Actor::new(shared.clone(), name);
            manifests.push(handle);
            actor
        });
        for (ready, actor) in ready.into_iter().zip(&mut actors) {
            actor.accept(&ready);
            running.spawn(actor.watch(ready));
        }
        for (load, actor) in pending.into_iter().zip(&mut actors) {
            running.spawn(actor.wait_for(load));
        }
        for (Refused { source, error }, actor) in refused.into_iter().zip(actors) {
            actor.refuse(&error);
            running.spawn(actor.wait(source));
        }
        manifests
    }

    /// Locks the state folder, and opens with `open` what else only one program can have. If this program is the successor of
    /// an updater, it takes that one's place once it has both. If it does not get them, the predecessor goes on.
    ///
    /// # Errors
    /// Another updater runs, the state folder is in use, or `open` fails.
    pub async fn take_over<T>(
        &self,
        open: impl AsyncFnOnce() -> Result<T, AppError>,
    ) -> Result<(RunLock, T), AppError> {
        let predecessor = self.rollout.stop_predecessor().await?;
        let held = match self.hold(open).await {
            Ok(held) => match &predecessor {
                Some(predecessor) => self.rollout.promote(predecessor).await.map(|()| held).map_err(AppError::from),
                None => Ok(held),
            },
            Err(error) => Err(error),
        };
        if let (Err(error), Some(predecessor)) = (&held, &predecessor) {
            self.rollout.restore_predecessor(predecessor, &error.to_string()).await;
        }
        held
    }

    async fn hold<T>(&self, open: impl AsyncFnOnce() -> Result<T, AppError>) -> Result<(RunLock, T), AppError> {
        self.refuse_beside_another().await?;
        let lock = state_dir::lock(&self.state_dir)?;
        Ok((lock, open().await?))
    }

    /// Refuses to work beside another updater. An engine that is away is no reason not to start.
    pub(crate) async fn refuse_beside_another(&self) -> Result<(), AppError> {
        let look = other_updater(&*self.adapters.engine, self.rollout.own_id.as_deref());
        let looked = self.adapters.cancel.run_until_cancelled(timeout(LOOK_AROUND, look)).await;
        match looked {
            Some(Ok(Ok(Some(name)))) => return Err(AppError::OtherUpdater(name)),
            Some(Ok(Err(error))) => warn!("failed to look for another updater: {error}"),
            Some(Err(_)) => warn!("failed to look for another updater: the engine does not answer"),
            None | Some(Ok(Ok(None))) => {}
        }
        Ok(())
    }

    pub(crate) fn tools(&self, parallel: u16, progress: ProgressObserver) -> Deps {
        let slots = Slots::new(usize::from(parallel));
        let (services, refused) = Default::default();
        Deps { adapters: self.adapters.clone(), rollout: self.rollout.clone(), slots, services, progress, refused }
    }
}

/// A program that watches.
#[derive(Debug)]
pub struct Running {
    tasks: JoinSet<()>,
    handles: Arc<Handles>,
    cancel: CancellationToken,
}

impl Running {
    /// What can be asked of it.
    pub fn control(&self) -> Arc<dyn Control> {
        self.handles.clone()
    }

    /// Adds a task that ends when the program stops.
    pub fn add(&mut self, task: impl Future<Output = ()> + Send + 'static) {
        self.tasks.spawn(task);
    }

    /// Waits until it is cancelled and its tasks have ended.
    pub async fn until_stopped(mut self) {
        let all_ended = async {
            while let Some(ended) = self.tasks.join_next().await {
                if let Err(panic) = ended {
                    error!("failed to go on with a manifest: {panic}; please report it");
                }
            }
        };
        // Actors end by themselves; a policy in the middle of a call may take longer than is promised.
        let overdue = async {
            self.cancel.cancelled().await;
            tokio::time::sleep(SHUTDOWN_GRACE + Duration::from_secs(5)).await;
        };
        tokio::select! {
            () = all_ended => {}
            () = overdue => warn!("stopped without waiting for a policy that does not answer"),
        }
        info!("imagewatch stopped");
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
                // No registry refused anything.
                Failure::pull(PullCause::Other, message)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_source_of_credentials_that_fails_is_named_and_is_no_denial_of_the_registry() {
        for (variable, value, says) in [
            ("DOCKER_AUTH_CONFIG", "{", "read credentials from DOCKER_AUTH_CONFIG"),
            (
                "DOCKER_AUTH_CONFIG",
                r#"{"credHelpers": {"r.io": "iw-is-not-there"}}"#,
                "ask docker-credential-iw-is-not-there for r.io",
            ),
        ] {
            let variables = [(variable.to_owned(), value.to_owned())];
            let credentials = parse_credentials(variables).expect("what is broken is told when it is asked");
            let look_up = look_up_in(Arc::new(credentials));
            let failure = look_up("r.io/app:1".parse().expect("a reference")).await.expect_err(says);
            assert_eq!(failure.cause, Some(PullCause::Other), "{failure}");
            assert!(failure.message.contains(says) && failure.message.contains("r.io/app:1"), "{failure}");
        }
    }
}

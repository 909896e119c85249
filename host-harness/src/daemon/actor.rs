//! A manifest's actor from its first load to its end: one that can be used watches, and one that cannot waits until its
//! files are mended. Decides nothing about images.

use std::path::PathBuf;
use std::sync::Arc;

use imagewatch_abi::{Failure, FailureCode};
use tokio::sync::{Notify, mpsc, watch};
use tokio_util::sync::CancellationToken;
use tracing::error;

use super::AppError;
use super::control::ManifestHandle;
use super::first_load::FirstLoad;
use super::loading::{Deps, FileFollower, LoadedManifest, Source, keep_once_accepted, load};
use crate::daemon::watch::{RefreshReply, RefreshRequest, ReloadReply, ReloadRequest, Reloads, Status, Watch};
use imagewatch_policy::transcript::Recorder;
use imagewatch_policy::{FileWatch, PolicyArchive, Record, files_of, settled};

const STILL_LOADING: &str = "its policy is still being loaded";

/// Requests that wait for a busy actor.
const REQUEST_QUEUE: usize = 64;

/// What all actors share.
#[derive(Clone)]
pub(super) struct Shared {
    pub(super) tools: Deps,
    pub(super) files: Option<Arc<FileWatch>>,
    pub(super) state_dir: PathBuf,
    /// Takes down every call of a policy.
    pub(super) recorder: Option<Arc<Recorder>>,
}

/// The actor before it watches.
pub(super) struct Actor {
    shared: Shared,
    name: String,
    record: Arc<Record>,
    requests: mpsc::Receiver<RefreshRequest>,
    status: watch::Sender<Status>,
    reloads: mpsc::Receiver<ReloadRequest>,
    following: FileFollower,
}

impl Actor {
    /// The actor of the manifest `name`, and how it is reached. A change of its files asks it for a reload.
    pub(super) fn new(shared: Shared, name: String) -> (Self, ManifestHandle) {
        let (requests, inbox) = mpsc::channel(REQUEST_QUEUE);
        let (status, seen) = watch::channel(Status::before_first_poll());
        let (reloads, asked) = mpsc::channel(REQUEST_QUEUE);
        let record = Arc::new(Record::default());
        let following =
            FileFollower { manifest: name.clone(), files: shared.files.clone(), changed: Arc::new(Notify::new()) };
        let cancel = shared.tools.adapters.cancel.clone();
        tokio::spawn(ask_on_change(following.changed.clone(), reloads.clone(), cancel));
        let handle = ManifestHandle { name: name.clone(), requests, status: seen, reloads, record: record.clone() };
        (Self { shared, name, record, requests: inbox, status, reloads: asked, following }, handle)
    }

    /// What was loaded is at work from now on, for all who ask; [`Self::watch`] comes next.
    pub(super) fn accept(&self, ready: &LoadedManifest) {
        self.following.follow(&files_of(&ready.manifest));
        // The files may have changed since they were read; if not, that costs reading them once more.
        self.following.changed.notify_one();
        self.record.loaded(&ready.plugin);
        self.status.send_replace(Status::before_first_poll());
    }

    /// What was to be loaded cannot be used, for all who ask; [`Self::wait`] comes next.
    pub(super) fn refuse(&self, error: &AppError) {
        self.record.refused(&error.to_string());
        self.status.send_replace(Status { not_ready: Some(format!("failed to {error}")), ..Status::default() });
    }

    /// Watches until cancelled.
    pub(super) async fn watch(self, mut ready: LoadedManifest) {
        let Shared { tools, state_dir, recorder, .. } = self.shared;
        let kept = PolicyArchive::new(&state_dir, &self.name);
        keep_once_accepted(kept.clone(), &ready.manifest, &std::mem::take(&mut ready.wasm))();
        let orders = tools.orders(&ready.manifest, &ready.plugin);
        let session = tools.session(&ready, &self.record, ready.manifest.host.state);
        let session = match recorder {
            Some(recorder) => session.recorded(recorder),
            None => session,
        };
        let prepare = tools.prepare(&ready, self.record.clone(), kept, self.following);
        let reloads = Reloads { requests: self.reloads, prepare, record: self.record };
        Watch::new(session, orders, self.requests, self.status, reloads).run().await;
    }

    /// Waits for the end of the manifest's first `load`, and watches or waits then.
    pub(super) async fn wait_for(mut self, load: FirstLoad) {
        let cancel = self.shared.tools.adapters.cancel.clone();
        let source = load.source.clone();
        self.status.send_replace(Status { not_ready: Some(STILL_LOADING.to_owned()), ..Status::default() });
        match cancel.run_until_cancelled(self.answer_until(load.ended())).await {
            Some(Ok(ready)) => {
                ready.say_loaded();
                self.accept(&ready);
                Box::pin(self.watch(ready)).await;
            }
            Some(Err(error)) => {
                error!(manifest = self.name, "failed to {error}; it is not at work yet");
                self.refuse(&error);
                self.wait(source).await;
            }
            None => {}
        }
    }

    /// Waits until the manifest at `source` can be used, and watches then.
    pub(super) async fn wait(mut self, source: Source) {
        let cancel = self.shared.tools.adapters.cancel.clone();
        // What was mended before anybody followed the files is seen now.
        let mut loaded = cancel.run_until_cancelled(self.load(&source)).await;
        loop {
            match loaded {
                Some(Ok(ready)) => return Box::pin(self.watch(ready)).await,
                Some(Err(_)) => loaded = cancel.run_until_cancelled(self.load_when_asked(&source)).await,
                None => return,
            }
        }
    }

    /// Answers until somebody asks for another try, and how that ended.
    async fn load_when_asked(&mut self, source: &Source) -> Result<LoadedManifest, AppError> {
        let request = loop {
            tokio::select! {
                Some(request) = self.requests.recv() => self.answer_refused(request),
                Some(request) = self.reloads.recv() => break request,
                // Nobody can ask any more: the program stops, and whoever polls this is cancelled.
                else => std::future::pending().await,
            }
        };
        let mut waiting: Vec<_> = request.reply.into_iter().collect();
        while let Ok(more) = self.reloads.try_recv() {
            waiting.extend(more.reply);
        }
        let loaded = self.load(source).await;
        let reply = match &loaded {
            Ok(ready) => ReloadReply::Swapped {
                policy: ready.plugin.title().to_string(),
                sha256: ready.plugin.info.sha256.clone(),
            },
            Err(error) => {
                error!(manifest = self.name, "failed to {error}; it is not at work yet");
                self.refuse(error);
                ReloadReply::Refused(error.to_string())
            }
        };
        for waiting in waiting {
            // Who went away does not need to know.
            let _ = waiting.send(reply.clone());
        }
        loaded
    }

    /// The files are followed before they are read, so that none changes unseen.
    async fn load(&mut self, source: &Source) -> Result<LoadedManifest, AppError> {
        if self.name != source.name() {
            return Err(AppError::SameName(source.to_string()));
        }
        self.following.follow(&source.files());
        self.answer_until(load(source.clone())).await.inspect(|ready| {
            ready.say_loaded();
            self.accept(ready);
        })
    }

    /// Answers, while `load` goes on, that nothing can be refreshed yet.
    async fn answer_until<T>(&mut self, load: impl Future<Output = T>) -> T {
        let mut load = std::pin::pin!(load);
        loop {
            tokio::select! {
                loaded = &mut load => return loaded,
                Some(request) = self.requests.recv() => self.answer_refused(request),
            }
        }
    }

    fn answer_refused(&self, request: RefreshRequest) {
        let message = self.status.borrow().not_ready.clone().unwrap_or_default();
        let err = Some(Failure::retryable(FailureCode::Other, message));
        // Nobody waits any more when the client went away.
        let _ = request.reply.send(RefreshReply { err, ..RefreshReply::default() });
    }
}

/// The names under which manifests are reached: those that are `ready`, then those at `refused`. One whose name another has
/// goes by its path, which no name is, and is never used.
pub(super) fn names_of(ready: Vec<String>, refused: &[&Source]) -> Vec<String> {
    refused.iter().fold(ready, |mut names, source| {
        let name = source.name();
        names.push(if names.contains(&name) { source.absolute() } else { name });
        names
    })
}

/// Asks for a reload whenever the files changed and are quiet again.
async fn ask_on_change(changed: Arc<Notify>, reloads: mpsc::Sender<ReloadRequest>, cancel: CancellationToken) {
    while cancel.run_until_cancelled(settled(&changed)).await.is_some() {
        if reloads.send(ReloadRequest::default()).await.is_err() {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_manifest_whose_name_another_has_goes_by_its_path() {
        let [twin, bare, broken, again] = ["/etc/prod/web.json", "web", "/b/broken.json", "/c/broken.json"]
            .map(|path| Source::File(PathBuf::from(path)));
        let names = names_of(vec!["web".to_owned()], &[&twin, &bare, &broken, &again]);
        assert_eq!(names[..2], ["web", "/etc/prod/web.json"]);
        assert!(names[2].starts_with('/') && names[2].ends_with("/web"), "{names:?}");
        assert_eq!(names[3..], ["broken", "/c/broken.json"]);
    }
}

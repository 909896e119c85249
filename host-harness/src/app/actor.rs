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
use super::loading::{Following, Ready, Source, Tools, keep_once_accepted, load};
use crate::plugin::{FileWatch, Kept, Record, files_of, settled};
use crate::transcript::Recorder;
use crate::watch::{RefreshReply, RefreshRequest, ReloadReply, ReloadRequest, Reloads, Status, Watch};

/// Requests that wait for a busy actor.
const REQUEST_QUEUE: usize = 64;

/// What all actors share.
#[derive(Clone)]
pub(super) struct Shared {
    pub(super) tools: Tools,
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
    following: Following,
}

impl Actor {
    /// The actor of the manifest `name`, and how it is reached. A change of its files asks it for a reload.
    pub(super) fn new(shared: Shared, name: String) -> (Self, ManifestHandle) {
        let (requests, inbox) = mpsc::channel(REQUEST_QUEUE);
        let (status, seen) = watch::channel(Status::before_first_poll());
        let (reloads, asked) = mpsc::channel(REQUEST_QUEUE);
        let record = Arc::new(Record::default());
        let following =
            Following { manifest: name.clone(), files: shared.files.clone(), changed: Arc::new(Notify::new()) };
        let cancel = shared.tools.adapters.cancel.clone();
        tokio::spawn(ask_on_change(following.changed.clone(), reloads.clone(), cancel));
        let handle = ManifestHandle { name: name.clone(), requests, status: seen, reloads, record: record.clone() };
        (Self { shared, name, record, requests: inbox, status, reloads: asked, following }, handle)
    }

    /// Watches until cancelled.
    pub(super) async fn watch(self, mut ready: Ready) {
        let Shared { tools, state_dir, recorder, .. } = self.shared;
        self.record.loaded(&ready.plugin);
        let kept = Kept::new(&state_dir, &self.name);
        keep_once_accepted(kept.clone(), &ready.manifest, &std::mem::take(&mut ready.wasm))();
        self.following.follow(&files_of(&ready.manifest));
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

    /// Waits until the manifest at `source`, refused for `error`, can be used, and watches then.
    pub(super) async fn wait(mut self, source: Source, error: AppError) {
        self.refuse(&error);
        let cancel = self.shared.tools.adapters.cancel.clone();
        loop {
            self.following.follow(&source.files());
            tokio::select! {
                () = cancel.cancelled() => return,
                Some(request) = self.requests.recv() => {
                    let message = self.status.borrow().not_ready.clone().unwrap_or_default();
                    let err = Some(Failure::passing(FailureCode::Other, message));
                    // Nobody waits any more when the client went away.
                    let _ = request.reply.send(RefreshReply { err, ..RefreshReply::default() });
                }
                Some(request) = self.reloads.recv() => {
                    if let Some(ready) = self.load(&source, request).await {
                        self.status.send_replace(Status::before_first_poll());
                        return Box::pin(self.watch(ready)).await;
                    }
                }
            }
        }
    }

    /// Tries once more, as somebody asks.
    async fn load(&self, source: &Source, request: ReloadRequest) -> Option<Ready> {
        let loaded = load(source.clone()).await.and_then(|ready| {
            if ready.manifest.name == self.name { Ok(ready) } else { Err(AppError::SameName(source.to_string())) }
        });
        crate::memory::release_unused();
        let (reply, ready) = match loaded {
            Ok(ready) => {
                ready.say_loaded();
                let (policy, sha256) = (ready.plugin.title(), ready.plugin.info.sha256.clone());
                (ReloadReply::Swapped { policy, sha256 }, Some(ready))
            }
            Err(error) => {
                error!(manifest = self.name, "failed to {error}; tried again when its files change");
                self.refuse(&error);
                (ReloadReply::Refused(error.to_string()), None)
            }
        };
        // Who went away does not need to know.
        request.reply.map(|waiting| waiting.send(reply));
        ready
    }

    fn refuse(&self, error: &AppError) {
        self.record.refused(&error.to_string());
        self.status.send_replace(Status { not_ready: Some(format!("failed to {error}")), outcomes: Vec::new() });
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

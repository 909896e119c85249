//! The actor's part of a reload: has it prepared beside the ticks, one at a time, and swaps between two calls. What is
//! loaded, and whether it may be, is decided by who prepares it.

use std::sync::Arc;

use serde_json::Value;
use tokio::sync::{mpsc, oneshot};
use tokio::task::{JoinError, JoinHandle, JoinSet, spawn_blocking};
use tokio::time::timeout;
use tracing::{error, info};

use super::Watch;
use crate::daemon::effects::GrantedHost;
use imagewatch_policy::{LOAD_TIMEOUT, LoadedPlugin, PluginManifest, Record};
use imagewatch_rollout::orders::OrderContext;

/// Asks an actor to load its files again.
#[derive(Debug, Default)]
pub struct ReloadRequest {
    /// Gets the answer, if somebody waits for it.
    pub reply: Option<oneshot::Sender<ReloadReply>>,
}

/// How a reload ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ReloadReply {
    /// What was loaded is at work.
    Swapped {
        /// Its name and version.
        policy: String,
        /// The SHA-256 of its module, in lowercase hex.
        sha256: String,
    },
    /// It was at work already.
    Unchanged,
    /// The one before, if any, goes on, and why: a fragment that reads after "failed to".
    Refused(String),
}

/// All that changes with a policy.
pub struct Prepared {
    /// The manifest.
    pub manifest: Arc<PluginManifest>,
    /// The policy.
    pub plugin: Arc<LoadedPlugin>,
    /// Its effects.
    pub effects: Arc<GrantedHost>,
    /// What its orders are carried out with.
    pub orders: OrderContext,
    /// Called once it is at work.
    pub accepted: Box<dyn FnOnce() + Send>,
}

impl std::fmt::Debug for Prepared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Prepared").field("manifest", &self.manifest.name).finish_non_exhaustive()
    }
}

/// What comes of preparing: none when the files are those of what runs, or a fragment saying why not.
type Prepares = Result<Option<Prepared>, String>;

/// Loads the files as they are now, for who runs these.
type PrepareFn = dyn Fn(&PluginManifest, &LoadedPlugin) -> Prepares + Send + Sync;

/// Loads the files as they are now. Called where blocking is allowed.
pub type Prepare = Arc<PrepareFn>;

/// What an actor needs for reloads.
pub struct Reloads {
    /// Who asks.
    pub requests: mpsc::Receiver<ReloadRequest>,
    /// How it is done.
    pub prepare: Prepare,
    /// Where it is written down.
    pub record: Arc<Record>,
}

impl std::fmt::Debug for Reloads {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Reloads").field("record", &self.record).finish_non_exhaustive()
    }
}

/// Who waits for a reload.
type Replies = Vec<oneshot::Sender<ReloadReply>>;

/// How far a reload is.
#[derive(Debug, Default)]
pub(super) struct Loading {
    /// At most one.
    pub(super) task: JoinSet<Prepares>,
    replies: Replies,
    /// Asked for after the files were read, perhaps: so they are read once more.
    again: Option<Replies>,
}

impl Watch {
    pub(super) fn take_reload(&mut self, request: ReloadRequest) {
        if self.loading.task.is_empty() {
            self.begin_reload(request.reply.into_iter().collect());
        } else {
            self.loading.again.get_or_insert_default().extend(request.reply);
        }
    }

    fn begin_reload(&mut self, replies: Replies) {
        self.loading.replies = replies;
        let (prepare, state) = (self.reloads.prepare.clone(), self.session.state());
        let (manifest, plugin) = (self.session.manifest.clone(), self.session.plugin.clone());
        let prepared = spawn_blocking(move || prepare_for(&*prepare, &manifest, &plugin, &state));
        self.loading.task.spawn(within_deadline(prepared));
    }

    /// A reload was prepared, or refused. Whether another policy is at work now.
    pub(super) fn take_prepared(&mut self, prepared: Result<Prepares, JoinError>) -> bool {
        let prepared = prepared.unwrap_or_else(|error| Err(panicked(&error)));
        let manifest = self.session.manifest.name.clone();
        let (reply, is_swapped) = match prepared {
            Ok(None) => {
                self.reloads.record.unchanged();
                (ReloadReply::Unchanged, false)
            }
            Ok(Some(prepared)) => (self.swap(prepared), true),
            Err(reason) => {
                let going_on = self.session.plugin.title();
                error!(manifest, "failed to {reason}; {going_on} goes on as before");
                self.reloads.record.refused(&reason);
                (ReloadReply::Refused(reason), false)
            }
        };
        for waiting in self.loading.replies.drain(..) {
            // Who went away does not need to know.
            let _ = waiting.send(reply.clone());
        }
        if let Some(replies) = self.loading.again.take() {
            self.begin_reload(replies);
        }
        is_swapped
    }

    fn swap(&mut self, prepared: Prepared) -> ReloadReply {
        let Prepared { manifest, plugin, effects, orders, accepted } = prepared;
        let was_polling = self.session.plugin.description.enabled;
        self.reloads.record.loaded(&plugin);
        let (policy, sha256) = (plugin.title().to_string(), plugin.info.sha256.clone());
        info!(manifest = manifest.name, %policy, sha256 = sha256.get(..12), "reloaded");
        self.session.swap(manifest, plugin, effects);
        self.orders = orders;
        if was_polling && !self.session.plugin.description.enabled {
            self.say_disabled();
        }
        accepted();
        ReloadReply::Swapped { policy, sha256 }
    }
}

/// What comes of `prepared`, unless that takes too long. Neither a compilation nor a call can be interrupted from outside:
/// one that takes too long goes on beside, within its fuel, and its result is dropped.
async fn within_deadline(prepared: JoinHandle<Prepares>) -> Prepares {
    match timeout(LOAD_TIMEOUT, prepared).await {
        Ok(prepared) => prepared.unwrap_or_else(|error| Err(panicked(&error))),
        Err(_) => Err(format!(
            "load it: its policy was not compiled and described within {LOAD_TIMEOUT:?}; is this machine busy? if not, use a \
             smaller policy"
        )),
    }
}

fn panicked(error: &JoinError) -> String {
    format!("load it: the host panicked ({error}); please report it")
}

fn prepare_for(prepare: &PrepareFn, manifest: &PluginManifest, plugin: &LoadedPlugin, state: &Value) -> Prepares {
    let prepared = prepare(manifest, plugin)?;
    if let Some(prepared) = &prepared {
        prepared.plugin.can_read(state)?;
    }
    Ok(prepared)
}

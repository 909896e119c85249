//! The admin API: a small HTTP server for operators and the platform. It translates requests into
//! calls of [`Control`] and the answers into JSON; it decides nothing and knows nobody behind that trait.
//!
//! | route | answers |
//! | --- | --- |
//! | `POST /admin/workspace-images/refresh?runtime=<name>&recreate=true\|false` | 200 the [`RefreshResult`]; 400 unknown runtime or a bad query; 404 no workspaces manifest; 500 with the partial result. Without `runtime` all are meant, without `recreate` true. |
//! | `GET /admin/targets` | 200 `{"targets": […]}`, one [`TargetStatus`] each: what the last poll said, where the target stands (`status`), why, and until when |
//! | `GET /admin/history?target=<name>&manifest=<name>&limit=<n>` | 200 `{"history": […]}`, one [`Event`] each, newest first; 100 unless `limit` says otherwise, at most 1000 |
//! | `GET /admin/quarantine` | 200 `{"quarantine": […]}`, one [`BarredDigest`] each |
//! | `DELETE /admin/quarantine?target=<name>&manifest=<name>` | 200 the same with those that were taken out; 400 without a target; 404 when none matches. Without `manifest` it counts under all. |
//! | `GET /admin/plugins` | 200 `{"plugins": […]}`, one [`PluginStatus`] each |
//! | `POST /admin/plugins/{manifest}/reload` | 200 `{"result": "swapped", "policy", "sha256"}` or `{"result": "unchanged"}`; 404 no such manifest; 422 refused, the policy before, if any, goes on |
//! | `POST /admin/plugins/{manifest}/rollback` | the same, after the files of the policy before were put back; 409 when there is none |
//! | `GET /metrics` | 200 counters of the policies as Prometheus reads them |
//! | `GET /healthz` | 200 while the process lives |
//! | `GET /readyz` | 200, or 503 naming each manifest and why it is not ready |
//!
//! 500 when the store cannot be used. Everything under `/admin/` wants `Authorization: Bearer <token>` and answers 401 without. Every
//! answer but `/metrics` is JSON, errors as `{"error": …}`.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use async_trait::async_trait;
use axum::Router;
use axum::extract::OriginalUri;
use axum::http::{Method, StatusCode};
use axum::response::Response;
use axum::routing::{get, post};
use imagewatch_abi::{Outcome, Quarantined};
use secrecy::{ExposeSecret, SecretString};
use serde::Serialize;
use tokio::net::TcpListener;

use crate::plugin::Recorded;

mod auth;
mod health;
mod history;
mod metrics;
mod plugins;
mod quarantine;
mod refresh;
mod server;
mod targets;

pub use server::serve;

/// What the admin API can make happen, and ask.
#[async_trait]
pub trait Control: Send + Sync {
    /// Refreshes `runtime` of the workspaces manifest, or all of them, and waits for the result.
    /// When the client goes away the future is dropped; the refresh itself must go on.
    async fn refresh_workspaces(&self, runtime: Option<String>, recreate: bool) -> RefreshAnswer;

    /// The state of every manifest, loaded or not.
    fn readiness(&self) -> Vec<ManifestReadiness>;

    /// The policy of every manifest, loaded or not.
    fn plugins(&self) -> Vec<PluginStatus>;

    /// Loads the files of `manifest` again, and waits for that.
    async fn reload_plugin(&self, manifest: &str) -> ReloadAnswer;

    /// Puts the files of the policy before back, and loads them.
    async fn roll_back_plugin(&self, manifest: &str) -> RollbackAnswer;

    /// What the last poll of each manifest said of its targets.
    fn targets(&self) -> Vec<TargetStatus>;

    /// The digests that are barred, under every manifest.
    ///
    /// # Errors
    /// Why they cannot be told; no secrets.
    fn quarantine(&self) -> Result<Vec<BarredDigest>, String>;

    /// What happened to `target`, or to all, under `manifest` or under all: at most `limit` events, newest first.
    ///
    /// # Errors
    /// Why it cannot be told; no secrets.
    fn history(&self, target: Option<String>, manifest: Option<String>, limit: u32) -> Result<Vec<Event>, String>;

    /// Takes out what is barred for `target`, under `manifest` or under all, and returns it.
    ///
    /// # Errors
    /// Why nothing was taken out; no secrets.
    fn clear_quarantine(&self, target: &str, manifest: Option<&str>) -> Result<Vec<BarredDigest>, String>;
}

/// A digest in quarantine, for people and programs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct BarredDigest {
    /// The name of the manifest whose policy barred it.
    pub manifest: String,
    /// What the policy says.
    #[serde(flatten)]
    pub entry: Quarantined,
}

/// What is known of a target, for people and programs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct TargetStatus {
    /// When it was said, milliseconds since 1970: a poll that came to nothing says nothing new.
    pub at_ms: u64,
    /// The name of the manifest whose policy says so.
    pub manifest: String,
    /// What the policy said last.
    #[serde(flatten)]
    pub outcome: Outcome,
}

/// Something that happened to a target, for people and programs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Event {
    /// When, milliseconds since 1970.
    pub at_ms: u64,
    /// The name of the manifest whose policy says so.
    pub manifest: String,
    /// What the policy says.
    #[serde(flatten)]
    pub outcome: Outcome,
}

/// A manifest's policy, for people and programs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PluginStatus {
    /// The manifest's name.
    pub manifest: String,
    /// What is at work, what went wrong with it, and how its loads went.
    #[serde(flatten)]
    pub record: Recorded,
}

/// How a reload ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ReloadAnswer {
    /// Another policy or config is at work.
    Swapped {
        /// Its name and version.
        policy: String,
        /// Of its module.
        sha256: String,
    },
    /// The files are those of what is at work.
    Unchanged,
    /// The policy before, if any, goes on, and why; no secrets.
    Refused(String),
    /// There is no manifest of that name.
    NoSuchManifest,
}

/// How a roll-back ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RollbackAnswer {
    /// The files are back; what came of loading them.
    Done(ReloadAnswer),
    /// There is nothing to go back to, and why.
    NothingBefore(String),
    /// The files could not be written, and why.
    Failed(String),
    /// There is no manifest of that name.
    NoSuchManifest,
}

/// How a manual refresh ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RefreshAnswer {
    /// All the way through; single failures are in the result.
    Done(RefreshResult),
    /// The runtime is not one of `known`; nothing was touched.
    UnknownTarget {
        /// What could have been asked for.
        known: Vec<String>,
    },
    /// The refresh as a whole came to nothing.
    Failed {
        /// Why; no secrets.
        error: String,
        /// What was done before it failed.
        partial: RefreshResult,
    },
    /// No manifest for workspaces is loaded.
    NoSuchManifest,
}

/// What a refresh did. Always the three arrays of the seed system, never null.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct RefreshResult {
    /// Runtimes whose image was pulled.
    pub pulled: Vec<String>,
    /// Runtimes whose image was not.
    pub failed: Vec<String>,
    /// Names of the containers that were handled.
    pub recreated: Vec<String>,
    /// Containers that were to be handled and were not, each with the reason. Left out when there are none, so that an
    /// answer without a failure is the seed system's.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub not_recreated: Vec<NotRecreated>,
}

/// A container that a refresh did not recreate.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct NotRecreated {
    /// Its name.
    pub container: String,
    /// Why, a lowercase fragment.
    pub reason: String,
}

/// Whether one manifest's policy is at work.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ManifestReadiness {
    /// The manifest's name.
    pub manifest: String,
    /// Why it is not ready; `None` when it is.
    pub not_ready: Option<String>,
}

/// The admin API could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum AdminError {
    /// An address that other machines reach, and no token.
    #[error(
        "open the admin API on {address}: other machines reach this address, so it needs a token: set \
         IMAGEWATCH_ADMIN_TOKEN, or choose a loopback address with --admin-listen"
    )]
    NeedsToken {
        /// The address asked for.
        address: SocketAddr,
    },
    /// Another program has the address.
    #[error("open the admin API on {address}: the address is in use; choose another with --admin-listen")]
    InUse {
        /// The address asked for.
        address: SocketAddr,
    },
    /// The system refused.
    #[error("open the admin API on {address}: {source}; choose another address with --admin-listen")]
    Bind {
        /// The address asked for.
        address: SocketAddr,
        /// The system's word.
        source: io::Error,
    },
}

/// Takes `address` for the admin API. Only a loopback address may go without `token`; a blank token is none.
pub async fn bind(address: SocketAddr, token: Option<&SecretString>) -> Result<TcpListener, AdminError> {
    if !address.ip().to_canonical().is_loopback() && !token.is_some_and(is_usable) {
        return Err(AdminError::NeedsToken { address });
    }
    TcpListener::bind(address).await.map_err(|source| match source.kind() {
        io::ErrorKind::AddrInUse => AdminError::InUse { address },
        _ => AdminError::Bind { address, source },
    })
}

/// All routes; `token` guards those under `/admin/`, which nobody can use without one.
pub fn router(token: Option<SecretString>, control: Arc<dyn Control>) -> Router {
    let token = token.filter(is_usable).map(Arc::new);
    let admin = Router::new()
        .route("/workspace-images/refresh", post(refresh::workspaces))
        .route("/targets", get(targets::list))
        .route("/history", get(history::list))
        .route("/quarantine", get(quarantine::list).delete(quarantine::clear))
        .route("/plugins", get(plugins::list))
        .route("/plugins/{manifest}/reload", post(plugins::reload))
        .route("/plugins/{manifest}/rollback", post(plugins::roll_back))
        .fallback(not_found)
        .method_not_allowed_fallback(method_not_allowed)
        .layer(axum::middleware::from_fn_with_state(token, auth::require_token));
    Router::new()
        .nest("/admin", admin)
        .route("/metrics", get(metrics::metrics))
        .route("/healthz", get(health::healthz))
        .route("/readyz", get(health::readyz))
        .fallback(not_found)
        .method_not_allowed_fallback(method_not_allowed)
        .with_state(control)
}

fn is_usable(token: &SecretString) -> bool {
    !token.expose_secret().trim().is_empty()
}

/// `{"error": …}`.
#[derive(Serialize)]
struct ErrorBody {
    error: String,
}

fn error(status: StatusCode, error: impl Into<String>) -> Response {
    json(status, &ErrorBody { error: error.into() })
}

fn json(status: StatusCode, body: &impl Serialize) -> Response {
    axum::response::IntoResponse::into_response((status, axum::Json(body)))
}

async fn not_found(OriginalUri(uri): OriginalUri) -> Response {
    error(StatusCode::NOT_FOUND, format!("no such path: {}", uri.path()))
}

async fn method_not_allowed(method: Method, OriginalUri(uri): OriginalUri) -> Response {
    error(StatusCode::METHOD_NOT_ALLOWED, format!("{method} is not for {}", uri.path()))
}

#[cfg(test)]
mod tests;

//! The admin API: a small HTTP server for operators and other programs.
//!
//! It translates requests into calls of [`Control`], and the results into JSON.
//!
//! | route | response |
//! | --- | --- |
//! | `POST /admin/workspace-images/refresh?runtime=<name>&recreate=true\|false` | 200 the [`RefreshResult`]; 400 unknown runtime or a bad query; 404 no workspaces manifest; 500 with the partial result. `runtime` defaults to all runtimes, `recreate` to true. |
//! | `GET /admin/targets` | 200 `{"targets": […]}`, one [`TargetStatus`] each: the result of the last poll, the target's `status`, the reason, and how long it lasts |
//! | `GET /admin/history?target=<name>&manifest=<name>&limit=<n>` | 200 `{"history": […]}`, one [`Event`] each, newest first; `limit` defaults to 100, and is at most 1000 |
//! | `GET /admin/quarantine` | 200 `{"quarantine": […]}`, one [`QuarantinedDigest`] each |
//! | `DELETE /admin/quarantine?target=<name>&manifest=<name>` | 200 the same with the removed entries; 400 without a target; 404 if no entry matches. `manifest` defaults to all manifests. |
//! | `GET /admin/plugins` | 200 `{"plugins": […]}`, one [`PluginStatus`] each |
//! | `POST /admin/plugins/{manifest}/reload` | 200 `{"result": "swapped", "policy", "sha256"}` or `{"result": "unchanged"}`; 404 no such manifest; 422 refused, and the previous policy, if any, stays in use |
//! | `POST /admin/plugins/{manifest}/rollback` | the same, after restoring the files of the previous policy; 409 if there is no previous policy; 500 if they cannot be written |
//! | `GET /metrics` | 200 counters of the policies, in Prometheus text format |
//! | `GET /healthz` | 200 while the process runs |
//! | `GET /readyz` | 200 if every manifest is ready; else 503, with each manifest and why it is not ready |
//!
//! - A route answers 500 if the store cannot be used.
//! - Routes under `/admin/` require `Authorization: Bearer <token>`, and answer 401 without it.
//! - Every response except `/metrics` is JSON. Errors are `{"error": …}`.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use axum::Router;
use axum::extract::OriginalUri;
use axum::http::{Method, StatusCode};
use axum::response::Response;
use axum::routing::{get, post};
use secrecy::{ExposeSecret, SecretString};
use serde::Serialize;
use tokio::net::TcpListener;

use crate::daemon::status::{
    Control, Event, ManifestReadiness, PluginStatus, QuarantinedDigest, RefreshAnswer, RefreshResult, ReloadAnswer,
    RollbackAnswer, TargetStatus,
};

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

/// Why the admin API cannot listen.
#[derive(Debug, thiserror::Error)]
pub enum AdminError {
    /// Other machines can reach the address, and no token is set.
    #[error(
        "open the admin API on {address}: other machines can reach this address, so it needs a token; set \
         IMAGEWATCH_ADMIN_TOKEN, or choose a loopback address with --admin-listen"
    )]
    NeedsToken {
        /// The requested address.
        address: SocketAddr,
    },
    /// Another program uses the address.
    #[error("open the admin API on {address}: the address is in use; choose another with --admin-listen")]
    InUse {
        /// The requested address.
        address: SocketAddr,
    },
    /// The operating system refused the address.
    #[error("open the admin API on {address}: {source}; choose another address with --admin-listen")]
    Bind {
        /// The requested address.
        address: SocketAddr,
        /// The operating system's error.
        source: io::Error,
    },
}

/// Binds `address` for the admin API.
///
/// # Errors
/// - The address is not loopback and `token` is absent or blank.
/// - The address is in use, or the operating system refuses it.
pub async fn bind(address: SocketAddr, token: Option<&SecretString>) -> Result<TcpListener, AdminError> {
    if !address.ip().to_canonical().is_loopback() && !token.is_some_and(is_usable) {
        return Err(AdminError::NeedsToken { address });
    }
    TcpListener::bind(address).await.map_err(|source| match source.kind() {
        io::ErrorKind::AddrInUse => AdminError::InUse { address },
        _ => AdminError::Bind { address, source },
    })
}

/// Returns all routes. Routes under `/admin/` require `token`. If `token` is absent or blank, they refuse every
/// request.
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

/// The JSON of every error response.
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
    error(StatusCode::METHOD_NOT_ALLOWED, format!("{method} is not allowed for {}", uri.path()))
}

#[cfg(test)]
mod tests;

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

use axum::Router;
use axum::extract::OriginalUri;
use axum::http::{Method, StatusCode};
use axum::response::Response;
use axum::routing::{get, post};
use secrecy::{ExposeSecret, SecretString};
use serde::Serialize;
use tokio::net::TcpListener;

use crate::daemon::status::{
    BarredDigest, Control, Event, ManifestReadiness, PluginStatus, RefreshAnswer, RefreshResult, ReloadAnswer,
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

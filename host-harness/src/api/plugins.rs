//! `/admin/plugins`: shows the policies with their faults, reloads a policy, and rolls it back.

use std::sync::Arc;

use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::Response;
use serde::Serialize;

use super::{Control, PluginStatus, ReloadAnswer, RollbackAnswer, error, json};

#[derive(Serialize)]
struct Listed {
    plugins: Vec<PluginStatus>,
}

#[derive(Serialize)]
#[serde(tag = "result", rename_all = "snake_case")]
enum Reloaded {
    Swapped { policy: String, sha256: String },
    Unchanged,
}

pub(super) async fn list(State(control): State<Arc<dyn Control>>) -> Response {
    json(StatusCode::OK, &Listed { plugins: control.plugins() })
}

pub(super) async fn reload(State(control): State<Arc<dyn Control>>, Path(manifest): Path<String>) -> Response {
    answer(control.reload_plugin(&manifest).await, &manifest)
}

pub(super) async fn roll_back(State(control): State<Arc<dyn Control>>, Path(manifest): Path<String>) -> Response {
    match control.roll_back_plugin(&manifest).await {
        RollbackAnswer::Done(reloaded) => answer(reloaded, &manifest),
        RollbackAnswer::NothingBefore(reason) => error(StatusCode::CONFLICT, reason),
        RollbackAnswer::Failed(reason) => error(StatusCode::INTERNAL_SERVER_ERROR, reason),
        RollbackAnswer::NoSuchManifest => no_such(&manifest),
    }
}

fn answer(reloaded: ReloadAnswer, manifest: &str) -> Response {
    match reloaded {
        ReloadAnswer::Swapped { policy, sha256 } => json(StatusCode::OK, &Reloaded::Swapped { policy, sha256 }),
        ReloadAnswer::Unchanged => json(StatusCode::OK, &Reloaded::Unchanged),
        ReloadAnswer::Refused(reason) => error(StatusCode::UNPROCESSABLE_ENTITY, reason),
        ReloadAnswer::NoSuchManifest => no_such(manifest),
    }
}

fn no_such(manifest: &str) -> Response {
    error(StatusCode::NOT_FOUND, format!("no such manifest: {manifest}; GET /admin/plugins lists all manifests"))
}

//! `/admin/quarantine`: lists quarantined digests, and clears them for one target at a time.

use std::sync::Arc;

use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use axum::http::StatusCode;
use axum::response::Response;
use serde::{Deserialize, Serialize};

use super::{Control, QuarantinedDigest, error, json};

#[derive(Deserialize)]
pub(super) struct ClearQuery {
    target: Option<String>,
    manifest: Option<String>,
}

#[derive(Serialize)]
struct Listed {
    quarantine: Vec<QuarantinedDigest>,
}

pub(super) async fn list(State(control): State<Arc<dyn Control>>) -> Response {
    match control.quarantine() {
        Ok(quarantine) => json(StatusCode::OK, &Listed { quarantine }),
        Err(reason) => error(StatusCode::INTERNAL_SERVER_ERROR, reason),
    }
}

pub(super) async fn clear(
    State(control): State<Arc<dyn Control>>,
    query: Result<Query<ClearQuery>, QueryRejection>,
) -> Response {
    let Query(ClearQuery { target, manifest }) = match query {
        Ok(query) => query,
        Err(rejection) => return error(StatusCode::BAD_REQUEST, rejection.body_text()),
    };
    let Some(target) = target.filter(|target| !target.is_empty()) else {
        return error(StatusCode::BAD_REQUEST, "name the target: DELETE /admin/quarantine?target=<name>");
    };
    let manifest = manifest.filter(|manifest| !manifest.is_empty());
    match control.clear_quarantine(&target, manifest.as_deref()) {
        Ok(cleared) if cleared.is_empty() => {
            let under = manifest.map(|manifest| format!(" under manifest {manifest}")).unwrap_or_default();
            error(StatusCode::NOT_FOUND, format!("target {target} is not in quarantine{under}"))
        }
        Ok(quarantine) => json(StatusCode::OK, &Listed { quarantine }),
        Err(reason) => error(StatusCode::INTERNAL_SERVER_ERROR, reason),
    }
}

//! `POST /admin/workspace-images/refresh`: the manual refresh of the `workspaces` manifest.

use std::sync::Arc;

use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use axum::http::StatusCode;
use axum::response::Response;
use serde::{Deserialize, Serialize};

use super::{Control, RefreshAnswer, RefreshResult, error, json};

#[derive(Deserialize)]
pub(super) struct RefreshQuery {
    runtime: Option<String>,
    recreate: Option<String>,
}

#[derive(Serialize)]
struct UnknownRuntime {
    error: String,
    known_runtimes: Vec<String>,
}

#[derive(Serialize)]
struct PartialRefresh {
    error: String,
    partial_result: RefreshResult,
}

pub(super) async fn workspaces(
    State(control): State<Arc<dyn Control>>,
    query: Result<Query<RefreshQuery>, QueryRejection>,
) -> Response {
    let Query(RefreshQuery { runtime, recreate }) = match query {
        Ok(query) => query,
        Err(rejection) => return error(StatusCode::BAD_REQUEST, rejection.body_text()),
    };
    let recreate = match recreate.as_deref() {
        None | Some("true") => true,
        Some("false") => false,
        Some(other) => return error(StatusCode::BAD_REQUEST, format!("recreate must be true or false, not {other:?}")),
    };
    let runtime = runtime.filter(|name| !name.is_empty());
    match control.refresh_workspaces(runtime.clone(), recreate).await {
        RefreshAnswer::Done(result) => json(StatusCode::OK, &result),
        RefreshAnswer::UnknownTarget { known: known_runtimes } => {
            let error = format!("unknown runtime: {}", runtime.unwrap_or_default());
            json(StatusCode::BAD_REQUEST, &UnknownRuntime { error, known_runtimes })
        }
        RefreshAnswer::Failed { error, partial: partial_result } => {
            json(StatusCode::INTERNAL_SERVER_ERROR, &PartialRefresh { error, partial_result })
        }
        RefreshAnswer::NoSuchManifest => error(StatusCode::NOT_FOUND, "no workspaces manifest is loaded"),
    }
}

//! `GET /admin/history`: past events of targets, newest first.

use std::sync::Arc;

use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use axum::http::StatusCode;
use axum::response::Response;
use serde::{Deserialize, Serialize};

use super::{Control, Event, error, json};

/// The number of events without a `limit`, and the largest `limit`.
const DEFAULT_LIMIT: u32 = 100;
const MAX_LIMIT: u32 = 1000;

#[derive(Deserialize)]
pub(super) struct EventFilter {
    target: Option<String>,
    manifest: Option<String>,
    limit: Option<u32>,
}

#[derive(Serialize)]
struct Listed {
    history: Vec<Event>,
}

pub(super) async fn list(
    State(control): State<Arc<dyn Control>>,
    query: Result<Query<EventFilter>, QueryRejection>,
) -> Response {
    let Query(EventFilter { target, manifest, limit }) = match query {
        Ok(query) => query,
        Err(rejection) => return error(StatusCode::BAD_REQUEST, rejection.body_text()),
    };
    let limit = limit.unwrap_or(DEFAULT_LIMIT).min(MAX_LIMIT);
    match control.history(target, manifest, limit) {
        Ok(history) => json(StatusCode::OK, &Listed { history }),
        Err(reason) => error(StatusCode::INTERNAL_SERVER_ERROR, reason),
    }
}

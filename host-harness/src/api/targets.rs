//! `GET /admin/targets`: the result of the last poll for every target. It starts no new poll.

use std::sync::Arc;

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use serde::Serialize;

use super::{Control, TargetStatus, json};

#[derive(Serialize)]
struct Listed {
    targets: Vec<TargetStatus>,
}

pub(super) async fn list(State(control): State<Arc<dyn Control>>) -> Response {
    json(StatusCode::OK, &Listed { targets: control.targets() })
}

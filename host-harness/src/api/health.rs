//! `/healthz` and `/readyz`, for orchestrators and load balancers. They need no token.

use std::sync::Arc;

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use serde::Serialize;

use super::{Control, ManifestReadiness};

#[derive(Serialize)]
struct Health {
    status: &'static str,
}

#[derive(Serialize)]
struct Readiness {
    status: &'static str,
    manifests: Vec<Manifest>,
}

#[derive(Serialize)]
struct Manifest {
    name: String,
    ready: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
}

impl From<ManifestReadiness> for Manifest {
    fn from(ManifestReadiness { manifest, not_ready }: ManifestReadiness) -> Self {
        Self { name: manifest, ready: not_ready.is_none(), reason: not_ready }
    }
}

pub(super) async fn healthz() -> Response {
    super::json(StatusCode::OK, &Health { status: "ok" })
}

/// Without any manifest, nothing is watched. That counts as not ready.
pub(super) async fn readyz(State(control): State<Arc<dyn Control>>) -> Response {
    let manifests: Vec<Manifest> = control.readiness().into_iter().map(Manifest::from).collect();
    if !manifests.is_empty() && manifests.iter().all(|manifest| manifest.ready) {
        super::json(StatusCode::OK, &Readiness { status: "ready", manifests })
    } else {
        super::json(StatusCode::SERVICE_UNAVAILABLE, &Readiness { status: "not ready", manifests })
    }
}

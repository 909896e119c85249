//! A fake engine for the benchmark, on its own socket. It has any number of running containers. Each one runs its own
//! image, to which a tag of the registry points. It answers lists and inspections in any version of the API, and
//! nothing else. The comparison needs this: one of the two programs uses only versions that an older engine does not
//! accept.

use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, Uri};
use imagewatch_tests::fake_registry::FakeRegistry;
use imagewatch_tests::image::sha256;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::net::UnixListener;
use tokio::task::JoinHandle;

/// A running engine. Dropping it stops it.
#[derive(Debug)]
pub(crate) struct FakeEngine {
    folder: TempDir,
    task: JoinHandle<()>,
}

/// The data of the engine.
#[derive(Debug)]
struct World {
    containers: Value,
    images: Vec<Value>,
}

impl FakeEngine {
    /// Starts an engine with a running container on each of the first `containers` images of `registry`, at the current
    /// tags.
    pub(crate) fn start(registry: &FakeRegistry, containers: usize) -> Self {
        let world = World {
            containers: (0..containers).map(|index| container(registry, index)).collect(),
            images: (0..containers).map(|index| image(registry, index)).collect(),
        };
        let folder = TempDir::new().expect("the temp folder is writable");
        let listener = UnixListener::bind(folder.path().join("engine.sock")).expect("a new folder is writable");
        let router = Router::new().fallback(answer).with_state(Arc::new(world));
        let task = tokio::spawn(async move { axum::serve(listener, router).await.expect("axum::serve never fails") });
        Self { folder, task }
    }

    /// The address, in the format of `DOCKER_HOST`.
    pub(crate) fn host(&self) -> String {
        format!("unix://{}", self.folder.path().join("engine.sock").display())
    }
}

impl Drop for FakeEngine {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn image_id(index: usize) -> String {
    sha256(&index.to_be_bytes()).to_string()
}

fn container(registry: &FakeRegistry, index: usize) -> Value {
    json!({
        "Id": format!("{index:064x}"), "Names": [format!("/app-{index:05}")], "Image": registry.reference(index),
        "ImageID": image_id(index), "Command": "app", "Created": 1_763_700_000, "Ports": [], "Labels": {},
        "State": "running", "Status": "Up 2 hours", "Mounts": [],
    })
}

fn image(registry: &FakeRegistry, index: usize) -> Value {
    let digest = format!("{}/{}@{}", registry.host(), FakeRegistry::repository(index), registry.digest(index));
    json!({
        "Id": image_id(index), "ParentId": "", "RepoTags": [registry.reference(index)], "RepoDigests": [digest],
        "Created": 1_763_700_000, "Size": 1, "SharedSize": -1, "Labels": {}, "Containers": -1,
    })
}

async fn answer(State(world): State<Arc<World>>, uri: Uri) -> (StatusCode, String) {
    let mut path: Vec<&str> = uri.path().split('/').skip(1).collect();
    if path[0].starts_with('v') && path[0] != "version" {
        path.remove(0);
    }
    let found = match path[..] {
        ["_ping"] => return (StatusCode::OK, "OK".to_owned()),
        ["version"] => Some(json!({"ApiVersion": "1.44", "MinAPIVersion": "1.24", "Components": []})),
        ["info"] => Some(json!({"Swarm": {"LocalNodeState": "inactive"}})),
        ["containers", "json"] => Some(world.containers.clone()),
        ["images", "json"] => Some(Value::Array(world.images.clone())),
        ["images", id, "json"] => world.images.iter().find(|image| image["Id"] == *id).cloned(),
        _ => None,
    };
    match found {
        Some(value) => (StatusCode::OK, value.to_string()),
        None => (StatusCode::NOT_FOUND, json!({"message": format!("no such thing: {uri}")}).to_string()),
    }
}

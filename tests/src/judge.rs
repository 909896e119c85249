//! Checks the result of an update. Exactly one container with the name must exist, and everything that an update must
//! not change must be as before. The checks read the engine and the state folder, and change neither.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use bollard::errors::Error;
use imagewatch_abi::Digest;
use serde_json::{Value, json};

use crate::engine::Scope;

/// The state of a container that an update could damage.
#[derive(Debug, Clone, PartialEq)]
pub struct ContainerState {
    /// The container's id.
    pub id: String,
    /// When the container's process was last started, in the engine's format.
    pub started_at: String,
    /// The manifest digests of the container's image.
    pub digests: Vec<Digest>,
    /// The properties that an update must not change.
    pub preserved: Preserved,
}

/// The properties that are the same after an update, whether it succeeded or was rolled back.
#[derive(Debug, Clone, PartialEq)]
pub struct Preserved {
    /// Whether the container's process runs.
    pub is_running: bool,
    /// The restart policy.
    pub policy: Value,
    /// The aliases by network, without the id that engines add.
    pub networks: BTreeMap<String, BTreeSet<String>>,
    /// The mounts by path: type, source, and whether the mount is writable.
    pub mounts: BTreeMap<String, Value>,
}

/// The outcome of an update.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Outcome {
    /// The container runs the new image.
    Updated,
    /// The container is the one from before the update.
    RolledBack,
}

/// An update to check.
#[derive(Debug, Clone)]
pub struct Update {
    /// The container's name.
    pub name: String,
    /// The container before the update.
    pub before: ContainerState,
    /// The digest of the new image.
    pub digest: Digest,
    /// Whether the new image works, so that it must stay.
    pub is_good: bool,
}

impl Update {
    /// Returns the outcome of the update.
    ///
    /// # Errors
    /// A description of what is wrong. The update may also be unfinished, so the caller can try again.
    pub async fn judge(&self, scope: &Scope) -> Result<Outcome, String> {
        let family = format!("{}.", self.name);
        let mut names = scope.containers().await;
        names.retain(|name| *name == self.name || name.starts_with(&family));
        if names != [self.name.as_str()] {
            return Err(format!("expected one container, found {names:?}"));
        }
        let Some(now) = read_state(scope, &self.name).await else { return Err(format!("{} is gone", self.name)) };
        self.compare(&now)
    }

    fn compare(&self, now: &ContainerState) -> Result<Outcome, String> {
        if now.preserved != self.before.preserved {
            return Err(format!(
                "an update must not change {:?}, but now it is {:?}",
                self.before.preserved, now.preserved
            ));
        }
        if now.id == self.before.id {
            return Ok(Outcome::RolledBack);
        }
        match (self.is_good, now.digests.contains(&self.digest)) {
            (true, true) => Ok(Outcome::Updated),
            (false, true) => Err("the container runs the bad image".to_owned()),
            (_, false) => Err(format!("the container was replaced, but its image is {:?}", now.digests)),
        }
    }
}

/// Reads the state of the container with this name or id. Returns `None` if it does not exist.
pub async fn read_state(scope: &Scope, container: &str) -> Option<ContainerState> {
    let found = match scope.engine().docker().inspect_container(container, None).await {
        Err(Error::DockerResponseServerError { status_code: 404, .. }) => return None,
        found => found.unwrap_or_else(|error| panic!("the engine returned an error: {error}")),
    };
    let digests = scope.inspect(container).await?.digests;
    let inspection = serde_json::to_value(found).expect("an inspection serializes to JSON");
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    Some(ContainerState {
        id: text(&inspection["Id"]),
        started_at: text(&inspection["State"]["StartedAt"]),
        digests,
        preserved: read_preserved(&inspection),
    })
}

fn read_preserved(inspection: &Value) -> Preserved {
    let id = inspection["Id"].as_str().unwrap_or_default();
    let aliases = |endpoint: &Value| {
        let aliases = endpoint["Aliases"].as_array().into_iter().flatten().filter_map(Value::as_str);
        aliases.filter(|alias| !id.starts_with(alias)).map(str::to_owned).collect()
    };
    let networks = inspection["NetworkSettings"]["Networks"].as_object().into_iter().flatten();
    let mounts = inspection["Mounts"].as_array().into_iter().flatten();
    let mount = |mount: &Value| {
        let path = mount["Destination"].as_str().unwrap_or_default().to_owned();
        // The source contains the name of a volume. Docker 28 does not report the name field for some volumes.
        (path, json!([mount["Type"], mount["Source"], mount["RW"]]))
    };
    Preserved {
        is_running: inspection["State"]["Running"] == true,
        policy: inspection["HostConfig"]["RestartPolicy"].clone(),
        networks: networks.map(|(network, endpoint)| (network.clone(), aliases(endpoint))).collect(),
        mounts: mounts.map(mount).collect(),
    }
}

/// The journal files of transactions in this state folder.
pub fn journal_files(state_dir: &Path) -> Vec<String> {
    let files = fs::read_dir(state_dir.join(JOURNAL)).into_iter().flatten().flatten();
    files.map(|file| file.file_name().to_string_lossy().into_owned()).collect()
}

/// Deletes the journal, as if the state folder were not persistent.
pub fn wipe_journal(state_dir: &Path) {
    let gone = fs::remove_dir_all(state_dir.join(JOURNAL));
    assert!(gone.is_ok() || !state_dir.join(JOURNAL).exists(), "the journal cannot be removed: {gone:?}");
}

const JOURNAL: &str = "journal";

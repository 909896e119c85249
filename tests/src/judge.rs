//! What must hold after an update, whatever happened in its course: one container of that name, as it was in all that
//! an update does not change, and nothing besides. Looks at an engine and at a state folder; changes neither.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use bollard::errors::Error;
use imagewatch_abi::Digest;
use serde_json::{Value, json};

use crate::engine::Scope;

/// A container as it is, in all that somebody could miss.
#[derive(Debug, Clone, PartialEq)]
pub struct Picture {
    /// Its id.
    pub id: String,
    /// When its process was last started, as the engine writes it.
    pub started_at: String,
    /// The manifest digests of its image.
    pub digests: Vec<Digest>,
    /// What an update leaves as it is.
    pub kept: Kept,
}

/// What is the same after an update, whichever way that went.
#[derive(Debug, Clone, PartialEq)]
pub struct Kept {
    /// Whether its process runs.
    pub is_running: bool,
    /// Its restart policy.
    pub policy: Value,
    /// Its aliases by network, less the id that engines add.
    pub networks: BTreeMap<String, BTreeSet<String>>,
    /// What is mounted where, and whether it can be written.
    pub mounts: BTreeMap<String, Value>,
}

/// Which way an update went.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Way {
    /// The container runs the new image.
    Forwards,
    /// It is the one from before.
    Back,
}

/// An update that is to be judged.
#[derive(Debug, Clone)]
pub struct Update {
    /// The container's name.
    pub name: String,
    /// The container before it.
    pub before: Picture,
    /// The new image's digest.
    pub digest: Digest,
    /// Whether the new image is one that may stay.
    pub is_good: bool,
}

impl Update {
    /// Which way it went.
    ///
    /// # Errors
    /// What is not in order, in words; it may only not be so yet.
    pub async fn judge(&self, scope: &Scope) -> Result<Way, String> {
        let family = format!("{}.", self.name);
        let mut names = scope.containers().await;
        names.retain(|name| *name == self.name || name.starts_with(&family));
        if names != [self.name.as_str()] {
            return Err(format!("there are {names:?}"));
        }
        let Some(now) = take_picture(scope, &self.name).await else { return Err(format!("{} is gone", self.name)) };
        self.compare(&now)
    }

    fn compare(&self, now: &Picture) -> Result<Way, String> {
        if now.kept != self.before.kept {
            return Err(format!("it was {:?}, and is {:?}", self.before.kept, now.kept));
        }
        if now.id == self.before.id {
            return Ok(Way::Back);
        }
        match (self.is_good, now.digests.contains(&self.digest)) {
            (true, true) => Ok(Way::Forwards),
            (false, true) => Err("it runs the bad image".to_owned()),
            (_, false) => Err(format!("it is another container, on {:?}", now.digests)),
        }
    }
}

/// The container of that name or id; `None` if there is none.
pub async fn take_picture(scope: &Scope, container: &str) -> Option<Picture> {
    let found = match scope.engine().docker().inspect_container(container, None).await {
        Err(Error::DockerResponseServerError { status_code: 404, .. }) => return None,
        found => found.unwrap_or_else(|error| panic!("the engine failed: {error}")),
    };
    let digests = scope.inspect(container).await?.digests;
    let inspection = serde_json::to_value(found).expect("it came as JSON");
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    Some(Picture {
        id: text(&inspection["Id"]),
        started_at: text(&inspection["State"]["StartedAt"]),
        digests,
        kept: read_kept(&inspection),
    })
}

fn read_kept(inspection: &Value) -> Kept {
    let id = inspection["Id"].as_str().unwrap_or_default();
    let aliases = |endpoint: &Value| {
        let aliases = endpoint["Aliases"].as_array().into_iter().flatten().filter_map(Value::as_str);
        aliases.filter(|alias| !id.starts_with(alias)).map(str::to_owned).collect()
    };
    let networks = inspection["NetworkSettings"]["Networks"].as_object().into_iter().flatten();
    let mounts = inspection["Mounts"].as_array().into_iter().flatten();
    let mount = |mount: &Value| {
        let path = mount["Destination"].as_str().unwrap_or_default().to_owned();
        // The source has a volume's name; Docker 28 leaves out the names of some.
        (path, json!([mount["Type"], mount["Source"], mount["RW"]]))
    };
    Kept {
        is_running: inspection["State"]["Running"] == true,
        policy: inspection["HostConfig"]["RestartPolicy"].clone(),
        networks: networks.map(|(network, endpoint)| (network.clone(), aliases(endpoint))).collect(),
        mounts: mounts.map(mount).collect(),
    }
}

/// The files that a program with this state folder has left of its transactions.
pub fn journal_files(state_dir: &Path) -> Vec<String> {
    let files = fs::read_dir(state_dir.join(JOURNAL)).into_iter().flatten().flatten();
    files.map(|file| file.file_name().to_string_lossy().into_owned()).collect()
}

/// Loses the journal, as a state folder that was not kept would.
pub fn wipe_journal(state_dir: &Path) {
    let gone = fs::remove_dir_all(state_dir.join(JOURNAL));
    assert!(gone.is_ok() || !state_dir.join(JOURNAL).exists(), "the journal cannot be removed: {gone:?}");
}

const JOURNAL: &str = "journal";

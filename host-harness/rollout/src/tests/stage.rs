//! The world of these tests: an engine in memory with a container `web` on image `old`, whose tag names `new` by now.

use std::collections::BTreeMap;

use serde_json::{Value, json};
use tempfile::TempDir;

use super::super::preflight::Preflight;
use super::super::snapshot::EngineSnapshot;
use super::*;
use crate::image_records::testing::MemoryRecords;
use imagewatch_engine::testing::Interruption;

pub(super) const REFERENCE: &str = "example.com/app:1";
pub(super) const OTHER: &str = "example.com/other:1";

pub(super) struct Stage {
    pub(super) engine: Arc<MemoryEngine>,
    pub(super) rollout: Rollout,
    pub(super) strategy: Strategy,
    /// On whose behalf.
    pub(super) manifest: &'static str,
    /// The names of those that are updated together with the one that is replaced.
    pub(super) companions: Vec<String>,
    /// How many images before the present one are kept; none where all are.
    pub(super) keep_images: Option<usize>,
    store: Arc<MemoryRecords>,
    folder: Arc<TempDir>,
}

pub(super) fn refused() -> EngineError {
    EngineError::Refused { status: 500, message: "no space left".to_owned() }
}

impl Stage {
    /// `new` is what the new image is besides its id.
    pub(super) async fn new(new: Value, running: bool) -> Self {
        Self::with(json!({ "RestartPolicy": { "Name": "always", "MaximumRetryCount": 0 } }), new, running).await
    }

    /// With these settings of the host config.
    pub(super) async fn with(host: Value, new: Value, running: bool) -> Self {
        let mut host = host;
        host["NetworkMode"] = json!("front");
        host["PortBindings"] = json!({ "80/tcp": [{ "HostIp": "", "HostPort": "8080" }] });
        let body = json!({ "HostConfig": host, "Labels": { "imagewatch.allow-rm": "true" } });
        Self::of(body, new, running).await
    }

    pub(super) async fn labelled(labels: &Value) -> Self {
        Self::of(json!({ "HostConfig": { "NetworkMode": "front" }, "Labels": labels }), json!({}), true).await
    }

    pub(super) async fn of(body: Value, new: Value, running: bool) -> Self {
        let engine = Arc::new(MemoryEngine::new());
        engine.add_image(REFERENCE, &json!({ "Id": "old" }));
        let mut body = body;
        body["NetworkingConfig"] = json!({ "EndpointsConfig": { "back": {}, "front": { "Aliases": ["www"] } } });
        engine.add_container("web", REFERENCE, body, running).await;
        let mut new = new;
        new["Id"] = json!("new");
        engine.add_image(REFERENCE, &new);
        // Where writing through to the disk costs nothing, if there is such a place.
        let folder = TempDir::new_in("/dev/shm").or_else(|_| TempDir::new()).unwrap();
        let folder = Arc::new(folder);
        let store = Arc::new(MemoryRecords::default());
        let rollout = rollout(&engine, &folder, &store);
        let (strategy, companions) = (Strategy::Replace, Vec::new());
        Self { engine, rollout, strategy, manifest: "", companions, keep_images: None, store, folder }
    }

    /// Another program on the same engine, with its own state folder.
    pub(super) fn elsewhere(other: &Self) -> Self {
        other.beside(Arc::default(), Arc::new(TempDir::new().unwrap()))
    }

    /// Another program on the same engine and state folder.
    pub(super) fn sharing(other: &Self) -> Self {
        other.beside(other.store.clone(), other.folder.clone())
    }

    /// Another program on the same engine, with these records and this state folder.
    fn beside(&self, store: Arc<MemoryRecords>, folder: Arc<TempDir>) -> Self {
        Self {
            engine: self.engine.clone(),
            rollout: rollout(&self.engine, &folder, &store),
            strategy: self.strategy,
            manifest: self.manifest,
            companions: self.companions.clone(),
            keep_images: self.keep_images,
            store,
            folder,
        }
    }

    /// `vpn-user` shares `web`'s network, `app` wants to be restarted with `vpn-user`.
    pub(super) async fn group(new: Value) -> Self {
        let stage = Self::new(new, true).await;
        stage.engine.add_image(OTHER, &json!({ "Id": "other" }));
        let shared = json!({ "HostConfig": { "NetworkMode": "container:web", "RestartPolicy": { "Name": "always" } } });
        stage.engine.add_container("vpn-user", OTHER, shared, true).await;
        let asks = json!({ "Labels": { "imagewatch.depends-on": "vpn-user" }, "HostConfig": { "RestartPolicy": { "Name": "always" } } });
        stage.engine.add_container("app", OTHER, asks, true).await;
        stage
    }

    /// `web`, `cron` and `jobs` write to one volume. `jobs` has no restart policy, as Docker makes a container when nobody
    /// says otherwise, and `cron-user` shares the network of `cron`.
    pub(super) async fn companions(new: Value) -> Self {
        let policy = json!({ "Name": "always" });
        let host = json!({ "Binds": ["data:/data"], "RestartPolicy": policy });
        let mut stage = Self::with(host, new.clone(), true).await;
        stage.engine.add_image(REFERENCE, &json!({ "Id": "old" }));
        for (name, policy) in [("cron", policy), ("jobs", json!({ "Name": "no" }))] {
            let body = json!({ "HostConfig": { "Binds": ["data:/data"], "RestartPolicy": policy } });
            stage.engine.add_container(name, REFERENCE, body, true).await;
            stage.companions.push(name.to_owned());
        }
        stage.engine.add_image(OTHER, &json!({ "Id": "other" }));
        let shared =
            json!({ "HostConfig": { "NetworkMode": "container:cron", "RestartPolicy": { "Name": "always" } } });
        stage.engine.add_container("cron-user", OTHER, shared, true).await;
        let mut new = new;
        new["Id"] = json!("new");
        stage.engine.add_image(REFERENCE, &new);
        stage
    }

    /// Without what forbids it.
    pub(super) fn start_first(mut self) -> Self {
        let id = self.engine.inspections()["web"]["Id"].as_str().unwrap().to_owned();
        self.engine.edit(&id, |c| {
            c["HostConfig"]["PortBindings"] = json!({});
            c["Config"]["Healthcheck"] = json!({ "Test": ["CMD", "true"] });
        });
        self.strategy = Strategy::StartFirst;
        self
    }

    pub(super) fn job(&self) -> Job<'static> {
        Job {
            image: NewImage { id: "new", reference: None, platform: None },
            strategy: self.strategy,
            stable_for: Duration::from_secs(1),
            companions: self.companions.clone(),
            origin: OrderRef {
                manifest: self.manifest.to_owned(),
                target: "web".to_owned(),
                reference: REFERENCE.parse().ok(),
                keep_images: self.keep_images,
                ..OrderRef::default()
            },
            slot: None,
        }
    }

    pub(super) async fn preflight(&self, name: &str) -> Result<Option<Preflight>, ReplaceError> {
        self.rollout.preflight(name, &self.job(), &EngineSnapshot::default()).await
    }

    /// As an order does it, whose policy takes what became of it.
    pub(super) async fn replace(&self, name: &str) -> Result<Replaced, ReplaceError> {
        let replaced = self.replace_untold(name).await;
        self.rollout.settled(self.manifest, "web");
        replaced
    }

    /// A replacement whose program dies at the `nth` call that changes something.
    pub(super) async fn die_replacing(&self, nth: usize, death: Interruption) {
        self.engine.interrupt(nth, death);
        tokio::select! {
            () = self.engine.death() => {}
            ended = self.replace("web") => panic!("{ended:?}"),
        }
        self.engine.revive();
    }

    pub(super) async fn replace_untold(&self, name: &str) -> Result<Replaced, ReplaceError> {
        let mut job = self.job();
        let preflight =
            self.rollout.preflight(name, &job, &EngineSnapshot::default()).await?.expect("the container is there");
        self.rollout.replace(preflight, &mut job).await
    }

    /// As [`Self::replace`], but a container that is not there is not replaced.
    pub(super) async fn try_replace(&self, name: &str) -> Option<Result<Replaced, ReplaceError>> {
        let mut job = self.job();
        let replaced = match self.rollout.preflight(name, &job, &EngineSnapshot::default()).await {
            Ok(preflight) => self.rollout.replace(preflight?, &mut job).await,
            Err(error) => Err(error),
        };
        self.rollout.settled(self.manifest, "web");
        Some(replaced)
    }

    /// A tag that was given back to the old image names the new one again.
    pub(super) async fn pull_again(&self) {
        let reference = REFERENCE.parse().unwrap();
        if self.engine.tagged(REFERENCE).as_deref() != Some("new") {
            self.engine.tag_image("new", &reference).await.unwrap();
        }
    }

    /// Where the state folder is.
    pub(super) fn state_folder(&self) -> String {
        self.folder.path().display().to_string()
    }

    /// How often the command `after` was run.
    pub(super) fn hooks_after(&self) -> usize {
        self.engine.calls().iter().filter(|call| call.ends_with("sh -c after")).count()
    }

    pub(super) async fn tend(&self) -> Vec<Report> {
        let reports = self.rollout.tend(self.manifest, &|_| true).await.unwrap();
        self.rollout.settled(self.manifest, "web");
        reports
    }

    /// What a program that is started anew works with.
    pub(super) fn restart_program(&mut self) {
        self.rollout = rollout(&self.engine, &self.folder, &self.store);
    }

    pub(super) fn wipe_journal(&self) {
        match std::fs::remove_dir_all(self.folder.path().join("journal")) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => panic!("{error}"),
            _ => {}
        }
    }

    pub(super) fn journal_files(&self) -> usize {
        std::fs::read_dir(self.folder.path().join("journal")).map_or(0, Iterator::count)
    }

    /// What is written down of a transaction under way.
    pub(super) fn journal_entry(&self) -> Option<journal::JournalEntry> {
        let files = std::fs::read_dir(self.folder.path().join("journal")).ok()?.flatten().map(|file| file.path());
        let entry = files.into_iter().find(|path| path.extension().is_some_and(|end| end == "json"))?;
        serde_json::from_slice(&std::fs::read(entry).unwrap()).ok()
    }

    /// All that must be as before: of each container its id, image, state, policy, networks with aliases, and mounts.
    pub(super) fn picture(&self) -> BTreeMap<String, Value> {
        let look = |c: &Value| {
            json!({
                "id": c["Id"], "image": c["Image"], "running": c["State"]["Running"], "policy": c["HostConfig"]["RestartPolicy"],
                "networks": c["NetworkSettings"]["Networks"], "mounts": c["Mounts"],
            })
        };
        self.engine.inspections().iter().map(|(name, c)| (name.clone(), look(c))).collect()
    }
}

fn rollout(engine: &Arc<MemoryEngine>, folder: &TempDir, store: &Arc<MemoryRecords>) -> Rollout {
    let journal = Journal::new(folder.path().join("journal"));
    Rollout::new(engine.clone(), journal, store.clone(), None)
}

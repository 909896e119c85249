//! Swapping one container for another on a newer image, and bringing the old one back when a step fails.
//!
//! The new container is created completely, under a temporary name, before the old one is touched; the
//! old one is kept, stopped and renamed, until the new one runs. Volumes are never removed.
//! A process that dies in between leaves both containers behind, the new one not started before it has its name.

use std::hash::{BuildHasher, RandomState};
use std::time::Duration;

use imagewatch_abi::Container;
use serde_json::Value;
use tokio::time::{Instant, sleep};
use tracing::warn;

use super::plan::{Plan, PlanInput, build_plan, reason_to_refuse};
use crate::engine::{Engine, EngineError};

/// Between a container's name and the mark of the transaction that works on it.
const WORKING_MARK: &str = ".imagewatch-";
const ASIDE: &str = ".old";
/// How long an engine that is away is waited for to bring a container back; less than a shutdown waits.
const RESTORE_FOR: Duration = Duration::from_secs(20);
const RESTORE_EVERY: Duration = Duration::from_millis(500);
const POLL_EVERY: Duration = Duration::from_millis(200);

/// The image that a container is to run.
#[derive(Debug, Clone, Copy)]
pub struct NewImage<'a> {
    /// The engine's id of it; a new container that runs another one is not used.
    pub id: &'a str,
    /// What it was pulled for, `os/arch[/variant]`; absent: as the old container.
    pub platform: Option<&'a str>,
}

/// The new container has the old one's name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Replaced {
    /// Its id.
    pub new_id: String,
}

/// Why a container was not replaced.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{reason}")]
pub struct ReplaceError {
    /// The old container had been taken down, and is back under its name and in its state. False also
    /// when it had not been touched, which the reason then says.
    pub restored: bool,
    /// A lowercase fragment that names the failed step and what became of the old container.
    pub reason: String,
    /// The engine was away, so the next container would fare no better.
    pub unavailable: bool,
}

impl ReplaceError {
    fn untouched(why: impl std::fmt::Display, unavailable: bool) -> Self {
        Self { restored: false, reason: format!("{why}; the container was not touched"), unavailable }
    }
}

/// Whether `name` is one that a replacement gives out while it works.
pub fn is_working_name(name: &str) -> bool {
    name.rsplit_once(WORKING_MARK).is_some_and(|(container, mark)| {
        let transaction = mark.strip_suffix(ASIDE).unwrap_or(mark);
        !container.is_empty() && transaction.len() == 8 && transaction.bytes().all(|b| b.is_ascii_hexdigit())
    })
}

/// Replaces `old` by the same container on `image`, which its reference must already name locally.
/// A container that ran must then run for `stable_for`; one that was stopped is left stopped.
pub async fn replace_container(
    engine: &dyn Engine,
    old: &Container,
    image: NewImage<'_>,
    stable_for: Duration,
) -> Result<Replaced, ReplaceError> {
    let untouched = |error: StepError| ReplaceError::untouched(&error, error.is_unavailable());
    let (plan, was_running) = prepare(engine, old, image).await.map_err(untouched)?;
    let working_name = build_working_name(&old.name);
    let created = engine.create_container(&working_name, &plan.body, plan.platform.as_deref()).await;
    let new_id = created.map_err(|error| untouched(StepError::engine("create the new container", error)))?;
    let swap = Swap { engine, old, new_id, working_name, was_running };
    if let Err(error) = swap.complete_new(&plan, image).await {
        swap.remove_new().await;
        return Err(untouched(error));
    }
    match swap.swap(stable_for).await {
        Ok(()) => {
            swap.remove_old().await;
            Ok(Replaced { new_id: swap.new_id })
        }
        Err(error) => Err(swap.restore(&error).await),
    }
}

/// Removes a container that something else provisions again on next use; its volumes stay.
pub async fn remove_container(engine: &dyn Engine, container: &Container) -> Result<(), EngineError> {
    removed(engine.remove(&container.id, true).await)
}

/// A container that is gone, or on its way, is removed.
fn removed(result: Result<(), EngineError>) -> Result<(), EngineError> {
    match result {
        Err(EngineError::NotFound { .. }) => Ok(()),
        Err(EngineError::Conflict { message }) if message.contains("already in progress") => Ok(()),
        other => other,
    }
}

fn build_working_name(name: &str) -> String {
    let random = RandomState::new().hash_one(name).to_be_bytes();
    let [a, b, c, d, ..] = random;
    format!("{name}{WORKING_MARK}{a:02x}{b:02x}{c:02x}{d:02x}")
}

/// A step that failed, and why.
#[derive(Debug, thiserror::Error)]
enum StepError {
    #[error("failed to {step}: {error}")]
    Engine { step: &'static str, error: EngineError },
    #[error("{0}")]
    Refused(String),
}

impl StepError {
    fn engine(step: &'static str, error: EngineError) -> Self {
        Self::Engine { step, error }
    }

    fn is_unavailable(&self) -> bool {
        matches!(self, Self::Engine { error, .. } if error.is_unavailable())
    }
}

async fn prepare(engine: &dyn Engine, old: &Container, image: NewImage<'_>) -> Result<(Plan, bool), StepError> {
    let inspect = |error| StepError::engine("inspect the container", error);
    let inspection = engine.inspect_container(&old.id).await.map_err(inspect)?;
    if let Some(reason) = reason_to_refuse(&inspection) {
        return Err(StepError::Refused(reason));
    }
    let old_image_id = inspection["Image"].as_str().unwrap_or_default();
    let old_image = engine.inspect_image(old_image_id).await.map_err(inspect)?.ok_or_else(|| {
        let why = "is gone, so the container's own settings cannot be told from the image's; recreate it by hand";
        StepError::Refused(format!("its image {} {why}", imagewatch_abi::short_digest(old_image_id)))
    })?;
    let volume_sources = inspect_volume_sources(engine, &inspection).await.map_err(inspect)?;
    let api = engine.api_version().await.map_err(inspect)?;
    let new_image = engine.inspect_image(image.id).await.map_err(inspect)?.unwrap_or_default();
    let all = engine.containers(&imagewatch_abi::Selector::default()).await.map_err(inspect)?;
    let plan = build_plan(&PlanInput {
        old: &inspection,
        old_image: &old_image,
        new_image: &new_image,
        volume_sources: &volume_sources,
        names: &all.into_iter().map(|container| (container.id, container.name)).collect(),
        platform: image.platform,
        api,
        is_podman: false,
    });
    Ok((plan.map_err(StepError::Refused)?, inspection["State"]["Running"] == true))
}

/// The containers whose volumes this one uses, written as `id[:mode]`. One that is gone gives none.
async fn inspect_volume_sources(engine: &dyn Engine, inspection: &Value) -> Result<Vec<Value>, EngineError> {
    let mut sources = Vec::new();
    for source in inspection["HostConfig"]["VolumesFrom"].as_array().into_iter().flatten().filter_map(Value::as_str) {
        let container = source.split(':').next().unwrap_or(source);
        match engine.inspect_container(container).await {
            Ok(inspection) => sources.push(inspection),
            Err(EngineError::NotFound { .. }) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(sources)
}

/// One replacement, from the moment the new container exists.
#[derive(Debug)]
struct Swap<'a> {
    engine: &'a dyn Engine,
    old: &'a Container,
    new_id: String,
    working_name: String,
    was_running: bool,
}

impl Swap<'_> {
    fn aside_name(&self) -> String {
        format!("{}{ASIDE}", self.working_name)
    }

    /// Connects what the create call could not, and checks that the tag has not moved in between.
    async fn complete_new(&self, plan: &Plan, image: NewImage<'_>) -> Result<(), StepError> {
        for (network, endpoint) in &plan.networks_to_connect {
            let connected = self.engine.connect_network(network, &self.new_id, endpoint).await;
            connected.map_err(|error| StepError::engine("connect the new container to its networks", error))?;
        }
        let created = self.engine.inspect_container(&self.new_id).await;
        let created = created.map_err(|error| StepError::engine("inspect the new container", error))?;
        let runs = created["Image"].as_str().unwrap_or_default();
        if runs == image.id {
            return Ok(());
        }
        let short = imagewatch_abi::short_digest;
        let (reference, runs, wanted) = (&self.old.image, short(runs), short(image.id));
        Err(StepError::Refused(format!(
            "{reference} names the image {runs} here, not {wanted} as pulled; its tag moved"
        )))
    }

    async fn swap(&self, stable_for: Duration) -> Result<(), StepError> {
        let (engine, old, name) = (self.engine, &self.old.id, &self.old.name);
        let step = |step: &'static str| move |error| StepError::engine(step, error);
        // Stopped first: in swarm mode an engine loses track of a running container's names.
        engine.stop(old).await.map_err(step("stop the old container"))?;
        engine.rename(old, &self.aside_name()).await.map_err(step("rename the old container"))?;
        engine.rename(&self.new_id, name).await.map_err(step("rename the new container"))?;
        if self.was_running {
            engine.start(&self.new_id).await.map_err(step("start the new container"))?;
            self.watch_start(stable_for).await?;
        }
        Ok(())
    }

    /// Waits until the new container has run for `stable_for`, and fails as soon as it does not.
    async fn watch_start(&self, stable_for: Duration) -> Result<(), StepError> {
        let until = Instant::now() + stable_for;
        loop {
            let inspection = self.engine.inspect_container(&self.new_id).await;
            let inspection = inspection.map_err(|error| StepError::engine("inspect the started container", error))?;
            let state = &inspection["State"];
            let restarts = inspection["RestartCount"].as_u64().unwrap_or(0);
            if state["Running"] != true || state["Restarting"] == true || restarts > 0 {
                let code = &state["ExitCode"];
                let error = state["Error"].as_str().filter(|error| !error.is_empty());
                let error = error.map(|error| format!(" ({error})")).unwrap_or_default();
                let reason = format!("the new container did not keep running: it exited with code {code}{error}");
                return Err(StepError::Refused(reason));
            }
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(());
            }
            sleep(left.min(POLL_EVERY)).await;
        }
    }

    async fn remove_old(&self) {
        if let Err(error) = removed(self.engine.remove(&self.old.id, true).await) {
            let (container, left) = (&self.old.name, self.aside_name());
            warn!(%container, %left, %error, "replaced, but the old container could not be removed");
        }
    }

    async fn remove_new(&self) {
        if let Err(error) = removed(self.engine.remove(&self.new_id, true).await) {
            let (container, left) = (&self.old.name, &self.new_id);
            warn!(%container, %left, %error, "the unused new container could not be removed");
        }
    }

    /// Brings the old container back. The new one is removed first: it may hold the name, the ports
    /// and the addresses. An engine that went away, restarted say, is waited for: to leave now would
    /// be an outage.
    async fn restore(&self, cause: &StepError) -> ReplaceError {
        let until = Instant::now() + RESTORE_FOR;
        let back = loop {
            self.remove_new().await;
            match self.bring_back().await {
                Err(error) if error.is_unavailable() && Instant::now() < until => sleep(RESTORE_EVERY).await,
                back => break back,
            }
        };
        let after = match &back {
            Ok(()) => "the old container is back".to_owned(),
            Err(error) => format!(
                "the old container could not be brought back ({error}); look for {} or {}",
                self.old.name,
                self.aside_name()
            ),
        };
        let unavailable = cause.is_unavailable() || back.as_ref().is_err_and(EngineError::is_unavailable);
        ReplaceError { restored: back.is_ok(), reason: format!("{cause}; {after}"), unavailable }
    }

    async fn bring_back(&self) -> Result<(), EngineError> {
        let inspection = self.engine.inspect_container(&self.old.id).await?;
        if inspection["Name"].as_str().map(|name| name.trim_start_matches('/')) != Some(&self.old.name) {
            self.engine.rename(&self.old.id, &self.old.name).await?;
        }
        if self.was_running {
            self.engine.start(&self.old.id).await?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;

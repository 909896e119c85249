//! What one accepted order does: have the image, then handle the containers created from it, one after
//! the other. Decides neither when nor which image; does nothing that the manifest does not grant.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use imagewatch_abi::{
    Container, ContainerFailure, Digest, Failure, FailureCode, Order, Reference, Report, Strategy, short_digest,
};
use serde_json::Value;
use tokio::sync::OwnedMutexGuard;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use crate::engine::{Engine, EngineError, PullProgress};
use crate::replace::transaction::{NewImage, is_working_name, remove_container, replace_container};
use crate::secret::Credential;

/// How long a pull may take, unless configured otherwise.
pub const DEFAULT_PULL_TIMEOUT: Duration = Duration::from_mins(5);
/// How long a replaced container must run before its predecessor is removed.
pub const DEFAULT_STABLE_FOR: Duration = Duration::from_secs(2);

/// Finds the credential of a registry, named as references name it: `ghcr.io`, `docker.io`, `127.0.0.1:5000`.
pub type CredentialLookup = Arc<dyn Fn(&str) -> Option<Credential> + Send + Sync>;
/// Is told how an order's pull goes, on every word of the engine.
pub type ProgressObserver = Arc<dyn Fn(&Order, PullProgress) + Send + Sync>;
/// Whether the manifest grants a container.
pub type ContainerGrant = Arc<dyn Fn(&Container) -> bool + Send + Sync>;

/// What an order is carried out with; one per manifest.
#[derive(Clone)]
pub struct OrderContext {
    /// The engine that it acts on.
    pub engine: Arc<dyn Engine>,
    /// Credentials for pulls.
    pub credentials: CredentialLookup,
    /// The limit of one pull; see [`DEFAULT_PULL_TIMEOUT`].
    pub pull_timeout: Duration,
    /// See [`DEFAULT_STABLE_FOR`].
    pub stable_for: Duration,
    /// Watches pulls.
    pub progress: ProgressObserver,
    /// Ends an order at its next safe point.
    pub shutdown: CancellationToken,
    /// The manifest's `grant.containers`.
    pub is_granted: ContainerGrant,
    /// Must be the same for all contexts on one engine.
    pub locks: ContainerLocks,
}

impl fmt::Debug for OrderContext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OrderContext")
            .field("engine", &self.engine)
            .field("pull_timeout", &self.pull_timeout)
            .field("stable_for", &self.stable_for)
            .finish_non_exhaustive()
    }
}

/// One lock per container name, so that two orders never handle a container at once. Clones share the locks.
#[derive(Debug, Clone, Default)]
pub struct ContainerLocks(Arc<Mutex<HashMap<String, Arc<tokio::sync::Mutex<()>>>>>);

impl ContainerLocks {
    async fn lock(&self, name: &str) -> OwnedMutexGuard<()> {
        let lock = {
            let mut locks = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            locks.retain(|_, lock| Arc::strong_count(lock) > 1);
            locks.entry(name.to_owned()).or_default().clone()
        };
        lock.lock_owned().await
    }
}

/// Carries out `order` and reports how it ended. One container's failure does not stop the others; the
/// report's `err` is set when the image could not be had, the containers not be listed, the engine went away, or
/// the host shuts down, and what was done until then is in the report.
pub async fn run_order(ctx: &OrderContext, order: &Order) -> Report {
    let mut report = Report { order: order.order.clone(), target: order.target.clone(), ..Report::default() };
    if let Err(failure) = carry_out(ctx, order, &mut report).await {
        // The policy says it out loud when the report is settled.
        debug!(order = %order.order, target = %order.target, error = %failure, "order failed");
        report.err = Some(failure);
    }
    report
}

async fn carry_out(ctx: &OrderContext, order: &Order, report: &mut Report) -> Result<(), Failure> {
    let image = ensure_image(ctx, order).await?;
    report.pulled = true;
    if !order.recreate {
        return Ok(());
    }
    for container in list_containers(ctx, order).await? {
        let Some(_lock) = lock_container(ctx, &container.name).await else {
            return Err(shutting_down("the remaining containers were not handled"));
        };
        handle(ctx, order, &image, &container, report).await?;
    }
    Ok(())
}

fn shutting_down(what: &str) -> Failure {
    Failure::passing(FailureCode::ShuttingDown, format!("the host is stopping; {what}"))
}

/// The id of the image that the order's reference names, after making sure that it is the right one.
async fn ensure_image(ctx: &OrderContext, order: &Order) -> Result<String, Failure> {
    let reference = order.reference.clone().with_explicit_tag();
    let local = inspect_image(ctx, &reference).await?;
    if let (Some(local), Some(digest)) = (&local, &order.digest)
        && has_digest(local, &reference, digest)
        && has_platform(local, order.platform.as_deref())
    {
        return image_id(local, &reference);
    }
    pull(ctx, order, &reference).await?;
    let missing = || pull_failed(format!("{reference} is not there after the pull"));
    let pulled = inspect_image(ctx, &reference).await?.ok_or_else(missing)?;
    if let Some(digest) = &order.digest
        && !has_digest(&pulled, &reference, digest)
    {
        return Err(pull_failed(format!(
            "{reference} has another digest than {} after the pull; its tag moved, the next check will see where",
            digest.short()
        )));
    }
    let digest = order.digest.as_ref().map_or("the tag's", Digest::short);
    info!(target = %order.target, %reference, %digest, "pulled");
    image_id(&pulled, &reference)
}

fn pull_failed(message: String) -> Failure {
    Failure::passing(FailureCode::PullFailed, message)
}

async fn inspect_image(ctx: &OrderContext, reference: &Reference) -> Result<Option<Value>, Failure> {
    ctx.engine.inspect_image(&reference.to_string()).await.map_err(|error| error.failure())
}

fn image_id(image: &Value, reference: &Reference) -> Result<String, Failure> {
    let id = image["Id"].as_str().map(str::to_owned);
    id.ok_or_else(|| Failure::lasting(FailureCode::Other, format!("the engine shows no id for {reference}")))
}

/// Whether the engine knows `image` by this digest in the reference's repository.
fn has_digest(image: &Value, reference: &Reference, digest: &Digest) -> bool {
    let known = image["RepoDigests"].as_array().into_iter().flatten().filter_map(Value::as_str);
    known
        .filter_map(|text| text.parse::<Reference>().ok())
        .any(|known| known.digest() == Some(digest) && known.name() == reference.name())
}

/// One digest may be an index of many platforms, of which the engine has one.
fn has_platform(image: &Value, wanted: Option<&str>) -> bool {
    let mut wanted = wanted.unwrap_or_default().split('/');
    ["Os", "Architecture", "Variant"].into_iter().all(|field| match wanted.next() {
        None | Some("") => true,
        Some(part) => image[field] == part,
    })
}

async fn pull(ctx: &OrderContext, order: &Order, reference: &Reference) -> Result<(), Failure> {
    let credential = (ctx.credentials)(reference.registry());
    let progress = |progress: PullProgress| (ctx.progress)(order, progress);
    let pull = ctx.engine.pull(reference, order.platform.as_deref(), credential.as_ref(), &progress);
    tokio::select! {
        biased;
        () = ctx.shutdown.cancelled() => Err(shutting_down("the pull was abandoned")),
        ended = tokio::time::timeout(ctx.pull_timeout, pull) => match ended {
            Ok(result) => result.map_err(|error| error.failure()),
            Err(_) => Err(pull_failed(format!("{reference} was not pulled within {} s", ctx.pull_timeout.as_secs()))),
        },
    }
}

/// The selected containers that were created from the order's reference, less those of a replacement under way.
async fn list_containers(ctx: &OrderContext, order: &Order) -> Result<Vec<Container>, Failure> {
    let wanted = order.reference.clone().with_explicit_tag();
    let containers = ctx.engine.containers(&order.containers).await.map_err(|error| error.failure())?;
    let is_wanted = |c: &Container| is_created_from(&c.image, &wanted) && !is_working_name(&c.name);
    let (granted, rest): (Vec<_>, Vec<_>) =
        containers.into_iter().filter(is_wanted).partition(|container| (ctx.is_granted)(container));
    for container in rest {
        debug!(container = %container.name, "left alone: `grant.containers` of the plugin manifest has no place for it");
    }
    Ok(granted)
}

fn is_created_from(image: &str, wanted: &Reference) -> bool {
    image.parse::<Reference>().is_ok_and(|reference| reference.with_explicit_tag() == *wanted)
}

/// `None` when the host shuts down first.
async fn lock_container(ctx: &OrderContext, name: &str) -> Option<OwnedMutexGuard<()>> {
    tokio::select! {
        biased;
        () = ctx.shutdown.cancelled() => None,
        lock = ctx.locks.lock(name) => Some(lock),
    }
}

/// Handles one container, whose lock is held, and enters it into the report. Fails when going on is of no use.
async fn handle(
    ctx: &OrderContext,
    order: &Order,
    image_id: &str,
    listed: &Container,
    report: &mut Report,
) -> Result<(), Failure> {
    let mut fail = |reason: String| {
        warn!(container = %listed.name, %reason, "container not handled");
        report.failed.push(ContainerFailure { container: listed.name.clone(), reason, ..ContainerFailure::default() });
    };
    // Another order may have handled it while this one waited for the lock.
    let container = match current(ctx, listed).await {
        Ok(Some(container)) => container,
        Ok(None) => return Ok(()),
        Err(error) => {
            fail(format!("failed to inspect it: {error}"));
            return stop_if_unavailable(&error);
        }
    };
    if order.only_outdated && container.image_id == image_id {
        return Ok(());
    }
    match order.strategy {
        Strategy::Remove => match remove_container(&*ctx.engine, &container).await {
            Ok(()) => info!(container = %container.name, "removed"),
            Err(error) => {
                fail(format!("failed to remove it: {error}"));
                return stop_if_unavailable(&error);
            }
        },
        Strategy::PullOnly | Strategy::Notify => return Ok(()),
        Strategy::Replace | Strategy::StartFirst => {
            let image = NewImage { id: image_id, platform: order.platform.as_deref() };
            match replace_container(&*ctx.engine, &container, image, ctx.stable_for).await {
                Ok(_) => info!(container = %container.name, image_id = %short_digest(image_id), "replaced"),
                Err(error) => {
                    fail(error.reason.clone());
                    if error.restored {
                        warn!(container = %container.name, "restored");
                        report.restored.push(container.name);
                    }
                    return if error.unavailable { Err(engine_away(error.reason)) } else { Ok(()) };
                }
            }
        }
    }
    report.recreated.push(container.name);
    Ok(())
}

fn engine_away(message: String) -> Failure {
    Failure::passing(FailureCode::EngineUnavailable, message)
}

fn stop_if_unavailable(error: &EngineError) -> Result<(), Failure> {
    if error.is_unavailable() { Err(error.failure()) } else { Ok(()) }
}

/// The container of that name as it is now; `None` if there is none from that reference any more.
async fn current(ctx: &OrderContext, listed: &Container) -> Result<Option<Container>, EngineError> {
    let inspection = match ctx.engine.inspect_container(&listed.name).await {
        Ok(inspection) => inspection,
        Err(EngineError::NotFound { .. }) => return Ok(None),
        Err(error) => return Err(error),
    };
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let labels = serde_json::from_value(inspection["Config"]["Labels"].clone()).unwrap_or_default();
    let now = Container { id: text(&inspection["Id"]), image_id: text(&inspection["Image"]), labels, ..listed.clone() };
    // Made anew meanwhile, it may follow another image, or have lost the label that granted it.
    let is_same = inspection["Config"]["Image"] == listed.image.as_str() && (ctx.is_granted)(&now);
    Ok(is_same.then_some(now))
}

#[cfg(test)]
mod tests;

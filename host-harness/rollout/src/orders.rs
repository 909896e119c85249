//! What one accepted order does: have the image, then handle the containers created from it, one after
//! the other. Decides neither when nor which image; does nothing that the manifest does not grant.

mod batch;
mod companions;
mod context;
mod early;
mod image;
mod logins;
mod platform;
mod service;

use imagewatch_abi::{
    Container, ContainerFailure, Failure, FailureCode, Fault, ImageOrigin, Order, Reference, Report, Strategy,
    short_digest,
};
use serde_json::Value;
use tracing::{debug, info, warn};

use crate::label::OrderRef;
use crate::labels::{COMPOSE_PROJECT, ENABLE, Labels};
use crate::locks::Locked;
use crate::preflight::refuse_for_now;
use crate::step_error::StepError;
use crate::systemd::unit_of;
use crate::{Job, NewImage, ReplaceError, is_working_name};
use imagewatch_engine::{EngineError, names_same_image};

pub use batch::Batch;
use companions::{companions_of, find_candidates};
pub use context::{
    ContainerGrant, CredentialLookup, DEFAULT_PULL_TIMEOUT, OrderContext, ProgressObserver, no_progress,
};
use early::refuse_all_before_pull;
use image::{Image, ensure_image};
pub use logins::RefusedLogins;
use platform::Platforms;
pub use service::Services;
use service::Stop;

/// Carries out `order`, one of `batch`, and reports how it ended. One container's failure does not stop the others, unless the
/// image is to blame; the report's `err` is set when the image could not be had, the containers not be listed, the engine
/// went away, or the host shuts down, and what was done until then is in the report.
pub async fn run_order(ctx: &OrderContext, order: &Order, batch: &Batch) -> Report {
    let _ends = batch.begin(order);
    let mut report = Report {
        order: order.order.clone(),
        target: order.target.clone(),
        reference: Some(order.reference.clone()),
        digest: order.digest.clone(),
        ..Report::default()
    };
    if let Err(failure) = carry_out(ctx, order, batch, &mut report).await {
        // The policy says it out loud when the report is settled.
        debug!(order = %order.order, target = %order.target, error = %failure, "order failed");
        report.err = Some(failure);
    }
    report
}

async fn carry_out(ctx: &OrderContext, order: &Order, batch: &Batch, report: &mut Report) -> Result<(), Failure> {
    if let Some(refused) = refuse_all_before_pull(ctx, order).await {
        stop_companions_of_refused(ctx, order, batch, &refused).await?;
        report.failed = refused;
        return Ok(());
    }
    let turn = ctx.acquire_slot().await.ok_or_else(|| shutting_down("the image was not pulled"))?;
    let platforms = Platforms::of(ctx, order).await?;
    let image = ensure_image(ctx, order, platforms.wanted.as_deref()).await?;
    drop(turn);
    report.pulled = true;
    report.digest = image.digest.clone().or_else(|| report.digest.take());
    if !order.recreate {
        return Ok(());
    }
    let stops = batch.wait_for_turn(ctx, order).await;
    handle_containers(ctx, order, batch, (&image, &platforms, stops), report).await
}

/// Leaves those alone that were to be updated together with a container that is refused.
async fn stop_companions_of_refused(
    ctx: &OrderContext,
    order: &Order,
    batch: &Batch,
    refused: &[ContainerFailure],
) -> Result<(), Failure> {
    let containers = list_containers(ctx, order).await?;
    let candidates = find_candidates(ctx, order, None, &containers, batch).await?;
    for failure in refused {
        let container = containers.iter().find(|container| container.name == failure.container);
        let companions = container.map(|container| companions_of(container, &candidates)).unwrap_or_default();
        batch.stop_others(order, &Stop::of(failure, &companions, false));
    }
    Ok(())
}

/// Handles the containers of `order` one after the other. Those that were to be updated together with one that failed
/// are left alone, and after a fault of the image all of them.
async fn handle_containers(
    ctx: &OrderContext,
    order: &Order,
    batch: &Batch,
    (image, platforms, stops): (&Image, &Platforms, Vec<Stop>),
    report: &mut Report,
) -> Result<(), Failure> {
    let containers = list_containers(ctx, order).await?;
    let candidates = find_candidates(ctx, order, Some(image), &containers, batch).await?;
    let mut own_stops: Vec<Stop> = Vec::new();
    for container in &containers {
        let is_outdated = container.image_id != image.id || !order.only_outdated;
        if report.recreated.contains(&container.name) {
            continue;
        }
        let left_alone = stops.iter().chain(&own_stops).find_map(|stop| stop.failure_of(container));
        if is_outdated && let Some(failure) = left_alone {
            report.failed.push(failure);
            continue;
        }
        let companions = companions_of(container, &candidates);
        let handled = Handled { ctx, order, batch, image, platforms, listed: container, companions };
        match handled.handle().await? {
            Ending::Untouched => {}
            Ending::Done(names) => report.recreated.extend(names),
            Ending::Failed { failure, is_restored, is_for_all, engine_away } => {
                warn!(container = %failure.container, reason = %failure.reason, "container not handled");
                report.restored.extend(is_restored.then(|| failure.container.clone()));
                let stop = Stop::of(&failure, &handled.companions, is_for_all);
                report.failed.push(failure);
                batch.stop_others(order, &stop);
                own_stops.push(stop);
                if let Some(failure) = engine_away {
                    return Err(failure);
                }
            }
        }
    }
    Ok(())
}

fn shutting_down(what: &str) -> Failure {
    Failure::retryable(FailureCode::ShuttingDown, format!("the host is stopping; {what}"))
}

fn not_handled() -> Failure {
    shutting_down("the remaining containers were not handled")
}

/// What the containers of `order` were created from.
fn created_from(order: &Order) -> Reference {
    order.from.as_ref().unwrap_or(&order.reference).clone().with_explicit_tag()
}

/// The selected containers that were created from the order's reference or the one that they leave, less those of a replacement under way.
async fn list_containers(ctx: &OrderContext, order: &Order) -> Result<Vec<Container>, Failure> {
    let wanted = created_from(order);
    let mut listed = ctx.rollout.engine.containers(&order.containers).await.map_err(|error| error.failure())?;
    ctx.rollout.images.complete_origins(&mut listed);
    let is_wanted = |c: &Container| {
        is_created_from(&c.image, &wanted) && !is_working_name(&c.name) && may_be_from_registry(order, c)
    };
    let (granted, rest): (Vec<_>, Vec<_>) =
        listed.into_iter().filter(is_wanted).partition(|container| (ctx.is_granted)(container));
    for container in rest {
        debug!(container = %container.name, "left alone: `grant.containers` of the plugin manifest has no place for it");
    }
    Ok(granted)
}

/// Whether an order may touch `container`: a poll's order leaves it alone if its image was built or loaded on this
/// machine, or may have been. By hand, with no digest, everything that was created from the reference is meant.
fn may_be_from_registry(order: &Order, container: &Container) -> bool {
    let is_open = match container.origin {
        Some(ImageOrigin::Local) => false,
        Some(ImageOrigin::Unknown) => order.containers.unknown_origin,
        Some(ImageOrigin::Registry) | None => true,
    };
    order.digest.is_none() || is_open
}

fn is_created_from(image: &str, wanted: &Reference) -> bool {
    image.parse::<Reference>().is_ok_and(|reference| reference.with_explicit_tag() == *wanted)
}

/// `image`, which names `from`, with the tag of `to`: written as its author wrote it, short or in full.
fn retag(image: &str, from: &Reference, to: &Reference) -> String {
    let untagged = image.strip_suffix(&format!(":{}", from.tag_or_latest())).unwrap_or(image);
    format!("{untagged}:{}", to.tag_or_latest())
}

/// What became of one container.
#[derive(Debug)]
enum Ending {
    /// There was nothing to do.
    Untouched,
    /// These were replaced or removed.
    Done(Vec<String>),
    Failed {
        failure: ContainerFailure,
        is_restored: bool,
        /// The others of the group are left alone: they would run the same bad image, or the service has lost a container.
        is_for_all: bool,
        /// Why to go on is of no use.
        engine_away: Option<Failure>,
    },
}

/// How `container` is handled by `order`; `None` where its label opts out.
///
/// # Errors
/// Why a label cannot be read.
fn strategy_of(order: &Order, container: &Container) -> Result<Option<Strategy>, String> {
    let labels = serde_json::to_value(&container.labels).unwrap_or_default();
    let labels = Labels(&labels);
    let own = labels.check().and_then(|()| labels.strategy())?;
    Ok((!labels.is_no(ENABLE)).then(|| own.unwrap_or(order.strategy)))
}

/// One container of an order.
struct Handled<'a> {
    ctx: &'a OrderContext,
    order: &'a Order,
    batch: &'a Batch,
    image: &'a Image,
    platforms: &'a Platforms,
    listed: &'a Container,
    /// The names of those that are updated together with it.
    companions: Vec<String>,
}

impl Handled<'_> {
    /// Fails when going on is of no use.
    async fn handle(&self) -> Result<Ending, Failure> {
        let strategy = match strategy_of(self.order, self.listed) {
            Ok(Some(strategy)) => strategy,
            Ok(None) => {
                info!(container = %self.listed.name, "skipped: its label {ENABLE} opts out");
                return Ok(Ending::Untouched);
            }
            Err(reason) => return Ok(self.failed(&StepError::refused(reason))),
        };
        match strategy {
            Strategy::PullOnly | Strategy::Notify => {
                info!(container = %self.listed.name, ?strategy, "left as it is, as its strategy has it");
                Ok(Ending::Untouched)
            }
            Strategy::Remove => self.remove().await,
            Strategy::Replace | Strategy::StartFirst => self.replace(strategy).await,
        }
    }

    async fn replace(&self, strategy: Strategy) -> Result<Ending, Failure> {
        let rollout = &self.ctx.rollout;
        let origin = OrderRef {
            manifest: self.ctx.manifest.clone(),
            target: self.order.target.clone(),
            reference: Some(self.order.reference.clone()),
            from: self.order.from.clone(),
            digest: self.image.digest.clone(),
            order: Some(self.order.order.clone()),
            keep_images: self.ctx.keep_images,
        };
        let reference = self.order.from.as_ref().map(|from| retag(&self.listed.image, from, &self.order.reference));
        if let Some(reason) = self.platforms.reason_against(self.listed) {
            return Ok(self.failed(&StepError::refused(reason)));
        }
        let platform = self.image.platform.as_deref();
        let image = NewImage { id: &self.image.id, reference: reference.as_deref(), platform };
        let (stable_for, companions) = (self.ctx.stable_for, self.companions.clone());
        let mut job = Job { image, strategy, stable_for, companions, origin, slot: None };
        if let Some(inspection) = self.find().await?
            && let Some(unit) = unit_of(&inspection, &self.image_of(&inspection).await?)
        {
            return self.restart_unit(unit, &job).await;
        }
        let surveyed = self
            .ctx
            .shutdown
            .run_until_cancelled(rollout.preflight(&self.listed.name, &job, &self.batch.snapshot))
            .await;
        let preflight = match surveyed.ok_or_else(not_handled)? {
            Ok(Some(preflight)) => preflight,
            Ok(None) => return Ok(Ending::Untouched),
            Err(error) => return Ok(self.ended(Err(error), Vec::new())),
        };
        // Only now: who waits for a lock keeps nobody else from working.
        job.slot = Some(self.ctx.acquire_slot().await.ok_or_else(not_handled)?);
        let old = preflight.root().container.clone();
        if !self.is_still_meant(&old) {
            return Ok(Ending::Untouched);
        }
        let replaced = rollout.replace(preflight, &mut job).await;
        self.tidy(&old, replaced.as_ref().err()).await;
        let (result, names) = replaced.map_or_else(|error| (Err(error), Vec::new()), |done| (Ok(()), done.containers));
        Ok(self.ended(result, names))
    }

    /// What is left to do about tags once `old` was replaced, or failed to be.
    async fn tidy(&self, old: &Value, error: Option<&ReplaceError>) {
        let Order { reference, from, .. } = self.order;
        let rollout = &self.ctx.rollout;
        let old_image = old["Image"].as_str().unwrap_or_default();
        if let Some(error) = error {
            // The tag that was to be left still names the old image.
            if error.step_error.fault == Some(Fault::Image) && from.is_none() {
                rollout.give_tag_back(reference, old_image).await;
            }
            return;
        }
        info!(container = %self.listed.name, image_id = %short_digest(&self.image.id), "replaced");
        if let (Some(from), Some(project)) = (from, Labels::of(old).value(COMPOSE_PROJECT)) {
            warn!(
                container = %self.listed.name, %project,
                "its compose file still names {from}: write {reference} there, or the next `docker compose up` goes back"
            );
        }
    }

    async fn restart_unit(&self, unit: &str, job: &Job<'_>) -> Result<Ending, Failure> {
        if job.image.reference.is_some() {
            let why = format!("systemd unit {unit} names its tag; write {} there", self.order.reference);
            return Ok(self.failed(&StepError::refused(why)));
        }
        let Some((_locked, inspection)) = self.find_locked().await? else { return Ok(Ending::Untouched) };
        if unit_of(&inspection, &self.image_of(&inspection).await?) != Some(unit) {
            return Ok(Ending::Untouched);
        }
        let rollout = &self.ctx.rollout;
        if rollout.is_own(&inspection) {
            let why = "it is this updater, which nothing would bring back; restart its unit by hand";
            return Ok(self.failed(&StepError::refused(why)));
        }
        if let Err(step_error) = refuse_for_now(&inspection) {
            return Ok(self.failed(&step_error));
        }
        let restarted = rollout.restart_unit(&inspection, unit, job).await;
        Ok(self.ended(restarted, vec![self.listed.name.clone()]))
    }

    /// The container under its lock, unless another order handled it while this one waited for that.
    async fn find_locked(&self) -> Result<Option<(Locked, Value)>, Failure> {
        let names = [self.listed.name.clone()];
        let locked = self.ctx.shutdown.run_until_cancelled(self.ctx.rollout.locks.lock(&names)).await;
        let locked = locked.ok_or_else(not_handled)?;
        let found = self.find().await?.filter(|inspection| self.is_still_meant(inspection));
        Ok(found.map(|inspection| (locked, inspection)))
    }

    async fn image_of(&self, inspection: &Value) -> Result<Value, Failure> {
        let id = inspection["Image"].as_str().unwrap_or_default();
        let image = self.ctx.rollout.engine.inspect_image(id).await.map_err(|error| error.failure())?;
        Ok(image.unwrap_or_default())
    }

    async fn remove(&self) -> Result<Ending, Failure> {
        let rollout = &self.ctx.rollout;
        let Some((_locked, inspection)) = self.find_locked().await? else { return Ok(Ending::Untouched) };
        if let Err(step_error) = rollout.refuse_removal(&inspection).await {
            return Ok(self.failed(&step_error));
        }
        match rollout.remove(inspection["Id"].as_str().unwrap_or_default()).await {
            Ok(()) => {
                info!(container = %self.listed.name, "removed");
                Ok(Ending::Done(vec![self.listed.name.clone()]))
            }
            Err(error) if error.is_unavailable() => Err(error.failure()),
            Err(error) => Ok(self.failed(&StepError::remove(&error))),
        }
    }

    async fn find(&self) -> Result<Option<Value>, Failure> {
        match self.ctx.rollout.engine.inspect_container(&self.listed.name).await {
            Ok(inspection) => Ok(Some(inspection)),
            Err(EngineError::NotFound { .. }) => Ok(None),
            Err(error) => Err(error.failure()),
        }
    }

    /// Made anew meanwhile, it may follow another image, have lost the label that granted it, or be on the image.
    fn is_still_meant(&self, inspection: &Value) -> bool {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let labels = serde_json::from_value(inspection["Config"]["Labels"].clone()).unwrap_or_default();
        let now = Container {
            id: text(&inspection["Id"]),
            image_id: text(&inspection["Image"]),
            labels,
            ..self.listed.clone()
        };
        let is_outdated = now.image_id != self.image.id || !self.order.only_outdated;
        let image = inspection["Config"]["Image"].as_str().unwrap_or_default();
        is_outdated && names_same_image(image, &self.listed.image) && (self.ctx.is_granted)(&now)
    }

    fn ended(&self, result: Result<(), ReplaceError>, names: Vec<String>) -> Ending {
        let Err(error) = result else { return Ending::Done(names) };
        if error.is_restored {
            warn!(container = %self.listed.name, "restored");
        }
        for line in &error.step_error.log {
            warn!(container = %self.listed.name, "its new container said: {line}");
        }
        let away = || Failure::retryable(FailureCode::EngineUnavailable, error.reason.clone());
        let engine_away = error.step_error.engine_unreachable.then(away);
        let is_for_all = error.is_down || error.step_error.fault == Some(Fault::Image);
        let failure = ContainerFailure { reason: error.reason, ..error.step_error.as_failure(&self.listed.name) };
        Ending::Failed { failure, is_restored: error.is_restored, is_for_all, engine_away }
    }

    fn failed(&self, step_error: &StepError) -> Ending {
        let failure = step_error.as_failure(&self.listed.name);
        Ending::Failed { failure, is_restored: false, is_for_all: false, engine_away: None }
    }
}

#[cfg(test)]
mod tests;

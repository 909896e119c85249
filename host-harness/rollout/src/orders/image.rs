//! Having the image of an order: pulled, and the one that was meant. Touches no container.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use imagewatch_abi::{Digest, Failure, FailureCode, Order, PullCause, Reference};
use serde_json::Value;
use tokio::time::Instant;
use tracing::{info, warn};

use super::{OrderContext, shutting_down};
use imagewatch_base::secret::{Credential, redact_tokens};
use imagewatch_engine::PullProgress;
use imagewatch_engine::image_facts::platform_of;

/// An image that is here.
#[derive(Debug)]
pub(super) struct Image {
    pub(super) id: String,
    /// What the order wants it to be, or as which the reference's repository knows it.
    pub(super) digest: Option<Digest>,
    /// What to create containers for; absent: no platform is named.
    pub(super) platform: Option<String>,
}

/// The image that the order's reference names, for `platform`, after making sure that it is the right one.
pub(super) async fn ensure_image(ctx: &OrderContext, order: &Order, platform: Option<&str>) -> Result<Image, Failure> {
    let reference = order.reference.clone().with_explicit_tag();
    let local = inspect_image(ctx, &reference).await?;
    let is_right = |local: &Value| order.digest.as_ref().is_some_and(|digest| has_digest(local, &reference, digest));
    if let Some(local) = local.filter(is_right)
        && provides(ctx, &reference, &local, platform).await?
    {
        return read_image(ctx, &local, &reference, order, platform);
    }
    pull(ctx, order, &reference, platform).await?;
    let missing = || Failure::pull(PullCause::Other, format!("{reference} is not there after the pull"));
    let pulled = inspect_image(ctx, &reference).await?.ok_or_else(missing)?;
    if let Some(digest) = &order.digest
        && !has_digest(&pulled, &reference, digest)
        && !is_second_platform(ctx, &pulled, &reference, digest).await?
    {
        return Err(other_image(&pulled, &reference, digest));
    }
    let digest = order.digest.as_ref().map_or("the tag's", Digest::short);
    info!(target = %order.target, %reference, %digest, "pulled");
    // An image that is no index is pulled whatever its platform: containers on it are created as without one.
    let platform = match platform {
        Some(platform) if order.platform.is_some() || provides(ctx, &reference, &pulled, Some(platform)).await? => {
            Some(platform)
        }
        _ => None,
    };
    read_image(ctx, &pulled, &reference, order, platform)
}

/// The engine got `pulled` where the registry has `wanted`.
fn other_image(pulled: &Value, reference: &Reference, wanted: &Digest) -> Failure {
    let got: Vec<String> = digests(pulled, reference).map(|digest| digest.to_string()).collect();
    let got = if got.is_empty() { "an image without a digest".to_owned() } else { got.join(" ") };
    let message = format!(
        "{reference} is {wanted} at the registry, but the engine got {got}: the engine gets a different image than the \
         registry has; a mirror or a cache is between them, or the tag moved during the pull"
    );
    Failure::pull(PullCause::Mismatch, message)
}

async fn inspect_image(ctx: &OrderContext, reference: &Reference) -> Result<Option<Value>, Failure> {
    ctx.rollout.engine.inspect_image(&reference.to_string()).await.map_err(|error| error.failure())
}

fn read_image(
    ctx: &OrderContext,
    image: &Value,
    reference: &Reference,
    order: &Order,
    platform: Option<&str>,
) -> Result<Image, Failure> {
    let missing = || Failure::permanent(FailureCode::Other, format!("the engine shows no id for {reference}"));
    let id = image["Id"].as_str().map(str::to_owned).ok_or_else(missing)?;
    // It has the digest that its registry named, or it was just pulled.
    ctx.rollout.images.note_pulled(reference, &id);
    // An image pulled by hand has one digest in its repository, unless it was pushed there twice.
    let digest = order.digest.clone().or_else(|| digests(image, reference).next_back());
    Ok(Image { id, digest, platform: platform.map(str::to_owned) })
}

/// Whether the engine knows `image` by this digest in the reference's repository.
fn has_digest(image: &Value, reference: &Reference, digest: &Digest) -> bool {
    digests(image, reference).any(|known| known == *digest)
}

/// Whether `pulled` has no digest because an image for another platform has it. Both are of the index `digest`, and a
/// graph driver gives a digest to the first image that is pulled by it only.
async fn is_second_platform(
    ctx: &OrderContext,
    pulled: &Value,
    reference: &Reference,
    digest: &Digest,
) -> Result<bool, Failure> {
    if digests(pulled, reference).next().is_some() {
        return Ok(false);
    }
    let first = ctx.rollout.engine.inspect_image(&reference.at(digest).to_string()).await;
    let first = first.map_err(|error| error.failure())?;
    Ok(first.is_some_and(|first| platform_of(&first) != platform_of(pulled)))
}

/// The digests under which the reference's repository has `image`.
fn digests(image: &Value, reference: &Reference) -> impl DoubleEndedIterator<Item = Digest> {
    let known = image["RepoDigests"].as_array().into_iter().flatten().filter_map(Value::as_str);
    let parse = |text: &str| text.parse::<Reference>().ok();
    let same = known.filter_map(parse).filter(|known| known.name() == reference.name());
    same.filter_map(|known| known.digest().cloned())
}

/// Whether the engine has `image` for this platform, or for its own where none is asked for: one digest may be an index
/// of many platforms.
async fn provides(
    ctx: &OrderContext,
    reference: &Reference,
    image: &Value,
    platform: Option<&str>,
) -> Result<bool, Failure> {
    let engine = &ctx.rollout.engine;
    let found = match platform {
        Some(platform) if !image["Descriptor"].is_null() => {
            engine.inspect_platform(&reference.to_string(), platform).await
        }
        Some(platform) => Ok(Some(image.clone()).filter(|image| has_platform(image, platform))),
        None => engine.platform().await.map(|own| Some(image.clone()).filter(|image| has_platform(image, &own))),
    };
    Ok(found.map_err(|error| error.failure())?.is_some())
}

/// A part of the platform that `wanted` leaves out may be any.
fn has_platform(image: &Value, wanted: &str) -> bool {
    let mut wanted = wanted.split('/');
    ["Os", "Architecture", "Variant"].into_iter().all(|field| match wanted.next() {
        None | Some("") => true,
        Some(part) => image[field] == part,
    })
}

async fn pull(ctx: &OrderContext, order: &Order, reference: &Reference, platform: Option<&str>) -> Result<(), Failure> {
    let order = &Order { platform: platform.map(str::to_owned), ..order.clone() };
    let attempt = Attempt { ctx, order, reference, last_data: Mutex::new(Instant::now()) };
    let pull = async {
        let stored = (ctx.credentials)(reference.clone()).await?;
        match stored {
            Some(login) if ctx.refused.has(reference, &login) => attempt.without_refused(&login).await,
            Some(login) => attempt.with(&login).await,
            None => attempt.run(None).await,
        }
    };
    tokio::select! {
        biased;
        () = ctx.shutdown.cancelled() => Err(shutting_down("the pull was abandoned")),
        result = pull => result,
        () = attempt.stall(ctx.pull_timeout) => Err(too_slow(reference, ctx.pull_timeout)),
    }
}

fn too_slow(reference: &Reference, limit: Duration) -> Failure {
    let message = format!(
        "{reference} was not pulled: no data came for {limit:?}; if its registry is only slow, set host.pull_timeout to \
         more than that"
    );
    Failure::pull(PullCause::TooSlow, message)
}

/// The pull of one order, which may take more than one request to the engine.
#[derive(Debug)]
struct Attempt<'a> {
    ctx: &'a OrderContext,
    order: &'a Order,
    reference: &'a Reference,
    last_data: Mutex<Instant>,
}

impl Attempt<'_> {
    /// Ends when no data came for `limit`.
    async fn stall(&self, limit: Duration) {
        loop {
            let left = limit.saturating_sub(self.last_data().elapsed());
            if left.is_zero() {
                return;
            }
            tokio::time::sleep(left).await;
        }
    }

    fn last_data(&self) -> Instant {
        *self.last_data.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn note_data(&self) {
        *self.last_data.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
    }

    /// With `login`, and without it where the registry refuses it: anybody may be allowed to have the image.
    async fn with(&self, login: &Credential) -> Result<(), Failure> {
        let Self { ctx, reference, .. } = self;
        let Err(refused) = self.run(Some(login)).await else { return Ok(()) };
        if !is_denied(&refused) {
            return Err(refused);
        }
        // At once: other pulls would send it meanwhile.
        let place = ctx.refused.note(reference, login, &refused.message);
        warn!(%reference, "the login for {place} was refused; images are pulled without it until it changes");
        let pulled = self.run(None).await;
        pulled.map_err(|failure| if is_denied(&failure) { refused } else { failure })
    }

    /// Without `login`, which was refused before, and with it where the registry refuses that: an image that was public may
    /// be private now.
    async fn without_refused(&self, login: &Credential) -> Result<(), Failure> {
        let Self { ctx, reference, .. } = self;
        let Err(failure) = self.run(None).await else { return Ok(()) };
        if !is_denied(&failure) {
            return Err(failure);
        }
        if ctx.refused.is_wrong(reference, login) {
            let (message, registry) = (&failure.message, reference.registry());
            let message =
                format!("{message}; the login for {registry} was refused and is not sent again until it changes");
            return Err(Failure { message, ..failure });
        }
        self.run(Some(login)).await?;
        ctx.refused.forget(reference, login);
        Ok(())
    }

    async fn run(&self, login: Option<&Credential>) -> Result<(), Failure> {
        let Self { ctx, order, reference, .. } = self;
        self.note_data();
        let progress = |progress: PullProgress| {
            if progress.advances {
                self.note_data();
            }
            (ctx.progress)(order, progress);
        };
        let pulled = ctx.rollout.engine.pull(reference, order.platform.as_deref(), login, &progress).await;
        pulled.map_err(|error| {
            let failure = error.failure();
            let message = login.map_or(failure.message.clone(), |login| login.hide_in(&failure.message));
            Failure { message: redact_tokens(&message), ..failure }
        })
    }
}

/// Whether the registry did not take a login, or does not let it have the image.
fn is_denied(failure: &Failure) -> bool {
    failure.cause == Some(PullCause::Denied)
}

//! Having the image of an order: pulled, and the one that was meant. Touches no container.

use imagewatch_abi::{Digest, Failure, FailureCode, Order, Reference};
use serde_json::Value;
use tracing::{info, warn};

use super::logins::is_refusal;
use super::{OrderContext, shutting_down};
use crate::engine::PullProgress;
use crate::secret::{Credential, hide_proofs};

/// An image that is here.
#[derive(Debug)]
pub(super) struct Image {
    pub(super) id: String,
    /// What the order wants it to be, or as which the reference's repository knows it.
    pub(super) digest: Option<Digest>,
}

/// The image that the order's reference names, after making sure that it is the right one.
pub(super) async fn ensure_image(ctx: &OrderContext, order: &Order) -> Result<Image, Failure> {
    let reference = order.reference.clone().with_explicit_tag();
    let local = inspect_image(ctx, &reference).await?;
    if let (Some(local), Some(digest)) = (&local, &order.digest)
        && has_digest(local, &reference, digest)
        && has_platform(local, order.platform.as_deref())
    {
        return read_image(local, &reference, order);
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
    read_image(&pulled, &reference, order)
}

fn pull_failed(message: String) -> Failure {
    Failure::passing(FailureCode::PullFailed, message)
}

async fn inspect_image(ctx: &OrderContext, reference: &Reference) -> Result<Option<Value>, Failure> {
    ctx.replacer.engine.inspect_image(&reference.to_string()).await.map_err(|error| error.failure())
}

fn read_image(image: &Value, reference: &Reference, order: &Order) -> Result<Image, Failure> {
    let missing = || Failure::lasting(FailureCode::Other, format!("the engine shows no id for {reference}"));
    let id = image["Id"].as_str().map(str::to_owned).ok_or_else(missing)?;
    // An image pulled by hand has one digest in its repository, unless it was pushed there twice.
    let digest = order.digest.clone().or_else(|| digests(image, reference).next_back());
    Ok(Image { id, digest })
}

/// Whether the engine knows `image` by this digest in the reference's repository.
fn has_digest(image: &Value, reference: &Reference, digest: &Digest) -> bool {
    digests(image, reference).any(|known| known == *digest)
}

/// The digests under which the reference's repository has `image`.
fn digests(image: &Value, reference: &Reference) -> impl DoubleEndedIterator<Item = Digest> {
    let known = image["RepoDigests"].as_array().into_iter().flatten().filter_map(Value::as_str);
    let parse = |text: &str| text.parse::<Reference>().ok();
    let same = known.filter_map(parse).filter(|known| known.name() == reference.name());
    same.filter_map(|known| known.digest().cloned())
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
    let progress = |progress: PullProgress| (ctx.progress)(order, progress);
    let pull_with = async |login: Option<&Credential>| {
        let pulled = ctx.replacer.engine.pull(reference, order.platform.as_deref(), login, &progress).await;
        pulled.map_err(|error| {
            let failure = error.failure();
            let message = login.map_or(failure.message.clone(), |login| login.hide_in(&failure.message));
            Failure { message: hide_proofs(&message), ..failure }
        })
    };
    let pull = async {
        let (repository, stored) = (reference.name(), (ctx.credentials)(reference.clone()).await?);
        let login = stored.as_ref().filter(|stored| !ctx.refused.has(&repository, stored));
        match (pull_with(login).await, login) {
            (Err(failure), Some(login)) if is_refusal(&failure.message) => {
                // It may be an image that anybody may have.
                pull_with(None).await.map_err(|_| failure)?;
                ctx.refused.note(&repository, login);
                let registry = reference.registry();
                warn!(%reference, "the login for {registry} was refused; not sent again for this image until it changes");
                Ok(())
            }
            // It may be one no longer.
            (Err(failure), None) if is_refusal(&failure.message) => match &stored {
                Some(stored) => pull_with(Some(stored)).await,
                None => Err(failure),
            },
            (ended, _) => ended,
        }
    };
    tokio::select! {
        biased;
        () = ctx.shutdown.cancelled() => Err(shutting_down("the pull was abandoned")),
        ended = tokio::time::timeout(ctx.pull_timeout, pull) => match ended {
            Ok(result) => result,
            Err(_) => Err(pull_failed(format!("{reference} was not pulled within {} s", ctx.pull_timeout.as_secs()))),
        },
    }
}

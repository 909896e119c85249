//! What a container runs, in a registry's words: whether its image is the one that a digest names. Takes no decision.

use std::collections::BTreeSet;

use imagewatch_abi::{Container, Digest, Failure, Reference, Selector};

use crate::config::Insecure;
use crate::registry::resolve::load_documents;
use crate::state::Cache;
use crate::target::Target;
use crate::{Host, gather};

/// The cache holds no more documents than this.
const MAX_DOCUMENTS: usize = 1_000;

/// A container, the reference that it follows, and the digest which the registry has for that.
pub(crate) type Pair<'a> = (&'a Container, &'a Reference, &'a Digest);

/// A container with the reference that it was created from.
pub(crate) type Used = (Reference, Container);

/// Every container on the engine that has a reference.
///
/// # Errors
/// When they cannot be listed.
pub(crate) fn list_used(host: &mut dyn Host) -> Result<Vec<Used>, Failure> {
    Ok(with_references(host.docker_containers(Selector::default()).into_result()?.containers))
}

/// Those of `containers` that have a reference, with it.
pub(crate) fn with_references(containers: Vec<Container>) -> Vec<Used> {
    let parse =
        |container: Container| Some((container.image.parse::<Reference>().ok()?.with_explicit_tag(), container));
    containers.into_iter().filter_map(parse).collect()
}

/// Those of `containers` that follow `target`.
pub(crate) fn used_by<'a>(containers: &'a [Used], target: &Target) -> Vec<&'a Used> {
    let selector = &target.containers;
    let follows = |container: &Container| {
        selector.name.as_ref().is_none_or(|name| *name == container.name)
            && selector.name_contains.as_ref().is_none_or(|part| container.name.contains(part.as_str()))
    };
    containers.iter().filter(|(reference, container)| target.has(reference) && follows(container)).collect()
}

/// The digests under which the engine knows the container's image in the reference's repository: every one that a
/// pull of it ever brought, and the image store's own.
pub(crate) fn digests_of(container: &Container, reference: &Reference) -> Vec<Digest> {
    let parse = |text: &String| {
        let parsed: Reference = text.parse().ok()?;
        (parsed.name() == reference.name()).then(|| parsed.digest().cloned()).flatten()
    };
    container.repo_digests.iter().filter_map(parse).chain(container.target_digest.clone()).collect()
}

/// Whether the engine says where the container's image came from; else it was built or loaded there.
pub(crate) fn is_from_registry(container: &Container) -> bool {
    !container.repo_digests.is_empty() || container.target_digest.is_some()
}

/// Whether the container's image is the one that `remote` names: by a digest of its own, or as the manifest for its
/// platform or that manifest's config in the index that `remote` is, as far as [`load_wrappers`] has read it.
pub(crate) fn is_running(cache: &Cache, (container, reference, remote): Pair<'_>) -> bool {
    let own = digests_of(container, reference);
    if own.contains(remote) {
        return true;
    }
    let Some(index) = cache.documents.get(remote) else { return false };
    let child = container.platform.as_deref().and_then(|platform| index.child(platform));
    let config = match child {
        Some(child) => cache.documents.get(child).and_then(|manifest| manifest.config.as_ref()),
        None => index.config.as_ref(),
    };
    child.is_some_and(|child| own.contains(child)) || config.is_some_and(|config| config.as_str() == container.image_id)
}

/// Reads what [`is_running`] needs to see through another wrapper of the same image: the index or manifest of each
/// `remote` that no digest of its container's is, and on stores that name images by their config the manifest for the
/// platform. Each once for as long as the cache lasts, as a digest's document never changes.
pub(crate) fn load_wrappers(
    host: &mut dyn Host,
    cache: &mut Cache,
    insecure: &Insecure,
    now_ms: u64,
    pairs: &[Pair<'_>],
) {
    if cache.documents.len() > MAX_DOCUMENTS {
        cache.documents.clear();
    }
    // An image that was never pulled as another is another: nothing to see through.
    let is_open = |cache: &Cache, pair: &Pair<'_>| {
        is_from_registry(pair.0) && pair.0.platform.is_some() && !is_running(cache, *pair)
    };
    let indexes: BTreeSet<Reference> =
        gather(pairs.iter().filter(|pair| is_open(cache, pair)).map(|(_, reference, remote)| reference.at(remote)));
    load_documents(host, cache, insecure, now_ms, indexes);
    let child = |cache: &Cache, (container, reference, remote): &Pair<'_>| {
        let index = cache.documents.get(*remote)?;
        // A store with a digest of its own names images by that, never by their config.
        let platform = container.platform.as_deref().filter(|_| container.target_digest.is_none())?;
        Some(reference.at(index.child(platform)?))
    };
    let open = pairs.iter().filter(|pair| is_open(cache, pair));
    let children: BTreeSet<Reference> = gather(open.filter_map(|pair| child(cache, pair)));
    load_documents(host, cache, insecure, now_ms, children);
}

//! What a container runs, in a registry's words: whether its image came from the registry that its name says, and
//! whether it is the one that a digest names.

use std::collections::BTreeSet;

use imagewatch_abi::{Container, Digest, Failure, ImageOrigin, Reference, Selector, StatusKind};

use crate::Host;
use crate::config::{Config, Insecure, UnknownOrigin};
use crate::registry::resolve::{find_in_repository, load_documents};
use crate::state::Cache;
use crate::target::Target;

/// The cache holds no more documents than this.
const MAX_DOCUMENTS: usize = 1_000;

const BUILT_HERE: &str = "the engine names no registry for its image: it was built or loaded on this machine, or its \
    index was pulled first for another platform";
const ORIGIN_UNKNOWN: &str = "its image was perhaps built or loaded on this machine: the engine does not report where it \
    came from. Set config key `unknown_origin` to `ask` to have its registry asked whether it has this image";
const NOT_AT_ITS_REGISTRY: &str =
    "its registry does not confirm that it has the image that runs, so perhaps it was built or loaded on this machine";

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
    let pair = |container: Container| Some((reference_of(&container).ok()?, container));
    containers.into_iter().filter_map(pair).collect()
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

/// The digests under which the engine knows the container's image in the reference's repository: of the manifest that
/// it runs, every one that a pull of it ever brought, and the image store's own.
pub(crate) fn digests_of(container: &Container, reference: &Reference) -> Vec<Digest> {
    let parse = |text: &String| {
        let parsed: Reference = text.parse().ok()?;
        (parsed.name() == reference.name()).then(|| parsed.digest().cloned()).flatten()
    };
    let named = container.repo_digests.iter().filter_map(parse);
    container.manifest_digest.clone().into_iter().chain(named).chain(container.target_digest.clone()).collect()
}

/// The reference that `container` follows: the one that it was created from, with its tag.
///
/// # Errors
/// It was created from an image id, in full or in part, so no tag is known; or the text is no reference.
pub(crate) fn reference_of(container: &Container) -> Result<Reference, String> {
    let image = container.image.as_str();
    let id = container.image_id.trim_start_matches("sha256:");
    if !image.is_empty() && id.starts_with(image.trim_start_matches("sha256:")) {
        return Err(format!("invalid image reference {image:?}: it is an image id, which no tag points to"));
    }
    let reference: Reference = image.parse().map_err(|error| format!("{error}"))?;
    Ok(reference.with_explicit_tag())
}

/// Where the container's image came from. A host that does not report it leaves what the engine shows: a digest of a
/// repository, unless the image store gives digests to every image, also to those built on the machine.
fn origin_of(container: &Container) -> ImageOrigin {
    match container.origin {
        Some(origin) => origin,
        None if container.target_digest.is_some() => ImageOrigin::Unknown,
        None if container.repo_digests.is_empty() => ImageOrigin::Local,
        None => ImageOrigin::Registry,
    }
}

/// Where a container stands about whose image no registry is asked, and why, a lowercase fragment. The one
/// place where this is decided, for a check and for a poll: an image that did not come from a registry is never compared with what is there under
/// its name, which may be anybody's.
pub(crate) fn reason_against_origin(config: &Config, container: &Container) -> Option<(StatusKind, &'static str)> {
    match origin_of(container) {
        ImageOrigin::Registry => None,
        ImageOrigin::Local => Some((StatusKind::Local, BUILT_HERE)),
        ImageOrigin::Unknown if config.unknown_origin == UnknownOrigin::Ask => None,
        ImageOrigin::Unknown => Some((StatusKind::Unknown, ORIGIN_UNKNOWN)),
    }
}

/// Why the container's image is not compared with what its tag points to although its registry may be asked, a lowercase
/// fragment: nothing reports where it came from, and its registry does not confirm that it has it.
pub(crate) fn reason_unconfirmed(cache: &Cache, container: &Container, reference: &Reference) -> Option<&'static str> {
    let is_open = origin_of(container) == ImageOrigin::Unknown;
    (is_open && !is_confirmed(cache, container, reference)).then_some(NOT_AT_ITS_REGISTRY)
}

/// Whether the reference's repository has the container's image.
fn is_confirmed(cache: &Cache, container: &Container, reference: &Reference) -> bool {
    digests_of(container, reference).iter().any(|digest| cache.confirmed.contains(&reference.at(digest)))
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

/// Has the registry confirm the images of unknown origin. What the tag points to is confirmed by that; for another image
/// the registry is asked, by its digest: a local build that has the name of somebody's image is not there.
pub(crate) fn confirm_origins(
    host: &mut dyn Host,
    cache: &mut Cache,
    insecure: &Insecure,
    now_ms: u64,
    pairs: &[Pair<'_>],
) {
    if cache.confirmed.len() > MAX_DOCUMENTS {
        cache.confirmed.clear();
    }
    let mut wanted = BTreeSet::new();
    for (container, reference, remote) in pairs {
        let own = digests_of(container, reference);
        if origin_of(container) != ImageOrigin::Unknown || is_confirmed(cache, container, reference) {
            continue;
        }
        if own.contains(remote) {
            cache.confirmed.insert(reference.at(remote));
        } else {
            wanted.extend(own.last().map(|digest| reference.at(digest)));
        }
    }
    let found = find_in_repository(host, cache, insecure, now_ms, wanted);
    cache.confirmed.extend(found);
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
        origin_of(pair.0) != ImageOrigin::Local && pair.0.platform.is_some() && !is_running(cache, *pair)
    };
    let indexes: BTreeSet<Reference> =
        pairs.iter().filter(|pair| is_open(cache, pair)).map(|(_, reference, remote)| reference.at(remote)).collect();
    load_documents(host, cache, insecure, now_ms, indexes);
    let child = |cache: &Cache, (container, reference, remote): &Pair<'_>| {
        let index = cache.documents.get(*remote)?;
        // A store with a digest of its own names images by that, never by their config.
        let platform = container.platform.as_deref().filter(|_| container.target_digest.is_none())?;
        Some(reference.at(index.child(platform)?))
    };
    let open = pairs.iter().filter(|pair| is_open(cache, pair));
    let children: BTreeSet<Reference> = open.filter_map(|pair| child(cache, pair)).collect();
    load_documents(host, cache, insecure, now_ms, children);
}

#[cfg(test)]
mod tests;

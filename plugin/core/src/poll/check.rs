//! A check: what the containers run against what the registry has. Orders nothing, changes nothing.

use imagewatch_abi::{Container, Digest, Failure, Outcome, Reference, Selector, Verdict};

use crate::config::Config;
use crate::gate::quarantine::Quarantine;
use crate::registry::resolve::{Lookup, resolve};
use crate::running::{Pair, digests_of, is_from_registry, is_running, load_wrappers};
use crate::state::Cache;
use crate::target::{Target, Targets};
use crate::{Host, gather};

/// One outcome for each container of each target, and one for a target without containers.
///
/// # Errors
/// When the containers cannot be listed.
pub(super) fn check(
    host: &mut dyn Host,
    config: &Config,
    cache: &mut Cache,
    quarantine: &Quarantine,
    now_ms: u64,
    found: Targets,
) -> Result<Vec<Outcome>, Failure> {
    let containers = host.docker_containers(Selector::default()).into_result()?.containers;
    let parse =
        |container: Container| Some((container.image.parse::<Reference>().ok()?.with_explicit_tag(), container));
    let containers: Vec<(Reference, Container)> = containers.into_iter().filter_map(parse).collect();
    let open = found.targets.iter().map(|target| target.reference.clone()).filter(|r| r.digest().is_none());
    let lookups = resolve(host, cache, &config.insecure, now_ms, gather(open));
    let used = |target: &Target| -> Vec<&Container> {
        let on_image = containers.iter().filter(|(reference, _)| *reference == target.reference);
        on_image.map(|(_, container)| container).filter(|container| follows(container, target)).collect()
    };
    let mut pairs: Vec<Pair<'_>> = Vec::new();
    for target in &found.targets {
        if let Some(Ok(remote)) = lookups.get(&target.reference) {
            pairs.extend(used(target).into_iter().map(|container| (container, &target.reference, remote)));
        }
    }
    load_wrappers(host, cache, &config.insecure, now_ms, &pairs);
    let mut outcomes = found.unwatchable;
    for target in &found.targets {
        let used = used(target);
        let see = |container| compare(target, container, lookups.get(&target.reference), cache, quarantine);
        if used.is_empty() {
            outcomes.push(see(None));
        }
        outcomes.extend(used.into_iter().map(|container| see(Some(container))));
    }
    Ok(outcomes)
}

fn follows(container: &Container, target: &Target) -> bool {
    let selector = &target.containers;
    selector.name.as_ref().is_none_or(|name| *name == container.name)
        && selector.name_contains.as_ref().is_none_or(|part| container.name.contains(part.as_str()))
}

fn compare(
    target: &Target,
    container: Option<&Container>,
    lookup: Option<&Lookup>,
    cache: &Cache,
    quarantine: &Quarantine,
) -> Outcome {
    let has = container.map(|container| digests_of(container, &target.reference)).unwrap_or_default();
    let remote = lookup.and_then(|lookup| lookup.as_ref().ok());
    let failure = lookup.and_then(|lookup| lookup.as_ref().err());
    let is_same = |container: &Container, remote: &Digest| is_running(cache, (container, &target.reference, remote));
    let (verdict, reason) = match (container, remote, failure) {
        _ if target.reference.digest().is_some() => (Verdict::Pinned, "pinned by digest".to_owned()),
        (_, _, Some(failure)) => (Verdict::Unknown, failure.message.clone()),
        (None, _, _) => (Verdict::Unused, "no container runs it".to_owned()),
        (Some(_), Some(remote), _) if has.contains(remote) => (Verdict::Unchanged, "up to date".to_owned()),
        (Some(container), Some(remote), _) if is_same(container, remote) => {
            (Verdict::Unchanged, "up to date: the same image in another wrapper".to_owned())
        }
        (Some(container), Some(_), _) if !is_from_registry(container) => {
            let reason = "its image came from no registry: it was built or loaded on this machine";
            (Verdict::Unknown, reason.to_owned())
        }
        (Some(_), Some(_), _) if has.is_empty() => {
            (Verdict::Unknown, "the engine has no digest of this repository for the image that it runs".to_owned())
        }
        (Some(_), Some(remote), _) => match quarantine.hold(&target.name, &target.reference, remote) {
            Some(held) => (Verdict::Held, held),
            None => (Verdict::Moved, "the tag points to another image than the one running".to_owned()),
        },
        (Some(_), None, None) => (Verdict::Unknown, "was not looked up".to_owned()),
    };
    let running = remote.filter(|remote| has.contains(remote)).or(has.last()).cloned();
    Outcome {
        reference: Some(target.reference.clone()),
        digest: remote.cloned(),
        reason: Some(reason),
        until_ms: failure.and_then(|failure| failure.until_ms),
        container: container.map(|container| container.name.clone()),
        running,
        ..Outcome::new(&target.name, verdict)
    }
}

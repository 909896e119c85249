//! A check: what the containers run against what the registry has. Orders nothing, changes nothing.

use imagewatch_abi::{Container, Digest, Failure, Outcome, Reference, Selector, Verdict};

use super::aim::find_aims;
use crate::config::Config;
use crate::gate::quarantine::Quarantine;
use crate::registry::resolve::{Lookup, resolve};
use crate::running::{Pair, digests_of, is_from_registry, is_running, load_wrappers};
use crate::state::Cache;
use crate::target::{Target, Targets};
use crate::update::in_words;
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
    let aims = find_aims(host, config, cache, now_ms, &found.targets, &|_| true);
    let open = aims.iter().filter_map(|aim| aim.as_ref().ok()).filter(|r| r.digest().is_none()).cloned();
    let lookups = resolve(host, cache, &config.insecure, now_ms, gather(open));
    let used = |target: &Target| -> Vec<&(Reference, Container)> {
        containers.iter().filter(|(r, container)| target.has(r) && follows(container, target)).collect()
    };
    let mut pairs: Vec<Pair<'_>> = Vec::new();
    for (target, aim) in found.targets.iter().zip(&aims) {
        if let Ok(aim) = aim
            && let Some(Ok(remote)) = lookups.get(aim)
        {
            pairs.extend(used(target).into_iter().map(|(_, container)| (container, aim, remote)));
        }
    }
    load_wrappers(host, cache, &config.insecure, now_ms, &pairs);
    let mut outcomes = found.unwatchable;
    for (target, aim) in found.targets.iter().zip(&aims) {
        let lookup = aim.as_ref().map_or_else(|failure| Some(Err(failure.clone())), |aim| lookups.get(aim).cloned());
        let aim = aim.as_ref().unwrap_or(&target.reference);
        let see = |used| compare(target, aim, used, lookup.as_ref(), cache, quarantine);
        let used = used(target);
        if used.is_empty() {
            outcomes.push(see(None));
        }
        outcomes.extend(used.into_iter().map(|used| see(Some(used))));
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
    aim: &Reference,
    used: Option<&(Reference, Container)>,
    lookup: Option<&Lookup>,
    cache: &Cache,
    quarantine: &Quarantine,
) -> Outcome {
    let from = used.map(|(reference, _)| reference).filter(|reference| *reference != aim);
    let container = used.map(|(_, container)| container);
    let has = container.map(|container| digests_of(container, &target.reference)).unwrap_or_default();
    let remote = lookup.and_then(|lookup| lookup.as_ref().ok());
    let failure = lookup.and_then(|lookup| lookup.as_ref().err());
    let is_same = |container: &Container, remote: &Digest| is_running(cache, (container, aim, remote));
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
        (Some(_), Some(remote), _) => match quarantine.hold(&target.name, aim, remote) {
            Some(held) => (Verdict::Held, held),
            None if from.is_some() => (Verdict::Moved, "a newer tag is there".to_owned()),
            None => (Verdict::Moved, "the tag points to another image than the one running".to_owned()),
        },
        (Some(_), None, None) => (Verdict::Unknown, "was not looked up".to_owned()),
    };
    let running = remote.filter(|remote| has.contains(remote)).or(has.last()).cloned();
    let reason = from.map_or(reason.clone(), |from| format!("{}: {reason}", in_words(from, aim)));
    Outcome {
        reference: Some(aim.clone()),
        from: from.cloned(),
        digest: remote.cloned(),
        reason: Some(reason),
        until_ms: failure.and_then(|failure| failure.until_ms),
        container: container.map(|container| container.name.clone()),
        running,
        ..Outcome::new(&target.name, verdict)
    }
}

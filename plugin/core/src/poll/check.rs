//! A check: what the containers run against what the registry has. Orders nothing, changes nothing.

use imagewatch_abi::{Container, Digest, Failure, Outcome, Reference, Selector, Verdict};

use crate::config::Config;
use crate::gate::quarantine::Quarantine;
use crate::registry::resolve::{Lookup, resolve};
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
    let mut outcomes = found.unwatchable;
    for target in &found.targets {
        let lookup = lookups.get(&target.reference);
        let on_image = containers.iter().filter(|(reference, _)| *reference == target.reference);
        let used: Vec<&Container> = on_image.map(|(_, container)| container).filter(|c| follows(c, target)).collect();
        if used.is_empty() {
            outcomes.push(compare(target, None, lookup, quarantine));
        }
        outcomes.extend(used.into_iter().map(|container| compare(target, Some(container), lookup, quarantine)));
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
    quarantine: &Quarantine,
) -> Outcome {
    let has = container.map(|container| digests_of(container, &target.reference)).unwrap_or_default();
    let remote = lookup.and_then(|lookup| lookup.as_ref().ok());
    let failure = lookup.and_then(|lookup| lookup.as_ref().err());
    let (verdict, reason) = match (container, remote, failure) {
        _ if target.reference.digest().is_some() => (Verdict::Pinned, Some("pinned by digest".to_owned())),
        (_, _, Some(failure)) => (Verdict::Unknown, Some(failure.message.clone())),
        (None, _, _) => (Verdict::Unused, Some("no container runs it".to_owned())),
        (Some(_), Some(remote), _) if has.contains(remote) => (Verdict::Unchanged, None),
        (Some(_), Some(_), _) if has.is_empty() => {
            (Verdict::Unknown, Some("the engine has no registry digest for the image that it runs".to_owned()))
        }
        (Some(_), Some(remote), _) => match quarantine.hold(&target.name, &target.reference, remote) {
            Some(held) => (Verdict::Held, Some(held)),
            None => (Verdict::Moved, Some("the tag points to another image than the one running".to_owned())),
        },
        (Some(_), None, None) => (Verdict::Unknown, Some("was not looked up".to_owned())),
    };
    let running = remote.filter(|remote| has.contains(remote)).or(has.last()).cloned();
    Outcome {
        reference: Some(target.reference.clone()),
        digest: remote.cloned(),
        reason,
        container: container.map(|container| container.name.clone()),
        running,
        ..Outcome::new(&target.name, verdict)
    }
}

/// The digests under which the engine knows the container's image in the reference's repository:
/// every one that a pull of it ever brought.
fn digests_of(container: &Container, reference: &Reference) -> Vec<Digest> {
    let parse = |text: &String| {
        let parsed: Reference = text.parse().ok()?;
        (parsed.name() == reference.name()).then(|| parsed.digest().cloned()).flatten()
    };
    container.repo_digests.iter().filter_map(parse).collect()
}

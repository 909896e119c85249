//! A check: where the containers stand, each of them. Orders nothing, changes nothing.

use imagewatch_abi::{Container, Failure, NotWatched, Outcome, Selector, StatusKind, Verdict};

use super::decide::unanswered;
use super::desired_reference::{Aims, find_aims};
use super::outdated::pair_up;
use super::standing::{Course, stand};
use crate::Host;
use crate::config::{Baseline, Config, Watch};
use crate::gate::quarantine::Quarantine;
use crate::image_match::{Used, confirm_origins, digests_of, load_wrappers, reference_of, used_by, with_references};
use crate::registry::resolve::Lookup;
use crate::state::{Cache, State};
use crate::status::{Image, Rule, remote_of};
use crate::target::{Target, Targets, is_up, not_watched, reason_of_name};
use crate::update::describe_change;

/// What a check found.
#[derive(Debug, Default)]
pub(super) struct Checked {
    /// One for each container of each target, and one for a target without containers.
    pub(super) outcomes: Vec<Outcome>,
    pub(super) not_watched: Vec<NotWatched>,
    /// The targets that are not decided yet.
    pub(super) pending: Vec<String>,
}

/// Where every container stands.
///
/// # Errors
/// When the containers cannot be listed.
pub(super) fn check(
    host: &mut dyn Host,
    config: &Config,
    cache: &mut Cache,
    (state, quarantine): (&State, &Quarantine),
    now_ms: u64,
    found: Targets,
) -> Result<Checked, Failure> {
    let listed = host.docker_containers(Selector::default()).into_result()?.containers;
    let mut not_watched = found.not_watched;
    if matches!(config.watch, Watch::Listed(_)) {
        not_watched.extend(find_unlisted(config, &found.targets, &listed));
    }
    let containers = with_references(listed);
    let is_open = |target: &Target| target.reference.digest().is_none();
    let Aims { all: aims, lookups, lists } = find_aims(host, config, cache, now_ms, &found.targets, &is_open);
    let pairs = pair_up(config, &containers, &found.targets, &aims, &lookups);
    confirm_origins(host, cache, &config.insecure, now_ms, &pairs);
    load_wrappers(host, cache, &config.insecure, now_ms, &pairs);
    let mut outcomes = found.unwatchable;
    let mut pending = Vec::new();
    for (target, aim) in found.targets.iter().zip(&aims) {
        if is_open(target) && cache.unfinished.is_waiting(&target.reference) {
            pending.push(target.name.clone());
            outcomes.push(unanswered(target));
            continue;
        }
        let lookup = match &aim.reference {
            Ok(reference) => lookups.get(reference).cloned(),
            Err(failure) => Some(Err(failure.clone())),
        };
        let course = Course::new(state, target, aim, remote_of(lookup.as_ref()));
        let ground = (config, &*cache, quarantine);
        let used = used_by(&containers, target);
        if used.is_empty() {
            outcomes.push(see(ground, &course, lookup.as_ref(), None));
        }
        let is_any_up = used.iter().any(|(_, container)| is_up(container));
        for used in used {
            let mut outcome = see(ground, &course, lookup.as_ref(), Some(used));
            if config.baseline == Baseline::Running && !is_any_up {
                // As a poll has it, which looks at containers that run: what was seen decides.
                outcome.status = Some(stand(ground, &course, None).status());
            }
            outcomes.push(outcome);
        }
    }
    cache.unfinished.keep(lists, lookups);
    Ok(Checked { outcomes, not_watched, pending })
}

/// The containers that follow none of the `targets` that config lists.
fn find_unlisted(config: &Config, targets: &[Target], listed: &[Container]) -> Vec<NotWatched> {
    let is_named = |container: &Container| {
        let reference = reference_of(container);
        reference.is_ok_and(|reference| targets.iter().any(|target| target.has(&reference)))
    };
    let reason = |container: &Container| match reason_of_name(config, container) {
        None if is_named(container) => None,
        Some(reason) if is_named(container) => Some(reason),
        _ => Some("no target of the manifest names its image".to_owned()),
    };
    listed.iter().filter_map(|container| Some(not_watched(container, reason(container)?))).collect()
}

fn see(
    ground: (&Config, &Cache, &Quarantine),
    course: &Course<'_>,
    lookup: Option<&Lookup>,
    used: Option<&Used>,
) -> Outcome {
    let Course { target, aim, remote, .. } = course;
    let standing = stand(ground, course, used);
    let status = standing.status();
    let (verdict, reason) = match (&standing.facts.image, standing.rule) {
        (Image::Pinned, _) => (Verdict::Pinned, status.reason.clone()),
        (Image::NotLookedUp(reason, _), _) => (Verdict::Unknown, Some((*reason).to_owned())),
        _ if used.is_none() => (Verdict::Unused, Some("no container runs it".to_owned())),
        (Image::Same | Image::SameInAnotherWrapper, _) if status.kind == StatusKind::Unknown => {
            (Verdict::Unknown, status.reason.clone())
        }
        (Image::Same | Image::SameInAnotherWrapper, _) => (Verdict::Unchanged, status.reason.clone()),
        (Image::Local(_) | Image::Incomparable(_), _) => (Verdict::Unknown, status.reason.clone()),
        (Image::Other, Rule::Held | Rule::Blocked) => (Verdict::Held, status.reason.clone()),
        (Image::Other, _) => (Verdict::Moved, status.reason.clone()),
    };
    let container = standing.container;
    let has = container.map(|container| digests_of(container, &target.reference)).unwrap_or_default();
    let remote = remote.ok();
    let from = used.map(|(reference, _)| reference).filter(|reference| *reference != *aim);
    let words = from.map(|from| describe_change(from, aim));
    Outcome {
        reference: Some((*aim).clone()),
        from: from.cloned(),
        running: remote.filter(|remote| has.contains(remote)).or(has.last()).cloned(),
        digest: remote.cloned(),
        reason: words.into_iter().chain(reason).reduce(|words, reason| format!("{words}: {reason}")),
        until_ms: match verdict {
            Verdict::Held => status.until_ms,
            _ => lookup.and_then(|lookup| lookup.as_ref().err()).and_then(|failure| failure.until_ms),
        },
        container: container.map(|container| container.name.clone()),
        status: Some(status),
        ..Outcome::new(&target.name, verdict)
    }
}

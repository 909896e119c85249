//! A check: where the containers stand, each of them. Orders nothing, changes nothing.

use imagewatch_abi::{Failure, Outcome, Verdict};

use super::aim::find_aims;
use super::behind::pair_up;
use super::standing::{Course, stand};
use crate::config::Config;
use crate::gate::quarantine::Quarantine;
use crate::registry::resolve::{Lookup, resolve};
use crate::running::{Used, confirm_origins, digests_of, list_used, load_wrappers, used_by};
use crate::state::{Cache, State};
use crate::status::{Image, Rule, remote_of};
use crate::target::Targets;
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
    (state, quarantine): (&State, &Quarantine),
    now_ms: u64,
    found: Targets,
) -> Result<Vec<Outcome>, Failure> {
    let containers = list_used(host)?;
    let aims = find_aims(host, config, cache, now_ms, &found.targets, &|_| true);
    let open = aims.iter().filter_map(|aim| aim.as_ref().ok()).filter(|r| r.digest().is_none()).cloned();
    let lookups = resolve(host, cache, &config.insecure, now_ms, gather(open));
    let pairs = pair_up(&containers, &found.targets, &aims, &lookups);
    confirm_origins(host, cache, &config.insecure, now_ms, &pairs);
    load_wrappers(host, cache, &config.insecure, now_ms, &pairs);
    let mut outcomes = found.unwatchable;
    for (target, aim) in found.targets.iter().zip(&aims) {
        let lookup = aim.as_ref().map_or_else(|failure| Some(Err(failure.clone())), |aim| lookups.get(aim).cloned());
        let aim = aim.as_ref().unwrap_or(&target.reference);
        let course = Course::new(state, target, aim, remote_of(lookup.as_ref()));
        let ground = (config, &*cache, quarantine);
        let used = used_by(&containers, target);
        if used.is_empty() {
            outcomes.push(see(ground, &course, lookup.as_ref(), None));
        }
        outcomes.extend(used.into_iter().map(|used| see(ground, &course, lookup.as_ref(), Some(used))));
    }
    Ok(outcomes)
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
    let is_pinned = standing.facts.is_pinned;
    let (verdict, reason) = match (&standing.facts.image, standing.rule) {
        _ if is_pinned => (Verdict::Pinned, status.reason.clone()),
        (Image::NotLookedUp(reason, _), _) => (Verdict::Unknown, Some((*reason).to_owned())),
        _ if used.is_none() => (Verdict::Unused, Some("no container runs it".to_owned())),
        (Image::Same | Image::SameInAnotherWrapper, _) => (Verdict::Unchanged, status.reason.clone()),
        (Image::Local(_) | Image::Incomparable(_), _) => (Verdict::Unknown, status.reason.clone()),
        (Image::Other, Rule::Held | Rule::Blocked) => (Verdict::Held, status.reason.clone()),
        (Image::Other, _) => (Verdict::Moved, status.reason.clone()),
    };
    let container = standing.container;
    let has = container.map(|container| digests_of(container, &target.reference)).unwrap_or_default();
    let remote = remote.ok();
    let from = used.map(|(reference, _)| reference).filter(|reference| *reference != *aim);
    let words = from.map(|from| in_words(from, aim));
    Outcome {
        reference: Some((*aim).clone()),
        from: from.cloned(),
        running: remote.filter(|remote| has.contains(remote)).or(has.last()).cloned(),
        digest: remote.cloned(),
        reason: words.into_iter().chain(reason).reduce(|words, reason| format!("{words}: {reason}")),
        until_ms: lookup.and_then(|lookup| lookup.as_ref().err()).and_then(|failure| failure.until_ms),
        container: container.map(|container| container.name.clone()),
        status: Some(status),
        ..Outcome::new(&target.name, verdict)
    }
}

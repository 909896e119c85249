//! Which containers follow a target, read so that what they run can be compared. Decides nothing.

use std::collections::BTreeMap;

use imagewatch_abi::Reference;

use super::aim::Aim;
use crate::config::{Baseline, Config};
use crate::registry::resolve::Lookup;
use crate::running::{Pair, Used, reason_against_origin, reason_unconfirmed, used_by};
use crate::state::Cache;
use crate::target::{Target, is_up};

/// The containers of `target` that a decision is about: with `baseline` = `running` those that run; else none, unless
/// there is no container of it that may be updated.
pub(super) fn concerned<'a>(config: &Config, cache: &Cache, used: Vec<&'a Used>) -> Vec<&'a Used> {
    match config.baseline {
        Baseline::Running => used.into_iter().filter(|(_, container)| is_up(container)).collect(),
        Baseline::Seen if used.iter().all(|used| is_untrusted(config, cache, used)) => used,
        Baseline::Seen => Vec::new(),
    }
}

/// The names of those of `used` that no order may touch: their images did not come from the registry.
pub(super) fn untrusted(config: &Config, cache: &Cache, used: &[&Used]) -> Vec<String> {
    let untrusted = used.iter().filter(|used| is_untrusted(config, cache, used));
    untrusted.map(|(_, container)| container.name.clone()).collect()
}

fn is_untrusted(config: &Config, cache: &Cache, (reference, container): &Used) -> bool {
    reason_against_origin(config, container).is_some() || reason_unconfirmed(cache, container, reference).is_some()
}

/// The containers of `targets` beside what their aims point to, as far as that is known.
pub(super) fn pair_up<'a>(
    containers: &'a [Used],
    targets: &[Target],
    aims: &'a [Aim],
    lookups: &'a BTreeMap<Reference, Lookup>,
) -> Vec<Pair<'a>> {
    let mut pairs: Vec<Pair<'_>> = Vec::new();
    for (target, aim) in targets.iter().zip(aims) {
        if let Ok(aim) = &aim.reference
            && let Some(Ok(remote)) = lookups.get(aim)
        {
            pairs.extend(used_by(containers, target).into_iter().map(|(_, container)| (container, aim, remote)));
        }
    }
    pairs
}

//! Which containers follow a target, read so that what they run can be compared. Decides nothing.

use std::collections::BTreeMap;

use imagewatch_abi::{Container, Reference, Strategy};

use super::desired_reference::Aim;
use super::standing::{Course, strategy_for, strategy_of};
use crate::config::{Baseline, Config};
use crate::image_match::{Pair, Used, reason_against_origin, reason_unconfirmed, used_by};
use crate::registry::resolve::Lookup;
use crate::state::Cache;
use crate::target::{Target, is_up, reason_against};

/// The containers of a target that a decision is about: with `baseline` = `running` those that run. With `seen` those of
/// a target that moves, and those of a target that could not move, to show why; else none: what was seen decides.
pub(super) fn concerned<'a>(
    (config, cache): (&Config, &Cache),
    course: &Course<'_>,
    used: Vec<&'a Used>,
) -> Vec<&'a Used> {
    let is_untrusted = |used: &&Used| reason_not_trusted(config, cache, used).is_some();
    match config.baseline {
        Baseline::Running => used.into_iter().filter(|(_, container)| is_up(container)).collect(),
        Baseline::Seen if course.is_moving() || used.iter().all(is_untrusted) => used,
        Baseline::Seen => Vec::new(),
    }
}

/// A container that an order for its target does not touch.
#[derive(Debug)]
pub(super) struct LeftAlone {
    pub(super) name: String,
    /// Why, a lowercase fragment.
    pub(super) reason: String,
}

/// Those of `used`, the containers of `target`, that no order may touch: their images did not come from the registry, or
/// they are never updated as they are now. A blocked one that writes to a volume of another stays in the order: of such
/// containers all are updated or none, and only the host knows which.
pub(super) fn left_alone(config: &Config, cache: &Cache, target: &Target, used: &[&Used]) -> Vec<LeftAlone> {
    let reason = |used_here: &Used| {
        let container = &used_here.1;
        let untrusted = || reason_not_trusted(config, cache, used_here).map(str::to_owned);
        let blocked = || reason_against(container, strategy_for(config, target, Some(container)));
        untrusted().or_else(|| blocked().filter(|_| !shares_volume(container, used)))
    };
    let one = |used: &&Used| Some(LeftAlone { name: used.1.name.clone(), reason: reason(used)? });
    used.iter().filter_map(one).collect()
}

/// Whether another one of `used` writes to a volume that `container` writes to.
fn shares_volume(container: &Container, used: &[&Used]) -> bool {
    let shares =
        |other: &Container| other.writable_mounts.iter().any(|mount| container.writable_mounts.contains(mount));
    used.iter().any(|(_, other)| other.name != container.name && shares(other))
}

fn reason_not_trusted(config: &Config, cache: &Cache, (reference, container): &Used) -> Option<&'static str> {
    let of_origin = reason_against_origin(config, container).map(|(_, reason)| reason);
    of_origin.or_else(|| reason_unconfirmed(cache, container, reference))
}

/// Whether an order for `target` leaves its containers as they are, so that what was seen does not say what they run.
pub(super) fn leaves_containers(config: &Config, target: &Target) -> bool {
    matches!(strategy_of(config, target), Strategy::Notify | Strategy::PullOnly)
}

/// The containers of `targets` beside what their aims point to, as far as that is known. Without those about whose image
/// no registry is asked.
pub(super) fn pair_up<'a>(
    config: &Config,
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
            let used = used_by(containers, target).into_iter();
            let may_be_asked = used.filter(|(_, container)| reason_against_origin(config, container).is_none());
            pairs.extend(may_be_asked.map(|(_, container)| (container, aim, remote)));
        }
    }
    pairs
}

//! Which containers are behind: they run another image than the one that their target's tag points to. Decides nothing.

use std::collections::BTreeMap;

use imagewatch_abi::{Digest, Failure, Reference};

use super::aim::Aim;
use crate::Host;
use crate::config::{Baseline, Config};
use crate::registry::resolve::Lookup;
use crate::running::{Pair, Used, digests_of, is_from_registry, is_running, list_used, load_wrappers, used_by};
use crate::state::Cache;
use crate::target::Target;

/// A target's running containers that are behind.
pub(super) struct Behind {
    /// Their ids.
    pub(super) ids: Vec<String>,
    /// What one of them runs, if the engine says so.
    pub(super) runs: Option<Digest>,
}

/// For each of `targets` those that are behind; none where nothing is known of containers, or nobody asks.
///
/// # Errors
/// When the containers cannot be listed.
pub(super) fn find_behind(
    host: &mut dyn Host,
    config: &Config,
    cache: &mut Cache,
    now_ms: u64,
    targets: &[Target],
    aims: &[Aim],
    lookups: &BTreeMap<Reference, Lookup>,
) -> Result<Vec<Option<Behind>>, Failure> {
    if config.baseline == Baseline::Seen {
        return Ok(targets.iter().map(|_| None).collect());
    }
    let mut containers = list_used(host)?;
    containers.retain(|(_, container)| matches!(container.state.as_str(), "running" | "restarting"));
    look_through(host, config, cache, now_ms, &containers, targets, aims, lookups);
    let behind = |(target, aim): (&Target, &Aim)| {
        let aim = aim.as_ref().ok()?;
        let remote = lookups.get(aim)?.as_ref().ok()?;
        let mut used = used_by(&containers, target);
        // What was built here follows no registry.
        used.retain(|(_, container)| is_from_registry(container));
        if used.is_empty() {
            return None;
        }
        used.retain(|(_, container)| !is_running(cache, (container, aim, remote)));
        let runs = used.iter().find_map(|(_, container)| digests_of(container, aim).pop());
        Some(Behind { ids: used.into_iter().map(|(_, container)| container.id.clone()).collect(), runs })
    };
    Ok(targets.iter().zip(aims).map(behind).collect())
}

/// Reads what it takes to see the same image through another wrapper.
#[expect(clippy::too_many_arguments, reason = "what a poll knows by then, each used once")]
pub(super) fn look_through(
    host: &mut dyn Host,
    config: &Config,
    cache: &mut Cache,
    now_ms: u64,
    containers: &[Used],
    targets: &[Target],
    aims: &[Aim],
    lookups: &BTreeMap<Reference, Lookup>,
) {
    let mut pairs: Vec<Pair<'_>> = Vec::new();
    for (target, aim) in targets.iter().zip(aims) {
        if let Ok(aim) = aim
            && let Some(Ok(remote)) = lookups.get(aim)
        {
            pairs.extend(used_by(containers, target).into_iter().map(|(_, container)| (container, aim, remote)));
        }
    }
    load_wrappers(host, cache, &config.insecure, now_ms, &pairs);
}

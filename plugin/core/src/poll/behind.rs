//! Which containers follow a target, read so that what they run can be compared. Decides nothing.

use std::collections::BTreeMap;

use imagewatch_abi::{Failure, Reference};

use super::aim::Aim;
use crate::Host;
use crate::config::{Baseline, Config};
use crate::registry::resolve::Lookup;
use crate::running::{Pair, Used, list_used, load_wrappers, used_by};
use crate::state::Cache;
use crate::target::{Target, is_up};

/// The running containers, where the manifest has them compared with what their tags point to.
///
/// # Errors
/// When the containers cannot be listed.
pub(super) fn list_running(host: &mut dyn Host, config: &Config) -> Result<Option<Vec<Used>>, Failure> {
    if config.baseline == Baseline::Seen {
        return Ok(None);
    }
    let mut containers = list_used(host)?;
    containers.retain(|(_, container)| is_up(container));
    Ok(Some(containers))
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
        if let Ok(aim) = &aim.reference
            && let Some(Ok(remote)) = lookups.get(aim)
        {
            pairs.extend(used_by(containers, target).into_iter().map(|(_, container)| (container, aim, remote)));
        }
    }
    load_wrappers(host, cache, &config.insecure, now_ms, &pairs);
}

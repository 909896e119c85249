//! Where each target is to go: the tag that it has, or a newer one that its update policy chooses. Asks registries for
//! their tags, once for each repository; decides nothing about digests.

use std::collections::BTreeSet;

use imagewatch_abi::{Failure, FailureCode, Reference};

use crate::config::Config;
use crate::registry::resolve::list_tags;
use crate::state::Cache;
use crate::target::Target;
use crate::{Host, gather};

/// The reference that a target is to follow now, or why that is not known.
pub(super) type Aim = Result<Reference, Failure>;

/// The aim of each of `targets`, in their order. Those that are not open stay where they are.
pub(super) fn find_aims(
    host: &mut dyn Host,
    config: &Config,
    cache: &mut Cache,
    now_ms: u64,
    targets: &[Target],
    is_open: &dyn Fn(&Target) -> bool,
) -> Vec<Aim> {
    let is_to_choose = |target: &&Target| target.follows_tags() && is_open(target);
    let repositories: BTreeSet<Reference> =
        gather(targets.iter().filter(is_to_choose).map(|target| target.reference.without_tag()));
    let lists = list_tags(host, cache, &config.insecure, now_ms, &repositories);
    let aim = |target: &Target| {
        let present = || target.reference.clone();
        if !is_to_choose(&target) {
            return Ok(present());
        }
        let tags = match lists.get(&target.reference.name()) {
            Some(Ok(tags)) => tags,
            Some(Err(failure)) => return Err(failure.clone()),
            None => return Err(Failure::passing(FailureCode::Other, "its tags were not listed")),
        };
        let chosen = target.update.choose(tags, target.reference.tag_or_latest());
        let with_tag = |tag| target.reference.with_tag(tag);
        chosen
            .map_or_else(|| Ok(present()), with_tag)
            .map_err(|e| Failure::passing(FailureCode::BadAnswer, e.to_string()))
    };
    targets.iter().map(aim).collect()
}

//! Where each target is to go, and what its registry has there: the tag that it has, or the newest one that its update
//! policy chooses and that can be had. Asks registries for their tags, once for each repository, and for digests.

use std::collections::{BTreeMap, BTreeSet};

use imagewatch_abi::{Failure, FailureCode, Reference, StatusKind};

use crate::Host;
use crate::config::Config;
use crate::registry::resolve::{Lookup, list_tags, load_documents, resolve};
use crate::registry::unfinished::TagLists;
use crate::state::Cache;
use crate::status::Hold;
use crate::target::Target;
use crate::update::Choice;

/// So many newer tags that cannot be had are tried in one poll; then the target stays on its own tag.
const MAX_TRIED: usize = 3;

/// Where a target is to go.
#[derive(Debug)]
pub(super) struct Aim {
    /// The reference that it is to follow now, or why that is not known.
    pub(super) reference: Result<Reference, Failure>,
    /// Why that is not simply the newest tag.
    pub(super) note: Option<Hold>,
}

/// Where the targets are to go, in their order, and what was looked up on the way.
#[derive(Debug)]
pub(super) struct Aims {
    pub(super) all: Vec<Aim>,
    pub(super) lookups: BTreeMap<Reference, Lookup>,
    /// The tags of repositories, by their name.
    pub(super) lists: TagLists,
}

/// A target on its way to an aim.
struct Search<'a> {
    target: &'a Target,
    /// What is left to try, the newest first.
    newer: Vec<Reference>,
    passed_over: Vec<String>,
    aim: Aim,
}

/// The aim of each of `targets`, in their order, with its digest. Those that are not open stay where they are and are
/// not looked up.
pub(super) fn find_aims(
    host: &mut dyn Host,
    config: &Config,
    cache: &mut Cache,
    now_ms: u64,
    targets: &[Target],
    is_open: &dyn Fn(&Target) -> bool,
) -> Aims {
    let is_to_choose = |target: &&Target| target.follows_tags() && is_open(target);
    let repositories: BTreeSet<Reference> =
        targets.iter().filter(is_to_choose).map(|target| target.reference.without_tag()).collect();
    let (mut lists, mut lookups) = cache.unfinished.take_found();
    let is_to_list = |repository: &Reference| !lists.contains_key(&repository.name());
    let repositories = repositories.into_iter().filter(is_to_list).collect();
    lists.extend(list_tags(host, cache, &config.insecure, now_ms, &repositories));
    let search = |target| {
        if is_to_choose(&target) { Search::new(target, &lists) } else { Search::staying(target) }
    };
    let mut searches: Vec<Search<'_>> = targets.iter().map(search).collect();
    loop {
        let open = searches.iter().filter(|search| is_open(search.target)).filter_map(Search::reference);
        let open: BTreeSet<Reference> = open.filter(|reference| !lookups.contains_key(*reference)).cloned().collect();
        if !open.is_empty() {
            lookups.extend(resolve(host, cache, &config.insecure, now_ms, open));
        }
        let is_left = |search: &&Search<'_>| search.platform(config).is_some();
        let indexes = searches.iter().filter(is_left).filter_map(|search| search.found(&lookups));
        load_documents(host, cache, &config.insecure, now_ms, indexes.collect());
        let mut is_any_advanced = false;
        for search in &mut searches {
            is_any_advanced |= search.judge(config, cache, &lookups);
        }
        if !is_any_advanced {
            break;
        }
    }
    Aims { all: searches.into_iter().map(Search::end).collect(), lookups, lists }
}

impl<'a> Search<'a> {
    fn staying(target: &'a Target) -> Self {
        let aim = Aim { reference: Ok(target.reference.clone()), note: None };
        Self { target, newer: Vec::new(), passed_over: Vec::new(), aim }
    }

    fn new(target: &'a Target, lists: &BTreeMap<String, Result<Vec<String>, Failure>>) -> Self {
        let mut search = Self::staying(target);
        let tags = match lists.get(&target.reference.name()) {
            Some(Ok(tags)) => tags,
            Some(Err(failure)) => {
                search.aim.reference = Err(failure.clone());
                return search;
            }
            None => {
                search.aim.reference = Err(Failure::retryable(FailureCode::Other, "its tags were not listed"));
                return search;
            }
        };
        match target.update.choose(tags, target.reference.tag_or_latest()) {
            Choice::Newest => {}
            Choice::Unclear(reason) => {
                search.aim.note = Some(Hold { kind: StatusKind::Unknown, reason, until_ms: None });
            }
            Choice::Newer(tags) => {
                search.newer = tags.iter().filter_map(|tag| target.reference.with_tag(tag).ok()).collect();
                search.advance();
            }
        }
        search
    }

    /// Goes on to the next tag to try, or back to the present one.
    fn advance(&mut self) {
        let may_try = self.passed_over.len() < MAX_TRIED && !self.newer.is_empty();
        let next = if may_try { self.newer.remove(0) } else { self.target.reference.clone() };
        self.aim.reference = Ok(next);
    }

    fn reference(&self) -> Option<&Reference> {
        self.aim.reference.as_ref().ok()
    }

    /// The platform that a tag must have an image for, where the target is to leave its own tag.
    fn platform<'c>(&'c self, config: &'c Config) -> Option<&'c str> {
        let leaves = self.reference().is_some_and(|aim| *aim != self.target.reference);
        config.platform.as_deref().or(self.target.platform.as_deref()).filter(|_| leaves)
    }

    /// The aim by its digest.
    fn found(&self, lookups: &BTreeMap<Reference, Lookup>) -> Option<Reference> {
        let aim = self.reference()?;
        lookups.get(aim)?.as_ref().ok().map(|digest| aim.at(digest))
    }

    /// Passes over a newer tag that cannot be had; whether it did.
    fn judge(&mut self, config: &Config, cache: &Cache, lookups: &BTreeMap<Reference, Lookup>) -> bool {
        let Some(aim) = self.reference().filter(|aim| **aim != self.target.reference) else { return false };
        let is_missing = lookups
            .get(aim)
            .is_some_and(|lookup| lookup.as_ref().is_err_and(|failure| failure.code == FailureCode::NotFound));
        let tag = aim.tag_or_latest();
        let lacks = |platform: &&str| {
            let document = self.found(lookups).and_then(|found| cache.documents.get(found.digest()?).cloned());
            document.is_some_and(|document| document.lacks(platform))
        };
        let why = match self.platform(config).filter(lacks) {
            _ if is_missing => format!("{tag} is listed, but its manifest is missing"),
            Some(platform) => format!("{tag} has no image for {platform}"),
            None => return false,
        };
        self.passed_over.push(why);
        self.advance();
        true
    }

    fn end(mut self) -> Aim {
        if self.passed_over.is_empty() {
            return self.aim;
        }
        let is_back = self.reference() == Some(&self.target.reference);
        let rest = match self.newer.len() {
            left if is_back && left > 0 => format!("; {left} more newer tags were not tried in this poll"),
            _ => String::new(),
        };
        let reason = self.passed_over.join("; ") + &rest;
        self.aim.note = Some(Hold { kind: StatusKind::Held, reason, until_ms: None });
        self.aim
    }
}

#[cfg(test)]
mod tests;

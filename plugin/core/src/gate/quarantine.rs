//! Digests that failed for a target and are held back: which ones, for how long, and the words that say so. Keeps the
//! list of one call; the host keeps it between calls.
//!
//! A digest whose image is at fault is held until the registry has a newer one or an operator clears the entry. One that
//! failed for another reason, or that could not be fetched, is tried again after waits that grow each time.

use imagewatch_abi::{
    ContainerFailure, Digest, Failure, FailureCode, Fault, PullCause, Quarantined, Reference, Report, StatusKind,
};

use crate::status::Hold;

const MINUTE_MS: u64 = 60_000;
const HOUR_MS: u64 = 60 * MINUTE_MS;

/// What hardly passes by itself: the wait after the first failure, the second, and every one from the third on.
const LONG_WAITS_MS: &[u64] = &[HOUR_MS, 6 * HOUR_MS, 24 * HOUR_MS];

/// What may pass by itself, as a registry that does not answer.
const SHORT_WAITS_MS: &[u64] = &[MINUTE_MS, 5 * MINUTE_MS, 30 * MINUTE_MS, 2 * HOUR_MS, 6 * HOUR_MS];

/// The held digests of one call, sorted by target and digest.
#[derive(Debug)]
pub(crate) struct Quarantine {
    entries: Vec<Quarantined>,
    now_ms: u64,
    is_changed: bool,
}

impl Quarantine {
    /// The list as the host keeps it.
    pub(crate) fn new(entries: Vec<Quarantined>, now_ms: u64) -> Self {
        let mut quarantine = Self { entries: Vec::with_capacity(entries.len()), now_ms, is_changed: false };
        for entry in entries {
            quarantine.put(entry);
        }
        quarantine
    }

    /// The list for the host to keep; none when it is as it was.
    pub(crate) fn into_change(self) -> Option<Vec<Quarantined>> {
        self.is_changed.then_some(self.entries)
    }

    /// Holds `digest` back for `target`, or again for longer.
    pub(crate) fn bar(&mut self, target: &str, reference: &Reference, digest: &Digest, cause: &Cause) {
        let before = self.entries.iter().position(|entry| entry.target == target && entry.digest == *digest);
        let before = before.map(|index| self.entries.remove(index));
        self.put(self.entry(target, reference, digest, cause, before));
        self.is_changed = true;
    }

    /// Holds `digest` back for `target`, unless it is held already.
    pub(crate) fn bar_unless_held(&mut self, target: &str, reference: &Reference, digest: &Digest, cause: &Cause) {
        if self.waiting(target, reference, digest).is_none() {
            self.bar(target, reference, digest, cause);
        }
    }

    /// Why and until when `target` may not move to `digest`; none when it may move now.
    pub(crate) fn hold(&self, target: &str, reference: &Reference, digest: &Digest) -> Option<Hold> {
        let entry = self.waiting(target, reference, digest)?;
        let kind = match (entry.cause, entry.fault) {
            (None, Fault::Image | Fault::Host) => StatusKind::FailedAndRestored,
            _ => StatusKind::Held,
        };
        Some(Hold { kind, reason: format!("{}; {}", entry.reason, self.wait_of(entry)), until_ms: entry.until_ms })
    }

    /// How `digest` waits for `target`, until when and how an operator ends that, in words; none when it may move now.
    pub(crate) fn wait(&self, target: &str, reference: &Reference, digest: &Digest) -> Option<String> {
        self.waiting(target, reference, digest).map(|entry| self.wait_of(entry))
    }

    fn waiting(&self, target: &str, reference: &Reference, digest: &Digest) -> Option<&Quarantined> {
        let is_it =
            |entry: &&Quarantined| entry.target == target && entry.reference == *reference && entry.digest == *digest;
        let is_over = |entry: &Quarantined| entry.until_ms.is_some_and(|until_ms| until_ms <= self.now_ms);
        self.entries.iter().find(is_it).filter(|entry| !is_over(entry))
    }

    /// Drops every entry of `target`, which succeeded with what it has now.
    pub(crate) fn lift(&mut self, target: &str) {
        self.retain(|entry| entry.target != target);
    }

    /// Drops the entry of a `digest` that could not be fetched for `target`, and is there now.
    pub(crate) fn lift_fetched(&mut self, target: &str, digest: &Digest) {
        self.retain(|entry| entry.target != target || entry.digest != *digest || entry.cause.is_none());
    }

    /// Drops the entries of `target` that are not for `remote`, which is news. What could not be fetched stays until its
    /// wait is over: a registry that alternates between two digests would otherwise be asked for both at every poll.
    pub(crate) fn lift_older(&mut self, target: &str, remote: &Digest) {
        let now_ms = self.now_ms;
        let waits = |entry: &Quarantined| entry.cause.is_some() && entry.until_ms.is_some_and(|until| until > now_ms);
        self.retain(|entry| entry.target != target || entry.digest == *remote || waits(entry));
    }

    /// Drops the entries that `keeps` does not keep.
    pub(crate) fn retain(&mut self, keeps: impl FnMut(&Quarantined) -> bool) {
        let before = self.entries.len();
        self.entries.retain(keeps);
        self.is_changed |= self.entries.len() != before;
    }

    /// What follows for `target` from one more failure, after the entry `before`.
    fn entry(
        &self,
        target: &str,
        reference: &Reference,
        digest: &Digest,
        cause: &Cause,
        before: Option<Quarantined>,
    ) -> Quarantined {
        let first_ms = before.as_ref().map_or(self.now_ms, |entry| entry.first_ms);
        let entry = Quarantined {
            target: target.to_owned(),
            reference: reference.clone(),
            digest: digest.clone(),
            fault: cause.fault,
            cause: cause.pull,
            reason: cause.reason.clone(),
            count: 1,
            first_ms,
            last_ms: self.now_ms,
            until_ms: (cause.fault != Fault::Image).then(|| self.now_ms.saturating_add(wait_ms(cause.pull, 1))),
        };
        match before {
            // What is wrong with the image stays wrong with it, whatever failed since.
            Some(before) if before.fault == Fault::Image && cause.fault != Fault::Image => {
                Quarantined { count: before.count.saturating_add(1), last_ms: self.now_ms, ..before }
            }
            Some(before) if cause.fault == Fault::Image || waits_ms(before.cause) == waits_ms(cause.pull) => {
                let count = before.count.saturating_add(1);
                let until_ms = entry.until_ms.map(|_| self.now_ms.saturating_add(wait_ms(cause.pull, count)));
                Quarantined { count, until_ms, ..entry }
            }
            // Another kind of failure starts with its own shortest wait.
            _ => entry,
        }
    }

    fn put(&mut self, entry: Quarantined) {
        let is_after = |other: &Quarantined| (&other.target, &other.digest) > (&entry.target, &entry.digest);
        let index = self.entries.iter().position(is_after).unwrap_or(self.entries.len());
        self.entries.insert(index, entry);
    }

    fn wait_of(&self, entry: &Quarantined) -> String {
        let state = if entry.cause.is_some() { "held" } else { "quarantined" };
        let clear = format!("`imagewatch quarantine clear {}`", entry.target);
        match entry.until_ms {
            None => format!("{state}, until a newer digest comes or {clear}"),
            Some(until_ms) => {
                let wait = in_words(until_ms.saturating_sub(self.now_ms));
                format!("{state}, tried again in {wait} or after {clear}")
            }
        }
    }
}

/// Why a digest is held back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Cause {
    pub(crate) fault: Fault,
    /// Why the image could not be fetched, where that is what failed.
    pull: Option<PullCause>,
    /// A lowercase fragment that names the container or the image.
    reason: String,
}

/// What follows from a report.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Consequence {
    /// Nothing failed, or nothing shows where the fault lies: the digest is kept.
    Keep,
    /// A container is left alone this time: the next poll tries again.
    Retry,
    /// The order as a whole failed for a reason outside of the image: the next poll tries again.
    RollBack,
    /// The digest is held back.
    Bar(Cause),
}

impl Consequence {
    /// What follows from `report`. The image's fault takes precedence over what ended the order: that does not make a bad
    /// image good.
    pub(crate) fn of(report: &Report) -> Self {
        match (Self::of_containers(report), &report.err) {
            (consequence, None) => consequence,
            (Self::Bar(cause), Some(_)) if cause.fault == Fault::Image => Self::Bar(cause),
            (_, Some(failure)) => Self::of_failure(failure),
        }
    }

    /// A failed pull is remembered, unless the engine is at fault: that is no property of a digest.
    fn of_failure(failure: &Failure) -> Self {
        let unnamed = (failure.code == FailureCode::PullFailed).then_some(PullCause::Other);
        match failure.cause.or(unnamed) {
            None | Some(PullCause::EngineUnreachable) => Self::RollBack,
            pull => Self::Bar(Cause { fault: Fault::Host, pull, reason: failure.message.clone() }),
        }
    }

    /// The image's fault takes precedence over the host's, and that over a mere delay.
    fn of_containers(report: &Report) -> Self {
        let with = |faults: &[Fault]| {
            let is_one = |failure: &&ContainerFailure| failure.fault.is_some_and(|fault| faults.contains(&fault));
            report.failed.iter().find(is_one)
        };
        let bar = |failure: &ContainerFailure, fault| {
            Self::Bar(Cause { fault, pull: None, reason: format!("{}: {}", failure.container, failure.reason) })
        };
        match with(&[Fault::Image]).or_else(|| with(&[Fault::Host, Fault::Refused])) {
            Some(failure) => failure.fault.map_or(Self::Keep, |fault| bar(failure, fault)),
            None if with(&[Fault::Postponed]).is_some() => Self::Retry,
            None => Self::Keep,
        }
    }
}

/// The waits after failures of this kind; the last one counts for all that follow.
fn waits_ms(pull: Option<PullCause>) -> &'static [u64] {
    match pull {
        None | Some(PullCause::NoSpace | PullCause::NoPlatform) => LONG_WAITS_MS,
        Some(_) => SHORT_WAITS_MS,
    }
}

/// The wait after failure number `count`.
fn wait_ms(pull: Option<PullCause>, count: u32) -> u64 {
    let waits = waits_ms(pull);
    let index = usize::try_from(count.saturating_sub(1)).unwrap_or(usize::MAX);
    waits[index.min(waits.len() - 1)]
}

/// A time to wait, rounded up: minutes, and hours from two on.
fn in_words(ms: u64) -> String {
    if ms < 2 * HOUR_MS { format!("{} min", ms.div_ceil(MINUTE_MS)) } else { format!("{} h", ms.div_ceil(HOUR_MS)) }
}

#[cfg(test)]
mod tests;

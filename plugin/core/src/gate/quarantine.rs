//! Quarantine: the digests that failed for a target, how long each one is held, and the messages about them. This
//! module holds the list during one call. The host stores it between calls.
//!
//! If the image caused the failure, its digest is held until the registry has a newer one or an operator clears the
//! entry. If something else caused it, or the image could not be fetched, the digest is tried again. The waits grow
//! with each failure.

use imagewatch_abi::{
    ContainerFailure, Digest, Failure, FailureCode, Fault, PullCause, Quarantined, Reference, Report, StatusKind,
};

use crate::status::Hold;

const MINUTE_MS: u64 = 60_000;
const HOUR_MS: u64 = 60 * MINUTE_MS;

/// The waits for failures that rarely disappear without action: after the first failure, the second, and each one from
/// the third on.
const LONG_WAITS_MS: &[u64] = &[HOUR_MS, 6 * HOUR_MS, 24 * HOUR_MS];

/// The waits for failures that may disappear without action, for example a registry that does not respond.
const SHORT_WAITS_MS: &[u64] = &[MINUTE_MS, 5 * MINUTE_MS, 30 * MINUTE_MS, 2 * HOUR_MS, 6 * HOUR_MS];

/// The held digests during one call, sorted by target and digest.
#[derive(Debug)]
pub(crate) struct Quarantine {
    entries: Vec<Quarantined>,
    now_ms: u64,
    is_changed: bool,
}

impl Quarantine {
    /// The list that the host stores.
    pub(crate) fn new(entries: Vec<Quarantined>, now_ms: u64) -> Self {
        let mut quarantine = Self { entries: Vec::with_capacity(entries.len()), now_ms, is_changed: false };
        for entry in entries {
            quarantine.put(entry);
        }
        quarantine
    }

    /// The list for the host to store, or `None` if it did not change.
    pub(crate) fn into_change(self) -> Option<Vec<Quarantined>> {
        self.is_changed.then_some(self.entries)
    }

    /// Holds `digest` for `target`. If it was held before, the wait grows.
    pub(crate) fn add(&mut self, target: &str, reference: &Reference, digest: &Digest, cause: &Cause) {
        let before = self.entries.iter().position(|entry| entry.target == target && entry.digest == *digest);
        let before = before.map(|index| self.entries.remove(index));
        self.put(self.entry(target, reference, digest, cause, before));
        self.is_changed = true;
    }

    /// Holds `digest` for `target`, unless it is already held.
    pub(crate) fn add_unless_held(&mut self, target: &str, reference: &Reference, digest: &Digest, cause: &Cause) {
        if self.waiting(target, reference, digest).is_none() {
            self.add(target, reference, digest, cause);
        }
    }

    /// Why and until when `target` may not move to `digest`. `None` if it may move now.
    pub(crate) fn hold(&self, target: &str, reference: &Reference, digest: &Digest) -> Option<Hold> {
        let entry = self.waiting(target, reference, digest)?;
        let kind = match (entry.cause, entry.fault) {
            (None, Fault::Image | Fault::Host) => StatusKind::FailedAndRestored,
            _ => StatusKind::Held,
        };
        Some(Hold { kind, reason: format!("{}; {}", entry.reason, self.wait_of(entry)), until_ms: entry.until_ms })
    }

    /// A message that says until when `digest` is held for `target`, and how an operator can end the hold. `None` if
    /// the target may move now.
    pub(crate) fn wait(&self, target: &str, reference: &Reference, digest: &Digest) -> Option<String> {
        self.waiting(target, reference, digest).map(|entry| self.wait_of(entry))
    }

    fn waiting(&self, target: &str, reference: &Reference, digest: &Digest) -> Option<&Quarantined> {
        let is_it =
            |entry: &&Quarantined| entry.target == target && entry.reference == *reference && entry.digest == *digest;
        let is_over = |entry: &Quarantined| entry.until_ms.is_some_and(|until_ms| until_ms <= self.now_ms);
        self.entries.iter().find(is_it).filter(|entry| !is_over(entry))
    }

    /// Removes every entry of `target`, which succeeded with its current digest.
    pub(crate) fn lift(&mut self, target: &str) {
        self.retain(|entry| entry.target != target);
    }

    /// Removes the entry of a `digest` that could not be fetched for `target`, because it is now present.
    pub(crate) fn lift_fetched(&mut self, target: &str, digest: &Digest) {
        self.retain(|entry| entry.target != target || entry.digest != *digest || entry.cause.is_none());
    }

    /// Removes the entries of `target` that are not for `remote`, the newer digest. An entry for a failed pull stays
    /// until its wait ends. Otherwise a registry that alternates between two digests would be asked for both in every
    /// poll.
    pub(crate) fn lift_older(&mut self, target: &str, remote: &Digest) {
        let now_ms = self.now_ms;
        let waits = |entry: &Quarantined| entry.cause.is_some() && entry.until_ms.is_some_and(|until| until > now_ms);
        self.retain(|entry| entry.target != target || entry.digest == *remote || waits(entry));
    }

    /// Removes the entries for which `keeps` returns false.
    pub(crate) fn retain(&mut self, keeps: impl FnMut(&Quarantined) -> bool) {
        let before = self.entries.len();
        self.entries.retain(keeps);
        self.is_changed |= self.entries.len() != before;
    }

    /// The entry for one more failure of `target`, given its previous entry `before`.
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
            // A faulty image stays faulty, even if something else failed since.
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
                let wait = describe_wait(until_ms.saturating_sub(self.now_ms));
                format!("{state}, tried again in {wait} or after {clear}")
            }
        }
    }
}

/// Why a digest is held.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Cause {
    pub(crate) fault: Fault,
    /// Why the image could not be fetched, if the pull failed.
    pull: Option<PullCause>,
    /// A lowercase fragment that names the container or the image.
    reason: String,
}

/// The consequence of a report.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Consequence {
    /// Nothing failed, or the cause is unknown: the digest is committed.
    Keep,
    /// A container is skipped this time: the next poll tries again.
    Retry,
    /// The whole order failed for a reason that is not related to the image: the next poll tries again.
    RollBack,
    /// The digest is held.
    Quarantine(Cause),
}

impl Consequence {
    /// The consequence of `report`. A faulty image takes precedence over the error that ended the order, because that
    /// error does not make the image good.
    pub(crate) fn of(report: &Report) -> Self {
        match (Self::of_containers(report), &report.err) {
            (consequence, None) => consequence,
            (Self::Quarantine(cause), Some(_)) if cause.fault == Fault::Image => Self::Quarantine(cause),
            (_, Some(failure)) => Self::of_failure(failure),
        }
    }

    /// A failed pull is recorded, unless the engine caused it: such a failure does not depend on the digest.
    fn of_failure(failure: &Failure) -> Self {
        let unnamed = (failure.code == FailureCode::PullFailed).then_some(PullCause::Other);
        match failure.cause.or(unnamed) {
            None | Some(PullCause::EngineUnreachable) => Self::RollBack,
            pull => Self::Quarantine(Cause { fault: Fault::Host, pull, reason: failure.message.clone() }),
        }
    }

    /// A fault of the image takes precedence over a fault of the host, and both take precedence over a postponement.
    fn of_containers(report: &Report) -> Self {
        let with = |faults: &[Fault]| {
            let is_one = |failure: &&ContainerFailure| failure.fault.is_some_and(|fault| faults.contains(&fault));
            report.failed.iter().find(is_one)
        };
        let quarantine = |failure: &ContainerFailure, fault| {
            Self::Quarantine(Cause { fault, pull: None, reason: format!("{}: {}", failure.container, failure.reason) })
        };
        match with(&[Fault::Image]).or_else(|| with(&[Fault::Host, Fault::Refused])) {
            Some(failure) => failure.fault.map_or(Self::Keep, |fault| quarantine(failure, fault)),
            None if with(&[Fault::Postponed]).is_some() => Self::Retry,
            None => Self::Keep,
        }
    }
}

/// The waits for failures of this kind. The last wait applies to all further failures.
fn waits_ms(pull: Option<PullCause>) -> &'static [u64] {
    match pull {
        None | Some(PullCause::NoSpace | PullCause::NoPlatform) => LONG_WAITS_MS,
        Some(_) => SHORT_WAITS_MS,
    }
}

/// The wait after failure number `count`, in milliseconds.
fn wait_ms(pull: Option<PullCause>, count: u32) -> u64 {
    let waits = waits_ms(pull);
    let index = usize::try_from(count.saturating_sub(1)).unwrap_or(usize::MAX);
    waits[index.min(waits.len() - 1)]
}

/// A wait as text, rounded up: in minutes, or in hours from two hours on.
fn describe_wait(ms: u64) -> String {
    if ms < 2 * HOUR_MS { format!("{} min", ms.div_ceil(MINUTE_MS)) } else { format!("{} h", ms.div_ceil(HOUR_MS)) }
}

#[cfg(test)]
mod tests;

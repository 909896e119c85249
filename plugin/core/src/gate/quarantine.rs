//! Digests that failed and are barred for their target: which ones, how long, and in which words
//! it is said. Keeps the list of one call; the host keeps it between calls.
//!
//! A digest whose image is at fault is barred until the registry has a newer one or an operator
//! takes the entry out. One that failed for something on the host is tried again, after waits
//! that grow each time.

use imagewatch_abi::{ContainerFailure, Digest, Fault, Quarantined, Reference, Report};

const MINUTE_MS: u64 = 60_000;
const HOUR_MS: u64 = 60 * MINUTE_MS;

/// After the first failure, the second, and every one from the third on.
const WAITS_MS: [u64; 3] = [HOUR_MS, 6 * HOUR_MS, 24 * HOUR_MS];

/// The barred digests of one call, sorted by target and digest.
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

    /// Bars `digest` for `target`, or bars it again for longer. Returns until when, in words.
    pub(crate) fn bar(&mut self, target: &str, reference: &Reference, digest: &Digest, cause: &Cause) -> String {
        let before = self.entries.iter().position(|entry| entry.target == target && entry.digest == *digest);
        let before = before.map(|index| self.entries.remove(index));
        let (count, first_ms) = before.as_ref().map_or((0, self.now_ms), |entry| (entry.count, entry.first_ms));
        let count = count.saturating_add(1);
        // What is wrong with the image stays wrong with it, whatever the host was short of since.
        let (fault, reason) = match before {
            Some(entry) if entry.fault == Fault::Image && cause.fault != Fault::Image => (entry.fault, entry.reason),
            _ => (cause.fault, cause.reason.clone()),
        };
        let entry = Quarantined {
            target: target.to_owned(),
            reference: reference.clone(),
            digest: digest.clone(),
            fault,
            reason,
            count,
            first_ms,
            last_ms: self.now_ms,
            until_ms: (fault != Fault::Image).then(|| self.now_ms.saturating_add(wait_ms(count))),
        };
        let until = self.until(&entry);
        self.put(entry);
        self.is_changed = true;
        until
    }

    /// Why `target` may not move to `digest` now; none when it may.
    pub(crate) fn hold(&self, target: &str, reference: &Reference, digest: &Digest) -> Option<String> {
        let is_it =
            |entry: &&Quarantined| entry.target == target && entry.reference == *reference && entry.digest == *digest;
        let entry = self.entries.iter().find(is_it)?;
        let is_over = entry.until_ms.is_some_and(|until_ms| until_ms <= self.now_ms);
        (!is_over).then(|| format!("{}; quarantined, {}", entry.reason, self.until(entry)))
    }

    /// Drops what is barred for `target`, which came off with whatever it has now.
    pub(crate) fn lift(&mut self, target: &str) {
        self.retain(|entry| entry.target != target);
    }

    /// Drops what is barred for `target` and is not `remote`, which is news.
    pub(crate) fn lift_older(&mut self, target: &str, remote: &Digest) {
        self.retain(|entry| entry.target != target || entry.digest == *remote);
    }

    /// Drops the entries that `keeps` does not keep.
    pub(crate) fn retain(&mut self, keeps: impl FnMut(&Quarantined) -> bool) {
        let before = self.entries.len();
        self.entries.retain(keeps);
        self.is_changed |= self.entries.len() != before;
    }

    fn put(&mut self, entry: Quarantined) {
        let is_after = |other: &Quarantined| (&other.target, &other.digest) > (&entry.target, &entry.digest);
        let index = self.entries.iter().position(is_after).unwrap_or(self.entries.len());
        self.entries.insert(index, entry);
    }

    fn until(&self, entry: &Quarantined) -> String {
        match entry.until_ms {
            None => format!("until a newer digest comes or `imagewatch quarantine clear {}`", entry.target),
            Some(until_ms) => format!("tried again in {}", in_words(until_ms.saturating_sub(self.now_ms))),
        }
    }
}

/// Why a digest is barred.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Cause {
    pub(crate) fault: Fault,
    /// A lowercase fragment that names the container.
    reason: String,
}

/// What follows from containers that could not be handled.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Consequence {
    /// Nobody's fault is known, or nothing failed: the digest is kept.
    Keep,
    /// A container is left alone this time: the next poll tries again.
    Retry,
    /// The digest is barred.
    Bar(Cause),
}

impl Consequence {
    /// Of a report without `err`. The image's fault goes before the host's, and that before a mere delay.
    pub(crate) fn of(report: &Report) -> Self {
        let with = |faults: &[Fault]| {
            let is_one = |failure: &&ContainerFailure| failure.fault.is_some_and(|fault| faults.contains(&fault));
            report.failed.iter().find(is_one)
        };
        let bar = |failure: &ContainerFailure, fault| {
            Self::Bar(Cause { fault, reason: format!("{}: {}", failure.container, failure.reason) })
        };
        match with(&[Fault::Image]).or_else(|| with(&[Fault::Host, Fault::Refused])) {
            Some(failure) => failure.fault.map_or(Self::Keep, |fault| bar(failure, fault)),
            None if with(&[Fault::Postponed]).is_some() => Self::Retry,
            None => Self::Keep,
        }
    }
}

fn wait_ms(count: u32) -> u64 {
    let index = usize::try_from(count.saturating_sub(1)).unwrap_or(usize::MAX);
    WAITS_MS[index.min(WAITS_MS.len() - 1)]
}

/// A time to wait, rounded up: minutes, and hours from two on.
fn in_words(ms: u64) -> String {
    if ms < 2 * HOUR_MS { format!("{} min", ms.div_ceil(MINUTE_MS)) } else { format!("{} h", ms.div_ceil(HOUR_MS)) }
}

#[cfg(test)]
mod tests;

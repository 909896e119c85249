//! What two policies said about the same moment, and where they differ. Words may differ; verdicts count, and
//! digests where both name one.

use std::collections::BTreeMap;

use imagewatch_abi::{Digest, Outcome, Verdict};
use serde::Serialize;

/// What one policy said of a target.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Said {
    /// In one word.
    pub verdict: Verdict,
    /// The digest that it speaks of.
    pub digest: Option<Digest>,
    /// In words.
    pub reason: Option<String>,
}

/// A target about which the policies differ in one call.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Difference {
    /// When, milliseconds since 1970.
    pub at_ms: u64,
    /// The export.
    pub export: String,
    /// The target, with the container in a check.
    pub target: String,
    /// What the recorded policy said; none: nothing.
    pub recorded: Option<Said>,
    /// What the other one says.
    pub replayed: Option<Said>,
}

impl Said {
    fn of(outcome: &Outcome) -> Self {
        Self { verdict: outcome.verdict, digest: outcome.digest.clone(), reason: outcome.reason.clone() }
    }

    fn is_the_same_as(&self, other: &Self) -> bool {
        let is_same_digest = match (&self.digest, &other.digest) {
            (Some(digest), Some(other)) => digest == other,
            // A policy that follows versions need not know what is behind them.
            _ => true,
        };
        self.verdict == other.verdict && is_same_digest
    }
}

/// Where `recorded` and `replayed` differ, by target.
pub(super) fn compare(at_ms: u64, export: &str, recorded: &[Outcome], replayed: &[Outcome]) -> Vec<Difference> {
    let (mut recorded, mut replayed) = (by_target(recorded), by_target(replayed));
    let targets: Vec<String> = recorded.keys().chain(replayed.keys()).cloned().collect();
    let mut differences = Vec::new();
    for target in targets {
        let (before, now) = (recorded.remove(&target), replayed.remove(&target));
        let is_same = match (&before, &now) {
            (Some(before), Some(now)) => before.is_the_same_as(now),
            (None, None) => true,
            _ => false,
        };
        if !is_same {
            differences.push(Difference { at_ms, export: export.to_owned(), target, recorded: before, replayed: now });
        }
    }
    differences.sort_by(|a, b| a.target.cmp(&b.target));
    differences
}

/// The last word on each target: an order that was refused at once is spoken of twice.
fn by_target(outcomes: &[Outcome]) -> BTreeMap<String, Said> {
    let name = |outcome: &Outcome| match &outcome.container {
        Some(container) if *container != outcome.target => format!("{} ({container})", outcome.target),
        _ => outcome.target.clone(),
    };
    outcomes.iter().map(|outcome| (name(outcome), Said::of(outcome))).collect()
}

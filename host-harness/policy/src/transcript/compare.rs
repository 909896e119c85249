//! Compares the decisions of two policies for the same call.
//!
//! Verdicts must be equal, and digests if both decisions have one. Reasons may differ.

use std::collections::BTreeMap;

use imagewatch_abi::{Digest, Outcome, Verdict};
use serde::Serialize;

/// The decision of one policy about a target.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Decision {
    /// The verdict.
    pub verdict: Verdict,
    /// The digest, if the decision is about one.
    pub digest: Option<Digest>,
    /// The reason, as text.
    pub reason: Option<String>,
}

/// A target for which the policies decide differently in one call.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Difference {
    /// Time of the call, in milliseconds since 1970.
    pub at_ms: u64,
    /// The export that was called.
    pub export: String,
    /// The target. In a check, it includes the container.
    pub target: String,
    /// The decision of the recorded policy, if it made one.
    pub recorded: Option<Decision>,
    /// The decision of the replayed policy, if it made one.
    pub replayed: Option<Decision>,
}

impl Decision {
    fn of(outcome: &Outcome) -> Self {
        Self { verdict: outcome.verdict, digest: outcome.digest.clone(), reason: outcome.reason.clone() }
    }

    fn matches(&self, other: &Self) -> bool {
        let is_same_digest = match (&self.digest, &other.digest) {
            (Some(digest), Some(other)) => digest == other,
            // A policy that follows version tags may not know their digests.
            _ => true,
        };
        self.verdict == other.verdict && is_same_digest
    }
}

/// Returns the differences between `recorded` and `replayed`, sorted by target.
pub(super) fn compare(at_ms: u64, export: &str, recorded: &[Outcome], replayed: &[Outcome]) -> Vec<Difference> {
    let (mut recorded, mut replayed) = (by_target(recorded), by_target(replayed));
    let targets: Vec<String> = recorded.keys().chain(replayed.keys()).cloned().collect();
    let mut differences = Vec::new();
    for target in targets {
        let (before, now) = (recorded.remove(&target), replayed.remove(&target));
        let is_same = match (&before, &now) {
            (Some(before), Some(now)) => before.matches(now),
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

/// The last decision about each target. An order that was refused immediately has two outcomes.
fn by_target(outcomes: &[Outcome]) -> BTreeMap<String, Decision> {
    let name = |outcome: &Outcome| match &outcome.container {
        Some(container) if *container != outcome.target => format!("{} ({container})", outcome.target),
        _ => outcome.target.clone(),
    };
    outcomes.iter().map(|outcome| (name(outcome), Decision::of(outcome))).collect()
}

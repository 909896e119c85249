//! The policy's memory between calls: the recorded digests, the pending orders and, in `cache`, facts about registries.
//! The host does not interpret it. This module defines its version.

use std::collections::BTreeMap;

use imagewatch_abi::{Digest, Failure, FailureCode, Reference, Report};
use serde::{Deserialize, Serialize};
use serde_json::Value;

pub(crate) use crate::registry::cache::Cache;

/// Increases when the previous version of the policy can no longer read a state that this version wrote.
const STATE_VERSION: u32 = 1;

/// The policy's state.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct State {
    version: u32,
    /// The number of orders placed so far. It makes order ids unique.
    orders: u64,
    /// The targets by name.
    pub(crate) targets: BTreeMap<String, Seen>,
}

/// What the policy knows about a target.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Seen {
    /// The reference of the target. If it changes for another reason than a move, the target counts as new.
    pub(crate) reference: Reference,
    /// The digest that the target's containers are assumed to run. Absent if the tag was never looked up because a
    /// newer tag already existed. The end of the first order sets it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) digest: Option<Digest>,
    /// The tag that the target left for the current one. If containers are still on it, a strategy or a failure kept
    /// them there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) from: Option<Reference>,
    /// The containers that were outdated when the order for [`Seen::digest`] was placed. If they are still outdated, a
    /// strategy or a label kept them there, and no further order is placed for them. For
    /// [`Baseline::Running`](crate::config::Baseline).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) tried: Vec<String>,
    /// The move in progress. [`Seen::digest`] does not change until the move is committed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) pending: Option<Pending>,
}

/// An order without a report.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Pending {
    pub(crate) order: String,
    pub(crate) digest: Digest,
    /// The tag that the target moves to. Absent: [`Seen::reference`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) reference: Option<Reference>,
    /// The value of [`Seen::tried`] after the commit.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) tried: Vec<String>,
    /// The digest that the containers ran when the order was placed. Absent if it equals [`Seen::digest`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) previous: Option<Digest>,
    /// The order's group. An image that fails for one member is quarantined for the whole group.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) group: Option<String>,
}

impl State {
    /// Parses the state that the host kept. Null is an empty state.
    ///
    /// # Errors
    /// If another version of the policy wrote the state. The host then keeps the policy that can read it.
    pub(crate) fn parse(value: &Value) -> Result<Self, Failure> {
        if value.is_null() {
            return Ok(Self { version: STATE_VERSION, orders: 0, targets: BTreeMap::new() });
        }
        let version = value.get("version").and_then(Value::as_u64);
        if version != Some(u64::from(STATE_VERSION)) {
            let found = version.map_or("none".to_owned(), |v| v.to_string());
            return Err(Failure::permanent(
                FailureCode::BadState,
                format!(
                    "state has version {found}, this policy reads version {STATE_VERSION}: use the policy that wrote it, or clear the state with `imagewatch forget`"
                ),
            ));
        }
        Self::deserialize(value)
            .map_err(|error| Failure::permanent(FailureCode::BadState, format!("state is damaged: {error}")))
    }

    /// The state as JSON, for the host to keep.
    pub(crate) fn into_value(self) -> Value {
        serde_json::to_value(self).expect("a state has string keys only")
    }

    /// Returns a new order id for `target`.
    pub(crate) fn next_order(&mut self, target: &str) -> String {
        self.orders += 1;
        format!("{target}-{}", self.orders)
    }

    /// The other targets in the group of `target` that move to the same digest, with the references that they move to.
    pub(crate) fn members_moving_along(&self, target: &str) -> Vec<(String, Reference)> {
        let own = self.targets.get(target).and_then(|seen| seen.pending.as_ref());
        let Some(own) = own.filter(|pending| pending.group.is_some()) else { return Vec::new() };
        let member = |(name, seen): (&String, &Seen)| {
            let pending = seen.pending.as_ref()?;
            let is_member = name != target && pending.group == own.group && pending.digest == own.digest;
            is_member.then(|| (name.clone(), pending.reference.clone().unwrap_or_else(|| seen.reference.clone())))
        };
        self.targets.iter().filter_map(member).collect()
    }

    /// The target that waits for the order in `report`, if another run of the host placed that order. The state may not
    /// contain its id.
    pub(crate) fn pending_by_another_run(&self, report: &Report) -> Option<String> {
        let pending = self.targets.get(&report.target)?.pending.as_ref()?;
        (report.is_recovered && report.digest.as_ref() == Some(&pending.digest)).then(|| report.target.clone())
    }

    /// The target with the pending order `order`.
    pub(crate) fn pending_target(&self, order: &str) -> Option<String> {
        let is_it = |seen: &Seen| seen.pending.as_ref().is_some_and(|pending| pending.order == order);
        self.targets.iter().find(|(_, seen)| is_it(seen)).map(|(name, _)| name.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::any_test;

    fn example(text: &str) -> Value {
        serde_json::from_str(text).expect("the example is JSON")
    }

    #[any_test]
    fn states_of_earlier_policies_are_read_and_written_without_changes() {
        for (name, text) in [
            ("1-digests", include_str!("../examples-of-state/1-digests.json")),
            ("1-tags", include_str!("../examples-of-state/1-tags.json")),
        ] {
            let kept = example(text);
            let state = State::parse(&kept).unwrap_or_else(|failure| panic!("{name}: {failure}"));
            assert_eq!(state.into_value(), kept, "{name}: nothing is lost or added");
        }
    }

    #[any_test]
    fn the_state_of_a_newer_policy_is_refused_with_advice() {
        let kept = example(include_str!("../examples-of-state/2-of-a-newer-policy.json"));
        let failure = State::parse(&kept).expect_err("it has another version");
        assert_eq!(failure.code, FailureCode::BadState);
        assert!(failure.message.contains("version 2") && failure.message.contains("imagewatch forget"), "{failure}");
    }

    #[any_test]
    fn a_damaged_state_is_refused_and_null_is_an_empty_state() {
        for kept in ["{}", "[]", r#"{"version": 1}"#, r#"{"version": 1, "orders": 1, "targets": {"a": {}}}"#, "7"] {
            let failure = State::parse(&example(kept)).expect_err(kept);
            assert_eq!(failure.code, FailureCode::BadState, "{kept}");
        }
        assert_eq!(State::parse(&Value::Null).expect("an empty state").targets.len(), 0);
    }
}

//! What the policy remembers between calls: the digests seen, the orders pending, and in `cache`
//! what was learnt of registries. Opaque to the host, versioned here.

use std::collections::BTreeMap;

use imagewatch_abi::{Digest, Failure, FailureCode, Reference, Report};
use serde::{Deserialize, Serialize};
use serde_json::Value;

pub(crate) use crate::registry::cache::Cache;

/// Grows when a state written by this policy can no longer be read by the one before.
const STATE_VERSION: u32 = 1;

/// The policy's state.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct State {
    version: u32,
    /// Orders placed so far; makes their ids unique.
    orders: u64,
    /// By target name.
    pub(crate) targets: BTreeMap<String, Seen>,
}

/// What is known of a target.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Seen {
    /// A target whose reference is changed by others is a new one.
    pub(crate) reference: Reference,
    /// The digest that its containers are believed to follow; absent until the first order for a tag that was never
    /// looked up, since a newer one was there already, has ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) digest: Option<Digest>,
    /// The tag that was left for this one. Where its containers are still on it, a strategy or a failure left them there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) from: Option<Reference>,
    /// Containers that were behind when the order for [`Seen::digest`] was placed: those of them that still are have been
    /// left there, by a strategy or a label, and are not ordered again. For [`Baseline::Running`](crate::config::Baseline).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) tried: Vec<String>,
    /// The move that is under way; [`Seen::digest`] stays until it is committed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) pending: Option<Pending>,
}

/// An order that has not been reported.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Pending {
    pub(crate) order: String,
    pub(crate) digest: Digest,
    /// The tag that is moved to; absent: [`Seen::reference`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) reference: Option<Reference>,
    /// What becomes of [`Seen::tried`] when it is committed.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) tried: Vec<String>,
    /// What the containers ran when the order was placed, where that is another digest than [`Seen::digest`] or none is seen.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) previous: Option<Digest>,
    /// The order's group: the image that fails for one of a group is quarantined for all of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) group: Option<String>,
}

impl State {
    /// Reads what the host kept; null is an empty state.
    ///
    /// # Errors
    /// When another version of the policy wrote it: the host then keeps the policy that can read it.
    pub(crate) fn parse(value: &Value) -> Result<Self, Failure> {
        if value.is_null() {
            return Ok(Self { version: STATE_VERSION, orders: 0, targets: BTreeMap::new() });
        }
        let version = value.get("version").and_then(Value::as_u64);
        if version != Some(u64::from(STATE_VERSION)) {
            let found = version.map_or("none".to_owned(), |v| v.to_string());
            return Err(Failure::lasting(
                FailureCode::BadState,
                format!(
                    "state has version {found}, this policy reads version {STATE_VERSION}: use the policy that wrote it, or clear the state with `imagewatch forget`"
                ),
            ));
        }
        Self::deserialize(value)
            .map_err(|error| Failure::lasting(FailureCode::BadState, format!("state cannot be read: {error}")))
    }

    /// For the host to keep.
    pub(crate) fn into_value(self) -> Value {
        serde_json::to_value(self).expect("a state has string keys only")
    }

    /// A new order id for `target`.
    pub(crate) fn next_order(&mut self, target: &str) -> String {
        self.orders += 1;
        format!("{target}-{}", self.orders)
    }

    /// The other targets of the group of `target` that are on their way to the same digest, with the reference that they
    /// move to.
    pub(crate) fn mates_on_the_way(&self, target: &str) -> Vec<(String, Reference)> {
        let own = self.targets.get(target).and_then(|seen| seen.pending.as_ref());
        let Some(own) = own.filter(|pending| pending.group.is_some()) else { return Vec::new() };
        let mate = |(name, seen): (&String, &Seen)| {
            let pending = seen.pending.as_ref()?;
            let is_mate = name != target && pending.group == own.group && pending.digest == own.digest;
            is_mate.then(|| (name.clone(), pending.reference.clone().unwrap_or_else(|| seen.reference.clone())))
        };
        self.targets.iter().filter_map(mate).collect()
    }

    /// The target that waits for what `report` tells of an order of another run, whose id it may not have.
    pub(crate) fn pending_by_another_run(&self, report: &Report) -> Option<String> {
        let pending = self.targets.get(&report.target)?.pending.as_ref()?;
        (report.is_recovered && report.digest.as_ref() == Some(&pending.digest)).then(|| report.target.clone())
    }

    /// The target whose pending order is `order`.
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
    fn states_of_policies_before_this_one_are_read_and_written_back_as_they_were() {
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
    fn the_state_of_a_newer_policy_is_refused_with_what_to_do() {
        let kept = example(include_str!("../examples-of-state/2-of-a-newer-policy.json"));
        let failure = State::parse(&kept).expect_err("it is of another version");
        assert_eq!(failure.code, FailureCode::BadState);
        assert!(failure.message.contains("version 2") && failure.message.contains("imagewatch forget"), "{failure}");
    }

    #[any_test]
    fn a_state_that_is_damaged_is_refused_and_none_is_an_empty_one() {
        for kept in ["{}", "[]", r#"{"version": 1}"#, r#"{"version": 1, "orders": 1, "targets": {"a": {}}}"#, "7"] {
            let failure = State::parse(&example(kept)).expect_err(kept);
            assert_eq!(failure.code, FailureCode::BadState, "{kept}");
        }
        assert_eq!(State::parse(&Value::Null).expect("an empty one").targets.len(), 0);
    }
}

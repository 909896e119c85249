//! What the policy remembers between calls: the digests seen, the orders pending, and in `cache`
//! what was learnt of registries. Opaque to the host, versioned here.

use std::collections::BTreeMap;

use imagewatch_abi::{Digest, Failure, FailureCode, Reference};
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
                    "state has version {found}, this policy reads version {STATE_VERSION}: use the policy that wrote it, or clear the state"
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

    /// The target whose pending order is `order`.
    pub(crate) fn pending_target(&self, order: &str) -> Option<String> {
        let is_it = |seen: &Seen| seen.pending.as_ref().is_some_and(|pending| pending.order == order);
        self.targets.iter().find(|(_, seen)| is_it(seen)).map(|(name, _)| name.clone())
    }
}

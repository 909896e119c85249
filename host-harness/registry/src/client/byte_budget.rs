//! Byte budgets for the answers of a batch and of a manifest.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use imagewatch_abi::{Answer, HttpResponse};

use super::failure;

/// The remaining bytes that several requests share.
#[derive(Debug)]
pub struct ByteBudget(AtomicUsize);

/// The bytes that one request takes from the budget of its batch and from an optional second budget. Dropping the share
/// returns the bytes to the second budget.
#[derive(Debug)]
pub struct Share {
    batch: Arc<ByteBudget>,
    held: Option<Arc<ByteBudget>>,
    taken: AtomicUsize,
}

impl Share {
    /// Creates an empty share of `batch` and of the optional second budget `held`.
    pub fn of(batch: Arc<ByteBudget>, held: Option<Arc<ByteBudget>>) -> Self {
        Self { batch, held, taken: AtomicUsize::new(0) }
    }

    /// Takes `bytes` from both budgets. Returns `false` if one of them has fewer bytes left.
    pub(super) fn take(&self, bytes: usize) -> bool {
        if self.held.as_ref().is_some_and(|held| !held.take(bytes)) {
            return false;
        }
        self.taken.fetch_add(bytes, Ordering::Relaxed);
        self.batch.take(bytes)
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        if let Some(held) = &self.held {
            held.give(*self.taken.get_mut());
        }
    }
}

/// Counts an answer that arrived for an earlier batch in `budget`, the budget of the current batch. Returns a failure
/// if `budget` does not have enough bytes left, otherwise `answer`.
pub fn fit(answer: Answer<HttpResponse>, share: Option<&Share>, budget: &Arc<ByteBudget>) -> Answer<HttpResponse> {
    let is_earlier = share.is_some_and(|share| !Arc::ptr_eq(&share.batch, budget));
    match &answer {
        Answer::Ok(response) if is_earlier && !budget.take(json_bytes(&response.body)) => {
            Answer::Err(failure::over_budget("a registry"))
        }
        _ => answer,
    }
}

impl ByteBudget {
    /// Creates a budget of `bytes`.
    pub fn of(bytes: usize) -> Self {
        Self(AtomicUsize::new(bytes))
    }

    /// Takes `bytes`. Takes nothing and returns `false` if fewer are left.
    pub(super) fn take(&self, bytes: usize) -> bool {
        let less = |left: usize| left.checked_sub(bytes);
        self.0.try_update(Ordering::Relaxed, Ordering::Relaxed, less).is_ok()
    }

    fn give(&self, bytes: usize) {
        self.0.fetch_add(bytes, Ordering::Relaxed);
    }
}

/// The maximum size of `text` as a JSON string. A control character takes six bytes.
pub(super) fn json_bytes(text: &str) -> usize {
    let bytes = |byte: u8| match byte {
        b'"' | b'\\' => 2,
        0..=0x1f => 6,
        _ => 1,
    };
    text.bytes().map(bytes).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_budget_is_used_up_and_a_share_returns_its_bytes() {
        let budget = ByteBudget::of(10);
        assert!(budget.take(7) && !budget.take(4) && budget.take(3) && !budget.take(1));
        let held = Arc::new(ByteBudget::of(10));
        let share = Share::of(Arc::new(ByteBudget::of(5)), Some(held.clone()));
        assert!(share.take(5) && !share.take(4) && !held.take(2));
        drop(share);
        assert!(held.take(10), "all bytes are returned");
        for text in ["", "plain ä", "\"\\\n\u{0}"] {
            let written = serde_json::to_string(text).expect("text is JSON").len() - 2;
            assert!((written..=written + 4).contains(&json_bytes(text)), "{text:?}");
        }
    }
}

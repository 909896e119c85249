//! How many orders work at the same time: over all manifests, first come, first served, and without one manifest's many
//! keeping another's few waiting. Runs nothing.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Slots to work, as one manifest takes them.
#[derive(Debug, Clone)]
pub struct Slots {
    most: usize,
    of_all: Arc<Semaphore>,
    /// As many, of this manifest alone: no more of its orders wait for one of all.
    own: Arc<Semaphore>,
}

/// The right to work, until it is dropped.
#[derive(Debug)]
pub struct SlotPermit {
    _own: OwnedSemaphorePermit,
    _of_all: OwnedSemaphorePermit,
}

impl Slots {
    /// So many at the same time.
    pub fn new(most: usize) -> Self {
        Self { most, of_all: Arc::new(Semaphore::new(most)), own: Arc::new(Semaphore::new(most)) }
    }

    /// The same slots, as another manifest takes them.
    #[must_use]
    pub fn share(&self) -> Self {
        Self { own: Arc::new(Semaphore::new(self.most)), ..self.clone() }
    }

    /// Waits for a turn; `None` when there will be none any more.
    pub async fn take(&self) -> Option<SlotPermit> {
        let own = self.own.clone().acquire_owned().await.ok()?;
        Some(SlotPermit { _own: own, _of_all: self.of_all.clone().acquire_owned().await.ok()? })
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;
    use tokio::task::JoinSet;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn one_manifests_many_orders_keep_anothers_waiting_for_no_more_than_one_round() {
        let one = Slots::new(2);
        let other = one.share();
        let first = [one.take().await, one.take().await];
        assert!(other.take().now_or_never().is_none(), "two at the same time, of all");
        let mut many = JoinSet::new();
        for _ in 0..1_000 {
            let one = one.clone();
            many.spawn(async move { one.take().await });
        }
        tokio::task::yield_now().await;
        let other = tokio::spawn(async move { other.take().await });
        tokio::task::yield_now().await;
        // Each turn is given back at once, and the next one waiting takes it.
        drop(first);
        let mut before = 0;
        while !other.is_finished() {
            before += usize::from(many.join_next().await.is_some());
        }
        assert!(before <= 4, "{before} went before it");
    }
}

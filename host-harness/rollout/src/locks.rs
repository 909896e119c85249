//! One lock for each container name, so that no container is in two transactions of this program.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::OwnedMutexGuard;

type Lock = Arc<tokio::sync::Mutex<()>>;

/// The locks. Clones share them.
#[derive(Debug, Clone, Default)]
pub struct ContainerLocks(Arc<Mutex<HashMap<String, Lock>>>);

/// Held locks; dropping them lets the others in.
#[derive(Debug)]
pub struct Locked(#[expect(dead_code, reason = "held, not read")] Vec<OwnedMutexGuard<()>>);

impl ContainerLocks {
    /// Waits for all of `names`. Taken in one order by everybody, so that no two wait for each other.
    pub async fn lock(&self, names: &[String]) -> Locked {
        let mut locked = Vec::new();
        for lock in self.locks(names) {
            locked.push(lock.lock_owned().await);
        }
        Locked(locked)
    }

    /// All of `names`, if nobody has one of them.
    pub fn try_lock(&self, names: &[String]) -> Option<Locked> {
        self.locks(names).into_iter().map(|lock| lock.try_lock_owned().ok()).collect::<Option<_>>().map(Locked)
    }

    fn locks(&self, names: &[String]) -> Vec<Lock> {
        let mut names: Vec<&String> = names.iter().collect();
        names.sort();
        names.dedup();
        let mut locks = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        locks.retain(|_, lock| Arc::strong_count(lock) > 1);
        names.into_iter().map(|name| locks.entry(name.clone()).or_default().clone()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_name_is_locked_once_and_free_again_when_its_lock_is_dropped() {
        let (locks, names) =
            (ContainerLocks::default(), |names: &[&str]| names.iter().map(|n| (*n).to_owned()).collect::<Vec<_>>());
        let held = locks.lock(&names(&["b", "a", "b"])).await;
        assert!(locks.clone().try_lock(&names(&["a", "c"])).is_none(), "one of them is taken");
        assert!(locks.try_lock(&names(&["c"])).is_some(), "and the other was not kept");
        drop(held);
        assert!(locks.try_lock(&names(&["a", "b"])).is_some());
    }
}

//! A cache for credentials whose sources are slow. For each key, one request is made at a time, and concurrent callers
//! wait for its answer.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;
use tracing::warn;

use super::error::CredentialError;
use imagewatch_base::secret::Credential;

/// The time after which a failed source is queried again. Also the time for which a new credential cannot be forgotten.
const RETRY_AFTER: Duration = Duration::from_mins(1);

/// The answer of a source: a credential or none, with its lifetime.
#[derive(Debug)]
pub(super) struct Fresh {
    pub(super) credential: Option<Credential>,
    /// The time after which the source is queried again.
    pub(super) renew_after: Duration,
    /// How long the credential is usable if the source fails. At least `renew_after`.
    pub(super) lifetime: Duration,
}

/// The answers of sources, by key.
#[derive(Debug, Default)]
pub(super) struct Cache {
    slots: Mutex<BTreeMap<String, Arc<Slot>>>,
}

type Slot = tokio::sync::Mutex<Option<Cached>>;

#[derive(Debug)]
struct Cached {
    answer: Result<Option<Credential>, CredentialError>,
    since: Instant,
    renew_at: Instant,
    ends_at: Instant,
}

impl Cache {
    /// The answer for `key`: the cached one, or else the result of `ask`. If `ask` fails, a cached credential is used
    /// until it expires.
    pub(super) async fn find(
        &self,
        key: &str,
        ask: impl Future<Output = Result<Fresh, CredentialError>>,
    ) -> Result<Option<Credential>, CredentialError> {
        let slot = self.slot(key);
        let mut cached = slot.lock().await;
        if let Some(cached) = &*cached
            && Instant::now() < cached.renew_at
        {
            return cached.answer.clone();
        }
        let answer = ask.await;
        let now = Instant::now();
        match (answer, &mut *cached) {
            (Ok(Fresh { credential, renew_after, lifetime }), cached) => {
                let (renew_at, ends_at) = (now + renew_after, now + lifetime);
                *cached = Some(Cached { answer: Ok(credential.clone()), since: now, renew_at, ends_at });
                Ok(credential)
            }
            (Err(error), Some(Cached { answer: Ok(Some(credential)), renew_at, ends_at, .. })) if now < *ends_at => {
                warn!("failed to {error}; the cached credential is used until it expires");
                *renew_at = (now + RETRY_AFTER).min(*ends_at);
                Ok(Some(credential.clone()))
            }
            (Err(error), cached) => {
                let renew_at = now + RETRY_AFTER;
                *cached = Some(Cached { answer: Err(error.clone()), since: now, renew_at, ends_at: renew_at });
                Err(error)
            }
        }
    }

    /// Removes the credential with this id. Returns whether the next query may return another credential. A credential
    /// that is less than a minute old is not removed. Its source would return the same one, and a registry that rejects
    /// it must not cause endless queries.
    pub(super) fn forget(&self, credential_id: &str) -> bool {
        let slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
        let mut is_forgotten = false;
        for slot in slots.values() {
            // A locked slot is being renewed.
            let Ok(mut cached) = slot.try_lock() else { continue };
            let is_match = matches!(&*cached, Some(Cached { answer: Ok(Some(credential)), since, .. })
                if since.elapsed() >= RETRY_AFTER && credential.id() == credential_id);
            if is_match {
                *cached = None;
                is_forgotten = true;
            }
        }
        is_forgotten
    }

    fn slot(&self, key: &str) -> Arc<Slot> {
        let mut slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
        slots.entry(key.to_owned()).or_default().clone()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use tokio::time::{advance, sleep};

    use super::*;

    const HOUR: Duration = Duration::from_hours(1);

    fn fresh(password: &str) -> Fresh {
        Fresh { credential: Some(Credential::basic("AWS", password)), renew_after: 6 * HOUR, lifetime: 12 * HOUR }
    }

    fn failure() -> CredentialError {
        CredentialError::Aws { registry: "r".to_owned(), reason: "away".to_owned() }
    }

    fn id(answer: Result<Option<Credential>, CredentialError>) -> String {
        answer.expect("no failure").expect("a credential").id()
    }

    fn id_of(password: &str) -> String {
        Credential::basic("AWS", password).id()
    }

    #[tokio::test(start_paused = true)]
    async fn a_credential_is_renewed_early_and_kept_if_the_renewal_fails() {
        let cache = Cache::default();
        let (asked, is_failing) = (AtomicUsize::new(0), AtomicUsize::new(0));
        let ask = async || {
            let n = asked.fetch_add(1, Ordering::Relaxed) + 1;
            if is_failing.load(Ordering::Relaxed) == 1 { Err(failure()) } else { Ok(fresh(&n.to_string())) }
        };
        assert_eq!(id(cache.find("k", ask()).await), id_of("1"));
        advance(Duration::from_secs(6 * 3600 - 1)).await;
        assert_eq!(id(cache.find("k", ask()).await), id_of("1"));
        assert_eq!(asked.load(Ordering::Relaxed), 1, "the credential is cached");
        advance(Duration::from_secs(1)).await;
        is_failing.store(1, Ordering::Relaxed);
        for _ in 0..10 {
            assert_eq!(id(cache.find("k", ask()).await), id_of("1"));
        }
        assert_eq!(asked.load(Ordering::Relaxed), 2, "a failed renewal is not retried immediately");
        advance(RETRY_AFTER).await;
        is_failing.store(0, Ordering::Relaxed);
        assert_eq!(id(cache.find("k", ask()).await), id_of("3"));
        is_failing.store(1, Ordering::Relaxed);
        advance(12 * HOUR).await;
        assert_eq!(cache.find("k", ask()).await.err(), Some(failure()), "it has expired");
        assert_eq!(cache.find("k", ask()).await.err(), Some(failure()));
        assert_eq!(asked.load(Ordering::Relaxed), 4);
        advance(RETRY_AFTER).await;
        is_failing.store(0, Ordering::Relaxed);
        assert_eq!(id(cache.find("k", ask()).await), id_of("5"), "once the source works again");
        assert_eq!(id(cache.find("other", ask()).await), id_of("6"), "keys are independent");
    }

    #[tokio::test(start_paused = true)]
    async fn concurrent_callers_share_one_answer() {
        let (cache, asked) = (Cache::default(), AtomicUsize::new(0));
        let ask = async || {
            sleep(Duration::from_secs(1)).await;
            asked.fetch_add(1, Ordering::Relaxed);
            Ok(fresh("1"))
        };
        let askers = (0..100).map(|_| cache.find("k", ask()));
        for answer in futures_util::future::join_all(askers).await {
            assert_eq!(id(answer), id_of("1"));
        }
        assert_eq!(asked.load(Ordering::Relaxed), 1);
        {
            let given_up = cache.find("k2", ask());
            assert!(tokio::time::timeout(Duration::from_millis(10), given_up).await.is_err());
        }
        assert_eq!(id(cache.find("k2", ask()).await), id_of("1"), "a cancelled caller blocks no other caller");
    }

    #[tokio::test(start_paused = true)]
    async fn a_new_credential_cannot_be_forgotten_for_a_minute() {
        let (cache, ask) = (Cache::default(), async |password: &'static str| Ok(fresh(password)));
        assert_eq!(id(cache.find("k", ask("1")).await), id_of("1"));
        assert!(!cache.forget(&id_of("1")), "too new");
        advance(RETRY_AFTER).await;
        assert!(!cache.forget(&id_of("another")));
        assert_eq!(id(cache.find("k", ask("2")).await), id_of("1"));
        assert!(cache.forget(&id_of("1")));
        assert_eq!(id(cache.find("k", ask("2")).await), id_of("2"));
        assert!(!cache.forget(&id_of("2")));
    }
}

//! Answers that are dear to get, kept for a while: one asker at a time for each, the others wait for its answer.
//! Knows no source.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;
use tracing::warn;

use super::error::CredentialError;
use imagewatch_base::secret::Credential;

/// After this a source that failed is asked again.
const RETRY_AFTER: Duration = Duration::from_mins(1);

/// A credential, or that there is none, and for how long.
#[derive(Debug)]
pub(super) struct Fresh {
    pub(super) credential: Option<Credential>,
    /// When its source is to be asked again.
    pub(super) renew_after: Duration,
    /// Until when it does when the source fails; no shorter than `renew_after`.
    pub(super) lasts: Duration,
}

/// What sources answered, by what they were asked.
#[derive(Debug, Default)]
pub(super) struct Cache {
    slots: Mutex<BTreeMap<String, Arc<Slot>>>,
}

type Slot = tokio::sync::Mutex<Option<Kept>>;

#[derive(Debug)]
struct Kept {
    answer: Result<Option<Credential>, CredentialError>,
    since: Instant,
    renew_at: Instant,
    ends_at: Instant,
}

impl Cache {
    /// The answer to `key`, out of `ask` when none is kept. A credential that still lasts is kept when `ask` fails.
    pub(super) async fn find(
        &self,
        key: &str,
        ask: impl Future<Output = Result<Fresh, CredentialError>>,
    ) -> Result<Option<Credential>, CredentialError> {
        let slot = self.slot(key);
        let mut kept = slot.lock().await;
        if let Some(kept) = &*kept
            && Instant::now() < kept.renew_at
        {
            return kept.answer.clone();
        }
        let answer = ask.await;
        let now = Instant::now();
        match (answer, &mut *kept) {
            (Ok(Fresh { credential, renew_after, lasts }), kept) => {
                let (renew_at, ends_at) = (now + renew_after, now + lasts);
                *kept = Some(Kept { answer: Ok(credential.clone()), since: now, renew_at, ends_at });
                Ok(credential)
            }
            (Err(error), Some(Kept { answer: Ok(Some(credential)), renew_at, ends_at, .. })) if now < *ends_at => {
                warn!("failed to {error}; the one at hand is used until it ends");
                *renew_at = (now + RETRY_AFTER).min(*ends_at);
                Ok(Some(credential.clone()))
            }
            (Err(error), kept) => {
                let renew_at = now + RETRY_AFTER;
                *kept = Some(Kept { answer: Err(error.clone()), since: now, renew_at, ends_at: renew_at });
                Err(error)
            }
        }
    }

    /// Forgets the credential with this id and answers whether asking again may give another. One that has just
    /// been got is kept: its source would say the same, and a registry that refuses it must not make us ask without end.
    pub(super) fn forget(&self, credential_id: &str) -> bool {
        let slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
        let mut is_forgotten = false;
        for slot in slots.values() {
            // One that is locked is being renewed.
            let Ok(mut kept) = slot.try_lock() else { continue };
            let is_it = matches!(&*kept, Some(Kept { answer: Ok(Some(credential)), since, .. })
                if since.elapsed() >= RETRY_AFTER && credential.id() == credential_id);
            if is_it {
                *kept = None;
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
        Fresh { credential: Some(Credential::basic("AWS", password)), renew_after: 6 * HOUR, lasts: 12 * HOUR }
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
    async fn a_credential_is_renewed_before_its_end_and_kept_when_that_fails() {
        let cache = Cache::default();
        let (asked, is_away) = (AtomicUsize::new(0), AtomicUsize::new(0));
        let ask = async || {
            let n = asked.fetch_add(1, Ordering::Relaxed) + 1;
            if is_away.load(Ordering::Relaxed) == 1 { Err(failure()) } else { Ok(fresh(&n.to_string())) }
        };
        assert_eq!(id(cache.find("k", ask()).await), id_of("1"));
        advance(Duration::from_secs(6 * 3600 - 1)).await;
        assert_eq!(id(cache.find("k", ask()).await), id_of("1"));
        assert_eq!(asked.load(Ordering::Relaxed), 1, "kept");
        advance(Duration::from_secs(1)).await;
        is_away.store(1, Ordering::Relaxed);
        for _ in 0..10 {
            assert_eq!(id(cache.find("k", ask()).await), id_of("1"));
        }
        assert_eq!(asked.load(Ordering::Relaxed), 2, "a failed renewal is not tried again at once");
        advance(RETRY_AFTER).await;
        is_away.store(0, Ordering::Relaxed);
        assert_eq!(id(cache.find("k", ask()).await), id_of("3"));
        is_away.store(1, Ordering::Relaxed);
        advance(12 * HOUR).await;
        assert_eq!(cache.find("k", ask()).await.err(), Some(failure()), "it has ended");
        assert_eq!(cache.find("k", ask()).await.err(), Some(failure()));
        assert_eq!(asked.load(Ordering::Relaxed), 4);
        advance(RETRY_AFTER).await;
        is_away.store(0, Ordering::Relaxed);
        assert_eq!(id(cache.find("k", ask()).await), id_of("5"), "as soon as the source is back");
        assert_eq!(id(cache.find("other", ask()).await), id_of("6"), "keys have nothing to do with each other");
    }

    #[tokio::test(start_paused = true)]
    async fn those_who_ask_at_once_share_one_answer() {
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
        assert_eq!(id(cache.find("k2", ask()).await), id_of("1"), "one who gave up blocks nobody");
    }

    #[tokio::test(start_paused = true)]
    async fn an_expired_credential_is_forgotten_once_and_not_in_a_loop() {
        let (cache, ask) = (Cache::default(), async |password: &'static str| Ok(fresh(password)));
        assert_eq!(id(cache.find("k", ask("1")).await), id_of("1"));
        assert!(!cache.forget(&id_of("1")), "just got");
        advance(RETRY_AFTER).await;
        assert!(!cache.forget(&id_of("another")));
        assert_eq!(id(cache.find("k", ask("2")).await), id_of("1"));
        assert!(cache.forget(&id_of("1")));
        assert_eq!(id(cache.find("k", ask("2")).await), id_of("2"));
        assert!(!cache.forget(&id_of("2")));
    }
}

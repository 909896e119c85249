//! Requests of one manifest that may outlive the call that sent them. A batch waits while answers keep arriving. A
//! request without an answer continues in the background. When a later call sends the same request, it gets the answer.
//! A request in flight is never sent a second time. This module sends nothing itself and checks no rules.

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use imagewatch_abi::{Answer, Failure, FailureCode, HttpRequest, HttpResponse, MAX_BATCH};
use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio::task::AbortHandle;
use tokio::time::{Instant, sleep_until};

/// A batch returns if no answer arrives for this time.
const DEBOUNCE: Duration = Duration::from_secs(1);

/// The maximum wait of a batch, even if answers keep arriving. Other targets can already use the answers.
const MAX_WAIT: Duration = Duration::from_secs(5);

/// The maximum number of requests to one host that are in flight or not collected, for one manifest. Further requests
/// are answered with `pending` and not sent.
const MAX_FOR_HOST: usize = MAX_BATCH;

/// The same limit for all hosts of a manifest together.
const MAX_TOTAL: usize = 8 * MAX_BATCH;

/// An answer, and its share of the byte budget. Dropping the share returns its bytes.
pub type Arrived<R> = (Answer<HttpResponse>, R);

/// The deferred requests of one manifest. `R` is the share of the byte budget.
#[derive(Debug)]
pub struct Deferred<R> {
    shared: Arc<Shared<R>>,
}

#[derive(Debug)]
struct Shared<R> {
    entries: Mutex<Entries<R>>,
    /// Notified on each answer and on each call of [`Deferred::hurry`].
    changed: watch::Sender<()>,
    /// Whether the current call must return without waiting for answers.
    is_hurried: AtomicBool,
}

/// Method and URL. If two requests have the same key but different headers, one waits for the other.
type Key = (String, String);

#[derive(Debug)]
struct Entries<R> {
    by_key: BTreeMap<Key, Entry<R>>,
    by_host: BTreeMap<String, usize>,
    /// The number of the latest request. Distinguishes its answer from that of an earlier request with the same key.
    latest: u64,
    /// The number of the current call.
    call: u64,
}

#[derive(Debug)]
struct Entry<R> {
    number: u64,
    request: HttpRequest,
    host: String,
    task: Option<AbortHandle>,
    arrived: Option<StoredAnswer<R>>,
}

#[derive(Debug)]
struct StoredAnswer<R> {
    answer: Answer<HttpResponse>,
    share: Option<R>,
    /// The call during which the answer arrived.
    call: u64,
}

impl<R> Drop for Entry<R> {
    fn drop(&mut self) {
        if let Some(task) = &self.task {
            task.abort();
        }
    }
}

impl<R> Drop for Deferred<R> {
    /// Aborts all requests. The tasks hold the other references to the shared data.
    fn drop(&mut self) {
        self.shared.lock().by_key.clear();
    }
}

impl<R: Send + 'static> Default for Deferred<R> {
    fn default() -> Self {
        let entries = Entries { by_key: BTreeMap::new(), by_host: BTreeMap::new(), latest: 0, call: 0 };
        let (entries, is_hurried) = (Mutex::new(entries), AtomicBool::new(false));
        Self { shared: Arc::new(Shared { entries, changed: watch::Sender::new(()), is_hurried }) }
    }
}

impl<R: Send + 'static> Deferred<R> {
    /// Begins a call of the policy.
    pub fn begin_call(&self) {
        self.shared.is_hurried.store(false, Ordering::Release);
        self.shared.lock().call += 1;
    }

    /// Ends the call. Drops answers that arrived before the call and that the call did not request.
    pub fn end_call(&self) {
        let mut entries = self.shared.lock();
        let call = entries.call;
        let is_stale = |entry: &Entry<R>| entry.arrived.as_ref().is_some_and(|stored| stored.call < call);
        let stale: Vec<Key> =
            entries.by_key.iter().filter(|(_, entry)| is_stale(entry)).map(|(key, _)| key.clone()).collect();
        for key in stale {
            entries.remove(&key);
        }
    }

    /// Makes the current call return without waiting for further answers.
    pub fn hurry(&self) {
        self.shared.is_hurried.store(true, Ordering::Release);
        self.shared.changed.send_replace(());
    }

    /// Whether a request is in flight, or an answer is not collected yet.
    pub fn is_busy(&self) -> bool {
        !self.shared.lock().by_key.is_empty()
    }

    /// Waits until an answer has arrived that no call has collected.
    pub async fn arrived(&self) {
        let mut changed = self.shared.changed.subscribe();
        while !self.shared.lock().by_key.values().any(|entry| entry.arrived.is_some()) {
            if changed.changed().await.is_err() {
                return;
            }
        }
    }

    /// Returns the answers to `requests` in their order. A request without an answer gets a `pending` failure. `send`
    /// creates the future of each request that is not in flight; it runs on `runtime`.
    pub async fn send<F>(
        &self,
        runtime: &Handle,
        requests: Vec<HttpRequest>,
        send: impl Fn(HttpRequest) -> F,
    ) -> Vec<Arrived<Option<R>>>
    where
        F: Future<Output = Arrived<R>> + Send + 'static,
    {
        let keys: Vec<Option<Key>> = {
            let mut entries = self.shared.lock();
            requests.iter().map(|request| entries.enter(&self.shared, runtime, request, &send)).collect()
        };
        self.wait(keys.iter().flatten().cloned().collect()).await;
        let mut entries = self.shared.lock();
        let answers = requests.iter().zip(&keys).map(|(request, key)| entries.read(request, key.as_ref())).collect();
        for key in keys.iter().flatten() {
            entries.forget_answer(key);
        }
        drop(entries);
        answers
    }

    /// Waits for the answers to `open` while answers keep arriving, but at most [`MAX_WAIT`].
    async fn wait(&self, mut open: Vec<Key>) {
        let mut changed = self.shared.changed.subscribe();
        let end = Instant::now() + MAX_WAIT;
        loop {
            self.shared.lock().drop_answered(&mut open);
            if open.is_empty() || self.shared.is_hurried.load(Ordering::Acquire) {
                return;
            }
            let until = (Instant::now() + DEBOUNCE).min(end);
            tokio::select! {
                _ = changed.changed() => {}
                () = sleep_until(until) => return,
            }
        }
    }
}

impl<R> Shared<R> {
    fn lock(&self) -> std::sync::MutexGuard<'_, Entries<R>> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn arrive(&self, key: &Key, number: u64, (answer, share): Arrived<R>) {
        {
            let mut entries = self.lock();
            let call = entries.call;
            if let Some(entry) = entries.by_key.get_mut(key).filter(|entry| entry.number == number) {
                entry.arrived = Some(StoredAnswer { answer, share: Some(share), call });
            }
        }
        self.changed.send_replace(());
    }
}

impl<R: Send + 'static> Entries<R> {
    /// Starts `request` unless it is in flight or answered, and returns its key. Returns `None` if it must wait for
    /// other requests.
    fn enter<F>(
        &mut self,
        shared: &Arc<Shared<R>>,
        runtime: &Handle,
        request: &HttpRequest,
        send: impl Fn(HttpRequest) -> F,
    ) -> Option<Key>
    where
        F: Future<Output = Arrived<R>> + Send + 'static,
    {
        let key = (format!("{:?}", request.method), request.url.clone());
        match self.by_key.get(&key) {
            Some(entry) if entry.request == *request => return Some(key),
            Some(entry) if entry.arrived.is_none() => return None,
            // The stored answer belongs to other headers, for example to an older token.
            Some(_) => self.remove(&key),
            None => {}
        }
        let host = host_of(&request.url).to_owned();
        if self.by_key.len() >= MAX_TOTAL || self.by_host.get(&host).is_some_and(|count| *count >= MAX_FOR_HOST) {
            return None;
        }
        self.latest += 1;
        let (number, sent, task_key) = (self.latest, send(request.clone()), key.clone());
        let shared = Arc::downgrade(shared);
        let task = runtime.spawn(async move {
            let arrived = sent.await;
            if let Some(shared) = shared.upgrade() {
                shared.arrive(&task_key, number, arrived);
            }
        });
        *self.by_host.entry(host.clone()).or_default() += 1;
        let task = Some(task.abort_handle());
        self.by_key.insert(key.clone(), Entry { number, request: request.clone(), host, task, arrived: None });
        Some(key)
    }
}

impl<R> Entries<R> {
    /// Removes answered requests from the end of `open`.
    fn drop_answered(&self, open: &mut Vec<Key>) {
        while open.last().is_some_and(|key| self.by_key.get(key).is_none_or(|entry| entry.arrived.is_some())) {
            open.pop();
        }
    }

    fn remove(&mut self, key: &Key) {
        let Some(entry) = self.by_key.remove(key) else { return };
        if let Some(count) = self.by_host.get_mut(&entry.host) {
            *count -= 1;
            if *count == 0 {
                self.by_host.remove(&entry.host);
            }
        }
    }

    /// The answer to `request`. A batch that contains a request twice gets the same answer twice.
    fn read(&mut self, request: &HttpRequest, key: Option<&Key>) -> Arrived<Option<R>> {
        let entry = key.and_then(|key| self.by_key.get_mut(key));
        if let Some(stored) = entry.and_then(|entry| entry.arrived.as_mut()) {
            return (stored.answer.clone(), stored.share.take());
        }
        let message = format!("{} has not answered yet", host_of(&request.url));
        (Answer::Err(Failure::retryable(FailureCode::Pending, message)), None)
    }

    fn forget_answer(&mut self, key: &Key) {
        if self.by_key.get(key).is_some_and(|entry| entry.arrived.is_some()) {
            self.remove(key);
        }
    }
}

/// The host and port of `url`, without user information.
fn host_of(url: &str) -> &str {
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    authority.rsplit('@').next().unwrap_or_default()
}

#[cfg(test)]
mod tests;

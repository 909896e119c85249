//! Requests of one manifest that may outlive the call that asked them. A batch waits as long as answers keep coming; a
//! request without one by then goes on here, and the same request gets its answer in a later call. Sends nothing itself
//! and knows no rules: it is given what is to run. A request that is under way is never sent a second time.

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

/// A batch in which nothing arrives for so long is answered as it is.
const QUIET: Duration = Duration::from_secs(1);

/// No batch waits longer, also where answers keep coming: they are of use to others already.
const LONGEST: Duration = Duration::from_secs(5);

/// So many requests to one host may be under way or uncollected, for one manifest. More are put off.
const MAX_FOR_HOST: usize = MAX_BATCH;

/// The same for all hosts of a manifest.
const MAX_IN_ALL: usize = 8 * MAX_BATCH;

/// An answer, and what it holds of the room for bodies; that is free again when this is dropped.
pub type Arrived<R> = (Answer<HttpResponse>, R);

/// The requests of one manifest.
#[derive(Debug)]
pub struct Deferred<R> {
    shared: Arc<Shared<R>>,
}

#[derive(Debug)]
struct Shared<R> {
    entries: Mutex<Entries<R>>,
    /// Told of each answer, and of each hurry.
    news: watch::Sender<()>,
    /// Somebody waits for the call to end.
    is_hurried: AtomicBool,
}

/// Method and URL: of two such requests with different headers one waits for the other.
type Key = (String, String);

#[derive(Debug)]
struct Entries<R> {
    by_key: BTreeMap<Key, Entry<R>>,
    by_host: BTreeMap<String, usize>,
    /// Tells an answer from that of an earlier request with the same key.
    next: u64,
    /// The number of the call.
    call: u64,
}

#[derive(Debug)]
struct Entry<R> {
    number: u64,
    request: HttpRequest,
    host: String,
    task: Option<AbortHandle>,
    arrived: Option<Kept<R>>,
}

#[derive(Debug)]
struct Kept<R> {
    answer: Answer<HttpResponse>,
    room: Option<R>,
    /// The call in which it came.
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
    /// The tasks hold the rest.
    fn drop(&mut self) {
        self.shared.lock().by_key.clear();
    }
}

impl<R: Send + 'static> Default for Deferred<R> {
    fn default() -> Self {
        let entries = Entries { by_key: BTreeMap::new(), by_host: BTreeMap::new(), next: 0, call: 0 };
        let (entries, is_hurried) = (Mutex::new(entries), AtomicBool::new(false));
        Self { shared: Arc::new(Shared { entries, news: watch::Sender::new(()), is_hurried }) }
    }
}

impl<R: Send + 'static> Deferred<R> {
    /// A call of the policy begins.
    pub fn begin_call(&self) {
        self.shared.is_hurried.store(false, Ordering::Release);
        self.shared.lock().call += 1;
    }

    /// The call is over: answers that were there when it began, and that it did not want, are of no use any more.
    pub fn end_call(&self) {
        let mut entries = self.shared.lock();
        let call = entries.call;
        let is_stale = |entry: &Entry<R>| entry.arrived.as_ref().is_some_and(|kept| kept.call < call);
        let stale: Vec<Key> =
            entries.by_key.iter().filter(|(_, entry)| is_stale(entry)).map(|(key, _)| key.clone()).collect();
        for key in stale {
            entries.remove(&key);
        }
    }

    /// Has the call that is under way wait for no more answers.
    pub fn hurry(&self) {
        self.shared.is_hurried.store(true, Ordering::Release);
        self.shared.news.send_replace(());
    }

    /// Whether anything is under way, or an answer is there that no call has collected.
    pub fn is_busy(&self) -> bool {
        !self.shared.lock().by_key.is_empty()
    }

    /// Waits until there is an answer that no call has collected.
    pub async fn arrived(&self) {
        let mut news = self.shared.news.subscribe();
        while !self.shared.lock().by_key.values().any(|entry| entry.arrived.is_some()) {
            if news.changed().await.is_err() {
                return;
            }
        }
    }

    /// Answers `requests` in their order; those that have no answer yet by `pending`. What is not under way is started
    /// by `send`.
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

    /// Waits for the answers of `open`, as long as there is reason to.
    async fn wait(&self, mut open: Vec<Key>) {
        let mut news = self.shared.news.subscribe();
        let end = Instant::now() + LONGEST;
        loop {
            self.shared.lock().drop_answered(&mut open);
            if open.is_empty() || self.shared.is_hurried.load(Ordering::Acquire) {
                return;
            }
            let until = (Instant::now() + QUIET).min(end);
            tokio::select! {
                _ = news.changed() => {}
                () = sleep_until(until) => return,
            }
        }
    }
}

impl<R> Shared<R> {
    fn lock(&self) -> std::sync::MutexGuard<'_, Entries<R>> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn arrive(&self, key: &Key, number: u64, (answer, room): Arrived<R>) {
        {
            let mut entries = self.lock();
            let call = entries.call;
            if let Some(entry) = entries.by_key.get_mut(key).filter(|entry| entry.number == number) {
                entry.arrived = Some(Kept { answer, room: Some(room), call });
            }
        }
        self.news.send_replace(());
    }
}

impl<R: Send + 'static> Entries<R> {
    /// The key under which `request` is answered; none where it has to wait for others first.
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
            // An answer to other headers, an older token say.
            Some(_) => self.remove(&key),
            None => {}
        }
        let host = host_of(&request.url).to_owned();
        if self.by_key.len() >= MAX_IN_ALL || self.by_host.get(&host).is_some_and(|count| *count >= MAX_FOR_HOST) {
            return None;
        }
        self.next += 1;
        let (number, sent, own) = (self.next, send(request.clone()), key.clone());
        let shared = Arc::downgrade(shared);
        let task = runtime.spawn(async move {
            let arrived = sent.await;
            if let Some(shared) = shared.upgrade() {
                shared.arrive(&own, number, arrived);
            }
        });
        *self.by_host.entry(host.clone()).or_default() += 1;
        let task = Some(task.abort_handle());
        self.by_key.insert(key.clone(), Entry { number, request: request.clone(), host, task, arrived: None });
        Some(key)
    }
}

impl<R> Entries<R> {
    /// Takes from the end of `open` what is answered.
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

    /// A request that stands twice in a batch reads the same answer twice.
    fn read(&mut self, request: &HttpRequest, key: Option<&Key>) -> Arrived<Option<R>> {
        let entry = key.and_then(|key| self.by_key.get_mut(key));
        if let Some(kept) = entry.and_then(|entry| entry.arrived.as_mut()) {
            return (kept.answer.clone(), kept.room.take());
        }
        let message = format!("{} has not answered yet", host_of(&request.url));
        (Answer::Err(Failure::passing(FailureCode::Pending, message)), None)
    }

    fn forget_answer(&mut self, key: &Key) {
        if self.by_key.get(key).is_some_and(|entry| entry.arrived.is_some()) {
            self.remove(key);
        }
    }
}

/// Host and port of `url`, without what may stand before an `@`.
fn host_of(url: &str) -> &str {
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    authority.rsplit('@').next().unwrap_or_default()
}

#[cfg(test)]
mod tests;

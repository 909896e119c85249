//! Tests deferred requests whose answers the test releases one by one.

use std::sync::atomic::AtomicUsize;

use imagewatch_abi::HttpBatch;
use tokio::sync::Semaphore;

use super::*;
use crate::testing::get;

/// The deferred requests of a policy, and the registries that answer them.
#[derive(Debug, Clone)]
struct World {
    deferred: Arc<Deferred<()>>,
    registries: Registries,
}

/// Counts the requests. The host `slow` needs one permit per answer.
#[derive(Debug, Clone)]
struct Registries {
    sent: Arc<AtomicUsize>,
    slow: Arc<Semaphore>,
}

impl World {
    fn new() -> Self {
        let registries = Registries { sent: Arc::default(), slow: Arc::new(Semaphore::new(0)) };
        Self { deferred: Arc::default(), registries }
    }

    /// Simulates one call of a policy with one batch. Returns the status of each answer, or `None` for `pending`.
    async fn call(&self, requests: &[HttpRequest]) -> Vec<Option<u16>> {
        self.deferred.begin_call();
        let batch = HttpBatch { requests: requests.to_vec(), may_defer: true };
        let runtime = Handle::current();
        let send = |request| self.registries.clone().answer(request);
        let answers = self.deferred.send(&runtime, batch.requests, send).await;
        self.deferred.end_call();
        let status = |(answer, _): Arrived<Option<()>>| match answer {
            Answer::Ok(response) => Some(response.status),
            Answer::Err(failure) => {
                assert_eq!(failure.code, FailureCode::Pending, "{failure}");
                None
            }
        };
        answers.into_iter().map(status).collect()
    }

    fn sent(&self) -> usize {
        self.registries.sent.load(Ordering::Relaxed)
    }

    fn let_answer(&self, requests: usize) {
        self.registries.slow.add_permits(requests);
    }
}

impl Registries {
    async fn answer(self, request: HttpRequest) -> Arrived<()> {
        self.sent.fetch_add(1, Ordering::Relaxed);
        if request.url.starts_with("https://slow") {
            self.slow.acquire().await.expect("it is never closed").forget();
        }
        (Answer::Ok(HttpResponse { status: 200, ..HttpResponse::default() }), ())
    }
}

#[tokio::test(start_paused = true)]
async fn a_pending_request_continues_and_is_not_sent_again() {
    let world = World::new();
    let batch = [get("https://slow/a"), get("https://fast/b")];
    assert_eq!(world.call(&batch).await, [None, Some(200)]);
    assert_eq!(world.call(&batch[..1]).await, [None]);
    assert_eq!(world.sent(), 2);
    world.let_answer(1);
    world.deferred.arrived().await;
    assert_eq!(world.call(&batch[..1]).await, [Some(200)]);
    assert_eq!(world.sent(), 2, "the answer is that of the first request");
    assert!(!world.deferred.is_busy());
}

#[tokio::test(start_paused = true)]
async fn a_request_with_other_headers_waits_for_the_one_in_flight() {
    let world = World::new();
    let first = get("https://slow/a");
    let second = HttpRequest { headers: vec![("authorization".to_owned(), "Bearer new".to_owned())], ..first.clone() };
    assert_eq!(world.call(&[first]).await, [None]);
    assert_eq!(world.call(std::slice::from_ref(&second)).await, [None]);
    assert_eq!(world.sent(), 1, "one at a time");
    world.let_answer(2);
    world.deferred.arrived().await;
    assert_eq!(world.call(&[second]).await, [Some(200)]);
    assert_eq!(world.sent(), 2, "the first answer does not fit the second request");
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_the_next_call_does_not_request_is_dropped() {
    let world = World::new();
    assert_eq!(world.call(&[get("https://slow/a")]).await, [None]);
    world.let_answer(1);
    world.deferred.arrived().await;
    assert_eq!(world.call(&[get("https://fast/b")]).await, [Some(200)]);
    assert!(!world.deferred.is_busy());
    world.let_answer(1);
    assert_eq!(world.call(&[get("https://slow/a")]).await, [Some(200)]);
    assert_eq!(world.sent(), 3, "a later poll gets no old answer");
}

#[tokio::test(start_paused = true)]
async fn a_hurried_call_returns_immediately() {
    let world = World::new();
    let other = world.clone();
    let call = tokio::spawn(async move { other.call(&[get("https://slow/a"), get("https://fast/b")]).await });
    while world.sent() < 2 {
        tokio::task::yield_now().await;
    }
    let before = Instant::now();
    world.deferred.hurry();
    assert_eq!(call.await.expect("no panic"), [None, Some(200)]);
    assert_eq!(Instant::now(), before, "no time had to pass");
}

#[tokio::test(start_paused = true)]
async fn the_limit_of_one_host_does_not_affect_other_hosts() {
    let world = World::new();
    let url = |number: usize| get(format!("https://slow/{number}"));
    let batch: Vec<HttpRequest> = (0..MAX_FOR_HOST).map(url).collect();
    assert!(world.call(&batch).await.iter().all(Option::is_none));
    let more = [url(MAX_FOR_HOST), get("https://fast/b")];
    assert_eq!(world.call(&more).await, [None, Some(200)]);
    assert_eq!(world.sent(), MAX_FOR_HOST + 1);
}

#[tokio::test(start_paused = true)]
async fn a_duplicate_request_in_a_batch_is_sent_once() {
    let world = World::new();
    assert_eq!(world.call(&[get("https://fast/a"), get("https://fast/a")]).await, [Some(200), Some(200)]);
    assert_eq!(world.sent(), 1);
}

#[tokio::test(start_paused = true)]
async fn dropping_the_owner_aborts_requests_in_flight() {
    let world = World::new();
    assert_eq!(world.call(&[get("https://slow/a")]).await, [None]);
    let (slow, deferred) = (world.registries.slow.clone(), world.deferred.clone());
    drop(world);
    assert_eq!(Arc::strong_count(&slow), 2, "the request holds one");
    drop(deferred);
    while Arc::strong_count(&slow) > 1 {
        tokio::task::yield_now().await;
    }
}

#[test]
fn the_host_of_a_url_excludes_user_information() {
    for (url, host) in [
        ("https://r.io/v2/", "r.io"),
        ("https://r.io:5000?x", "r.io:5000"),
        ("https://user@r.io/v2/", "r.io"),
        ("no url", "no url"),
    ] {
        assert_eq!(host_of(url), host);
    }
}

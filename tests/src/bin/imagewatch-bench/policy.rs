//! The policy in this process, loaded as the program loads it, and answers from memory for it.

use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use imagewatch::plugin::{Effects, LoadedPlugin, PluginManifest, load};
use imagewatch_abi::{
    Answer, Containers, HttpBatch, HttpRequest, HttpResponse, HttpResponses, LogLine, Orders, Placed, Selector,
};
use imagewatch_tests::image::sha256;

/// A loaded manifest.
#[derive(Debug, Clone)]
pub(crate) struct Policy {
    pub(crate) manifest: Arc<PluginManifest>,
    pub(crate) plugin: Arc<LoadedPlugin>,
}

impl Policy {
    /// Reads and compiles; the time that took.
    pub(crate) fn load(path: &Path) -> (Self, Duration) {
        let start = Instant::now();
        let manifest = PluginManifest::read(path, &|_| None).expect("the manifest is ours");
        let plugin = load(&manifest).expect("the plugin is ours");
        (Self { manifest: Arc::new(manifest), plugin: Arc::new(plugin) }, start.elapsed())
    }
}

/// Answers every request at once and the same in every tick, and remembers what was asked.
#[derive(Debug, Default)]
pub(crate) struct Canned {
    asked: Mutex<Vec<HttpRequest>>,
    answers: Mutex<Vec<Answer<HttpResponse>>>,
    answering_ns: AtomicU64,
}

impl Canned {
    /// The requests of the first batch.
    pub(crate) fn asked(&self) -> Vec<HttpRequest> {
        self.asked.lock().expect("no holder panics").clone()
    }

    /// How long the answering itself took since the last time.
    pub(crate) fn take_answering(&self) -> Duration {
        Duration::from_nanos(self.answering_ns.swap(0, Ordering::Relaxed))
    }
}

impl Effects for Canned {
    fn http_send(&self, batch: HttpBatch) -> Answer<HttpResponses> {
        let start = Instant::now();
        let mut answers = self.answers.lock().expect("no holder panics");
        if answers.is_empty() {
            *answers = batch.requests.iter().map(answer).collect();
            *self.asked.lock().expect("no holder panics") = batch.requests;
        }
        let responses = answers.clone();
        let spent = u64::try_from(start.elapsed().as_nanos()).unwrap_or(u64::MAX);
        self.answering_ns.fetch_add(spent, Ordering::Relaxed);
        Answer::Ok(HttpResponses { responses })
    }

    fn docker_containers(&self, _: Selector) -> Answer<Containers> {
        Answer::Ok(Containers::default())
    }

    fn docker_refresh(&self, _: Orders) -> Answer<Placed> {
        panic!("nothing moves")
    }

    fn log(&self, _: LogLine) {}
}

fn answer(request: &HttpRequest) -> Answer<HttpResponse> {
    let digest = ("docker-content-digest".to_owned(), sha256(request.url.as_bytes()).to_string());
    Answer::Ok(HttpResponse { status: 200, headers: vec![digest], ..HttpResponse::default() })
}

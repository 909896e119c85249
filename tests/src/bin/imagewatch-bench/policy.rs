//! The policy in this process, loaded as in the program, with answers from memory.

use std::collections::HashMap;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use imagewatch_abi::{
    Answer, Containers, HttpBatch, HttpRequest, HttpResponse, HttpResponses, LogLine, Orders, OrdersAccepted, Selector,
};
use imagewatch_policy::{Effects, LoadedPlugin, PluginManifest, load};
use imagewatch_tests::image::sha256;

/// A loaded manifest.
#[derive(Debug, Clone)]
pub(crate) struct Policy {
    pub(crate) manifest: Arc<PluginManifest>,
    pub(crate) plugin: Arc<LoadedPlugin>,
}

impl Policy {
    /// Reads and compiles the manifest's policy.
    pub(crate) fn load(path: &Path) -> Self {
        let manifest = PluginManifest::read(path, &|_| None).expect("the manifest is valid");
        let plugin = load(&manifest).expect("the plugin is valid");
        Self { manifest: Arc::new(manifest), plugin: Arc::new(plugin) }
    }
}

/// Answers every request immediately, with the same answer in every poll, and records the requests.
#[derive(Debug, Default)]
pub(crate) struct Canned {
    known: Mutex<Known>,
    answering_ns: AtomicU64,
}

#[derive(Debug, Default)]
struct Known {
    /// Each different request, in the order of arrival.
    asked: Vec<HttpRequest>,
    /// The answers by URL.
    answers: HashMap<String, Answer<HttpResponse>>,
}

impl Canned {
    /// All different requests so far.
    pub(crate) fn asked(&self) -> Vec<HttpRequest> {
        self.known.lock().expect("no holder panics").asked.clone()
    }

    /// How long the answering took since the last call.
    pub(crate) fn take_answering(&self) -> Duration {
        Duration::from_nanos(self.answering_ns.swap(0, Ordering::Relaxed))
    }
}

impl Canned {
    /// Counts the time of `work` as answering.
    pub(crate) fn answering<T>(&self, work: impl FnOnce() -> T) -> T {
        let start = Instant::now();
        let done = work();
        let spent = u64::try_from(start.elapsed().as_nanos()).unwrap_or(u64::MAX);
        self.answering_ns.fetch_add(spent, Ordering::Relaxed);
        done
    }

    /// Answers as the host function does, without counting the time.
    pub(crate) fn answer(&self, batch: HttpBatch) -> Answer<HttpResponses> {
        let mut known = self.known.lock().expect("no holder panics");
        let responses = batch.requests.into_iter().map(|request| known.answer(request)).collect();
        Answer::Ok(HttpResponses { responses })
    }
}

impl Effects for Canned {
    fn http_send(&self, batch: HttpBatch, _: usize) -> Answer<HttpResponses> {
        self.answering(|| self.answer(batch))
    }

    fn docker_containers(&self, _: Selector) -> Answer<Containers> {
        Answer::Ok(Containers::default())
    }

    fn docker_refresh(&self, _: Orders) -> Answer<OrdersAccepted> {
        panic!("no tag moves")
    }

    fn log(&self, _: LogLine) {}
}

impl Known {
    fn answer(&mut self, request: HttpRequest) -> Answer<HttpResponse> {
        if let Some(answer) = self.answers.get(&request.url) {
            return answer.clone();
        }
        let digest = ("docker-content-digest".to_owned(), sha256(request.url.as_bytes()).to_string());
        let answer = Answer::Ok(HttpResponse { status: 200, headers: vec![digest], ..HttpResponse::default() });
        self.answers.insert(request.url.clone(), answer.clone());
        self.asked.push(request);
        answer
    }
}

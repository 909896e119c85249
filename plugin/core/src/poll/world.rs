//! A host for tests: containers, registries that answer or fail, and the orders that a policy places.

use std::collections::{BTreeMap, BTreeSet};

use imagewatch_abi::{
    Answer, Container, Containers, Digest, Failure, FailureCode, HttpBatch, HttpRequest, HttpResponse, HttpResponses,
    LogLine, Order, OrdersAccepted, PollInput, PollMode, PollOutput, Quarantined, Selector,
};
use serde_json::Value;

use crate::Host;

/// One machine and the registry `r.io`.
#[derive(Debug, Clone, Default)]
pub(crate) struct World {
    pub(crate) config: BTreeMap<String, String>,
    pub(crate) containers: Vec<Container>,
    /// What the tags point to, by `repository:tag`. A tag that is not there does not exist.
    pub(crate) tags: BTreeMap<String, Digest>,
    /// Tags that are listed and have no manifest, by `repository:tag`.
    pub(crate) listed: BTreeSet<String>,
    /// Indexes and manifests, by digest.
    pub(crate) documents: BTreeMap<Digest, Value>,
    /// What the registry was asked for, method and path.
    pub(crate) requests: Vec<String>,
    /// The registry does not answer.
    pub(crate) is_down: bool,
    /// Requests for what has this in its URL are pending.
    pub(crate) late: Option<String>,
    /// Each request is pending once, and is answered if the next poll asks it again.
    pub(crate) is_slow: bool,
    pub(crate) under_way: BTreeSet<String>,
    pub(crate) begun: BTreeSet<String>,
    /// What was answered while it was slow.
    pub(crate) answered: Vec<String>,
    pub(crate) cache: Value,
    pub(crate) state: Value,
    pub(crate) quarantine: Vec<Quarantined>,
    pub(crate) in_flight: Vec<String>,
    /// The orders of the last poll.
    pub(crate) orders: Vec<Order>,
    pub(crate) logged: Vec<String>,
}

pub(crate) fn digest(letter: char) -> Digest {
    format!("sha256:{}", letter.to_string().repeat(64)).parse().expect("a digest")
}

impl World {
    pub(crate) fn new(config: &[(&str, &str)]) -> Self {
        let config = config.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        Self { config, ..Self::default() }
    }

    /// A running container `name` on `image`, which it has from there at digest `letter`.
    #[must_use]
    pub(crate) fn with(mut self, name: &str, image: &str, letter: char, labels: &[(&str, &str)]) -> Self {
        let repository = image.split_once('@').map_or(image, |(image, _)| image);
        let repository = repository.rsplit_once(':').map_or(repository, |(repository, _)| repository);
        self.containers.push(Container {
            id: format!("id-of-{name}"),
            name: name.to_owned(),
            image: image.to_owned(),
            image_id: digest(letter).to_string(),
            repo_digests: vec![format!("{repository}@{}", digest(letter))],
            labels: labels.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect(),
            state: "running".to_owned(),
            ..Container::default()
        });
        self
    }

    #[must_use]
    pub(crate) fn tag(mut self, tag: &str, letter: char) -> Self {
        self.tags.insert(tag.to_owned(), digest(letter));
        self
    }

    pub(crate) fn poll(&mut self, mode: PollMode) -> PollOutput {
        self.orders.clear();
        let (state, quarantine, in_flight) = (self.state.clone(), self.quarantine.clone(), self.in_flight.clone());
        let input = PollInput { now_ms: 1_000, state, quarantine, in_flight, mode, ..PollInput::default() };
        let output = super::poll(self, input);
        self.state = output.state.clone();
        output
    }

    /// Polls the targets in `only`, or all, and keeps the cache.
    pub(crate) fn poll_only(&mut self, only: Option<Vec<String>>, mode: PollMode) -> PollOutput {
        self.orders.clear();
        self.under_way = std::mem::take(&mut self.begun);
        let (state, cache, in_flight) = (self.state.clone(), self.cache.clone(), self.in_flight.clone());
        let output =
            super::poll(self, PollInput { now_ms: 1_000, state, cache, only, in_flight, mode, ..PollInput::default() });
        (self.state, self.cache) = (output.state.clone(), output.cache.clone());
        output
    }

    fn is_pending(&mut self, request: &HttpRequest) -> bool {
        if self.late.as_ref().is_some_and(|late| request.url.contains(late.as_str())) {
            return true;
        }
        let name = format!("{:?} {}", request.method, request.url);
        if !self.is_slow {
            return false;
        }
        let is_there = self.under_way.remove(&name);
        if is_there {
            self.answered.push(name);
        } else {
            self.begun.insert(name);
        }
        !is_there
    }

    fn answer(&self, request: &HttpRequest) -> Answer<HttpResponse> {
        let path = request.url.strip_prefix("https://r.io/v2/").unwrap_or_default();
        let response =
            |status, headers, body| Answer::Ok(HttpResponse { status, headers, body, ..HttpResponse::default() });
        if self.is_down {
            return Answer::Err(Failure::retryable(FailureCode::Timeout, "r.io does not answer"));
        }
        if let Some((repository, _)) = path.split_once("/tags/list") {
            let prefix = format!("{repository}:");
            let tags: Vec<_> =
                self.tags.keys().chain(&self.listed).filter_map(|tag| tag.strip_prefix(&prefix)).collect();
            return response(200, Vec::new(), serde_json::json!({ "name": repository, "tags": tags }).to_string());
        }
        let digest = path.rsplit_once('/').and_then(|(_, version)| version.parse::<Digest>().ok());
        if let Some(document) = digest.and_then(|digest| self.documents.get(&digest)) {
            return response(200, Vec::new(), document.to_string());
        }
        match self.tags.get(&path.replacen("/manifests/", ":", 1)) {
            Some(digest) => {
                let headers = vec![("docker-content-digest".to_owned(), digest.to_string())];
                response(200, headers, r#"{"manifests":[]}"#.to_owned())
            }
            None => response(404, Vec::new(), String::new()),
        }
    }
}

impl Host for World {
    fn config(&self, key: &str) -> Option<String> {
        self.config.get(key).cloned()
    }

    fn http_send(&mut self, batch: HttpBatch) -> Answer<HttpResponses> {
        self.requests.extend(batch.requests.iter().map(|request| format!("{:?} {}", request.method, request.url)));
        let responses = batch.requests.iter().map(|request| {
            if self.is_pending(request) {
                return Answer::Err(Failure::retryable(FailureCode::Pending, "r.io has not answered yet"));
            }
            self.answer(request)
        });
        Answer::Ok(HttpResponses { responses: responses.collect() })
    }

    fn docker_containers(&mut self, selector: Selector) -> Answer<Containers> {
        let is_selected = |container: &&Container| {
            selector.name.as_ref().is_none_or(|name| *name == container.name)
                && selector.name_contains.as_ref().is_none_or(|part| container.name.contains(part.as_str()))
                && selector.label.as_ref().is_none_or(|label| {
                    let (key, value) = label.split_once('=').unwrap_or((label, ""));
                    container.labels.get(key).is_some_and(|actual| actual == value)
                })
        };
        Answer::Ok(Containers { containers: self.containers.iter().filter(is_selected).cloned().collect() })
    }

    fn docker_refresh(&mut self, orders: Vec<Order>) -> Answer<OrdersAccepted> {
        let accepted = orders.iter().map(|order| order.order.clone()).collect();
        self.orders.extend(orders);
        Answer::Ok(OrdersAccepted { accepted, reports: Vec::new() })
    }

    fn log(&mut self, line: LogLine) {
        self.logged.push(line.message);
    }
}

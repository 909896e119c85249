//! What a registry's answer to a query comes to: a find, another way to ask, or a failure.

use imagewatch_abi::{Answer, Digest, Failure, FailureCode, HttpResponse};

use super::super::document::Document;
use super::super::limit::{Limit, RateLimited, read_limit};
use super::messages::{bad_answer, challenged_elsewhere, denied_elsewhere, refusal, shown};
use super::{Fallback, Found, Proof, Purpose, Query, RegistrySession, Resolver};

/// The digest of an empty body.
const NOTHING: &str = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

impl Resolver<'_> {
    pub(super) fn take(&mut self, purpose: Purpose, answer: Answer<HttpResponse>) {
        match (purpose, answer) {
            (purpose, Answer::Err(failure)) if failure.code == FailureCode::Pending => self.wait(purpose, &failure),
            (Purpose::Token(ask), answer) => self.take_token(&ask, answer),
            (Purpose::Query(query, proof), Answer::Err(failure)) => self.take_failure(query, &proof, failure),
            (Purpose::Query(query, proof), Answer::Ok(response)) => self.take_response(query, &proof, &response),
        }
    }

    /// There is no answer yet: all that need it end here, and go on in the next poll.
    fn wait(&mut self, purpose: Purpose, failure: &Failure) {
        match purpose {
            Purpose::Token(ask) => {
                for query in self.waiting(&ask) {
                    self.suspend(query, failure);
                }
                self.late.insert(ask.registry.clone());
                self.late_logins.insert(ask.registry);
            }
            Purpose::Query(query, proof) => {
                if !matches!(proof, Proof::Token { is_borrowed: false, .. }) {
                    self.late.insert(query.registry().to_owned());
                }
                if matches!(proof, Proof::Login(_)) {
                    self.late_logins.insert(query.registry().to_owned());
                }
                self.suspend(query, failure);
            }
        }
    }

    pub(super) fn suspend(&mut self, query: Query, failure: &Failure) {
        let job = self.open.remove(&query).unwrap_or_default();
        self.cache.unfinished.wait(query.name(), query.reference(), job);
        self.done.push((query, Err(failure.clone())));
    }

    /// Nothing came from the registry.
    fn take_failure(&mut self, query: Query, proof: &Proof, failure: Failure) {
        self.talk(query.registry()).responded = true;
        self.note_login_try(query.registry());
        let is_repeated = self.open.get(&query).is_some_and(|job| job.unless.is_some());
        let known = self.cache.registries.entry(query.registry().to_owned()).or_default();
        match (failure.code, proof) {
            // Sent again after a denial, and the host has no other: it was a denial indeed.
            (FailureCode::Rejected, Proof::Login(login)) if is_repeated && !known.rejected.contains_key(login) => {
                return self.take_denial(query, proof, true);
            }
            (FailureCode::Rejected, Proof::Login(login)) if self.refused.insert(login.clone()) => return,
            (FailureCode::PerRepository, Proof::Login(_)) if !known.is_per_repository => {
                known.is_per_repository = true;
                return;
            }
            (FailureCode::NoCredential, _) => {
                self.talk(query.registry()).challenge_suspect = true;
            }
            (_, Proof::Token { is_borrowed: true, .. }) => known.is_shared = known.is_shared.or(Some(false)),
            _ => {}
        }
        self.finish(query, Err(failure));
    }

    fn take_response(&mut self, query: Query, proof: &Proof, response: &HttpResponse) {
        let registry = query.registry().to_owned();
        self.talk(&registry).responded = true;
        if let Some(parked) = self.note_limit(&registry, response) {
            let failure = parked.to_failure(&registry);
            return self.finish(query, Err(failure));
        }
        self.note_status(&query, response);
        match (response.status, &response.answered_by) {
            (401, Some(host)) => {
                let failure = challenged_elsewhere(query.reference(), host);
                self.finish(query, Err(failure));
            }
            // After a redirect the registry itself let the request through: the host behind may take a GET.
            (400 | 406 | 501, _) | (403, Some(_)) if self.may_ask_for_content(&query) => {}
            (403, Some(host)) => {
                let failure = denied_elsewhere(query.reference(), host, response);
                self.finish(query, Err(failure));
            }
            (401, _) => self.take_challenge(query, proof, response),
            (403, _) if matches!(proof, Proof::Login(_)) && self.may_repeat(&query, response) => {}
            (403, _) => self.take_denial(query, proof, response.authenticated),
            (200, _) => {
                self.note_success(&query, proof);
                if self.open.get(&query).is_some_and(|job| job.has_tried(Fallback::Anonymous)) {
                    let known = self.cache.registries.entry(registry).or_default();
                    known.public.insert(query.reference().repository().to_owned());
                }
                self.take_found(query, response);
            }
            (405, _) if self.may_ask_for_content(&query) => self.note_success(&query, proof),
            _ => {
                if response.status == 404 {
                    self.note_success(&query, proof);
                }
                let is_next_page = self.open.get(&query).is_some_and(|job| job.list.pages > 0);
                let failure = refusal(&query, is_next_page, response);
                self.finish(query, Err(failure));
            }
        }
    }

    fn note_status(&mut self, query: &Query, response: &HttpResponse) {
        if let Some(job) = self.open.get_mut(query) {
            job.is_forbidden = response.status == 403;
        }
    }

    /// Whether a HEAD that was refused is followed by a GET, which some registries take where they refuse a HEAD.
    pub(super) fn may_ask_for_content(&mut self, query: &Query) -> bool {
        let was_head = self.open.get(query).is_some_and(|job| !self.is_hashed(query, job));
        was_head && matches!(query, Query::Digest(_)) && self.may_try(query, Fallback::Hash)
    }

    /// Remembers what an answer of `server` says of its limits; who refused has parked all that need it.
    pub(super) fn note_limit(&mut self, server: &str, response: &HttpResponse) -> Option<RateLimited> {
        let limit = read_limit(response, self.now_ms);
        let before = self.cache.parked.get(server);
        let active = before.filter(|parked| parked.until_ms > self.now_ms);
        let parked = match (limit, active) {
            (Limit::None, None) => {
                self.cache.parked.remove(server);
                return None;
            }
            (Limit::None | Limit::Exhausted(_), Some(_)) => return None,
            // Those that were sent together with the first are turned away with it, and count as one.
            (Limit::Refused(_), Some(active)) => return Some(active.clone()),
            (Limit::Refused(wait_ms), None) => RateLimited::new(server, self.now_ms, wait_ms, before),
            (Limit::Exhausted(wait_ms), None) => RateLimited::new(server, self.now_ms, Some(wait_ms), None),
        };
        self.cache.parked.insert(server.to_owned(), parked.clone());
        matches!(limit, Limit::Refused(_)).then_some(parked)
    }

    /// A 200: the digest, a page of tags, or a document.
    fn take_found(&mut self, query: Query, response: &HttpResponse) {
        let registry = query.registry().to_owned();
        let found = match &query {
            Query::Digest(_) => match self.read_digest(&query, response) {
                Some(digest) => digest.map(Found::Digest),
                None => return,
            },
            Query::Tags(_) => {
                let Some(job) = self.open.get(&query) else { return };
                let url = self.page_url(&query, job);
                let Some(job) = self.open.get_mut(&query) else { return };
                match job.list.add(&url, &response.body, &response.header_values("link")) {
                    Err(why) => Err(bad_answer(format!("{registry} {why}"))),
                    Ok(()) if job.list.next.is_some() => return,
                    Ok(()) => Ok(Found::Tags(std::mem::take(&mut job.list.tags))),
                }
            }
            Query::Document(_) => match Document::parse(&response.body) {
                Ok(document) => Ok(Found::Document(document)),
                Err(why) => Err(bad_answer(format!("{registry} {why}"))),
            },
        };
        self.finish(query, found);
    }

    /// The digest of an answer; `None` when the content is to be asked for instead.
    fn read_digest(&mut self, query: &Query, response: &HttpResponse) -> Option<Result<Digest, Failure>> {
        let registry = query.registry();
        let texts = response.header_values("docker-content-digest");
        if let Some(other) = texts.iter().find(|text| text.trim() != texts[0].trim()) {
            let said =
                format!("{registry} says two digests of one manifest, {:?} and {:?}", shown(texts[0]), shown(other));
            return Some(Err(bad_answer(said)));
        }
        let text = texts.first().copied();
        let said = text.and_then(|text| text.parse::<Digest>().ok());
        let is_hashed = self.open.get(query).is_some_and(|job| self.is_hashed(query, job));
        if !is_hashed && said.is_none() {
            self.may_try(query, Fallback::Hash);
            return None;
        }
        let known = self.cache.registries.entry(registry.to_owned()).or_default();
        if !is_hashed {
            known.has_head = Some(true);
            return said.map(Ok);
        }
        known.has_head = known.has_head.or(Some(false));
        let Some(computed) = response.body_digest.clone() else {
            let what = text.map(|text| format!("Docker-Content-Digest {:?}", shown(text)));
            let what = what.unwrap_or("no Docker-Content-Digest".to_owned());
            let failure = bad_answer(format!("{registry} answered {what}, and the content was not hashed"));
            return Some(said.ok_or(failure));
        };
        // A log-in page is no manifest, and neither is nothing at all: either would be taken for a move.
        let is_page = response.header("content-type").is_some_and(|kind| kind.starts_with("text/html"));
        if is_page || computed.as_str() == NOTHING {
            let what = if is_page { "a web page" } else { "nothing" };
            return Some(Err(bad_answer(format!("{registry} answered {what} where a manifest was asked for"))));
        }
        if let Some(said) = said.filter(|said| *said != computed && said.as_str().starts_with("sha256:")) {
            self.notes.push(format!(
                "{}: {registry} says {} of a manifest that is {}; went by the content",
                query.reference(),
                said.short(),
                computed.short()
            ));
        }
        Some(Ok(computed))
    }

    /// The registry took what it was sent.
    fn note_success(&mut self, query: &Query, proof: &Proof) {
        let was_in_batch = self.open.get(query).is_some_and(|job| job.was_in_batch);
        let known = self.cache.registries.entry(query.registry().to_owned()).or_default();
        known.is_single |= was_in_batch;
        match proof {
            Proof::Login(login) => {
                known.rejected.remove(login);
                self.talk(query.registry()).logins = super::plan::ENOUGH;
            }
            Proof::Token { is_borrowed: true, .. } => known.is_shared = Some(true),
            _ => {}
        }
    }

    pub(super) fn note_login_try(&mut self, registry: &str) {
        self.talk(registry).logins += 1;
    }

    pub(super) fn talk(&mut self, registry: &str) -> &mut RegistrySession {
        self.talks.entry(registry.to_owned()).or_default()
    }

    pub(super) fn may_try(&mut self, query: &Query, way: Fallback) -> bool {
        self.open.get_mut(query).is_some_and(|job| job.may_try(way))
    }

    pub(super) fn finish(&mut self, query: Query, found: Result<Found, Failure>) {
        self.open.remove(&query);
        let found = found.map_err(|failure| crate::context("failed to look up", failure));
        self.done.push((query, found));
    }
}

//! Sends what `egress` permits: whole batches side by side, with a bound on connections, time and
//! size, and attaches the stored credential where the permit says so. Decides nothing about hosts
//! and understands no answer; neither a password nor a query ever reaches a message.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use imagewatch_abi::{Answer, Failure, FailureCode, HttpBatch, HttpRequest, HttpResponse, HttpResponses};
use reqwest::dns::Resolve;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use self::exchange::Answered;
use self::lane::Lanes;
use self::proxies::{Proxies, ProxyError};
use super::egress::{EgressRules, Permit};
use super::realms::Realms;
use crate::credentials::store::CredentialStore;
use imagewatch_base::secret::Credential;

mod attach;
mod certificates;
mod exchange;
mod failure;
mod lane;
mod names;
pub mod proxies;
mod room;

pub use self::room::{Room, Share, fit};

/// Requests in flight to one registry host, when nothing else is configured.
pub const DEFAULT_CONNECTIONS_PER_HOST: usize = 48;

/// Redirects followed for one request.
const MAX_REDIRECTS: usize = 5;

/// Where Docker keeps the certificates of registries.
const DOCKER_CERTIFICATES: &str = "/etc/docker/certs.d";

/// What one request may cost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HttpLimits {
    /// From the moment it is sent to the end of the body, redirects included; waiting for a free connection is not
    /// counted.
    pub deadline: Duration,
    /// The largest body that is read as text.
    pub max_text_bytes: usize,
    /// The largest body that is read as a document or hashed.
    pub max_document_bytes: usize,
    /// The largest value of a wanted header.
    pub max_header_bytes: usize,
    /// All header names and values of one response.
    pub max_head_bytes: usize,
    /// Requests under way at once to one host.
    pub connections_per_host: usize,
    /// All bodies of one batch together, as JSON: they are in memory at once, and a call may not have more.
    pub batch_bytes: usize,
    /// From when a batch is handed over; what has not come by then is a failure of its own.
    pub batch_deadline: Duration,
}

impl Default for HttpLimits {
    /// 10 s, 64 KiB, 4 MiB, 8 KiB, 64 KiB, [`DEFAULT_CONNECTIONS_PER_HOST`], 64 MiB, 5 min.
    fn default() -> Self {
        Self {
            deadline: Duration::from_secs(10),
            max_text_bytes: 64 * 1024,
            max_document_bytes: 4 * 1024 * 1024,
            max_header_bytes: 8 * 1024,
            max_head_bytes: 64 * 1024,
            connections_per_host: DEFAULT_CONNECTIONS_PER_HOST,
            batch_bytes: 64 * 1024 * 1024,
            batch_deadline: Duration::from_mins(5),
        }
    }
}

/// What the machine says of how to reach registries.
#[derive(Debug, Clone, Default)]
pub struct HttpSettings {
    /// The proxies to go through.
    pub proxies: Proxies,
    /// Folders with one folder for each registry in them, which has its certificates; the first that has the
    /// registry counts.
    pub certificates: Vec<PathBuf>,
}

/// The HTTP client could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum HttpClientError {
    /// TLS cannot be set up at all.
    #[error("set up the http client: {0}; are the system's CA certificates installed (package ca-certificates)?")]
    Tls(#[from] rustls::Error),
    /// A proxy that is none.
    #[error(transparent)]
    Proxy(#[from] ProxyError),
}

/// One set of connections for all plugins.
#[derive(Debug)]
pub struct HttpClient {
    lanes: Lanes,
    realms: Realms,
}

/// What all requests of one batch share.
struct Exchange<'a> {
    rules: &'a EgressRules,
    credentials: &'a CredentialStore,
    limits: &'a HttpLimits,
    cancel: &'a CancellationToken,
    /// What is left of its bytes.
    room: Share,
    until: Instant,
}

impl HttpSettings {
    /// From `environment`, pairs of name and value: [`Proxies::parse`], and the certificates in `certs.d` of
    /// `DOCKER_CONFIG`, or else of `~/.docker`, and in `/etc/docker/certs.d`.
    pub fn parse(environment: impl IntoIterator<Item = (String, String)>) -> Result<Self, ProxyError> {
        let environment: BTreeMap<String, String> =
            environment.into_iter().filter(|(_, value)| !value.is_empty()).collect();
        let own = environment.get("DOCKER_CONFIG").map(PathBuf::from);
        let own = own.or_else(|| environment.get("HOME").map(|home| PathBuf::from(home).join(".docker")));
        let certificates = own.map(|folder| folder.join("certs.d")).into_iter();
        let certificates = certificates.chain([PathBuf::from(DOCKER_CERTIFICATES)]).collect();
        Ok(Self { proxies: Proxies::parse(environment)?, certificates })
    }
}

impl HttpClient {
    /// A client that keeps no cookies, undoes no compression, and follows only those redirects that the rules of a
    /// request permit.
    pub fn new(settings: &HttpSettings) -> Result<Self, HttpClientError> {
        Self::with_names(settings, Arc::new(names::SystemNames))
    }

    fn with_names(settings: &HttpSettings, names: Arc<dyn Resolve>) -> Result<Self, HttpClientError> {
        Ok(Self { lanes: Lanes::new(settings, names)?, realms: Realms::default() })
    }

    /// Sends what `rules` permit of `batch` and answers in its order, a failure where something was
    /// refused or went wrong. After `cancel` the rest is not waited for.
    pub async fn send_all(
        &self,
        rules: &EgressRules,
        credentials: &CredentialStore,
        batch: HttpBatch,
        limits: &HttpLimits,
        cancel: &CancellationToken,
    ) -> HttpResponses {
        let room = Share::of(Arc::new(Room::of(limits.batch_bytes)), None);
        let until = Instant::now() + limits.batch_deadline;
        let exchange = Exchange { rules, credentials, limits, cancel, room, until };
        let answers = batch.requests.iter().map(|request| self.send(&exchange, request));
        HttpResponses { responses: join_all(answers).await.into_iter().map(Answer::from).collect() }
    }

    /// Sends one request as [`send_all`](Self::send_all) does; its body takes from `room`, which comes back with the answer.
    pub async fn send_one(
        &self,
        rules: &EgressRules,
        credentials: &CredentialStore,
        request: &HttpRequest,
        limits: &HttpLimits,
        cancel: &CancellationToken,
        room: Share,
    ) -> (Answer<HttpResponse>, Share) {
        let until = Instant::now() + limits.batch_deadline;
        let exchange = Exchange { rules, credentials, limits, cancel, room, until };
        let answer = self.send(&exchange, request).await;
        (Answer::from(answer), exchange.room)
    }

    /// How many requests were sent so far, by `host` or `host:port`.
    pub fn requests_sent(&self) -> BTreeMap<String, u64> {
        self.lanes.requests_sent()
    }

    async fn send(&self, exchange: &Exchange<'_>, request: &HttpRequest) -> Result<HttpResponse, Failure> {
        let permit = exchange.rules.check(request, &self.realms)?;
        let host = permit.host.clone();
        tokio::select! {
            biased;
            () = exchange.cancel.cancelled() => Err(failure::shutting_down(&host)),
            () = sleep_until(exchange.until) => Err(failure::too_late(&host, exchange.limits.batch_deadline)),
            answer = self.send_permitted(exchange, permit, request) => answer,
        }
    }

    async fn send_permitted(
        &self,
        exchange: &Exchange<'_>,
        permit: Permit,
        request: &HttpRequest,
    ) -> Result<HttpResponse, Failure> {
        let unless = request.unless_credential.as_deref();
        let credential = attach::find(&permit, unless, exchange.credentials).await?;
        let response = self.follow(exchange, permit, credential.as_ref(), request).await?;
        let credential_id = credential.as_ref().map(Credential::id);
        Ok(HttpResponse { authenticated: credential.is_some(), credential_id, ..response })
    }

    async fn follow(
        &self,
        exchange: &Exchange<'_>,
        mut permit: Permit,
        credential: Option<&Credential>,
        request: &HttpRequest,
    ) -> Result<HttpResponse, Failure> {
        let (first, mut left) = (permit.host.clone(), exchange.limits.deadline);
        for _ in 0..=MAX_REDIRECTS {
            match self.send_once(exchange, &permit, credential, request, &mut left).await? {
                Answered::Whole(response) => {
                    let answered_by = Some(permit.host).filter(|host| *host != first);
                    return Ok(HttpResponse { answered_by, ..response });
                }
                Answered::Elsewhere(location) => permit = exchange.rules.check_redirect(&permit, &location)?,
            }
        }
        Err(failure::too_many_redirects(&first, MAX_REDIRECTS))
    }

    /// `left` of the deadline is what this may take, and less by what it took.
    async fn send_once(
        &self,
        exchange: &Exchange<'_>,
        permit: &Permit,
        credential: Option<&Credential>,
        request: &HttpRequest,
        left: &mut Duration,
    ) -> Result<Answered, Failure> {
        let limits = exchange.limits;
        let lane = self.lanes.lane(permit, limits.connections_per_host)?;
        let Some(mut turn) = lane.turn().await else { return Err(failure::shutting_down(&permit.host)) };
        self.lanes.count(&permit.host);
        let started = Instant::now();
        let answer = self.exchange((&lane, &mut turn), permit, credential, request, exchange);
        let answer = tokio::time::timeout(*left, answer).await;
        *left = left.saturating_sub(started.elapsed());
        let answer = answer.unwrap_or_else(|_| Err(failure::no_answer(&lane.shown, limits.deadline)));
        if answer.as_ref().is_err_and(|failure| failure.code == FailureCode::Tls) {
            self.lanes.forget(&lane);
        }
        answer
    }
}

#[cfg(test)]
mod tests;

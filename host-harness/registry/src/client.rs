//! Sends the requests that `egress` permits. The requests of a batch run concurrently, with limits on connections, time
//! and size. The client attaches a stored credential if the permit allows it. It makes no decisions about hosts and
//! does not interpret answers. Messages never contain a password or a URL query.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use imagewatch_abi::{Answer, Failure, FailureCode, HttpBatch, HttpRequest, HttpResponse, HttpResponses};
use reqwest::dns::Resolve;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use self::exchange::Reply;
use self::host_pool::HostPools;
use self::proxies::{Proxies, ProxyError};
use super::egress::{EgressRules, Permit};
use super::realms::Realms;
use crate::credentials::store::CredentialStore;
use imagewatch_base::secret::Credential;

mod attach;
mod byte_budget;
mod certificates;
mod exchange;
mod failure;
mod host_pool;
mod names;
pub mod proxies;

pub use self::byte_budget::{ByteBudget, Share, fit};

/// The default limit of concurrent requests to one host.
pub const DEFAULT_CONNECTIONS_PER_HOST: usize = 48;

/// The maximum number of redirects for one request.
const MAX_REDIRECTS: usize = 5;

/// The folder of Docker with the certificates of registries.
const DOCKER_CERTIFICATES: &str = "/etc/docker/certs.d";

/// The limits of requests and batches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HttpLimits {
    /// The time limit from sending a request to the end of the body, including redirects. It excludes the wait for a
    /// free connection.
    pub deadline: Duration,
    /// The maximum size of a body that is read as text.
    pub max_text_bytes: usize,
    /// The maximum size of a body that is read as a document or hashed.
    pub max_document_bytes: usize,
    /// The maximum size of the value of a requested header.
    pub max_header_bytes: usize,
    /// The maximum total size of all header names and values of one response.
    pub max_head_bytes: usize,
    /// The maximum number of concurrent requests to one host.
    pub connections_per_host: usize,
    /// The maximum total size of all bodies of one batch, as JSON. All of these bodies are in memory at the same time.
    pub batch_bytes: usize,
    /// The time limit of a batch. A request without an answer at that time fails; the other answers are kept.
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

/// The machine's settings for reaching registries.
#[derive(Debug, Clone, Default)]
pub struct HttpSettings {
    /// The configured proxies.
    pub proxies: Proxies,
    /// Folders that contain one folder of certificates per registry. The first folder that contains the registry is
    /// used.
    pub certificates: Vec<PathBuf>,
}

/// The HTTP client cannot be set up.
#[derive(Debug, thiserror::Error)]
pub enum HttpClientError {
    /// TLS cannot be set up.
    #[error("set up the http client: {0}; are the system's CA certificates installed (package ca-certificates)?")]
    Tls(#[from] rustls::Error),
    /// A proxy variable does not contain a proxy URL.
    #[error(transparent)]
    Proxy(#[from] ProxyError),
}

/// An HTTP client whose connections all plugins share.
#[derive(Debug)]
pub struct HttpClient {
    pools: HostPools,
    realms: Realms,
}

/// The data that all requests of one batch share.
struct Exchange<'a> {
    rules: &'a EgressRules,
    credentials: &'a CredentialStore,
    limits: &'a HttpLimits,
    cancel: &'a CancellationToken,
    /// The byte budget of the batch.
    budget: Share,
    until: Instant,
}

impl HttpSettings {
    /// Reads the settings from `environment`, pairs of name and value. The certificates are in `certs.d` in
    /// `DOCKER_CONFIG`, by default `~/.docker`, and then in `/etc/docker/certs.d`. For the proxies, see
    /// [`Proxies::parse`].
    ///
    /// # Errors
    /// Returns an error if a variable does not contain a proxy URL.
    pub fn parse(environment: impl IntoIterator<Item = (String, String)>) -> Result<Self, ProxyError> {
        let environment: BTreeMap<String, String> =
            environment.into_iter().filter(|(_, value)| !value.is_empty()).collect();
        let user = environment.get("DOCKER_CONFIG").map(PathBuf::from);
        let user = user.or_else(|| environment.get("HOME").map(|home| PathBuf::from(home).join(".docker")));
        let certificates = user.map(|folder| folder.join("certs.d")).into_iter();
        let certificates = certificates.chain([PathBuf::from(DOCKER_CERTIFICATES)]).collect();
        Ok(Self { proxies: Proxies::parse(environment)?, certificates })
    }
}

impl HttpClient {
    /// Creates a client. It stores no cookies and decompresses no bodies. It follows only the redirects that the egress
    /// rules permit.
    ///
    /// # Errors
    /// Returns an error if TLS cannot be set up.
    pub fn new(settings: &HttpSettings) -> Result<Self, HttpClientError> {
        Self::with_names(settings, Arc::new(names::SystemNames))
    }

    fn with_names(settings: &HttpSettings, names: Arc<dyn Resolve>) -> Result<Self, HttpClientError> {
        Ok(Self { pools: HostPools::new(settings, names)?, realms: Realms::default() })
    }

    /// Sends the requests of `batch` that `rules` permit. Returns the answers in the order of the requests. A request
    /// that is refused or fails gets a failure. When `cancel` is triggered, all open requests fail.
    pub async fn send_all(
        &self,
        rules: &EgressRules,
        credentials: &CredentialStore,
        batch: HttpBatch,
        limits: &HttpLimits,
        cancel: &CancellationToken,
    ) -> HttpResponses {
        let budget = Share::of(Arc::new(ByteBudget::of(limits.batch_bytes)), None);
        let until = Instant::now() + limits.batch_deadline;
        let exchange = Exchange { rules, credentials, limits, cancel, budget, until };
        let answers = batch.requests.iter().map(|request| self.send(&exchange, request));
        HttpResponses { responses: join_all(answers).await.into_iter().map(Answer::from).collect() }
    }

    /// Sends one request, like [`send_all`](Self::send_all). The body is counted in `budget`, which is returned with
    /// the answer.
    pub async fn send_one(
        &self,
        rules: &EgressRules,
        credentials: &CredentialStore,
        request: &HttpRequest,
        limits: &HttpLimits,
        cancel: &CancellationToken,
        budget: Share,
    ) -> (Answer<HttpResponse>, Share) {
        let until = Instant::now() + limits.batch_deadline;
        let exchange = Exchange { rules, credentials, limits, cancel, budget, until };
        let answer = self.send(&exchange, request).await;
        (Answer::from(answer), exchange.budget)
    }

    /// The number of requests sent so far, by `host` or `host:port`.
    pub fn requests_sent(&self) -> BTreeMap<String, u64> {
        self.pools.requests_sent()
    }

    async fn send(&self, exchange: &Exchange<'_>, request: &HttpRequest) -> Result<HttpResponse, Failure> {
        let permit = exchange.rules.check(request, &self.realms)?;
        let host = permit.host.clone();
        tokio::select! {
            biased;
            () = exchange.cancel.cancelled() => Err(failure::shutting_down(&host)),
            () = sleep_until(exchange.until) => Err(failure::batch_timeout(&host, exchange.limits.batch_deadline)),
            answer = self.send_permitted(exchange, permit, request) => answer,
        }
    }

    async fn send_permitted(
        &self,
        exchange: &Exchange<'_>,
        permit: Permit,
        request: &HttpRequest,
    ) -> Result<HttpResponse, Failure> {
        let rejected = request.rejected_credential_id.as_deref();
        let credential = attach::select_credential(&permit, rejected, exchange.credentials).await?;
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
                Reply::Complete(response) => {
                    let answered_by = Some(permit.host).filter(|host| *host != first);
                    return Ok(HttpResponse { answered_by, ..response });
                }
                Reply::Redirect(location) => permit = exchange.rules.check_redirect(&permit, &location)?,
            }
        }
        Err(failure::too_many_redirects(&first, MAX_REDIRECTS))
    }

    /// Sends the request without following a redirect. `left` is the remaining time; it is reduced by the time used.
    async fn send_once(
        &self,
        exchange: &Exchange<'_>,
        permit: &Permit,
        credential: Option<&Credential>,
        request: &HttpRequest,
        left: &mut Duration,
    ) -> Result<Reply, Failure> {
        let limits = exchange.limits;
        let pool = self.pools.pool(permit, limits.connections_per_host)?;
        let Some(mut slot) = pool.acquire_slot().await else { return Err(failure::shutting_down(&permit.host)) };
        self.pools.count(&permit.host);
        let started = Instant::now();
        let answer = self.exchange((&pool, &mut slot), permit, credential, request, exchange);
        let answer = tokio::time::timeout(*left, answer).await;
        *left = left.saturating_sub(started.elapsed());
        let answer = answer.unwrap_or_else(|_| Err(failure::no_answer(&pool.shown, limits.deadline)));
        if answer.as_ref().is_err_and(|failure| failure.code == FailureCode::Tls) {
            self.pools.forget(&pool);
        }
        answer
    }
}

#[cfg(test)]
mod tests;

//! Sends what `egress` permits: whole batches side by side, with a bound on connections, time and
//! size, and attaches the stored credential where the permit says so. Decides nothing about hosts
//! and understands no answer; neither a password nor a query ever reaches a message.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use futures_util::future::join_all;
use imagewatch_abi::{Answer, Failure, HttpBatch, HttpRequest, HttpResponse, HttpResponses, Method};
use reqwest::header::HeaderMap;
use rustls::ClientConfig;
use rustls_platform_verifier::BuilderVerifierExt;
use secrecy::ExposeSecret;
use tokio_util::sync::CancellationToken;

use self::failure::{broken_exchange, failed_send};
use self::lane::Lanes;
use super::egress::{EgressRules, Permit};
use crate::credentials::store::CredentialStore;
use crate::secret::Credential;

mod failure;
mod lane;

/// Requests in flight to one registry host, when nothing else is configured.
pub const DEFAULT_CONNECTIONS_PER_HOST: usize = 28;

/// What one request may cost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HttpLimits {
    /// From the moment it is sent to the end of the body; waiting for a free connection is not counted.
    pub deadline: Duration,
    /// The largest body that is read.
    pub max_body_bytes: usize,
    /// The largest value of a wanted header.
    pub max_header_bytes: usize,
}

impl Default for HttpLimits {
    /// 10 s, 64 KiB, 8 KiB.
    fn default() -> Self {
        Self { deadline: Duration::from_secs(10), max_body_bytes: 64 * 1024, max_header_bytes: 8 * 1024 }
    }
}

/// The HTTP client could not be set up.
#[derive(Debug, thiserror::Error)]
#[error("set up the http client: {0}; are the system's CA certificates installed (package ca-certificates)?")]
pub struct HttpClientError(#[from] rustls::Error);

/// One set of connections for all plugins.
#[derive(Debug)]
pub struct HttpClient {
    lanes: Lanes,
}

/// What all requests of one batch share.
struct Exchange<'a> {
    rules: &'a EgressRules,
    credentials: &'a CredentialStore,
    limits: &'a HttpLimits,
    cancel: &'a CancellationToken,
}

impl HttpClient {
    /// A client that has at most `connections_per_host` requests under way to any one host, whoever
    /// asks. It follows no redirect, keeps no cookies, undoes no compression and uses no proxy.
    pub fn new(connections_per_host: usize) -> Result<Self, HttpClientError> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let tls = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_platform_verifier()?
            .with_no_client_auth();
        Ok(Self::with_tls(tls, connections_per_host))
    }

    fn with_tls(mut tls: ClientConfig, connections_per_host: usize) -> Self {
        tls.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Self { lanes: Lanes::new(tls, connections_per_host) }
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
        let exchange = Exchange { rules, credentials, limits, cancel };
        let answers = batch.requests.iter().map(|request| self.send(&exchange, request));
        HttpResponses { responses: join_all(answers).await.into_iter().map(Answer::from).collect() }
    }

    /// How many requests were sent so far, by `host` or `host:port`.
    pub fn requests_sent(&self) -> BTreeMap<String, u64> {
        self.lanes.requests_sent()
    }

    async fn send(&self, exchange: &Exchange<'_>, request: &HttpRequest) -> Result<HttpResponse, Failure> {
        let permit = exchange.rules.check(request)?;
        let host = permit.host.clone();
        let credential = find_credential(&permit, exchange.credentials).await?;
        let lane = self.lanes.lane(&host).map_err(|error| broken_exchange(&host, &error))?;
        let sent = async {
            let Ok(_in_flight) = lane.in_flight.acquire().await else { return Err(failure::shutting_down(&host)) };
            lane.sent.fetch_add(1, Ordering::Relaxed);
            let answer = exchange_with(&lane.client, permit, credential, &request.want, exchange.limits);
            match tokio::time::timeout(exchange.limits.deadline, answer).await {
                Ok(answer) => answer,
                Err(_) => Err(failure::no_answer(&host, exchange.limits.deadline)),
            }
        };
        tokio::select! {
            biased;
            () = exchange.cancel.cancelled() => Err(failure::shutting_down(&host)),
            answer = sent => answer,
        }
    }
}

async fn exchange_with(
    client: &reqwest::Client,
    permit: Permit,
    credential: Option<Credential>,
    want: &[String],
    limits: &HttpLimits,
) -> Result<HttpResponse, Failure> {
    let Permit { method, url, headers, host, .. } = permit;
    let is_head = method == Method::Head;
    let method = if is_head { reqwest::Method::HEAD } else { reqwest::Method::GET };
    let mut request = client.request(method, url).headers(headers);
    let authenticated = credential.is_some();
    match &credential {
        Some(Credential::Basic { username, password }) => {
            request = request.basic_auth(username, Some(password.expose_secret()));
        }
        Some(Credential::RegistryToken(token)) => request = request.bearer_auth(token.expose_secret()),
        Some(Credential::IdentityToken(_)) | None => {}
    }
    let response = request.send().await.map_err(|error| failed_send(&host, &error, limits.deadline))?;
    let status = response.status().as_u16();
    let headers = wanted_headers(response.headers(), want, &host, limits)?;
    let body = if is_head { String::new() } else { read_body(response, &host, limits).await? };
    Ok(HttpResponse { status, headers, body, authenticated, ..HttpResponse::default() })
}

/// A registry is not asked in vain without its credential; for tokens the guest says that it can do without.
async fn find_credential(permit: &Permit, credentials: &CredentialStore) -> Result<Option<Credential>, Failure> {
    if let Some((registry, failure)) = &permit.withheld
        && credentials
            .find(registry, None)
            .await
            .map_err(|error| failure::unreadable_credential(registry, &error))?
            .is_some()
    {
        return Err(failure.clone());
    }
    let Some(permitted) = &permit.credential else { return Ok(None) };
    let registry = &permitted.registry;
    let found = credentials.find(registry, None).await;
    match found.map_err(|error| failure::unreadable_credential(registry, &error))? {
        None if !permit.or_anonymous => Err(failure::no_credential(registry, &credentials.sources_for(registry))),
        found => Ok(found),
    }
}

fn wanted_headers(
    headers: &HeaderMap,
    want: &[String],
    host: &str,
    limits: &HttpLimits,
) -> Result<Vec<(String, String)>, Failure> {
    let mut names: Vec<String> = want.iter().map(|name| name.to_ascii_lowercase()).collect();
    names.sort();
    names.dedup();
    let mut found = Vec::new();
    for name in names {
        for value in headers.get_all(&name) {
            if value.len() > limits.max_header_bytes {
                return Err(failure::too_large(host, &format!("header {name}"), limits.max_header_bytes));
            }
            found.push((name.clone(), String::from_utf8_lossy(value.as_bytes()).into_owned()));
        }
    }
    Ok(found)
}

/// Read to its end, so that the connection can be used again; too large a body costs the connection.
async fn read_body(mut response: reqwest::Response, host: &str, limits: &HttpLimits) -> Result<String, Failure> {
    let too_large = || failure::too_large(host, "body", limits.max_body_bytes);
    let declared = response.content_length().unwrap_or(0);
    if usize::try_from(declared).map_or(true, |declared| declared > limits.max_body_bytes) {
        return Err(too_large());
    }
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(|error| broken_exchange(host, &error))? {
        if body.len() + chunk.len() > limits.max_body_bytes {
            return Err(too_large());
        }
        body.extend_from_slice(&chunk);
    }
    Ok(String::from_utf8_lossy(&body).into_owned())
}

#[cfg(test)]
mod tests;

//! A registry for tests with any number of repositories and any latency. Each repository has one tag and serves
//! manifests by tag and by digest. The registry uses plain HTTP/1.1, or TLS with HTTP/2, and has an optional token
//! endpoint. It counts its requests. It has no blobs, so it supports neither pull nor push; use the real registry for
//! those.
//!
//! The registry runs on its own thread. A benchmark that measures clients in the same process is not slowed down by it.

use std::collections::{BTreeMap, BTreeSet};
use std::net::TcpListener as StdListener;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::{AUTHORIZATION, CONTENT_LENGTH, CONTENT_TYPE, HeaderName, LOCATION, WWW_AUTHENTICATE};
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use rustls::ServerConfig;
use rustls::pki_types::PrivateKeyDer;
use serde_json::json;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio::time::sleep;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

use crate::image::{ImageSpec, MANIFEST_TYPE, build_image};

/// The only tag of each repository.
const TAG: &str = "latest";
/// The `service` of all tokens.
const SERVICE: &str = "fake.registry";
const TOKEN_LIFE_S: u64 = 3600;
const DIGEST: HeaderName = HeaderName::from_static("docker-content-digest");

/// The size and the behaviour of the registry.
#[derive(Debug, Clone, Copy)]
pub struct FakeRegistrySettings {
    /// The number of repositories. Each one has a different digest. See [`FakeRegistry::repository`].
    pub repositories: usize,
    /// The delay of each answer, also at the token endpoint.
    pub latency: Duration,
    /// Whether manifests need a bearer token. The registry's own endpoint gives a token to every client.
    pub has_tokens: bool,
    /// `true` is TLS with HTTP/2 only. `false` is plain HTTP/1.1 only.
    pub has_tls: bool,
}

/// The numbers of requests and connections so far.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// `HEAD` requests for a manifest, including refused ones.
    pub heads: usize,
    /// `GET` requests for a manifest, including refused ones.
    pub gets: usize,
    /// Requests to the token endpoint.
    pub tokens: usize,
    /// All other requests.
    pub others: usize,
    /// Requests answered with 401. They are also counted above.
    pub refused: usize,
    /// Accepted connections.
    pub connections: usize,
}

impl Counts {
    /// The number of requests of all kinds.
    pub fn requests(&self) -> usize {
        self.heads + self.gets + self.tokens + self.others
    }

    /// The difference to the earlier counts `before`.
    #[must_use]
    pub fn since(&self, before: Self) -> Self {
        Self {
            heads: self.heads - before.heads,
            gets: self.gets - before.gets,
            tokens: self.tokens - before.tokens,
            others: self.others - before.others,
            refused: self.refused - before.refused,
            connections: self.connections - before.connections,
        }
    }
}

/// A running registry. Dropping it closes every connection and ends its thread.
#[derive(Debug)]
pub struct FakeRegistry {
    shared: Arc<Shared>,
    ca_pem: Option<String>,
    stop: CancellationToken,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct Shared {
    settings: FakeRegistrySettings,
    host: String,
    repositories: BTreeMap<String, Manifest>,
    /// The origin, `scheme://host[:port]`, that manifest requests are redirected to once their token is accepted.
    elsewhere: Mutex<Option<String>>,
    /// The values of all `authorization` headers so far.
    authorizations: Mutex<BTreeSet<String>>,
    /// The repositories that each issued token grants.
    tokens: Mutex<BTreeMap<String, BTreeSet<String>>>,
    counters: Counters,
}

#[derive(Debug)]
struct Manifest {
    digest: String,
    bytes: Bytes,
}

#[derive(Debug, Default)]
struct Counters {
    heads: AtomicUsize,
    gets: AtomicUsize,
    tokens: AtomicUsize,
    others: AtomicUsize,
    refused: AtomicUsize,
    connections: AtomicUsize,
    open: AtomicUsize,
    most_open: AtomicUsize,
}

/// Counts a connection as open while this value exists.
struct OpenConnection(Arc<Shared>);

impl FakeRegistry {
    /// Starts the registry on a free loopback port.
    pub fn start(settings: FakeRegistrySettings) -> Self {
        let listener = StdListener::bind("127.0.0.1:0").expect("loopback has a free port");
        listener.set_nonblocking(true).expect("a socket can be non-blocking");
        let host = listener.local_addr().expect("a bound socket has an address").to_string();
        let (tls, ca_pem) = settings.has_tls.then(make_certificates).unzip();
        let shared = Arc::new(Shared {
            settings,
            host,
            repositories: (0..settings.repositories).map(Self::repository).map(with_manifest).collect(),
            elsewhere: Mutex::default(),
            authorizations: Mutex::default(),
            tokens: Mutex::default(),
            counters: Counters::default(),
        });
        let stop = CancellationToken::new();
        let (of_thread, is_stopped) = (Arc::clone(&shared), stop.clone());
        let thread = thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            let runtime = runtime.expect("a runtime on this thread can be built");
            runtime.block_on(is_stopped.run_until_cancelled(serve(listener, tls, of_thread)));
        });
        Self { shared, ca_pem, stop, thread: Some(thread) }
    }

    /// The name of repository number `index`, starting at 0.
    pub fn repository(index: usize) -> String {
        format!("fake/app-{index:05}")
    }

    /// `127.0.0.1:PORT`, as in image references.
    pub fn host(&self) -> String {
        self.shared.host.clone()
    }

    /// The image reference of repository number `index`.
    pub fn reference(&self, index: usize) -> String {
        format!("{}/{}:{TAG}", self.shared.host, Self::repository(index))
    }

    /// The URL of the manifest of repository number `index`.
    pub fn manifest_url(&self, index: usize) -> String {
        format!("{}/v2/{}/manifests/{TAG}", self.origin(), Self::repository(index))
    }

    /// The digest of the tag of repository number `index`.
    pub fn digest(&self, index: usize) -> &str {
        &self.shared.repositories[&Self::repository(index)].digest
    }

    /// The certificate of the authority that issued the registry's certificate. `None` without TLS.
    pub fn ca_pem(&self) -> Option<&str> {
        self.ca_pem.as_deref()
    }

    /// Issues a token for all repositories, without a request.
    pub fn issue_token(&self) -> String {
        self.shared.issue(self.shared.repositories.keys().cloned().collect())
    }

    /// Redirects all later manifest requests to `other`.
    pub fn redirect_to(&self, other: &Self) {
        *self.shared.elsewhere.lock().expect("no holder panics") = Some(other.origin());
    }

    /// The values of all `authorization` headers so far.
    pub fn authorizations(&self) -> BTreeSet<String> {
        self.shared.authorizations.lock().expect("no holder panics").clone()
    }

    /// The numbers of requests and connections so far.
    pub fn counts(&self) -> Counts {
        let Counters { heads, gets, tokens, others, refused, connections, .. } = &self.shared.counters;
        let [heads, gets, tokens, others, refused, connections] =
            [heads, gets, tokens, others, refused, connections].map(|counter| counter.load(Ordering::Relaxed));
        Counts { heads, gets, tokens, others, refused, connections }
    }

    /// The number of currently open connections.
    pub fn open_connections(&self) -> usize {
        self.shared.counters.open.load(Ordering::Relaxed)
    }

    /// The highest number of connections that were open at the same time since the last call.
    pub fn take_most_open(&self) -> usize {
        self.shared.counters.most_open.swap(self.open_connections(), Ordering::Relaxed)
    }

    fn origin(&self) -> String {
        self.shared.origin()
    }
}

impl Drop for FakeRegistry {
    fn drop(&mut self) {
        self.stop.cancel();
        if let Some(thread) = self.thread.take() {
            // The thread panics only when it cannot serve at all. That panic has been printed already.
            let _ = thread.join();
        }
    }
}

fn with_manifest(repository: String) -> (String, Manifest) {
    let built = build_image(&ImageSpec::label_only(&repository)).manifest;
    (repository, Manifest { digest: built.digest.to_string(), bytes: built.bytes.into() })
}

/// Creates an authority, and a certificate from it for 127.0.0.1.
fn make_certificates() -> (TlsAcceptor, String) {
    let mut authority = CertificateParams::new(Vec::new()).expect("an empty list of names is valid");
    authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let key = KeyPair::generate().expect("ring makes keys");
    let ca_pem = authority.self_signed(&key).expect("the authority signs itself").pem();
    let issuer = Issuer::new(authority, key);
    let key = KeyPair::generate().expect("ring makes keys");
    let params = CertificateParams::new(vec!["127.0.0.1".to_owned()]).expect("an address is a valid name");
    let certificate = params.signed_by(&key, &issuer).expect("the authority signs");
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    let key = PrivateKeyDer::try_from(key.serialize_der()).expect("rcgen writes PKCS #8");
    let config = config.expect("ring supports TLS 1.3").with_no_client_auth();
    let mut config =
        config.with_single_cert(vec![certificate.der().clone()], key).expect("the key belongs to the certificate");
    config.alpn_protocols = vec![b"h2".to_vec()];
    (TlsAcceptor::from(Arc::new(config)), ca_pem)
}

/// Runs until the future is dropped. All its connections end at the same time.
async fn serve(listener: StdListener, tls: Option<TlsAcceptor>, shared: Arc<Shared>) {
    let listener = TcpListener::from_std(listener).expect("the socket is non-blocking");
    let mut connections = JoinSet::new();
    loop {
        let (stream, _) = listener.accept().await.expect("a listener on loopback accepts");
        let open = OpenConnection::new(Arc::clone(&shared));
        connections.spawn(serve_connection(stream, tls.clone(), open));
        while connections.try_join_next().is_some() {}
    }
}

/// Errors are ignored: a client may disconnect or reject the certificate.
async fn serve_connection(stream: TcpStream, tls: Option<TlsAcceptor>, open: OpenConnection) {
    let service = service_fn(|request| {
        let shared = Arc::clone(&open.0);
        async move { Ok::<_, hyper::Error>(shared.answer(&request).await) }
    });
    stream.set_nodelay(true).expect("a TCP socket takes this option");
    match tls {
        None => drop(hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service).await),
        Some(tls) => {
            let Ok(stream) = tls.accept(stream).await else { return };
            let server = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
            drop(server.serve_connection(TokioIo::new(stream), service).await);
        }
    }
}

impl OpenConnection {
    fn new(shared: Arc<Shared>) -> Self {
        let counters = &shared.counters;
        counters.connections.fetch_add(1, Ordering::Relaxed);
        let open = counters.open.fetch_add(1, Ordering::Relaxed) + 1;
        counters.most_open.fetch_max(open, Ordering::Relaxed);
        Self(shared)
    }
}

impl Drop for OpenConnection {
    fn drop(&mut self) {
        self.0.counters.open.fetch_sub(1, Ordering::Relaxed);
    }
}

type Answer = Response<Full<Bytes>>;

impl Shared {
    fn origin(&self) -> String {
        let scheme = if self.settings.has_tls { "https" } else { "http" };
        format!("{scheme}://{}", self.host)
    }

    async fn answer(&self, request: &Request<Incoming>) -> Answer {
        let (counters, path) = (&self.counters, request.uri().path());
        let manifest = path.strip_prefix("/v2/").and_then(|path| path.split_once("/manifests/"));
        let counter = match (request.method(), manifest) {
            (&Method::HEAD, Some(_)) => &counters.heads,
            (&Method::GET, Some(_)) => &counters.gets,
            (&Method::GET, None) if path == "/token" => &counters.tokens,
            _ => &counters.others,
        };
        counter.fetch_add(1, Ordering::Relaxed);
        if let Some(authorization) = request.headers().get(AUTHORIZATION) {
            let authorization = String::from_utf8_lossy(authorization.as_bytes()).into_owned();
            self.authorizations.lock().expect("no holder panics").insert(authorization);
        }
        if !self.settings.latency.is_zero() {
            sleep(self.settings.latency).await;
        }
        match (request.method(), manifest) {
            (&Method::HEAD | &Method::GET, Some((name, version))) => self.manifest(request, name, version),
            (&Method::GET, None) if path == "/token" => self.token(request.uri().query().unwrap_or_default()),
            (&Method::GET, None) if path == "/v2/" => self.base(),
            _ => status(StatusCode::NOT_FOUND),
        }
    }

    fn manifest(&self, request: &Request<Incoming>, name: &str, version: &str) -> Answer {
        if self.settings.has_tokens && !self.is_granted(request, name) {
            return self.refuse(&format!(",scope=\"repository:{name}:pull\""));
        }
        if let Some(origin) = &*self.elsewhere.lock().expect("no holder panics") {
            let response = Response::builder().status(StatusCode::TEMPORARY_REDIRECT);
            let response = response.header(LOCATION, format!("{origin}{}", request.uri().path()));
            return response.body(Full::default()).expect("an origin and a path are a valid header");
        }
        let is_found = |manifest: &&Manifest| version == TAG || version == manifest.digest;
        let Some(manifest) = self.repositories.get(name).filter(is_found) else {
            return status(StatusCode::NOT_FOUND);
        };
        let is_head = request.method() == Method::HEAD;
        let body = if is_head { Bytes::new() } else { manifest.bytes.clone() };
        let response = Response::builder().header(CONTENT_TYPE, MANIFEST_TYPE).header(DIGEST, &manifest.digest);
        let response = response.header(CONTENT_LENGTH, manifest.bytes.len());
        response.body(Full::new(body)).expect("the headers are valid")
    }

    fn is_granted(&self, request: &Request<Incoming>, name: &str) -> bool {
        let header = request.headers().get(AUTHORIZATION).and_then(|value| value.to_str().ok());
        let tokens = self.tokens.lock().expect("no holder panics");
        let granted = header.and_then(|header| tokens.get(header.strip_prefix("Bearer ")?));
        granted.is_some_and(|granted| granted.contains(name))
    }

    /// Issues a token for all scopes in `query`, in one parameter or in several.
    fn token(&self, query: &str) -> Answer {
        let pairs = url::form_urlencoded::parse(query.as_bytes());
        let scopes = pairs.filter(|(name, _)| name == "scope").map(|(_, value)| value.into_owned());
        let granted = scopes.flat_map(|value| {
            let names =
                value.split_whitespace().filter_map(|scope| scope.strip_prefix("repository:")?.rsplit_once(':'));
            names.map(|(name, _actions)| name.to_owned()).collect::<Vec<_>>()
        });
        let body = json!({"token": self.issue(granted.collect()), "expires_in": TOKEN_LIFE_S}).to_string();
        let response = Response::builder().header(CONTENT_TYPE, "application/json");
        response.body(Full::new(body.into())).expect("the header is valid")
    }

    fn issue(&self, granted: BTreeSet<String>) -> String {
        let mut tokens = self.tokens.lock().expect("no holder panics");
        let token = format!("token-{:06}-of-{}", tokens.len(), self.host.replace(':', "-"));
        tokens.insert(token.clone(), granted);
        token
    }

    fn base(&self) -> Answer {
        if self.settings.has_tokens { self.refuse("") } else { status(StatusCode::OK) }
    }

    fn refuse(&self, scope: &str) -> Answer {
        self.counters.refused.fetch_add(1, Ordering::Relaxed);
        let challenge = format!("Bearer realm=\"{}/token\",service=\"{SERVICE}\"{scope}", self.origin());
        let response = Response::builder().status(StatusCode::UNAUTHORIZED).header(WWW_AUTHENTICATE, challenge);
        response.body(Full::default()).expect("a repository name is valid in a header")
    }
}

fn status(status: StatusCode) -> Answer {
    let mut response = Response::new(Full::default());
    *response.status_mut() = status;
    response
}

#[cfg(test)]
mod tests;

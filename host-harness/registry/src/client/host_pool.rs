//! A connection pool for each origin, with limits on concurrent requests and handshakes. `egress` decides before
//! whether a request may be sent.
//!
//! A limit on requests alone does not limit the connections. A request may begin a handshake and then use another
//! connection that becomes free. The handshake continues, and the next request begins another one. In a test, a burst
//! of 500 requests over 32 slots had 155 open sockets to a server with slow handshakes. So a pool has three limits. The
//! limit of concurrent requests is configured. The limit of idle connections is the same, so that the next poll can
//! reuse all connections. The limit of concurrent handshakes is a quarter of it. So 48 slots keep 48 connections, and
//! at most 108 are open for a short time.
//!
//! Over HTTP/2, all requests share one connection. But a burst would open many connections before the first one reports
//! HTTP/2. So if the protocol of the host is unknown, the first request is sent alone.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use imagewatch_abi::Failure;
use reqwest::dns::Resolve;
use reqwest::{Version, redirect};
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::Instant;
use tower::limit::ConcurrencyLimitLayer;
use url::Url;

use super::certificates::Certificates;
use super::names::GuardedResolver;
use super::proxies::Proxies;
use super::{HttpClientError, HttpSettings, failure};
use crate::egress::Permit;
use crate::network::Network;

/// The time limit of a handshake. It also applies to handshakes that no request waits for.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// How long a shared connection is assumed to be open. reqwest closes idle connections after 90 s.
const SHARED_FOR: Duration = Duration::from_secs(30);

/// The number of pools at which unused pools are closed. A limit is necessary because registries choose the hosts that
/// they redirect to.
const MAX_POOLS: usize = 256;

/// All pools. A pool is opened on the first request to its host.
pub(super) struct HostPools {
    certificates: Certificates,
    proxies: Proxies,
    names: Arc<dyn Resolve>,
    open: Mutex<BTreeMap<PoolKey, Arc<HostPool>>>,
    /// The number of requests sent so far, by host.
    sent: Mutex<BTreeMap<String, u64>>,
}

/// The key of a pool. Requests share connections only if they may reach the same addresses.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct PoolKey {
    origin: String,
    network: Network,
    connections: usize,
}

/// The connection pool of one scheme, host and port.
#[derive(Debug)]
pub(super) struct HostPool {
    pub(super) client: reqwest::Client,
    /// The host, and the variable of the proxy if one is used. For messages.
    pub(super) shown: String,
    /// One permit for each concurrent request.
    in_flight: Semaphore,
    protocol: tokio::sync::Mutex<Protocol>,
}

/// Whether requests to this host share a connection.
#[derive(Debug, Clone, Copy)]
enum Protocol {
    /// Unknown: no answer arrived yet. The time is when the latest request was sent alone.
    Unknown(Option<Instant>),
    /// Each request uses its own connection.
    Own,
    /// Requests share a connection, which was open at this time.
    Shared(Instant),
}

/// The permission to send one request.
pub(super) struct SlotPermit<'a> {
    _in_flight: SemaphorePermit<'a>,
    /// Set if this request is sent alone. All other requests wait until it is dropped.
    alone: Option<tokio::sync::MutexGuard<'a, Protocol>>,
}

impl HostPools {
    pub(super) fn new(settings: &HttpSettings, names: Arc<dyn Resolve>) -> Result<Self, HttpClientError> {
        let certificates = Certificates::load(settings.certificates.clone())?;
        let proxies = settings.proxies.clone();
        Ok(Self { certificates, proxies, names, open: Mutex::default(), sent: Mutex::default() })
    }

    /// The pool for `permit`. Opens it if necessary. Fails if the host's certificates cannot be used.
    pub(super) fn pool(&self, permit: &Permit, connections: usize) -> Result<Arc<HostPool>, Failure> {
        let origin = permit.url.origin().ascii_serialization();
        let key = PoolKey { origin, network: permit.network, connections: connections.max(1) };
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(pool) = open.get(&key) {
            return Ok(Arc::clone(pool));
        }
        if open.len() >= MAX_POOLS {
            open.retain(|_, pool| Arc::strong_count(pool) > 1);
        }
        let pool = Arc::new(self.open(&permit.url, &permit.host, &key)?);
        open.insert(key, Arc::clone(&pool));
        Ok(pool)
    }

    /// Closes a pool after a TLS failure. The next request reads the certificates again, because they may have changed.
    pub(super) fn forget(&self, pool: &Arc<HostPool>) {
        self.open.lock().unwrap_or_else(PoisonError::into_inner).retain(|_, open| !Arc::ptr_eq(open, pool));
    }

    /// Counts a request to `host`. If the map is full, new hosts are not counted.
    pub(super) fn count(&self, host: &str) {
        let mut sent = self.sent.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = sent.get_mut(host) {
            *count += 1;
        } else if sent.len() < MAX_POOLS {
            sent.insert(host.to_owned(), 1);
        }
    }

    pub(super) fn requests_sent(&self) -> BTreeMap<String, u64> {
        self.sent.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn open(&self, url: &Url, host: &str, key: &PoolKey) -> Result<HostPool, Failure> {
        let name = url.host_str().unwrap_or_default();
        let with_port = format!("{name}:{}", url.port_or_known_default().unwrap_or_default());
        let tls =
            self.certificates.tls_for(&[host, &with_port]).map_err(|error| failure::unusable_tls(host, &error))?;
        let broken = |error: reqwest::Error| failure::broken_exchange(host, &error);
        let mut builder = reqwest::Client::builder()
            .user_agent(concat!("imagewatch/", env!("CARGO_PKG_VERSION")))
            .tls_backend_preconfigured(tls)
            .redirect(redirect::Policy::none())
            .no_proxy()
            .referer(false)
            .connect_timeout(CONNECT_TIMEOUT)
            .pool_max_idle_per_host(key.connections)
            .connector_layer(ConcurrencyLimitLayer::new(key.connections.div_ceil(4)));
        let mut shown = host.to_owned();
        // A proxy resolves the name itself. The address that imagewatch connects to is that of the proxy, which the
        // operator configured.
        if let Some((proxy, variable)) = self.proxies.proxy_for(url).map_err(broken)? {
            builder = builder.proxy(proxy).dns_resolver(Arc::clone(&self.names));
            shown = format!("{host} (through the proxy in {variable})");
        } else {
            let names = GuardedResolver { names: Arc::clone(&self.names), network: key.network };
            builder = builder.dns_resolver(names);
        }
        let client = builder.build().map_err(broken)?;
        let protocol = if url.scheme() == "https" { Protocol::Unknown(None) } else { Protocol::Own };
        Ok(HostPool { client, shown, in_flight: Semaphore::new(key.connections), protocol: protocol.into() })
    }
}

impl std::fmt::Debug for HostPools {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("HostPools").field("proxies", &self.proxies).field("open", &self.open).finish_non_exhaustive()
    }
}

impl HostPool {
    /// Waits until a request may be sent. Returns `None` if the pool is closed.
    pub(super) async fn acquire_slot(&self) -> Option<SlotPermit<'_>> {
        let in_flight = self.in_flight.acquire().await.ok()?;
        let mut protocol = self.protocol.lock().await;
        let is_known = match *protocol {
            Protocol::Own => true,
            Protocol::Unknown(since) => since.is_some_and(|since| since.elapsed() < SHARED_FOR),
            Protocol::Shared(since) => since.elapsed() < SHARED_FOR,
        };
        // If the request that is sent alone gets no answer, the other requests are sent anyway.
        let alone = (!is_known).then(|| {
            *protocol = Protocol::Unknown(Some(Instant::now()));
            protocol
        });
        Some(SlotPermit { _in_flight: in_flight, alone })
    }
}

impl SlotPermit<'_> {
    /// Records that an answer with this HTTP version began. The other requests need not wait for its end.
    pub(super) fn answered(&mut self, version: Version) {
        if let Some(mut protocol) = self.alone.take() {
            let is_shared = version == Version::HTTP_2;
            *protocol = if is_shared { Protocol::Shared(Instant::now()) } else { Protocol::Own };
        }
    }
}

#[cfg(test)]
mod tests {
    use imagewatch_abi::{HttpRequest, Method, ReadBody};

    use super::*;
    use crate::client::names::SystemNames;
    use crate::egress::EgressRules;
    use crate::realms::Realms;

    fn permit(host: &str) -> Permit {
        let request = HttpRequest {
            method: Method::Head,
            url: format!("https://{host}/v2/"),
            headers: vec![],
            response_headers: vec![],
            credential: None,
            allow_anonymous: false,
            rejected_credential_id: None,
            form: vec![],
            read: ReadBody::Text,
        };
        let rules = EgressRules::parse(&["*".to_owned()], "", "").expect("well formed");
        rules.check(&request, &Realms::default()).expect("everything is allowed")
    }

    #[test]
    fn pools_are_shared_by_key_and_unused_ones_are_closed() {
        let pools = HostPools::new(&HttpSettings::default(), Arc::new(SystemNames)).expect("CA certificates");
        let pool = |permit: &Permit, connections| pools.pool(permit, connections).expect("nothing to read");
        let used = pool(&permit("used.test"), 28);
        assert!(Arc::ptr_eq(&used, &pool(&permit("used.test"), 28)));
        assert!(!Arc::ptr_eq(&used, &pool(&permit("used.test"), 5)));
        let public = Permit { network: Network::Public, ..permit("used.test") };
        assert!(!Arc::ptr_eq(&used, &pool(&public, 28)));
        for n in 0..MAX_POOLS + 5 {
            pool(&permit(&format!("h{n}.test")), 1);
        }
        let open = pools.open.lock().expect("not poisoned").len();
        assert!(open <= MAX_POOLS, "{open}");
        assert!(Arc::ptr_eq(&used, &pool(&permit("used.test"), 28)), "a pool in use stays open");
    }
}

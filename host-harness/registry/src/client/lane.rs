//! The way to one origin: its own pool of connections, and how many requests and handshakes may be
//! under way. Knows no request; that it may be sent at all was decided before.
//!
//! Bounding the requests alone does not bound the connections: a request that is served by a
//! connection just freed leaves behind the handshake it had begun, and the next one begins another
//! (a burst of 500 over 32 slots had 155 sockets open towards a server with slow handshakes). So a
//! lane has three bounds: requests under way, idle connections as many, so that the next tick finds
//! all of them again, and handshakes under way, a quarter. So 48 slots keep 48
//! connections, and have up to 108 open for a moment.
//!
//! Over HTTP/2 one connection does for all, but a burst without one would make as many as it may
//! before the first has said so. So where that is not known the first request goes alone.

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
use super::names::GuardedNames;
use super::proxies::Proxies;
use super::{HttpClientError, HttpSettings, failure};
use crate::egress::Permit;
use crate::network::Network;

/// Handshakes are given up after this, also those that nobody waits for any more.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// How long a shared connection is taken to be there still; reqwest closes idle ones after 90 s.
const SHARED_FOR: Duration = Duration::from_secs(30);

/// Beyond this, lanes that are not in use are closed: registries choose the hosts that they redirect to.
const MAX_LANES: usize = 256;

/// All lanes, opened as hosts are first asked.
pub(super) struct Lanes {
    certificates: Certificates,
    proxies: Proxies,
    names: Arc<dyn Resolve>,
    open: Mutex<BTreeMap<LaneKey, Arc<Lane>>>,
    /// Requests sent so far, by host.
    sent: Mutex<BTreeMap<String, u64>>,
}

/// Requests share connections only with those that may go to the same addresses.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct LaneKey {
    origin: String,
    network: Network,
    connections: usize,
}

/// The way to one scheme, host and port.
#[derive(Debug)]
pub(super) struct Lane {
    pub(super) client: reqwest::Client,
    /// The host, and the proxy's variable where it is asked through one: for messages.
    pub(super) shown: String,
    /// One permit for each request under way.
    in_flight: Semaphore,
    protocol: tokio::sync::Mutex<Protocol>,
}

/// Whether requests share a connection here.
#[derive(Debug, Clone, Copy)]
enum Protocol {
    /// Nobody has had an answer yet, or not since then.
    Unknown(Option<Instant>),
    /// They do not.
    Own,
    /// They do; there was one then.
    Shared(Instant),
}

/// The right to send one request now.
pub(super) struct Turn<'a> {
    _in_flight: SemaphorePermit<'a>,
    /// While it is held all others wait.
    alone: Option<tokio::sync::MutexGuard<'a, Protocol>>,
}

impl Lanes {
    pub(super) fn new(settings: &HttpSettings, names: Arc<dyn Resolve>) -> Result<Self, HttpClientError> {
        let certificates = Certificates::load(settings.certificates.clone())?;
        let proxies = settings.proxies.clone();
        Ok(Self { certificates, proxies, names, open: Mutex::default(), sent: Mutex::default() })
    }

    /// The lane that `permit` goes by. A failure names the file at fault.
    pub(super) fn lane(&self, permit: &Permit, connections: usize) -> Result<Arc<Lane>, Failure> {
        let origin = permit.url.origin().ascii_serialization();
        let key = LaneKey { origin, network: permit.network, connections: connections.max(1) };
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(lane) = open.get(&key) {
            return Ok(Arc::clone(lane));
        }
        if open.len() >= MAX_LANES {
            open.retain(|_, lane| Arc::strong_count(lane) > 1);
        }
        let lane = Arc::new(self.open(&permit.url, &permit.host, &key)?);
        open.insert(key, Arc::clone(&lane));
        Ok(lane)
    }

    /// Closes a lane on which TLS was not agreed: the next request reads the certificates anew, which may be others.
    pub(super) fn forget(&self, lane: &Arc<Lane>) {
        self.open.lock().unwrap_or_else(PoisonError::into_inner).retain(|_, open| !Arc::ptr_eq(open, lane));
    }

    /// Beyond some hosts only those that are known are counted.
    pub(super) fn count(&self, host: &str) {
        let mut sent = self.sent.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = sent.get_mut(host) {
            *count += 1;
        } else if sent.len() < MAX_LANES {
            sent.insert(host.to_owned(), 1);
        }
    }

    pub(super) fn requests_sent(&self) -> BTreeMap<String, u64> {
        self.sent.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn open(&self, url: &Url, host: &str, key: &LaneKey) -> Result<Lane, Failure> {
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
        // A proxy resolves the name itself; the address that is connected to here is the proxy's, which is the operator's.
        if let Some((proxy, variable)) = self.proxies.proxy_for(url).map_err(broken)? {
            builder = builder.proxy(proxy).dns_resolver(Arc::clone(&self.names));
            shown = format!("{host} (by the proxy in {variable})");
        } else {
            let names = GuardedNames { names: Arc::clone(&self.names), network: key.network };
            builder = builder.dns_resolver(names);
        }
        let client = builder.build().map_err(broken)?;
        let protocol = if url.scheme() == "https" { Protocol::Unknown(None) } else { Protocol::Own };
        Ok(Lane { client, shown, in_flight: Semaphore::new(key.connections), protocol: protocol.into() })
    }
}

impl std::fmt::Debug for Lanes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Lanes").field("proxies", &self.proxies).field("open", &self.open).finish_non_exhaustive()
    }
}

impl Lane {
    /// Waits for a turn; `None` when there will be none any more.
    pub(super) async fn turn(&self) -> Option<Turn<'_>> {
        let in_flight = self.in_flight.acquire().await.ok()?;
        let mut protocol = self.protocol.lock().await;
        let is_known = match *protocol {
            Protocol::Own => true,
            Protocol::Unknown(since) => since.is_some_and(|since| since.elapsed() < SHARED_FOR),
            Protocol::Shared(since) => since.elapsed() < SHARED_FOR,
        };
        // Should the one that goes alone get no answer, the others go all the same.
        let alone = (!is_known).then(|| {
            *protocol = Protocol::Unknown(Some(Instant::now()));
            protocol
        });
        Some(Turn { _in_flight: in_flight, alone })
    }
}

impl Turn<'_> {
    /// An answer has begun, in this version: the others need not wait for its end.
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
            want: vec![],
            credential: None,
            or_anonymous: false,
            unless_credential: None,
            form: vec![],
            read: ReadBody::Text,
        };
        let rules = EgressRules::parse(&["*".to_owned()], "", "").expect("well formed");
        rules.check(&request, &Realms::default()).expect("everything is allowed")
    }

    #[test]
    fn lanes_are_shared_by_what_may_go_the_same_way_and_closed_when_there_are_too_many() {
        let lanes = Lanes::new(&HttpSettings::default(), Arc::new(SystemNames)).expect("CA certificates");
        let lane = |permit: &Permit, connections| lanes.lane(permit, connections).expect("nothing to read");
        let used = lane(&permit("used.test"), 28);
        assert!(Arc::ptr_eq(&used, &lane(&permit("used.test"), 28)));
        assert!(!Arc::ptr_eq(&used, &lane(&permit("used.test"), 5)));
        let public = Permit { network: Network::Public, ..permit("used.test") };
        assert!(!Arc::ptr_eq(&used, &lane(&public, 28)));
        for n in 0..MAX_LANES + 5 {
            lane(&permit(&format!("h{n}.test")), 1);
        }
        let open = lanes.open.lock().expect("not poisoned").len();
        assert!(open <= MAX_LANES, "{open}");
        assert!(Arc::ptr_eq(&used, &lane(&permit("used.test"), 28)), "what is in use stays");
    }
}

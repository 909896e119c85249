//! The way to one host: its own pool of connections, and how many requests and handshakes may be
//! under way. Knows no request; that it may be sent at all was decided before.
//!
//! Bounding the requests alone does not bound the connections: a request that is served by a
//! connection just freed leaves behind the handshake it had begun, and the next one begins another
//! (a burst of 500 over 32 slots had 155 sockets open towards a server with slow handshakes). So a
//! host has three bounds: requests under way, idle connections as many, so that the next tick finds
//! all of them again, and handshakes under way, a quarter. Together: 63 connections for 28 slots.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use reqwest::redirect;
use tokio::sync::Semaphore;
use tower::limit::ConcurrencyLimitLayer;

/// Handshakes are given up after this, also those that nobody waits for any more.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// All lanes, opened as hosts are first asked.
#[derive(Debug)]
pub(super) struct Lanes {
    tls: rustls::ClientConfig,
    connections_per_host: usize,
    by_host: Mutex<BTreeMap<String, Arc<Lane>>>,
}

/// The way to one host and port.
#[derive(Debug)]
pub(super) struct Lane {
    pub(super) client: reqwest::Client,
    /// One permit for each request under way.
    pub(super) in_flight: Semaphore,
    /// Requests sent so far.
    pub(super) sent: AtomicU64,
}

impl Lanes {
    pub(super) fn new(tls: rustls::ClientConfig, connections_per_host: usize) -> Self {
        Self { tls, connections_per_host: connections_per_host.max(1), by_host: Mutex::default() }
    }

    pub(super) fn lane(&self, host: &str) -> reqwest::Result<Arc<Lane>> {
        let mut lanes = self.by_host.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(lane) = lanes.get(host) {
            return Ok(Arc::clone(lane));
        }
        let lane = Arc::new(self.open()?);
        lanes.insert(host.to_owned(), Arc::clone(&lane));
        Ok(lane)
    }

    pub(super) fn requests_sent(&self) -> BTreeMap<String, u64> {
        let lanes = self.by_host.lock().unwrap_or_else(PoisonError::into_inner);
        lanes.iter().map(|(host, lane)| (host.clone(), lane.sent.load(Ordering::Relaxed))).collect()
    }

    fn open(&self) -> reqwest::Result<Lane> {
        let handshakes = self.connections_per_host.div_ceil(4);
        let client = reqwest::Client::builder()
            .user_agent(concat!("imagewatch/", env!("CARGO_PKG_VERSION")))
            .tls_backend_preconfigured(self.tls.clone())
            .redirect(redirect::Policy::none())
            .no_proxy()
            .referer(false)
            .connect_timeout(CONNECT_TIMEOUT)
            .pool_max_idle_per_host(self.connections_per_host)
            .connector_layer(ConcurrencyLimitLayer::new(handshakes))
            .build()?;
        Ok(Lane { client, in_flight: Semaphore::new(self.connections_per_host), sent: AtomicU64::new(0) })
    }
}

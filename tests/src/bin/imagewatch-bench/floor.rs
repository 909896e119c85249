//! The floor of a poll: a bare reqwest loop over the same requests, with the same number in flight.

use std::sync::Arc;
use std::time::Instant;

use futures_util::{StreamExt, stream};
use imagewatch_registry::client::DEFAULT_CONNECTIONS_PER_HOST;
use imagewatch_tests::http_client::client_builder;
use reqwest::Client;
use tokio::runtime::Handle;

use crate::report::ms;

/// One request.
#[derive(Debug)]
pub(crate) struct Head {
    pub(crate) url: String,
    pub(crate) headers: Vec<(String, String)>,
}

/// A client with the program's settings that matter on the wire, and its requests.
pub(crate) struct Floor {
    client: Client,
    requests: Arc<[Head]>,
}

impl Floor {
    /// Creates a client without open connections. It trusts the authority in `ca_pem`, or else the system's
    /// certificates.
    pub(crate) fn new(requests: Vec<Head>, ca_pem: Option<&str>) -> Self {
        let builder = client_builder(ca_pem).pool_max_idle_per_host(DEFAULT_CONNECTIONS_PER_HOST);
        Self { client: builder.build().expect("the client builds"), requests: requests.into() }
    }

    /// Sends every request once and returns the time in milliseconds.
    pub(crate) async fn run(&self) -> f64 {
        let (client, requests) = (self.client.clone(), Arc::clone(&self.requests));
        let looped = async move {
            let start = Instant::now();
            let asking = stream::iter(&*requests);
            asking.for_each_concurrent(DEFAULT_CONNECTIONS_PER_HOST, |asked| head(&client, asked)).await;
            start.elapsed()
        };
        // On a separate thread, as in the program.
        let runtime = Handle::current();
        ms(tokio::task::spawn_blocking(move || runtime.block_on(looped)).await.expect("every request is answered"))
    }
}

async fn head(client: &Client, asked: &Head) {
    let request =
        asked.headers.iter().fold(client.head(&asked.url), |request, (name, value)| request.header(name, value));
    let response = request.send().await.expect("the registry answers");
    assert!(response.status().is_success() && response.headers().contains_key("docker-content-digest"));
}

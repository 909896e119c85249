//! The floor of a tick: a bare loop of reqwest over the same requests, with as many in flight. Knows no policy.

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

/// A client with the settings of the program's that matter on the wire, and what it asks.
pub(crate) struct Floor {
    client: Client,
    requests: Arc<[Head]>,
}

impl Floor {
    /// Without a connection yet. Trusts the authority in `ca_pem`, or without one what the system trusts.
    pub(crate) fn new(requests: Vec<Head>, ca_pem: Option<&str>) -> Self {
        let builder = client_builder(ca_pem).pool_max_idle_per_host(DEFAULT_CONNECTIONS_PER_HOST);
        Self { client: builder.build().expect("the client builds"), requests: requests.into() }
    }

    /// Asks everything once; in milliseconds.
    pub(crate) async fn run(&self) -> f64 {
        let (client, requests) = (self.client.clone(), Arc::clone(&self.requests));
        let looped = async move {
            let start = Instant::now();
            let asking = stream::iter(&*requests);
            asking.for_each_concurrent(DEFAULT_CONNECTIONS_PER_HOST, |asked| head(&client, asked)).await;
            start.elapsed()
        };
        // On a thread of its own, as the program's.
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

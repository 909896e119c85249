//! The one HTTP client of the support library.

use std::sync::LazyLock;

use reqwest::{Certificate, Client, ClientBuilder};

static CRYPTO: LazyLock<()> = LazyLock::new(|| {
    // An error means that somebody installed a provider before us, which is as good.
    let _ = rustls::crypto::ring::default_provider().install_default();
});

/// A client that follows no redirect and uses no proxy of the environment: all its servers are on loopback.
/// Not shared, since a test's connections end with its runtime.
pub fn build_client() -> Client {
    client_builder(None).build().expect("a client without certificates builds")
}

/// The same for a caller who wants more of it. It trusts what the authority in `ca_pem` issued, and nothing else;
/// without one, what the system trusts.
pub fn client_builder(ca_pem: Option<&str>) -> ClientBuilder {
    LazyLock::force(&CRYPTO);
    let builder = Client::builder().no_proxy().redirect(reqwest::redirect::Policy::none()).referer(false);
    match ca_pem {
        None => builder,
        Some(pem) => builder.tls_certs_only([Certificate::from_pem(pem.as_bytes()).expect("the authority's PEM")]),
    }
}

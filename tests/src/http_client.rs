//! The HTTP client of the support library.

use std::sync::LazyLock;

use reqwest::{Certificate, Client, ClientBuilder};

static CRYPTO: LazyLock<()> = LazyLock::new(|| {
    // An error means that a provider is already installed. That is sufficient.
    let _ = rustls::crypto::ring::default_provider().install_default();
});

/// Builds a client that follows no redirects and ignores proxy variables, because all its servers are on loopback. The
/// client is not shared, since a test's connections end with its runtime.
pub fn build_client() -> Client {
    client_builder(None).build().expect("a client without certificates builds")
}

/// Returns a builder with the same settings. The client trusts only certificates from the authority in `ca_pem`.
/// Without `ca_pem`, it trusts the system's certificates.
pub fn client_builder(ca_pem: Option<&str>) -> ClientBuilder {
    LazyLock::force(&CRYPTO);
    let builder = Client::builder().no_proxy().redirect(reqwest::redirect::Policy::none()).referer(false);
    match ca_pem {
        None => builder,
        Some(pem) => {
            builder.tls_certs_only([Certificate::from_pem(pem.as_bytes()).expect("the authority's PEM is valid")])
        }
    }
}

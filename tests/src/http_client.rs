//! The one HTTP client of the support library.

use std::sync::LazyLock;

use reqwest::Client;

static CRYPTO: LazyLock<()> = LazyLock::new(|| {
    // An error means that somebody installed a provider before us, which is as good.
    let _ = rustls::crypto::ring::default_provider().install_default();
});

/// A client that follows no redirect and uses no proxy of the environment: all its servers are on loopback.
/// Not shared, since a test's connections end with its runtime.
pub fn build_client() -> Client {
    LazyLock::force(&CRYPTO);
    Client::builder()
        .no_proxy()
        .redirect(reqwest::redirect::Policy::none())
        .build()
        .expect("a client without certificates builds")
}

//! Tests TLS: trusted issuers, client certificates, and the certificate folders.

use std::path::Path;

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls::RootCertStore;
use rustls::pki_types::PrivateKeyDer;
use rustls::server::WebPkiClientVerifier;
use tempfile::TempDir;
use tokio_rustls::TlsAcceptor;

use super::*;

/// A test issuer, and the certificate folder of the clients.
pub(super) struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
    folder: TempDir,
}

impl Authority {
    pub(super) fn new() -> Self {
        let mut params = CertificateParams::new(Vec::<String>::new()).expect("no names");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().expect("a key can be made");
        let issuer = CertifiedIssuer::self_signed(params, key).expect("a certificate can be made");
        Self { issuer, folder: TempDir::new().expect("a folder can be made") }
    }

    /// A certificate for `name`, and its key.
    fn issue(&self, name: &str) -> (rcgen::Certificate, KeyPair) {
        let key = KeyPair::generate().expect("a key can be made");
        let params = CertificateParams::new(vec![name.to_owned()]).expect("a name");
        (params.signed_by(&key, &self.issuer).expect("a certificate can be made"), key)
    }

    fn roots(&self) -> Arc<RootCertStore> {
        let mut roots = RootCertStore::empty();
        roots.add(self.issuer.der().clone()).expect("a certificate");
        roots.into()
    }

    /// An acceptor for a server named `name`. If `client` is set, it requires a client certificate of this issuer.
    pub(super) fn acceptor(&self, name: &str, alpn: &[&str], client: bool) -> TlsAcceptor {
        let (certificate, key) = self.issue(name);
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let verifier = WebPkiClientVerifier::builder_with_provider(self.roots(), Arc::clone(&provider));
        let builder = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("ring has them");
        let builder = if client {
            builder.with_client_cert_verifier(verifier.build().expect("it has a root"))
        } else {
            builder.with_no_client_auth()
        };
        let key = PrivateKeyDer::try_from(key.serialize_der()).expect("pkcs8");
        let mut config = builder
            .with_single_cert(vec![certificate.der().clone()], key)
            .expect("key and certificate belong together");
        config.alpn_protocols = alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
        TlsAcceptor::from(Arc::new(config))
    }

    /// Creates the folder of `host` and returns its path.
    fn folder_of(&self, host: &str) -> PathBuf {
        let folder = self.folder.path().join(host);
        std::fs::create_dir_all(&folder).expect("a folder can be made");
        folder
    }

    /// Makes clients trust this issuer for `host`.
    pub(super) fn trust(&self, host: &str) {
        std::fs::write(self.folder_of(host).join("ca.crt"), self.issuer.pem()).expect("written");
    }

    /// Gives clients a client certificate for `host`.
    fn give_client(&self, host: &str) {
        let (certificate, key) = self.issue("client.test");
        let folder = self.folder_of(host);
        std::fs::write(folder.join("client.cert"), certificate.pem()).expect("written");
        std::fs::write(folder.join("client.key"), key.serialize_pem()).expect("written");
    }

    pub(super) fn client(&self) -> HttpClient {
        client_with(&self.settings())
    }

    pub(super) fn settings(&self) -> HttpSettings {
        let nowhere = Path::new("/nowhere").to_owned();
        HttpSettings { certificates: vec![nowhere, self.folder.path().to_owned()], ..HttpSettings::default() }
    }
}

/// Starts a TLS server that answers every request with 200. Returns its port.
pub(super) async fn tls_server(acceptor: TlsAcceptor) -> u16 {
    let address = bare_server(move |stream| {
        let acceptor = acceptor.clone();
        async move {
            let Ok(mut stream) = acceptor.accept(stream).await else { return };
            while read_head(&mut stream).await {
                let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await;
            }
        }
    })
    .await;
    address.parse::<SocketAddr>().expect("an address").port()
}

#[tokio::test]
async fn an_unknown_issuer_is_reported_and_trusted_once_its_file_exists() {
    let authority = Authority::new();
    let host = format!("r.test:{}", tls_server(authority.acceptor("r.test", &[], false)).await);
    let (client, rules) = (authority.client(), rules(&host, "", ""));
    let failure =
        ask(&client, &rules, get(format!("https://{host}/?q=hidden"))).await.expect_err("the issuer is unknown");
    assert_eq!((failure.code, failure.retryable), (FailureCode::Tls, false));
    assert!(failure.message.contains(&host) && failure.message.contains("from an unknown issuer"), "{failure}");
    assert!(failure.message.contains("certs.d") && failure.message.contains("SSL_CERT_FILE"), "{failure}");
    assert!(!failure.message.contains("hidden"), "{failure}");
    authority.trust(&host);
    let answer = ask(&client, &rules, get(format!("https://{host}/"))).await;
    assert_eq!(answer.map(|answer| answer.body), Ok("ok".to_owned()), "without a restart");
}

#[tokio::test]
async fn a_replaced_issuer_is_reported_until_its_new_file_exists() {
    let (old, new) = (Authority::new(), Authority::new());
    let host = format!("r.test:{}", tls_server(new.acceptor("r.test", &[], false)).await);
    old.trust(&host);
    let (client, rules) = (old.client(), rules(&host, "", ""));
    let failure = ask(&client, &rules, get(format!("https://{host}/"))).await.expect_err("another issuer signed it");
    assert_eq!((failure.code, failure.retryable), (FailureCode::Tls, false));
    assert!(failure.message.contains("with that name") && failure.message.contains("certs.d"), "{failure}");
    std::fs::write(old.folder_of(&host).join("ca.crt"), new.issuer.pem()).expect("written");
    assert_eq!(
        ask(&client, &rules, get(format!("https://{host}/"))).await.map(|answer| answer.body),
        Ok("ok".to_owned())
    );
}

#[tokio::test]
async fn an_issuer_is_trusted_only_for_its_registry() {
    let authority = Authority::new();
    let port = tls_server(authority.acceptor("a.test", &[], false)).await;
    let other = tls_server(authority.acceptor("b.test", &[], false)).await;
    authority.trust(&format!("a.test:{port}"));
    let (client, rules) = (authority.client(), rules("*", "", ""));
    assert!(ask(&client, &rules, get(format!("https://a.test:{port}/"))).await.is_ok());
    let failure = ask(&client, &rules, get(format!("https://b.test:{other}/"))).await.expect_err("another one");
    assert_eq!(failure.code, FailureCode::Tls);
    let failure = ask(&client, &rules, get(format!("https://b.test:{port}/"))).await.expect_err("another name");
    assert_eq!(failure.code, FailureCode::Tls);
}

#[tokio::test]
async fn a_registry_that_requires_a_client_certificate_gets_it() {
    let authority = Authority::new();
    let host = format!("r.test:{}", tls_server(authority.acceptor("r.test", &[], true)).await);
    authority.trust(&host);
    let (client, rules) = (authority.client(), rules(&host, "", ""));
    let failure =
        ask(&client, &rules, get(format!("https://{host}/"))).await.expect_err("the server requires a certificate");
    assert_eq!(failure.code, FailureCode::Tls, "{failure}");
    assert!(failure.message.contains("client.cert"), "{failure}");
    authority.give_client(&host);
    let answer = ask(&client, &rules, get(format!("https://{host}/"))).await;
    assert_eq!(answer.map(|answer| answer.status), Ok(200), "without a restart");
}

#[tokio::test]
async fn unusable_files_are_named_and_their_content_is_hidden() {
    const JUNK: &str = "-----BEGIN CERTIFICATE-----\nhunter2\n-----END CERTIFICATE-----\n";
    for (name, files, says) in [
        ("no certificate", vec![("ca.crt", "hunter2")], "ca.crt: it contains no certificate"),
        ("an invalid certificate", vec![("ca.crt", JUNK)], "ca.crt: "),
        ("no key", vec![("client.cert", JUNK)], "client.key: "),
        ("no certificate for the key", vec![("client.key", "hunter2")], "client.key: its certificate is missing"),
    ] {
        let authority = Authority::new();
        let folder = authority.folder_of("r.test");
        for (file, text) in files {
            std::fs::write(folder.join(file), text).expect("written");
        }
        let answer = ask(&authority.client(), &rules("r.test", "", ""), get("https://r.test/".to_owned())).await;
        let failure = answer.expect_err(name);
        assert_eq!((failure.code, failure.retryable), (FailureCode::Tls, false), "{name}");
        let message = &failure.message;
        assert!(
            message.contains("r.test") && message.contains(says) && !message.contains("hunter2"),
            "{name}: {message}"
        );
    }
    let authority = Authority::new();
    authority.give_client("r.test");
    let folder = authority.folder_of("r.test");
    for ending in ["cert", "key"] {
        let (from, to) = (format!("client.{ending}"), format!("other.{ending}"));
        std::fs::copy(folder.join(from), folder.join(to)).expect("copied");
    }
    let answer = ask(&authority.client(), &rules("r.test", "", ""), get("https://r.test/".to_owned())).await;
    assert!(answer.expect_err("two").message.contains("other.cert: another *.cert"));
}

#[test]
fn certificates_are_searched_in_dockers_folders() {
    for (name, environment, folders) in [
        ("nothing set", vec![], vec!["/etc/docker/certs.d"]),
        ("a home", vec![("HOME", "/h")], vec!["/h/.docker/certs.d", "/etc/docker/certs.d"]),
        ("a config folder", vec![("HOME", "/h"), ("DOCKER_CONFIG", "/c")], vec!["/c/certs.d", "/etc/docker/certs.d"]),
    ] {
        let environment = environment.into_iter().map(|(name, value)| (name.to_owned(), value.to_owned()));
        let settings = HttpSettings::parse(environment).expect("well formed");
        assert_eq!(settings.certificates, folders.into_iter().map(PathBuf::from).collect::<Vec<_>>(), "{name}");
    }
}

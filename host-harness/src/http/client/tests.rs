//! The client against servers on loopback: wiremock where a status and a body will do, bare
//! sockets where the server has to misbehave or to be counted.

use std::sync::atomic::AtomicUsize;
use std::time::Instant;

use imagewatch_abi::{FailureCode, ReadBody};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use wiremock::matchers::{method, path};
use wiremock::{Mock, MockServer, Request, ResponseTemplate};

use super::*;
use crate::credentials::env::parse_credentials;

/// Generous: only a hang reaches it.
const PATIENCE: Duration = Duration::from_secs(30);

fn request(method: Method, url: String) -> HttpRequest {
    HttpRequest {
        method,
        url,
        headers: Vec::new(),
        want: Vec::new(),
        credential: None,
        or_anonymous: false,
        unless_credential: None,
        form: Vec::new(),
        read: ReadBody::Text,
    }
}

fn get(url: String) -> HttpRequest {
    request(Method::Get, url)
}

fn naming(credential: &str, url: String) -> HttpRequest {
    HttpRequest { credential: Some(credential.to_owned()), ..get(url) }
}

fn store(variables: &[(&str, String)]) -> CredentialStore {
    parse_credentials(variables.iter().map(|(name, value)| ((*name).to_owned(), value.clone()))).expect("well formed")
}

fn client() -> HttpClient {
    HttpClient::new(DEFAULT_CONNECTIONS_PER_HOST).expect("the machine has CA certificates")
}

/// A batch by a new client towards loopback, with everything else at its default.
async fn send(requests: Vec<HttpRequest>) -> Vec<Result<HttpResponse, Failure>> {
    send_with(&client(), "", &CredentialStore::default(), HttpLimits::default(), requests).await
}

async fn send_with(
    client: &HttpClient,
    realms: &str,
    credentials: &CredentialStore,
    limits: HttpLimits,
    requests: Vec<HttpRequest>,
) -> Vec<Result<HttpResponse, Failure>> {
    let rules = EgressRules::parse(&["127.0.0.1:*".to_owned()], "loopback", realms).expect("well formed");
    let (batch, cancel) = (HttpBatch { requests }, CancellationToken::new());
    let sent = client.send_all(&rules, credentials, batch, &limits, &cancel);
    let answer = tokio::time::timeout(PATIENCE, sent).await.expect("no request may hang");
    answer.responses.into_iter().map(Answer::into_result).collect()
}

async fn one(request: HttpRequest) -> Result<HttpResponse, Failure> {
    send(vec![request]).await.remove(0)
}

/// A server that hands every connection to `serve`; its address.
async fn bare_server<F>(serve: impl Fn(TcpStream) -> F + Send + 'static) -> String
where
    F: Future<Output = ()> + Send + 'static,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("loopback has a free port");
    let address = listener.local_addr().expect("bound").to_string();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(serve(stream));
        }
    });
    address
}

/// Reads one request's head; false when the other side has closed.
async fn read_head(stream: &mut (impl AsyncRead + Unpin)) -> bool {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        match stream.read_u8().await {
            Ok(byte) => head.push(byte),
            Err(_) => return false,
        }
    }
    true
}

async fn answers(server: &MockServer, response: ResponseTemplate) {
    Mock::given(method("GET")).respond_with(response).mount(server).await;
}

async fn authorizations(server: &MockServer) -> Vec<Option<String>> {
    let requests = server.received_requests().await.expect("recording is on");
    let header = |request: &Request| request.headers.get("authorization").map(|v| v.to_str().unwrap_or("?").to_owned());
    requests.iter().map(header).collect()
}

#[tokio::test]
async fn answers_come_in_the_order_of_the_requests_whichever_is_first() {
    let server = MockServer::start().await;
    for index in 0_u64..20 {
        let late = Duration::from_millis(40 - 2 * index);
        let response = ResponseTemplate::new(200).set_body_string(index.to_string()).set_delay(late);
        Mock::given(path(format!("/{index}"))).respond_with(response).mount(&server).await;
    }
    let requests = (0..20).map(|index| get(format!("{}/{index}", server.uri()))).collect();
    let bodies: Vec<String> = send(requests).await.into_iter().map(|answer| answer.expect("answered").body).collect();
    assert_eq!(bodies, (0..20).map(|index| index.to_string()).collect::<Vec<_>>());
}

#[tokio::test]
async fn only_wanted_headers_come_back_and_duplicates_are_kept() {
    let server = MockServer::start().await;
    let response = ResponseTemplate::new(401)
        .append_header("WWW-Authenticate", "Basic realm=\"a\"")
        .append_header("WWW-Authenticate", "Bearer realm=\"b\"")
        .append_header("Docker-Content-Digest", "sha256:abc")
        .append_header("Set-Cookie", "a=b");
    answers(&server, response).await;
    let want = vec!["www-authenticate".to_owned(), "Docker-Content-Digest".to_owned(), "retry-after".to_owned()];
    let answer = one(HttpRequest { want, ..get(server.uri()) }).await.expect("a 401 is an answer");
    assert_eq!((answer.status, answer.authenticated), (401, false));
    assert_eq!(answer.header("docker-content-digest"), Some("sha256:abc"));
    assert_eq!(answer.header_values("www-authenticate"), ["Basic realm=\"a\"", "Bearer realm=\"b\""]);
    assert_eq!(answer.headers.len(), 3);
}

#[tokio::test]
async fn an_oversized_wanted_header_is_refused() {
    let server = MockServer::start().await;
    answers(&server, ResponseTemplate::new(200).append_header("link", "x".repeat(8 * 1024 + 1))).await;
    let failure = one(HttpRequest { want: vec!["link".to_owned()], ..get(server.uri()) }).await.expect_err("too large");
    assert_eq!(failure.code, FailureCode::TooLarge);
    assert!(failure.message.contains("header link"), "{}", failure.message);
}

#[tokio::test]
async fn a_body_up_to_the_limit_is_read_and_one_byte_more_is_not() {
    for (size, is_read) in [(64 * 1024, true), (64 * 1024 + 1, false)] {
        let server = MockServer::start().await;
        answers(&server, ResponseTemplate::new(200).set_body_string("x".repeat(size))).await;
        let answer = one(get(server.uri())).await;
        assert_eq!(answer.map(|answer| answer.body.len()).ok(), is_read.then_some(size), "{size}");
    }
}

#[tokio::test]
async fn ten_megabytes_are_refused_with_the_host_and_the_limit_declared_or_not() {
    let declared = bare_server(|mut stream| async move {
        read_head(&mut stream).await;
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 10485760\r\n\r\n[").await;
        let _ = stream.write_all(&vec![b' '; 10 * 1024 * 1024]).await;
    })
    .await;
    let undeclared = bare_server(|mut stream| async move {
        read_head(&mut stream).await;
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n[").await;
        let _ = stream.write_all(&vec![b' '; 10 * 1024 * 1024]).await;
    })
    .await;
    for address in [declared, undeclared] {
        let failure = one(get(format!("http://{address}/"))).await.expect_err("far too large");
        assert_eq!(failure.code, FailureCode::TooLarge);
        assert!(failure.message.contains(&address) && failure.message.contains("65536"), "{}", failure.message);
    }
}

#[tokio::test]
async fn html_and_bytes_that_are_no_text_are_handed_on() {
    let server = MockServer::start().await;
    let response = ResponseTemplate::new(502).set_body_raw(b"<html>\xff</html>".to_vec(), "text/html");
    answers(&server, response).await;
    let answer = one(get(server.uri())).await.expect("an answer, whatever its sense");
    assert_eq!((answer.status, answer.body.as_str()), (502, "<html>\u{fffd}</html>"));
}

#[tokio::test]
async fn redirects_are_answered_and_not_followed() {
    let server = MockServer::start().await;
    answers(&server, ResponseTemplate::new(307).append_header("location", "/elsewhere")).await;
    let answer = one(get(format!("{}/here", server.uri()))).await.expect("a redirect is an answer");
    assert_eq!(answer.status, 307);
    assert_eq!(server.received_requests().await.expect("recording is on").len(), 1);
}

#[tokio::test]
async fn a_stored_credential_goes_to_its_registry_and_to_a_bound_realm_and_nowhere_else() {
    let [registry, realm, other] = [MockServer::start().await, MockServer::start().await, MockServer::start().await];
    for server in [&registry, &realm, &other] {
        answers(server, ResponseTemplate::new(200)).await;
    }
    let name = registry.address().to_string();
    let stored = store(&[("IMAGEWATCH_CREDENTIAL_A", format!("{name}=me:s3cret:pw"))]);
    let own_token = HttpRequest {
        headers: vec![("authorization".to_owned(), "Bearer t".to_owned())],
        ..naming(&name, registry.uri())
    };
    let requests = vec![
        naming(&name, registry.uri()),
        get(registry.uri()),
        own_token,
        naming(&name, realm.uri()),
        naming(&name, other.uri()),
        get(other.uri()),
    ];
    let realms = format!("{name}={}", realm.address());
    // One at a time, so that the server's record has an order.
    let client = client();
    let mut answers = Vec::new();
    for request in requests {
        answers.extend(send_with(&client, &realms, &stored, HttpLimits::default(), vec![request]).await);
    }
    let authenticated: Vec<_> =
        answers.iter().map(|answer| answer.as_ref().map(|a| a.authenticated).map_err(|f| f.code)).collect();
    assert_eq!(authenticated, [Ok(true), Ok(false), Ok(false), Ok(true), Err(FailureCode::Denied), Ok(false)]);
    let basic = Some("Basic bWU6czNjcmV0OnB3".to_owned());
    assert_eq!(authorizations(&registry).await, [basic.clone(), None, Some("Bearer t".to_owned())]);
    assert_eq!(authorizations(&realm).await, [basic]);
    assert_eq!(authorizations(&other).await, [None]);
    assert!(!format!("{client:?} {answers:?} {stored:?}").contains("s3cret"));
}

#[tokio::test]
async fn a_missing_credential_is_reported_unsent_unless_the_request_can_do_without() {
    let [registry, realm] = [MockServer::start().await, MockServer::start().await];
    answers(&realm, ResponseTemplate::new(200)).await;
    let name = registry.address().to_string();
    let realms = format!("{name}={}", realm.address());
    let anonymous = |url| HttpRequest { or_anonymous: true, ..naming(&name, url) };
    let requests = vec![naming(&name, registry.uri()), anonymous(realm.uri())];
    let client = client();
    let mut answers =
        send_with(&client, &realms, &CredentialStore::default(), HttpLimits::default(), requests).await.into_iter();
    let failure = answers.next().expect("two answers").expect_err("nothing is stored");
    assert_eq!(failure.code, FailureCode::NoCredential);
    assert!(failure.message.contains(&name) && failure.message.contains("IMAGEWATCH_CREDENTIAL_"), "{failure}");
    assert!(!answers.next().expect("two answers").expect("anonymous").authenticated);
    assert_eq!(authorizations(&registry).await, []);
    assert_eq!(authorizations(&realm).await, [None]);
    assert_eq!(client.requests_sent(), BTreeMap::from([(realm.address().to_string(), 1)]));
}

#[tokio::test]
async fn a_silent_and_a_stalling_server_hit_the_deadline() {
    let silent = bare_server(|mut stream| async move {
        read_head(&mut stream).await;
        std::future::pending::<()>().await;
    })
    .await;
    let stalling = bare_server(|mut stream| async move {
        read_head(&mut stream).await;
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nhalf").await;
        std::future::pending::<()>().await;
    })
    .await;
    let limits = HttpLimits { deadline: Duration::from_millis(300), ..HttpLimits::default() };
    for address in [silent, stalling] {
        let started = Instant::now();
        let requests = vec![get(format!("http://{address}/?q=hidden"))];
        let answer = send_with(&client(), "", &CredentialStore::default(), limits, requests).await.remove(0);
        let failure = answer.expect_err("nothing comes");
        assert_eq!((failure.code, failure.retryable), (FailureCode::Timeout, true));
        assert_eq!(failure.message, format!("no answer from {address} within 300 ms"));
        assert!(started.elapsed() < Duration::from_secs(5));
    }
}

#[tokio::test]
async fn a_refused_connection_names_the_host_and_hides_the_query() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("loopback has a free port");
    let address = listener.local_addr().expect("bound").to_string();
    drop(listener);
    let failure = one(get(format!("http://{address}/token?q=hidden"))).await.expect_err("nobody listens");
    assert_eq!((failure.code, failure.retryable), (FailureCode::Connect, true));
    assert!(failure.message.starts_with(&format!("could not connect to {address}: ")), "{failure}");
    assert!(failure.message.contains("refused") && !failure.message.contains("hidden"), "{failure}");
}

#[tokio::test]
async fn tls_towards_a_plain_http_port_says_so() {
    let server = MockServer::start().await;
    let failure = one(get(format!("https://{}/?q=hidden", server.address()))).await.expect_err("no tls there");
    assert_eq!((failure.code, failure.retryable), (FailureCode::Tls, false));
    assert!(failure.message.contains(&server.address().to_string()), "{failure}");
    assert!(failure.message.contains("does not answer in TLS"), "{failure}");
    assert!(failure.message.contains("host.insecure_registries") && !failure.message.contains("hidden"), "{failure}");
}

#[tokio::test]
async fn a_server_that_speaks_no_http_is_a_broken_exchange() {
    let address = bare_server(|mut stream| async move {
        let _ = stream.write_all(b"SSH-2.0-OpenSSH_9.9\r\n").await;
        read_head(&mut stream).await;
    })
    .await;
    let failure = one(get(format!("http://{address}/"))).await.expect_err("no http there");
    assert_eq!(failure.code, FailureCode::Connect);
    assert!(failure.message.contains(&address), "{failure}");
}

#[tokio::test]
async fn cancelling_ends_every_request_under_way_and_waiting() {
    let cancel = CancellationToken::new();
    let stop = cancel.clone();
    let address = bare_server(move |mut stream| {
        let stop = stop.clone();
        async move {
            read_head(&mut stream).await;
            stop.cancel();
            std::future::pending::<()>().await;
        }
    })
    .await;
    let rules = EgressRules::parse(&["*".to_owned()], "loopback", "").expect("well formed");
    let requests = (0..40).map(|_| get(format!("http://{address}/"))).collect();
    let (client, credentials, limits) = (client(), CredentialStore::default(), HttpLimits::default());
    let sent = client.send_all(&rules, &credentials, HttpBatch { requests }, &limits, &cancel);
    let answers = tokio::time::timeout(Duration::from_secs(5), sent).await.expect("well before the deadline of 10 s");
    for answer in answers.responses {
        assert_eq!(answer.into_result().expect_err("stopped").code, FailureCode::ShuttingDown);
    }
}

/// A certificate for 127.0.0.1 that nobody vouches for, and the server side that shows it.
fn self_signed(alpn: &[&str]) -> (CertificateDer<'static>, TlsAcceptor) {
    let own = rcgen::generate_simple_self_signed(vec!["127.0.0.1".to_owned()]).expect("a certificate can be made");
    let key = PrivateKeyDer::try_from(own.signing_key.serialize_der()).expect("pkcs8");
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("ring has them")
        .with_no_client_auth()
        .with_single_cert(vec![own.cert.der().clone()], key)
        .expect("key and certificate belong together");
    config.alpn_protocols = alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
    (own.cert.der().clone(), TlsAcceptor::from(Arc::new(config)))
}

fn client_trusting(certificate: CertificateDer<'static>) -> HttpClient {
    let mut roots = rustls::RootCertStore::empty();
    roots.add(certificate).expect("a certificate");
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let tls = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("ring has them")
        .with_root_certificates(roots)
        .with_no_client_auth();
    HttpClient::with_tls(tls, DEFAULT_CONNECTIONS_PER_HOST)
}

#[tokio::test]
async fn an_unknown_issuer_is_named_with_what_to_do() {
    let (_, acceptor) = self_signed(&[]);
    let address = bare_server(move |stream| {
        let acceptor = acceptor.clone();
        async move { drop(acceptor.accept(stream).await) }
    })
    .await;
    let failure = one(get(format!("https://{address}/?q=hidden"))).await.expect_err("nobody vouches for it");
    assert_eq!((failure.code, failure.retryable), (FailureCode::Tls, false));
    assert!(failure.message.contains(&address) && failure.message.contains("issuer unknown here"), "{failure}");
    assert!(failure.message.contains("SSL_CERT_FILE") && !failure.message.contains("hidden"), "{failure}");
}

#[tokio::test]
async fn http_2_is_spoken_where_the_server_speaks_it() {
    let (certificate, acceptor) = self_signed(&["h2", "http/1.1"]);
    let (saw, seen) = std::sync::mpsc::channel();
    let address = bare_server(move |stream| {
        let (acceptor, saw) = (acceptor.clone(), saw.clone());
        async move {
            let Ok(mut stream) = acceptor.accept(stream).await else { return };
            let mut preface = [0; 24];
            let _ = stream.read_exact(&mut preface).await;
            let _ = saw.send(preface);
        }
    })
    .await;
    let client = client_trusting(certificate);
    let requests = vec![get(format!("https://{address}/"))];
    send_with(&client, "", &CredentialStore::default(), HttpLimits::default(), requests).await;
    assert_eq!(seen.try_recv().as_ref(), Ok(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"));
}

/// What a server saw of its sockets.
#[derive(Default)]
struct Sockets {
    accepted: AtomicUsize,
    open: AtomicUsize,
    most_open: AtomicUsize,
}

impl Sockets {
    /// The number of this one.
    fn open(&self) -> usize {
        let open = self.open.fetch_add(1, Ordering::SeqCst) + 1;
        self.most_open.fetch_max(open, Ordering::SeqCst);
        self.accepted.fetch_add(1, Ordering::SeqCst)
    }

    fn close(&self) {
        self.open.fetch_sub(1, Ordering::SeqCst);
    }
}

/// Keeps the connection alive and takes `think` for each answer.
async fn keep_answering(mut stream: impl AsyncRead + AsyncWrite + Unpin, think: Duration) {
    while read_head(&mut stream).await {
        tokio::time::sleep(think).await;
        if stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await.is_err() {
            break;
        }
    }
}

/// 500 requests by two callers at once; all have to be answered over a bounded number of connections.
async fn assert_burst_is_bounded(name: &str, client: &HttpClient, base: &str, sockets: &Sockets) {
    let credentials = CredentialStore::default();
    let burst = || {
        let requests = (0..250).map(|index| get(format!("{base}/{index}"))).collect();
        send_with(client, "", &credentials, HttpLimits::default(), requests)
    };
    let (first, second) = tokio::join!(burst(), burst());
    let failed: Vec<_> = first.into_iter().chain(second).filter_map(Result::err).collect();
    let [accepted, most_open] = [&sockets.accepted, &sockets.most_open].map(|count| count.load(Ordering::SeqCst));
    assert_eq!(failed, [], "{name}");
    assert!(most_open <= 2 * DEFAULT_CONNECTIONS_PER_HOST, "{name}: {most_open} were open at once");
    assert!(accepted < 250, "{name}: connections are not used again: {accepted} for 500 requests");
    assert_eq!(client.requests_sent().values().sum::<u64>(), 500, "{name}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_burst_never_has_more_than_64_connections_open_to_one_host() {
    for (name, think) in [("at once", Duration::ZERO), ("after 5 ms", Duration::from_millis(5))] {
        let sockets = Arc::new(Sockets::default());
        let counted = Arc::clone(&sockets);
        let address = bare_server(move |stream| {
            let counted = Arc::clone(&counted);
            async move {
                counted.open();
                keep_answering(stream, think).await;
                counted.close();
            }
        })
        .await;
        assert_burst_is_bounded(name, &client(), &format!("http://{address}"), &sockets).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn nor_when_handshakes_are_slow_and_answers_quick() {
    let (certificate, acceptor) = self_signed(&[]);
    let sockets = Arc::new(Sockets::default());
    let counted = Arc::clone(&sockets);
    let address = bare_server(move |stream| {
        let (counted, acceptor) = (Arc::clone(&counted), acceptor.clone());
        async move {
            let number = counted.open();
            let wait_ms = u64::try_from(number % 5).unwrap_or_default() * 50;
            tokio::time::sleep(Duration::from_millis(wait_ms)).await;
            if let Ok(stream) = acceptor.accept(stream).await {
                keep_answering(stream, Duration::ZERO).await;
            }
            counted.close();
        }
    })
    .await;
    let client = client_trusting(certificate);
    assert_burst_is_bounded("slow handshakes", &client, &format!("https://{address}"), &sockets).await;
}

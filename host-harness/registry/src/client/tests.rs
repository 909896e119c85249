//! Tests the client against servers on loopback. Most servers are wiremock servers. Servers that misbehave or count
//! connections use bare sockets.

use std::net::SocketAddr;

use imagewatch_abi::{FailureCode, Method, ReadBody};
use reqwest::dns::{Addrs, Name, Resolving};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use wiremock::matchers::path;
use wiremock::{Mock, MockServer, Request, ResponseTemplate};

use super::*;
use crate::credentials::env::parse_credentials;
use crate::testing::{get, request};

mod bodies;
mod connections;
mod credentials;
mod proxy;
mod realms;
mod redirects;
mod tls;

/// A time limit that only a hanging request reaches.
const PATIENCE: Duration = Duration::from_secs(30);

fn naming(credential: &str, url: String) -> HttpRequest {
    HttpRequest { credential: Some(credential.to_owned()), ..get(url) }
}

/// The URL of the registry API at `server`.
fn api(server: &MockServer) -> String {
    format!("{}/v2/", server.uri())
}

/// A client that already knows the `realm` of `registry`.
fn client_told(registry: &str, realm: &str) -> HttpClient {
    let client = client();
    client.realms.learn(registry, &format!("Bearer realm=\"{realm}\""));
    client
}

fn store(variables: &[(&str, String)]) -> CredentialStore {
    parse_credentials(variables.iter().map(|(name, value)| ((*name).to_owned(), value.clone()))).expect("well formed")
}

fn client() -> HttpClient {
    client_with(&HttpSettings::default())
}

fn client_with(settings: &HttpSettings) -> HttpClient {
    HttpClient::with_names(settings, Arc::new(AllHere)).expect("the machine has CA certificates")
}

/// Resolves every name to 127.0.0.1.
struct AllHere;

impl Resolve for AllHere {
    fn resolve(&self, _: Name) -> Resolving {
        let here: Addrs = Box::new([SocketAddr::from(([127, 0, 0, 1], 0))].into_iter());
        Box::pin(async move { Ok(here) })
    }
}

/// Sends a batch to loopback with a new client and default settings.
async fn send(requests: Vec<HttpRequest>) -> Vec<Result<HttpResponse, Failure>> {
    send_with(&client(), "", &store(&[]), HttpLimits::default(), requests).await
}

async fn send_with(
    client: &HttpClient,
    realms: &str,
    credentials: &CredentialStore,
    limits: HttpLimits,
    requests: Vec<HttpRequest>,
) -> Vec<Result<HttpResponse, Failure>> {
    send_by(client, &rules("127.0.0.1:*", "loopback", realms), credentials, limits, requests).await
}

/// `allowed` and `insecure` are lists separated by spaces.
fn rules(allowed: &str, insecure: &str, realms: &str) -> EgressRules {
    let allowed: Vec<String> = allowed.split_whitespace().map(str::to_owned).collect();
    EgressRules::parse(&allowed, insecure, realms).expect("well formed")
}

async fn send_by(
    client: &HttpClient,
    rules: &EgressRules,
    credentials: &CredentialStore,
    limits: HttpLimits,
    requests: Vec<HttpRequest>,
) -> Vec<Result<HttpResponse, Failure>> {
    let (batch, cancel) = (HttpBatch { requests, ..HttpBatch::default() }, CancellationToken::new());
    let sent = client.send_all(rules, credentials, batch, &limits, &cancel);
    let answer = tokio::time::timeout(PATIENCE, sent).await.expect("no request may hang");
    answer.responses.into_iter().map(Answer::into_result).collect()
}

/// Sends one request under `rules`.
async fn ask(client: &HttpClient, rules: &EgressRules, request: HttpRequest) -> Result<HttpResponse, Failure> {
    send_by(client, rules, &store(&[]), HttpLimits::default(), vec![request]).await.remove(0)
}

async fn one(request: HttpRequest) -> Result<HttpResponse, Failure> {
    send(vec![request]).await.remove(0)
}

/// Starts a server that passes every connection to `serve`. Returns its address.
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

/// Reads the head of one request. Returns `false` if the client closed the connection.
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
    Mock::given(wiremock::matchers::any()).respond_with(response).mount(server).await;
}

async fn authorizations(server: &MockServer) -> Vec<Option<String>> {
    let requests = server.received_requests().await.expect("recording is on");
    let header = |request: &Request| request.headers.get("authorization").map(|v| v.to_str().unwrap_or("?").to_owned());
    requests.iter().map(header).collect()
}

/// The requests that `server` received, as `METHOD path`.
async fn seen(server: &MockServer) -> Vec<String> {
    let requests = server.received_requests().await.expect("recording is on");
    requests.iter().map(|request| format!("{} {}", request.method, request.url.path())).collect()
}

#[tokio::test]
async fn answers_have_the_order_of_the_requests() {
    let server = MockServer::start().await;
    for index in 0_u64..20 {
        let delay = Duration::from_millis(40 - 2 * index);
        let response = ResponseTemplate::new(200).set_body_string(index.to_string()).set_delay(delay);
        Mock::given(path(format!("/{index}"))).respond_with(response).mount(&server).await;
    }
    let requests = (0..20).map(|index| get(format!("{}/{index}", server.uri()))).collect();
    let bodies: Vec<String> = send(requests).await.into_iter().map(|answer| answer.expect("answered").body).collect();
    assert_eq!(bodies, (0..20).map(|index| index.to_string()).collect::<Vec<_>>());
}

#[tokio::test]
async fn only_requested_headers_are_returned_with_duplicates() {
    let server = MockServer::start().await;
    let response = ResponseTemplate::new(401)
        .append_header("WWW-Authenticate", "Basic realm=\"a\"")
        .append_header("WWW-Authenticate", "Bearer realm=\"b\"")
        .append_header("Docker-Content-Digest", "sha256:abc")
        .append_header("Set-Cookie", "a=b");
    answers(&server, response).await;
    let response_headers =
        vec!["www-authenticate".to_owned(), "Docker-Content-Digest".to_owned(), "retry-after".to_owned()];
    let answer = one(HttpRequest { response_headers, ..get(server.uri()) }).await.expect("a 401 is an answer");
    assert_eq!((answer.status, answer.authenticated), (401, false));
    assert_eq!(answer.header("docker-content-digest"), Some("sha256:abc"));
    assert_eq!(answer.header_values("www-authenticate"), ["Basic realm=\"a\"", "Bearer realm=\"b\""]);
    assert_eq!(answer.headers.len(), 3);
}

#[tokio::test]
async fn html_and_invalid_utf8_are_returned() {
    let server = MockServer::start().await;
    let response = ResponseTemplate::new(502).set_body_raw(b"<html>\xff</html>".to_vec(), "text/html");
    answers(&server, response).await;
    let answer = one(get(server.uri())).await.expect("an answer");
    assert_eq!((answer.status, answer.body.as_str()), (502, "<html>\u{fffd}</html>"));
}

#[tokio::test]
async fn a_refused_connection_names_the_host_and_hides_the_query() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("loopback has a free port");
    let address = listener.local_addr().expect("bound").to_string();
    drop(listener);
    let failure = one(get(format!("http://{address}/token?q=hidden"))).await.expect_err("no server listens");
    assert_eq!((failure.code, failure.retryable), (FailureCode::Connect, true));
    assert!(failure.message.starts_with(&format!("could not connect to {address}: ")), "{failure}");
    assert!(failure.message.contains("refused") && !failure.message.contains("hidden"), "{failure}");
}

#[tokio::test]
async fn tls_to_a_plain_http_port_is_reported() {
    let server = MockServer::start().await;
    let failure = one(get(format!("https://{}/?q=hidden", server.address()))).await.expect_err("no tls there");
    assert_eq!((failure.code, failure.retryable), (FailureCode::Tls, false));
    assert!(failure.message.contains(&server.address().to_string()), "{failure}");
    assert!(failure.message.contains("does not answer with TLS"), "{failure}");
    assert!(failure.message.contains("host.insecure_registries") && !failure.message.contains("hidden"), "{failure}");
}

#[tokio::test]
async fn a_server_without_http_is_a_connection_failure() {
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
async fn cancellation_ends_running_and_waiting_requests() {
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
    let (client, credentials, limits) = (client(), store(&[]), HttpLimits::default());
    let sent = client.send_all(&rules, &credentials, HttpBatch { requests, ..HttpBatch::default() }, &limits, &cancel);
    let answers = tokio::time::timeout(Duration::from_secs(5), sent).await.expect("well before the deadline of 10 s");
    for answer in answers.responses {
        assert_eq!(answer.into_result().expect_err("stopped").code, FailureCode::ShuttingDown);
    }
}

//! Tests the proxies from the environment with a test proxy.

use std::sync::Mutex;

use super::tls::{Authority, tls_server};
use super::*;

const PASSWORD: &str = "hunter2";

/// The heads of the requests that the proxy received.
type Heads = Arc<Mutex<Vec<String>>>;

/// Starts a proxy. It connects every `CONNECT` to the same port on this machine, and answers other requests itself.
/// Returns its port.
async fn proxy(heads: Heads) -> u16 {
    let address = bare_server(move |mut stream| {
        let heads = Arc::clone(&heads);
        async move {
            let head = read_text(&mut stream).await;
            heads.lock().expect("not poisoned").push(head.clone());
            let Some(target) = head.strip_prefix("CONNECT ").and_then(|rest| rest.split(' ').next()) else {
                let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 7\r\n\r\nproxied").await;
                return;
            };
            let port = target.rsplit(':').next().and_then(|port| port.parse().ok()).unwrap_or(0_u16);
            let Ok(mut inner) = TcpStream::connect(("127.0.0.1", port)).await else { return };
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await;
            let _ = tokio::io::copy_bidirectional(&mut stream, &mut inner).await;
        }
    })
    .await;
    address.parse::<SocketAddr>().expect("an address").port()
}

async fn read_text(stream: &mut TcpStream) -> String {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        match stream.read_u8().await {
            Ok(byte) => head.push(byte),
            Err(_) => break,
        }
    }
    String::from_utf8_lossy(&head).into_owned()
}

fn proxies(variables: &[(&str, String)]) -> Proxies {
    let variables = variables.iter().map(|(name, value)| ((*name).to_owned(), value.clone()));
    Proxies::parse(variables).expect("well formed")
}

#[tokio::test]
async fn https_uses_a_tunnel_and_only_the_registry_sees_the_request() {
    let (heads, authority) = (Heads::default(), Authority::new());
    let host = format!("r.test:{}", tls_server(authority.acceptor("r.test", &[], false)).await);
    authority.trust(&host);
    let url = format!("http://me:{PASSWORD}@proxy.test:{}", proxy(Arc::clone(&heads)).await);
    let client = client_with(&HttpSettings { proxies: proxies(&[("HTTPS_PROXY", url)]), ..authority.settings() });
    let request = HttpRequest {
        headers: vec![("authorization".to_owned(), "Bearer t0k".to_owned())],
        ..get(format!("https://{host}/"))
    };
    let answer = ask(&client, &rules(&host, "", ""), request).await;
    assert_eq!(answer.map(|answer| answer.body), Ok("ok".to_owned()));
    let heads = heads.lock().expect("not poisoned");
    let [head] = &heads[..] else { panic!("one connection: {heads:?}") };
    assert!(head.starts_with(&format!("CONNECT {host} HTTP/1.1")), "{head}");
    assert!(head.to_ascii_lowercase().contains("proxy-authorization: basic bwu6ahvudgvymg=="), "{head}");
    assert!(!head.contains("t0k"), "{head}");
    assert!(!format!("{client:?}").contains(PASSWORD));
}

#[tokio::test]
async fn plain_http_is_sent_to_the_proxy_unless_exempt() {
    let heads = Heads::default();
    let server = MockServer::start().await;
    answers(&server, ResponseTemplate::new(200).set_body_string("direct")).await;
    let url = format!("http://127.0.0.1:{}", proxy(Arc::clone(&heads)).await);
    let port = server.address().port();
    for (name, host, exempt, body) in [
        ("another host", "r.test", "", "proxied"),
        ("an exempt host", "r.test", "other.test,r.test", "direct"),
        ("loopback", "127.0.0.1", "", "direct"),
    ] {
        let proxies = proxies(&[("http_proxy", url.clone()), ("NO_PROXY", exempt.to_owned())]);
        let client = client_with(&HttpSettings { proxies, ..HttpSettings::default() });
        let host = format!("{host}:{port}");
        let answer = ask(&client, &rules(&host, &host, ""), get(format!("http://{host}/x"))).await;
        assert_eq!(answer.map(|answer| answer.body), Ok(body.to_owned()), "{name}");
    }
    let heads = heads.lock().expect("not poisoned");
    assert_eq!(heads.len(), 1);
    assert!(heads[0].starts_with(&format!("GET http://r.test:{port}/x HTTP/1.1")), "{heads:?}");
}

#[tokio::test]
async fn forbidden_addresses_are_refused_before_the_proxy_is_used() {
    let heads = Heads::default();
    let url = format!("http://127.0.0.1:{}", proxy(Arc::clone(&heads)).await);
    let client = client_with(&HttpSettings { proxies: proxies(&[("HTTPS_PROXY", url)]), ..HttpSettings::default() });
    for host in ["169.254.169.254", "[fd00:ec2::254]", "[::ffff:169.254.169.254]"] {
        let failure = ask(&client, &rules("*", "", ""), get(format!("https://{host}/"))).await.expect_err("refused");
        assert_eq!(failure.code, FailureCode::Denied, "{host}: {failure}");
        assert!(failure.message.contains("allowed_hosts"), "{host}: {failure}");
    }
    assert!(heads.lock().expect("not poisoned").is_empty());
}

#[tokio::test]
async fn a_failing_proxy_is_named_by_its_variable_without_its_password() {
    let closed = TcpListener::bind("127.0.0.1:0").await.expect("loopback has a free port");
    let gone = closed.local_addr().expect("bound").port();
    drop(closed);
    let refusing = bare_server(|mut stream| async move {
        read_head(&mut stream).await;
        let _ = stream.write_all(b"HTTP/1.1 407 Proxy Authentication Required\r\ncontent-length: 0\r\n\r\n").await;
    })
    .await;
    for (name, address) in [("no proxy listens", format!("127.0.0.1:{gone}")), ("407", refusing)] {
        let proxies = proxies(&[("https_proxy", format!("http://me:{PASSWORD}@{address}"))]);
        let client = client_with(&HttpSettings { proxies, ..HttpSettings::default() });
        let answer = ask(&client, &rules("r.test", "", ""), get("https://r.test/?q=hidden".to_owned())).await;
        let failure = answer.expect_err(name);
        assert_eq!(failure.code, FailureCode::Connect, "{name}: {failure}");
        let shown = format!("{failure} {client:?}");
        assert!(shown.contains("r.test (through the proxy in https_proxy)"), "{name}: {shown}");
        assert!(!shown.contains(PASSWORD) && !shown.contains("hidden") && !shown.contains("bWU6"), "{name}: {shown}");
    }
}

//! Tests how many connections a burst of requests opens, over HTTP/1.1 and HTTP/2.

use std::convert::Infallible;
use std::sync::atomic::{AtomicUsize, Ordering};

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::AsyncWrite;
use tokio_rustls::TlsAcceptor;

use super::tls::Authority;
use super::*;

/// Counts the sockets of a server.
#[derive(Default)]
struct Sockets {
    accepted: AtomicUsize,
    open: AtomicUsize,
    most_open: AtomicUsize,
}

impl Sockets {
    /// Counts a new socket and returns its number, from 0.
    fn open(&self) -> usize {
        let open = self.open.fetch_add(1, Ordering::SeqCst) + 1;
        self.most_open.fetch_max(open, Ordering::SeqCst);
        self.accepted.fetch_add(1, Ordering::SeqCst)
    }

    fn close(&self) {
        self.open.fetch_sub(1, Ordering::SeqCst);
    }
}

/// Answers all requests of a connection. Waits for `delay` before each answer.
async fn keep_answering(mut stream: impl AsyncRead + AsyncWrite + Unpin, delay: Duration) {
    while read_head(&mut stream).await {
        tokio::time::sleep(delay).await;
        if stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await.is_err() {
            break;
        }
    }
}

/// Sends 500 requests from two concurrent callers. Checks that all are answered over a limited number of connections.
async fn assert_burst_is_bounded(name: &str, client: &HttpClient, base: &str, sockets: &Sockets) {
    let credentials = store(&[]);
    let burst = || {
        let requests = (0..250).map(|index| get(format!("{base}/{index}"))).collect();
        send_with(client, "", &credentials, HttpLimits::default(), requests)
    };
    let (first, second) = tokio::join!(burst(), burst());
    let failed: Vec<_> = first.into_iter().chain(second).filter_map(Result::err).collect();
    let [accepted, most_open] = [&sockets.accepted, &sockets.most_open].map(|count| count.load(Ordering::SeqCst));
    assert_eq!(failed, [], "{name}");
    assert!(most_open <= DEFAULT_CONNECTIONS_PER_HOST * 9 / 4, "{name}: {most_open} were open at once");
    assert!(accepted < 250, "{name}: connections are not reused: {accepted} for 500 requests");
    assert_eq!(client.requests_sent().values().sum::<u64>(), 500, "{name}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_burst_opens_a_limited_number_of_connections() {
    for (name, delay) in [("immediately", Duration::ZERO), ("after 5 ms", Duration::from_millis(5))] {
        let sockets = Arc::new(Sockets::default());
        let counted = Arc::clone(&sockets);
        let address = bare_server(move |stream| {
            let counted = Arc::clone(&counted);
            async move {
                counted.open();
                keep_answering(stream, delay).await;
                counted.close();
            }
        })
        .await;
        assert_burst_is_bounded(name, &client(), &format!("http://{address}"), &sockets).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn slow_handshakes_do_not_open_more_connections() {
    let authority = Authority::new();
    let acceptor = authority.acceptor("127.0.0.1", &[], false);
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
    authority.trust(&address);
    let client = authority.client();
    assert_burst_is_bounded("slow handshakes", &client, &format!("https://{address}"), &sockets).await;
}

/// Starts an HTTP/2 server. A handshake takes 30 ms, so that further handshakes could begin meanwhile. An answer takes
/// 5 ms.
async fn http_2_server(acceptor: TlsAcceptor, sockets: Arc<Sockets>) -> String {
    bare_server(move |stream| {
        let (acceptor, sockets) = (acceptor.clone(), Arc::clone(&sockets));
        async move {
            sockets.open();
            tokio::time::sleep(Duration::from_millis(30)).await;
            if let Ok(stream) = acceptor.accept(stream).await {
                let answer = service_fn(|_: hyper::Request<Incoming>| async {
                    tokio::time::sleep(Duration::from_millis(5)).await;
                    Ok::<_, Infallible>(hyper::Response::new(Full::new(Bytes::from_static(b"ok"))))
                });
                let _ = http2::Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(stream), answer).await;
            }
            sockets.close();
        }
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_burst_over_http_2_shares_one_connection() {
    let authority = Authority::new();
    let sockets = Arc::new(Sockets::default());
    let acceptor = authority.acceptor("127.0.0.1", &["h2", "http/1.1"], false);
    let address = http_2_server(acceptor, Arc::clone(&sockets)).await;
    authority.trust(&address);
    let client = authority.client();
    for _ in 0..3 {
        let requests = (0..200).map(|index| get(format!("https://{address}/{index}"))).collect();
        let answers = send_with(&client, "", &store(&[]), HttpLimits::default(), requests).await;
        assert_eq!(answers.into_iter().filter_map(Result::err).collect::<Vec<_>>(), []);
    }
    let [accepted, most_open] = [&sockets.accepted, &sockets.most_open].map(|count| count.load(Ordering::SeqCst));
    assert_eq!((accepted, most_open), (1, 1));
}

#[tokio::test]
async fn the_configured_number_of_requests_is_in_flight() {
    for connections_per_host in [1, 5] {
        let sockets = Arc::new(Sockets::default());
        let counted = Arc::clone(&sockets);
        let address = bare_server(move |mut stream| {
            let counted = Arc::clone(&counted);
            async move {
                while read_head(&mut stream).await {
                    counted.open();
                    tokio::time::sleep(Duration::from_millis(60)).await;
                    counted.close();
                    let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await;
                }
            }
        })
        .await;
        let limits = HttpLimits { connections_per_host, ..HttpLimits::default() };
        let requests = (0..20).map(|index| get(format!("http://{address}/{index}"))).collect();
        let answers = send_with(&client(), "", &store(&[]), limits, requests).await;
        assert!(answers.iter().all(Result::is_ok));
        let most_open = sockets.most_open.load(Ordering::SeqCst);
        assert!((connections_per_host.div_ceil(2)..=connections_per_host).contains(&most_open), "{most_open}");
    }
}

#[tokio::test]
async fn a_missing_first_answer_delays_other_requests_only_once() {
    let authority = Authority::new();
    let acceptor = authority.acceptor("127.0.0.1", &[], false);
    let address = bare_server(move |stream| {
        let acceptor = acceptor.clone();
        async move {
            let _stream = acceptor.accept(stream).await;
            std::future::pending::<()>().await;
        }
    })
    .await;
    authority.trust(&address);
    let limits = HttpLimits { deadline: Duration::from_millis(400), ..HttpLimits::default() };
    let requests = (0..20).map(|index| get(format!("https://{address}/{index}"))).collect();
    let started = std::time::Instant::now();
    let answers = send_with(&authority.client(), "", &store(&[]), limits, requests).await;
    assert!(answers.iter().all(|answer| answer.as_ref().is_err_and(|failure| failure.code == FailureCode::Timeout)));
    assert!(
        started.elapsed() < Duration::from_secs(3),
        "one request alone, then all others together: {:?}",
        started.elapsed()
    );
}

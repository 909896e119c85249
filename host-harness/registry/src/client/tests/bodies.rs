//! Tests answers that are too large, too slow or compressed, and how valid bodies are read.

use std::time::Instant;

use flate2::Compression;
use flate2::write::GzEncoder;
use imagewatch_abi::Digest;
use reqwest::header::HeaderValue;

use super::*;

fn reading(read: ReadBody, url: String) -> HttpRequest {
    HttpRequest { read, ..get(url) }
}

#[tokio::test]
async fn an_oversized_requested_header_is_refused() {
    let server = MockServer::start().await;
    answers(&server, ResponseTemplate::new(200).append_header("link", "x".repeat(8 * 1024 + 1))).await;
    let failure = one(HttpRequest { response_headers: vec!["link".to_owned()], ..get(server.uri()) })
        .await
        .expect_err("too large");
    assert_eq!(failure.code, FailureCode::TooLarge);
    assert!(failure.message.contains("header link"), "{}", failure.message);
}

#[tokio::test]
async fn a_body_is_read_up_to_exactly_the_limit() {
    for (size, is_read) in [(64 * 1024, true), (64 * 1024 + 1, false)] {
        let server = MockServer::start().await;
        answers(&server, ResponseTemplate::new(200).set_body_string("x".repeat(size))).await;
        let answer = one(get(server.uri())).await;
        assert_eq!(answer.map(|answer| answer.body.len()).ok(), is_read.then_some(size), "{size}");
    }
}

#[tokio::test]
async fn an_oversized_body_is_refused_with_host_and_limit() {
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
async fn documents_and_hashed_bodies_may_have_4_mib() {
    const LIMIT: usize = 4 * 1024 * 1024;
    for (read, size, is_read) in [
        (ReadBody::Document, LIMIT, true),
        (ReadBody::Document, LIMIT + 1, false),
        (ReadBody::Digest, LIMIT, true),
        (ReadBody::Digest, LIMIT + 1, false),
    ] {
        let server = MockServer::start().await;
        answers(&server, ResponseTemplate::new(200).set_body_bytes(vec![b'x'; size])).await;
        let answer = one(reading(read, server.uri())).await;
        assert_eq!(answer.as_ref().err().map(|failure| failure.code), (!is_read).then_some(FailureCode::TooLarge));
        let text = answer.map(|answer| answer.body.len()).ok();
        let expected = if read == ReadBody::Document { size } else { 0 };
        assert_eq!(text, is_read.then_some(expected), "{read:?} {size}");
    }
}

#[tokio::test]
async fn a_body_is_hashed_unchanged_and_an_error_body_is_read() {
    let server = MockServer::start().await;
    let manifest = ResponseTemplate::new(200).set_body_bytes(b"{\"schemaVersion\": 2}\xff".to_vec());
    Mock::given(path("/there")).respond_with(manifest).mount(&server).await;
    Mock::given(path("/gone")).respond_with(ResponseTemplate::new(404).set_body_string("gone")).mount(&server).await;
    let requests = ["there", "gone"].map(|name| reading(ReadBody::Digest, format!("{}/{name}", server.uri())));
    let [there, gone] = &send(requests.to_vec()).await[..] else { panic!("two answers") };
    let there = there.as_ref().expect("an answer");
    // printf '{"schemaVersion": 2}\xff' | sha256sum
    let digest = "sha256:0e6ff33c5cabb451d452f7826f03d01b70f797576ebd1e935f288b1910b17262";
    assert_eq!(there.body_digest.as_ref().map(Digest::as_str), Some(digest));
    assert_eq!(there.body, "");
    let gone = gone.as_ref().expect("an answer");
    assert_eq!((gone.status, gone.body.as_str(), gone.body_digest.as_ref()), (404, "gone", None));
}

#[tokio::test]
async fn an_oversized_head_is_refused() {
    for (count, is_read) in [(8, true), (9, false)] {
        let server = MockServer::start().await;
        let large = (0..count)
            .fold(ResponseTemplate::new(200), |response, n| response.append_header(format!("x-{n}"), "x".repeat(8000)));
        answers(&server, large).await;
        let answer = one(get(server.uri())).await;
        assert_eq!(answer.as_ref().err().map(|failure| failure.code), (!is_read).then_some(FailureCode::TooLarge));
    }
}

/// 64 MiB of zeros, compressed to about 64 KiB.
fn bomb() -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
    let zeros = vec![0; 1024 * 1024];
    for _ in 0..64 {
        std::io::Write::write_all(&mut encoder, &zeros).expect("into memory");
    }
    encoder.finish().expect("into memory")
}

#[tokio::test]
async fn a_compressed_body_is_not_requested_and_not_accepted() {
    let server = MockServer::start().await;
    let bomb = bomb();
    assert!(bomb.len() < 70 * 1024, "{}", bomb.len());
    answers(&server, ResponseTemplate::new(200).append_header("content-encoding", "gzip").set_body_bytes(bomb)).await;
    for read in [ReadBody::Text, ReadBody::Document, ReadBody::Digest] {
        let failure = one(reading(read, server.uri())).await.expect_err("compressed");
        assert_eq!(failure.code, FailureCode::BadAnswer, "{read:?}");
        assert!(failure.message.contains("\"gzip\""), "{failure}");
    }
    let sent = &server.received_requests().await.expect("recording is on")[0];
    assert_eq!(sent.headers.get("accept-encoding").map(HeaderValue::as_bytes), Some(b"identity".as_slice()));
    let head = request(Method::Head, server.uri());
    assert_eq!(one(head).await.map(|answer| answer.status), Ok(200), "an answer to HEAD has no body");
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
        let answer = send_with(&client(), "", &store(&[]), limits, requests).await.remove(0);
        let failure = answer.expect_err("no answer");
        assert_eq!((failure.code, failure.retryable), (FailureCode::Timeout, true));
        assert_eq!(failure.message, format!("no answer from {address} within 300 ms"));
        assert!(started.elapsed() < Duration::from_secs(5));
    }
}

#[tokio::test]
async fn a_slow_steady_body_hits_the_deadline() {
    let address = bare_server(|mut stream| async move {
        read_head(&mut stream).await;
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 10000\r\n\r\n").await;
        while stream.write_all(b"x").await.is_ok() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
    let limits = HttpLimits { deadline: Duration::from_millis(300), ..HttpLimits::default() };
    let started = Instant::now();
    let requests = vec![get(format!("http://{address}/"))];
    let failure = send_with(&client(), "", &store(&[]), limits, requests).await.remove(0).expect_err("never complete");
    assert_eq!(failure.code, FailureCode::Timeout);
    assert!(started.elapsed() < Duration::from_secs(5), "{:?}", started.elapsed());
}

#[tokio::test]
async fn only_answers_beyond_the_batch_budget_are_dropped() {
    let server = MockServer::start().await;
    answers(&server, ResponseTemplate::new(200).set_body_string("\u{1}".repeat(300))).await;
    let text = || get(api(&server));
    let hashed = HttpRequest { read: ReadBody::Digest, ..text() };
    let limits = HttpLimits { batch_bytes: 4_000, connections_per_host: 1, ..HttpLimits::default() };
    // Each body has 1800 bytes as JSON. A hashed body is not counted.
    let sent = send_with(&client(), "", &store(&[]), limits, vec![text(), text(), hashed, text()]).await;
    let failures: Vec<Option<&Failure>> = sent.iter().map(|answer| answer.as_ref().err()).collect();
    let [None, None, None, Some(failure)] = failures[..] else { panic!("{failures:?}") };
    assert_eq!(failure.code, FailureCode::TooLarge);
    assert!(failure.message.contains("`host.max_host_bytes`"), "{failure}");
}

#[tokio::test]
async fn a_late_answer_does_not_affect_other_answers() {
    let server = MockServer::start().await;
    let slow = ResponseTemplate::new(200).set_delay(PATIENCE);
    Mock::given(path("/slow")).respond_with(slow).mount(&server).await;
    Mock::given(path("/v2/")).respond_with(ResponseTemplate::new(200)).mount(&server).await;
    let requests = vec![get(format!("{}/slow", server.uri())), get(api(&server))];
    let limits = HttpLimits { batch_deadline: Duration::from_secs(2), ..HttpLimits::default() };
    let sent = send_with(&client(), "", &store(&[]), limits, requests).await;
    let failure = sent[0].as_ref().expect_err("it is slow");
    assert!(failure.code == FailureCode::Timeout && failure.message.contains("`host.http_send_timeout`"), "{failure}");
    assert!(sent[1].is_ok());
}

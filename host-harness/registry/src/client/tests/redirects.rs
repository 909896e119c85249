//! Tests where a redirect may lead, and which headers and credentials are sent to its target.

use reqwest::header::HeaderValue;

use super::*;

/// Two registries over plain http with different names.
struct Two {
    one: MockServer,
    other: MockServer,
}

impl Two {
    async fn start() -> Self {
        let two = Self { one: MockServer::start().await, other: MockServer::start().await };
        answers(&two.other, ResponseTemplate::new(200).append_header("docker-content-digest", "sha256:x")).await;
        two
    }

    fn names(&self) -> (String, String) {
        let port = |server: &MockServer| server.address().port();
        (format!("one.test:{}", port(&self.one)), format!("other.test:{}", port(&self.other)))
    }

    /// Sends `request` while `one` redirects to `to`. Both registries may be contacted by plain http. `named` contains
    /// the entries of `allowed_hosts`.
    async fn follow(&self, to: &str, named: &str, request: HttpRequest) -> Result<HttpResponse, Failure> {
        self.one.reset().await;
        answers(&self.one, ResponseTemplate::new(307).append_header("location", to)).await;
        let (one, other) = self.names();
        ask(&client(), &rules(named, &format!("{one} {other}"), ""), request).await
    }
}

fn head(url: String) -> HttpRequest {
    let headers = [("accept", "text/x"), ("authorization", "Bearer t0k"), ("x-else", "y")];
    HttpRequest {
        headers: headers.map(|(name, value)| (name.to_owned(), value.to_owned())).to_vec(),
        response_headers: vec!["docker-content-digest".to_owned()],
        ..request(Method::Head, url)
    }
}

#[tokio::test]
async fn a_redirect_of_a_possible_token_request_is_not_followed() {
    let server = MockServer::start().await;
    answers(&server, ResponseTemplate::new(307).append_header("location", "/elsewhere")).await;
    let answer = one(get(format!("{}/here", server.uri()))).await.expect("a redirect is an answer");
    assert_eq!(answer.status, 307);
    assert_eq!(server.received_requests().await.expect("recording is on").len(), 1);
}

#[tokio::test]
async fn a_redirect_from_a_realm_is_never_followed() {
    let server = MockServer::start().await;
    answers(&server, ResponseTemplate::new(307).append_header("location", "/elsewhere")).await;
    let name = server.address().to_string();
    let stored = store(&[("IMAGEWATCH_CREDENTIAL_A", "127.0.0.1:1=me:pw".to_owned())]);
    let realms = format!("127.0.0.1:1={name}");
    let document = HttpRequest { read: ReadBody::Document, ..naming("127.0.0.1:1", server.uri()) };
    let requests = vec![document, HttpRequest { method: Method::Post, ..naming("127.0.0.1:1", server.uri()) }];
    let client = client_told("127.0.0.1:1", &server.uri());
    for answer in send_with(&client, &realms, &stored, HttpLimits::default(), requests).await {
        assert_eq!(answer.expect("a redirect is an answer").status, 307);
    }
    assert_eq!(seen(&server).await.iter().filter(|line| line.ends_with("/elsewhere")).count(), 0);
}

/// Field report F05: the guest learns which host sent the challenge.
#[tokio::test]
async fn f05_an_answer_after_a_redirect_names_the_answering_host() {
    let two = Two::start().await;
    let (one, other) = two.names();
    two.other.reset().await;
    let challenge =
        ResponseTemplate::new(401).append_header("www-authenticate", "Bearer realm=\"http://other.test/t\"");
    answers(&two.other, challenge).await;
    let to = format!("http://{other}/v2/a/manifests/b");
    let answer = two.follow(&to, &format!("{one} {other}"), head(format!("http://{one}/v2/a/manifests/b"))).await;
    assert_eq!(answer.map(|answer| (answer.status, answer.answered_by)), Ok((401, Some(other))));
}

#[tokio::test]
async fn f05_an_answer_from_the_requested_host_names_no_other_host() {
    let server = MockServer::start().await;
    let to = ResponseTemplate::new(307).append_header("location", "/there");
    Mock::given(path("/v2/a/manifests/here")).respond_with(to).mount(&server).await;
    Mock::given(path("/there")).respond_with(ResponseTemplate::new(200)).mount(&server).await;
    let answer = one(HttpRequest { method: Method::Head, ..get(format!("{}a/manifests/here", api(&server))) }).await;
    assert_eq!(answer.map(|answer| (answer.status, answer.answered_by)), Ok((200, None)));
}

#[tokio::test]
async fn a_redirect_to_the_same_origin_keeps_headers_and_credential() {
    let server = MockServer::start().await;
    let to = ResponseTemplate::new(301).append_header("location", "/there?n=1");
    Mock::given(path("/v2/a/manifests/here")).respond_with(to).mount(&server).await;
    Mock::given(path("/there")).respond_with(ResponseTemplate::new(200)).mount(&server).await;
    let name = server.address().to_string();
    let stored = store(&[("IMAGEWATCH_CREDENTIAL_A", format!("{name}=me:pw"))]);
    let here = format!("{}a/manifests/here", api(&server));
    let requests = vec![HttpRequest { method: Method::Head, ..naming(&name, here) }];
    let answer = send_with(&client(), "", &stored, HttpLimits::default(), requests).await.remove(0);
    assert_eq!(answer.map(|answer| (answer.status, answer.authenticated)), Ok((200, true)));
    let basic = Some("Basic bWU6cHc=".to_owned());
    assert_eq!(authorizations(&server).await, [basic.clone(), basic]);
}

#[tokio::test]
async fn a_redirect_to_another_origin_keeps_only_the_accept_header() {
    let two = Two::start().await;
    let (one, other) = two.names();
    let to = format!("http://{other}/blob?sig=x");
    let answer = two.follow(&to, &format!("{one} {other}"), head(format!("http://{one}/v2/"))).await.expect("followed");
    assert_eq!(answer.header("docker-content-digest"), Some("sha256:x"));
    assert_eq!(authorizations(&two.one).await, [Some("Bearer t0k".to_owned())]);
    let [sent] = &two.other.received_requests().await.expect("recording is on")[..] else { panic!("one request") };
    assert_eq!(sent.headers.get("accept").map(HeaderValue::as_bytes), Some(b"text/x".as_slice()));
    assert!(sent.headers.get("authorization").is_none() && sent.headers.get("x-else").is_none(), "{sent:?}");
}

#[tokio::test]
async fn a_redirect_back_to_the_registry_gets_no_credential() {
    let two = Two::start().await;
    let (one, other) = two.names();
    two.other.reset().await;
    let back = format!("http://{one}/back");
    answers(&two.other, ResponseTemplate::new(307).append_header("location", back.as_str())).await;
    Mock::given(path("/back")).respond_with(ResponseTemplate::new(200)).with_priority(1).mount(&two.one).await;
    let to = format!("http://{other}/");
    answers(&two.one, ResponseTemplate::new(307).append_header("location", to.as_str())).await;
    let rules = rules(&format!("{one} {other}"), &format!("{one} {other}"), "");
    let stored = store(&[("IMAGEWATCH_CREDENTIAL_A", format!("{one}=me:s3cret"))]);
    let request = HttpRequest { method: Method::Head, ..naming(&one, format!("http://{one}/v2/")) };
    let answer = send_by(&client(), &rules, &stored, HttpLimits::default(), vec![request]).await.remove(0);
    assert_eq!(answer.map(|answer| answer.status), Ok(200));
    assert_eq!(authorizations(&two.one).await, [Some("Basic bWU6czNjcmV0".to_owned()), None]);
    assert_eq!(authorizations(&two.other).await, [None]);
}

#[tokio::test]
async fn a_forbidden_redirect_is_refused_with_its_key_and_not_sent() {
    let two = Two::start().await;
    let (one, other) = two.names();
    for (name, to, named, says) in [
        ("metadata", "http://169.254.169.254/latest/meta-data/", one.clone(), "host.insecure_registries"),
        ("metadata by tls", "https://169.254.169.254/", one.clone(), "a link-local address"),
        ("a private address", "https://10.0.0.1/", one.clone(), "allowed_hosts"),
        ("a name that resolves to loopback", &format!("http://{other}/"), one.clone(), "allowed_hosts"),
        (
            "a name that resolves to loopback, under a wildcard",
            &format!("http://{other}/"),
            "*".to_owned(),
            "a loopback address",
        ),
        ("localhost", "https://localhost/", one.clone(), "allowed_hosts"),
        ("another scheme", "file:///etc/passwd", one.clone(), "https only"),
        ("a user name", "https://me:pw@ghcr.io/", one.clone(), "user name"),
        ("a fragment", "/x#y", one.clone(), "fragment"),
        ("an invalid url", "https://", one.clone(), "malformed"),
    ] {
        let failure = two.follow(to, &named, head(format!("http://{one}/v2/?q=hidden"))).await.expect_err(name);
        assert_eq!(failure.code, FailureCode::Denied, "{name}: {failure}");
        assert!(failure.message.contains(says), "{name}: {failure}");
        assert!(!failure.message.contains("hidden") && !failure.message.contains("t0k"), "{name}: {failure}");
    }
    assert_eq!(seen(&two.other).await, Vec::<String>::new());
}

#[tokio::test]
async fn at_most_five_redirects_are_followed() {
    for (name, hops, is_loop) in [("five", 5, false), ("six", 6, false), ("a loop", 2, true)] {
        let server = MockServer::start().await;
        for n in 0..hops {
            let next = if is_loop { (n + 1) % hops } else { n + 1 };
            let to = ResponseTemplate::new(302).append_header("location", format!("/{next}"));
            Mock::given(path(format!("/{n}"))).respond_with(to).mount(&server).await;
        }
        answers(&server, ResponseTemplate::new(200)).await;
        match one(request(Method::Head, format!("{}/0", server.uri()))).await {
            Ok(answer) => assert_eq!((name, answer.status), ("five", 200)),
            Err(failure) => {
                assert!(name != "five" && failure.code == FailureCode::BadAnswer, "{name}: {failure}");
                assert!(failure.message.contains("redirects more than 5 times"), "{name}: {failure}");
            }
        }
        assert_eq!(seen(&server).await.len(), 6, "{name}");
    }
}

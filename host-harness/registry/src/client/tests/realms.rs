//! Tests which token realms may receive which requests, and which addresses their names may resolve to.

use super::tls::{Authority, tls_server};
use super::*;

/// Starts a registry over plain http that names `realm`. Returns the server and its host.
async fn registry_naming(realm: &str) -> (MockServer, String) {
    let server = MockServer::start().await;
    let challenge = format!("Bearer realm=\"{realm}\",service=\"r\"");
    answers(&server, ResponseTemplate::new(401).append_header("www-authenticate", challenge)).await;
    let host = format!("r.test:{}", server.address().port());
    (server, host)
}

/// A realm on this machine with a trusted certificate, and a registry that names it.
struct Named {
    authority: Authority,
    realm: String,
    url: String,
    registry: String,
    _server: MockServer,
}

impl Named {
    async fn at(name: &str) -> Self {
        let authority = Authority::new();
        let realm = format!("{name}:{}", tls_server(authority.acceptor(name, &[], false)).await);
        authority.trust(&realm);
        let url = format!("https://{realm}/token");
        let (server, registry) = registry_naming(&url).await;
        Self { authority, realm, url, registry, _server: server }
    }
}

fn anonymous(registry: &str, url: String) -> HttpRequest {
    HttpRequest { allow_anonymous: true, ..naming(registry, url) }
}

#[tokio::test]
async fn a_realm_is_contacted_only_if_it_is_named_and_public() {
    let Named { authority, realm, url, registry, .. } = &Named::at("auth.test").await;
    let client = authority.client();
    let only_registry = rules(registry, registry, "");
    let failure = ask(&client, &only_registry, anonymous(registry, url.clone())).await.expect_err("not named yet");
    assert!(failure.message.contains(&format!("add {registry}={realm} to host.auth_realms")), "{failure}");
    assert_eq!(ask(&client, &only_registry, get(format!("http://{registry}/v2/"))).await.expect("a 401").status, 401);
    for request in [anonymous(registry, url.clone()), get(url.clone())] {
        let failure = ask(&client, &only_registry, request).await.expect_err("auth.test is this machine");
        assert_eq!((failure.code, failure.retryable), (FailureCode::Denied, false));
        assert!(failure.message.contains("auth.test is at 127.0.0.1, a loopback address"), "{failure}");
        assert!(failure.message.contains("host.auth_realms"), "{failure}");
    }
    // The registry that named the realm is not among the allowed hosts of these rules.
    let failure = ask(&client, &rules("other.test", "", ""), get(url.clone())).await.expect_err("not its registry's");
    assert!(failure.message.contains("allowed_hosts"), "{failure}");
    let configured = rules(registry, registry, &format!("{registry}={realm}"));
    for request in [anonymous(registry, url.clone()), get(url.clone())] {
        assert_eq!(ask(&client, &configured, request).await.map(|answer| answer.status), Ok(200));
    }
}

#[tokio::test]
async fn a_wildcard_does_not_let_a_registry_lead_to_a_private_address() {
    let Named { authority, realm: internal, url, registry, .. } = &Named::at("internal.test").await;
    let (client, everything) = (authority.client(), rules("*", registry, ""));
    // A direct request is allowed, because self-hosted registries have private addresses. The connections that are now
    // open must not change the results below.
    assert!(ask(&client, &everything, get(format!("https://{internal}/v2/"))).await.is_ok());
    assert!(ask(&client, &everything, get(format!("http://{registry}/v2/"))).await.is_ok());
    for request in [anonymous(registry, url.clone()), get(url.clone())] {
        let failure = ask(&client, &everything, request).await.expect_err("a registry chose it");
        assert_eq!(failure.code, FailureCode::Denied);
        assert!(failure.message.contains("a loopback address"), "{failure}");
    }
    let manifest = HttpRequest { method: Method::Head, ..get(format!("https://{internal}/v2/a/manifests/b")) };
    assert!(ask(&client, &everything, manifest).await.is_ok(), "the host is still allowed as a registry");
}

#[tokio::test]
async fn a_stored_credential_is_never_sent_to_an_unbound_realm() {
    let Named { authority, realm, url, registry, .. } = &Named::at("auth.test").await;
    let client = authority.client();
    let stored = store(&[("IMAGEWATCH_CREDENTIAL_A", format!("{registry}=me:s3cret"))]);
    let rules = rules(&format!("{registry} {realm}"), registry, "");
    let requests = vec![get(format!("http://{registry}/v2/"))];
    send_by(&client, &rules, &stored, HttpLimits::default(), requests).await;
    for request in [naming(registry, url.clone()), anonymous(registry, url.clone())] {
        let answer = send_by(&client, &rules, &stored, HttpLimits::default(), vec![request]).await.remove(0);
        let failure = answer.expect_err("not bound");
        assert!(failure.message.contains(&format!("add {registry}={realm} to host.auth_realms")), "{failure}");
    }
    assert_eq!(client.requests_sent().get(realm), None);
    let answer = send_by(&client, &rules, &stored, HttpLimits::default(), vec![get(url.clone())]).await.remove(0);
    assert!(!answer.expect("an anonymous request is allowed").authenticated);
}

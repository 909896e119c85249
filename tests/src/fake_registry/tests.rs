//! Tests what a client sees of the registry, and what the registry counts.

use std::time::Instant;

use reqwest::{Client, Version};

use super::*;
use crate::http_client::client_builder;
use crate::image::sha256;
use crate::wait::wait_for;

const PLAIN: FakeRegistrySettings =
    FakeRegistrySettings { repositories: 3, latency: Duration::ZERO, has_tokens: false, has_tls: false };

fn client_of(registry: &FakeRegistry) -> Client {
    client_builder(registry.ca_pem()).build().expect("the client builds")
}

#[tokio::test]
async fn manifests_are_answered_by_tag_and_by_their_digest() {
    for (has_tls, version) in [(false, Version::HTTP_11), (true, Version::HTTP_2)] {
        let registry = FakeRegistry::start(FakeRegistrySettings { has_tls, ..PLAIN });
        let (client, url) = (client_of(&registry), registry.manifest_url(1));
        let head = client.head(&url).send().await.expect("the registry answers");
        assert_eq!((head.status().as_u16(), head.version()), (200, version));
        assert_eq!(head.headers()["docker-content-digest"], registry.digest(1));
        let by_digest = url.replace(TAG, registry.digest(1));
        let body =
            client.get(&by_digest).send().await.expect("the registry answers").bytes().await.expect("the body arrives");
        assert_eq!(sha256(&body).to_string(), registry.digest(1));
        assert_eq!(head.headers()["content-length"], body.len().to_string());
        let missing = client.get(registry.manifest_url(3)).send().await.expect("the registry answers");
        assert_eq!(missing.status().as_u16(), 404, "the fourth repository does not exist");
        assert_ne!(registry.digest(0), registry.digest(1));
        assert_eq!(registry.counts(), Counts { heads: 1, gets: 2, connections: 1, ..Counts::default() });
    }
}

#[tokio::test]
async fn a_token_grants_only_the_requested_scopes() {
    let registry = FakeRegistry::start(FakeRegistrySettings { repositories: 4, has_tokens: true, ..PLAIN });
    let client = client_of(&registry);
    let refused = client.head(registry.manifest_url(0)).send().await.expect("the registry answers");
    let realm = format!("http://{}/token", registry.host());
    let challenge =
        format!("Bearer realm=\"{realm}\",service=\"fake.registry\",scope=\"repository:fake/app-00000:pull\"");
    assert_eq!(
        (refused.status().as_u16(), &refused.headers()["www-authenticate"]),
        (401, &challenge.parse().expect("the header is valid"))
    );

    let query =
        "scope=repository:fake/app-00000:pull+repository:fake/app-00001:pull&scope=repository:fake/app-00002:pull";
    let answer = client
        .get(format!("{realm}?{query}"))
        .send()
        .await
        .expect("the registry answers")
        .text()
        .await
        .expect("the body arrives");
    let answer: serde_json::Value = serde_json::from_str(&answer).expect("the answer is JSON");
    let token = answer["token"].as_str().expect("the answer has a token");
    let mut statuses = Vec::new();
    for index in 0..4 {
        let asked =
            client.head(registry.manifest_url(index)).bearer_auth(token).send().await.expect("the registry answers");
        statuses.push(asked.status().as_u16());
    }
    assert_eq!(statuses, [200, 200, 200, 401]);
    let all = client
        .head(registry.manifest_url(3))
        .bearer_auth(registry.issue_token())
        .send()
        .await
        .expect("the registry answers");
    assert_eq!(all.status().as_u16(), 200);
    assert_eq!(registry.counts(), Counts { heads: 6, tokens: 1, refused: 2, connections: 1, ..Counts::default() });
}

#[tokio::test]
async fn a_client_without_the_authority_cannot_connect() {
    let registry = FakeRegistry::start(FakeRegistrySettings { has_tls: true, ..PLAIN });
    let stranger = FakeRegistry::start(FakeRegistrySettings { has_tls: true, ..PLAIN });
    let error = client_of(&stranger)
        .head(registry.manifest_url(0))
        .send()
        .await
        .expect_err("a certificate from another authority");
    assert!(error.is_connect(), "{error:?}");
    assert_eq!(registry.counts().requests(), 0);
}

#[tokio::test]
async fn connections_are_counted_while_they_are_open() {
    let registry = FakeRegistry::start(PLAIN);
    let clients = [client_of(&registry), client_of(&registry)];
    for client in &clients {
        client.head(registry.manifest_url(0)).send().await.expect("the registry answers");
    }
    assert_eq!((registry.open_connections(), registry.take_most_open()), (2, 2));
    drop(clients);
    wait_for("both connections to be closed", Duration::from_secs(10), || async {
        let open = registry.open_connections();
        if open == 0 { Ok(()) } else { Err(open) }
    })
    .await;
    assert_eq!((registry.take_most_open(), registry.take_most_open()), (2, 0));
    assert_eq!(registry.counts().connections, 2);
}

#[tokio::test]
async fn every_answer_has_the_configured_latency() {
    let latency = Duration::from_millis(80);
    let registry = FakeRegistry::start(FakeRegistrySettings { latency, ..PLAIN });
    let start = Instant::now();
    client_of(&registry).head(registry.manifest_url(0)).send().await.expect("the registry answers");
    assert!(start.elapsed() >= latency, "{:?}", start.elapsed());
}

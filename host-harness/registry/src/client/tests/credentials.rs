//! Tests how credentials are attached, and which ones are never sent.

use super::*;

#[tokio::test]
async fn a_stored_credential_goes_only_to_its_registry_and_bound_realm() {
    let [registry, realm, other] = [MockServer::start().await, MockServer::start().await, MockServer::start().await];
    for server in [&registry, &realm, &other] {
        answers(server, ResponseTemplate::new(200)).await;
    }
    let name = registry.address().to_string();
    let stored = store(&[("IMAGEWATCH_CREDENTIAL_A", format!("{name}=me:s3cret:pw"))]);
    let own_token = HttpRequest {
        headers: vec![("authorization".to_owned(), "Bearer t".to_owned())],
        ..naming(&name, api(&registry))
    };
    let requests = vec![
        naming(&name, api(&registry)),
        get(registry.uri()),
        own_token,
        naming(&name, realm.uri()),
        naming(&name, other.uri()),
        get(other.uri()),
    ];
    let realms = format!("{name}={}", realm.address());
    // One request at a time, so that the server records them in order.
    let client = client_told(&name, &realm.uri());
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
async fn a_missing_credential_fails_unless_anonymous_is_allowed() {
    let [registry, realm] = [MockServer::start().await, MockServer::start().await];
    answers(&realm, ResponseTemplate::new(200)).await;
    let name = registry.address().to_string();
    let realms = format!("{name}={}", realm.address());
    let anonymous = |url| HttpRequest { allow_anonymous: true, ..naming(&name, url) };
    let requests = vec![naming(&name, api(&registry)), anonymous(realm.uri())];
    let client = client_told(&name, &realm.uri());
    let mut answers = send_with(&client, &realms, &store(&[]), HttpLimits::default(), requests).await.into_iter();
    let failure = answers.next().expect("two answers").expect_err("nothing is stored");
    assert_eq!(failure.code, FailureCode::NoCredential);
    assert!(failure.message.contains(&name) && failure.message.contains("IMAGEWATCH_CREDENTIAL_"), "{failure}");
    assert!(!answers.next().expect("two answers").expect("anonymous").authenticated);
    assert_eq!(authorizations(&registry).await, []);
    assert_eq!(authorizations(&realm).await, [None]);
    assert_eq!(client.requests_sent(), BTreeMap::from([(realm.address().to_string(), 1)]));
}

fn post(credential: &str, url: String) -> HttpRequest {
    let form = [("grant_type", "refresh_token"), ("scope", "repository:o/a:pull")];
    let form = form.map(|(name, value)| (name.to_owned(), value.to_owned())).to_vec();
    HttpRequest { credential: Some(credential.to_owned()), form, ..request(Method::Post, url) }
}

async fn forms(server: &MockServer) -> Vec<(String, Option<String>)> {
    let requests = server.received_requests().await.expect("recording is on");
    let bodies = requests.iter().map(|request| String::from_utf8_lossy(&request.body).into_owned());
    bodies.zip(authorizations(server).await).collect()
}

#[tokio::test]
async fn a_form_goes_to_the_realm_with_the_credential() {
    let realm = MockServer::start().await;
    answers(&realm, ResponseTemplate::new(200)).await;
    let realms = format!("127.0.0.1:1={}", realm.address());
    for login in ["<token>:a+b=c&d", "me:s3cret:pw"] {
        let stored = store(&[("IMAGEWATCH_CREDENTIAL_A", format!("127.0.0.1:1={login}"))]);
        let request = post("127.0.0.1:1", format!("{}/token", realm.uri()));
        let client = client_told("127.0.0.1:1", &format!("{}/token", realm.uri()));
        let answer = send_with(&client, &realms, &stored, HttpLimits::default(), vec![request]).await.remove(0);
        assert_eq!(answer.map(|answer| (answer.status, answer.authenticated)), Ok((200, true)));
    }
    let fields = "grant_type=refresh_token&scope=repository%3Ao%2Fa%3Apull".to_owned();
    assert_eq!(
        forms(&realm).await,
        [(format!("{fields}&refresh_token=a%2Bb%3Dc%26d"), None), (fields, Some("Basic bWU6czNjcmV0OnB3".to_owned())),]
    );
    let types = realm.received_requests().await.expect("recording is on");
    assert!(types.iter().all(|request| request.headers["content-type"] == "application/x-www-form-urlencoded"));
}

#[tokio::test]
async fn a_form_goes_to_no_other_host() {
    let [registry, other] = [MockServer::start().await, MockServer::start().await];
    let name = registry.address().to_string();
    let stored = store(&[("IMAGEWATCH_CREDENTIAL_A", format!("{name}=me:pw"))]);
    let anonymous = HttpRequest { allow_anonymous: true, ..post(&name, other.uri()) };
    let with_bearer = HttpRequest {
        headers: vec![("authorization".to_owned(), "Bearer t".to_owned())],
        ..post(&name, registry.uri())
    };
    let secret = vec![("refresh_token".to_owned(), "x".to_owned())];
    let requests = vec![
        post(&name, other.uri()),
        anonymous,
        HttpRequest { credential: None, ..post(&name, other.uri()) },
        with_bearer,
        HttpRequest { form: secret.clone(), ..post(&name, registry.uri()) },
        HttpRequest { form: secret, ..get(registry.uri()) },
    ];
    let answers = send_with(&client(), "", &stored, HttpLimits::default(), requests).await;
    for (answer, says) in answers.into_iter().zip([
        "host.auth_realms",
        "host.auth_realms",
        "host.auth_realms",
        "host.auth_realms",
        "form field refresh_token",
        "must be sent with POST",
    ]) {
        let failure = answer.expect_err("no form goes there");
        assert_eq!(failure.code, FailureCode::Denied, "{failure}");
        assert!(failure.message.contains(says), "{failure}");
    }
    assert_eq!((seen(&registry).await, seen(&other).await), (vec![], vec![]));
}

#[tokio::test]
async fn a_rejected_credential_is_not_sent_again_and_a_new_one_is() {
    let registry = MockServer::start().await;
    answers(&registry, ResponseTemplate::new(401)).await;
    let name = registry.address().to_string();
    let with = |password: &str| store(&[("IMAGEWATCH_CREDENTIAL_A", format!("{name}=me:{password}"))]);
    let client = client();
    let asking = |rejected: Option<&str>, password: &str| {
        let rejected_credential_id = rejected.map(str::to_owned);
        let request = HttpRequest { rejected_credential_id, ..naming(&name, api(&registry)) };
        let (client, stored) = (&client, with(password));
        async move { send_with(client, "", &stored, HttpLimits::default(), vec![request]).await.remove(0) }
    };
    let refused = asking(None, "old").await.expect("a 401 is an answer").credential_id.expect("one was attached");
    let failure = asking(Some(&refused), "old").await.expect_err("not again");
    assert_eq!((failure.code, failure.retryable), (FailureCode::Rejected, false));
    assert!(failure.message.contains(&name), "{failure}");
    let other = asking(Some(&refused), "new").await.expect("another one").credential_id;
    assert!(other.is_some_and(|id| id != refused));
    assert_eq!(seen(&registry).await.len(), 2);
    let anonymous = one(get(registry.uri())).await.expect("an answer");
    assert_eq!((anonymous.credential_id, anonymous.authenticated), (None, false));
}

/// A store with these `auths` of a Docker configuration.
fn configured(auths: &str) -> CredentialStore {
    store(&[("DOCKER_AUTH_CONFIG", format!("{{\"auths\": {{{auths}}}}}"))])
}

#[tokio::test]
async fn an_unsuitable_credential_is_reported_and_not_sent() {
    let [registry, realm] = [MockServer::start().await, MockServer::start().await];
    let name = registry.address().to_string();
    let realms = format!("{name}={}", realm.address());
    let basic = r#"{"auth": "bWU6czNjcmV0"}"#;
    let identity = configured(&format!(r#""{name}": {{"identitytoken": "s3cret"}}"#));
    let ready = configured(&format!(r#""{name}": {{"registrytoken": "s3cret"}}"#));
    let by_repository = configured(&format!(r#""{name}/o/a": {basic}"#));
    for (what, stored, request, code) in [
        ("an identity token by GET", &identity, naming(&name, realm.uri()), FailureCode::IdentityToken),
        ("an identity token to the registry", &identity, naming(&name, api(&registry)), FailureCode::IdentityToken),
        ("a registry token to a realm", &ready, naming(&name, realm.uri()), FailureCode::NoCredential),
        ("no repository", &by_repository, naming(&name, api(&registry)), FailureCode::PerRepository),
        (
            "another repository",
            &by_repository,
            naming(&format!("{name}/o/b"), api(&registry)),
            FailureCode::NoCredential,
        ),
    ] {
        let client = client_told(&name, &realm.uri());
        let answer = send_with(&client, &realms, stored, HttpLimits::default(), vec![request]).await.remove(0);
        let failure = answer.expect_err(what);
        assert_eq!(failure.code, code, "{what}: {failure}");
        assert!(failure.message.contains(&name) && !failure.message.contains("s3cret"), "{what}: {failure}");
    }
    assert_eq!((seen(&registry).await, seen(&realm).await), (vec![], vec![]));
    answers(&registry, ResponseTemplate::new(200)).await;
    for (stored, named) in [(&by_repository, format!("{name}/o/a")), (&ready, name.clone())] {
        let request = naming(&named, api(&registry));
        let answer = send_with(&client(), &realms, stored, HttpLimits::default(), vec![request]).await.remove(0);
        assert!(answer.expect("an answer").authenticated, "{named}");
    }
    let [basic, ready] = ["Basic bWU6czNjcmV0", "Bearer s3cret"].map(|value| Some(value.to_owned()));
    assert_eq!(authorizations(&registry).await, [basic, ready]);
}

#[tokio::test]
async fn a_refresh_token_is_removed_from_the_answer() {
    let realm = MockServer::start().await;
    let text = r#"{"token":"t","refresh_token":"r3fresh"}"#;
    answers(&realm, ResponseTemplate::new(200).set_body_string(text)).await;
    let name = realm.address().to_string();
    let stored = store(&[("IMAGEWATCH_CREDENTIAL_A", format!("{name}=me:pw"))]);
    let client = client_told(&name, &format!("{}/token", realm.uri()));
    let request = naming(&name, format!("{}/token", realm.uri()));
    let answer =
        send_with(&client, "", &stored, HttpLimits::default(), vec![request]).await.remove(0).expect("a token");
    assert_eq!((answer.authenticated, answer.body.as_str()), (true, r#"{"token":"t"}"#));
}

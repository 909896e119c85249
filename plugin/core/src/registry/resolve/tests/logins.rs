//! Logins: sent once when they are wrong, done without where anybody may read.

use super::*;

fn refusal(code: FailureCode) -> Answer<HttpResponse> {
    Answer::Err(Failure::lasting(code, "refused by the host"))
}

#[any_test]
fn a_wrong_password_is_sent_once_and_not_again_until_it_changes() {
    let mut password_id = "id-1";
    let mut cache = Cache::default();
    for (call, (id, is_good)) in [("id-1", false), ("id-1", false), ("id-2", true)].into_iter().enumerate() {
        password_id = if id == password_id { password_id } else { id };
        let mut sent = 0;
        let mut world = World::new(|request| {
            if request.credential.is_some() {
                if request.unless_credential.as_deref() == Some(password_id) {
                    return refusal(FailureCode::Rejected);
                }
                sent += 1;
            }
            let credential_id = Some(password_id.to_owned());
            Answer::Ok(match (&request.credential, is_good) {
                (None, _) => basic(),
                (Some(_), false) => HttpResponse { credential_id, ..with_login(basic()) },
                (Some(_), true) => HttpResponse { credential_id, ..with_login(found()) },
            })
        });
        let found = world.resolve(&mut cache, NOW_MS, &images("r.io", 20));
        drop(world);
        assert_eq!(sent, [1, 0, 20][call], "call {call}");
        for lookup in found.values() {
            match lookup {
                Ok(_) => assert!(is_good),
                Err(failure) => assert!(failure.message.contains("until it changes"), "{failure}"),
            }
        }
    }
    assert!(cache.registries["r.io"].rejected.is_empty());
}

#[any_test]
fn a_login_that_the_token_server_refuses_leaves_the_public_images() {
    let mut cache = Cache::default();
    for sent_first in [1, 0] {
        let mut sent = 0;
        let mut world = World::new(|request| {
            let is_token = request.url.contains("/token");
            if is_token && request.credential.is_some() {
                if request.unless_credential.as_deref() == Some("id-1") {
                    return refusal(FailureCode::Rejected);
                }
                sent += 1;
                return Answer::Ok(with_login(answer(401, &[], "")));
            }
            Answer::Ok(match (is_token, token_of(request)) {
                (true, _) => token("anonymous"),
                (_, Some("anonymous")) if !request.url.contains("0002") => found(),
                _ => bearer("https://r.io/token", ",error=\"insufficient_scope\""),
            })
        });
        let found =
            world.resolve(&mut cache, NOW_MS + MINUTE_MS * if sent_first == 1 { 0 } else { 6 }, &images("r.io", 4));
        drop(world);
        assert_eq!(sent, sent_first);
        assert_eq!(found.values().filter(|lookup| lookup.is_ok()).count(), 3);
        let failure = found["r.io/o/app0002:v1"].as_ref().expect_err("private");
        assert!(failure.message.contains("refused the credential"), "{failure}");
    }
}

#[any_test]
fn a_login_that_is_denied_a_public_image_is_left_away_for_it() {
    // As GHCR: a PAT without `read:packages` is denied what anybody may read.
    let mut world = World::new(|request| {
        Answer::Ok(match (request.url.contains("/token"), token_of(request)) {
            (true, _) if request.credential.is_some() => with_login(token("mine")),
            (true, _) => token("anonymous"),
            (_, Some("mine")) if request.url.contains("0001") => answer(403, &[], ""),
            (_, Some(_)) => found(),
            _ => bearer("https://r.io/token", ""),
        })
    });
    let mut cache = Cache::default();
    assert!(world.resolve(&mut cache, NOW_MS, &images("r.io", 2)).values().all(Result::is_ok));
    assert!(cache.registries["r.io"].public.contains("o/app0001"));
    world.take_asked();
    world.resolve(&mut cache, NOW_MS + MINUTE_MS, &images("r.io", 2));
    assert_eq!(world.take_asked().len(), 2, "remembered");
}

#[any_test]
fn a_denial_with_and_without_login_is_final() {
    let mut world = World::new(|request| {
        Answer::Ok(match (&request.credential, token_of(request), request.url.contains("/token")) {
            (Some(_), _, true) => with_login(token("mine")),
            (None, _, true) | (_, Some(_), _) => answer(403, &[], ""),
            _ => bearer("https://r.io/token", ""),
        })
    });
    let found = world.resolve(&mut Cache::default(), NOW_MS, &images("r.io", 1));
    let failure = found["r.io/o/app0000:v1"].as_ref().expect_err("denied");
    assert_eq!(failure.code, FailureCode::NoCredential, "{failure}");
    assert_eq!(world.take_asked().len(), 4);
}

#[any_test]
fn an_identity_token_is_exchanged_by_post_and_that_is_remembered() {
    let mut world = World::new(|request| {
        let is_token = request.url.contains("/token");
        if is_token && request.method == Method::Get {
            return refusal(FailureCode::IdentityToken);
        }
        Answer::Ok(match (is_token, token_of(request)) {
            (true, _) => with_login(answer(200, &[], r#"{"access_token":"t"}"#)),
            (_, Some("t")) => found(),
            _ => bearer("https://r.io/token", ""),
        })
    });
    let mut cache = Cache::default();
    assert!(world.resolve(&mut cache, NOW_MS, &images("r.io", 2)).values().all(Result::is_ok));
    let post = world.asked.iter().find(|request| request.method == Method::Post).expect("a POST");
    let form: Vec<(&str, &str)> = post.form.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
    assert_eq!(
        form,
        [
            ("grant_type", "refresh_token"),
            ("client_id", "imagewatch"),
            ("service", "s"),
            ("scope", "repository:o/app0000:pull repository:o/app0001:pull"),
        ]
    );
    assert_eq!((post.url.as_str(), post.credential.as_deref()), ("https://r.io/token", Some("r.io")));
    world.take_asked();
    world.resolve(&mut cache, NOW_MS + 5 * MINUTE_MS, &images("r.io", 2));
    assert_eq!(count(&world.take_asked(), "Get"), 0);
}

#[any_test]
fn logins_by_repository_are_named_with_it() {
    let mut world = World::new(|request| {
        let is_token = request.url.contains("/token");
        if is_token && request.credential.as_deref() == Some("r.io") {
            return refusal(FailureCode::PerRepository);
        }
        Answer::Ok(match (is_token, token_of(request)) {
            (true, _) => with_login(token(request.credential.as_deref().unwrap_or("none"))),
            (_, Some(value)) if value == format!("r.io/{}", repository_of(request)) => found(),
            _ => bearer("https://r.io/token", ",error=\"insufficient_scope\""),
        })
    });
    let mut cache = Cache::default();
    assert!(world.resolve(&mut cache, NOW_MS, &images("r.io", 3)).values().all(Result::is_ok));
    assert_eq!(count(&world.take_asked(), "/token"), 4);
    assert!(world.resolve(&mut cache, NOW_MS + 5 * MINUTE_MS, &images("r.io", 3)).values().all(Result::is_ok));
    assert_eq!(count(&world.take_asked(), "/token"), 3);
}

#[any_test]
fn an_expired_ecr_login_is_sent_once_more() {
    for (registry, asks, is_found) in [
        ("123456789012.dkr.ecr.eu-west-1.amazonaws.com", 3, true),
        ("123456789012.dkr-ecr-fips.us-gov-west-1.on.aws", 3, true),
        ("dkr.ecr.example.com", 3, false),
    ] {
        let mut tries = 0;
        let mut world = World::new(|request| {
            if request.credential.is_none() {
                return Answer::Ok(basic());
            }
            tries += 1;
            let expired = answer(403, &[], "denied: Your authorization token has expired.");
            Answer::Ok(with_login(if tries == 1 { expired } else { found() }))
        });
        let found = world.resolve(&mut Cache::default(), NOW_MS, &images(registry, 1));
        assert_eq!(found.values().all(Result::is_ok), is_found, "{registry}");
        assert_eq!(world.take_asked().len(), asks, "{registry}");
    }
}

#[any_test]
fn without_a_login_the_host_says_where_one_goes() {
    let mut world = World::new(|request| match request.credential {
        Some(_) => refusal(FailureCode::NoCredential),
        None => Answer::Ok(basic()),
    });
    let found = world.resolve(&mut Cache::default(), NOW_MS, &images("r.io", 6));
    for lookup in found.values() {
        let failure = lookup.as_ref().expect_err("no login");
        assert_eq!(failure.code, FailureCode::NoCredential);
    }
    assert_eq!(world.asked.iter().filter(|request| request.credential.is_none()).count(), 6);
}

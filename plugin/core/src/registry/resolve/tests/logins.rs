//! Logins: sent once when they are wrong, done without where anybody may read.

use super::*;

fn refusal(code: FailureCode) -> Answer<HttpResponse> {
    Answer::Err(Failure::permanent(code, "refused by the host"))
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
                if request.rejected_credential_id.as_deref() == Some(password_id) {
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
                if request.rejected_credential_id.as_deref() == Some("id-1") {
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

const ECR: &str = "123456789012.dkr.ecr.eu-west-1.amazonaws.com";

/// A registry that wants Basic and takes the login `id-2` alone, and a host whose login is `id`, which it renews to
/// `renewed` when the request names it as refused.
fn expiring<'a>(id: &'a mut &'static str, renewed: &'static str, refusal_status: u16) -> World<'a> {
    World::new(move |request| {
        if request.credential.is_none() {
            return Answer::Ok(basic());
        }
        if request.rejected_credential_id.as_deref() == Some(*id) {
            *id = renewed;
        }
        if request.rejected_credential_id.as_deref() == Some(*id) {
            return refusal(FailureCode::Rejected);
        }
        let expired = HttpResponse {
            status: refusal_status,
            body: "denied: Your authorization token has expired.".to_owned(),
            ..basic()
        };
        let said = if *id == "id-2" { found() } else { expired };
        Answer::Ok(HttpResponse { credential_id: Some((*id).to_owned()), ..with_login(said) })
    })
}

#[any_test]
fn an_expired_ecr_login_is_sent_once_more_after_the_host_renewed_it() {
    for (registry, is_ecr) in [
        (ECR, true),
        ("123456789012.dkr.ecr-fips.us-west-2.amazonaws.com", true),
        ("123456789012.dkr.ecr.cn-north-1.amazonaws.com.cn", true),
        ("123456789012.dkr.ecr.eusc-de-east-1.amazonaws.eu", true),
        ("123456789012.dkr.ecr.us-iso-east-1.c2s.ic.gov", true),
        ("123456789012.dkr.ecr-fips.us-isob-east-1.sc2s.sgov.gov", true),
        ("123456789012.dkr.ecr.eu-isoe-west-1.cloud.adc-e.uk", true),
        ("123456789012.dkr.ecr.us-isof-south-1.csp.hci.ic.gov", true),
        ("123456789012.dkr-ecr-fips.us-gov-west-1.on.aws", true),
        ("123456789012.dkr-ecr.cn-north-1.on.amazonwebservices.com.cn", true),
        ("dkr.ecr.example.com", false),
        ("a.dkr.ecr.evilamazonaws.com.example.com", false),
    ] {
        for status in [403, 401] {
            let (mut id, mut cache) = ("id-1", Cache::default());
            let mut world = expiring(&mut id, "id-2", status);
            let found = world.resolve(&mut cache, NOW_MS, &images(registry, 3));
            let logins = world.asked.iter().filter(|request| request.credential.is_some()).count();
            drop(world);
            assert_eq!(found.values().all(Result::is_ok), is_ecr, "{registry} {status}");
            if is_ecr {
                assert_eq!(logins, 4, "{registry} {status}: one was refused");
                assert!(cache.registries[registry].rejected.is_empty(), "{registry} {status}");
            }
        }
    }
}

#[any_test]
fn an_ecr_login_that_is_denied_one_repository_serves_the_others() {
    for renewed in ["id-2", "id-3"] {
        let (mut id, mut cache) = ("id-2", Cache::default());
        let mut world = World::new(|request| {
            if request.credential.is_none() {
                return Answer::Ok(basic());
            }
            if request.rejected_credential_id.as_deref() == Some(id) {
                id = renewed;
            }
            if request.rejected_credential_id.as_deref() == Some(id) {
                return refusal(FailureCode::Rejected);
            }
            let said = if request.url.contains("0001") { answer(403, &[], "denied: not authorized") } else { found() };
            Answer::Ok(HttpResponse { credential_id: Some(id.to_owned()), ..with_login(said) })
        });
        for poll in 0..2 {
            let found = world.resolve(&mut cache, NOW_MS + poll * MINUTE_MS, &images(ECR, 3));
            assert_eq!(found.values().filter(|lookup| lookup.is_ok()).count(), 2, "{renewed}, poll {poll}");
            let failure = found[&format!("{ECR}/o/app0001:v1")].as_ref().expect_err("denied");
            assert!(failure.message.contains("does not give access"), "{failure}");
            assert!(cache.registries[ECR].rejected.is_empty(), "{renewed}, poll {poll}");
        }
    }
}

#[any_test]
fn an_ecr_login_that_is_refused_and_cannot_be_renewed_is_not_sent_again() {
    let (mut id, mut cache) = ("id-1", Cache::default());
    let mut world = expiring(&mut id, "id-1", 401);
    for (poll, sent) in [1, 0].into_iter().enumerate() {
        let before = world.asked.len();
        let found = world.resolve(&mut cache, NOW_MS, &images(ECR, 1));
        let failure = found[&format!("{ECR}/o/app0000:v1")].as_ref().expect_err("refused");
        assert!(failure.message.contains("until it changes"), "{failure}");
        let named = |request: &&HttpRequest| request.credential.is_some() && request.rejected_credential_id.is_none();
        assert_eq!(world.asked[before..].iter().filter(named).count(), sent, "poll {poll}");
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

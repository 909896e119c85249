//! Field reports F05 and F22 and their kin: another host answers than the one that was asked, or a HEAD is refused
//! where a GET works.

use super::*;
use rstest::rstest;

fn elsewhere(response: HttpResponse) -> HttpResponse {
    HttpResponse { answered_by: Some("b.io".to_owned()), ..response }
}

fn hashed() -> HttpResponse {
    HttpResponse { body_digest: Some(digest("a")), ..answer(200, &[], "") }
}

/// The message for the only image, and what it cost.
fn fail(world: &mut World<'_>, cache: &mut Cache) -> (String, usize) {
    let lookup = world.resolve(cache, NOW_MS, &images("a.io", 1)).into_values().next().expect("a look-up");
    (lookup.expect_err("it is not known").message, world.take_asked().len())
}

#[any_test]
fn f05_a_registry_that_redirects_to_one_with_tokens_of_its_own_is_told() {
    let mut world = World::new(|_| Answer::Ok(elsewhere(bearer("https://b.io/token", ""))));
    let mut cache = Cache::default();
    for _ in 0..2 {
        let (message, requests) = fail(&mut world, &mut cache);
        assert!(message.contains("a.io redirects to b.io") && message.contains("write b.io/o/app0000"), "{message}");
        assert!(!message.contains("credential") && !message.contains("auth_realms"), "{message}");
        assert_eq!(requests, 1, "no token is asked for, and none is sent");
    }
    assert!(cache.registries.get("a.io").is_none_or(|known| known.challenge.is_none()), "nothing is learnt of a.io");
}

/// A token of its own takes the request through the first registry, and the second wants another.
#[any_test]
fn f05_a_token_of_the_first_registry_is_not_given_up_for_the_second() {
    let mut world = World::new(|request| {
        Answer::Ok(match token_of(request) {
            _ if request.url.starts_with("https://a.io/token") => token("a"),
            None => bearer("https://a.io/token", ""),
            Some(_) => elsewhere(bearer("https://b.io/token", "")),
        })
    });
    let mut cache = Cache::default();
    let (message, _) = fail(&mut world, &mut cache);
    assert!(message.contains("write b.io/o/app0000"), "{message}");
    let (_, requests) = fail(&mut world, &mut cache);
    assert_eq!(requests, 1, "the token of a.io is still known");
}

#[any_test]
fn f05_basic_login_behind_a_redirect_is_told_as_well() {
    let mut world = World::new(|_| Answer::Ok(elsewhere(basic())));
    let (message, _) = fail(&mut world, &mut Cache::default());
    assert!(message.contains("write b.io/o/app0000") && !message.contains("configure"), "{message}");
}

#[any_test]
fn f05_a_denial_behind_a_redirect_gives_no_advice_that_does_not_help() {
    let mut world = World::new(|_| Answer::Ok(elsewhere(answer(403, &[], ""))));
    let (message, requests) = fail(&mut world, &mut Cache::default());
    assert!(message.contains("a.io redirects to b.io, which denied access (status 403)"), "{message}");
    assert!(!message.contains("configure") && requests == 2, "{message}");
}

#[rstest]
#[test_attr(any_test)]
#[case::bad_request(answer(400, &[], ""))]
#[case::forbidden(answer(403, &[], ""))]
#[case::not_allowed(answer(405, &[], ""))]
#[case::not_acceptable(answer(406, &[], ""))]
#[case::not_implemented(answer(501, &[], ""))]
#[case::forbidden_behind_a_redirect(elsewhere(answer(403, &[], "")))]
fn f22_a_refused_head_is_followed_by_one_get_and_that_is_remembered(#[case] head: HttpResponse) {
    let mut world =
        World::new(|request| Answer::Ok(if request.method == Method::Head { head.clone() } else { hashed() }));
    let mut cache = Cache::default();
    for expected in [2, 1] {
        let found = world.resolve(&mut cache, NOW_MS, &images("a.io", 1));
        assert!(found.values().all(|lookup| *lookup == Ok(digest("a"))), "{found:?}");
        assert_eq!(world.take_asked().len(), expected);
    }
}

/// Not refused, but out of order, or truly not there: a GET would tell no more.
#[rstest]
#[test_attr(any_test)]
#[case::not_found(Answer::Ok(answer(404, &[], "")), "has no o/app0000:v1")]
#[case::server_error(Answer::Ok(answer(500, &[], "")), "status 500")]
#[case::bad_gateway(Answer::Ok(answer(502, &[], "")), "status 502")]
#[case::closed(
    Answer::Err(Failure::retryable(FailureCode::Other, "a.io closed the connection")),
    "closed the connection"
)]
fn f22_other_refusals_cost_one_request(#[case] head: Answer<HttpResponse>, #[case] part: &str) {
    let mut world = World::new(|_| head.clone());
    let (message, requests) = fail(&mut world, &mut Cache::default());
    assert!(message.contains(part) && requests == 1, "{message}");
}

#[any_test]
fn f22_a_head_that_is_refused_with_a_login_is_a_denial() {
    let mut world = World::new(|request| {
        Answer::Ok(if request.credential.is_some() { with_login(answer(403, &[], "")) } else { basic() })
    });
    let (message, _) = fail(&mut world, &mut Cache::default());
    assert!(message.contains("denied access"), "{message}");
    assert!(world.asked.iter().all(|request| request.method == Method::Head));
}

/// A registry that has answered a HEAD refuses the repository, not the HEAD.
#[any_test]
fn f22_a_private_repository_of_a_registry_that_takes_heads_costs_no_get() {
    let mut world =
        World::new(|request| Answer::Ok(if request.url.contains("app0000") { found() } else { answer(403, &[], "") }));
    let mut cache = Cache::default();
    world.resolve(&mut cache, NOW_MS, &images("a.io", 1));
    world.take_asked();
    world.resolve(&mut cache, NOW_MS, &images("a.io", 2));
    assert_eq!(count(&world.take_asked(), "Get"), 0);
}

#[rstest]
#[test_attr(any_test)]
#[case::two_digests(digest("b").to_string())]
#[case::digest_and_something_else("sha256:0".to_owned())]
fn s13_two_different_digests_are_none(#[case] other: String) {
    let first = digest("a").to_string();
    let headers = [("docker-content-digest", first.as_str()), ("docker-content-digest", other.as_str())];
    let mut world =
        World::new(|_| Answer::Ok(HttpResponse { body_digest: Some(digest("a")), ..answer(200, &headers, "") }));
    let (message, _) = fail(&mut world, &mut Cache::default());
    assert!(message.contains("says two digests of one manifest"), "{message}");
}

#[any_test]
fn s13_the_same_digest_twice_is_one() {
    let text = digest("a").to_string();
    let headers = [("docker-content-digest", text.as_str()), ("docker-content-digest", text.as_str())];
    let mut world = World::new(|_| Answer::Ok(answer(200, &headers, "")));
    let found = world.resolve(&mut Cache::default(), NOW_MS, &images("a.io", 1));
    assert!(found.values().all(|lookup| *lookup == Ok(digest("a"))), "{found:?}");
}

/// A next page that is not there is not a repository that is not there.
#[any_test]
fn f23_a_next_page_that_is_missing_is_told() {
    let mut world = World::new(|request| {
        Answer::Ok(if request.url.contains("tags/tags") {
            answer(404, &[], "")
        } else {
            answer(200, &[("link", "<tags/list?last=x>; rel=next")], r#"{"tags":["1.0.0"]}"#)
        })
    });
    let references = BTreeSet::from(["a.io/o/app".parse().expect("a reference")]);
    let lists = list_tags(&mut world, &mut Cache::default(), &Insecure::none(), NOW_MS, &references);
    let failure = lists.into_values().next().expect("a list").expect_err("no list");
    assert!(failure.message.contains("links to a next page of its tag list"), "{}", failure.message);
}

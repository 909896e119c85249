//! Tokens: as few requests as the server allows, and one way out of each refusal.

use super::*;

/// A token server that grants every scope it is asked for, for the repository that a token's text names.
fn granting(request: &HttpRequest) -> HttpResponse {
    let scopes: Vec<&str> = request.url.split("scope=repository%3A").skip(1).collect();
    let names: Vec<String> =
        scopes.iter().map(|scope| scope.split("%3Apull").next().unwrap_or(scope).replace("%2F", "/")).collect();
    token(&names.join("+"))
}

fn is_granted(request: &HttpRequest) -> bool {
    token_of(request).is_some_and(|token| token.split('+').any(|name| name == repository_of(request)))
}

fn scope_count(line: &str) -> usize {
    line.matches("scope=").count()
}

#[any_test]
fn many_images_share_token_requests_and_one_goes_ahead() {
    let mut world = World::new(|request| {
        Answer::Ok(match request.url.contains("/token") {
            true => granting(request),
            false if is_granted(request) => found(),
            false => bearer("https://auth.io/token", ""),
        })
    });
    let mut cache = Cache::default();
    let found = world.resolve(&mut cache, NOW_MS, &images("r.io", 500));
    assert!(found.values().all(Result::is_ok));
    let asked = world.take_asked();
    assert_eq!((asked.len(), count(&asked, "/token")), (511, 10), "one to learn of it, ten tokens, 500 digests");
    world.resolve(&mut cache, NOW_MS + MINUTE_MS, &images("r.io", 500));
    assert_eq!(world.rounds, 1);
    assert_eq!(world.take_asked().len(), 500);
    world.resolve(&mut cache, NOW_MS + 5 * MINUTE_MS, &images("r.io", 500));
    assert_eq!(count(&world.take_asked(), "/token"), 10, "they are over");
}

#[any_test]
fn a_server_that_takes_one_scope_only_shares_an_anonymous_token() {
    // As GHCR: anybody's token is good for whatever is public.
    let mut world = World::new(|request| {
        Answer::Ok(match (request.url.contains("/token"), token_of(request)) {
            (true, _) if scope_count(&request.url) > 1 => answer(403, &[], ""),
            (true, _) if request.url.contains("0007") => answer(403, &[], ""),
            (true, _) => token("public"),
            (_, Some("public")) if !request.url.contains("0007") => found(),
            (_, Some(_)) => answer(403, &[], ""),
            _ => bearer("https://r.io/token", ""),
        })
    });
    let mut cache = Cache::default();
    let found = world.resolve(&mut cache, NOW_MS, &images("r.io", 100));
    assert_eq!(found.values().filter(|lookup| lookup.is_ok()).count(), 99);
    let failure = found["r.io/o/app0007:v1"].as_ref().expect_err("private");
    assert!(failure.message.contains("configure a credential for r.io"), "{failure}");
    let asked = world.take_asked();
    assert_eq!(count(&asked, "/token"), 3, "all at once, one, and one for the private image");
    assert_eq!(asked.len(), 1 + 3 + 100);
    world.resolve(&mut cache, NOW_MS + MINUTE_MS, &images("r.io", 100));
    assert_eq!(count(&world.take_asked(), "/token"), 1, "for the private image");
    world.resolve(&mut cache, NOW_MS + 5 * MINUTE_MS, &images("r.io", 100));
    assert_eq!(count(&world.take_asked(), "/token"), 2, "one for all, and one for the private image");
}

#[any_test]
fn a_server_that_takes_one_scope_only_and_binds_it_is_asked_for_each() {
    let mut world = World::new(|request| {
        Answer::Ok(match request.url.contains("/token") {
            true if scope_count(&request.url) > 1 => answer(400, &[], ""),
            true => granting(request),
            false if is_granted(request) => found(),
            false => bearer("https://r.io/token", ",error=\"insufficient_scope\""),
        })
    });
    let mut cache = Cache::default();
    assert!(world.resolve(&mut cache, NOW_MS, &images("r.io", 20)).values().all(Result::is_ok));
    let asked = world.take_asked();
    assert_eq!((asked.len(), count(&asked, "/token")), (1 + 21 + 21, 21), "one borrowed token was tried");
    assert_eq!(cache.registries["r.io"].is_shared, Some(false));
    world.resolve(&mut cache, NOW_MS + 5 * MINUTE_MS, &images("r.io", 20));
    let asked = world.take_asked();
    assert_eq!((asked.len(), count(&asked, "/token")), (40, 20));
}

#[any_test]
fn a_server_that_reads_the_first_scope_only_is_found_out() {
    let mut world = World::new(|request| {
        Answer::Ok(match request.url.contains("/token") {
            true => {
                let response = granting(request);
                let first = response.body.split(['+', '"']).nth(3).unwrap_or_default().to_owned();
                token(&first)
            }
            false if is_granted(request) => found(),
            false => bearer("https://r.io/token", ",error=\"insufficient_scope\""),
        })
    });
    let mut cache = Cache::default();
    assert!(world.resolve(&mut cache, NOW_MS, &images("r.io", 5)).values().all(Result::is_ok));
    assert!(cache.registries["r.io"].is_single);
    world.take_asked();
    world.resolve(&mut cache, NOW_MS + MINUTE_MS, &images("r.io", 5));
    assert_eq!(world.take_asked().len(), 5, "each has its token");
}

#[any_test]
fn one_private_image_does_not_part_the_others() {
    let mut world = World::new(|request| {
        Answer::Ok(match request.url.contains("/token") {
            true => granting(request),
            false if is_granted(request) && !request.url.contains("0003") => found(),
            false => bearer("https://r.io/token", ",error=\"insufficient_scope\""),
        })
    });
    let mut cache = Cache::default();
    let found = world.resolve(&mut cache, NOW_MS, &images("r.io", 6));
    assert_eq!(found.values().filter(|lookup| lookup.is_ok()).count(), 5);
    assert!(!cache.registries["r.io"].is_single, "a token of its own did no better");
    world.take_asked();
    world.resolve(&mut cache, NOW_MS + MINUTE_MS, &images("r.io", 6));
    assert_eq!(world.take_asked().len(), 6, "it is not tried in vain again");
}

#[any_test]
fn a_token_that_is_over_before_its_time_is_renewed_once() {
    let mut good = "t1";
    let mut cache = Cache::default();
    for (now, asks) in [("t1", 3), ("t2", 3)] {
        good = if now == "t1" { good } else { "t2" };
        let mut world = World::new(|request| {
            Answer::Ok(match (request.url.contains("/token"), token_of(request)) {
                (true, _) => token(good),
                (_, Some(value)) if value == good => found(),
                _ => bearer("https://r.io/token", ",error=\"invalid_token\""),
            })
        });
        let found = world.resolve(&mut cache, NOW_MS, &images("r.io", 1));
        assert!(found.values().all(Result::is_ok), "{found:?}");
        assert_eq!(world.take_asked().len(), asks, "{now}");
    }
    let mut world = World::new(|request| {
        let is_token = request.url.contains("/token");
        Answer::Ok(if is_token { token("t3") } else { bearer("https://r.io/token", ",error=\"invalid_token\"") })
    });
    let found = world.resolve(&mut cache, NOW_MS, &images("r.io", 1));
    assert!(found.values().all(Result::is_err));
    assert!(world.take_asked().len() <= 5, "it is given up");
}

#[any_test]
fn the_scope_that_the_registry_names_is_asked_for_first_and_remembered() {
    let mut world = World::new(|request| {
        Answer::Ok(match (request.url.contains("/token"), token_of(request)) {
            (true, _) if request.url.contains("scope=repository%3Amirror") => token("wide"),
            (true, _) => token("narrow"),
            (_, Some("wide")) => found(),
            (_, Some(_)) => {
                bearer("https://r.io/token", ",scope=\"repository:mirror/o/app0000:pull\",error=\"insufficient_scope\"")
            }
            _ => bearer("https://r.io/token", ""),
        })
    });
    let mut cache = Cache::default();
    assert!(world.resolve(&mut cache, NOW_MS, &images("r.io", 1)).values().all(Result::is_ok));
    let asked = world.take_asked();
    let last_token = asked.iter().rfind(|line| line.contains("/token")).expect("a token request");
    assert!(
        last_token.ends_with("&scope=repository%3Amirror%2Fo%2Fapp0000%3Apull&scope=repository%3Ao%2Fapp0000%3Apull"),
        "{last_token}"
    );
    assert_eq!(asked.len(), 5);
    world.resolve(&mut cache, NOW_MS + 5 * MINUTE_MS, &images("r.io", 1));
    assert_eq!(world.take_asked().len(), 2, "token and digest");
}

/// containerd's table of merged scopes: ours is sorted too, but for the registry's own first.
#[any_test]
fn scopes_merge_to_their_union() {
    let data: serde_json::Value =
        serde_json::from_str(include_str!("../../../../data/challenge_cases.json")).expect("JSON");
    for case in data["scopes_containerd"]["merge"].as_array().expect("rows") {
        let words = |key: &str| -> Vec<String> {
            case[key].as_array().expect("texts").iter().map(|v| v.as_str().expect("text").to_owned()).collect()
        };
        let (wanted, challenge) = (words("wanted"), words("challenge"));
        // We always want something: the pull of the repository at least.
        if wanted.is_empty() {
            continue;
        }
        let mut known = super::super::super::cache::Known::default();
        known.scopes.insert("foo/bar".to_owned(), wanted.join(" "));
        let query = Query::Digest("r.io/foo/bar:v1".parse().expect("a reference"));
        let scope = (!challenge.is_empty()).then(|| challenge.join(" "));
        let asked = super::super::super::challenge::Asked {
            challenge: super::super::super::cache::Challenge::Basic,
            scope,
            error: None,
        };
        auth::note_scope(&mut known, &query, &asked);
        let mut merged: Vec<String> = known.scopes["foo/bar"].split(' ').map(str::to_owned).collect();
        if let Some(first) = challenge.first() {
            assert_eq!(merged.first(), Some(first), "{case}");
        }
        merged.sort();
        assert_eq!(merged, words("expected"), "{case}");
    }
}

#[any_test]
fn a_registry_that_changes_its_realm_is_followed() {
    let mut realm = "https://old.io/token";
    let mut cache = Cache::default();
    for next in ["https://old.io/token", "https://new.io/token"] {
        realm = if next == realm { realm } else { next };
        let mut world = World::new(|request| {
            Answer::Ok(match (request.url.contains("/token"), token_of(request)) {
                (true, _) => token(if request.url.starts_with("https://new.io") { "new" } else { "old" }),
                (_, Some(value)) if realm.contains(value) => found(),
                _ => bearer(realm, ""),
            })
        });
        let found = world.resolve(&mut cache, NOW_MS, &images("r.io", 3));
        assert!(found.values().all(Result::is_ok), "{found:?}");
        assert_eq!(count(&world.take_asked(), "/token"), 1, "{next}");
    }
}

#[any_test]
fn a_realm_that_is_no_url_is_a_failure() {
    let mut world = World::new(|_| Answer::Ok(bearer("/token", "")));
    let found = world.resolve(&mut Cache::default(), NOW_MS, &images("r.io", 1));
    let failure = found["r.io/o/app0000:v1"].as_ref().expect_err("refused");
    assert!(failure.message.contains("no http(s) URL"), "{failure}");
    assert_eq!(world.asked.len(), 1);
}

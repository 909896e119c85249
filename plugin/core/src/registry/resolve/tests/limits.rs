//! Limits: who asked to be left alone is, and nobody else.

use super::*;

fn limited(until: Option<&str>) -> HttpResponse {
    let headers: Vec<(&str, &str)> = until.map(|until| ("retry-after", until)).into_iter().collect();
    answer(429, &headers, "")
}

#[any_test]
fn a_limited_registry_parks_its_images_and_nobody_elses() {
    let mut is_limited = true;
    let mut cache = Cache::default();
    let all = [images("r.io", 3), images("q.io", 2)].concat();
    for (now_ms, asked_r) in [(NOW_MS, 3), (NOW_MS + 4 * MINUTE_MS, 0), (NOW_MS + 6 * MINUTE_MS, 3)] {
        is_limited &= now_ms < NOW_MS + 5 * MINUTE_MS;
        let mut world = World::new(|request| {
            let is_refused = is_limited && request.url.contains("r.io");
            Answer::Ok(if is_refused { limited(Some("300")) } else { found() })
        });
        let found = world.resolve(&mut cache, now_ms, &all);
        let asked = world.take_asked();
        assert_eq!((count(&asked, "r.io"), count(&asked, "q.io")), (asked_r, 2), "at {now_ms}");
        for (image, lookup) in found {
            if image.starts_with("q.io") || !is_limited {
                lookup.expect("not limited");
                continue;
            }
            let failure = lookup.expect_err("limited");
            assert_eq!((failure.code, failure.retryable), (FailureCode::RateLimited, true));
            assert!(failure.message.contains("r.io limits the rate until 14:05:"), "{failure}");
            assert!(failure.message.contains("(asked at 14:00:00Z)"), "{failure}");
            let until_ms = failure.until_ms.expect("a time");
            assert!((5 * MINUTE_MS..6 * MINUTE_MS).contains(&(until_ms - NOW_MS)), "{until_ms}");
        }
    }
    assert!(cache.parked.is_empty(), "all is well again");
}

#[any_test]
fn the_first_batch_that_is_turned_away_spares_the_rest() {
    let mut world = World::new(|_| Answer::Ok(limited(None)));
    let mut cache = Cache::default();
    cache.registries.entry("r.io".to_owned()).or_default();
    let found = world.resolve(&mut cache, NOW_MS, &images("r.io", 2_000));
    assert_eq!((world.asked.len(), found.len()), (MAX_BATCH, 2_000));
}

#[any_test]
fn a_limited_token_server_does_not_stop_those_that_have_a_token() {
    let mut is_limited = false;
    let mut cache = Cache::default();
    let mut asked_tokens = vec![];
    for (count_images, found_images) in [(1, 1), (2, 1), (2, 1)] {
        let mut world = World::new(|request| {
            Answer::Ok(match (request.url.contains("auth.io"), token_of(request)) {
                (true, _) if is_limited => limited(Some("60")),
                (true, _) => token("t"),
                (_, Some(_)) => found(),
                _ => bearer("https://auth.io/token", ""),
            })
        });
        let found = world.resolve(&mut cache, NOW_MS, &images("r.io", count_images));
        assert_eq!(found.values().filter(|lookup| lookup.is_ok()).count(), found_images);
        if let Some(Err(failure)) = found.get("r.io/o/app0001:v1") {
            assert!(failure.message.contains("the token server auth.io of r.io limits the rate until"), "{failure}");
            assert!(failure.until_ms.is_some());
        }
        asked_tokens.push(count(&world.take_asked(), "auth.io"));
        drop(world);
        is_limited = true;
    }
    assert_eq!(asked_tokens, [1, 1, 0]);
}

#[any_test]
fn a_spent_budget_parks_what_comes_after_it() {
    let mut world = World::new(|_| {
        Answer::Ok(HttpResponse {
            headers: vec![
                ("ratelimit-remaining".to_owned(), "0;w=600".to_owned()),
                ("docker-content-digest".to_owned(), digest("a").to_string()),
            ],
            ..answer(200, &[], "")
        })
    });
    let mut cache = Cache::default();
    let first = world.resolve(&mut cache, NOW_MS, &images("r.io", 2));
    assert!(first.values().all(Result::is_ok), "what was answered counts");
    let second = world.resolve(&mut cache, NOW_MS + MINUTE_MS, &images("r.io", 2));
    assert!(second.values().all(Result::is_err));
    assert_eq!(world.asked.len(), 2);
}

//! Registries that have not answered yet: who waits for that, and what is asked when the answer is there.

use super::*;

/// A request that the host still waits for.
fn pending() -> Answer<HttpResponse> {
    Answer::Err(Failure::retryable(FailureCode::Pending, "r.io has not answered yet"))
}

fn is_pending(lookup: &Lookup) -> bool {
    lookup.as_ref().is_err_and(|failure| failure.code == FailureCode::Pending)
}

#[any_test]
fn an_image_without_an_answer_holds_up_no_other() {
    let mut cache = Cache::default();
    let mut world = World::new(|request| if request.url.contains("0001") { pending() } else { Answer::Ok(found()) });
    let lookups = world.resolve(&mut cache, NOW_MS, &images("r.io", 3));
    assert_eq!(lookups.values().map(is_pending).collect::<Vec<_>>(), [false, true, false]);
    assert_eq!(world.take_asked().len(), 3, "nothing is asked twice in one call");
}

#[any_test]
fn while_the_first_of_a_crowd_has_no_answer_no_other_of_it_is_asked() {
    let mut world = World::new(|_| pending());
    let lookups = world.resolve(&mut Cache::default(), NOW_MS, &images("r.io", 100));
    assert!(lookups.values().all(is_pending));
    assert_eq!(world.take_asked().len(), 1);
}

#[any_test]
fn a_login_without_an_answer_is_not_sent_for_another_image() {
    for challenge in [basic(), bearer("https://auth.r.io/token", "")] {
        let mut world =
            World::new(|request| if request.credential.is_some() { pending() } else { Answer::Ok(challenge.clone()) });
        let lookups = world.resolve(&mut Cache::default(), NOW_MS, &images("r.io", 3));
        assert!(lookups.values().all(is_pending), "{lookups:?}");
        assert_eq!(world.asked.iter().filter(|request| request.credential.is_some()).count(), 1);
    }
}

#[any_test]
fn the_next_call_goes_on_where_an_answer_was_missing() {
    let is_there = std::cell::Cell::new(false);
    let mut world = World::new(|request| match request.method {
        Method::Head => Answer::Ok(answer(405, &[], "")),
        _ if is_there.get() => Answer::Ok(HttpResponse { body_digest: Some(digest("b")), ..answer(200, &[], "") }),
        _ => pending(),
    });
    let mut cache = Cache::default();
    world.resolve(&mut cache, NOW_MS, &images("r.io", 1));
    is_there.set(true);
    world.take_asked();
    let lookups = world.resolve(&mut cache, NOW_MS, &images("r.io", 1));
    assert_eq!(lookups["r.io/o/app0000:v1"], Ok(digest("b")));
    assert_eq!(world.take_asked(), ["Get r.io/v2/o/app0000/manifests/v1"], "its HEAD was refused before");
}

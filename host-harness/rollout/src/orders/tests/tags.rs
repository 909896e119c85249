//! Orders that leave a tag for another one.

use super::*;

const NEW: &str = "example.com/ws/codex:1.3.0";

/// As [`engine`], and the registry has 1.3.0.
async fn engine_with_newer_tag() -> Arc<MemoryEngine> {
    let engine = engine().await;
    engine.publish(NEW, image("newer", &digest('c')));
    engine
}

fn to_newer_tag() -> Order {
    Order {
        reference: NEW.parse().unwrap(),
        from: Some(REFERENCE.parse().unwrap()),
        digest: Some(digest('c')),
        ..order()
    }
}

fn created_from(engine: &MemoryEngine, name: &str) -> String {
    engine.inspections()[name]["Config"]["Image"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn containers_are_made_again_from_the_new_tag_with_what_is_their_own() {
    let engine = engine_with_newer_tag().await;
    let own = json!({ "Env": ["A=1"], "Labels": { "team": "shop" } });
    engine.add_container("ws-own", REFERENCE, own, true).await;
    engine.add_image("example.com/ws/codex:1.1.0", &image("other", &digest('d')));
    engine.add_container("ws-pinned", "example.com/ws/codex:1.1.0", json!({}), true).await;
    let report = run_alone(&context(&engine), &to_newer_tag()).await;
    assert_eq!(report.recreated, ["ws-1", "ws-2", "ws-own"], "{report:?}");
    assert_eq!(report.reference, Some(NEW.parse().unwrap()));
    assert_eq!(created_from(&engine, "ws-1"), NEW);
    assert_eq!(created_from(&engine, "ws-2"), NEW, "its author had left the tag out");
    let now = &engine.inspections()["ws-own"];
    assert_eq!((&now["Image"], &now["Config"]["Env"]), (&json!("newer"), &json!(["A=1"])));
    assert_eq!(now["Config"]["Labels"]["team"], "shop");
    assert_eq!(created_from(&engine, "ws-pinned"), "example.com/ws/codex:1.1.0", "another tag is not its business");
    assert_eq!(engine.tagged(REFERENCE).as_deref(), Some("old"), "the tag that was left names what it named");

    let calls = engine.calls();
    let again = run_alone(&context(&engine), &to_newer_tag()).await;
    assert!(again.pulled && again.recreated.is_empty() && again.err.is_none(), "{again:?}");
    assert_eq!(engine.calls(), calls, "there is nobody left to move");
}

#[tokio::test]
async fn every_strategy_takes_the_containers_of_the_tag_that_is_left() {
    for (strategy, expected, status) in [
        (Strategy::Replace, NEW, Some("newer")),
        (Strategy::StartFirst, NEW, Some("newer")),
        (Strategy::PullOnly, REFERENCE, Some("old")),
        (Strategy::Notify, REFERENCE, Some("old")),
        (Strategy::Remove, "", None),
    ] {
        let engine = engine_with_newer_tag().await;
        let report = run_alone(&context(&engine), &Order { strategy, ..to_newer_tag() }).await;
        assert_eq!((report.err, report.failed), (None, vec![]), "{strategy:?}");
        let now = engine.inspections().get("ws-1").cloned();
        let image = now.as_ref().map(|now| now["Image"].as_str().unwrap().to_owned());
        assert_eq!(image.as_deref(), status, "{strategy:?}");
        let tag = now.map(|now| now["Config"]["Image"].as_str().unwrap().to_owned()).unwrap_or_default();
        assert_eq!(tag, expected, "{strategy:?}");
    }
}

#[tokio::test]
async fn a_new_tag_that_does_not_work_leaves_the_old_containers_and_both_tags_as_they_are() {
    let engine = engine_with_newer_tag().await;
    let mut bad = image("newer", &digest('c'));
    bad["Behaves"] = json!("exits");
    engine.publish(NEW, bad);
    let before = engine.overview();
    let report = run_alone(&context(&engine), &to_newer_tag()).await;
    assert_eq!((report.failed[0].fault, report.restored), (Some(Fault::Image), vec!["ws-1".to_owned()]));
    assert_eq!(engine.overview(), before);
    assert_eq!(created_from(&engine, "ws-1"), REFERENCE);
    assert_eq!(engine.tagged(NEW).as_deref(), Some("newer"), "it never named the old image");
    assert_eq!(engine.tagged(REFERENCE).as_deref(), Some("old"));
}

#[test]
fn a_tag_is_changed_in_the_words_of_the_author() {
    for (image, from, to, expected) in [
        ("nginx:1.2", "nginx:1.2", "nginx:1.3", "nginx:1.3"),
        ("nginx", "nginx:latest", "nginx:1.3", "nginx:1.3"),
        ("docker.io/library/nginx:1.2", "nginx:1.2", "nginx:1.3", "docker.io/library/nginx:1.3"),
        ("127.0.0.1:5000/a", "127.0.0.1:5000/a:latest", "127.0.0.1:5000/a:2", "127.0.0.1:5000/a:2"),
        ("localhost:5000/a:5000", "localhost:5000/a:5000", "localhost:5000/a:5001", "localhost:5000/a:5001"),
    ] {
        assert_eq!(retag(image, &from.parse().unwrap(), &to.parse().unwrap()), expected);
    }
}

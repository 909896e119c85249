//! Orders with strategy `remove`.

use super::*;

#[tokio::test]
async fn the_strategy_remove_removes_stopped_ones_too_and_by_hand_also_those_up_to_date() {
    let engine = engine().await;
    engine.add_container("ws-3", REFERENCE, json!({}), false).await;
    engine.add_image(REFERENCE, &image("new", &digest('b')));
    engine.add_container("ws-4", REFERENCE, json!({}), true).await;
    let order = Order { strategy: Strategy::Remove, ..order() };
    assert_eq!(run_alone(&context(&engine), &order).await.recreated, ["ws-1", "ws-2", "ws-3"]);
    assert_eq!(engine.overview(), ["ws-4 new running"]);
    let by_hand = Order { only_outdated: false, ..order };
    assert_eq!(run_alone(&context(&engine), &by_hand).await.recreated, ["ws-4"]);
    assert_eq!(engine.overview(), Vec::<String>::new());
}

#[tokio::test]
async fn the_strategy_remove_leaves_alone_what_something_else_makes_again_on_the_old_image() {
    let engine = engine().await;
    let id = engine.inspections()["ws-1"]["Id"].as_str().unwrap().to_owned();
    engine.edit(&id, |c| c["Config"]["Labels"] = json!({ "com.docker.swarm.service.id": "x" }));
    let report = run_alone(&context(&engine), &Order { strategy: Strategy::Remove, ..order() }).await;
    assert_eq!(report.recreated, ["ws-2"]);
    assert!(report.failed[0].reason.contains("update the service"), "{report:?}");
    assert_eq!(engine.overview(), ["ws-1 old running"]);
}

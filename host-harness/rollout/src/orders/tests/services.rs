//! Orders of one service: one container at a time, and none after the image has failed.

use super::*;

const WEB: &str = "example.com/web:1";

fn only(name: &str, group: Option<&str>) -> Order {
    Order {
        order: format!("{name}-1"),
        target: name.to_owned(),
        reference: WEB.parse().unwrap(),
        digest: Some(digest('d')),
        containers: Selector { name: Some(name.to_owned()), ..Selector::default() },
        group: group.map(str::to_owned),
        ..order()
    }
}

/// Containers of `names` run image `old-web`; the registry has `new-web`, which is `new` besides its id.
async fn services(names: &[&str], host: Value, new: Value) -> Arc<MemoryEngine> {
    let engine = MemoryEngine::new();
    let web = |id: &str, fill| json!({ "Id": id, "RepoDigests": [format!("example.com/web@{}", digest(fill))] });
    engine.add_image(WEB, &web("old-web", 'c'));
    for name in names {
        engine.add_container(name, WEB, json!({ "HostConfig": host }), true).await;
    }
    let mut image = web("new-web", 'd');
    for (key, value) in new.as_object().unwrap() {
        image[key] = value.clone();
    }
    engine.publish(WEB, image);
    Arc::new(engine)
}

/// Runs `orders` as one poll places them.
async fn run_together(context: &OrderContext, orders: Vec<Order>) -> Vec<Report> {
    let batch = Batch::new(&context.services, orders.clone());
    // The last one begins first, so that nothing but the batch brings them in order.
    let mut reports =
        futures_util::future::join_all(orders.iter().rev().map(|order| run_order(context, order, &batch))).await;
    reports.reverse();
    reports
}

/// The lowest number of containers that serve at the same time, by the engine's calls: a new one does when its predecessor
/// is removed.
fn fewest_serving(engine: &MemoryEngine, names: &[&str]) -> usize {
    let mut running: std::collections::BTreeSet<String> = names.iter().map(|name| (*name).to_owned()).collect();
    let mut fewest = running.len();
    for call in engine.calls() {
        match call.split_once(' ') {
            Some(("stop", name)) => drop(running.remove(name)),
            Some(("remove", name)) => running.extend(name.split('.').next().map(str::to_owned)),
            _ => {}
        }
        fewest = fewest.min(running.len());
    }
    fewest
}

fn touched(engine: &MemoryEngine, name: &str) -> bool {
    engine.calls().iter().any(|call| call.split(' ').nth(1) == Some(name) && !call.starts_with("exec"))
}

#[tokio::test(start_paused = true)]
async fn f18_replicas_of_a_service_are_replaced_one_at_a_time_and_others_beside_them() {
    let names = ["web-1", "web-2", "web-3"];
    for (case, group, expected) in [("one service", Some("shop/web"), 2), ("independent", None, 0)] {
        let engine = services(&names, json!({}), json!({})).await;
        let context = OrderContext { stable_for: Duration::from_secs(1), ..context(&engine) };
        let reports = run_together(&context, names.iter().map(|name| only(name, group)).collect()).await;
        assert!(reports.iter().all(|report| report.recreated.len() == 1), "{case}: {reports:?}");
        assert_eq!(fewest_serving(&engine, &names), expected, "{case}: {:#?}", engine.calls());
    }
}

#[tokio::test]
async fn f18_a_bad_image_is_tried_on_one_replica_and_the_others_say_which() {
    let names = ["web-1", "web-2", "web-3"];
    let engine = services(&names, json!({}), json!({ "Behaves": "exits" })).await;
    let context = context(&engine);
    let reports = run_together(&context, names.iter().map(|name| only(name, Some("shop/web"))).collect()).await;
    assert_eq!(reports[0].failed[0].fault, Some(Fault::Image), "{reports:?}");
    for (report, name) in reports[1..].iter().zip(&names[1..]) {
        let [failure] = &report.failed[..] else { panic!("{report:?}") };
        assert_eq!((failure.fault, report.err.clone()), (Some(Fault::Postponed), None), "{report:?}");
        assert!(failure.reason.contains("web-1") && failure.reason.contains("exited with code 3"), "{failure:?}");
        assert!(!touched(&engine, name), "{name}: {:#?}", engine.calls());
    }
    assert_eq!(engine.overview(), ["web-1 old-web running", "web-2 old-web running", "web-3 old-web running"]);
}

#[tokio::test(start_paused = true)]
async fn f18_a_failure_that_is_not_the_images_stops_the_others_only_while_the_first_one_is_down() {
    let port = EngineError::Refused { status: 500, message: "port is taken".to_owned() };
    let names = ["web-1", "web-2"];
    for (case, old_one_fails, second) in
        [("restored", false, "web-2 new-web running"), ("down", true, "web-2 old-web running")]
    {
        let engine = services(&names, json!({}), json!({})).await;
        engine.fail("start web-1", if old_one_fails { u32::MAX } else { 1 }, port.clone());
        let orders = names.iter().map(|name| only(name, Some("shop/web"))).collect();
        let reports = run_together(&context(&engine), orders).await;
        assert_eq!(reports[0].failed[0].fault, Some(Fault::Host), "{case}: {reports:?}");
        assert_eq!(engine.overview().pop().as_deref(), Some(second), "{case}: {reports:?}");
    }
}

#[tokio::test]
async fn f18_orders_of_a_later_poll_or_of_another_manifest_wait_for_the_earlier_ones_of_the_service() {
    let names = ["web-1", "web-2"];
    let engine = services(&names, json!({}), json!({})).await;
    let first = context(&engine);
    let mut second = OrderContext { manifest: "two".to_owned(), ..context(&engine) };
    (second.rollout, second.services) = (first.rollout.clone(), first.services.clone());
    let (one, two) = (only("web-1", Some("shop/web")), only("web-2", Some("shop/web")));
    let earlier = Batch::new(&first.services, vec![one.clone()]);
    let later = Batch::new(&second.services, vec![two.clone()]);
    let reports = tokio::join!(run_order(&second, &two, &later), run_order(&first, &one, &earlier));
    assert_eq!((reports.0.recreated.len(), reports.1.recreated.len()), (1, 1), "{reports:?}");
    let calls = engine.calls();
    let at = |call: &str| calls.iter().position(|line| line.starts_with(call)).unwrap();
    assert!(at("remove web-1.") < at("stop web-2"), "{calls:#?}");
}

#[tokio::test]
async fn a_batch_that_is_given_up_keeps_nobody_waiting() {
    let engine = services(&["web-1"], json!({}), json!({})).await;
    let context = context(&engine);
    let order = only("web-1", Some("shop/web"));
    let given_up = Batch::new(&context.services, vec![order.clone()]);
    let batch = Batch::new(&context.services, vec![order.clone()]);
    drop(given_up);
    assert_eq!(run_order(&context, &order, &batch).await.recreated, ["web-1"]);
}

#[tokio::test]
async fn f36_containers_on_one_volume_are_all_updated_or_none_whatever_failed() {
    let names = ["app", "cron"];
    let port = || EngineError::Refused { status: 500, message: "port is taken".to_owned() };
    for (case, new, failing, images, faults) in [
        ("good", json!({}), None, "new-web", vec![]),
        ("bad for the first", json!({ "BehavesAs": { "app": "exits" } }), None, "old-web", vec![Fault::Image; 2]),
        ("bad for the second", json!({ "BehavesAs": { "cron": "exits" } }), None, "old-web", vec![Fault::Image; 2]),
        ("a port of the first", json!({}), Some("start app"), "old-web", vec![Fault::Host; 2]),
        ("a port of the second", json!({}), Some("start cron"), "old-web", vec![Fault::Host; 2]),
    ] {
        let engine = services(&names, json!({ "Binds": ["data:/data"] }), new).await;
        if let Some(call) = failing {
            engine.fail(call, 1, port());
        }
        let orders: Vec<Order> = names.iter().map(|name| only(name, Some("cloud/app"))).collect();
        let reports = run_together(&context(&engine), orders).await;
        let expected: Vec<String> = names.iter().map(|name| format!("{name} {images} running")).collect();
        assert_eq!(engine.overview(), expected, "{case}: {reports:?}");
        let found: Vec<Fault> = reports.iter().flat_map(|report| &report.failed).filter_map(|f| f.fault).collect();
        assert_eq!(found, faults, "{case}: both are tried again at the same time: {reports:?}");
    }
}

#[tokio::test]
async fn f36_a_container_that_is_refused_keeps_the_others_on_its_volume_from_the_update_too() {
    for refused in ["app", "cron"] {
        let engine = services(&["app", "cron"], json!({ "Binds": ["data:/data"] }), json!({})).await;
        let id = engine.inspections()[refused]["Id"].as_str().unwrap().to_owned();
        engine.edit(&id, |c| c["Config"]["Labels"] = json!({ "com.docker.swarm.service.id": "x" }));
        let orders = ["app", "cron"].iter().map(|name| only(name, Some("g"))).collect();
        let reports = run_together(&context(&engine), orders).await;
        assert_eq!(engine.overview(), ["app old-web running", "cron old-web running"], "{refused}: {reports:?}");
        let faults: Vec<_> = reports.iter().flat_map(|report| &report.failed).map(|failure| failure.fault).collect();
        assert_eq!(faults, [Some(Fault::Refused); 2], "{reports:?}");
    }
}

#[tokio::test]
async fn f36_one_order_with_several_containers_on_a_volume_follows_the_same_rule() {
    let engine =
        services(&["ws-1", "ws-2"], json!({ "Binds": ["data:/data"] }), json!({ "BehavesAs": { "ws-2": "exits" } }))
            .await;
    let order = Order { reference: WEB.parse().unwrap(), digest: Some(digest('d')), ..order() };
    let report = run_alone(&context(&engine), &order).await;
    let failed: Vec<_> = report.failed.iter().map(|failure| (failure.container.as_str(), failure.fault)).collect();
    assert_eq!(failed, [("ws-1", Some(Fault::Image)), ("ws-2", Some(Fault::Image))], "{report:?}");
    assert!(report.failed[1].reason.starts_with("not touched, because ws-1 of the same update failed"), "{report:?}");
    assert!(report.recreated.is_empty(), "{report:?}");
    assert_eq!(engine.overview(), ["ws-1 old-web running", "ws-2 old-web running"]);
}

#[tokio::test]
async fn after_a_fault_of_the_image_the_other_containers_of_the_order_are_reported_as_not_updated() {
    let engine = services(&["ws-1", "ws-2"], json!({}), json!({ "Behaves": "exits" })).await;
    let order = Order { reference: WEB.parse().unwrap(), digest: Some(digest('d')), ..order() };
    let report = run_alone(&context(&engine), &order).await;
    let failed: Vec<_> = report.failed.iter().map(|failure| (failure.container.as_str(), failure.fault)).collect();
    assert_eq!(failed, [("ws-1", Some(Fault::Image)), ("ws-2", Some(Fault::Postponed))], "{report:?}");
    assert_eq!(engine.overview(), ["ws-1 old-web running", "ws-2 old-web running"]);
}

#[tokio::test]
async fn f36_who_is_not_granted_or_left_alone_by_its_label_is_not_updated_together_with_others() {
    let engine = services(&["app", "cron", "jobs"], json!({ "Binds": ["data:/data"] }), json!({})).await;
    let id = engine.inspections()["jobs"]["Id"].as_str().unwrap().to_owned();
    engine.edit(&id, |c| c["Config"]["Labels"] = json!({ "imagewatch.strategy": "notify" }));
    let context = OrderContext { is_granted: Arc::new(|c| c.name != "cron"), ..context(&engine) };
    run_together(&context, ["app", "cron", "jobs"].iter().map(|name| only(name, Some("g"))).collect()).await;
    assert_eq!(engine.overview(), ["app new-web running", "cron old-web running", "jobs old-web running"]);
}

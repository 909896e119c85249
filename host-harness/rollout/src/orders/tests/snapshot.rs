//! How often a batch reads from the engine.

use futures_util::future::join_all;

use super::*;

/// `count` containers, each of a repository of its own whose tag has moved, and the orders to move them.
async fn moved(count: usize) -> (Arc<MemoryEngine>, Vec<Order>) {
    let engine = MemoryEngine::new();
    let mut orders = Vec::new();
    for number in 0..count {
        let reference = format!("example.com/app-{number}:1");
        let image = |id: &str, fill: char| json!({ "Id": format!("{id}-{number}"), "RepoDigests": [format!("example.com/app-{number}@{}", digest(fill))] });
        engine.add_image(&reference, &image("old", 'a'));
        engine.add_container(&format!("app-{number}"), &reference, json!({}), true).await;
        engine.publish(&reference, image("new", 'b'));
        orders.push(Order {
            order: format!("order-{number}"),
            target: format!("app-{number}"),
            reference: reference.parse().unwrap(),
            containers: Selector { name: Some(format!("app-{number}")), ..Selector::default() },
            ..order()
        });
    }
    (Arc::new(engine), orders)
}

/// The reads of a batch that moves `count` containers: all lists, and all inspections of containers.
async fn reads_of_batch(count: usize) -> (usize, usize) {
    let (engine, orders) = moved(count).await;
    let context = context(&engine);
    let batch = Batch::new(&context.services, orders.clone());
    let before = engine.reads().len();
    let reports = join_all(orders.iter().map(|order| run_order(&context, order, &batch))).await;
    assert!(reports.iter().all(|report| report.recreated.len() == 1), "{reports:?}");
    let reads = engine.reads().split_off(before);
    let lists = reads.iter().filter(|read| read.starts_with("list")).count();
    let is_of_container = |read: &&String| read.starts_with("inspect") && !read.starts_with("inspect image");
    (lists, reads.iter().filter(is_of_container).count())
}

/// Each order lists and inspects what it changes, about 7 and 11 times. The other containers are inspected once for the whole
/// batch. The counts differ a little between runs, because orders that run side by side see each other's changes.
#[tokio::test(start_paused = true)]
async fn reads_of_a_batch_grow_with_its_orders_not_with_their_square() {
    for count in [10, 50] {
        let (lists, inspections) = reads_of_batch(count).await;
        println!("{count} orders: {lists} lists, {inspections} inspections");
        assert!(lists <= count * 10 && inspections <= count * 16, "{count}: {lists} lists, {inspections} inspections");
    }
}

//! Containers that a systemd unit makes, up to where `systemctl` is asked.

use super::*;

/// No machine has it.
const UNIT: &str = "imagewatch-test-no-such-unit.service";

/// `ws-1` is the unit's, changed by `edit`, and the only one. With its id.
async fn unit_engine(edit: impl FnOnce(&mut Value)) -> (Arc<MemoryEngine>, String) {
    let engine = engine().await;
    let id = engine.inspections()["ws-1"]["Id"].as_str().unwrap().to_owned();
    engine.edit(&id, |container| {
        container["Config"]["Labels"] = json!({ "PODMAN_SYSTEMD_UNIT": UNIT });
        edit(container);
    });
    (engine, id)
}

fn only_first() -> Order {
    Order { containers: Selector { name: Some("ws-1".to_owned()), ..Selector::default() }, ..order() }
}

#[tokio::test]
async fn a_units_container_is_left_as_any_other_would_be() {
    for (case, key, value, says, fault) in [
        ("paused", "State", json!({ "Running": true, "Paused": true }), "it is paused", Fault::Postponed),
        (
            "a label that cannot be read",
            "Config",
            json!({ "Image": REFERENCE, "Labels": { "PODMAN_SYSTEMD_UNIT": UNIT, "imagewatch.probe": "often" } }),
            "imagewatch.probe",
            Fault::Refused,
        ),
    ] {
        let (engine, _) = unit_engine(|container| container[key] = value).await;
        let report = run_alone(&context(&engine), &only_first()).await;
        let [failure] = &report.failed[..] else { panic!("{case}: {report:?}") };
        assert!(failure.reason.contains(says) && failure.fault == Some(fault), "{case}: {failure:?}");
    }
}

#[tokio::test]
async fn the_updater_does_not_restart_its_own_unit() {
    let (engine, id) = unit_engine(|_| {}).await;
    let mut ctx = context(&engine);
    let journal = Journal::new(tempfile::TempDir::new().unwrap().path().join("journal"));
    ctx.rollout = Arc::new(Rollout::new(engine.clone(), journal, Arc::new(MemoryRecords::default()), Some(id)));
    let report = run_alone(&ctx, &only_first()).await;
    let [failure] = &report.failed[..] else { panic!("{report:?}") };
    assert!(failure.reason.contains("it is this updater") && failure.fault == Some(Fault::Refused), "{failure:?}");
}

#[tokio::test]
async fn a_unit_whose_container_somebody_else_handled_meanwhile_is_not_restarted_again() {
    let (engine, id) = unit_engine(|_| {}).await;
    let ctx = context(&engine);
    let held = ctx.rollout.locks.lock(&["ws-1".to_owned()]).await;
    let meanwhile = async {
        // Until the order waits for the lock.
        while ctx.rollout.engine.inspect_image("new").await.unwrap().is_none() {
            tokio::task::yield_now().await;
        }
        for _ in 0..100 {
            tokio::task::yield_now().await;
        }
        engine.edit(&id, |container| container["Image"] = json!("new"));
        drop(held);
    };
    let order = only_first();
    let (report, ()) = tokio::join!(run_alone(&ctx, &order), meanwhile);
    assert!(report.failed.is_empty() && report.recreated.is_empty() && report.err.is_none(), "{report:?}");
}

//! Health checks that decide late, or never.

use super::*;

#[tokio::test(start_paused = true)]
async fn f17_where_the_engine_never_called_it_unhealthy_the_image_is_not_to_blame() {
    let labels = json!({ "imagewatch.health-timeout": "5s" });
    for (case, labels, wait) in [("its check's own times", json!({}), 240), ("a label", labels, 5)] {
        let body = json!({ "HostConfig": { "NetworkMode": "front" }, "Labels": labels });
        let stage = Stage::of(body, json!({ "Behaves": "starting" }), true).await;
        let (before, start) = (stage.picture(), tokio::time::Instant::now());
        let error = stage.replace("web").await.unwrap_err();
        assert_eq!((error.is_restored, error.step_error.fault), (true, Some(Fault::Host)), "{case}: {error}");
        assert!(error.reason.contains("it is not healthy yet"), "{case}: {error}");
        assert_eq!((stage.picture(), start.elapsed().as_secs()), (before, wait), "{case}");
    }
}

#[tokio::test(start_paused = true)]
async fn f17_a_good_image_whose_first_checks_come_late_or_fail_is_not_refused() {
    let minute = 60_000_000_000_u64;
    for (case, interval, healthy_after_min) in [("first check after 11 min", 11, 11), ("second check of 5 min", 5, 10)]
    {
        let stage = Stage::new(json!({ "Behaves": "starting" }), true).await;
        let engine = stage.engine.clone();
        let later = async {
            // As soon as it runs its check has the times of the recipe, and the engine's word comes when that says so.
            let started = async || {
                engine
                    .inspections()
                    .get("web")
                    .is_some_and(|web| web["Image"] == "new" && web["State"]["Running"] == true)
            };
            while !started().await {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            let id = engine.inspections()["web"]["Id"].as_str().unwrap().to_owned();
            engine.edit(&id, |c| {
                c["Config"]["Healthcheck"] = json!({ "Test": ["CMD", "true"], "Interval": interval * minute });
            });
            tokio::time::sleep(Duration::from_mins(healthy_after_min)).await;
            engine.edit(&id, |c| c["State"]["Health"]["Status"] = json!("healthy"));
        };
        let (replaced, ()) = tokio::join!(stage.replace("web"), later);
        assert!(replaced.is_ok(), "{case}: {replaced:?}");
        assert_eq!(stage.engine.overview(), ["web new running"], "{case}");
    }
}

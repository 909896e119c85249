//! Who goes along with a container that is replaced, and who is left alone then; what goes through the group's hooks.

use imagewatch_abi::Fault;
use serde_json::{Value, json};

use super::stage::{OTHER, REFERENCE, Stage};
use super::*;

/// What makes a container another one.
type Edit = Box<dyn FnOnce(&mut Value)>;

fn id_of(stage: &Stage, name: &str) -> String {
    stage.engine.inspections()[name]["Id"].as_str().unwrap().to_owned()
}

#[tokio::test(start_paused = true)]
async fn who_only_asked_to_be_restarted_is_left_alone_where_a_stop_would_be_its_end_or_is_not_ours_to_give() {
    let label = |key: &'static str, value: &'static str| {
        move |container: &mut Value| container["Config"]["Labels"][key] = json!(value)
    };
    let edits: [(&str, Edit); 6] = [
        ("made with --rm", Box::new(|container| container["HostConfig"]["AutoRemove"] = json!(true))),
        ("paused", Box::new(|container| container["State"]["Paused"] = json!(true))),
        ("compose run", Box::new(label("com.docker.compose.oneoff", "True"))),
        ("a unit's", Box::new(label("PODMAN_SYSTEMD_UNIT", "app.service"))),
        ("a swarm's", Box::new(label("com.docker.swarm.service.id", "x"))),
        ("a pod's", Box::new(label("io.kubernetes.pod.name", "x"))),
    ];
    for (case, edit) in edits {
        let stage = Stage::group(json!({})).await;
        stage.engine.edit(&id_of(&stage, "app"), edit);
        let before = stage.picture()["app"].clone();
        stage.replace("web").await.unwrap();
        assert_eq!(stage.picture().get("app"), Some(&before), "{case}");
        let is_touched = stage.engine.calls().iter().any(|call| call.contains("app"));
        assert!(!is_touched, "{case}: {:#?}", stage.engine.calls());
    }
}

#[tokio::test(start_paused = true)]
async fn one_that_goes_along_and_whose_image_is_gone_is_told_before_anything_is_touched() {
    let stage = Stage::group(json!({})).await;
    // Its image is remembered, so that its settings can be told; it cannot be created from that.
    stage.tend().await;
    stage.engine.forget_image("other");
    let error = stage.replace("web").await.unwrap_err();
    assert_eq!(error.step_error.fault, Some(Fault::Refused), "{error}");
    assert!(error.reason.starts_with("vpn-user cannot live without it, but its image"), "{error}");
    assert_eq!(stage.engine.calls(), Vec::<String>::new());
}

#[tokio::test(start_paused = true)]
async fn a_new_image_that_is_gone_again_is_pulled_with_the_next_poll() {
    let stage = Stage::new(json!({}), true).await;
    stage.engine.forget_image("new");
    let error = stage.replace("web").await.unwrap_err();
    assert_eq!(error.step_error.fault, Some(Fault::Postponed), "{error}");
}

#[tokio::test(start_paused = true)]
async fn a_container_that_does_not_answer_and_has_nothing_to_do_with_it_is_no_obstacle() {
    let stage = Stage::new(json!({}), true).await;
    stage.engine.add_container("stranger", REFERENCE, json!({}), true).await;
    let hangs = EngineError::Timeout { action: "inspect".to_owned(), limit: Duration::from_mins(2) };
    stage.engine.fail("inspect stranger", u32::MAX, hangs.clone());
    stage.replace("web").await.unwrap();

    let stage = Stage::new(json!({}), true).await;
    stage.engine.fail("inspect web", u32::MAX, hangs);
    assert_eq!(stage.replace("web").await.unwrap_err().step_error.fault, Some(Fault::Host), "unless it is the one");
}

/// A group of which the one that goes along has hooks, too.
async fn hooked(pre_check: &str, pre_update: &str) -> Stage {
    let stage = Stage::labelled(&json!({ "imagewatch.hook.post-update": "after web" })).await;
    stage.engine.add_image(OTHER, &json!({ "Id": "other" }));
    let labels = json!({
        "imagewatch.hook.pre-check": pre_check, "imagewatch.hook.pre-update": pre_update,
        "imagewatch.hook.post-update": "after user",
    });
    let shared = json!({ "HostConfig": { "NetworkMode": "container:web" }, "Labels": labels });
    stage.engine.add_container("vpn-user", OTHER, shared, true).await;
    stage
}

#[tokio::test(start_paused = true)]
async fn the_hooks_of_one_that_goes_along_are_run_and_can_put_all_of_it_off() {
    let stage = hooked("check", "before").await;
    stage.replace("web").await.unwrap();
    let calls = stage.engine.calls();
    let at = |state: &str| {
        calls.iter().position(|call| call.contains(state)).unwrap_or_else(|| panic!("{state}: {calls:#?}"))
    };
    assert!(at("exec vpn-user /bin/sh -c check") < at("create web."), "{calls:#?}");
    assert!(at("exec vpn-user /bin/sh -c before") < at("stop vpn-user"), "{calls:#?}");
    assert!(at("remove web.") < at("exec web /bin/sh -c after web"), "{calls:#?}");
    assert!(at("remove web.") < at("exec vpn-user /bin/sh -c after user"), "{calls:#?}");

    for (pre_check, pre_update) in [("exit 75", "before"), ("check", "exit 75")] {
        let stage = hooked(pre_check, pre_update).await;
        let before = stage.picture();
        let error = stage.replace("web").await.unwrap_err();
        assert_eq!(error.step_error.fault, Some(Fault::Postponed), "{error}");
        assert!(error.reason.starts_with("vpn-user cannot live without it, but its imagewatch.hook"), "{error}");
        assert!(!stage.engine.calls().iter().any(|call| call.starts_with("stop")), "{:#?}", stage.engine.calls());
        assert_eq!(stage.picture(), before);
    }
}

#[tokio::test(start_paused = true)]
async fn a_probe_that_nobody_can_answer_is_told_before_anything_is_touched() {
    let stage = Stage::labelled(&json!({ "imagewatch.probe": "tcp:80" })).await;
    let error = stage.replace("web").await.unwrap_err();
    assert!(error.step_error.fault == Some(Fault::Refused) && error.reason.contains("imagewatch.probe"), "{error}");
    assert_eq!(stage.engine.calls(), Vec::<String>::new());
}

#[tokio::test(start_paused = true)]
async fn a_probe_that_was_not_answered_before_is_not_the_fault_of_the_new_image() {
    let stage = Stage::labelled(&json!({ "imagewatch.probe": "tcp:1" })).await;
    let id = id_of(&stage, "web");
    stage.engine.edit(&id, |c| c["NetworkSettings"]["Networks"]["front"]["IPAddress"] = json!("127.0.0.1"));
    stage.replace("web").await.unwrap();
    assert_eq!(stage.engine.overview(), ["web new running"]);
}

//! Containers that write to one volume: all of them come to run the new image, one after the other, or none does.

use imagewatch_abi::Fault;
use serde_json::{Value, json};

use super::stage::{OTHER, REFERENCE, Stage};

fn id_of(stage: &Stage, name: &str) -> String {
    stage.engine.inspections()[name]["Id"].as_str().unwrap().to_owned()
}

/// Where in the engine's calls each of these is.
fn positions(stage: &Stage, calls: &[&str]) -> Vec<usize> {
    let made = stage.engine.calls();
    let at = |state: &&str| made.iter().position(|call| call == state).unwrap_or_else(|| panic!("{state}: {made:#?}"));
    calls.iter().map(at).collect()
}

#[tokio::test(start_paused = true)]
async fn f36_members_are_updated_one_after_the_other_and_the_next_one_runs_until_its_turn() {
    let stage = Stage::companions(json!({ "Behaves": "healthy" })).await;
    let replaced = stage.replace("web").await.unwrap();
    assert_eq!(replaced.containers, ["web", "cron", "cron-user", "jobs"]);
    let expected = ["cron new running", "cron-user other running", "jobs new running", "web new running"];
    assert_eq!(stage.engine.overview(), expected);
    let order = positions(
        &stage,
        &[
            "stop web",
            "start web",
            "stop cron-user",
            "stop cron",
            "start cron",
            "start cron-user",
            "stop jobs",
            "start jobs",
        ],
    );
    assert!(order.is_sorted(), "{order:?}: {:#?}", stage.engine.calls());
}

#[tokio::test(start_paused = true)]
async fn f36_a_member_that_writes_its_image_in_full_is_updated_with_the_others() {
    let stage = Stage::companions(json!({ "Behaves": "healthy" })).await;
    stage.engine.add_image("nextcloud:29", &json!({ "Id": "new", "Behaves": "healthy" }));
    for (name, image) in [("web", "nextcloud:29"), ("cron", "docker.io/library/nextcloud:29"), ("jobs", "nextcloud:29")]
    {
        stage.engine.edit(&id_of(&stage, name), |c| c["Config"]["Image"] = json!(image));
    }
    let replaced = stage.replace("web").await.unwrap();
    assert_eq!(replaced.containers, ["web", "cron", "cron-user", "jobs"]);
}

#[tokio::test(start_paused = true)]
async fn f36_where_a_later_member_fails_all_that_were_updated_go_back_and_the_rest_is_never_touched() {
    let stage = Stage::companions(json!({ "BehavesAs": { "cron": "exits" } })).await;
    let before = stage.picture();
    let error = stage.replace("web").await.unwrap_err();
    assert_eq!(
        (error.step_error.fault, error.is_restored, error.is_down),
        (Some(Fault::Image), true, false),
        "{error}"
    );
    assert!(error.reason.contains("the new container of cron did not pass"), "{error}");
    let now = stage.picture();
    for name in ["web", "cron", "jobs"] {
        assert_eq!(now[name], before[name], "{name}");
    }
    let touches_jobs = |call: &&String| call.contains(" jobs") && !call.contains(" jobs.");
    let calls = stage.engine.calls();
    assert_eq!(calls.iter().find(touches_jobs), None, "{calls:#?}");
}

#[tokio::test(start_paused = true)]
async fn a_member_that_cannot_be_replaced_keeps_all_from_it() {
    let stage = Stage::companions(json!({})).await;
    stage.engine.edit(&id_of(&stage, "jobs"), |c| c["Config"]["Labels"] = json!({ "imagewatch.probe": "often" }));
    let before = stage.picture();
    let error = stage.replace("web").await.unwrap_err();
    assert_eq!(error.step_error.fault, Some(Fault::Refused), "{error}");
    assert!(error.reason.starts_with("jobs ") && error.reason.contains("imagewatch.probe"), "{error}");
    assert_eq!((stage.picture(), stage.engine.calls()), (before, Vec::new()));
}

#[tokio::test(start_paused = true)]
async fn who_is_on_the_image_already_or_on_another_reference_is_no_member() {
    type Edit = fn(&mut Value);
    let edits: [(&str, Edit); 2] = [
        ("on the image", |c| c["Image"] = json!("new")),
        ("on another reference", |c| c["Config"]["Image"] = json!(OTHER)),
    ];
    for (case, edit) in edits {
        let stage = Stage::companions(json!({})).await;
        stage.engine.edit(&id_of(&stage, "jobs"), edit);
        let replaced = stage.replace("web").await.unwrap();
        assert_eq!(replaced.containers, ["web", "cron", "cron-user"], "{case}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_member_that_shares_the_network_of_the_first_one_or_restarts_with_it_is_updated_too() {
    for (case, host, labels) in [
        ("its network", json!({ "NetworkMode": "container:web" }), json!({})),
        ("restarted with it", json!({}), json!({ "imagewatch.depends-on": "web" })),
    ] {
        let mut stage = Stage::companions(json!({ "Behaves": "healthy" })).await;
        stage.companions = vec!["member".to_owned()];
        stage.engine.add_image(REFERENCE, &json!({ "Id": "old" }));
        let mut host = host;
        host["Binds"] = json!(["data:/data"]);
        let body = json!({ "HostConfig": host, "Labels": labels });
        stage.engine.add_container("member", REFERENCE, body, true).await;
        stage.pull_again().await;
        let replaced = stage.replace("web").await.unwrap();
        assert_eq!(replaced.containers, ["web", "member"], "{case}");
        assert_eq!(stage.picture()["member"]["image"], json!("new"), "{case}");
        let order = positions(&stage, &["start web", "start member"]);
        assert!(order.is_sorted(), "{case}: {:#?}", stage.engine.calls());
    }
}

#[tokio::test(start_paused = true)]
async fn a_container_that_needs_two_members_is_told_before_anything_is_touched() {
    let stage = Stage::companions(json!({})).await;
    stage.engine.edit(&id_of(&stage, "cron-user"), |c| c["HostConfig"]["VolumesFrom"] = json!(["web"]));
    let error = stage.replace("web").await.unwrap_err();
    assert!(error.reason.starts_with("cron-user needs both web and cron"), "{error}");
    assert_eq!(stage.engine.calls(), Vec::<String>::new());
}

//! Whole transactions on the engine in memory: how they go, what each failure leaves, and what is there after a
//! death at any call. Time passes by itself.

#![allow(clippy::unwrap_used, clippy::panic)]

mod along;
mod cleaned_up;
mod companions;
mod interrupted;
mod left_over;
mod slow_checks;
mod stage;
mod updater;

use imagewatch_abi::Fault;
use serde_json::{Value, json};

use super::*;
use imagewatch_engine::testing::{Interruption, MemoryEngine};
use stage::{REFERENCE, Stage, refused};

/// The calls of one that goes well, with the transaction's id written as T.
async fn calls_of(stage: &Stage) -> Vec<String> {
    stage.replace("web").await.unwrap();
    let calls = stage.engine.calls();
    let id = calls.iter().find_map(|call| call.strip_prefix("create web.")?.strip_suffix(".new")).unwrap().to_owned();
    calls.iter().map(|call| call.replace(&id, "T")).collect()
}

#[tokio::test(start_paused = true)]
async fn the_new_container_is_complete_before_the_old_one_is_touched_and_the_old_one_goes_last() {
    let stage = Stage::new(json!({}), true).await;
    let expected = [
        "create web.T.new",
        "connect web.T.new to back",
        "policy web no",
        "stop web",
        "rename web to web.T.old",
        "rename web.T.new to web",
        "start web",
        "remove web.T.old",
    ];
    assert_eq!(calls_of(&stage).await, expected);
    assert_eq!(stage.engine.overview(), ["web new running"]);
    assert_eq!(
        stage.engine.inspections()["web"]["HostConfig"]["RestartPolicy"]["Name"],
        "always",
        "not the disarmed one"
    );
}

#[tokio::test(start_paused = true)]
async fn t38_with_start_first_the_new_one_is_healthy_before_the_old_one_is_stopped() {
    let stage = Stage::new(json!({ "Behaves": "healthy" }), true).await.start_first();
    let calls = calls_of(&stage).await;
    let expected = [
        "create web.T.new",
        "connect web.T.new to back",
        "start web.T.new",
        "policy web no",
        "rename web to web.T.old",
        "rename web.T.new to web",
        "stop web.T.old",
        "remove web.T.old",
    ];
    assert_eq!(calls, expected);
}

#[tokio::test(start_paused = true)]
async fn t39_what_cannot_be_started_first_is_stopped_first() {
    let mut stage = Stage::new(json!({ "Behaves": "healthy" }), true).await;
    stage.strategy = Strategy::StartFirst;
    assert!(calls_of(&stage).await.contains(&"stop web".to_owned()), "it publishes a port");
}

#[tokio::test(start_paused = true)]
async fn t39_on_a_swarm_node_only_a_container_whose_networks_know_its_name_is_started_first() {
    let refused = || EngineError::Forbidden { call: "GET /info".to_owned(), status: 403 };
    for (case, is_swarm, is_known, alias, is_started_first) in [
        ("no swarm", false, true, "www", true),
        ("a swarm", true, true, "www", false),
        ("a swarm, where its name is an alias", true, true, "web", true),
        ("nobody knows", false, false, "www", false),
        ("nobody knows, where its name is an alias", false, false, "web", true),
    ] {
        let stage = Stage::new(json!({ "Behaves": "healthy" }), true).await.start_first();
        let id = stage.engine.inspections()["web"]["Id"].as_str().unwrap().to_owned();
        stage.engine.edit(&id, |c| {
            for (_, endpoint) in c["NetworkSettings"]["Networks"].as_object_mut().unwrap() {
                endpoint["Aliases"] = json!([alias]);
            }
        });
        stage.engine.set_swarm(is_swarm);
        if !is_known {
            stage.engine.fail("inspect info", 1, refused());
        }
        let calls = calls_of(&stage).await;
        assert_eq!(calls.contains(&"start web.T.new".to_owned()), is_started_first, "{case}: {calls:#?}");
    }
}

#[tokio::test(start_paused = true)]
async fn t44_a_stopped_container_is_replaced_and_left_stopped() {
    let stage = Stage::new(json!({}), false).await;
    stage.replace("web").await.unwrap();
    assert_eq!(stage.engine.overview(), ["web new created"]);
}

#[tokio::test(start_paused = true)]
async fn whatever_step_fails_the_old_container_is_as_before_and_alone() {
    for (failing, says, is_restored, fault) in [
        ("inspect image old", "failed to inspect the container's image", false, Fault::Host),
        ("create", "failed to create the new container", false, Fault::Refused),
        ("connect", "failed to connect the new container to its networks", false, Fault::Host),
        ("policy", "failed to change the policy of web", true, Fault::Host),
        ("stop", "failed to stop web", true, Fault::Host),
        ("rename web to", "failed to rename the old container", true, Fault::Host),
        ("rename web.", "failed to rename the new container", true, Fault::Host),
        ("start", "failed to start the new container", true, Fault::Host),
    ] {
        for running in [true, false] {
            if failing == "start" && !running {
                continue;
            }
            let stage = Stage::new(json!({}), running).await;
            let before = stage.picture();
            stage.engine.fail(failing, 1, refused());
            let error = stage.replace("web").await.unwrap_err();
            assert!(error.reason.starts_with(says) && error.reason.contains("no space left"), "{failing}: {error}");
            assert_eq!((error.is_restored, error.step_error.fault), (is_restored, Some(fault)), "{failing}");
            assert_eq!(stage.picture(), before, "{failing}, running: {running}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn t21_a_new_container_that_fails_makes_room_for_the_old_one_at_once() {
    for (behaves, says) in
        [("exits", "exited with code 3"), ("restarts", "is being restarted"), ("unhealthy", "it is unhealthy")]
    {
        let stage = Stage::new(json!({ "Behaves": behaves }), true).await;
        let before = stage.picture();
        let start = tokio::time::Instant::now();
        let error = stage.replace("web").await.unwrap_err();
        assert!(error.is_restored && error.reason.contains(says), "{behaves}: {error}");
        assert_eq!(error.step_error.fault, Some(Fault::Image), "{behaves}");
        assert_eq!(error.step_error.log, ["line 0 of web", "line 1 of web"], "{behaves}");
        assert!(start.elapsed() < Duration::from_secs(1), "{behaves}: at once");
        assert_eq!(stage.picture(), before, "{behaves}");
    }
}

#[tokio::test(start_paused = true)]
async fn t32_a_tag_that_moved_after_the_pull_leaves_the_container_alone() {
    let stage = Stage::new(json!({}), true).await;
    stage.engine.add_image(REFERENCE, &json!({ "Id": "newer" }));
    let error = stage.replace("web").await.unwrap_err();
    assert!(!error.is_restored && error.reason.contains("its tag moved"), "{error}");
    assert_eq!(error.step_error.fault, Some(Fault::Postponed), "the next poll sees where it moved to");
    assert_eq!(stage.engine.overview(), ["web old running"]);
    assert!(!stage.engine.calls().contains(&"stop web".to_owned()));
}

#[tokio::test(start_paused = true)]
async fn t26_an_old_container_whose_port_was_taken_comes_back_as_soon_as_that_is_free() {
    let stage = Stage::new(json!({ "Behaves": "exits" }), true).await;
    let before = stage.picture();
    stage.engine.fail("start", u32::MAX, refused());
    let error = stage.replace("web").await.unwrap_err();
    assert!(!error.is_restored && error.reason.contains("could not be brought back yet"), "{error}");
    let web = &stage.picture()["web"];
    assert_eq!(
        (&web["id"], &web["policy"]),
        (&before["web"]["id"], &before["web"]["policy"]),
        "it has its name at least"
    );
    stage.tend().await;
    assert_eq!(stage.engine.inspections()["web"]["State"]["Running"], json!(false));
    let again = stage.replace("web").await.unwrap_err();
    assert!(again.reason.contains("an earlier replacement of it is not over"), "{again}");
    stage.engine.heal();
    stage.tend().await;
    assert_eq!(stage.picture(), before);
}

#[tokio::test(start_paused = true)]
async fn t27_a_new_container_that_could_not_be_started_is_made_anew_and_never_started_again() {
    let stage = Stage::new(json!({}), true).await;
    stage.engine.fail("start", 1, refused());
    stage.replace("web").await.unwrap_err();
    assert_eq!(stage.engine.overview(), ["web old running"], "it is gone");
    stage.replace("web").await.unwrap();
    let creates = stage.engine.calls().iter().filter(|call| call.starts_with("create")).count();
    assert_eq!((creates, stage.engine.overview()), (2, vec!["web new running".to_owned()]));
}

#[tokio::test(start_paused = true)]
async fn t26_networks_that_an_engine_takes_away_are_given_back() {
    let stage = Stage::new(json!({ "Behaves": "exits" }), true).await;
    let before = stage.picture();
    let id = stage.engine.inspections()["web"]["Id"].as_str().unwrap().to_owned();
    let record = stage.preflight("web").await.unwrap().unwrap();
    stage.engine.edit(&id, |c| c["NetworkSettings"]["Networks"] = json!({ "front": { "Aliases": ["www"] } }));
    let mut job = stage.job();
    let error = stage.rollout.replace(record, &mut job).await.unwrap_err();
    assert!(error.is_restored, "{error}");
    assert_eq!(stage.picture(), before);
}

#[tokio::test(start_paused = true)]
async fn an_engine_that_goes_away_is_told_apart_from_a_refusal() {
    let stage = Stage::new(json!({}), true).await;
    let away = EngineError::Unavailable { host: "unix:///x.sock".to_owned(), reason: "refused".to_owned() };
    stage.engine.fail("stop", 1, away);
    let error = stage.replace("web").await.unwrap_err();
    assert!(error.step_error.engine_unreachable && error.is_restored, "{error}");
    assert_eq!(error.step_error.fault, None, "nothing is wrong with the image or the machine");
}

#[tokio::test(start_paused = true)]
async fn a_new_container_on_its_way_out_is_not_started_again_by_the_engine_while_it_is_stopped() {
    let stage = Stage::new(json!({ "Behaves": "unhealthy" }), true).await;
    stage.replace("web").await.unwrap_err();
    let calls = stage.engine.calls();
    let start = calls.iter().position(|call| call.starts_with("start")).unwrap();
    assert!(calls[start + 1].starts_with("policy") && calls[start + 2].starts_with("stop"), "{calls:#?}");
}

#[tokio::test(start_paused = true)]
async fn t33_settings_are_told_from_an_image_that_is_gone_only_if_it_was_seen() {
    for is_seen in [true, false] {
        let stage = Stage::new(json!({}), true).await;
        if is_seen {
            stage.tend().await;
        }
        stage.engine.forget_image("old");
        match stage.replace("web").await {
            Ok(_) => assert!(is_seen),
            Err(error) => {
                assert!(!is_seen && error.reason.contains("was never seen"), "{error}");
                assert_eq!(error.step_error.fault, Some(Fault::Refused));
                assert_eq!(stage.engine.calls(), Vec::<String>::new());
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn hooks_are_run_in_order_and_can_put_a_replacement_off() {
    let labels = |pre_update: &str| json!({ "imagewatch.hook.pre-check": "check", "imagewatch.hook.pre-update": pre_update, "imagewatch.hook.post-update": "after" });
    for (pre_update, expected) in [("before", None), ("exit 75", Some(Fault::Postponed)), ("exit 1", Some(Fault::Host))]
    {
        let stage = Stage::labelled(&labels(pre_update)).await;
        let replaced = stage.replace("web").await;
        assert_eq!(replaced.as_ref().err().map(|error| error.step_error.fault), expected.map(Some), "{replaced:?}");
        let calls = stage.engine.calls();
        let at = |state: &str| calls.iter().position(|call| call.contains(state));
        assert!(at("sh -c check") < at("create web."), "{calls:?}");
        assert!(at("create web.") < at(&format!("sh -c {pre_update}")), "{calls:?}");
        if expected.is_none() {
            assert!(
                at("sh -c before") < at("stop web") && at("remove web.") < at("exec web /bin/sh -c after"),
                "{calls:?}"
            );
        } else {
            assert_eq!((at("stop web"), stage.engine.overview()), (None, vec!["web old running".to_owned()]));
        }
    }
}

#[tokio::test(start_paused = true)]
async fn t17_who_cannot_live_without_it_is_made_again_after_it_and_who_asks_is_restarted() {
    let stage = Stage::group(json!({})).await;
    let calls = calls_of(&stage).await;
    let at = |call: &str| calls.iter().position(|line| line == call).unwrap_or_else(|| panic!("{call} in {calls:#?}"));
    assert!(at("stop app") < at("stop vpn-user") && at("stop vpn-user") < at("stop web"));
    assert!(
        at("start web") < at("create vpn-user.T.new") && at("rename vpn-user.T.new to vpn-user") < at("start vpn-user")
    );
    assert!(at("start vpn-user") < at("start app") && at("remove vpn-user.T.old") < at("remove web.T.old"));
    let now = stage.engine.inspections();
    let parent = format!("container:{}", now["web"]["Id"].as_str().unwrap());
    assert_eq!(now["vpn-user"]["HostConfig"]["NetworkMode"], parent.as_str(), "the new one's");
    assert_eq!(stage.engine.overview(), ["app other running", "vpn-user other running", "web new running"]);
}

#[tokio::test(start_paused = true)]
async fn t20_if_one_of_a_group_fails_all_are_back_on_the_old_ids() {
    let stage = Stage::group(json!({})).await;
    let before = stage.picture();
    stage.engine.fail("start vpn-user", 1, refused());
    let error = stage.replace("web").await.unwrap_err();
    assert!(error.is_restored, "{error}");
    assert_eq!(stage.picture(), before);
}

#[tokio::test(start_paused = true)]
async fn one_that_goes_along_stays_on_its_image_and_is_not_the_fault_of_the_new_one() {
    let stage = Stage::group(json!({})).await;
    stage.engine.add_image(stage::OTHER, &json!({ "Id": "newer" }));
    stage.replace("web").await.unwrap();
    assert_eq!(stage.engine.inspections()["vpn-user"]["Image"], "other", "nobody asked to update it");
    assert_eq!(stage.engine.tagged(stage::OTHER).as_deref(), Some("newer"), "its tag is as it was");

    let stage = Stage::group(json!({})).await;
    stage.engine.add_image(stage::OTHER, &json!({ "Id": "other", "BehavesBeside": { "new": "unhealthy" } }));
    let error = stage.replace("web").await.unwrap_err();
    assert_eq!(error.step_error.fault, Some(Fault::Host), "{error}");
}

#[tokio::test(start_paused = true)]
async fn t16_one_that_goes_when_it_is_stopped_is_replaced_or_made_again_from_what_was_written_down() {
    let stage = Stage::with(json!({ "AutoRemove": true, "Binds": ["/data"] }), json!({}), true).await;
    stage.replace("web").await.unwrap();
    let now = &stage.engine.inspections()["web"];
    assert_eq!((&now["Image"], &now["State"]["Status"]), (&json!("new"), &json!("running")));

    let stage =
        Stage::with(json!({ "AutoRemove": true, "Binds": ["/data"] }), json!({ "Behaves": "exits" }), true).await;
    let volume = stage.engine.inspections()["web"]["Mounts"][0]["Name"].clone();
    let error = stage.replace("web").await.unwrap_err();
    assert!(error.is_restored, "{error}");
    assert_eq!(stage.engine.overview(), ["web old running"]);
    assert_eq!(stage.engine.inspections()["web"]["Mounts"][0]["Name"], volume, "with the same data");
}

#[tokio::test(start_paused = true)]
async fn t35_what_is_refused_is_not_touched() {
    for (case, labels, changes) in [
        ("swarm task", json!({ "com.docker.swarm.service.id": "x" }), Value::Null),
        ("compose config", json!({ "com.docker.compose.project": "p" }), json!([{ "Path": "/app.conf", "Kind": 1 }])),
    ] {
        let stage = Stage::labelled(&labels).await;
        let id = stage.engine.inspections()["web"]["Id"].as_str().unwrap().to_owned();
        stage.engine.edit(&id, |c| c["TestChanges"] = changes);
        let error = stage.replace("web").await.unwrap_err();
        assert_eq!(error.step_error.fault, Some(Fault::Refused), "{case}: {error}");
        assert_eq!(stage.engine.calls(), Vec::<String>::new(), "{case}");
    }
}

#[tokio::test(start_paused = true)]
async fn t28_containers_that_only_look_like_ours_are_left_alone() {
    let stage = Stage::new(json!({}), true).await;
    for name in ["web.0a1b2c3d.new", "web.0a1b2c3d.old"] {
        stage.engine.add_container(name, REFERENCE, json!({}), false).await;
    }
    stage.replace("web").await.unwrap();
    stage.tend().await;
    assert_eq!(
        stage.engine.overview(),
        ["web new running", "web.0a1b2c3d.new new created", "web.0a1b2c3d.old new created"]
    );
}

#[tokio::test(start_paused = true)]
async fn t46_a_podman_container_whose_address_cannot_be_carried_is_refused_and_a_simple_one_is_replaced() {
    for (command, is_refused) in
        [(json!(["podman", "run", "--ip", "10.88.0.9", "app"]), true), (json!(["podman", "run", "-d", "app"]), false)]
    {
        let stage = Stage::labelled(&json!({})).await;
        let api = imagewatch_engine::ApiVersion { major: 1, minor: 41 };
        stage.engine.set_facts(imagewatch_engine::EngineFacts { api, is_podman: true });
        let id = stage.engine.inspections()["web"]["Id"].as_str().unwrap().to_owned();
        stage.engine.edit(&id, |c| c["TestLibpod"] = json!({ "Config": { "CreateCommand": command } }));
        let replaced = stage.replace("web").await;
        assert_eq!(replaced.is_err(), is_refused, "{replaced:?}");
        assert_eq!(stage.engine.calls().is_empty(), is_refused, "{:?}", stage.engine.calls());
    }
}

#[tokio::test(start_paused = true)]
async fn a_label_that_cannot_be_read_is_told_before_anything_is_touched() {
    for label in ["imagewatch.probe", "imagewatch.stable-for", "imagewatch.drain", "imagewatch.hook.timeout"] {
        let stage = Stage::labelled(&json!({ label: "often" })).await;
        let error = stage.replace("web").await.unwrap_err();
        assert!(error.step_error.fault == Some(Fault::Refused) && error.reason.contains(label), "{error}");
        assert_eq!(stage.engine.calls(), Vec::<String>::new());
    }
}

#[tokio::test(start_paused = true)]
async fn removing_takes_a_container_that_is_gone_already_for_done() {
    let stage = Stage::new(json!({}), true).await;
    let id = stage.engine.inspections()["web"]["Id"].as_str().unwrap().to_owned();
    stage.rollout.remove(&id).await.unwrap();
    stage.rollout.remove(&id).await.unwrap();
    assert_eq!(stage.engine.overview(), Vec::<String>::new());
}

#[tokio::test(start_paused = true)]
async fn a_container_that_somebody_removes_meanwhile_leaves_the_new_one_or_is_made_again() {
    for (case, new, lost_at, expected, is_restored) in [
        ("before it is renamed", json!({}), 3, "web new running", None),
        ("while the new one is watched", json!({ "Behaves": "unhealthy" }), 5, "web old running", Some(true)),
        ("on the way back", json!({ "Behaves": "unhealthy" }), 7, "web old running", Some(true)),
    ] {
        let stage = Stage::new(new, true).await;
        let before = stage.picture()["web"].clone();
        let old = before["id"].as_str().unwrap().to_owned();
        stage.engine.interrupt(lost_at, Interruption::Lose(old));
        let ended = stage.replace("web").await;
        assert_eq!(ended.as_ref().err().map(|error| error.is_restored), is_restored, "{case}: {ended:?}");
        assert_eq!(stage.engine.overview(), [expected], "{case}: {:#?}", stage.engine.calls());
        let web = &stage.picture()["web"];
        for what in ["policy", "networks"] {
            assert_eq!(web[what], before[what], "{case}: {what}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_daemon_that_is_restarted_while_the_new_container_is_watched_is_no_fault_of_the_image() {
    for policy in ["always", "no"] {
        let host = json!({ "RestartPolicy": { "Name": policy } });
        let stage = Stage::with(host, json!({}), true).await;
        let job = async { stage.replace("web").await };
        let restart = async {
            while !stage.engine.calls().iter().any(|call| call.starts_with("start")) {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            stage.engine.fail(
                "inspect web",
                2,
                EngineError::Unavailable { host: "x".to_owned(), reason: "y".to_owned() },
            );
            stage.engine.restart_daemon();
        };
        let (ended, ()) = tokio::join!(job, restart);
        match ended {
            Ok(_) => assert_eq!((policy, stage.engine.overview()), ("always", vec!["web new running".to_owned()])),
            Err(error) => {
                assert_eq!((policy, error.step_error.fault), ("no", None), "{error}");
                assert_eq!(stage.engine.overview(), ["web old running"]);
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_failure_is_told_again_by_the_next_program_until_the_policy_has_taken_it() {
    let mut stage = Stage::new(json!({ "Behaves": "exits" }), true).await;
    stage.replace_untold("web").await.unwrap_err();
    assert_eq!(stage.rollout.failures_before(""), [], "this program tells it itself");
    for _ in 0..2 {
        stage.restart_program();
        let [report] = &stage.rollout.failures_before("")[..] else { panic!("one failure") };
        assert_eq!((report.target.as_str(), report.failed[0].fault), ("web", Some(Fault::Image)));
        assert_eq!(stage.rollout.failures_before(""), [], "once");
    }
    stage.rollout.settled("", "web");
    stage.restart_program();
    assert_eq!((stage.rollout.failures_before(""), stage.journal_files()), (vec![], 0));
}

#[tokio::test(start_paused = true)]
async fn what_had_failed_is_not_tried_again_before_the_policy_knows() {
    let mut stage = Stage::new(json!({ "Behaves": "exits" }), true).await;
    stage.die_replacing(6, Interruption::DieAfter).await; // the start
    stage.restart_program();
    let error = stage.replace_untold("web").await.unwrap_err();
    assert_eq!(error.step_error.fault, Some(Fault::Postponed), "{error}");
    assert_eq!(stage.engine.overview(), ["web old running"]);
    assert_eq!(stage.tend().await.len(), 1);
}

#[tokio::test(start_paused = true)]
async fn t26_networks_that_a_start_took_away_are_given_back_by_the_next_program_too() {
    let mut stage = Stage::new(json!({ "Behaves": "exits" }), true).await;
    let before = stage.picture()["web"].clone();
    let thief = json!({ "HostConfig": { "PortBindings": { "80/tcp": [{ "HostIp": "", "HostPort": "8080" }] } } });
    let thief = stage.engine.add_container("thief", REFERENCE, thief, false).await;
    // From now on nobody else gets it.
    stage.engine.edit(&thief, |c| c["State"]["Running"] = json!(true));
    assert!(!stage.replace("web").await.unwrap_err().is_restored, "its port is taken");
    assert_eq!(stage.picture()["web"]["networks"], json!({}), "as Docker 29 does it");
    stage.restart_program();
    stage.engine.edit(&thief, |c| c["State"]["Running"] = json!(false));
    stage.tend().await;
    assert_eq!(stage.picture()["web"], before);
}

//! What somebody else finds: the next poll, the next program, another program.

use std::collections::BTreeSet;

use futures_util::future::join_all;
use imagewatch_abi::Fault;
use serde_json::json;

use super::stage::{OTHER, REFERENCE, Stage, refused};
use super::*;
use imagewatch_engine::testing::Interruption;

#[tokio::test(start_paused = true)]
async fn t30_an_old_container_that_cannot_be_removed_yet_is_removed_by_the_next_poll() {
    let stage = Stage::new(json!({}), true).await;
    stage.engine.fail("remove", 1, refused());
    stage.replace("web").await.unwrap();
    assert_eq!(stage.engine.overview().len(), 2);
    stage.tend().await;
    assert_eq!(stage.engine.overview(), ["web new running"]);
}

#[tokio::test(start_paused = true)]
async fn a_policy_that_was_taken_away_on_the_way_back_is_given_again_when_it_goes_forwards_after_all() {
    let mut stage = Stage::new(json!({}), true).await;
    let before = stage.picture();
    stage.engine.fail("remove", 1, refused());
    stage.replace("web").await.unwrap();
    let new = stage.engine.inspections()["web"]["Id"].as_str().unwrap().to_owned();
    stage.engine.edit(&new, |c| c["HostConfig"]["RestartPolicy"] = json!({ "Name": "no" }));
    stage.restart_program();
    stage.wipe_journal();
    stage.tend().await;
    assert_eq!(stage.engine.overview(), ["web new running"]);
    assert_eq!(stage.picture()["web"]["policy"], before["web"]["policy"]);
}

#[tokio::test(start_paused = true)]
async fn t41_two_programs_that_begin_at_once_leave_it_at_that() {
    let stage = Stage::new(json!({}), true).await;
    let other = Stage::sharing(&stage);
    let (ours, theirs) =
        (stage.preflight("web").await.unwrap().unwrap(), other.preflight("web").await.unwrap().unwrap());
    let (mut our_job, mut their_job) = (stage.job(), other.job());
    let both = tokio::join!(stage.rollout.replace(ours, &mut our_job), other.rollout.replace(theirs, &mut their_job));
    let running: Vec<String> = stage.engine.overview().into_iter().filter(|line| line.ends_with("running")).collect();
    assert_eq!(running.len(), 1, "{both:?}: {running:?}");
    stage.tend().await;
    assert_eq!(stage.engine.overview().len(), 1, "{:?}", stage.engine.overview());
}

#[tokio::test(start_paused = true)]
async fn t28_a_name_that_somebody_else_took_meanwhile_is_left_to_them() {
    let mut stage = Stage::new(json!({}), true).await;
    // Killed when the old container had been renamed and the new one not yet.
    stage.die_replacing(4, Interruption::DieAfter).await;
    stage.restart_program();
    let theirs = stage.engine.add_container("web", REFERENCE, json!({}), false).await;
    stage.tend().await;
    stage.tend().await;
    let now = stage.engine.inspections();
    assert_eq!(now["web"]["Id"], theirs.as_str());
    assert_eq!(now.len(), 2, "the new one is gone, the old one is kept: {:?}", stage.engine.overview());
    assert!(now.keys().any(|name| label::usual_name(name).is_some_and(|(_, is_old)| is_old)));
}

#[tokio::test(start_paused = true)]
async fn what_was_begun_is_ended_by_its_own_program_though_its_container_is_granted_to_nobody_any_more() {
    for auto_remove in [false, true] {
        let mut stage = Stage::with(json!({ "AutoRemove": auto_remove }), json!({}), true).await;
        // When the old one is stopped, or gone by that, and nobody has the name.
        stage.die_replacing(4, Interruption::DieAfter).await;
        stage.restart_program();
        stage.rollout.tend("another", &|_| false).await.unwrap();
        let now = stage.engine.overview();
        assert!(now.len() == 1 && now[0].starts_with("web ") && now[0].ends_with(" running"), "{now:?}");
    }
    let stage = Stage::new(json!({}), true).await;
    stage.die_replacing(4, Interruption::DieAfter).await;
    let before = stage.engine.overview();
    let stranger = Stage::elsewhere(&stage);
    stranger.rollout.tend("another", &|_| false).await.unwrap();
    assert_eq!(stage.engine.overview(), before, "another state folder's is nobody's whom it is not granted");
}

#[tokio::test(start_paused = true)]
async fn what_is_left_half_done_is_reported_to_the_policy_that_wanted_it() {
    for (behaves, recreated, fault) in [("healthy", 1, None), ("unhealthy", 0, Some(Fault::Image))] {
        let mut stage = Stage::new(json!({ "Behaves": behaves }), true).await;
        stage.die_replacing(6, Interruption::DieAfter).await; // the start
        stage.restart_program();
        let reports = stage.tend().await;
        let [report] = &reports[..] else { panic!("{reports:?}") };
        assert_eq!((report.target.as_str(), report.recreated.len()), ("web", recreated), "{behaves}");
        assert_eq!(report.failed.first().and_then(|failure| failure.fault), fault, "{behaves}");
        assert!(fault.is_none() || stage.engine.tagged(REFERENCE).as_deref() == Some("old"), "{behaves}: the tag too");
    }
}

#[tokio::test(start_paused = true)]
async fn t41_a_transaction_that_another_program_works_on_is_left_to_it() {
    let stage = Stage::new(json!({}), true).await;
    stage.engine.interrupt(3, Interruption::DieAfter);
    let mut other = Stage::sharing(&stage);
    let replacing = stage.replace("web");
    tokio::pin!(replacing);
    tokio::select! {
        () = stage.engine.death() => {}
        ended = &mut replacing => panic!("{ended:?}"),
    }
    stage.engine.revive();
    other.restart_program();
    let before = stage.engine.overview();
    assert_eq!(other.tend().await, [], "its program lives");
    assert_eq!(stage.engine.overview(), before);
}

#[tokio::test(start_paused = true)]
async fn t41_what_a_program_with_another_state_folder_began_lately_is_left_to_it() {
    for (begun_s_ago, is_left) in [(60, true), (3600, false)] {
        let stage = Stage::new(json!({}), true).await;
        stage.die_replacing(3, Interruption::DieAfter).await; // the stop
        let created_s = imagewatch_base::clock::now_ms() / 1000 - begun_s_ago;
        stage.engine.created_at(created_s);
        let stranger = Stage::elsewhere(&stage);
        stranger.tend().await;
        let is_restored = stage.engine.overview() == ["web old running"];
        assert_eq!(is_restored, !is_left, "{:?}", stage.engine.overview());
        if is_left {
            let error = stranger.replace("web").await.unwrap_err();
            assert_eq!(error.step_error.fault, Some(Fault::Postponed), "{error}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn settings_are_written_to_disk_only_for_a_container_that_goes_when_it_is_stopped() {
    for (host, expected) in [(json!({}), 0), (json!({ "AutoRemove": true }), 1)] {
        let stage = Stage::with(host, json!({}), true).await;
        let looking = async {
            loop {
                if let Some(entry) = stage.journal_entry() {
                    break entry;
                }
                tokio::task::yield_now().await;
            }
        };
        let entry = tokio::select! {
            ended = stage.replace("web") => panic!("{ended:?}"),
            entry = looking => entry,
        };
        assert_eq!(entry.snapshots.len(), expected);
    }
}

/// As when its file was renamed.
#[tokio::test(start_paused = true)]
async fn a_failure_for_a_manifest_that_is_gone_is_dropped_and_bars_the_container_from_no_other() {
    let mut stage = Stage::new(json!({ "Behaves": "unhealthy" }), true).await;
    for manifest in ["before", "after"] {
        stage.manifest = manifest;
        stage.pull_again().await;
        let error = stage.replace_untold("web").await.unwrap_err();
        assert_eq!(error.step_error.fault, Some(Fault::Image), "{manifest}: {error}");
    }
    stage.restart_program();
    stage.rollout.drop_failures_of_others(&BTreeSet::from(["after"]));
    assert_eq!(stage.rollout.failures_before("before"), []);
    assert_eq!(stage.rollout.failures_before("after").len(), 1);
    stage.restart_program();
    assert_eq!(stage.rollout.failures_before("before"), [], "its record is gone too");
    assert_eq!(stage.rollout.failures_before("after").len(), 1, "and the other's is not");
}

#[tokio::test(start_paused = true)]
async fn what_is_left_half_done_of_several_containers_is_ended_side_by_side() {
    let mut stage = Stage::new(json!({}), true).await;
    let names = ["web", "second", "third"];
    for name in &names[1..] {
        stage.engine.add_container(name, REFERENCE, json!({}), true).await;
        // Known by its tag, as one that was started before the tag was pulled.
        let id = stage.engine.inspections()[*name]["Id"].as_str().unwrap().to_owned();
        stage.engine.edit(&id, |container| container["Image"] = json!("old"));
    }
    // All have been started, and none has been up for long enough.
    stage.engine.interrupt(6 * names.len(), Interruption::DieAfter);
    tokio::select! {
        () = stage.engine.death() => {}
        ended = join_all(names.map(|name| stage.replace_untold(name))) => panic!("{ended:?}"),
    }
    stage.engine.revive();
    stage.restart_program();
    let begun = tokio::time::Instant::now();
    stage.tend().await;
    let took = begun.elapsed();
    assert_eq!(stage.engine.overview(), ["second new running", "third new running", "web new running"]);
    assert!(took >= stage.job().stable_for && took < 2 * stage.job().stable_for, "{took:?}");
}

/// `web` and who shares its network are on their new containers, and of the old ones only that of `web` is left.
async fn passed_group() -> Stage {
    let mut stage = Stage::group(json!({})).await;
    // The old one of `vpn-user` went first.
    stage.engine.fail("remove web.", 1, refused());
    stage.replace("web").await.unwrap();
    stage.restart_program();
    assert_eq!(stage.engine.overview().len(), 4, "{:?}", stage.engine.overview());
    stage
}

#[tokio::test(start_paused = true)]
async fn what_has_passed_stays_when_somebody_makes_one_of_the_group_anew() {
    let stage = passed_group().await;
    let web = stage.picture()["web"].clone();
    stage.rollout.remove("vpn-user").await.unwrap();
    let shared = json!({ "HostConfig": { "NetworkMode": "container:web" } });
    let anew = stage.engine.add_container("vpn-user", OTHER, shared, true).await;
    stage.tend().await;
    assert_eq!(stage.engine.overview(), ["app other running", "vpn-user other running", "web new running"]);
    let now = stage.picture();
    assert_eq!((&now["web"], &now["vpn-user"]["id"]), (&web, &json!(anew)));
}

#[tokio::test(start_paused = true)]
async fn what_has_passed_stays_when_somebody_renames_it_and_goes_when_somebody_brings_the_old_one_back() {
    for is_brought_back in [false, true] {
        let mut stage = Stage::new(json!({}), true).await;
        stage.engine.fail("remove", 1, refused());
        stage.replace("web").await.unwrap();
        stage.restart_program();
        stage.engine.rename("web", "mine").await.unwrap();
        if is_brought_back {
            let aside = stage.engine.inspections().into_keys().find(|name| is_working_name(name)).unwrap();
            stage.engine.rename(&aside, "web").await.unwrap();
        }
        stage.tend().await;
        let expected = if is_brought_back { "web old running" } else { "mine new running" };
        assert_eq!(stage.engine.overview(), [expected]);
    }
}

#[tokio::test(start_paused = true)]
async fn what_has_passed_goes_back_when_somebody_brings_the_old_one_of_who_goes_along_back() {
    let mut stage = Stage::new(json!({}), true).await;
    stage.engine.add_image(OTHER, &json!({ "Id": "other" }));
    stage.engine.add_container("user", OTHER, json!({ "HostConfig": { "VolumesFrom": ["web"] } }), true).await;
    let old = stage.engine.inspections()["user"]["Id"].clone();
    stage.engine.fail("remove user.", 1, refused());
    stage.engine.fail("remove web.", 1, refused());
    stage.replace("web").await.unwrap();
    stage.restart_program();
    stage.rollout.remove("user").await.unwrap();
    let old = old.as_str().unwrap();
    stage.engine.rename(old, "user").await.unwrap();
    stage.engine.start(old).await.unwrap();
    stage.tend().await;
    assert_eq!(stage.engine.inspections()["user"]["Id"], old, "{:?}", stage.engine.overview());
    assert!(stage.engine.overview().contains(&"user other running".to_owned()), "{:?}", stage.engine.overview());
}

#[tokio::test(start_paused = true)]
async fn what_has_passed_and_was_renamed_since_is_not_made_again_as_it_was() {
    let labels = json!({ "imagewatch.allow-rm": "true", "imagewatch.hook.post-update": "after" });
    let body = json!({ "HostConfig": { "AutoRemove": true, "NetworkMode": "front" }, "Labels": labels });
    let stage = Stage::of(body.clone(), json!({}), true).await;
    stage.replace("web").await.unwrap();
    let last = stage.engine.calls().len() - 1;
    let mut stage = Stage::of(body, json!({}), true).await;
    // Killed in its hook, when all but the record was done.
    stage.die_replacing(last, Interruption::DieAfter).await;
    stage.restart_program();
    assert!(stage.journal_entry().is_some_and(|entry| entry.is_passed));
    stage.engine.rename("web", "mine").await.unwrap();
    stage.tend().await;
    assert_eq!((stage.engine.overview(), stage.journal_files()), (vec!["mine new running".to_owned()], 0));
}

#[tokio::test(start_paused = true)]
async fn one_whose_old_container_is_gone_for_good_keeps_its_new_one_when_the_others_go_back() {
    for (was_aside, shares_network, state) in
        [(false, false, "running"), (true, false, "running"), (true, true, "exited")]
    {
        let stage = passed_group().await;
        // Nobody knows any more that they had passed, and by now the root is ill.
        stage.wipe_journal();
        let now = stage.engine.inspections();
        let (web, user) = (now["web"]["Id"].as_str().unwrap(), now["vpn-user"]["Id"].as_str().unwrap());
        stage.engine.edit(web, |c| c["State"]["Health"] = json!({ "Status": "unhealthy" }));
        stage.engine.edit(web, |c| c["Config"]["Healthcheck"] = json!({ "Test": ["CMD", "x"] }));
        if !shares_network {
            // It needs the other's volumes, which stay.
            stage.engine.edit(user, |c| c["HostConfig"]["NetworkMode"] = json!("front"));
        }
        if was_aside {
            let facts = ending::facts_of(&now["vpn-user"]).unwrap();
            let temporary = facts.state.temporary_name(&facts.transaction);
            stage.engine.stop(user).await.unwrap();
            stage.engine.rename(user, &temporary).await.unwrap();
        }
        let user = user.to_owned();
        stage.tend().await;
        let overview = ["app other running", &format!("vpn-user other {state}"), "web old running"];
        assert_eq!(stage.engine.overview(), overview, "{was_aside}: {:#?}", stage.engine.calls());
        let now = stage.picture();
        assert_eq!(now["vpn-user"]["id"], json!(user));
        assert_eq!(now["vpn-user"]["policy"]["Name"], "always");
        stage.tend().await;
        assert_eq!(stage.picture(), now, "and that is that");
    }
}

#[tokio::test(start_paused = true)]
async fn t30_a_removal_that_the_engine_is_at_already_is_waited_for_and_not_for_ever() {
    let busy = || EngineError::Conflict { message: "removal of container web is already in progress".to_owned() };
    for ends in [true, false] {
        let stage = Stage::new(json!({}), true).await;
        let id = stage.engine.inspections()["web"]["Id"].as_str().unwrap().to_owned();
        stage.engine.fail("remove", 1, busy());
        let begun = tokio::time::Instant::now();
        let engine = async {
            tokio::time::sleep(Duration::from_secs(5)).await;
            if ends {
                stage.engine.remove(&id, true).await.unwrap();
            }
        };
        let (removed, ()) = tokio::join!(stage.rollout.remove(&id), engine);
        assert_eq!(removed.is_ok(), ends, "{removed:?}");
        let took = begun.elapsed().as_secs();
        assert!(if ends { took == 5 } else { (30..40).contains(&took) }, "{took} s");
    }
}

//! Every call that changes something, interrupted in every way; the recovery interrupted likewise. Whatever happens,
//! afterwards there is exactly one container of each name, in the state it was in, on the old or the new image, with
//! the same networks, volumes and policy, and nothing else.

use std::collections::BTreeMap;

use rstest::rstest;
use serde_json::{Value, json};

use super::stage::{OTHER, Stage, refused};
use super::*;
use crate::label::is_working_name;
use imagewatch_engine::testing::Interruption;

/// What is replaced, and how the new image behaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Scene {
    StopFirst {
        is_good: bool,
    },
    /// As Docker makes a container when nobody says otherwise.
    NoPolicy {
        is_good: bool,
    },
    StartFirst {
        is_good: bool,
    },
    AutoRemove {
        is_good: bool,
    },
    Dependents {
        is_good: bool,
    },
    /// Three write to one volume; a bad image fails on the last one.
    Members {
        is_good: bool,
    },
}

impl Scene {
    const ALL: [Self; 12] = [
        Self::Members { is_good: true },
        Self::Members { is_good: false },
        Self::StopFirst { is_good: true },
        Self::StopFirst { is_good: false },
        Self::NoPolicy { is_good: true },
        Self::NoPolicy { is_good: false },
        Self::StartFirst { is_good: true },
        Self::StartFirst { is_good: false },
        Self::AutoRemove { is_good: true },
        Self::AutoRemove { is_good: false },
        Self::Dependents { is_good: true },
        Self::Dependents { is_good: false },
    ];

    async fn set(self) -> Stage {
        let image = |is_good: bool| json!({ "Behaves": if is_good { "healthy" } else { "unhealthy" } });
        let stage = match self {
            Self::StopFirst { is_good } => Stage::new(image(is_good), true).await,
            Self::NoPolicy { is_good } => Stage::with(json!({}), image(is_good), true).await,
            Self::StartFirst { is_good } => Stage::new(image(is_good), true).await.start_first(),
            Self::AutoRemove { is_good } => {
                Stage::with(json!({ "AutoRemove": true, "Binds": ["/data"] }), image(is_good), true).await
            }
            Self::Dependents { is_good } => {
                let stage = Stage::group(image(true)).await;
                if !is_good {
                    // The root is well, the one that goes with it does not bear it.
                    stage.engine.add_image(OTHER, &json!({ "Id": "other", "BehavesBeside": { "new": "unhealthy" } }));
                }
                stage
            }
            Self::Members { is_good } => {
                let fails = if is_good { json!({}) } else { json!({ "jobs": "unhealthy" }) };
                Stage::companions(json!({ "Behaves": "healthy", "BehavesAs": fails })).await
            }
        };
        stage.engine.add_image("example.com/stranger:1", &json!({ "Id": "strange" }));
        let always = json!({ "HostConfig": { "RestartPolicy": { "Name": "always" } } });
        stage.engine.add_container("stranger", "example.com/stranger:1", always, true).await;
        stage
    }

    fn is_good(self) -> bool {
        matches!(
            self,
            Self::StopFirst { is_good: true }
                | Self::NoPolicy { is_good: true }
                | Self::StartFirst { is_good: true }
                | Self::AutoRemove { is_good: true }
                | Self::Dependents { is_good: true }
                | Self::Members { is_good: true }
        )
    }
}

/// How often a scene that nobody interrupts changes something.
async fn changes_of(scene: Scene) -> usize {
    let stage = scene.set().await;
    let _ = stage.replace("web").await;
    stage.engine.calls().iter().filter(|call| !call.starts_with("pull")).count()
}

/// Runs a replacement until it ends or its program dies; whether it died.
async fn run(stage: &Stage) -> bool {
    tokio::select! {
        biased;
        () = stage.engine.death() => true,
        _ = stage.replace("web") => false,
    }
}

/// Runs a recovery likewise.
async fn recover(stage: &Stage) -> bool {
    tokio::select! {
        biased;
        () = stage.engine.death() => true,
        _ = stage.tend() => false,
    }
}

/// Whether somebody has begun to stop a container that was there before; told by names, which change only after that.
fn has_begun_to_stop(stage: &Stage) -> bool {
    let is_about_old = |call: &String| {
        let name = call
            .strip_prefix("stop ")
            .or_else(|| call.strip_prefix("policy "))
            .or_else(|| call.strip_prefix("rename "));
        name.is_some_and(|name| !is_working_name(name.split(' ').next().unwrap_or(name)))
    };
    stage.engine.calls().iter().any(is_about_old)
}

fn judge(case: &str, scene: Scene, stage: &Stage, before: &BTreeMap<String, Value>) {
    stage.engine.let_time_pass();
    let now = stage.picture();
    let names: Vec<&String> = now.keys().collect();
    assert_eq!(
        names,
        before.keys().collect::<Vec<_>>(),
        "{case}: {:?}\n{:#?}",
        stage.engine.overview(),
        stage.engine.calls()
    );
    assert!(!now.keys().any(|name| is_working_name(name)), "{case}");
    for (name, was) in before {
        let is = &now[name];
        for field in ["running", "policy", "networks", "mounts"] {
            // A container that shares another's network names it by its id, which may be a new one.
            assert_eq!(is[field], was[field], "{case}: {field} of {name}\n{:#?}", stage.engine.calls());
        }
        let is_same = is["id"] == was["id"];
        assert!(is_same || name != "stranger", "{case}: nobody else's container is touched");
        let is_made_again = matches!(scene, Scene::AutoRemove { .. });
        assert!(
            is_same || is_made_again || is["image"] != was["image"] || name != "web",
            "{case}: {name} is the same old one, or on the new image"
        );
    }
    let all = stage.engine.inspections();
    if let Some(user) = all.get("vpn-user") {
        let parent = format!("container:{}", all["web"]["Id"].as_str().unwrap());
        assert_eq!(
            user["HostConfig"]["NetworkMode"],
            parent.as_str(),
            "{case}: it shares the network of the one there is"
        );
    }
    for companion in ["cron", "jobs"].iter().filter_map(|name| now.get(*name)) {
        assert_eq!(companion["image"], now["web"]["image"], "{case}: who writes to one volume runs one image");
    }
    assert_eq!(stage.journal_files(), 0, "{case}: nothing is left of the journal");
    if !scene.is_good() {
        assert_eq!(now["web"]["image"], json!("old"), "{case}: a bad image does not stay");
    }
}

#[rstest]
#[case::stop_first(Scene::StopFirst { is_good: true })]
#[case::stop_first_bad_image(Scene::StopFirst { is_good: false })]
#[case::no_policy(Scene::NoPolicy { is_good: true })]
#[case::no_policy_bad_image(Scene::NoPolicy { is_good: false })]
#[case::start_first(Scene::StartFirst { is_good: true })]
#[case::start_first_bad_image(Scene::StartFirst { is_good: false })]
#[case::auto_remove(Scene::AutoRemove { is_good: true })]
#[case::auto_remove_bad_image(Scene::AutoRemove { is_good: false })]
#[case::group(Scene::Dependents { is_good: true })]
#[case::group_bad_image(Scene::Dependents { is_good: false })]
#[case::f36_members_of_a_volume(Scene::Members { is_good: true })]
#[case::f36_members_of_a_volume_bad_image(Scene::Members { is_good: false })]
#[tokio::test(start_paused = true)]
async fn t23_t24_t25_who_dies_after_any_call_leaves_what_the_next_one_brings_in_order(#[case] scene: Scene) {
    let mut cases = 0;
    let all = [(false, false), (true, false), (false, true)];
    let ways = match scene {
        // One that went when it was stopped can only come back from the journal, and not from a restart of the engine.
        Scene::AutoRemove { .. } => &all[..1],
        // Without a policy nothing runs after a restart of the engine, whoever died when.
        Scene::NoPolicy { .. } | Scene::Members { .. } => &all[..2],
        _ => &all[..],
    };
    for nth in 0..changes_of(scene).await {
        for death in [Interruption::DieBefore, Interruption::DieAfter, Interruption::DieMeanwhile] {
            for (is_wiped, is_restarted) in ways {
                cases += die_and_recover(scene, nth, &death, *is_wiped, *is_restarted).await;
            }
        }
    }
    println!("{scene:?}: {cases} cases");
    assert!(cases >= 20, "{cases} cases");
}

/// Dies at the `nth` call, then in the recovery at each of its calls, and then no more.
async fn die_and_recover(scene: Scene, nth: usize, death: &Interruption, is_wiped: bool, is_restarted: bool) -> usize {
    let mut cases = 0;
    for dies_again in std::iter::once(None).chain((0..).map(Some)) {
        let case =
            format!("{scene:?}, {death:?} {nth}, wiped {is_wiped}, restarted {is_restarted}, again {dies_again:?}");
        let mut stage = scene.set().await;
        let before = stage.picture();
        stage.engine.interrupt(nth, death.clone());
        if !run(&stage).await {
            return cases; // it took another way, which has fewer calls
        }
        stage.engine.revive();
        stage.restart_program();
        if is_wiped {
            stage.wipe_journal();
        }
        let had_begun = has_begun_to_stop(&stage);
        let was_known = stage.journal_entry().is_some_and(|entry| entry.failure.is_some());
        if is_restarted {
            stage.engine.restart_daemon();
        }
        if let Some(mth) = dies_again {
            stage.engine.interrupt(mth, Interruption::DieAfter);
            let is_over = !recover(&stage).await;
            stage.engine.revive();
            stage.restart_program();
            if is_over {
                return cases;
            }
            if is_wiped {
                stage.wipe_journal();
            }
        }
        let mut told = stage.tend().await;
        told.extend(stage.tend().await);
        judge(&case, scene, &stage, &before);
        // Without the journal nobody can tell whether the engine is still at a stop.
        if !had_begun && !is_wiped {
            assert!(
                !has_begun_to_stop(&stage),
                "{case}: who was not asked to stop was stopped\n{:#?}",
                stage.engine.calls()
            );
        }
        let is_told = told.iter().any(|report| !report.failed.is_empty());
        assert!(is_told || !was_known || dies_again.is_some(), "{case}: what had failed is not forgotten");
        cases += 1;
    }
    cases
}

#[tokio::test(start_paused = true)]
async fn any_call_that_fails_or_hangs_leaves_all_in_order() {
    let away = EngineError::Unavailable { host: "unix:///x.sock".to_owned(), reason: "refused".to_owned() };
    let conflict = EngineError::Conflict { message: "the name is already in use".to_owned() };
    let mut cases = 0;
    for scene in Scene::ALL {
        for nth in 0..changes_of(scene).await {
            for interruption in [
                Interruption::Refuse(refused()),
                Interruption::Refuse(away.clone()),
                Interruption::Refuse(conflict.clone()),
                Interruption::HangUndone,
                Interruption::HangDone,
                Interruption::BreakDone,
            ] {
                let stage = scene.set().await;
                let before = stage.picture();
                stage.engine.interrupt(nth, interruption.clone());
                let died = run(&stage).await;
                assert!(!died);
                stage.tend().await;
                stage.tend().await;
                judge(&format!("{scene:?}, {interruption:?} {nth}"), scene, &stage, &before);
                cases += 1;
            }
        }
    }
    assert!(cases > 300, "{cases} cases");
}

#[tokio::test(start_paused = true)]
async fn a_create_call_whose_answer_was_lost_leaves_no_container_and_restarts_none() {
    let away = EngineError::Unavailable { host: "unix:///x.sock".to_owned(), reason: "reset".to_owned() };
    for is_away_for_long in [false, true] {
        let stage = Scene::NoPolicy { is_good: true }.set().await;
        let before = stage.picture();
        stage.engine.interrupt(0, Interruption::BreakDone);
        if is_away_for_long {
            stage.engine.fail("inspect web.", 1, away.clone());
        }
        stage.replace("web").await.unwrap_err();
        assert_eq!(stage.engine.overview().len(), before.len() + usize::from(is_away_for_long));
        stage.tend().await;
        stage.tend().await;
        assert_eq!((stage.picture(), stage.journal_files()), (before, 0));
        assert!(!has_begun_to_stop(&stage), "{:#?}", stage.engine.calls());
    }
}

#[tokio::test(start_paused = true)]
async fn so_does_one_for_a_container_that_goes_along() {
    let scene = Scene::Dependents { is_good: true };
    let stage = scene.set().await;
    stage.replace("web").await.unwrap();
    let nth = stage.engine.calls().iter().position(|call| call.starts_with("create vpn-user.")).unwrap();

    let stage = scene.set().await;
    let user = stage.engine.inspections()["vpn-user"]["Id"].as_str().unwrap().to_owned();
    stage.engine.edit(&user, |c| c["HostConfig"]["RestartPolicy"] = json!({ "Name": "no" }));
    let before = stage.picture();
    // One call less, as there is no policy to take away.
    stage.engine.interrupt(nth - 1, Interruption::BreakDone);
    let away = EngineError::Unavailable { host: "unix:///x.sock".to_owned(), reason: "reset".to_owned() };
    stage.engine.fail("inspect vpn-user.", 1, away);
    stage.replace("web").await.unwrap_err();
    assert_eq!(stage.engine.overview().len(), before.len() + 1, "{:#?}", stage.engine.calls());
    let calls = stage.engine.calls().len();
    stage.tend().await;
    stage.tend().await;
    assert_eq!((stage.picture(), stage.journal_files()), (before, 0));
    let later = &stage.engine.calls()[calls..];
    assert!(!later.iter().any(|call| call.starts_with("stop")), "{later:#?}");
}

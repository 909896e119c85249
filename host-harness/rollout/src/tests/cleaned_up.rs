//! What follows an update that succeeded, whoever ends it: the hook in the new container, and the end of the old image.

use serde_json::json;

use super::stage::{Stage, refused};
use imagewatch_engine::testing::Interruption;

#[tokio::test(start_paused = true)]
async fn the_hook_after_an_update_is_run_once_whoever_ends_the_update() {
    let labels = json!({ "imagewatch.hook.post-update": "after" });
    let stage = Stage::labelled(&labels).await;
    stage.replace("web").await.unwrap();
    let all = stage.engine.calls().len();
    assert_eq!(stage.hooks_after(), 1);

    let stage = Stage::labelled(&labels).await;
    stage.engine.fail("remove", 1, refused());
    stage.replace("web").await.unwrap();
    assert_eq!(stage.hooks_after(), 0, "not before it is over");
    stage.tend().await;
    stage.tend().await;
    assert_eq!(stage.hooks_after(), 1, "the second try ended it");

    for nth in 0..all {
        for death in [Interruption::DieBefore, Interruption::DieAfter] {
            let mut stage = Stage::labelled(&labels).await;
            stage.die_replacing(nth, death.clone()).await;
            stage.restart_program();
            stage.tend().await;
            stage.tend().await;
            let is_updated = stage.engine.overview() == ["web new running"];
            assert_eq!(stage.hooks_after(), usize::from(is_updated), "{death:?} at {nth}: {:#?}", stage.engine.calls());
        }
    }
}

#[tokio::test(start_paused = true)]
async fn first_use_4_the_old_image_goes_when_the_update_is_committed_whoever_ends_it() {
    let set = || async {
        let mut stage = Stage::labelled(&json!({ "imagewatch.hook.post-update": "after" })).await;
        stage.keep_images = Some(0);
        stage
    };
    let stage = set().await;
    stage.replace("web").await.unwrap();
    let all = stage.engine.calls().len();
    assert_eq!(stage.engine.images(), ["new"], "undisturbed");
    for nth in 0..all {
        for death in [Interruption::DieBefore, Interruption::DieAfter] {
            let mut stage = set().await;
            stage.die_replacing(nth, death.clone()).await;
            stage.restart_program();
            stage.tend().await;
            stage.tend().await;
            let is_updated = stage.engine.overview() == ["web new running"];
            let has_old = stage.engine.images().contains(&"old".to_owned());
            assert_eq!(has_old, !is_updated, "{death:?} at {nth}: {:#?}", stage.engine.calls());
        }
    }
}

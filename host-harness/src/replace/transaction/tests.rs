#![allow(clippy::unwrap_used, clippy::panic)]

use serde_json::json;

use super::*;
use crate::engine::memory::MemoryEngine;

const REFERENCE: &str = "example.com/app:1";
const BRIEF: Duration = Duration::from_millis(1);

/// An engine with a container `web` on image `old`, whose tag names image `new` by now.
async fn engine_with_moved_tag(running: bool, new: Value) -> (MemoryEngine, Container) {
    let engine = MemoryEngine::new();
    engine.add_image(REFERENCE, &json!({ "Id": "old" }));
    let networks = json!({ "back": {}, "front": {} });
    let body = json!({ "HostConfig": { "NetworkMode": "front" }, "NetworkingConfig": { "EndpointsConfig": networks } });
    engine.add_container("web", REFERENCE, body, running).await;
    engine.add_image(REFERENCE, &new);
    let container = engine.containers(&imagewatch_abi::Selector::default()).await.unwrap().remove(0);
    (engine, container)
}

async fn replace(engine: &MemoryEngine, container: &Container) -> Result<Replaced, ReplaceError> {
    replace_container(engine, container, NewImage { id: "new", platform: None }, BRIEF).await
}

fn refused() -> EngineError {
    EngineError::Refused { status: 500, message: "no space left".to_owned() }
}

/// The working name that this run gave out.
fn working_name(engine: &MemoryEngine) -> String {
    let create = engine.calls().into_iter().find(|call| call.starts_with("create")).unwrap();
    create.strip_prefix("create ").unwrap().to_owned()
}

#[tokio::test]
async fn the_new_container_is_complete_before_the_old_one_is_touched_and_the_old_one_goes_last() {
    let (engine, container) = engine_with_moved_tag(true, json!({ "Id": "new" })).await;
    let replaced = replace(&engine, &container).await.unwrap();
    let new = working_name(&engine);
    assert!(is_working_name(&new), "{new}");
    let expected = [
        format!("create {new}"),
        format!("connect {new} to back"),
        "stop web".to_owned(),
        format!("rename web to {new}.old"),
        format!("rename {new} to web"),
        "start web".to_owned(),
        format!("remove {new}.old"),
    ];
    assert_eq!(engine.calls(), expected);
    assert_eq!(engine.overview(), ["web new running"]);
    assert_ne!(replaced.new_id, container.id);
}

#[tokio::test]
async fn a_stopped_container_is_replaced_and_left_stopped() {
    let (engine, container) = engine_with_moved_tag(false, json!({ "Id": "new" })).await;
    replace(&engine, &container).await.unwrap();
    assert_eq!(engine.overview(), ["web new created"]);
}

#[tokio::test]
async fn whatever_step_fails_the_old_container_is_as_before_and_alone() {
    for (failing, says, restored) in [
        ("inspect web", "failed to inspect the container", false),
        ("inspect image old", "failed to inspect the container", false),
        ("create", "failed to create the new container", false),
        ("connect", "failed to connect the new container to its networks", false),
        ("inspect web.imagewatch-", "failed to inspect the new container", false),
        ("stop", "failed to stop the old container", true),
        ("rename web to", "failed to rename the old container", true),
        ("rename web.imagewatch-", "failed to rename the new container", true),
        ("start", "failed to start the new container", true),
    ] {
        for running in [true, false] {
            if failing == "start" && !running {
                continue;
            }
            let (engine, container) = engine_with_moved_tag(running, json!({ "Id": "new" })).await;
            engine.fail(failing, 1, refused());
            let error = replace(&engine, &container).await.unwrap_err();
            assert!(error.reason.starts_with(says) && error.reason.contains("no space left"), "{failing}: {error}");
            assert_eq!((error.restored, error.unavailable), (restored, false), "{failing}");
            let status = match (running, failing) {
                (true, _) => "running",
                // Stopping a container that was created only leaves it stopped, which is what it was.
                (false, "rename web to" | "rename web.imagewatch-") => "exited",
                (false, _) => "created",
            };
            assert_eq!(engine.overview(), [format!("web old {status}")], "{failing}, running: {running}");
        }
    }
}

#[tokio::test]
async fn a_new_container_that_exits_at_once_makes_room_for_the_old_one() {
    let (engine, container) = engine_with_moved_tag(true, json!({ "Id": "new", "ExitsAtOnce": true })).await;
    let error = replace(&engine, &container).await.unwrap_err();
    assert!(error.restored && error.reason.contains("exited with code 3"), "{error}");
    assert_eq!(engine.overview(), ["web old running"]);
}

#[tokio::test]
async fn a_tag_that_moved_after_the_pull_leaves_the_container_alone() {
    let (engine, container) = engine_with_moved_tag(true, json!({ "Id": "newer" })).await;
    let error = replace(&engine, &container).await.unwrap_err();
    assert!(!error.restored && error.reason.contains("its tag moved"), "{error}");
    assert_eq!(engine.overview(), ["web old running"]);
    assert!(!engine.calls().contains(&"stop web".to_owned()));
}

#[tokio::test]
async fn an_old_container_that_cannot_come_back_is_said_to_be_lost_and_where() {
    let (engine, container) = engine_with_moved_tag(true, json!({ "Id": "new" })).await;
    engine.fail("start", u32::MAX, refused());
    let error = replace(&engine, &container).await.unwrap_err();
    assert!(!error.restored && error.reason.contains("could not be brought back"), "{error}");
    assert_eq!(engine.overview(), ["web old exited"], "it has its name at least");
}

#[tokio::test]
async fn an_engine_that_goes_away_is_told_apart_from_a_refusal() {
    let (engine, container) = engine_with_moved_tag(true, json!({ "Id": "new" })).await;
    let away = EngineError::Unavailable { host: "unix:///x.sock".to_owned(), reason: "refused".to_owned() };
    engine.fail("stop", 1, away);
    let error = replace(&engine, &container).await.unwrap_err();
    assert!(error.unavailable && error.restored, "{error}");
}

#[tokio::test]
async fn an_old_container_that_cannot_be_removed_does_not_undo_the_replacement() {
    let (engine, container) = engine_with_moved_tag(true, json!({ "Id": "new" })).await;
    engine.fail("remove", 1, refused());
    replace(&engine, &container).await.unwrap();
    let left = format!("{}.old old exited", working_name(&engine));
    assert_eq!(engine.overview(), ["web new running".to_owned(), left]);
}

#[tokio::test]
async fn a_container_whose_image_is_gone_is_not_replaced() {
    let (engine, container) = engine_with_moved_tag(true, json!({ "Id": "new" })).await;
    engine.edit(&container.id, |inspection| inspection["Image"] = json!("sha256:gone"));
    let error = replace(&engine, &container).await.unwrap_err();
    assert!(error.reason.contains("is gone") && error.reason.ends_with("the container was not touched"), "{error}");
    assert_eq!(engine.calls(), Vec::<String>::new());
}

#[tokio::test]
async fn removing_takes_a_container_that_is_gone_already_for_done() {
    let (engine, container) = engine_with_moved_tag(true, json!({ "Id": "new" })).await;
    remove_container(&engine, &container).await.unwrap();
    remove_container(&engine, &container).await.unwrap();
    let in_progress = "removal of container web is already in progress".to_owned();
    assert_eq!(removed(Err(EngineError::Conflict { message: in_progress })), Ok(()));
    assert!(removed(Err(EngineError::Conflict { message: "it is running".to_owned() })).is_err());
}

#[test]
fn only_names_that_a_replacement_gives_out_are_working_names() {
    for (name, expected) in [
        ("web.imagewatch-0a1b2c3d", true),
        ("web.imagewatch-0a1b2c3d.old", true),
        ("web", false),
        ("web.imagewatch-0a1b2c3", false),
        ("web.imagewatch-0a1b2c3x", false),
        (".imagewatch-0a1b2c3d", false),
        ("web.imagewatch-0a1b2c3d.new", false),
    ] {
        assert_eq!(is_working_name(name), expected, "{name}");
    }
    assert_ne!(build_working_name("web"), build_working_name("web"));
}

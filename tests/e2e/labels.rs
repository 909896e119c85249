//! Tests labels that opt in and out, and the reasons for containers that are not watched (field report F10).

use std::path::Path;

use imagewatch_tests::engine::RunSpec;
use serde_json::Value;

use crate::stage::{SHORT_TIMEOUT, Stage, labels, run_to_end};

/// Runs a container for `role` on the shared image. `more` are its only labels.
async fn run(stage: &Stage, role: &str, more: &[(&str, &str)]) -> String {
    let (name, image) = (stage.scope.name(role), stage.image("web"));
    stage.scope.run(&RunSpec { name, image, labels: labels(more), ..RunSpec::default() }).await
}

async fn checked(stage: &Stage, manifest: &Path) -> Value {
    let args = ["--log", "off", "check", "--json", manifest.to_str().expect("text")];
    let (_, output) = run_to_end(stage.scope.engine().host(), &args, &[]).await;
    serde_json::from_str(&output).unwrap_or_else(|error| panic!("{error}: {output}"))
}

/// The reason why the container of `role` is not watched.
fn reason(stage: &Stage, checked: &Value, role: &str) -> String {
    let name = stage.scope.name(role);
    let rows = checked["images"].as_array().into_iter().chain(checked["not_watched"].as_array()).flatten();
    let row = rows.into_iter().find(|row| row["container"] == name.as_str());
    row.and_then(|row| row["reason"].as_str()).unwrap_or_default().to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn f10_a_container_with_any_opt_out_word_is_never_replaced() {
    let stage = Stage::new().await;
    stage.push("web", "v1").await;
    let values = ["False", "FALSE", "0", "no", "off", "f", "False ", "disabled"];
    let mut ids = Vec::new();
    for (number, value) in values.iter().enumerate() {
        ids.push(run(&stage, &format!("out{number}"), &[("imagewatch.enable", value)]).await);
    }
    ids.push(run(&stage, "misspelt", &[("imagewatch.stratgey", "notify")]).await);
    run(&stage, "in", &[("imagewatch.enable", "Yes")]).await;
    let v2 = stage.push("web", "v2").await;
    let manifest = stage.manifest().config("containers", "all").config("baseline", "running");
    let manifest = stage.write(&manifest, "all");
    let checked = checked(&stage, &manifest).await;
    for (number, value) in values.iter().take(7).enumerate() {
        let reason = reason(&stage, &checked, &format!("out{number}"));
        assert!(reason.contains("opts out"), "{value}: {reason}");
    }
    let unreadable = reason(&stage, &checked, "out7");
    assert!(unreadable.contains("imagewatch.enable is \"disabled\"; write true or false"), "{unreadable}");
    let misspelt = reason(&stage, &checked, "misspelt");
    assert!(misspelt.contains("the nearest known label is imagewatch.strategy"), "{misspelt}");

    let daemon = stage.watch(&[manifest]);
    stage.wait_until_on("in", &v2, SHORT_TIMEOUT).await;
    daemon.wait_for_line(&format!("{}: its label imagewatch.enable is", stage.scope.name("out7"))).await;
    daemon.stop().await;
    let roles = (0..values.len()).map(|number| format!("out{number}")).chain(["misspelt".to_owned()]);
    for (role, id) in roles.zip(ids) {
        let now = stage.container(&role).await.expect("the container exists");
        assert_eq!((now.id, now.is_running), (id, true), "{role}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn f10_a_container_with_any_opt_in_word_is_watched() {
    let stage = Stage::new().await;
    stage.push("web", "v1").await;
    let values = ["True", "TRUE", "1", "yes", "true "];
    for (number, value) in values.iter().enumerate() {
        run(&stage, &format!("in{number}"), &[("imagewatch.enable", value)]).await;
    }
    let other = run(&stage, "other", &[]).await;
    let v2 = stage.push("web", "v2").await;
    let manifest = stage.manifest().config("containers", "labelled").config("baseline", "running");
    let daemon = stage.watch(&[stage.write(&manifest, "labelled")]);
    for number in 0..values.len() {
        stage.wait_until_on(&format!("in{number}"), &v2, SHORT_TIMEOUT).await;
    }
    daemon.stop().await;
    assert_eq!(stage.container("other").await.expect("the container exists").id, other);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_empty_result_gives_the_reasons() {
    let stage = Stage::new().await;
    stage.push("web", "v1").await;
    run(&stage, "plain", &[]).await;
    run(&stage, "ungranted", &[("imagewatch.enable", "true")]).await;
    let (plain, ungranted) = (stage.scope.name("plain"), stage.scope.name("ungranted"));
    let grant = format!("name:{plain}");
    let manifest = stage.manifest().config("containers", "labelled").config("grant.containers", &grant);
    let manifest = stage.write(&manifest, "apps");
    let args = ["--log", "off", "check", "--all", manifest.to_str().expect("text")];
    let (code, shown) = run_to_end(stage.scope.engine().host(), &args, &[]).await;
    assert_eq!(code, 0, "{shown}");
    for part in
        ["manifest apps watches none of the engine's", &plain, "it has no label imagewatch.enable=true", &ungranted]
    {
        assert!(shown.contains(part), "{part} in\n{shown}");
    }
    let checked = checked(&stage, &manifest).await;
    assert_eq!(reason(&stage, &checked, "plain"), "it has no label imagewatch.enable=true");
    assert_eq!(reason(&stage, &checked, "ungranted"), "config key `grant.containers` does not grant it");

    let daemon = stage.watch(&[manifest]);
    let line = daemon.wait_for_line("manifest apps watches none of the engine's").await;
    assert!(line.contains(&plain), "{line}");
    daemon.stop().await;
}

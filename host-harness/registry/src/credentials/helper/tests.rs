//! Tests helpers that answer, fail, hang, or write too much. The helpers are scripts in a folder on the PATH.

use std::fs::{self, Permissions};
use std::path::Path;
use std::time::Instant;

use rstest::rstest;
use secrecy::ExposeSecret;
use serde_json::json;
use tempfile::TempDir;

use super::*;
use crate::credentials::docker_config::parse_docker_config;

const SECRET: &str = "canary-31c0";

/// A folder with one helper named `x` that runs `script`.
fn helpers(script: &str) -> (TempDir, Helpers) {
    let folder = tempfile::tempdir().unwrap();
    install(folder.path(), "x", script);
    let path = format!("{}:/usr/bin:/bin", folder.path().display());
    let variables =
        [("PATH", path.as_str()), ("IMAGEWATCH_ADMIN_TOKEN", SECRET), ("GHCR_TOKEN", SECRET), ("HOME", "/h")];
    let environment = variables.into_iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
    (folder, Helpers::new(&environment))
}

fn install(folder: &Path, name: &str, script: &str) {
    let program = folder.join(format!("docker-credential-{name}"));
    fs::write(&program, format!("#!/bin/sh\n{script}\n")).unwrap();
    fs::set_permissions(&program, Permissions::from_mode(0o755)).unwrap();
}

/// The call for the registry `server` according to a configuration.
fn call(helper: &str, server: &str, is_explicit: bool) -> HelperCall {
    let config = json!({ "credHelpers": { server: helper } }).to_string();
    let call = parse_docker_config(config.as_bytes()).unwrap().find(server, None).unwrap().helper.unwrap();
    HelperCall { is_explicit, ..call }
}

async fn ask(script: &str) -> Result<Option<Credential>, CredentialError> {
    let (_folder, helpers) = helpers(script);
    helpers.find(&call("x", "r.io", true)).await
}

#[tokio::test]
async fn a_helper_gets_the_registry_on_standard_input() {
    let script = r#"read -r server
        user="$1 $server $HOME$GHCR_TOKEN$IMAGEWATCH_ADMIN_TOKEN"
        printf '%s' "{\"ServerURL\":\"$server\",\"Username\":\"$user\"," '"Secret":"p:w\n"}'"#;
    match ask(script).await.unwrap() {
        Some(Credential::Basic { username, password }) => {
            assert_eq!(username, "get r.io /h", "the helper gets no secrets of imagewatch");
            assert_eq!(password.expose_secret(), "p:w\n");
        }
        other => panic!("{other:?}"),
    }
}

#[rstest]
#[case::token(r#"echo '{"Username":"<token>","Secret":"id"}'"#, true)]
#[case::none("echo 'credentials not found in native keychain'; exit 1", false)]
#[case::empty(r#"echo '{"ServerURL":"","Username":"","Secret":""}'"#, false)]
#[tokio::test]
async fn a_helper_may_have_an_identity_token_or_no_credential(#[case] script: &str, #[case] is_token: bool) {
    let found = ask(script).await.unwrap();
    assert_eq!(matches!(found, Some(Credential::IdentityToken(_))), is_token, "{found:?}");
    assert_eq!(found.is_some(), is_token);
}

#[rstest]
#[case::fails("echo 'error: canary-31c0'; echo canary-31c0 >&2; exit 1", "it failed")]
#[case::not_json("echo canary-31c0", "is not the JSON of a helper")]
#[case::only_a_secret(r#"echo '{"Secret":"canary-31c0"}'"#, "a user or a secret but not both")]
#[case::writes_too_much("yes canary-31c0", "more than 65536 bytes")]
#[case::is_killed("kill -9 $$", "it failed")]
#[tokio::test]
async fn a_failing_helper_is_named_and_its_output_is_hidden(#[case] script: &str, #[case] reason: &str) {
    let error = ask(script).await.unwrap_err();
    let shown = format!("{error} {error:?}");
    assert!(shown.contains("docker-credential-x for r.io") && shown.contains(reason), "{shown}");
    assert!(!shown.contains(SECRET), "{shown}");
}

#[tokio::test]
async fn a_hanging_helper_is_killed_with_its_child_processes() {
    let folder = tempfile::tempdir().unwrap();
    let pids = folder.path().join("pids");
    let (_folder, mut helpers) = helpers(&format!("sleep 60 & echo $! $$ > {}; wait", pids.display()));
    helpers.limit = Duration::from_millis(500);
    let begun = Instant::now();
    let error = helpers.find(&call("x", "r.io", true)).await.unwrap_err();
    assert!(error.to_string().contains("no answer within 0.5 s"), "{error}");
    assert!(begun.elapsed() < Duration::from_secs(5));
    let pids = fs::read_to_string(pids).unwrap();
    let is_running = |pid: &str| {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        !stat.is_empty() && !stat.contains(") Z ")
    };
    for _ in 0..100 {
        if !pids.split_whitespace().any(is_running) {
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("still running: {pids}");
}

#[tokio::test]
async fn answers_and_failures_are_cached_and_shared() {
    let folder = tempfile::tempdir().unwrap();
    let count = folder.path().join("count");
    let script = format!(
        r#"read -r s; echo "$s" >> {}; [ "$s" = r.io ] && echo '{{"Username":"u","Secret":"s"}}'"#,
        count.display()
    );
    let (_folder, helpers) = helpers(&script);
    let (good, bad) = (call("x", "r.io", true), call("x", "bad.io", true));
    let all = (0..20).map(|n| helpers.find(if n % 2 == 0 { &good } else { &bad }));
    let answers = futures_util::future::join_all(all).await;
    assert_eq!(answers.iter().filter(|answer| answer.is_ok()).count(), 10, "{answers:?}");
    assert_eq!(fs::read_to_string(count).unwrap().lines().count(), 2);
}

#[tokio::test]
async fn a_missing_helper_fails_only_registries_that_are_listed() {
    let (folder, helpers) = helpers("exit 1");
    let error = helpers.find(&call("missing", "r.io", true)).await.unwrap_err();
    assert!(error.to_string().contains("docker-credential-missing for r.io: it is not installed"), "{error}");
    assert!(helpers.find(&call("missing", "r.io", false)).await.unwrap().is_none());
    fs::write(folder.path().join("docker-credential-missing"), "no program").unwrap();
    assert!(helpers.find(&call("missing", "r.io", true)).await.is_err());
    assert!(!format!("{helpers:?}").contains(SECRET));
}

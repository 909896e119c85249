//! Tests containers that belong to a systemd unit. A script replaces systemd and does what such a unit does: it removes
//! its container and creates a new one from the tag. Everything else is real.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;

use imagewatch_abi::Digest;
use imagewatch_tests::engine::RunSpec;
use imagewatch_tests::image::ImageSpec;
use imagewatch_tests::wait::wait_for;

use crate::stage::{Daemon, LONG_TIMEOUT, SHORT_TIMEOUT, Stage, watch_with};

/// A container `web` of unit `web.service`, watched by a program that finds the script as `systemctl`.
async fn unit_on_v1(stage: &Stage, labels: &[(&str, &str)], config: &[(&str, &str)]) -> Daemon {
    stage.push("web", "v1").await;
    let labels: BTreeMap<String, String> = [("PODMAN_SYSTEMD_UNIT", "web.service")]
        .iter()
        .chain(labels)
        .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
        .collect();
    let options: Vec<String> = labels.iter().map(|(name, value)| format!("-l '{name}={value}'")).collect();
    stage.run_as("web", RunSpec { image: stage.image("web"), labels, ..RunSpec::default() }).await;
    let (host, name, image) = (stage.scope.engine().host(), stage.scope.name("web"), stage.image("web"));
    let script = format!(
        "#!/bin/sh\n[ \"$*\" = 'restart -- web.service' ] || {{ echo \"not $*\" >&2; exit 1; }}\necho \"$*\" >> {log}\n\
         export DOCKER_HOST={host}\n{docker} rm -f {name} && {docker} run -d --name {name} {labels} {image}\n",
        log = stage.folder.path().join("restarts").display(),
        docker = docker(),
        labels = format_args!("{} {}", options.join(" "), stage.scope.label_option().join(" ")),
    );
    let folder = stage.folder.path().join("bin");
    fs::create_dir(&folder).unwrap();
    let file = folder.join("systemctl");
    fs::write(&file, script).unwrap();
    fs::set_permissions(&file, fs::Permissions::from_mode(0o755)).unwrap();
    let path = format!("{}:{}", folder.display(), std::env::var("PATH").unwrap());
    let manifest = stage.manifest().config("images", &stage.image("web"));
    let manifest = config.iter().fold(manifest, |manifest, (key, value)| manifest.config(key, value));
    let manifest = stage.write(&manifest, "one");
    let daemon = watch_with(host, &[manifest], &[("PATH", &path)]);
    daemon.wait_for_line("first seen").await;
    daemon
}

/// A docker command on PATH may be newer than the engine and refuse options.
fn docker() -> &'static str {
    if fs::exists("/usr/bin/docker").unwrap() { "/usr/bin/docker" } else { "docker" }
}

fn restarts(stage: &Stage) -> usize {
    fs::read_to_string(stage.folder.path().join("restarts")).unwrap_or_default().lines().count()
}

#[tokio::test(flavor = "multi_thread")]
async fn t46_a_units_container_is_updated_by_a_unit_restart() {
    let stage = Stage::new().await;
    let daemon = unit_on_v1(&stage, &[], &[]).await;
    let v2 = stage.push("web", "v2").await;
    stage.wait_until_on("web", &v2, LONG_TIMEOUT).await;
    daemon.wait_for_line(&format!("recreated {}", stage.scope.name("web"))).await;
    assert_eq!(restarts(&stage), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn t46_a_unit_whose_new_container_exits_is_rolled_back() {
    let stage = Stage::new().await;
    let daemon = unit_on_v1(&stage, &[], &[]).await;
    let v1: Digest = stage.container("web").await.unwrap().digests[0].clone();
    let bad = ImageSpec::broken(&stage.scope.name("v2"));
    stage.registry.target().push(&stage.scope.name("web"), "latest", &bad).await;
    daemon.wait_for_line("restored").await;
    stage.wait_until_on("web", &v1, LONG_TIMEOUT).await;
    assert_eq!(restarts(&stage), 2, "one restart for the update and one for the rollback");
}

#[tokio::test(flavor = "multi_thread")]
async fn first_use_4_a_unit_restart_runs_the_hook_and_removes_the_old_image() {
    let stage = Stage::new().await;
    let hook = ("imagewatch.hook.post-update", "echo $VERSION > /updated");
    let daemon = unit_on_v1(&stage, &[hook], &[("host.keep_images", "0")]).await;
    let v2 = stage.push("web", "v2").await;
    stage.wait_until_on("web", &v2, LONG_TIMEOUT).await;
    daemon.wait_for_line("removed an old image").await;
    daemon.wait_for_line(&format!("recreated {}", stage.scope.name("web"))).await;
    wait_for("the hook after the update", SHORT_TIMEOUT, || async {
        let answer = stage.scope.exec(&stage.scope.name("web"), &["sh", "-c", "cat /updated || true"]).await;
        if answer.contains("v2") { Ok(()) } else { Err(answer) }
    })
    .await;
    let repository = stage.image("web").replace(":latest", "");
    let mut left = vec![stage.image("web"), format!("{repository}@{v2}")];
    left.sort();
    assert_eq!(stage.scope.image_references().await, left);
}

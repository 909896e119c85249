//! Tests the real program on a real Podman (T46). Simple containers keep their settings, a bad image is rolled back and
//! quarantined, and settings that cannot be preserved are refused.

use std::time::Duration;

use imagewatch_abi::Digest;
use imagewatch_tests::image::ImageSpec;
use imagewatch_tests::plugin_manifest::PluginManifest;
use imagewatch_tests::podman::Podman;
use imagewatch_tests::process::Process;
use imagewatch_tests::program::start_imagewatch;
use imagewatch_tests::registry::{Registry, RegistryAuth};
use imagewatch_tests::wait::wait_for;
use serde_json::Value;
use tempfile::TempDir;

const LONG_TIMEOUT: Duration = Duration::from_mins(3);

/// A program that watches labelled containers. The fields are dropped in this order.
struct Scene {
    program: Process,
    podman: Podman,
    registry: Registry,
    _folder: TempDir,
}

impl Scene {
    /// Starts a container for each role with these options.
    async fn start(containers: &[(&str, &[&str])]) -> Self {
        let podman = Podman::start().await;
        let registry = Registry::start_at(podman.outer_address(), RegistryAuth::None).await;
        podman.run(&["network", "create", "--subnet", "10.89.77.0/24", "front"]);
        for (role, options) in containers {
            registry.target().push(role, "latest", &ImageSpec::sleeper("v1")).await;
            let image = format!("{}/{role}:latest", registry.host());
            let made = ["run", "--detach", "--name", role, "--label", "imagewatch.enable=true", "--restart", "always"];
            podman.run(&[&made[..], options, &[&image]].concat());
        }
        let folder = TempDir::new().expect("the temp folder is writable");
        let manifest = PluginManifest::new()
            .allow_host(&registry.host())
            .config("containers", "labelled")
            // Podman does not report where an image came from.
            .config("unknown_origin", "ask")
            .config("interval", "200ms")
            .config("host.stable_for", "1s")
            .config("host.insecure_registries", &registry.host())
            .config("grant.images", &format!("{}/*", registry.host()))
            .config("grant.containers", "label:imagewatch.enable=true");
        let manifest = manifest.write(folder.path(), "all");
        let state = folder.path().join("state").display().to_string();
        let args = ["run", "--admin-listen", "off", manifest.to_str().expect("the path is UTF-8")];
        let program = start_imagewatch(&podman.host(), args, &[("IMAGEWATCH_STATE_DIR", &state)]);
        for (role, _) in containers {
            program.wait_for_line(&format!("{role}: first seen"), LONG_TIMEOUT).await;
        }
        Self { program, podman, registry, _folder: folder }
    }

    async fn push(&self, role: &str, spec: &ImageSpec) -> Digest {
        self.registry.target().push(role, "latest", spec).await
    }

    fn inspect(&self, role: &str) -> Value {
        self.podman.inspect(role).unwrap_or_else(|| panic!("{role} does not exist: {:#?}", self.program.lines()))
    }

    /// Waits until the container of `role` is running, has another id than `before`, and no other container remains.
    async fn wait_until_replaced(&self, role: &str, before: &Value) -> Value {
        wait_for(&format!("{role} to be replaced"), LONG_TIMEOUT, || async {
            let now = self.podman.inspect(role).unwrap_or_default();
            let is_over = !self.podman.containers().iter().any(|name| name.starts_with(&format!("{role}.")));
            let is_new = now["Id"].is_string() && now["Id"] != before["Id"] && now["State"]["Running"] == true;
            if is_over && is_new { Ok(now) } else { Err((self.podman.containers(), self.program.lines())) }
        })
        .await
    }
}

/// The settings that a user of the container needs.
fn kept(container: &Value) -> [Value; 3] {
    let aliases = container["NetworkSettings"]["Networks"]["front"]["Aliases"].as_array().cloned().unwrap_or_default();
    let id = container["Id"].as_str().unwrap_or_default();
    let aliases = aliases.into_iter().filter(|alias| !id.starts_with(alias.as_str().unwrap_or_default()));
    let mounts = container["Mounts"].as_array().into_iter().flatten();
    let mounts = mounts.map(|mount| vec![mount["Name"].clone(), mount["Destination"].clone()]);
    // Podman lists them in any order.
    let mut mounts: Vec<Vec<Value>> = mounts.collect();
    mounts.sort_by_key(|mount| mount[1].to_string());
    [
        aliases.collect(),
        mounts.into_iter().map(Value::from).collect(),
        container["HostConfig"]["RestartPolicy"]["Name"].clone(),
    ]
}

fn env(container: &Value) -> Vec<&str> {
    container["Config"]["Env"].as_array().into_iter().flatten().filter_map(Value::as_str).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn t46_podman_containers_keep_settings_when_the_image_loses_its_name() {
    let options = ["--env", "MINE=1", "--volume", "data:/data", "--volume", "/anonymous"];
    let options = [&options[..], &["--network", "front", "--network-alias", "www"]].concat();
    let scene = Scene::start(&[("web", &options)]).await;
    scene.podman.run(&["exec", "web", "sh", "-c", "echo kept > /anonymous/file"]);
    for (version, is_pulled_by_hand) in [("v2", false), ("v3", true)] {
        let before = scene.inspect("web");
        scene.push("web", &ImageSpec::sleeper(version)).await;
        if is_pulled_by_hand {
            scene.podman.run(&["pull", &format!("{}/web:latest", scene.registry.host())]);
        }
        let now = scene.wait_until_replaced("web", &before).await;
        assert_eq!(kept(&now), kept(&before), "{version}");
        assert!(env(&now).contains(&"MINE=1") && env(&now).contains(&format!("VERSION={version}").as_str()), "{now}");
        assert_eq!(scene.podman.run(&["exec", "web", "cat", "/anonymous/file"]), "kept", "{version}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn t46_podman_rolls_back_a_bad_image_and_refuses_a_fixed_address() {
    let fixed: &[&str] = &["--network", "front", "--ip", "10.89.77.9"];
    let scene = Scene::start(&[("bad", &[]), ("fixed", fixed)]).await;
    let before = ["bad", "fixed"].map(|role| scene.inspect(role));
    scene.push("bad", &ImageSpec::broken("v2")).await;
    scene.push("fixed", &ImageSpec::sleeper("v2")).await;
    let line = scene.program.wait_for_line("failed bad: ", LONG_TIMEOUT).await;
    assert!(line.contains("is quarantined") && line.contains("runs again as before"), "{line}");
    let line = scene.program.wait_for_line("is not rolled out", LONG_TIMEOUT).await;
    assert!(line.contains("fixed") && line.contains("--ip"), "{line}");
    for before in before {
        let name = before["Name"].as_str().expect("the container has a name");
        let now = scene.inspect(name);
        assert_eq!((&now["Id"], &now["State"]["Running"]), (&before["Id"], &Value::Bool(true)), "{name}");
        assert_eq!(kept(&now), kept(&before), "{name}");
    }
    assert_eq!(scene.podman.containers(), ["bad", "fixed"], "no other container remains");
}

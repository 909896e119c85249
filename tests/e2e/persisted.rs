//! Tests that a policy's state survives a stop, a kill, and a full disk.

use std::path::PathBuf;
use std::process::Command;

use imagewatch::store::Store;
use imagewatch_tests::process::Signal;
use imagewatch_tests::program::STATE_DIR;
use serde_json::Value;
use tempfile::TempDir;

use crate::stage::{Daemon, LONG_TIMEOUT, SHORT_TIMEOUT, Stage, run_to_end, watch_with};

/// One container, `web`, on `v1`, with a manifest that keeps its state.
struct Scene {
    stage: Stage,
    state: TempDir,
    manifest: PathBuf,
}

impl Scene {
    async fn new() -> Self {
        let stage = Stage::new().await;
        stage.push("web", "v1").await;
        stage.run("web").await;
        let manifest = stage.write(&stage.manifest().config("images", &stage.image("web")), "kept");
        Self { stage, state: TempDir::new().expect("the temp folder is writable"), manifest }
    }

    fn state_dir(&self) -> &str {
        self.state.path().to_str().expect("the path is UTF-8")
    }

    fn watch(&self) -> Daemon {
        let envs = [(STATE_DIR, self.state_dir())];
        watch_with(self.stage.scope.engine().host(), std::slice::from_ref(&self.manifest), &envs)
    }

    /// The verdicts of the history, oldest first.
    async fn verdicts(&self) -> Vec<String> {
        let args = ["history", "--json"];
        let (code, output) =
            run_to_end(self.stage.scope.engine().host(), &args, &[(STATE_DIR, self.state_dir())]).await;
        assert_eq!(code, 0, "{output}");
        let listed: Value = serde_json::from_str(&output).unwrap_or_else(|error| panic!("{error}: {output}"));
        let events = listed["history"].as_array().expect("the history is a list");
        events.iter().rev().map(|event| event["verdict"].as_str().expect("the verdict is text").to_owned()).collect()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_next_program_notices_a_move_after_a_stop() {
    test_move_between_programs(Signal::TERM).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_next_program_notices_a_move_after_a_kill() {
    test_move_between_programs(Signal::KILL).await;
}

async fn test_move_between_programs(end: Signal) {
    let scene = Scene::new().await;
    let mut first = scene.watch();
    first.wait_for_line("watching; polled again").await;
    first.process.signal(end);
    first.process.wait_exit(SHORT_TIMEOUT).await;

    let v2 = scene.stage.push("web", "v2").await;
    let second = scene.watch();
    scene.stage.wait_until_on("web", &v2, LONG_TIMEOUT).await;
    second.wait_for_line("recreated").await;
    let lines = second.stop().await;
    assert!(!lines.iter().any(|line| line.contains("first seen")), "{lines:#?}");
    assert_eq!(scene.verdicts().await, ["seeded", "moved", "committed"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_running_image_baseline_updates_an_outdated_container_at_start() {
    let scene = Scene::new().await;
    let v2 = scene.stage.push("web", "v2").await;
    let manifest = scene.stage.manifest().config("images", &scene.stage.image("web")).config("baseline", "running");
    scene.stage.write(&manifest, "kept");
    let daemon = scene.watch();
    scene.stage.wait_until_on("web", &v2, LONG_TIMEOUT).await;
    daemon.wait_for_line("recreated").await;
    daemon.stop().await;
    assert_eq!(scene.verdicts().await, ["moved", "committed"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_state_of_a_newer_policy_is_reported_and_not_changed() {
    let scene = Scene::new().await;
    let newer = serde_json::json!({"version": 2, "targets": []});
    let store = Store::open(scene.state.path()).expect("the state folder is writable");
    store.keep_policy_state("kept", &newer).expect("written");
    drop(store);
    let daemon = scene.watch();
    let line = daemon.wait_for_line("state has version 2").await;
    assert!(line.contains("use the policy that wrote it, or clear the state"), "{line}");
    let forget = || async {
        let envs = [(STATE_DIR, scene.state_dir())];
        run_to_end(scene.stage.scope.engine().host(), &["forget", "kept"], &envs).await
    };
    let (code, output) = forget().await;
    assert_eq!(code, 7, "the program still runs: {output}");
    daemon.stop().await;
    let store = Store::open(scene.state.path()).expect("the state folder is writable");
    assert_eq!(store.policy_state("kept").expect("read"), Some(newer));
    assert_eq!(forget().await.0, 0);
    assert_eq!(store.policy_state("kept").expect("read"), None);
    let (code, output) = forget().await;
    assert!(code == 1 && output.contains("nothing is kept for manifest kept"), "{code}: {output}");
}

/// A file system of `size_kib`, mounted over a folder until this value is dropped.
struct SmallDisk(PathBuf);

impl SmallDisk {
    fn mount(folder: PathBuf, size_kib: u32) -> Self {
        // A state folder must be accessible only to its owner.
        let size = format!("size={size_kib}k,mode=700");
        let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", &size, "imagewatch-test"]).arg(&folder).status();
        assert!(mounted.expect("mount can be run").success(), "this test needs root, like the engine");
        Self(folder)
    }

    /// Fills the disk completely.
    fn fill(&self) {
        let filled = std::fs::write(self.0.join("ballast"), vec![0; 8 << 20]);
        assert!(filled.is_err(), "the ballast is larger than the disk");
    }

    fn free(&self) {
        std::fs::remove_file(self.0.join("ballast")).expect("the ballast exists");
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("--lazy").arg(&self.0).status();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_is_reported_and_loses_no_stored_state() {
    let scene = Scene::new().await;
    let disk = SmallDisk::mount(scene.state.path().to_owned(), 4096);
    let first = scene.watch();
    first.wait_for_line("first seen").await;
    disk.fill();
    let v2 = scene.stage.push("web", "v2").await;
    // No update starts that cannot be recorded in the journal. The program logs the reason.
    first.wait_for_line("No space left").await;
    disk.free();
    scene.stage.wait_until_on("web", &v2, LONG_TIMEOUT).await;
    first.wait_for_line("recreated").await;
    first.stop().await;

    disk.fill();
    let second = scene.watch();
    second.wait_for_line("loaded").await;
    second.wait_for_line("admin API listens").await;
    second.stop().await;
    disk.free();
    let v3 = scene.stage.push("web", "v3").await;
    let third = scene.watch();
    scene.stage.wait_until_on("web", &v3, LONG_TIMEOUT).await;
    third.stop().await;
}

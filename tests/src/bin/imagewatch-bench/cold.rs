//! The last table of `bench registry`: the command `check` from its start to its end. If the `cup` program is given,
//! both alternate on the same registry and engine.

use std::path::Path;
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use imagewatch_tests::fake_registry::{FakeRegistry, FakeRegistrySettings};
use imagewatch_tests::program;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::engine::FakeEngine;
use crate::registry::{LATENCY, Plan};
use crate::report::{Aim, Row, Samples, ms};
use crate::world::watching;

/// The environment of both programs.
struct Stage {
    registry: FakeRegistry,
    engine: FakeEngine,
    folder: TempDir,
    images: usize,
}

/// Measures with and without latency. `cup` is the path of that program.
pub(crate) async fn measure(plan: Plan, cup: Option<String>) -> Vec<Row> {
    let mut rows = Vec::new();
    for latency in [Duration::ZERO, LATENCY] {
        let images = plan.images[0];
        crate::say(&format!("checking {images} images, {} ms away", latency.as_millis()));
        let settings = FakeRegistrySettings { repositories: images, latency, has_tokens: false, has_tls: false };
        let registry = FakeRegistry::start(settings);
        let engine = FakeEngine::start(&registry, images);
        let stage = Stage { registry, engine, folder: TempDir::new().expect("the temp folder takes folders"), images };
        let cup = cup.clone();
        let compared = tokio::task::spawn_blocking(move || compare(&stage, plan.commands, cup.as_deref()));
        rows.extend(compared.await.expect("both programs succeed").rows(latency));
    }
    rows
}

/// Times in milliseconds.
struct Compared {
    imagewatch: Samples,
    cup: Option<Samples>,
}

fn compare(stage: &Stage, rounds: usize, cup: Option<&str>) -> Compared {
    let manifest = watching([], &stage.registry.host()).config("containers", "all").config("grant.containers", "*");
    let manifest = manifest.write(stage.folder.path(), "check");
    let config = stage.folder.path().join("cup.json");
    let text = json!({
        "version": 3, "socket": stage.engine.host(), "registries": {stage.registry.host(): {"insecure": true}},
    });
    std::fs::write(&config, text.to_string()).expect("the temp folder is writable");
    let (mut imagewatch, mut cup_times) = (Vec::new(), Vec::new());
    for _ in 0..rounds {
        imagewatch.push(ms(check(stage, &manifest)));
        cup_times.extend(cup.map(|cup| ms(cup_check(stage, cup, &config))));
    }
    Compared { imagewatch: Samples::new(imagewatch), cup: cup.map(|_| Samples::new(cup_times)) }
}

/// Runs `imagewatch check --json` with its own state folder.
fn check(stage: &Stage, manifest: &Path) -> Duration {
    let state = TempDir::new().expect("the temp folder is writable");
    let mut command = Command::new(program::imagewatch());
    command.args(["check", "--json"]).arg(manifest).env("DOCKER_HOST", stage.engine.host());
    let (output, elapsed) = run(command.env(program::STATE_DIR, state.path()), stage);
    let checked: Value = serde_json::from_slice(&output.stdout).expect("the output is JSON");
    let images = checked["images"].as_array().expect("the output lists images");
    let is_all = images.len() == stage.images && images.iter().all(|image| image["verdict"] == "unchanged");
    assert!(is_all, "every container must be up to date: {}", String::from_utf8_lossy(&output.stdout));
    elapsed
}

fn cup_check(stage: &Stage, cup: &str, config: &Path) -> Duration {
    run(Command::new(cup).arg("-c").arg(config).args(["check", "-r"]), stage).1
}

/// Runs the command and measures its time. It must succeed and must have requested every image.
fn run(command: &mut Command, stage: &Stage) -> (Output, Duration) {
    let before = stage.registry.counts();
    let start = Instant::now();
    let output = command.output().unwrap_or_else(|error| panic!("failed to start {command:?}: {error}"));
    let elapsed = start.elapsed();
    let asked = stage.registry.counts().since(before);
    let is_done = output.status.success() && asked.heads + asked.gets >= stage.images;
    assert!(is_done, "{command:?} sent {asked:?} and printed {output:?}");
    (output, elapsed)
}

impl Compared {
    fn rows(self, latency: Duration) -> Vec<Row> {
        let away = format!("{} ms", latency.as_millis());
        let ratio = self.cup.as_ref().map(|cup| Samples::new([self.imagewatch.median() / cup.median()]));
        let mut rows = vec![Row::new(&format!("imagewatch check --json, cold, {away}"), "ms", self.imagewatch)];
        rows.extend(self.cup.map(|cup| Row::new(&format!("cup check -r, cold, {away}"), "ms", cup)));
        let of_ratio = |ratio| Row::new("  imagewatch / cup, of the medians", "x", ratio).aim(Aim::Median(0.5));
        rows.extend(ratio.map(of_ratio));
        rows
    }
}

//! `bench plugin`: what a policy costs its host: its size, its loading, an empty call, and its decisions over few and over
//! many targets.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use imagewatch_abi::{SettleInput, SettleOutput, exports};
use imagewatch_policy::{PluginManifest, Reloader, call};
use imagewatch_tests::components;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::guest::{Decisions, decide, seed};
use crate::policy::{Canned, Policy};
use crate::report::{Aim, Row, Samples, count, ms};
use crate::world::watching;

/// How many targets are decided over, the fewest first.
const TARGETS: [usize; 3] = [100, 1_000, 10_000];

/// How often each thing is measured.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Rounds {
    loads: usize,
    empty_calls: usize,
    /// Over the fewest targets. Over ten times as many targets there are a tenth of these, and over more no fewer.
    decisions: usize,
}

pub(crate) const FULL: Rounds = Rounds { loads: 10, empty_calls: 500, decisions: 100 };
pub(crate) const QUICK: Rounds = Rounds { loads: 3, empty_calls: 50, decisions: 30 };

/// The parts of the table.
pub(crate) async fn measure(rounds: Rounds) -> Vec<crate::Part> {
    vec![
        ("the policy's loading", tokio::task::spawn_blocking(move || load(rounds)).await),
        ("its decisions", tokio::spawn(decisions(rounds)).await),
    ]
}

fn load(rounds: Rounds) -> Vec<Row> {
    crate::say("loading the policy");
    let folder = TempDir::new().expect("the temp folder takes folders");
    let path = watching(["registry.bench/app".to_owned()], "registry.bench").write(folder.path(), "load");
    let start = Instant::now();
    let mut running = Policy::load(&path);
    let first = Samples::new([ms(start.elapsed())]);
    let loads = (0..rounds.loads).map(|_| {
        let start = Instant::now();
        // The one that it takes the place of is given back within the time.
        running = Policy::load(&path);
        ms(start.elapsed())
    });
    let loads = Samples::new(loads.collect::<Vec<_>>());
    let answers = Arc::new(Canned::default());
    let empty = Samples::new((0..rounds.empty_calls).map(|_| ms(settle_nothing(&running, &answers))));
    let (changed, known) = reloads(&path, &seed(&running, &answers, 1).state);
    let wasm = std::fs::metadata(components::plugin_wasm()).expect("it was just loaded").len();
    let bytes = count(usize::try_from(wasm).expect("it fits into memory"));
    vec![
        Row::new("size of the policy", "B", Samples::new([bytes])).aim(Aim::AtMost(409_600.0)),
        Row::new("first load of a process: read, check, compile, describe", "ms", first),
        Row::new("load once its functions were compiled, and swap", "ms", loads),
        Row::new("reload of a changed module, up to the swap", "ms", changed).aim(Aim::AtMost(250.0)),
        Row::new("  of the one before it", "ms", known),
        Row::new("fresh instance and an empty call", "ms", empty).aim(Aim::Median(0.5)),
    ]
}

fn settle_nothing(policy: &Policy, answers: &Arc<Canned>) -> Duration {
    let start = Instant::now();
    let input = SettleInput::default();
    let called = call::<_, SettleOutput>(&policy.plugin.compiled, exports::SETTLE, &input, Arc::clone(answers) as _);
    called.expect("the policy answers");
    start.elapsed()
}

/// Reloads as the program makes them: each of another module, and each of the one before. From reading the files until it
/// is known that the policy can go on from `state`; what follows is the swap of a pointer.
fn reloads(manifest: &Path, state: &Value) -> (Samples, Samples) {
    let text = std::fs::read_to_string(manifest).expect("it was written");
    let mut text: Value = serde_json::from_str(&text).expect("it is JSON");
    let original = std::fs::read(text["wasm"][0]["path"].as_str().expect("a path")).expect("it was built");
    let module = manifest.with_extension("wasm");
    text["wasm"][0]["path"] = json!(module);
    text["config"]["host.allow_unhashed"] = json!("true");
    let text = text.to_string();
    let reloader = Reloader::new(Box::new(move || PluginManifest::parse("guest", "guest.json", &text, &|_| None)));
    let reload = |letter: u8| {
        // The same code under another hash: a custom section more.
        let wasm = [&original[..], &[0, 2, 1, letter]].concat();
        std::fs::write(&module, wasm).expect("the folder takes files");
        let start = Instant::now();
        let (loaded, _) = reloader.load().expect("the plugin is ours");
        loaded.plugin.can_read(state).expect("it wrote that");
        ms(start.elapsed())
    };
    let changed = Samples::new((b'a'..=b'j').map(reload));
    let known = Samples::new(b"ij".iter().copied().cycle().take(10).map(reload));
    (changed, known)
}

async fn decisions(rounds: Rounds) -> Vec<Row> {
    let folder = TempDir::new().expect("the temp folder takes folders");
    let mut all: Vec<Decisions> = Vec::new();
    for targets in TARGETS {
        crate::say(&format!("deciding over {targets} targets"));
        let rounds = (rounds.decisions * TARGETS[0] / targets).max(rounds.decisions.div_ceil(10));
        all.push(decide(folder.path().to_owned(), targets, rounds).await);
    }
    let mut rows: Vec<Row> = all.iter().flat_map(Decisions::rows).collect();
    rows.extend(all[1..].iter().map(|decisions| decisions.growth_from(&all[0])));
    rows
}

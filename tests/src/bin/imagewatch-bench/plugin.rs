//! `bench plugin`: the cost of a policy for its host: its size, its loading, an empty call, and decisions over few and
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

/// The numbers of targets, in ascending order.
const TARGETS: [usize; 3] = [100, 1_000, 10_000];

/// How often each part is measured.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Rounds {
    loads: usize,
    empty_calls: usize,
    /// Decisions over the smallest number of targets. Ten times as many targets get a tenth of these, and larger
    /// numbers get the same.
    decisions: usize,
}

pub(crate) const FULL: Rounds = Rounds { loads: 10, empty_calls: 500, decisions: 100 };
pub(crate) const QUICK: Rounds = Rounds { loads: 3, empty_calls: 50, decisions: 30 };

/// The parts of the table.
pub(crate) async fn measure(rounds: Rounds) -> Vec<crate::Part> {
    vec![
        ("the loading of the policy", tokio::task::spawn_blocking(move || load(rounds)).await),
        ("the decisions of the policy", tokio::spawn(decisions(rounds)).await),
    ]
}

fn load(rounds: Rounds) -> Vec<Row> {
    crate::say("loading the policy");
    let folder = TempDir::new().expect("the temp folder is writable");
    let path = watching(["registry.bench/app".to_owned()], "registry.bench").write(folder.path(), "load");
    let start = Instant::now();
    let mut running = Policy::load(&path);
    let first = Samples::new([ms(start.elapsed())]);
    let loads = (0..rounds.loads).map(|_| {
        let start = Instant::now();
        // The measured time includes dropping the previous policy.
        running = Policy::load(&path);
        ms(start.elapsed())
    });
    let loads = Samples::new(loads.collect::<Vec<_>>());
    let answers = Arc::new(Canned::default());
    let empty = Samples::new((0..rounds.empty_calls).map(|_| ms(settle_nothing(&running, &answers))));
    let (changed, known) = reloads(&path, &seed(&running, &answers, 1).state);
    let wasm = std::fs::metadata(components::plugin_wasm()).expect("the module was just loaded").len();
    let bytes = count(usize::try_from(wasm).expect("the module fits into memory"));
    vec![
        Row::new("size of the policy", "B", Samples::new([bytes])).aim(Aim::AtMost(409_600.0)),
        Row::new("first load of a process: read, check, compile, describe", "ms", first),
        Row::new("load once its functions were compiled, and swap", "ms", loads),
        Row::new("reload of a changed module, up to the swap", "ms", changed).aim(Aim::AtMost(250.0)),
        Row::new("  reload of the previous module", "ms", known),
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

/// Reloads as in the program: a new module, and then the previous one. The time is from reading the files until it is
/// known that the policy can read `state`. After that, only a pointer is swapped.
fn reloads(manifest: &Path, state: &Value) -> (Samples, Samples) {
    let text = std::fs::read_to_string(manifest).expect("the manifest was written");
    let mut text: Value = serde_json::from_str(&text).expect("the manifest is JSON");
    let original =
        std::fs::read(text["wasm"][0]["path"].as_str().expect("the path is text")).expect("the module was built");
    let module = manifest.with_extension("wasm");
    text["wasm"][0]["path"] = json!(module);
    text["config"]["host.allow_unhashed"] = json!("true");
    let text = text.to_string();
    let reloader = Reloader::new(Box::new(move || PluginManifest::parse("guest", "guest.json", &text, &|_| None)));
    let reload = |letter: u8| {
        // The same code with another hash, because of an additional custom section.
        let wasm = [&original[..], &[0, 2, 1, letter]].concat();
        std::fs::write(&module, wasm).expect("the folder is writable");
        let start = Instant::now();
        let (loaded, _) = reloader.load().expect("the plugin is valid");
        loaded.plugin.can_read(state).expect("the policy reads its own state");
        ms(start.elapsed())
    };
    let changed = Samples::new((b'a'..=b'j').map(reload));
    let known = Samples::new(b"ij".iter().copied().cycle().take(10).map(reload));
    (changed, known)
}

async fn decisions(rounds: Rounds) -> Vec<Row> {
    let folder = TempDir::new().expect("the temp folder is writable");
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

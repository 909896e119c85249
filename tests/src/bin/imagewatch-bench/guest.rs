//! What the guest takes of a tick: the same 500 decisions with answers from memory, in the sandbox and natively.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use imagewatch::plugin::{Effects, PluginManifest, Reloader, call};
use imagewatch_abi::{
    Answer, Containers, HttpBatch, HttpResponses, LogLine, Order, Orders, Placed, PollInput, PollOutput, Selector,
    SettleInput, SettleOutput, Verdict, exports,
};
use imagewatch_core::Host;
use serde_json::{Value, json};

use crate::policy::{Canned, Policy};
use crate::report::{Aim, Row, Samples, ms, us};
use crate::world::{IMAGES, IMAGES_F, World};

/// A native host of the core, over the same answers and config.
struct NativeHost<'a> {
    config: &'a BTreeMap<String, String>,
    answers: &'a Canned,
}

impl Host for NativeHost<'_> {
    fn config(&self, key: &str) -> Option<String> {
        self.config.get(key).cloned()
    }

    fn http_send(&mut self, batch: HttpBatch) -> Answer<HttpResponses> {
        self.answers.http_send(batch)
    }

    fn docker_containers(&mut self, selector: Selector) -> Answer<Containers> {
        self.answers.docker_containers(selector)
    }

    fn docker_refresh(&mut self, orders: Vec<Order>) -> Answer<Placed> {
        self.answers.docker_refresh(Orders { orders })
    }

    fn log(&mut self, line: LogLine) {
        self.answers.log(line);
    }
}

/// Calls the guest and the native core by turns.
pub(crate) async fn measure(world: Arc<World>, rounds: usize) -> Vec<Row> {
    crate::say("calling the guest");
    tokio::task::spawn_blocking(move || compare(&world, rounds)).await.expect("it does not panic")
}

fn compare(world: &World, rounds: usize) -> Vec<Row> {
    let path = world.write_manifest("guest", &world.host(), "5m");
    let loads: Vec<_> = (0..5).map(|_| Policy::load(&path)).collect();
    let (policy, _) = &loads[0];
    let answers = Arc::new(Canned::default());
    let steady = seed(policy, &answers);
    let (changed, known) = reloads(&path, &steady.state);
    let bytes = serde_json::to_vec(&steady).expect("it is JSON");
    let (mut whole, mut guest, mut fuel) = (Vec::new(), Vec::new(), Vec::new());
    let (mut native, mut empty) = (Vec::new(), Vec::new());
    for _ in 0..rounds {
        let Called { output, elapsed, spent } = poll(policy, &answers, &steady);
        whole.push(us(elapsed) / IMAGES_F);
        guest.push(us(elapsed.saturating_sub(host_json(&answers, &steady, &output))) / IMAGES_F);
        fuel.push(spent / IMAGES_F);
        native.push(us(poll_natively(policy, &answers, &bytes)) / IMAGES_F);
        empty.push(us(settle_nothing(policy, &answers)));
    }
    let [whole, guest, native, empty] = [whole, guest, native, empty].map(Samples::new);
    let ratio = guest.median() / native.median();
    vec![
        Row::new("guest time per image", "us", guest).aim(Aim::Median(10.0)),
        Row::new("  with the host's JSON", "us", whole),
        Row::new("  the same decisions natively, per image", "us", native),
        Row::new("  sandboxed / native, of the medians", "x", Samples::new([ratio])),
        Row::new("  fuel per image", "", Samples::new(fuel)),
        Row::new("  fresh instance and an empty call", "us", empty),
        Row::new("  load: read, check, compile, describe", "ms", Samples::new(loads.iter().map(|(_, took)| ms(*took)))),
        Row::new("reload of a changed module, up to the swap", "ms", changed).aim(Aim::AtMost(250.0)),
        Row::new("  of the one before it", "ms", known),
    ]
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

/// The input of every tick after the first.
fn seed(policy: &Policy, answers: &Arc<Canned>) -> PollInput {
    let now_ms = 1_763_700_000_000;
    let first = PollInput { now_ms, ..PollInput::default() };
    let (output, _): (PollOutput, _) =
        call(&policy.plugin.compiled, exports::POLL, &first, Arc::clone(answers) as _).expect("the policy answers");
    assert!(has_all(&output, Verdict::Seeded), "the first tick sees everything for the first time");
    PollInput { state: output.state, cache: output.cache, ..first }
}

/// A call of the policy.
struct Called {
    output: PollOutput,
    /// The answering excepted.
    elapsed: Duration,
    /// Fuel.
    spent: f64,
}

/// A steady tick.
#[expect(clippy::cast_precision_loss, reason = "for a table")]
fn poll(policy: &Policy, answers: &Arc<Canned>, input: &PollInput) -> Called {
    answers.take_answering();
    let start = Instant::now();
    let called = call(&policy.plugin.compiled, exports::POLL, input, Arc::clone(answers) as _);
    let elapsed = start.elapsed();
    let (output, cost): (PollOutput, _) = called.expect("the policy answers");
    assert!(has_all(&output, Verdict::Unchanged), "nothing moves");
    Called { output, elapsed: elapsed.saturating_sub(answers.take_answering()), spent: cost.fuel as f64 }
}

/// What the host alone spends in such a call: it writes the input and the answers, and reads the batch and the output.
fn host_json(answers: &Canned, input: &PollInput, output: &PollOutput) -> Duration {
    let batch = HttpBatch { requests: answers.asked() };
    let answered = answers.http_send(batch.clone());
    let written = (serde_json::to_vec(&batch).expect("it is JSON"), serde_json::to_vec(output).expect("it is JSON"));
    let start = Instant::now();
    let bytes = (serde_json::to_vec(input), serde_json::to_vec(&answered));
    let read = (serde_json::from_slice::<HttpBatch>(&written.0), serde_json::from_slice::<PollOutput>(&written.1));
    let elapsed = start.elapsed();
    assert!(bytes.0.is_ok() && bytes.1.is_ok() && read.0.is_ok() && read.1.is_ok(), "it is JSON both ways");
    elapsed
}

fn poll_natively(policy: &Policy, answers: &Canned, input: &[u8]) -> Duration {
    answers.take_answering();
    let mut host = NativeHost { config: &policy.manifest.config, answers };
    let start = Instant::now();
    let output = imagewatch_core::call(exports::POLL, input, &mut host).expect("the core answers");
    let elapsed = start.elapsed();
    assert!(output.len() > IMAGES, "it says something of each image");
    elapsed.saturating_sub(answers.take_answering())
}

fn settle_nothing(policy: &Policy, answers: &Arc<Canned>) -> Duration {
    let start = Instant::now();
    let input = SettleInput::default();
    let called = call::<_, SettleOutput>(&policy.plugin.compiled, exports::SETTLE, &input, Arc::clone(answers) as _);
    called.expect("the policy answers");
    start.elapsed()
}

fn has_all(output: &PollOutput, verdict: Verdict) -> bool {
    output.outcomes.len() == IMAGES && output.outcomes.iter().all(|outcome| outcome.verdict == verdict)
}

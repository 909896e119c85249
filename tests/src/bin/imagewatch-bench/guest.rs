//! The guest's share of a poll: the same decisions with answers from memory, in the sandbox and natively.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use imagewatch_abi::{
    Answer, Containers, HttpBatch, HttpResponses, LogLine, Order, Orders, OrdersAccepted, PollInput, PollOutput,
    Selector, Verdict, exports,
};
use imagewatch_core::Host;
use imagewatch_policy::{Effects, call};

use crate::policy::{Canned, Policy};
use crate::report::{Aim, FLAT, Row, Samples, count, us};
use crate::world::watching;

/// A native host of the core with the same answers and config. Like the guest, it writes its requests as JSON and reads
/// the answers from JSON. In both cases, the host's own JSON work is not counted.
struct NativeHost<'a> {
    config: &'a BTreeMap<String, String>,
    answers: &'a Canned,
}

impl Host for NativeHost<'_> {
    fn config(&self, key: &str) -> Option<String> {
        self.config.get(key).cloned()
    }

    fn http_send(&mut self, batch: HttpBatch) -> Answer<HttpResponses> {
        let batch = serde_json::to_vec(&batch).expect("a batch serializes to JSON");
        let answer = self.answers.answering(|| {
            let batch = serde_json::from_slice(&batch).expect("the JSON was just written");
            serde_json::to_vec(&self.answers.answer(batch)).expect("an answer serializes to JSON")
        });
        serde_json::from_slice(&answer).expect("the JSON was just written")
    }

    fn docker_containers(&mut self, selector: Selector) -> Answer<Containers> {
        self.answers.docker_containers(selector)
    }

    fn docker_refresh(&mut self, orders: Vec<Order>) -> Answer<OrdersAccepted> {
        self.answers.docker_refresh(Orders { orders })
    }

    fn log(&mut self, line: LogLine) {
        self.answers.log(line);
    }
}

/// The times of decisions over `targets` targets.
pub(crate) struct Decisions {
    targets: usize,
    /// Microseconds, without the host's JSON work and the answering.
    guest: Samples,
    /// Microseconds, without the answering.
    whole: Samples,
    /// Microseconds.
    native: Samples,
    fuel: Samples,
}

/// Calls the guest and the native core alternately, `rounds` times, over `targets` targets.
pub(crate) async fn decide(folder: PathBuf, targets: usize, rounds: usize) -> Decisions {
    tokio::task::spawn_blocking(move || compare(&folder, targets, rounds)).await.expect("the comparison does not panic")
}

fn compare(folder: &Path, targets: usize, rounds: usize) -> Decisions {
    const HOST: &str = "registry.bench";
    let images = (0..targets).map(|index| format!("{HOST}/bench/app-{index:05}:latest"));
    let policy = Policy::load(&watching(images, HOST).write(folder, &format!("guest-{targets}")));
    let answers = Arc::new(Canned::default());
    let steady = seed(&policy, &answers, targets);
    let bytes = serde_json::to_vec(&steady).expect("the input serializes to JSON");
    let (mut whole, mut guest, mut native, mut fuel) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for _ in 0..rounds {
        let Called { output, elapsed, spent } = poll(&policy, &answers, &steady, targets);
        whole.push(us(elapsed) / count(targets));
        guest.push(us(elapsed.saturating_sub(host_json(&answers, &steady, &output))) / count(targets));
        fuel.push(spent / count(targets));
        native.push(us(poll_natively(&policy, &answers, &bytes, targets)) / count(targets));
    }
    let [guest, whole, native, fuel] = [guest, whole, native, fuel].map(Samples::new);
    Decisions { targets, guest, whole, native, fuel }
}

impl Decisions {
    /// The rows of the table.
    pub(crate) fn rows(&self) -> Vec<Row> {
        let Self { targets, guest, whole, native, fuel } = self;
        let ratio = Samples::new([guest.median() / native.median()]);
        vec![
            Row::new(&format!("guest time per target, of {targets}"), "us", guest.clone()).aim(Aim::Median(10.0)),
            Row::new("  with the host's JSON", "us", whole.clone()),
            Row::new("  the same decisions natively, per target", "us", native.clone()),
            Row::new("  sandboxed / native, of the medians", "x", ratio).aim(Aim::Median(3.0)),
            Row::new("  fuel per target", "", fuel.clone()),
        ]
    }

    /// The ratio of the time per target to that with fewer targets.
    pub(crate) fn growth_from(&self, fewer: &Self) -> Row {
        let measure = format!("guest time per target, of {} / of {}", self.targets, fewer.targets);
        let ratio = Samples::new([self.guest.median() / fewer.guest.median()]);
        Row::new(&measure, "x", ratio).aim(Aim::Median(FLAT))
    }
}

/// The input of every poll after the first.
pub(crate) fn seed(policy: &Policy, answers: &Arc<Canned>, targets: usize) -> PollInput {
    let now_ms = 1_763_700_000_000;
    let first = PollInput { now_ms, ..PollInput::default() };
    let (output, _): (PollOutput, _) =
        call(&policy.plugin.compiled, exports::POLL, &first, Arc::clone(answers) as _).expect("the policy answers");
    assert!(has_all(&output, Verdict::Seeded, targets), "the first poll sees every target for the first time");
    PollInput { state: output.state, cache: output.cache, ..first }
}

/// The cost of one call of the policy.
struct Called {
    output: PollOutput,
    /// The elapsed time, without the answering.
    elapsed: Duration,
    /// The consumed fuel.
    spent: f64,
}

/// Runs a steady poll.
#[expect(clippy::cast_precision_loss, reason = "for a table")]
fn poll(policy: &Policy, answers: &Arc<Canned>, input: &PollInput, targets: usize) -> Called {
    answers.take_answering();
    let start = Instant::now();
    let called = call(&policy.plugin.compiled, exports::POLL, input, Arc::clone(answers) as _);
    let elapsed = start.elapsed();
    let (output, cost): (PollOutput, _) = called.expect("the policy answers");
    assert!(has_all(&output, Verdict::Unchanged, targets), "no tag moves");
    Called { output, elapsed: elapsed.saturating_sub(answers.take_answering()), spent: cost.fuel as f64 }
}

/// The host's own time in such a call: it writes the input and the answers, and reads the batch and the output.
fn host_json(answers: &Canned, input: &PollInput, output: &PollOutput) -> Duration {
    let batch = HttpBatch { requests: answers.asked(), ..HttpBatch::default() };
    let answered = answers.answer(batch.clone());
    let written = (
        serde_json::to_vec(&batch).expect("the value serializes to JSON"),
        serde_json::to_vec(output).expect("it is JSON"),
    );
    let start = Instant::now();
    let bytes = (serde_json::to_vec(input), serde_json::to_vec(&answered));
    let read = (serde_json::from_slice::<HttpBatch>(&written.0), serde_json::from_slice::<PollOutput>(&written.1));
    let elapsed = start.elapsed();
    assert!(
        bytes.0.is_ok() && bytes.1.is_ok() && read.0.is_ok() && read.1.is_ok(),
        "all values convert to and from JSON"
    );
    elapsed
}

fn poll_natively(policy: &Policy, answers: &Canned, input: &[u8], targets: usize) -> Duration {
    answers.take_answering();
    let mut host = NativeHost { config: &policy.manifest.config, answers };
    let start = Instant::now();
    let output = imagewatch_core::call(exports::POLL, input, &mut host).expect("the core answers");
    let elapsed = start.elapsed();
    assert!(output.len() > targets, "the output covers each image");
    elapsed.saturating_sub(answers.take_answering())
}

fn has_all(output: &PollOutput, verdict: Verdict, targets: usize) -> bool {
    output.outcomes.len() == targets && output.outcomes.iter().all(|outcome| outcome.verdict == verdict)
}

//! Plays a transcript through another policy: the same moments, the same answers of the world, its own state. Touches
//! nothing: what it orders is taken, and reported as it was when the recorded policy ordered the same.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use imagewatch_abi::{
    Answer, Containers, Failure, FailureCode, HttpBatch, HttpRequest, HttpResponse, HttpResponses, LogLine, Order,
    Orders, Outcome, Placed, Report, Selector, exports,
};
use serde::Serialize;
use serde_json::{Value, json};

use super::compare::{Difference, compare};
use super::{CallLine, Exchange, Transcript};
use crate::{Effects, LoadedPlugin, call};

/// What a policy would have decided.
#[derive(Debug, Default, Serialize)]
pub struct Replayed {
    /// The manifest of the recording.
    pub manifest: String,
    /// How many calls were played.
    pub calls: usize,
    /// How many outcomes were compared.
    pub outcomes: usize,
    /// Where the two differ.
    pub differences: Vec<Difference>,
    /// Calls in which the policy itself failed, and why.
    pub faults: Vec<String>,
}

/// Plays `transcript` through `plugin`, whose manifest grants what it likes: nothing is touched.
/// Blocks for as long as the policy computes.
pub fn play(transcript: &Transcript, plugin: &LoadedPlugin) -> Replayed {
    let mut player = Player { plugin, world: Arc::default(), state: None, cache: Value::Null, quarantine: None };
    let mut replayed = Replayed { manifest: transcript.policy.manifest.clone(), ..Replayed::default() };
    for line in &transcript.calls {
        let Some(input) = player.input(line) else { continue };
        player.world.begin(line);
        replayed.calls += 1;
        let recorded: Vec<Outcome> = outcomes(&line.output);
        match player.call(line, input) {
            Ok(said) => {
                replayed.outcomes += recorded.len().max(said.len());
                replayed.differences.extend(compare(now_ms(line), &line.export, &recorded, &said));
            }
            Err(fault) => replayed.faults.push(fault),
        }
    }
    replayed
}

struct Player<'a> {
    plugin: &'a LoadedPlugin,
    world: Arc<World>,
    /// None before the first call: then it is the recorded one.
    state: Option<Value>,
    cache: Value,
    quarantine: Option<Value>,
}

impl Player<'_> {
    /// The call's input with what this policy knows in place of what the recorded one knew; none when there is
    /// nothing to call it for.
    fn input(&mut self, line: &CallLine) -> Option<Value> {
        let mut input = line.input.clone();
        let recorded = |member: &str| line.input.get(member).cloned().unwrap_or_default();
        let state = self.state.clone().unwrap_or_else(|| recorded("state"));
        let quarantine = self.quarantine.clone().unwrap_or_else(|| recorded("quarantine"));
        let object = input.as_object_mut()?;
        object.insert("state".to_owned(), state);
        match line.export.as_str() {
            exports::POLL => {
                object.insert("cache".to_owned(), self.cache.clone());
                object.insert("in_flight".to_owned(), json!(self.world.in_flight()));
                object.insert("quarantine".to_owned(), quarantine);
            }
            exports::SETTLE => {
                let reports: Vec<Report> = serde_json::from_value(recorded("reports")).unwrap_or_default();
                let reports = self.world.report(reports);
                if reports.is_empty() {
                    return None;
                }
                object.insert("reports".to_owned(), json!(reports));
                object.insert("quarantine".to_owned(), quarantine);
            }
            _ => {}
        }
        Some(input)
    }

    /// Calls it; a state that another policy wrote and this one cannot read is none.
    fn call(&mut self, line: &CallLine, mut input: Value) -> Result<Vec<Outcome>, String> {
        let export = exports::ALL.into_iter().find(|export| *export == line.export);
        let export = export.ok_or_else(|| format!("the transcript has a call of {:?}", line.export))?;
        let ask = |input: &Value| {
            let answered = call::<_, Value>(&self.plugin.compiled, export, input, self.world.clone());
            answered.map(|(output, _)| output).map_err(|fault| fault.to_string())
        };
        let mut output = ask(&input)?;
        if self.state.is_none() && output["err"]["code"] == json!(FailureCode::BadState) {
            input["state"] = Value::Null;
            output = ask(&input)?;
        }
        self.state = Some(output["state"].clone());
        if let Some(cache) = output.get("cache") {
            self.cache = cache.clone();
        }
        if let Some(quarantine) = output.get("quarantine").filter(|list| !list.is_null()) {
            self.quarantine = Some(quarantine.clone());
        } else if self.quarantine.is_none() {
            self.quarantine = input.get("quarantine").cloned();
        }
        Ok(outcomes(&output))
    }
}

fn now_ms(line: &CallLine) -> u64 {
    line.input.get("now_ms").and_then(Value::as_u64).unwrap_or_default()
}

fn outcomes(output: &Value) -> Vec<Outcome> {
    output.get("outcomes").cloned().and_then(|list| serde_json::from_value(list).ok()).unwrap_or_default()
}

/// The world as it was recorded: what was answered in this call, or else the last time.
#[derive(Default)]
struct World(Mutex<Recorded>);

#[derive(Default)]
struct Recorded {
    /// By method and URL.
    responses: BTreeMap<(String, String), Answer<HttpResponse>>,
    containers: Option<Answer<Containers>>,
    /// This policy's orders that are not reported, by target.
    placed: BTreeMap<String, Order>,
    /// The recorded policy's, by id, with what became of each at once.
    theirs: BTreeMap<String, (Order, Taken)>,
}

/// What the host did with an order.
#[derive(Clone)]
enum Taken {
    /// It is reported later.
    Accepted,
    /// It was reported at once, or refused.
    Reported(Box<Report>),
}

impl Taken {
    fn of(order: &Order, answer: &Answer<Placed>) -> Self {
        let refused = |failure: Failure| {
            let (order, target) = (order.order.clone(), order.target.clone());
            Self::Reported(Box::new(Report { order, target, err: Some(failure), ..Report::default() }))
        };
        match answer {
            Answer::Err(failure) => refused(failure.clone()),
            Answer::Ok(placed) if placed.accepted.contains(&order.order) => Self::Accepted,
            Answer::Ok(placed) => match placed.reports.iter().find(|report| report.order == order.order) {
                Some(report) => Self::Reported(Box::new(report.clone())),
                None => refused(Failure::passing(FailureCode::Other, "the host did not take the order")),
            },
        }
    }
}

impl Recorded {
    /// What became of an order like `order` in the recording.
    fn fate(&self, order: &Order) -> Option<&Taken> {
        self.theirs.values().rev().find(|(recorded, _)| is_alike(recorded, order)).map(|(_, taken)| taken)
    }
}

fn is_alike(a: &Order, b: &Order) -> bool {
    (&a.target, &a.reference, &a.digest, a.recreate) == (&b.target, &b.reference, &b.digest, b.recreate)
}

impl World {
    /// What is answered from now on.
    fn begin(&self, line: &CallLine) {
        let mut world = self.lock();
        for exchange in &line.asked {
            match exchange {
                Exchange::Http { batch, answer: Answer::Ok(HttpResponses { responses }) } => {
                    // The last answer of a call is the one that it was decided by: a 401 came before it.
                    world.responses.extend(batch.requests.iter().map(key).zip(responses.iter().cloned()));
                }
                Exchange::Http { batch, answer: Answer::Err(failure) } => {
                    let failed = batch.requests.iter().map(|request| (key(request), Answer::Err(failure.clone())));
                    world.responses.extend(failed);
                }
                Exchange::Containers { answer, .. } => world.containers = Some(answer.clone()),
                Exchange::Refresh { orders, answer } => {
                    let taken = |order: &Order| (order.order.clone(), (order.clone(), Taken::of(order, answer)));
                    world.theirs.extend(orders.orders.iter().map(taken));
                }
            }
        }
    }

    fn in_flight(&self) -> Vec<String> {
        self.lock().placed.values().map(|order| order.order.clone()).collect()
    }

    /// `reports` as this policy's own: of what it ordered alike, under its own order's id; and those of orders that
    /// nobody here placed, which are of a time before.
    fn report(&self, reports: Vec<Report>) -> Vec<Report> {
        let mut world = self.lock();
        let own = |report: Report| {
            let Some((recorded, _)) = world.theirs.get(&report.order) else { return Some(report) };
            world.placed.get(&report.target).filter(|order| is_alike(order, recorded))?;
            let order = world.placed.remove(&report.target)?;
            Some(Report { order: order.order, ..report })
        };
        reports.into_iter().filter_map(own).collect()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Recorded> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn key(request: &HttpRequest) -> (String, String) {
    (format!("{:?}", request.method), request.url.clone())
}

fn unrecorded<T>(what: &str) -> Answer<T> {
    Answer::Err(Failure::passing(FailureCode::Other, format!("{what} is not in the transcript")))
}

impl Effects for World {
    fn http_send(&self, batch: HttpBatch, _: usize) -> Answer<HttpResponses> {
        let world = self.lock();
        let answer = |request: &HttpRequest| world.responses.get(&key(request)).cloned();
        let response = |request: &HttpRequest| answer(request).unwrap_or_else(|| unrecorded(&request.url));
        Answer::Ok(HttpResponses { responses: batch.requests.iter().map(response).collect() })
    }

    fn docker_containers(&self, selector: Selector) -> Answer<Containers> {
        match self.lock().containers.clone() {
            None => unrecorded("a list of containers"),
            Some(Answer::Err(failure)) => Answer::Err(failure),
            Some(Answer::Ok(Containers { mut containers })) => {
                containers.retain(|container| selector.matches(&container.name, &container.labels));
                Answer::Ok(Containers { containers })
            }
        }
    }

    fn docker_refresh(&self, orders: Orders) -> Answer<Placed> {
        let mut world = self.lock();
        let mut placed = Placed::default();
        for order in orders.orders {
            match world.fate(&order).cloned() {
                Some(Taken::Reported(report)) => placed.reports.push(Report { order: order.order, ..*report }),
                // One that nobody recorded is under way to the end.
                Some(Taken::Accepted) | None => {
                    placed.accepted.push(order.order.clone());
                    world.placed.insert(order.target.clone(), order);
                }
            }
        }
        Answer::Ok(placed)
    }

    fn log(&self, _: LogLine) {}
}

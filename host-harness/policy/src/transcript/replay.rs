//! Replays a transcript with another policy.
//!
//! The policy gets the same times and the same answers of registries and the engine, but has its own state. Its orders
//! have no effect. Each order is accepted and reported as in the recording, if the recorded policy placed an equal
//! order.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use imagewatch_abi::{
    Answer, Containers, Failure, FailureCode, HttpBatch, HttpRequest, HttpResponse, HttpResponses, LogLine, Order,
    Orders, OrdersAccepted, Outcome, Report, Selector, exports,
};
use serde::Serialize;
use serde_json::{Value, json};

use super::compare::{Difference, compare};
use super::{CallLine, Exchange, Transcript};
use crate::{Effects, LoadedPlugin, call};

/// The result of a replay.
#[derive(Debug, Default, Serialize)]
pub struct Replayed {
    /// The recorded manifest.
    pub manifest: String,
    /// Number of calls that were replayed.
    pub calls: usize,
    /// Number of outcomes that were compared.
    pub outcomes: usize,
    /// The differences between the recorded and the replayed decisions.
    pub differences: Vec<Difference>,
    /// The reasons of calls in which the replayed policy failed.
    pub faults: Vec<String>,
}

/// Replays `transcript` with `plugin`. It has no effects, so the manifest of `plugin` may grant everything. Blocks
/// while the policy runs.
pub fn play(transcript: &Transcript, plugin: &LoadedPlugin) -> Replayed {
    let mut player = Player { plugin, world: Arc::default(), state: None, cache: Value::Null, quarantine: None };
    let mut replayed = Replayed { manifest: transcript.policy.manifest.clone(), ..Replayed::default() };
    for line in &transcript.calls {
        let Some(input) = player.input(line) else { continue };
        player.world.begin(line);
        replayed.calls += 1;
        let recorded: Vec<Outcome> = outcomes(&line.output);
        match player.call(line, input) {
            Ok(decided) => {
                replayed.outcomes += recorded.len().max(decided.len());
                replayed.differences.extend(compare(now_ms(line), &line.export, &recorded, &decided));
            }
            Err(fault) => replayed.faults.push(fault),
        }
    }
    replayed
}

struct Player<'a> {
    plugin: &'a LoadedPlugin,
    world: Arc<World>,
    /// The state of the replayed policy. `None` before the first call, which gets the recorded state.
    state: Option<Value>,
    cache: Value,
    quarantine: Option<Value>,
}

impl Player<'_> {
    /// The recorded input with the data of the replayed policy instead of that of the recorded one. `None` if the call
    /// is not needed, because no order of the replayed policy has a report.
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

    /// Calls the policy. If it cannot read the recorded state of the other policy, it is called again without a state.
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

/// The recorded answers of registries and the engine. An answer comes from the current call, or else from the last call
/// that has one.
#[derive(Default)]
struct World(Mutex<WorldState>);

#[derive(Default)]
struct WorldState {
    /// The last responses, by method and URL.
    responses: BTreeMap<(String, String), Answer<HttpResponse>>,
    containers: Option<Answer<Containers>>,
    /// Orders of the replayed policy that have no report yet, by target.
    placed: BTreeMap<String, Order>,
    /// Orders of the recorded policy, by id, with the host's answer.
    recorded: BTreeMap<String, (Order, OrderAnswer)>,
}

/// The host's answer to an order.
#[derive(Clone)]
enum OrderAnswer {
    /// Accepted. The report comes later.
    Accepted,
    /// Reported immediately, or refused.
    Reported(Box<Report>),
}

impl OrderAnswer {
    fn of(order: &Order, answer: &Answer<OrdersAccepted>) -> Self {
        let refused = |failure: Failure| {
            let (order, target) = (order.order.clone(), order.target.clone());
            Self::Reported(Box::new(Report { order, target, err: Some(failure), ..Report::default() }))
        };
        match answer {
            Answer::Err(failure) => refused(failure.clone()),
            Answer::Ok(placed) if placed.accepted.contains(&order.order) => Self::Accepted,
            Answer::Ok(placed) => match placed.reports.iter().find(|report| report.order == order.order) {
                Some(report) => Self::Reported(Box::new(report.clone())),
                None => refused(Failure::retryable(FailureCode::Other, "the host did not accept the order")),
            },
        }
    }
}

impl WorldState {
    /// The recorded answer to an order that equals `order`.
    fn recorded_answer(&self, order: &Order) -> Option<&OrderAnswer> {
        self.recorded.values().rev().find(|(recorded, _)| is_equivalent(recorded, order)).map(|(_, answer)| answer)
    }
}

fn is_equivalent(a: &Order, b: &Order) -> bool {
    (&a.target, &a.reference, &a.digest, a.recreate) == (&b.target, &b.reference, &b.digest, b.recreate)
}

impl World {
    /// Adds the recorded answers of the call `line`.
    fn begin(&self, line: &CallLine) {
        let mut world = self.lock();
        for exchange in &line.asked {
            match exchange {
                Exchange::Http { batch, answer: Answer::Ok(HttpResponses { responses }) } => {
                    // The decision depends on the last response of a call. An earlier response may be a 401.
                    world.responses.extend(batch.requests.iter().map(key).zip(responses.iter().cloned()));
                }
                Exchange::Http { batch, answer: Answer::Err(failure) } => {
                    let failed = batch.requests.iter().map(|request| (key(request), Answer::Err(failure.clone())));
                    world.responses.extend(failed);
                }
                Exchange::Containers { answer, .. } => world.containers = Some(answer.clone()),
                Exchange::Refresh { orders, answer } => {
                    let entry = |order: &Order| (order.order.clone(), (order.clone(), OrderAnswer::of(order, answer)));
                    world.recorded.extend(orders.orders.iter().map(entry));
                }
            }
        }
    }

    fn in_flight(&self) -> Vec<String> {
        self.lock().placed.values().map(|order| order.order.clone()).collect()
    }

    /// Converts recorded reports to reports for the replayed policy.
    ///
    /// If the replayed policy placed an equal order, the report gets the id of that order. Otherwise, it is dropped.
    /// Reports of orders from before the recording stay unchanged.
    fn report(&self, reports: Vec<Report>) -> Vec<Report> {
        let mut world = self.lock();
        let own = |report: Report| {
            let Some((recorded, _)) = world.recorded.get(&report.order) else { return Some(report) };
            world.placed.get(&report.target).filter(|order| is_equivalent(order, recorded))?;
            let order = world.placed.remove(&report.target)?;
            Some(Report { order: order.order, ..report })
        };
        reports.into_iter().filter_map(own).collect()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, WorldState> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn key(request: &HttpRequest) -> (String, String) {
    (format!("{:?}", request.method), request.url.clone())
}

fn unrecorded<T>(what: &str) -> Answer<T> {
    Answer::Err(Failure::retryable(FailureCode::Other, format!("{what} is not in the transcript")))
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

    fn docker_refresh(&self, orders: Orders) -> Answer<OrdersAccepted> {
        let mut world = self.lock();
        let mut placed = OrdersAccepted::default();
        for order in orders.orders {
            match world.recorded_answer(&order).cloned() {
                Some(OrderAnswer::Reported(report)) => placed.reports.push(Report { order: order.order, ..*report }),
                // An order without a recorded equal stays in flight until the end.
                Some(OrderAnswer::Accepted) | None => {
                    placed.accepted.push(order.order.clone());
                    world.placed.insert(order.target.clone(), order);
                }
            }
        }
        Answer::Ok(placed)
    }

    fn log(&self, _: LogLine) {}
}

//! A scripted host: runs a policy through a story written in JSON (`scripts/*.json`) and says where
//! it departs from it. The same stories drive this crate natively, the built wasm in the Rust
//! host, and any other control plane. For tests only.
//!
//! A step is one call. Its `input` takes `state`, `cache` and `quarantine` from the step before
//! (what an output leaves out is as it was) unless it names them; `host` lists the host calls that must come, in order, with what they must contain (`in`)
//! and what they answer (`out`); `output` is what must be in the result; `log` what must be logged.
//! `{{x}}` anywhere stands for a digest: `sha256:` and the letter 64 times.

use std::collections::{BTreeMap, VecDeque};

use imagewatch_abi::{
    Answer, Containers, Failure, FailureCode, HttpBatch, HttpResponses, LogLine, Order, Orders, Placed, Selector,
    host_functions as names,
};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::Host;

/// Every story, by the name of its file.
pub const SCRIPTS: &[(&str, &str)] = &[
    ("baseline-running", include_str!("../scripts/baseline-running.json")),
    ("basic-auth", include_str!("../scripts/basic-auth.json")),
    ("check", include_str!("../scripts/check.json")),
    ("check-reasons", include_str!("../scripts/check-reasons.json")),
    ("containers", include_str!("../scripts/containers.json")),
    ("disabled", include_str!("../scripts/disabled.json")),
    ("done-at-once", include_str!("../scripts/done-at-once.json")),
    ("failure-isolation", include_str!("../scripts/failure-isolation.json")),
    ("group-quarantine", include_str!("../scripts/group-quarantine.json")),
    ("lost-order", include_str!("../scripts/lost-order.json")),
    ("manual-refresh", include_str!("../scripts/manual-refresh.json")),
    ("notify", include_str!("../scripts/notify.json")),
    ("pending", include_str!("../scripts/pending.json")),
    ("pinned", include_str!("../scripts/pinned.json")),
    ("postponed", include_str!("../scripts/postponed.json")),
    ("pull-held", include_str!("../scripts/pull-held.json")),
    ("pull-only", include_str!("../scripts/pull-only.json")),
    ("quarantine-back", include_str!("../scripts/quarantine-back.json")),
    ("quarantine-back-running", include_str!("../scripts/quarantine-back-running.json")),
    ("quarantine-back-tags", include_str!("../scripts/quarantine-back-tags.json")),
    ("quarantine-check", include_str!("../scripts/quarantine-check.json")),
    ("quarantine-host", include_str!("../scripts/quarantine-host.json")),
    ("quarantine-image", include_str!("../scripts/quarantine-image.json")),
    ("quarantine-manual", include_str!("../scripts/quarantine-manual.json")),
    ("quarantine-targets", include_str!("../scripts/quarantine-targets.json")),
    ("recovered", include_str!("../scripts/recovered.json")),
    ("roll-back", include_str!("../scripts/roll-back.json")),
    ("seed-move-commit", include_str!("../scripts/seed-move-commit.json")),
    ("start-first", include_str!("../scripts/start-first.json")),
    ("strange-answers", include_str!("../scripts/strange-answers.json")),
    ("strategy-label", include_str!("../scripts/strategy-label.json")),
    ("strategy-label-notify", include_str!("../scripts/strategy-label-notify.json")),
    ("tags-hold", include_str!("../scripts/tags-hold.json")),
    ("tags-left-alone", include_str!("../scripts/tags-left-alone.json")),
    ("tags-listed", include_str!("../scripts/tags-listed.json")),
    ("tags-move", include_str!("../scripts/tags-move.json")),
    ("tags-roll-back", include_str!("../scripts/tags-roll-back.json")),
    ("token-auth", include_str!("../scripts/token-auth.json")),
];

/// One story.
#[derive(Debug, Clone, Deserialize)]
pub struct Script {
    /// What it shows.
    pub shows: String,
    /// The manifest's config.
    pub config: BTreeMap<String, String>,
    /// In order.
    pub steps: Vec<Step>,
}

/// One call of a story.
#[derive(Debug, Clone, Deserialize)]
pub struct Step {
    /// What happens in it.
    pub name: String,
    /// The export.
    pub call: String,
    /// Its input, less what is carried over.
    pub input: Value,
    /// The host calls that it makes.
    #[serde(default)]
    pub host: Vec<Exchange>,
    /// What its output contains.
    pub output: Value,
    /// Parts of log lines, in order.
    #[serde(default)]
    pub log: Vec<String>,
}

/// One host call.
#[derive(Debug, Clone, Deserialize)]
pub struct Exchange {
    /// The host function.
    pub function: String,
    /// What its input contains.
    #[serde(rename = "in")]
    pub input: Value,
    /// Its answer.
    pub out: Value,
}

/// Reads a story.
///
/// # Errors
/// Where it is malformed.
pub fn parse_script(text: &str) -> Result<Script, serde_json::Error> {
    let mut expanded = text.to_owned();
    for letter in "0123456789abcdef".chars() {
        let digest = format!("sha256:{}", letter.to_string().repeat(64));
        expanded = expanded.replace(&format!("{{{{{letter}}}}}"), &digest);
    }
    serde_json::from_str(&expanded)
}

/// The host of one step: answers from the story and notes every departure from it.
#[derive(Debug, Default)]
pub struct ScriptedHost {
    config: BTreeMap<String, String>,
    expected: VecDeque<Exchange>,
    logged: Vec<String>,
    departures: Vec<String>,
}

/// Plays `script`; `call` runs one export with the host that it is given and hands both back.
///
/// # Errors
/// Every departure, with the step's name.
pub fn play(
    script: &Script,
    mut call: impl FnMut(&str, &[u8], ScriptedHost) -> (Result<Vec<u8>, String>, ScriptedHost),
) -> Result<(), String> {
    let mut kept =
        BTreeMap::from([("state", Value::Null), ("cache", Value::Null), ("quarantine", Value::Array(Vec::new()))]);
    for step in &script.steps {
        for (key, value) in &mut kept {
            if let Some(named) = step.input.get(*key) {
                *value = named.clone();
            }
        }
        let input = input_of(step, &kept);
        let host = ScriptedHost {
            config: script.config.clone(),
            expected: step.host.clone().into(),
            ..ScriptedHost::default()
        };
        let (result, host) = call(&step.call, &input, host);
        let at = |what: String| format!("step {:?}: {what}", step.name);
        let output: Value = serde_json::from_slice(&result.map_err(at)?).map_err(|e| at(e.to_string()))?;
        host.finish(step, &output).map_err(at)?;
        for (key, value) in &mut kept {
            if let Some(new) = output.get(*key) {
                *value = new.clone();
            }
        }
    }
    Ok(())
}

fn input_of(step: &Step, kept: &BTreeMap<&str, Value>) -> Vec<u8> {
    let mut input = step.input.clone();
    if let Value::Object(fields) = &mut input {
        for (key, value) in kept {
            fields.insert((*key).to_owned(), value.clone());
        }
    }
    input.to_string().into_bytes()
}

impl ScriptedHost {
    fn answer<I: Serialize, O: DeserializeOwned>(&mut self, function: &str, input: &I) -> Answer<O> {
        let input = serde_json::to_value(input).unwrap_or_default();
        let Some(exchange) = self.expected.pop_front() else {
            return self.depart(format!("{function} called once too often with {input}"));
        };
        if exchange.function != function {
            return self.depart(format!("{function} called instead of {}, with {input}", exchange.function));
        }
        if let Err(difference) = contains(&input, &exchange.input) {
            return self.depart(format!("{function} called otherwise: {difference}"));
        }
        match serde_json::from_value(exchange.out) {
            Ok(answer) => answer,
            Err(error) => self.depart(format!("{function}'s answer in the script is none: {error}")),
        }
    }

    fn depart<O>(&mut self, departure: String) -> Answer<O> {
        self.departures.push(departure);
        Answer::Err(Failure::lasting(FailureCode::Other, "not in the script"))
    }

    fn finish(mut self, step: &Step, output: &Value) -> Result<(), String> {
        if let Err(difference) = contains(output, &step.output) {
            self.departures.push(format!("output differs: {difference}\nin {output}"));
        }
        self.departures.extend(self.expected.iter().map(|exchange| format!("{} was not called", exchange.function)));
        let mut logged = self.logged.iter();
        for part in &step.log {
            if !logged.any(|line| line.contains(part)) {
                self.departures.push(format!("no log line with {part:?} in {:?}", self.logged));
            }
        }
        if self.departures.is_empty() { Ok(()) } else { Err(self.departures.join("\n")) }
    }
}

/// Whether `actual` has all of `expected`: every key of an object, every element of a list and no
/// more, every other value as it is.
fn contains(actual: &Value, expected: &Value) -> Result<(), String> {
    match (actual, expected) {
        (Value::Object(actual), Value::Object(expected)) => expected.iter().try_for_each(|(key, value)| {
            contains(actual.get(key).unwrap_or(&Value::Null), value).map_err(|difference| format!("{key}.{difference}"))
        }),
        (Value::Array(actual), Value::Array(expected)) if actual.len() == expected.len() => {
            actual.iter().zip(expected).enumerate().try_for_each(|(i, (actual, expected))| {
                contains(actual, expected).map_err(|difference| format!("{i}.{difference}"))
            })
        }
        // A text between asterisks is a part.
        (Value::String(actual), Value::String(expected))
            if expected.len() > 1 && expected.starts_with('*') && expected.ends_with('*') =>
        {
            let part = &expected[1..expected.len() - 1];
            if actual.contains(part) { Ok(()) } else { Err(format!(" {actual:?} has no {part:?}")) }
        }
        _ if actual == expected => Ok(()),
        _ => Err(format!(" {actual} instead of {expected}")),
    }
}

impl Host for ScriptedHost {
    fn config(&self, key: &str) -> Option<String> {
        self.config.get(key).cloned()
    }

    fn http_send(&mut self, batch: HttpBatch) -> Answer<HttpResponses> {
        self.answer(names::HTTP_SEND, &batch)
    }

    fn docker_containers(&mut self, selector: Selector) -> Answer<Containers> {
        self.answer(names::DOCKER_CONTAINERS, &selector)
    }

    fn docker_refresh(&mut self, orders: Vec<Order>) -> Answer<Placed> {
        self.answer(names::DOCKER_REFRESH, &Orders { orders })
    }

    fn log(&mut self, line: LogLine) {
        self.logged.push(line.message);
    }
}

#[cfg(test)]
mod tests {
    use crate::any_test;

    use super::*;

    #[any_test]
    fn every_script_plays_as_written() {
        let mut failures = Vec::new();
        for (name, text) in SCRIPTS {
            let script = parse_script(text).unwrap_or_else(|error| panic!("{name}: {error}"));
            let played = play(&script, |export, input, mut host| (crate::call(export, input, &mut host), host));
            failures.extend(played.err().map(|failure| format!("{name}: {}: {failure}", script.shows)));
        }
        assert!(failures.is_empty(), "{}", failures.join("\n"));
    }

    #[any_test]
    fn same_input_and_answers_give_the_same_bytes() {
        for (name, text) in SCRIPTS {
            let script = parse_script(text).expect("a script");
            let mut outputs = [Vec::new(), Vec::new()];
            for run in &mut outputs {
                let _ = play(&script, |export, input, mut host| {
                    let output = crate::call(export, input, &mut host);
                    run.push(output.clone());
                    (output, host)
                });
            }
            assert_eq!(outputs[0], outputs[1], "{name}");
        }
    }

    #[any_test]
    fn a_departure_from_the_script_is_noticed() {
        let (_, text) = SCRIPTS.iter().find(|(name, _)| *name == "seed-move-commit").expect("there is one");
        for (what, from, to) in [
            ("another digest", r#""verdict": "seeded""#, r#""verdict": "moved""#),
            ("another request", r#""method": "HEAD""#, r#""method": "GET""#),
            ("a log line", "first seen", "never said"),
        ] {
            let script = parse_script(&text.replacen(from, to, 1)).expect("a script");
            let played = play(&script, |export, input, mut host| (crate::call(export, input, &mut host), host));
            assert!(played.is_err(), "{what}");
        }
    }
}

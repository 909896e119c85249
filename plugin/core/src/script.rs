//! A scripted host: plays a script from JSON (`scripts/*.json`) against a policy, and reports every difference. The
//! same scripts test this crate natively, the built wasm module in the Rust host, and the other control planes. For
//! tests only.
//!
//! Each step is one call. Its `input` takes `state`, `cache` and `quarantine` from the previous step, unless the input
//! contains them. If an output omits one of them, its value does not change. `host` lists the expected host calls in
//! order: what the input of a call must contain (`in`), and its answer (`out`). `output` is what the result must
//! contain. `log` is what must be logged. `{{x}}` stands for a digest: `sha256:` and 64 times the letter.

use std::collections::{BTreeMap, VecDeque};

use imagewatch_abi::{
    Answer, Containers, Failure, FailureCode, HttpBatch, HttpResponses, LogLine, Order, Orders, OrdersAccepted,
    Selector, host_functions as names,
};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::Host;

/// Every script, by the name of its file.
pub const SCRIPTS: &[(&str, &str)] = &[
    ("baseline-running", include_str!("../scripts/baseline-running.json")),
    ("basic-auth", include_str!("../scripts/basic-auth.json")),
    ("check", include_str!("../scripts/check.json")),
    ("check-reasons", include_str!("../scripts/check-reasons.json")),
    ("containers", include_str!("../scripts/containers.json")),
    ("disabled", include_str!("../scripts/disabled.json")),
    ("done-at-once", include_str!("../scripts/done-at-once.json")),
    ("failure-isolation", include_str!("../scripts/failure-isolation.json")),
    ("group-quarantine-once", include_str!("../scripts/group-quarantine-once.json")),
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

/// One script.
#[derive(Debug, Clone, Deserialize)]
pub struct Script {
    /// What the script shows.
    pub shows: String,
    /// The config of the manifest.
    pub config: BTreeMap<String, String>,
    /// The steps, in order.
    pub steps: Vec<Step>,
}

/// One call of a script.
#[derive(Debug, Clone, Deserialize)]
pub struct Step {
    /// What happens in the step.
    pub name: String,
    /// The export to call.
    pub call: String,
    /// The input of the call, without the values that are carried over.
    pub input: Value,
    /// The expected host calls, in order.
    #[serde(default)]
    pub host: Vec<Exchange>,
    /// What the output must contain.
    pub output: Value,
    /// Parts of the expected log lines, in order.
    #[serde(default)]
    pub log: Vec<String>,
}

/// One host call.
#[derive(Debug, Clone, Deserialize)]
pub struct Exchange {
    /// The host function.
    pub function: String,
    /// What its input must contain.
    #[serde(rename = "in")]
    pub input: Value,
    /// The answer of the host.
    pub out: Value,
}

/// Parses a script.
///
/// # Errors
/// The position of a syntax error.
pub fn parse_script(text: &str) -> Result<Script, serde_json::Error> {
    let mut expanded = text.to_owned();
    for letter in "0123456789abcdef".chars() {
        let digest = format!("sha256:{}", letter.to_string().repeat(64));
        expanded = expanded.replace(&format!("{{{{{letter}}}}}"), &digest);
    }
    serde_json::from_str(&expanded)
}

/// The host during one step. It answers from the script and records every difference.
#[derive(Debug, Default)]
pub struct ScriptedHost {
    config: BTreeMap<String, String>,
    expected: VecDeque<Exchange>,
    logged: Vec<String>,
    differences: Vec<String>,
}

/// Plays `script`. `call` runs one export with the given host, and returns the result and the host.
///
/// # Errors
/// Every difference, with the name of the step.
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
            return self.differ(format!("{function} called too often, with {input}"));
        };
        if exchange.function != function {
            return self.differ(format!("{function} called instead of {}, with {input}", exchange.function));
        }
        if let Err(difference) = contains(&input, &exchange.input) {
            return self.differ(format!("{function} called with another input: {difference}"));
        }
        match serde_json::from_value(exchange.out) {
            Ok(answer) => answer,
            Err(error) => self.differ(format!("the script's answer for {function} is invalid: {error}")),
        }
    }

    fn differ<O>(&mut self, difference: String) -> Answer<O> {
        self.differences.push(difference);
        Answer::Err(Failure::permanent(FailureCode::Other, "not in the script"))
    }

    fn finish(mut self, step: &Step, output: &Value) -> Result<(), String> {
        if let Err(difference) = contains(output, &step.output) {
            self.differences.push(format!("output differs: {difference}\nin {output}"));
        }
        self.differences.extend(self.expected.iter().map(|exchange| format!("{} was not called", exchange.function)));
        let mut logged = self.logged.iter();
        for part in &step.log {
            if !logged.any(|line| line.contains(part)) {
                self.differences.push(format!("no log line with {part:?} in {:?}", self.logged));
            }
        }
        if self.differences.is_empty() { Ok(()) } else { Err(self.differences.join("\n")) }
    }
}

/// Whether `actual` contains `expected`: objects may have more keys, lists must have the same length, and other values
/// must be equal.
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
        // A text between asterisks must be contained in the actual text.
        (Value::String(actual), Value::String(expected))
            if expected.len() > 1 && expected.starts_with('*') && expected.ends_with('*') =>
        {
            let part = &expected[1..expected.len() - 1];
            if actual.contains(part) { Ok(()) } else { Err(format!(" {actual:?} does not contain {part:?}")) }
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

    fn docker_refresh(&mut self, orders: Vec<Order>) -> Answer<OrdersAccepted> {
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
    fn the_same_input_and_answers_give_the_same_bytes() {
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
    fn a_difference_from_the_script_is_reported() {
        let (_, text) = SCRIPTS.iter().find(|(name, _)| *name == "seed-move-commit").expect("the script exists");
        for (what, from, to) in [
            ("another digest", r#""verdict": "seeded""#, r#""verdict": "moved""#),
            ("another request", r#""method": "HEAD""#, r#""method": "GET""#),
            ("a log line", "first seen", "never logged"),
        ] {
            let script = parse_script(&text.replacen(from, to, 1)).expect("a script");
            let played = play(&script, |export, input, mut host| (crate::call(export, input, &mut host), host));
            assert!(played.is_err(), "{what}");
        }
    }
}

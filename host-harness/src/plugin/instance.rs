//! The one path by which a policy is called: a fresh instance, one export, JSON both ways, a
//! trace before and after. A call that goes wrong leaves nothing for the next one.

use std::time::{Duration, Instant};

use extism::{CompiledPlugin, Plugin};
use imagewatch_abi::exports;
use serde::Serialize;
use serde::de::DeserializeOwned;
use thiserror::Error;

use super::functions::Context;

/// A fault of the policy: it trapped, ran out of its limits, or returned nonsense. The tick is
/// tried again later.
#[derive(Debug, Error)]
#[error("call `{export}` of the policy: {reason}")]
pub struct CallError {
    /// The export called.
    pub export: &'static str,
    /// What Extism or the decoder said.
    pub reason: String,
}

/// What a call took, for logs and benches.
#[derive(Debug, Clone, Copy)]
pub struct CallCost {
    /// Time inside the call, host functions included.
    pub elapsed: Duration,
    /// Fuel spent by the guest.
    pub fuel: u64,
}

/// Calls `export` of `compiled` with `input`. Blocks; call it where that is allowed.
///
/// # Errors
/// [`CallError`]; expected failures are in the output instead.
pub fn call<I: Serialize, O: DeserializeOwned>(
    compiled: &CompiledPlugin,
    export: &'static str,
    input: &I,
    effects: Context,
) -> Result<(O, CallCost), CallError> {
    let fault = |reason: String| CallError { export, reason };
    let input = serde_json::to_vec(input).map_err(|error| fault(error.to_string()))?;
    let (output, cost) = call_bytes(compiled, export, &input, effects)?;
    let output = serde_json::from_slice(&output).map_err(|error| fault(format!("returned nonsense: {error}")))?;
    Ok((output, cost))
}

/// As [`call`], over the bytes themselves.
///
/// # Errors
/// [`CallError`].
pub fn call_bytes(
    compiled: &CompiledPlugin,
    export: &'static str,
    input: &[u8],
    effects: Context,
) -> Result<(Vec<u8>, CallCost), CallError> {
    debug_assert!(exports::ALL.contains(&export), "only exports of the boundary are called");
    let fault = |error: extism::Error| CallError { export, reason: describe(&error) };
    tracing::trace!(export, input_bytes = input.len(), "calling the policy");
    let start = Instant::now();
    let mut plugin = Plugin::new_from_compiled(compiled).map_err(fault)?;
    let output: Vec<u8> = plugin.call_with_host_context(export, input, effects).map_err(fault)?;
    let cost = CallCost { elapsed: start.elapsed(), fuel: plugin.fuel_consumed().unwrap_or_default() };
    tracing::trace!(export, output_bytes = output.len(), fuel = cost.fuel, elapsed = ?cost.elapsed, "policy answered");
    Ok((output, cost))
}

/// Extism's error in one line: `{:#}` has the causes, plain `{}` only a backtrace.
fn describe(error: &extism::Error) -> String {
    let text = format!("{error:#}");
    let lines = text.lines().map(str::trim).filter(|line| !line.is_empty() && !is_frame(line));
    let line = lines.collect::<Vec<_>>().join(" ").replace(char::is_control, " ");
    line.chars().take(400).collect()
}

/// A line of wasmtime's backtrace: `0: 0x1a2b - module!function`.
fn is_frame(line: &str) -> bool {
    line.split_once(": 0x").is_some_and(|(number, _)| number.bytes().all(|b| b.is_ascii_digit()))
}

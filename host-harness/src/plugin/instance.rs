//! The one path by which a policy is called: a fresh instance, one export, JSON both ways, a
//! trace before and after. A call that goes wrong leaves nothing for the next one.

use std::sync::Arc;
use std::time::{Duration, Instant};

use extism::{CompiledPlugin, Plugin};
use imagewatch_abi::exports;
use serde::Serialize;
use serde::de::DeserializeOwned;
use thiserror::Error;

use super::fault::{Denied, FaultKind, kind_of};
use super::functions::{Context, Effects};
use super::meter::Meter;
use super::settings::CallLimits;
use crate::text::sanitize_line;

/// A compiled module with what a call of it may use. Every call gets a fresh instance.
pub struct Compiled {
    pub(super) plugin: CompiledPlugin,
    pub(super) limits: CallLimits,
}

impl Compiled {
    /// What a call may use.
    pub fn limits(&self) -> &CallLimits {
        &self.limits
    }
}

impl std::fmt::Debug for Compiled {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Compiled").field("limits", &self.limits).finish_non_exhaustive()
    }
}

/// A fault of the policy: it trapped, ran out of its limits, or returned invalid output. The tick is
/// tried again later.
#[derive(Debug, Error)]
#[error("call `{export}` of the policy: {reason}")]
pub struct CallError {
    /// The export called.
    pub export: &'static str,
    /// What went wrong, in a word.
    pub kind: FaultKind,
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
    compiled: &Compiled,
    export: &'static str,
    input: &I,
    effects: Arc<dyn Effects>,
) -> Result<(O, CallCost), CallError> {
    let fault = |kind, reason: String| CallError { export, kind, reason };
    let input = serde_json::to_vec(input).map_err(|error| fault(FaultKind::Host, error.to_string()))?;
    let (output, cost) = call_bytes(compiled, export, &input, effects)?;
    let output = serde_json::from_slice(&output).map_err(|error| {
        fault(FaultKind::InvalidOutput, sanitize_line(&format!("returned invalid output: {error}")))
    })?;
    Ok((output, cost))
}

/// As [`call`], over the bytes themselves.
///
/// # Errors
/// [`CallError`].
pub fn call_bytes(
    compiled: &Compiled,
    export: &'static str,
    input: &[u8],
    effects: Arc<dyn Effects>,
) -> Result<(Vec<u8>, CallCost), CallError> {
    debug_assert!(exports::ALL.contains(&export), "only exports of the boundary are called");
    tracing::trace!(export, input_bytes = input.len(), "calling the policy");
    let meter = Arc::new(Meter::new(compiled.limits.clone()));
    let context = Context { effects, meter: meter.clone() };
    let called = call_metered(&compiled.plugin, export, input, context.clone());
    say_dropped(&context);
    let (output, cost) = called.map_err(|error| {
        // What a host function ended says so; the runtime only knows that one failed.
        let (kind, reason) = meter.passed().unwrap_or_else(|| {
            let reason = describe(&error);
            (kind_of(&reason), reason)
        });
        CallError { export, kind, reason }
    })?;
    tracing::trace!(export, output_bytes = output.len(), fuel = cost.fuel, elapsed = ?cost.elapsed, "policy answered");
    let most = compiled.limits.output_bytes;
    if output.len() > most {
        let reason = format!("returned {} bytes, more than {most} (`host.max_output_bytes`)", output.len());
        return Err(CallError { export, kind: FaultKind::Output, reason });
    }
    Ok((output, cost))
}

fn call_metered(
    compiled: &CompiledPlugin,
    export: &'static str,
    input: &[u8],
    context: Context,
) -> Result<(Vec<u8>, CallCost), extism::Error> {
    let start = Instant::now();
    let mut plugin = Plugin::new_from_compiled(compiled)?;
    // No larger than the guest's memory may be.
    let output: Vec<u8> = plugin.call_with_host_context(export, input, context)?;
    Ok((output, CallCost { elapsed: start.elapsed(), fuel: plugin.fuel_consumed().unwrap_or_default() }))
}

fn say_dropped(Context { effects, meter }: &Context) {
    let dropped = meter.dropped_log_lines();
    if dropped > 0 {
        effects.denied(Denied::LogLines, dropped, "log lines of one call beyond `host.max_log_lines` were dropped");
    }
}

/// Extism's error in one line: `{:#}` has the causes, plain `{}` only a backtrace.
fn describe(error: &extism::Error) -> String {
    let text = format!("{error:#}");
    let lines = text.lines().map(|line| without_frame(line.trim())).filter(|line| !line.is_empty());
    sanitize_line(&lines.collect::<Vec<_>>().join(" "))
}

/// A line of wasmtime's backtrace is `0: 0x1a2b - module!function`; the last one has the cause behind it.
fn without_frame(line: &str) -> &str {
    let is_number = |number: &str| !number.is_empty() && number.bytes().all(|b| b.is_ascii_digit());
    match line.split_once(':').filter(|(number, place)| is_number(number) && place.contains('!')) {
        Some((_, place)) => place.split_once(": ").map_or("", |(_, cause)| cause),
        None => line,
    }
}

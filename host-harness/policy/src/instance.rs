//! Calls a policy. All calls use this module: a fresh instance, one export, JSON as input and output.
//!
//! A failed call leaves no data for the next one, because every call gets its own instance.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use imagewatch_abi::exports;
use serde::Serialize;
use serde::de::DeserializeOwned;
use thiserror::Error;
use wasmtime::{Engine, Instance, InstancePre, Module, Store};

use super::compile_cache;
use super::fault::{Denied, Fault, FaultKind};
use super::functions::{Context, Effects};
use super::kernel::Kernel;
use super::linking::{Guest, linker};
use super::quota::Quota;
use super::settings::CallLimits;
use imagewatch_base::text::sanitize_line;

/// Fuel for the start of a module, before its export is called. Compilers emit no `start` function, or one that only
/// fills memory.
const MAX_START_FUEL: u64 = 100_000_000;

/// Names that compilers use for the function that must run first. The first one that exists is called.
const INITIALISERS: [&str; 2] = ["__wasm_call_ctors", "_initialize"];

/// A compiled module with its config and limits. Every call gets a fresh instance.
pub struct Compiled {
    module: InstancePre<Guest>,
    config: Arc<BTreeMap<String, String>>,
    memory_bytes: usize,
    limits: CallLimits,
}

impl Compiled {
    /// Compiles `wasm`, which [`super::inspect()`] must have validated. Its memories share a limit of `memory_bytes`.
    ///
    /// # Errors
    /// A fragment with the reason why it cannot be compiled.
    pub(super) fn new(
        wasm: &[u8],
        config: BTreeMap<String, String>,
        memory_bytes: usize,
        limits: CallLimits,
    ) -> Result<Self, String> {
        let settings =
            compile_cache::settings().map_err(|error| format!("this machine cannot compile modules: {error}"))?;
        let link = || {
            let engine = Engine::new(&settings)?;
            let module = Module::from_binary(&engine, wasm)?;
            linker(&engine)?.instantiate_pre(&module)
        };
        let module =
            link().map_err(|error: wasmtime::Error| sanitize_line(&format!("it cannot be compiled: {error:#}")))?;
        Ok(Self { module, config: Arc::new(config), memory_bytes, limits })
    }

    /// Creates the store for one call, with `input` in its kernel.
    pub(super) fn store(&self, input: &[u8], context: Context) -> Result<Store<Guest>, Fault> {
        let kernel = Kernel::new(self.memory_bytes, input)?;
        let guest = Guest { kernel, context, config: self.config.clone() };
        let mut store = Store::new(self.module.module().engine(), guest);
        store.limiter(|guest| guest);
        Ok(store)
    }

    /// Creates an instance and runs its initialiser. The start has its own fuel limit, [`MAX_START_FUEL`].
    ///
    /// # Errors
    /// The module traps or faults, or one of its imports has the wrong type.
    pub(super) fn start(&self, store: &mut Store<Guest>) -> wasmtime::Result<Instance> {
        store.set_fuel(self.limits.fuel.min(MAX_START_FUEL))?;
        let instance = self.module.instantiate(&mut *store)?;
        for name in INITIALISERS {
            if let Ok(initialise) = instance.get_typed_func::<(), ()>(&mut *store, name) {
                initialise.call(&mut *store, ())?;
                break;
            }
        }
        store.set_fuel(self.limits.fuel)?;
        Ok(instance)
    }

    /// The limits of one call.
    pub fn limits(&self) -> &CallLimits {
        &self.limits
    }
}

impl std::fmt::Debug for Compiled {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Compiled").field("limits", &self.limits).finish_non_exhaustive()
    }
}

/// A failed policy call: the policy trapped, exceeded a limit, or returned invalid output. The caller tries again
/// later.
#[derive(Debug, Error)]
#[error("call `{export}` of the policy: {reason}")]
pub struct CallError {
    /// The export that was called.
    pub export: &'static str,
    /// The kind of the failure.
    pub kind: FaultKind,
    /// The message of the runtime, the host or the decoder.
    pub reason: String,
}

/// The cost of a call, for logs and benchmarks.
#[derive(Debug, Clone, Copy)]
pub struct CallCost {
    /// Duration of the call, including host functions.
    pub elapsed: Duration,
    /// Fuel that the policy used.
    pub fuel: u64,
}

/// Calls `export` of `compiled` with `input`. Blocks, so do not call it on an async runtime thread.
///
/// # Errors
/// The call failed. Expected failures are in the output instead.
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

/// Like [`call`], but with the raw bytes of input and output.
///
/// # Errors
/// The call failed.
pub fn call_bytes(
    compiled: &Compiled,
    export: &'static str,
    input: &[u8],
    effects: Arc<dyn Effects>,
) -> Result<(Vec<u8>, CallCost), CallError> {
    debug_assert!(exports::ALL.contains(&export), "only exports of the ABI are called");
    tracing::trace!(export, input_bytes = input.len(), "calling the policy");
    let quota = Arc::new(Quota::new(compiled.limits.clone()));
    let context = Context { effects, quota: quota.clone() };
    let called = run(compiled, export, input, context.clone());
    report_dropped_log_lines(&context);
    let (output, cost) = called.map_err(|fault| {
        // If a host function found an exceeded limit, that is the best reason.
        let (kind, reason) = quota.exceeded().unwrap_or((fault.kind, fault.reason));
        CallError { export, kind, reason }
    })?;
    tracing::trace!(export, output_bytes = output.len(), fuel = cost.fuel, elapsed = ?cost.elapsed, "policy answered");
    Ok((output, cost))
}

/// Runs `export` in a fresh instance. The result is the output or a fault.
fn run(compiled: &Compiled, export: &str, input: &[u8], context: Context) -> Result<(Vec<u8>, CallCost), Fault> {
    let start = Instant::now();
    let mut store = compiled.store(input, context)?;
    let ran = compiled.start(&mut store).and_then(|instance| call_export(&mut store, &instance, export));
    let said = store.data().kernel.error();
    match (ran, said) {
        (Err(error), said) => return Err(Fault::of(&error, said)),
        (Ok(()), Some(said)) => return Err(Fault::said(&said)),
        (Ok(()), None) => {}
    }
    let (output, most) = (store.data().kernel.output(), compiled.limits.output_bytes);
    if output.len() > most {
        let reason = format!("returned {} bytes, more than {most} (`host.max_output_bytes`)", output.len());
        return Err(Fault::new(FaultKind::Output, reason));
    }
    let fuel = compiled.limits.fuel.saturating_sub(store.get_fuel().unwrap_or_default());
    Ok((output.to_vec(), CallCost { elapsed: start.elapsed(), fuel }))
}

/// Calls `export` of `instance`. The number that the export may return is ignored, because a policy that fails also
/// sets an error with the reason.
pub(super) fn call_export(store: &mut Store<Guest>, instance: &Instance, export: &str) -> wasmtime::Result<()> {
    match instance.get_typed_func::<(), i32>(&mut *store, export) {
        Ok(function) => function.call(store, ()).map(drop),
        Err(_) => instance.get_typed_func::<(), ()>(&mut *store, export)?.call(store, ()),
    }
}

fn report_dropped_log_lines(Context { effects, quota }: &Context) {
    let dropped = quota.dropped_log_lines();
    if dropped > 0 {
        effects.denied(Denied::LogLines, dropped, "log lines of one call over `host.max_log_lines` were dropped");
    }
}

//! The one path by which a policy is called: a fresh instance, one export, JSON both ways, a
//! trace before and after. A call that goes wrong leaves nothing for the next one.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use imagewatch_abi::exports;
use serde::Serialize;
use serde::de::DeserializeOwned;
use thiserror::Error;
use wasmtime::{Engine, Instance, InstancePre, Module, Store};

use super::compiling;
use super::fault::{Denied, Fault, FaultKind};
use super::functions::{Context, Effects};
use super::kernel::Kernel;
use super::linking::{Guest, linker};
use super::meter::Meter;
use super::settings::CallLimits;
use imagewatch_base::text::sanitize_line;

/// What a module may compute before it is called: compilers emit no `start` function, or one that fills some memory.
const MAX_START_FUEL: u64 = 100_000_000;

/// What compilers call the function that has to run before all others; the first that is there is called.
const INITIALISERS: [&str; 2] = ["__wasm_call_ctors", "_initialize"];

/// A compiled module with what a call of it may use. Every call gets a fresh instance.
pub struct Compiled {
    module: InstancePre<Guest>,
    config: Arc<BTreeMap<String, String>>,
    memory_bytes: usize,
    limits: CallLimits,
}

impl Compiled {
    /// Compiles `wasm`, which [`super::inspect()`] has admitted. Its config is `config`; its memories may have
    /// `memory_bytes` together.
    ///
    /// # Errors
    /// A fragment saying why it cannot be compiled.
    pub(super) fn new(
        wasm: &[u8],
        config: BTreeMap<String, String>,
        memory_bytes: usize,
        limits: CallLimits,
    ) -> Result<Self, String> {
        let settings = compiling::settings().map_err(|error| format!("nothing can be compiled here: {error}"))?;
        let link = || {
            let engine = Engine::new(&settings)?;
            let module = Module::from_binary(&engine, wasm)?;
            linker(&engine)?.instantiate_pre(&module)
        };
        let module =
            link().map_err(|error: wasmtime::Error| sanitize_line(&format!("it cannot be compiled: {error:#}")))?;
        Ok(Self { module, config: Arc::new(config), memory_bytes, limits })
    }

    /// What a call works in.
    pub(super) fn store(&self, input: &[u8], context: Context) -> Result<Store<Guest>, Fault> {
        let kernel = Kernel::new(self.memory_bytes, input)?;
        let guest = Guest { kernel, context, config: self.config.clone() };
        let mut store = Store::new(self.module.module().engine(), guest);
        store.limiter(|guest| guest);
        Ok(store)
    }

    /// Makes an instance. What the module does before it is called has a fuel of its own.
    ///
    /// # Errors
    /// A trap, a fault, or an import that does not fit.
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
    /// What the runtime, the host or the decoder said.
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
    let called = run(compiled, export, input, context.clone());
    say_dropped(&context);
    let (output, cost) = called.map_err(|fault| {
        // A limit that a host function found passed says so best.
        let (kind, reason) = meter.passed().unwrap_or((fault.kind, fault.reason));
        CallError { export, kind, reason }
    })?;
    tracing::trace!(export, output_bytes = output.len(), fuel = cost.fuel, elapsed = ?cost.elapsed, "policy answered");
    Ok((output, cost))
}

/// Runs `export` in a fresh instance. Whatever the policy does in it ends in its output or in a fault.
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

/// Calls `export` of `instance`. The number that it may return says that it failed; so does the error that it sets, which
/// also says why.
pub(super) fn call_export(store: &mut Store<Guest>, instance: &Instance, export: &str) -> wasmtime::Result<()> {
    match instance.get_typed_func::<(), i32>(&mut *store, export) {
        Ok(function) => function.call(store, ()).map(drop),
        Err(_) => instance.get_typed_func::<(), ()>(&mut *store, export)?.call(store, ()),
    }
}

fn say_dropped(Context { effects, meter }: &Context) {
    let dropped = meter.dropped_log_lines();
    if dropped > 0 {
        effects.denied(Denied::LogLines, dropped, "log lines of one call beyond `host.max_log_lines` were dropped");
    }
}

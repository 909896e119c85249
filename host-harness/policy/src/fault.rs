//! The kinds of faults and refusals of a policy, for logs, the admin API and metrics.

use serde::Serialize;

use imagewatch_base::text::sanitize_line;

/// Why a policy call was aborted or failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum FaultKind {
    /// The call used more instructions than `host.fuel`.
    Fuel,
    /// The policy needed more memory than the manifest's `memory.max_pages`.
    Memory,
    /// The call stack overflowed.
    Stack,
    /// The output was larger than `host.max_output_bytes`.
    Output,
    /// The policy called host functions more often than `host.max_host_calls`.
    HostCalls,
    /// The policy called a host function after `host.call_timeout`.
    Time,
    /// The policy exchanged more bytes with host functions than `host.max_host_bytes`.
    HostBytes,
    /// The policy placed more orders than `host.max_orders`.
    Orders,
    /// The policy panicked with a message.
    Panic,
    /// The policy trapped.
    Trap,
    /// The output does not have the structure that the export must return.
    InvalidOutput,
    /// The host failed, not the policy.
    Host,
}

/// What the host refused to a policy during a call. The call itself continued.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Denied {
    /// An HTTP request, because of its host, its method, or the credential that it named.
    Http,
    /// An image that is not granted.
    Image,
    /// A container that is not granted.
    Container,
    /// A strategy that is not granted.
    Strategy,
    /// A batch of more than `host.max_batch` requests.
    Batch,
    /// An order over the limit `host.max_orders`, or an order that is already in progress.
    Orders,
    /// Log lines over the limit `host.max_log_lines`.
    LogLines,
    /// Invalid input of a host function, or an order id that one call uses twice.
    InvalidOutput,
}

/// Why the host aborted a call.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{reason}")]
pub(super) struct Fault {
    pub(super) kind: FaultKind,
    /// The reason, in one line.
    pub(super) reason: String,
}

impl Fault {
    pub(super) fn new(kind: FaultKind, reason: impl Into<String>) -> Self {
        Self { kind, reason: reason.into() }
    }

    /// Converts an error of the runtime. `said` is the error message that the policy set, if any.
    pub(super) fn of(error: &wasmtime::Error, said: Option<String>) -> Self {
        let own = error.downcast_ref::<Self>().map(|fault| (fault.kind, fault.reason.clone()));
        let (kind, reason) = own.unwrap_or_else(|| match error.downcast_ref::<wasmtime::Trap>() {
            Some(trap @ wasmtime::Trap::OutOfFuel) => (FaultKind::Fuel, trap.to_string()),
            Some(trap @ wasmtime::Trap::StackOverflow) => (FaultKind::Stack, trap.to_string()),
            Some(trap) => (FaultKind::Trap, trap.to_string()),
            None => (FaultKind::Trap, error.root_cause().to_string()),
        });
        match said {
            // If a limit aborted the call, the policy's message does not matter.
            Some(said) if kind == FaultKind::Trap => Self::said(&format!("{reason}: {said}")),
            _ => Self::new(kind, sanitize_line(&reason)),
        }
    }

    /// A failure that the policy itself reported with `text`.
    pub(super) fn said(text: &str) -> Self {
        let kind = if text.contains("panicked") { FaultKind::Panic } else { FaultKind::Trap };
        Self::new(kind, sanitize_line(text))
    }
}

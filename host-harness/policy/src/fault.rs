//! What a policy can do wrong, by name: for logs, the admin API and metrics. Judges nothing but the runtime's words.

use serde::Serialize;

use imagewatch_base::text::sanitize_line;

/// Why a call of a policy was ended, or came to nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum FaultKind {
    /// It computed more than `host.fuel`.
    Fuel,
    /// It wanted more memory than the manifest's `memory.max_pages`.
    Memory,
    /// Its calls went too deep.
    Stack,
    /// Its output was larger than `host.max_output_bytes`.
    Output,
    /// It called host functions more often than `host.max_host_calls`.
    HostCalls,
    /// It went on after `host.call_timeout`.
    Time,
    /// It moved more bytes than `host.max_host_bytes`.
    HostBytes,
    /// It placed more orders than `host.max_orders`.
    Orders,
    /// It said what was wrong and gave up: a panic.
    Panic,
    /// It trapped.
    Trap,
    /// Its output is not what the export returns.
    InvalidOutput,
    /// The host's own fault.
    Host,
}

/// What a policy was refused, while its call went on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Denied {
    /// A request: its host, its method of asking, or the credential that it named.
    Http,
    /// An image that is not granted.
    Image,
    /// A container that is not granted.
    Container,
    /// A strategy that is not granted.
    Strategy,
    /// A batch of more than `host.max_batch` requests.
    Batch,
    /// An order beside as many as `host.max_orders` allows, or one that is under way already.
    Orders,
    /// Log lines beyond `host.max_log_lines`.
    LogLines,
    /// Something that the host function does not take, or an order id that one call uses twice.
    InvalidOutput,
}

/// Why a call ended, as the host's side of the boundary says it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{reason}")]
pub(super) struct Fault {
    /// In a word.
    pub(super) kind: FaultKind,
    /// In a line.
    pub(super) reason: String,
}

impl Fault {
    pub(super) fn new(kind: FaultKind, reason: impl Into<String>) -> Self {
        Self { kind, reason: reason.into() }
    }

    /// What the runtime's error comes to, and what the policy says of it (`said`), if that says anything.
    pub(super) fn of(error: &wasmtime::Error, said: Option<String>) -> Self {
        let own = error.downcast_ref::<Self>().map(|fault| (fault.kind, fault.reason.clone()));
        let (kind, reason) = own.unwrap_or_else(|| match error.downcast_ref::<wasmtime::Trap>() {
            Some(trap @ wasmtime::Trap::OutOfFuel) => (FaultKind::Fuel, trap.to_string()),
            Some(trap @ wasmtime::Trap::StackOverflow) => (FaultKind::Stack, trap.to_string()),
            Some(trap) => (FaultKind::Trap, trap.to_string()),
            None => (FaultKind::Trap, error.root_cause().to_string()),
        });
        match said {
            // A limit that ended the call outweighs what the policy says.
            Some(said) if kind == FaultKind::Trap => Self::said(&format!("{reason}: {said}")),
            _ => Self::new(kind, sanitize_line(&reason)),
        }
    }

    /// The policy says itself that it failed.
    pub(super) fn said(text: &str) -> Self {
        let kind = if text.contains("panicked") { FaultKind::Panic } else { FaultKind::Trap };
        Self::new(kind, sanitize_line(text))
    }
}

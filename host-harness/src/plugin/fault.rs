//! What a policy can do wrong, by name: for logs, the admin API and metrics. Judges nothing but the runtime's words.

use serde::Serialize;

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

/// The kind of fault of a call that ended with `text`, the runtime's error in one line.
pub(super) fn kind_of(text: &str) -> FaultKind {
    let has = |part: &str| text.contains(part);
    if has("ran out of fuel") || has("all fuel consumed") {
        FaultKind::Fuel
    } else if has("call stack exhausted") {
        FaultKind::Stack
    } else if text == "oom" || has("out of memory") || has("memory limit") {
        FaultKind::Memory
    } else if has("panicked") {
        FaultKind::Panic
    } else {
        FaultKind::Trap
    }
}

//! Counts what one policy call uses, and reports when it exceeds a limit.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use super::fault::FaultKind;
use super::settings::CallLimits;

/// The limits of one call, and what the call has used so far.
#[derive(Debug)]
pub(super) struct Quota {
    pub(super) limits: CallLimits,
    began: Instant,
    used: Mutex<Used>,
}

#[derive(Debug, Default)]
struct Used {
    calls: u64,
    bytes: usize,
    orders: usize,
    log_lines: u64,
    /// The first exceeded limit, with its message.
    exceeded: Option<(FaultKind, String)>,
}

impl Quota {
    pub(super) fn new(limits: CallLimits) -> Self {
        Self { limits, began: Instant::now(), used: Mutex::default() }
    }

    /// Counts one call of a host function.
    pub(super) fn count_call(&self) -> Result<(), String> {
        let mut used = self.used();
        let (most, is_too_late) = (self.limits.call, self.began.elapsed() > self.limits.call);
        check(&mut used, is_too_late, FaultKind::Time, || {
            format!("called a host function after more than {most:?} (`host.call_timeout`)")
        })?;
        used.calls += 1;
        let (most, is_too_many) = (self.limits.host_calls, used.calls > self.limits.host_calls);
        check(&mut used, is_too_many, FaultKind::HostCalls, || {
            format!("called host functions more than {most} times (`host.max_host_calls`)")
        })
    }

    /// Counts bytes that are passed to a host function or returned by it.
    pub(super) fn count_bytes(&self, bytes: usize) -> Result<(), String> {
        let mut used = self.used();
        used.bytes = used.bytes.saturating_add(bytes);
        let (most, is_too_much) = (self.limits.host_bytes, used.bytes > self.limits.host_bytes);
        check(&mut used, is_too_much, FaultKind::HostBytes, || {
            format!("exchanged more than {most} bytes with host functions (`host.max_host_bytes`)")
        })
    }

    /// The number of remaining bytes that responses may use.
    ///
    /// An eighth of the limit is reserved for requests. So if registries send too much, the call loses responses, but
    /// it is not aborted.
    pub(super) fn room(&self) -> usize {
        self.limits.host_bytes.saturating_sub(self.used().bytes).saturating_sub(self.limits.host_bytes / 8)
    }

    /// Counts orders.
    pub(super) fn count_orders(&self, orders: usize) -> Result<(), String> {
        let mut used = self.used();
        used.orders = used.orders.saturating_add(orders);
        let (most, is_too_many) = (self.limits.orders, used.orders > self.limits.orders);
        check(&mut used, is_too_many, FaultKind::Orders, || {
            format!("placed more than {most} orders (`host.max_orders`)")
        })
    }

    /// Counts one log line. Returns whether it may be written.
    pub(super) fn take_log_line(&self) -> bool {
        let mut used = self.used();
        used.log_lines += 1;
        used.log_lines <= self.limits.log_lines
    }

    /// The number of log lines that were not written.
    pub(super) fn dropped_log_lines(&self) -> u64 {
        self.used().log_lines.saturating_sub(self.limits.log_lines)
    }

    /// The first exceeded limit, which aborted the call.
    pub(super) fn exceeded(&self) -> Option<(FaultKind, String)> {
        self.used().exceeded.clone()
    }

    fn used(&self) -> MutexGuard<'_, Used> {
        self.used.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn check(used: &mut Used, is_exceeded: bool, kind: FaultKind, message: impl Fn() -> String) -> Result<(), String> {
    if !is_exceeded {
        return Ok(());
    }
    used.exceeded.get_or_insert_with(|| (kind, message()));
    Err(message())
}

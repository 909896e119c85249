//! What one call of a policy has used so far of what it may. Says when it is too much; ends nothing itself.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use super::fault::FaultKind;
use super::settings::CallLimits;

/// The meter of one call.
#[derive(Debug)]
pub(super) struct Meter {
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
    /// The first limit that was passed, and what to say of it.
    passed: Option<(FaultKind, String)>,
}

impl Meter {
    pub(super) fn new(limits: CallLimits) -> Self {
        Self { limits, began: Instant::now(), used: Mutex::default() }
    }

    /// One more call of a host function.
    pub(super) fn count_call(&self) -> Result<(), String> {
        let mut used = self.used();
        let (most, is_too_late) = (self.limits.call, self.began.elapsed() > self.limits.call);
        check(&mut used, is_too_late, FaultKind::Time, || {
            format!("called host functions after more than {most:?} (`host.call_timeout`)")
        })?;
        used.calls += 1;
        let (most, is_too_many) = (self.limits.host_calls, used.calls > self.limits.host_calls);
        check(&mut used, is_too_many, FaultKind::HostCalls, || {
            format!("called host functions more than {most} times (`host.max_host_calls`)")
        })
    }

    /// So many bytes to a host function, or back.
    pub(super) fn count_bytes(&self, bytes: usize) -> Result<(), String> {
        let mut used = self.used();
        used.bytes = used.bytes.saturating_add(bytes);
        let (most, is_too_much) = (self.limits.host_bytes, used.bytes > self.limits.host_bytes);
        check(&mut used, is_too_much, FaultKind::HostBytes, || {
            format!("moved more than {most} bytes to and from host functions (`host.max_host_bytes`)")
        })
    }

    /// What answers may have of the bytes that are left. An eighth of all is kept back for what is asked, so that registries
    /// that answer too much cost a call their answers, and not its end.
    pub(super) fn room(&self) -> usize {
        self.limits.host_bytes.saturating_sub(self.used().bytes).saturating_sub(self.limits.host_bytes / 8)
    }

    /// So many orders.
    pub(super) fn count_orders(&self, orders: usize) -> Result<(), String> {
        let mut used = self.used();
        used.orders = used.orders.saturating_add(orders);
        let (most, is_too_many) = (self.limits.orders, used.orders > self.limits.orders);
        check(&mut used, is_too_many, FaultKind::Orders, || {
            format!("placed more than {most} orders (`host.max_orders`)")
        })
    }

    /// Whether one more log line may be written.
    pub(super) fn take_log_line(&self) -> bool {
        let mut used = self.used();
        used.log_lines += 1;
        used.log_lines <= self.limits.log_lines
    }

    /// Log lines that were not written.
    pub(super) fn dropped_log_lines(&self) -> u64 {
        self.used().log_lines.saturating_sub(self.limits.log_lines)
    }

    /// The limit that ended the call.
    pub(super) fn passed(&self) -> Option<(FaultKind, String)> {
        self.used().passed.clone()
    }

    fn used(&self) -> MutexGuard<'_, Used> {
        self.used.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn check(used: &mut Used, is_passed: bool, kind: FaultKind, say: impl Fn() -> String) -> Result<(), String> {
    if !is_passed {
        return Ok(());
    }
    used.passed.get_or_insert_with(|| (kind, say()));
    Err(say())
}

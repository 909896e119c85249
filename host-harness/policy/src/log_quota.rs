//! Limits the log lines of one policy per minute, over all of its calls and reloads.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

const WINDOW: Duration = Duration::from_mins(1);

/// Counts the log lines of one policy in the current minute.
#[derive(Debug, Default)]
pub struct LogQuota(Mutex<Window>);

#[derive(Debug, Default)]
struct Window {
    began: Option<Instant>,
    lines: u64,
    suppressed: u64,
}

impl Window {
    fn is_over(&self, now: Instant) -> bool {
        self.began.is_none_or(|began| now.duration_since(began) >= WINDOW)
    }
}

impl LogQuota {
    /// Counts a line at `now`. Returns whether it may be written, with a limit of `most` lines per minute. Otherwise,
    /// the line counts as suppressed.
    pub fn take(&self, most: u64, now: Instant) -> bool {
        let mut window = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if window.is_over(now) {
            // Suppressed lines that were not reported yet are added to those of the next minute.
            *window = Window { began: Some(now), lines: 0, suppressed: window.suppressed };
        }
        window.lines += 1;
        let is_taken = window.lines <= most;
        window.suppressed += u64::from(!is_taken);
        is_taken
    }

    /// Returns the number of suppressed lines, once, if their minute has ended by `now`.
    pub fn suppressed_before(&self, now: Instant) -> Option<u64> {
        let mut window = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let is_due = window.suppressed > 0 && window.is_over(now);
        is_due.then(|| std::mem::take(&mut window.suppressed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn s8_lines_over_the_limit_are_counted_and_reported_once() {
        let (quota, start) = (LogQuota::default(), Instant::now());
        let at = |seconds| start + Duration::from_secs(seconds);
        let taken = (0..50).filter(|n| quota.take(10, at(*n))).count();
        assert_eq!(taken, 10);
        assert_eq!(quota.suppressed_before(at(59)), None, "the minute is not over");
        assert_eq!((quota.suppressed_before(at(60)), quota.suppressed_before(at(61))), (Some(40), None));
        assert!(quota.take(10, at(62)), "another minute");
        assert_eq!(quota.suppressed_before(at(200)), None, "no line was suppressed in that minute");
    }

    #[test]
    fn s8_suppressed_lines_are_reported_after_the_next_minute_starts() {
        let (quota, start) = (LogQuota::default(), Instant::now());
        assert!(quota.take(1, start) && !quota.take(1, start));
        assert!(quota.take(1, start + WINDOW), "a new minute started before the report");
        assert_eq!(quota.suppressed_before(start + WINDOW * 2), Some(1));
    }
}

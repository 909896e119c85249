//! Waiting for a condition with a deadline, so that no test sleeps for a time that it hopes is enough.

use std::fmt::Debug;
use std::time::Duration;

use tokio::time::{Instant, sleep};

/// How often a condition is looked at.
const INTERVAL: Duration = Duration::from_millis(20);

/// Looks at `condition` until it is `Ok`, and returns that; `Err` holds what was seen instead.
/// Panics after `deadline` with `what` and the last thing seen.
pub async fn wait_for<T, Seen, Condition, Look>(what: &str, deadline: Duration, mut condition: Condition) -> T
where
    Condition: FnMut() -> Look,
    Look: Future<Output = Result<T, Seen>>,
    Seen: Debug,
{
    let end = Instant::now() + deadline;
    loop {
        match condition().await {
            Ok(value) => return value,
            Err(seen) if Instant::now() >= end => panic!("waited {deadline:?} for {what}; last seen: {seen:?}"),
            Err(_) => sleep(INTERVAL).await,
        }
    }
}

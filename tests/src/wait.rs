//! Waits for conditions with a deadline, so that tests do not sleep for a guessed time.

use std::fmt::Debug;
use std::time::Duration;

use tokio::time::{Instant, sleep};

/// The time between two checks of a condition.
const INTERVAL: Duration = Duration::from_millis(20);

/// Checks `condition` until it returns `Ok`, and returns that value. `Err` contains what was seen instead. Panics after
/// `deadline` with `what` and the last `Err`.
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

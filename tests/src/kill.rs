//! Kills the real program in the middle of an update, starts it again, and waits until the update is complete or
//! undone. The caller chooses the moment.

use std::collections::BTreeSet;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bollard::Docker;
use bollard::models::EventMessage;
use bollard::query_parameters::EventsOptionsBuilder;
use futures_util::StreamExt;
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};
use tokio::time::{Instant, sleep, timeout};

use crate::judge::{Outcome, Update};
use crate::process::{Process, Signal};
use crate::subject::{IN_ORDER_TIMEOUT, TestContainer};

/// The last event of every update.
const LAST: &str = "destroy";

/// When to kill the program.
#[derive(Debug, Clone, PartialEq)]
pub enum Moment {
    /// At the engine event with this name and index, starting at 0. If there are fewer, at the last event of the
    /// update.
    Event(String, usize),
    /// This long after the new image was pushed.
    After(Duration),
}

/// The result of an update during which the program was killed.
#[derive(Debug, Clone)]
pub struct Ending {
    /// The outcome of the update.
    pub outcome: Outcome,
    /// The time from the second start of the program to the outcome.
    pub took: Duration,
}

/// Runs an update without a disturbance. Returns its events and its duration since the push.
pub async fn observe(subject: &TestContainer, version: &str, is_good: bool) -> (Vec<String>, Duration) {
    let mut events = EventLog::open(subject).await;
    let program = subject.start_program(subject.scope().engine().host()).await;
    let update = subject.release(version, is_good).await;
    let pushed = Instant::now();
    let mut seen = Vec::new();
    while seen.last().is_none_or(|last| last != LAST) {
        seen.push(events.next(&program).await);
    }
    let took = pushed.elapsed();
    let outcome = subject.wait_for_order(&update, &program).await;
    assert_eq!(outcome == Outcome::Updated, is_good, "{:#?}", program.lines());
    end_cleanly(program).await;
    subject.assert_nothing_lost().await;
    (seen, took)
}

/// Kills the program at `moment` of an update, runs `between`, and starts the program again. Panics unless the update
/// is complete or undone in time, and stays so after the second program has ended.
pub async fn kill_and_recover<Done: Future<Output = ()>>(
    subject: &TestContainer,
    version: &str,
    is_good: bool,
    moment: Moment,
    between: impl FnOnce() -> Done,
) -> Ending {
    let mut events = EventLog::open(subject).await;
    let mut program = subject.start_program(subject.scope().engine().host()).await;
    let update = subject.release(version, is_good).await;
    match &moment {
        Moment::Event(action, nth) => events.wait_for(action, *nth, &program).await,
        // This sleep waits for no condition. The test chose this moment.
        Moment::After(delay) => sleep(*delay).await,
    }
    program.signal(Signal::KILL);
    program.wait_exit(IN_ORDER_TIMEOUT).await;
    between().await;
    let restarted = Instant::now();
    let (outcome, program) = recover(subject, &update).await;
    let took = restarted.elapsed();
    if is_good && outcome == Outcome::RolledBack {
        // The next poll tries again. The next update must not start before that is complete.
        subject.wait_until_updated(&update, &program).await;
    }
    end_cleanly(program).await;
    // Everything that the second program started afterwards must also be complete.
    if let Err(why) = subject.judge(&update).await {
        panic!("{} after a kill at {moment:?} of {update:?}: {why}", subject.name());
    }
    subject.assert_nothing_lost().await;
    Ending { outcome, took }
}

async fn recover(subject: &TestContainer, update: &Update) -> (Outcome, Process) {
    let program = subject.start_program(subject.scope().engine().host()).await;
    (subject.wait_for_order(update, &program).await, program)
}

/// Sends SIGTERM and waits for the exit. The program completes a running update first.
pub async fn end_cleanly(mut program: Process) {
    program.signal(Signal::TERM);
    assert_eq!(program.wait_exit(IN_ORDER_TIMEOUT).await, Some(0), "{:#?}", program.lines());
}

/// The engine's events about a test container and its networks, as they happen.
struct EventLog(UnboundedReceiver<String>);

impl EventLog {
    async fn open(subject: &TestContainer) -> Self {
        let docker = subject.scope().engine().docker().clone();
        let name = subject.name().to_owned();
        let id = docker.inspect_container(&name, None).await.ok().and_then(|found| found.id);
        let since = SystemTime::now().duration_since(UNIX_EPOCH).expect("the clock is past 1970").as_secs_f64();
        let (sender, receiver) = unbounded_channel();
        tokio::spawn(follow(docker, since, name, id.into_iter().collect(), move |action| sender.send(action).is_ok()));
        Self(receiver)
    }

    async fn next(&mut self, program: &Process) -> String {
        match timeout(IN_ORDER_TIMEOUT, self.0.recv()).await {
            Ok(Some(action)) => action,
            other => panic!("no event arrived: {other:?}; the program's log: {:#?}", program.lines()),
        }
    }

    /// Waits for event number `nth` with this name, or for the last event.
    async fn wait_for(&mut self, wanted: &str, nth: usize, program: &Process) {
        let mut seen = 0;
        loop {
            let action = self.next(program).await;
            if action == LAST || (action == wanted && seen == nth) {
                return;
            }
            seen += usize::from(action == wanted);
        }
    }
}

async fn follow(
    docker: Docker,
    since: f64,
    name: String,
    mut ids: BTreeSet<String>,
    mut tell: impl FnMut(String) -> bool,
) {
    let options = EventsOptionsBuilder::new().since(&format!("{since:.9}")).build();
    let mut events = docker.events(Some(options));
    let family = format!("{name}.");
    while let Some(Ok(EventMessage { action: Some(action), actor: Some(actor), .. })) = events.next().await {
        let attributes = actor.attributes.unwrap_or_default();
        let is_named = attributes.get("name").is_some_and(|of| *of == name || of.starts_with(&family));
        if is_named {
            ids.extend(actor.id);
        }
        let is_ours = is_named || attributes.get("container").is_some_and(|id| ids.contains(id));
        // The action can have a suffix, as in `health_status: healthy`. Health check commands are not started by the
        // program.
        let action = action.split(':').next().unwrap_or_default();
        if is_ours && !action.starts_with("exec_") && !tell(action.to_owned()) {
            return;
        }
    }
}

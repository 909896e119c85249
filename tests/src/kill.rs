//! Kills the real program in the middle of an update, starts it again, and waits until all is in order.
//! Chooses no moment by itself.

use std::collections::BTreeSet;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bollard::Docker;
use bollard::models::EventMessage;
use bollard::query_parameters::EventsOptionsBuilder;
use futures_util::StreamExt;
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};
use tokio::time::{Instant, sleep, timeout};

use crate::judge::{Update, Way};
use crate::process::{Process, Signal};
use crate::subject::{IN_ORDER_WITHIN, Subject};

/// The last event of an update, whichever way it goes.
const LAST: &str = "destroy";

/// When the program is killed.
#[derive(Debug, Clone, PartialEq)]
pub enum Moment {
    /// At the engine's event of this name and number, the first being 0; at the update's last if there are fewer.
    Event(String, usize),
    /// So long after the new image was pushed.
    After(Duration),
}

/// How an update went whose program was killed.
#[derive(Debug, Clone)]
pub struct Ending {
    /// Where the container was once all was in order.
    pub way: Way,
    /// From the program's second start until then.
    pub took: Duration,
}

/// An update that nobody disturbs: its events, and how long it took from the push.
pub async fn observe(subject: &Subject, version: &str, is_good: bool) -> (Vec<String>, Duration) {
    let mut events = EventLog::open(subject).await;
    let program = subject.start_program(subject.scope().engine().host()).await;
    let update = subject.release(version, is_good).await;
    let pushed = Instant::now();
    let mut seen = Vec::new();
    while seen.last().is_none_or(|last| last != LAST) {
        seen.push(events.next(&program).await);
    }
    let took = pushed.elapsed();
    let way = subject.wait_for_order(&update, &program).await;
    assert_eq!(way == Way::Forwards, is_good, "{:#?}", program.lines());
    end_cleanly(program).await;
    subject.assert_nothing_lost().await;
    (seen, took)
}

/// Kills the program at `moment` of an update; `between` then happens before the next one starts. Panics unless all is
/// in order in time, and still so once that one has ended.
pub async fn kill_and_recover<Done: Future<Output = ()>>(
    subject: &Subject,
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
        // Nothing is hoped for meanwhile: this is the moment that was asked for.
        Moment::After(delay) => sleep(*delay).await,
    }
    program.signal(Signal::KILL);
    program.wait_exit(IN_ORDER_WITHIN).await;
    between().await;
    let restarted = Instant::now();
    let (way, program) = recover(subject, &update).await;
    let took = restarted.elapsed();
    if is_good && way == Way::Back {
        // The next poll tries again, and the next update must not find that under way.
        subject.wait_until_forwards(&update, &program).await;
    }
    end_cleanly(program).await;
    // Whatever the second one began after that has ended as well.
    if let Err(why) = subject.judge(&update).await {
        panic!("{} after a kill at {moment:?} of {update:?}: {why}", subject.name());
    }
    subject.assert_nothing_lost().await;
    Ending { way, took }
}

async fn recover(subject: &Subject, update: &Update) -> (Way, Process) {
    let program = subject.start_program(subject.scope().engine().host()).await;
    (subject.wait_for_order(update, &program).await, program)
}

/// Asks the program to end, which lets it end an update first, and waits for that.
pub async fn end_cleanly(mut program: Process) {
    program.signal(Signal::TERM);
    assert_eq!(program.wait_exit(IN_ORDER_WITHIN).await, Some(0), "{:#?}", program.lines());
}

/// What the engine says of a subject's containers and of their networks, as it happens.
struct EventLog(UnboundedReceiver<String>);

impl EventLog {
    async fn open(subject: &Subject) -> Self {
        let docker = subject.scope().engine().docker().clone();
        let name = subject.name().to_owned();
        let id = docker.inspect_container(&name, None).await.ok().and_then(|found| found.id);
        let since = SystemTime::now().duration_since(UNIX_EPOCH).expect("it is later than 1970").as_secs_f64();
        let (sender, receiver) = unbounded_channel();
        tokio::spawn(follow(docker, since, name, id.into_iter().collect(), move |action| sender.send(action).is_ok()));
        Self(receiver)
    }

    async fn next(&mut self, program: &Process) -> String {
        match timeout(IN_ORDER_WITHIN, self.0.recv()).await {
            Ok(Some(action)) => action,
            other => panic!("no event came: {other:?}; the program said {:#?}", program.lines()),
        }
    }

    /// Waits for the `nth` event of that name, or the last one.
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
        // `health_status: healthy`; the commands of health checks are not the program's doing.
        let action = action.split(':').next().unwrap_or_default();
        if is_ours && !action.starts_with("exec_") && !tell(action.to_owned()) {
            return;
        }
    }
}

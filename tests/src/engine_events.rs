//! Records the engine's own events with their times. The demo and the benchmarks compute durations from them.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bollard::Docker;
use bollard::models::EventMessage;
use bollard::query_parameters::EventsOptionsBuilder;
use futures_util::TryStreamExt;
use tokio::task::JoinHandle;

/// One action of the engine.
#[derive(Debug, Clone)]
struct Event {
    action: String,
    /// The id of a container, or the reference of an image.
    subject: String,
    at: SystemTime,
}

/// The engine's events since the recording started. Dropping it ends the recording.
#[derive(Debug)]
pub struct EngineEvents {
    events: Arc<Mutex<Vec<Event>>>,
    task: JoinHandle<()>,
}

impl EngineEvents {
    /// Starts to record events.
    pub fn start(docker: Docker) -> Self {
        let events = Arc::<Mutex<Vec<Event>>>::default();
        Self { events: Arc::clone(&events), task: tokio::spawn(listen(docker, events)) }
    }

    /// When the engine last did `action` to `subject`. `None` if no such event was recorded.
    pub fn find(&self, action: &str, subject: &str) -> Option<SystemTime> {
        let events = self.events.lock().expect("no holder panics");
        events.iter().rev().find(|event| event.action == action && event.subject == subject).map(|event| event.at)
    }
}

impl Drop for EngineEvents {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn listen(docker: Docker, events: Arc<Mutex<Vec<Event>>>) {
    // Starts one second in the past, so that no event is missed while the connection opens.
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("the clock is past 1970");
    let types = HashMap::from([("type", vec!["container", "image"])]);
    let options = EventsOptionsBuilder::new().since(&(now.as_secs() - 1).to_string()).filters(&types).build();
    let stream = docker.events(Some(options)).try_for_each(async |message| {
        events.lock().expect("no holder panics").extend(read_event(message));
        Ok(())
    });
    // A stream that ends early is not an error here: the code that waits for an event times out with a message.
    let _ = stream.await;
}

fn read_event(message: EventMessage) -> Option<Event> {
    let at = UNIX_EPOCH + Duration::from_nanos(message.time_nano?.try_into().ok()?);
    Some(Event { action: message.action?, subject: message.actor?.id?, at })
}

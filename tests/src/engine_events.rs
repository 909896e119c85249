//! What the engine itself says it did, and when: the parts of which the demo's times are made up.
//! Only listens.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bollard::Docker;
use bollard::models::EventMessage;
use bollard::query_parameters::EventsOptionsBuilder;
use futures_util::TryStreamExt;
use tokio::task::JoinHandle;

/// Something that the engine did.
#[derive(Debug, Clone)]
struct Event {
    action: String,
    /// A container's id, or an image's reference.
    subject: String,
    at: SystemTime,
}

/// The engine's events from its start on; dropping it ends the listening.
#[derive(Debug)]
pub struct EngineEvents {
    events: Arc<Mutex<Vec<Event>>>,
    task: JoinHandle<()>,
}

impl EngineEvents {
    /// Listens from now on.
    pub fn start(docker: Docker) -> Self {
        let events = Arc::<Mutex<Vec<Event>>>::default();
        Self { events: Arc::clone(&events), task: tokio::spawn(listen(docker, events)) }
    }

    /// When the engine last did `action` to `subject`, if it has been heard of.
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
    // Since a second ago, so that nothing is missed while the connection opens.
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("it is after 1970");
    let types = HashMap::from([("type", vec!["container", "image"])]);
    let options = EventsOptionsBuilder::new().since(&(now.as_secs() - 1).to_string()).filters(&types).build();
    let stream = docker.events(Some(options)).try_for_each(async |message| {
        events.lock().expect("no holder panics").extend(read_event(message));
        Ok(())
    });
    // Who waits for an event that never comes says so.
    let _ = stream.await;
}

fn read_event(message: EventMessage) -> Option<Event> {
    let at = UNIX_EPOCH + Duration::from_nanos(message.time_nano?.try_into().ok()?);
    Some(Event { action: message.action?, subject: message.actor?.id?, at })
}

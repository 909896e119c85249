//! A client that sends requests continuously and measures how long the service does not answer.

use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use crate::http_client::build_client;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{MissedTickBehavior, interval};

/// The time between two requests.
const REQUEST_INTERVAL: Duration = Duration::from_millis(5);
/// An answer takes about 1 ms, and much longer on a busy machine. A request without an answer in this time has failed.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(1);

/// One request.
#[derive(Debug, Clone)]
pub struct Probe {
    /// When the answer or the failure was known.
    pub at: SystemTime,
    /// The answer of the service: its version. `None` is a failure.
    pub version: Option<String>,
}

/// The running client. Dropping it stops the client.
#[derive(Debug)]
pub struct Prober {
    probes: Arc<Mutex<Vec<Probe>>>,
    task: JoinHandle<()>,
}

/// How long the service did not answer, and how many requests failed.
#[derive(Debug, PartialEq, Eq)]
pub struct Absence {
    /// When the old version last answered.
    pub from: SystemTime,
    /// When the new version first answered.
    pub to: SystemTime,
    /// The number of requests in between. They all failed.
    pub failed: usize,
    /// The number of requests that failed before or after. A busy machine causes some.
    pub failed_elsewhere: usize,
    /// The number of all requests.
    pub asked: usize,
}

impl Absence {
    /// The time from the last old answer to the first new answer.
    pub fn duration(&self) -> Duration {
        self.to.duration_since(self.from).expect("the new version answers after the old one")
    }
}

impl Prober {
    /// Starts to send requests to `url`.
    pub fn start(url: String) -> Self {
        let probes = Arc::<Mutex<Vec<Probe>>>::default();
        Self { probes: Arc::clone(&probes), task: tokio::spawn(ask_on(url, probes)) }
    }

    /// Whether the latest request was answered.
    pub fn is_answered(&self) -> bool {
        let probes = self.probes.lock().expect("no holder panics");
        probes.last().is_some_and(|probe| probe.version.is_some())
    }

    /// Whether the latest answer is `version`.
    pub fn is_on(&self, version: &str) -> bool {
        let probes = self.probes.lock().expect("no holder panics");
        probes.last().is_some_and(|probe| probe.version.as_deref() == Some(version))
    }

    /// All requests so far, in order.
    pub fn probes(&self) -> Vec<Probe> {
        self.probes.lock().expect("no holder panics").clone()
    }
}

impl Drop for Prober {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Each request runs independently. A request can hang while an address appears or disappears, and must not delay the
/// next one.
async fn ask_on(url: String, probes: Arc<Mutex<Vec<Probe>>>) {
    let client = build_client();
    let mut ticks = interval(REQUEST_INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut questions = JoinSet::new();
    loop {
        ticks.tick().await;
        while questions.try_join_next().is_some() {}
        let (request, probes) = (client.get(&url).timeout(ANSWER_TIMEOUT), Arc::clone(&probes));
        questions.spawn(async move {
            let answer = async { request.send().await?.error_for_status()?.text().await };
            let version = answer.await.ok();
            probes.lock().expect("no holder panics").push(Probe { at: SystemTime::now(), version });
        });
    }
}

/// Computes the absence during a move from `old` to `new`. Panics unless both versions answered, and the old one never
/// after the new one.
pub fn measure_absence(probes: &[Probe], old: &str, new: &str) -> Absence {
    let is_on = |probe: &Probe, version: &str| probe.version.as_deref() == Some(version);
    let last_old = probes.iter().rposition(|probe| is_on(probe, old)).expect("the old version answered");
    let first_new = probes.iter().position(|probe| is_on(probe, new)).expect("the new version answers");
    assert!(last_old < first_new, "the old version answered after the new one");
    let failures = |probes: &[Probe]| probes.iter().filter(|probe| probe.version.is_none()).count();
    let failed = failures(&probes[last_old..first_new]);
    Absence {
        from: probes[last_old].at,
        to: probes[first_new].at,
        failed,
        failed_elsewhere: failures(probes) - failed,
        asked: probes.len(),
    }
}

/// The longest time between two successive answers. It is zero with fewer than two answers.
pub fn longest_absence(probes: &[Probe]) -> Duration {
    let answered: Vec<SystemTime> =
        probes.iter().filter(|probe| probe.version.is_some()).map(|probe| probe.at).collect();
    let gaps = answered.windows(2).map(|pair| pair[1].duration_since(pair[0]).unwrap_or_default());
    gaps.max().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn probes(versions: &str) -> Vec<Probe> {
        let at =
            |index: usize| SystemTime::UNIX_EPOCH + REQUEST_INTERVAL * u32::try_from(index).expect("a short table");
        let version = |letter: char| (letter != '-').then(|| letter.to_string());
        versions.chars().enumerate().map(|(index, letter)| Probe { at: at(index), version: version(letter) }).collect()
    }

    #[test]
    fn absence_lasts_from_the_last_old_answer_to_the_first_new_one() {
        for (versions, duration, failed, failed_elsewhere) in [
            ("aaa---bb", REQUEST_INTERVAL * 4, 3, 0),
            ("ab", REQUEST_INTERVAL, 0, 0),
            ("--a-a-b-b", REQUEST_INTERVAL * 2, 1, 4),
        ] {
            let absence = measure_absence(&probes(versions), "a", "b");
            assert_eq!(absence.duration(), duration, "{versions}");
            assert_eq!((absence.failed, absence.failed_elsewhere), (failed, failed_elsewhere), "{versions}");
            assert_eq!(absence.asked, versions.len());
        }
    }

    #[test]
    fn the_longest_absence_is_between_two_answers() {
        for (versions, steps) in [("-a-aa---b-", 4), ("aa", 1), ("a-", 0), ("", 0)] {
            assert_eq!(longest_absence(&probes(versions)), REQUEST_INTERVAL * steps, "{versions}");
        }
    }

    #[test]
    fn probes_without_a_move_are_refused() {
        for versions in ["aaaa", "bb", "ab-ab"] {
            let measured = std::panic::catch_unwind(|| measure_absence(&probes(versions), "a", "b"));
            assert!(measured.is_err(), "{versions}");
        }
    }
}

//! A client that asks the service again and again, and so knows how long it was away. Judges nothing.

use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use crate::http_client::build_client;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{MissedTickBehavior, interval};

/// From one question to the next.
const ASK_EVERY: Duration = Duration::from_millis(5);
/// An answer takes about a millisecond, on a busy machine much longer; one that takes so long has failed.
const PATIENCE: Duration = Duration::from_secs(1);

/// One question.
#[derive(Debug, Clone)]
pub struct Probe {
    /// When its answer, or its failure, was known.
    pub at: SystemTime,
    /// What the service answered: its version.
    pub version: Option<String>,
}

/// The asking client; dropping it ends it.
#[derive(Debug)]
pub struct Prober {
    probes: Arc<Mutex<Vec<Probe>>>,
    task: JoinHandle<()>,
}

/// How long the service was away, and what its clients saw.
#[derive(Debug, PartialEq, Eq)]
pub struct Absence {
    /// The old version's last answer.
    pub from: SystemTime,
    /// The new version's first answer.
    pub to: SystemTime,
    /// Questions in between, which all failed.
    pub failed: usize,
    /// Questions that failed before or after; a machine too busy for its own work makes some.
    pub failed_elsewhere: usize,
    /// Questions in all.
    pub asked: usize,
}

impl Absence {
    /// From the last old answer to the first new one.
    pub fn duration(&self) -> Duration {
        self.to.duration_since(self.from).expect("the new version answers after the old one")
    }
}

impl Prober {
    /// Starts asking `url`.
    pub fn start(url: String) -> Self {
        let probes = Arc::<Mutex<Vec<Probe>>>::default();
        Self { probes: Arc::clone(&probes), task: tokio::spawn(ask_on(url, probes)) }
    }

    /// Whether the latest question was answered.
    pub fn is_answered(&self) -> bool {
        let probes = self.probes.lock().expect("no holder panics");
        probes.last().is_some_and(|probe| probe.version.is_some())
    }

    /// Whether the latest answer is `version`.
    pub fn is_on(&self, version: &str) -> bool {
        let probes = self.probes.lock().expect("no holder panics");
        probes.last().is_some_and(|probe| probe.version.as_deref() == Some(version))
    }

    /// All questions so far, in their order.
    pub fn probes(&self) -> Vec<Probe> {
        self.probes.lock().expect("no holder panics").clone()
    }
}

impl Drop for Prober {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Each question goes by itself: one that hangs, as they do at an address that is just going or coming, must not
/// keep the next from being answered.
async fn ask_on(url: String, probes: Arc<Mutex<Vec<Probe>>>) {
    let client = build_client();
    let mut ticks = interval(ASK_EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut questions = JoinSet::new();
    loop {
        ticks.tick().await;
        while questions.try_join_next().is_some() {}
        let (request, probes) = (client.get(&url).timeout(PATIENCE), Arc::clone(&probes));
        questions.spawn(async move {
            let answer = async { request.send().await?.error_for_status()?.text().await };
            let version = answer.await.ok();
            probes.lock().expect("no holder panics").push(Probe { at: SystemTime::now(), version });
        });
    }
}

/// What `probes` say of a move from `old` to `new`; panics unless both answered, and the old one never after the
/// new one.
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

/// The longest time from one answer to the next; zero when there were not two.
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
        let at = |index: usize| SystemTime::UNIX_EPOCH + ASK_EVERY * u32::try_from(index).expect("a short table");
        let version = |letter: char| (letter != '-').then(|| letter.to_string());
        versions.chars().enumerate().map(|(index, letter)| Probe { at: at(index), version: version(letter) }).collect()
    }

    #[test]
    fn an_absence_lasts_from_the_last_old_answer_to_the_first_new_one() {
        for (versions, duration, failed, failed_elsewhere) in
            [("aaa---bb", ASK_EVERY * 4, 3, 0), ("ab", ASK_EVERY, 0, 0), ("--a-a-b-b", ASK_EVERY * 2, 1, 4)]
        {
            let absence = measure_absence(&probes(versions), "a", "b");
            assert_eq!(absence.duration(), duration, "{versions}");
            assert_eq!((absence.failed, absence.failed_elsewhere), (failed, failed_elsewhere), "{versions}");
            assert_eq!(absence.asked, versions.len());
        }
    }

    #[test]
    fn the_longest_absence_is_between_two_answers() {
        for (versions, steps) in [("-a-aa---b-", 4), ("aa", 1), ("a-", 0), ("", 0)] {
            assert_eq!(longest_absence(&probes(versions)), ASK_EVERY * steps, "{versions}");
        }
    }

    #[test]
    fn what_is_no_move_is_refused() {
        for versions in ["aaaa", "bb", "ab-ab"] {
            let measured = std::panic::catch_unwind(|| measure_absence(&probes(versions), "a", "b"));
            assert!(measured.is_err(), "{versions}");
        }
    }
}

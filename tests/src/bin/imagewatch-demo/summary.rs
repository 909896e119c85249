//! What the demo comes to: compares before with after, adds up the times, and shows both. Panics where a claim
//! does not hold. Starts and asks nothing.

use std::time::{Duration, SystemTime};

use imagewatch_abi::Digest;

use crate::facts::Service;
use crate::screen;
use imagewatch_tests::prober::Absence;

/// What passed through the proxy while imagewatch was watching.
#[derive(Debug)]
pub(crate) struct Requests {
    heads: usize,
    others: usize,
    ticks: usize,
    by_engine: usize,
}

/// When what happened; all by this machine's clock.
#[derive(Debug)]
pub(crate) struct Times {
    /// The registry had v2.
    pub(crate) pushed: SystemTime,
    /// imagewatch said that the tag moved.
    pub(crate) noticed: SystemTime,
    /// imagewatch said that the engine has v2.
    pub(crate) pulled: SystemTime,
    /// The engine had made the new container.
    pub(crate) created: SystemTime,
    /// The old container's process ended.
    pub(crate) ended: SystemTime,
    /// The new container had its name.
    pub(crate) renamed: SystemTime,
    /// The engine had started the new container.
    pub(crate) started: SystemTime,
    /// What the clients saw.
    pub(crate) absence: Absence,
}

/// All that is summed up.
#[derive(Debug)]
pub(crate) struct Summary<'a> {
    /// The container's name.
    pub(crate) name: &'a str,
    /// The digest of v1.
    pub(crate) v1: &'a Digest,
    /// The digest of v2.
    pub(crate) v2: &'a Digest,
    /// The service on v1.
    pub(crate) before: Service,
    /// The service on v2.
    pub(crate) after: Service,
    /// What was asked for it.
    pub(crate) requests: Requests,
    /// How long it took.
    pub(crate) times: Times,
}

impl Requests {
    /// Of `asked`, imagewatch's own, and of what the engine asked in order to pull.
    pub(crate) fn count(asked: &[String], ticks: usize, by_engine: usize) -> Self {
        let heads = asked.iter().filter(|line| line.starts_with("HEAD ") && line.contains("/manifests/")).count();
        Self { heads, others: asked.len() - heads, ticks, by_engine }
    }
}

impl Summary<'_> {
    /// Checks it and shows it.
    pub(crate) fn show(&self) {
        self.check();
        let (before, after) = (&self.before, &self.after);
        screen::title("\nSummary");
        screen::fact("tag", &after.own.image);
        screen::fact("digest", format!("{} -> {}", self.v1.short(), self.v2.short()));
        let (old, new) = (&before.id, &after.id);
        screen::fact("container", format!("{old:.12} -> {new:.12}, still named {}; the old one is gone", self.name));
        screen::fact("new", format!("VERSION={} -> {}, from the image", before.version, after.version));
        let own = &after.own;
        let settings = format!("GREETING={}, label team={}, port {}", own.greeting, own.team, own.address);
        screen::fact("kept", format!("{settings}, and the volume with {:?}", own.note));
        self.requests.show();
        self.times.show();
    }

    fn check(&self) {
        let (before, after) = (&self.before, &self.after);
        assert!(after.digests.contains(self.v2), "{} runs {:?}, not v2", self.name, after.digests);
        assert_ne!(before.id, after.id, "the container was not replaced");
        assert_eq!((&*before.version, &*after.version), ("v1", "v2"), "$VERSION comes from the image");
        assert_eq!(before.own, after.own, "what the user set is not what it was");
        assert!(self.times.created < self.times.ended, "the new container was made only after the old one had ended");
    }
}

impl Requests {
    fn show(&self) {
        let Self { heads, others, ticks, by_engine } = self;
        let watched = format!("{heads} HEAD and {others} others by imagewatch in {ticks} ticks");
        screen::fact("requests", format!("{watched}; {by_engine} by the engine to pull v2"));
    }
}

impl Times {
    fn show(&self) {
        let Absence { failed, failed_elsewhere, asked, .. } = self.absence;
        let away = self.absence.duration();
        let whole = milliseconds(since(self.pushed, self.absence.to));
        screen::fact("to v2", format!("{whole} from the end of the push to the first answer of v2:"));
        show_part(since(self.pushed, self.noticed), "until the next tick notices it");
        show_part(since(self.noticed, self.pulled), "to pull it");
        show_part(since(self.pulled, self.absence.from), "to make the new container, while the old one serves");
        show_part(away, &format!("away, from the last answer of v1; {failed} of {asked} requests failed:"));
        show_detail(since(self.absence.from, self.ended), "v1 ends, on SIGTERM");
        show_detail(since(self.ended, self.renamed), "the engine takes its network down; v2 gets its name");
        show_detail(since(self.renamed, self.started), "the engine starts v2");
        // Tried apart: 1-20 ms when nobody asks before the start is over. Who does makes the kernel look for an
        // address that nobody has yet, and it looks again after a second.
        show_detail(since(self.started, self.absence.to), "v2 answers (a client that asked too early waits for ARP)");
        if failed_elsewhere > 0 {
            screen::fact("", format!("{failed_elsewhere} more requests failed before or after: a busy machine"));
        }
    }
}

fn show_part(duration: Duration, what: &str) {
    screen::fact("", format!("{:>8}  {what}", milliseconds(duration)));
}

/// A part of a part.
fn show_detail(duration: Duration, what: &str) {
    screen::fact("", format!("{:>18}  {what}", milliseconds(duration)));
}

/// Two clocks that look at the same moment may differ by less than a probe: that is no time at all.
fn since(from: SystemTime, to: SystemTime) -> Duration {
    to.duration_since(from).unwrap_or_default()
}

fn milliseconds(duration: Duration) -> String {
    format!("{} ms", duration.as_millis())
}

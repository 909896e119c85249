//! The result of the demo: compares the service before and after the update, computes the times, and shows both. Panics
//! if a claim does not hold.

use std::time::{Duration, SystemTime};

use imagewatch_abi::Digest;

use crate::facts::Service;
use crate::screen;
use imagewatch_tests::prober::Absence;

/// The requests that passed through the proxy while imagewatch was watching.
#[derive(Debug)]
pub(crate) struct Requests {
    heads: usize,
    others: usize,
    polls: usize,
    by_engine: usize,
}

/// The times of the events, by this machine's clock.
#[derive(Debug)]
pub(crate) struct Times {
    /// When the push of v2 was complete.
    pub(crate) pushed: SystemTime,
    /// When imagewatch logged that the tag moved.
    pub(crate) noticed: SystemTime,
    /// When imagewatch logged that the engine has v2.
    pub(crate) pulled: SystemTime,
    /// When the engine had created the new container.
    pub(crate) created: SystemTime,
    /// When the old container's process ended.
    pub(crate) ended: SystemTime,
    /// When the new container got the name.
    pub(crate) renamed: SystemTime,
    /// When the engine had started the new container.
    pub(crate) started: SystemTime,
    /// What the clients observed.
    pub(crate) absence: Absence,
}

/// Everything that the summary uses.
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
    /// The requests that the update needed.
    pub(crate) requests: Requests,
    /// The times of the update.
    pub(crate) times: Times,
}

impl Requests {
    /// Counts `asked`, the requests of imagewatch. `by_engine` is the number of the engine's requests for the pull.
    pub(crate) fn count(asked: &[String], polls: usize, by_engine: usize) -> Self {
        let heads = asked.iter().filter(|line| line.starts_with("HEAD ") && line.contains("/manifests/")).count();
        Self { heads, others: asked.len() - heads, polls, by_engine }
    }
}

impl Summary<'_> {
    /// Checks the results and shows them.
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
        assert_eq!(before.own, after.own, "the user's settings have changed");
        assert!(
            self.times.created < self.times.ended,
            "the new container was created only after the old one had ended"
        );
    }
}

impl Requests {
    fn show(&self) {
        let Self { heads, others, polls, by_engine } = self;
        let watched = format!("{heads} HEAD and {others} other requests by imagewatch in {polls} polls");
        screen::fact("requests", format!("{watched}; {by_engine} by the engine to pull v2"));
    }
}

impl Times {
    fn show(&self) {
        let Absence { failed, failed_elsewhere, asked, .. } = self.absence;
        let away = self.absence.duration();
        let whole = milliseconds(since(self.pushed, self.absence.to));
        screen::fact("to v2", format!("{whole} from the end of the push to the first answer of v2:"));
        show_part(since(self.pushed, self.noticed), "until the next poll notices it");
        show_part(since(self.noticed, self.pulled), "to pull it");
        show_part(since(self.pulled, self.absence.from), "to create the new container, while the old one serves");
        show_part(away, &format!("without an answer, from the last one of v1; {failed} of {asked} requests failed:"));
        show_detail(since(self.absence.from, self.ended), "v1 ends, on SIGTERM");
        show_detail(since(self.ended, self.renamed), "the engine removes its network; v2 gets the name");
        show_detail(since(self.renamed, self.started), "the engine starts v2");
        // Measured separately: 1-20 ms if no client connects before the start is complete. An earlier connection makes
        // the kernel look up an address that does not exist yet, and it tries again only after a second.
        show_detail(
            since(self.started, self.absence.to),
            "v2 answers (a client that connected too early waits for ARP)",
        );
        if failed_elsewhere > 0 {
            screen::fact(
                "",
                format!("{failed_elsewhere} more requests failed before or after, because the machine is busy"),
            );
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

/// The time between two moments. Two clocks can differ by less than one probe; a negative time counts as zero.
fn since(from: SystemTime, to: SystemTime) -> Duration {
    to.duration_since(from).unwrap_or_default()
}

fn milliseconds(duration: Duration) -> String {
    format!("{} ms", duration.as_millis())
}

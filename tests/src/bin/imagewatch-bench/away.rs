//! How long a service does not answer while the real program updates its container, compared with what the engine alone
//! needs. Also whether a container that becomes healthy slowly delays the others.

mod comeback;
mod nine;
mod start_first;
mod stop_first;

use imagewatch_tests::image::ImageSpec;
use imagewatch_tests::stage::{Daemon, Stage};

use crate::Part;

/// How often each part is measured.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Rounds {
    /// Updates, and the same number of restarts.
    stop_first: usize,
    /// Updates under load.
    start_first: usize,
    /// Updates that fail their health check.
    comebacks: usize,
    /// The time until the tenth container is healthy, in seconds.
    tenth_s: u32,
}

pub(crate) const FULL: Rounds = Rounds { stop_first: 10, start_first: 5, comebacks: 5, tenth_s: 30 };
pub(crate) const QUICK: Rounds = Rounds { stop_first: 3, start_first: 2, comebacks: 2, tenth_s: 15 };

/// Runs one measurement after the other. Each one panics if its environment is not as it needs it.
pub(crate) async fn measure(rounds: Rounds) -> Vec<Part> {
    vec![
        ("the time without an answer", tokio::spawn(stop_first::measure(rounds.stop_first)).await),
        ("requests while the new one is started first", tokio::spawn(start_first::measure(rounds.start_first)).await),
        ("the rollback", tokio::spawn(comeback::measure(rounds.comebacks)).await),
        ("nine containers next to a slow one", tokio::spawn(nine::measure(rounds.tenth_s)).await),
    ]
}

/// A service that is updated several times.
#[derive(Debug)]
struct Service {
    stage: Stage,
    daemon: Daemon,
    /// Returns the image of a version by the version's name.
    image: fn(&str) -> ImageSpec,
}

impl Service {
    /// Watches the image of `web`. Its container runs version `v0`.
    async fn watch(stage: Stage, image: fn(&str) -> ImageSpec) -> Self {
        let daemon = stage.watch(&[stage.write(&stage.manifest().config("images", &stage.image("web")), "bench")]);
        daemon.wait_for_line("first seen").await;
        Self { stage, daemon, image }
    }

    /// The version that the container runs.
    fn version(&self) -> String {
        self.stage.scope.name(&format!("v{}", self.updates()))
    }

    /// Moves the tag to the next version and returns when the container runs it.
    async fn update(&self) {
        let seen = self.updates();
        let next = self.stage.scope.name(&format!("v{}", seen + 1));
        self.stage.push_image("web", &(self.image)(&next)).await;
        self.daemon.wait_for_more("recreated", seen).await;
    }

    fn updates(&self) -> usize {
        self.daemon.count("recreated")
    }
}

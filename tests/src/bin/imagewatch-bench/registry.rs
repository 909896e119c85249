//! `bench registry`: the requests and resources of the real program with few and many images, with and without latency,
//! tokens and TLS. Each setting is compared with its floor, which is measured before and after the program's polls.

use std::path::Path;
use std::time::Duration;

use imagewatch_tests::fake_registry::{Counts, FakeRegistry, FakeRegistrySettings};
use imagewatch_tests::wait::wait_for;
use tempfile::TempDir;

use crate::engine::FakeEngine;
use crate::floor::{Floor, Head};
use crate::program::{memory_mib, run, tick_times, wait_for_tick};
use crate::report::{Aim, FLAT, Row, Samples, count};
use crate::world::watching;

/// The media types that the policy accepts for a manifest.
const ACCEPT: &str = "application/vnd.oci.image.index.v1+json, application/vnd.oci.image.manifest.v1+json, \
    application/vnd.docker.distribution.manifest.list.v2+json, application/vnd.docker.distribution.manifest.v2+json";

/// The latency in one case. The other case has none.
pub(crate) const LATENCY: Duration = Duration::from_millis(50);

/// How much is measured.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Plan {
    /// A small and a large number of images, each in its own repository.
    pub(crate) images: [usize; 2],
    /// Polls after the first.
    steady_ticks: usize,
    /// Bare loops before the program's polls, and the same number after them. The first loop of each series is
    /// additional.
    loops: usize,
    /// Runs of `imagewatch check`.
    pub(crate) commands: usize,
}

pub(crate) const FULL: Plan = Plan { images: [500, 5_000], steady_ticks: 4, loops: 2, commands: 7 };
pub(crate) const QUICK: Plan = Plan { images: [100, 1_000], steady_ticks: 2, loops: 1, commands: 3 };

/// The name of a setting, for the table's heading.
pub(crate) fn heading(settings: FakeRegistrySettings) -> String {
    let protocol = if settings.has_tls { "TLS with HTTP/2" } else { "HTTP/1.1" };
    let auth = if settings.has_tokens { "tokens" } else { "no auth" };
    format!("{protocol}, {} ms, {auth}", settings.latency.as_millis())
}

/// All settings, the simplest first.
pub(crate) fn settings(plan: Plan) -> Vec<FakeRegistrySettings> {
    let mut all = Vec::new();
    for has_tls in [false, true] {
        for has_tokens in [false, true] {
            for latency in [Duration::ZERO, LATENCY] {
                all.push(FakeRegistrySettings { repositories: plan.images[1], latency, has_tokens, has_tls });
            }
        }
    }
    all
}

/// Measures one setting with few and many images.
pub(crate) async fn measure(settings: FakeRegistrySettings, plan: Plan) -> Vec<Row> {
    let registry = FakeRegistry::start(settings);
    let mut all = Vec::new();
    for images in plan.images {
        crate::say(&format!("{}: {images} images", heading(settings)));
        all.push(measure_images(&registry, settings, images, plan).await);
    }
    let per_image = |measured: &Measured| measured.steady.median() / count(measured.images);
    let growth = Samples::new([per_image(&all[1]) / per_image(&all[0])]);
    let mut rows: Vec<Row> = all.iter().flat_map(|measured| measured.rows(settings)).collect();
    let measure = format!("steady poll per image, of {} / of {}", plan.images[1], plan.images[0]);
    rows.push(Row::new(&measure, "x", growth).aim(Aim::Median(FLAT)));
    rows
}

/// The program and its floor with a number of images. Times are in milliseconds.
struct Measured {
    images: usize,
    first: f64,
    steady: Samples,
    /// Loops of clients without open connections.
    first_floor: Samples,
    floor: Samples,
    /// The requests of the first poll.
    asked_first: Counts,
    /// The requests of each later poll.
    asked_steady: Samples,
    connections: usize,
    most_open: usize,
    kept: usize,
    peak_mib: f64,
}

async fn measure_images(
    registry: &FakeRegistry,
    settings: FakeRegistrySettings,
    images: usize,
    plan: Plan,
) -> Measured {
    let before = loops(registry, settings, images, plan.loops).await;
    let interval = interval_beside(&before);
    let ticks = tick(registry, settings, images, plan.steady_ticks, interval).await;
    let Ticks { times, counts, most_open, kept, peak_mib } = ticks;
    let after = loops(registry, settings, images, plan.loops).await;
    let asked: Vec<Counts> = counts.windows(2).map(|pair| pair[1].since(pair[0])).collect();
    Measured {
        images,
        first: times[0],
        steady: Samples::new(times[1..].iter().copied()),
        first_floor: Samples::new([before[0], after[0]]),
        floor: Samples::new(before[1..].iter().chain(&after[1..]).copied()),
        asked_first: asked[0],
        asked_steady: Samples::new(asked[1..].iter().map(|asked| count(asked.requests()))),
        connections: asked.iter().map(|asked| asked.connections).sum(),
        most_open,
        kept,
        peak_mib,
    }
}

/// The polls of the program: the first and the steady ones.
struct Ticks {
    /// The duration of each poll in milliseconds.
    times: Vec<f64>,
    /// The registry's counts before the first poll and after each one.
    counts: Vec<Counts>,
    /// The highest number of connections at the same time.
    most_open: usize,
    /// The connections after the last poll.
    kept: usize,
    peak_mib: f64,
}

/// The poll interval. Polls are counted one by one, so each one must end long before the next one starts. `floors` are
/// times of bare loops in milliseconds.
fn interval_beside(floors: &[f64]) -> Duration {
    let longest = floors.iter().copied().fold(0.0, f64::max);
    Duration::from_secs(1) + Duration::from_secs_f64(longest * 5.0 / 1e3)
}

async fn tick(
    registry: &FakeRegistry,
    settings: FakeRegistrySettings,
    images: usize,
    steady: usize,
    interval: Duration,
) -> Ticks {
    let folder = TempDir::new().expect("the temp folder is writable");
    // No container uses these images. They are listed in the manifest.
    let engine = FakeEngine::start(registry, 0);
    let manifest = watching((0..images).map(|index| registry.reference(index)), &registry.host());
    // Without this config key, loopback is queried without TLS. Another host in the key replaces that default.
    let insecure = if settings.has_tls { "nobody.invalid" } else { "loopback" };
    let manifest = manifest
        .config("interval", &format!("{}ms", interval.as_millis()))
        .config("host.insecure_registries", insecure);
    let manifest = manifest.write(folder.path(), "bench");
    wait_for("the bare client's connections to be closed", Duration::from_secs(10), || async {
        let open = registry.open_connections();
        if open == 0 { Ok(()) } else { Err(open) }
    })
    .await;
    registry.take_most_open();
    let mut counts = vec![registry.counts()];
    let program = run(&engine.host(), &manifest, &trust(registry, folder.path()));
    for tick in 1..=steady + 1 {
        wait_for_tick(&program, tick).await;
        counts.push(registry.counts());
        let asked = counts[tick].since(counts[tick - 1]);
        let is_answered = asked.heads + asked.gets - asked.refused >= images;
        let said = program.lines();
        assert!(
            is_answered,
            "poll {tick} is incomplete, it sent {asked:?}; the program's last line: {:?}",
            said.last()
        );
    }
    let times: Vec<f64> = tick_times(&program).into_iter().take(steady + 1).collect();
    let longest = times.iter().copied().fold(0.0, f64::max);
    assert!(longest < interval.as_secs_f64() * 1e3, "a poll of {longest} ms exceeds the interval of {interval:?}");
    let (kept, most_open) = (registry.open_connections(), registry.take_most_open());
    Ticks { times, counts, most_open, kept, peak_mib: memory_mib(&program, "VmHWM") }
}

/// Makes the program trust the registry's authority. Only this benchmark writes the file.
fn trust(registry: &FakeRegistry, folder: &Path) -> Vec<(&'static str, String)> {
    let Some(pem) = registry.ca_pem() else { return Vec::new() };
    let file = folder.join("authority.pem");
    std::fs::write(&file, pem).expect("the temp folder is writable");
    vec![("SSL_CERT_FILE", file.display().to_string())]
}

/// The program's requests in a steady poll.
fn heads(registry: &FakeRegistry, settings: FakeRegistrySettings, images: usize) -> Vec<Head> {
    let mut headers = vec![("accept".to_owned(), ACCEPT.to_owned())];
    if settings.has_tokens {
        headers.push(("authorization".to_owned(), format!("Bearer {}", registry.issue_token())));
    }
    (0..images).map(|index| Head { url: registry.manifest_url(index), headers: headers.clone() }).collect()
}

/// Runs bare loops of a new client: the first one, which opens the connections, and `times` more.
async fn loops(registry: &FakeRegistry, settings: FakeRegistrySettings, images: usize, times: usize) -> Vec<f64> {
    let floor = Floor::new(heads(registry, settings, images), registry.ca_pem());
    let mut taken = Vec::new();
    for _ in 0..=times {
        taken.push(floor.run().await);
    }
    taken
}

impl Measured {
    fn rows(&self, settings: FakeRegistrySettings) -> Vec<Row> {
        let images = self.images;
        let per_image = |requests: usize| Samples::new([count(requests) / count(images)]);
        let most_connections = if settings.has_tls { 2.0 } else { 64.0 };
        let ratio = Samples::new([self.steady.median() / self.floor.median()]);
        let first_ratio = Samples::new([self.first / self.first_floor.median()]);
        let asked = Samples::new(self.asked_steady.values().map(|asked| asked / count(images)));
        let mut rows = vec![
            Row::new(&format!("{images} images: steady poll / bare loop, of the medians"), "x", ratio)
                .aim(Aim::Median(1.2)),
            Row::new("  steady poll", "ms", self.steady.clone()),
            Row::new("  bare loop with open connections", "ms", self.floor.clone()),
            Row::new("  first poll / first bare loop", "x", first_ratio).aim(Aim::Median(1.2)),
            Row::new("  first poll", "ms", Samples::new([self.first])),
            Row::new("  first bare loop, no connection open", "ms", self.first_floor.clone()),
            Row::new("  requests per image, of a steady poll", "", asked).aim(Aim::Exactly(1.0)),
            Row::new("  requests per image, of the first poll", "", per_image(self.asked_first.requests())),
        ];
        if settings.has_tokens {
            let row = Row::new("  token requests per image", "", per_image(self.asked_first.tokens));
            rows.push(row.aim(Aim::AtMost(0.05)));
        }
        let kept = Row::new("  connections kept between polls", "", Samples::new([count(self.kept)]));
        rows.push(kept.aim(Aim::AtMost(most_connections)));
        rows.push(Row::new("  connections open at once", "", Samples::new([count(self.most_open)])));
        rows.push(Row::new("  connections opened in all polls", "", Samples::new([count(self.connections)])));
        rows.push(Row::new("  peak memory", "MiB", Samples::new([self.peak_mib])));
        rows
    }
}

//! `bench registry`: what the real program takes of a registry and of the machine, over few and over many images, near
//! and far, with and without tokens and TLS; each beside the floor of that setting, which is measured before the
//! program's ticks and after them.

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

/// What the policy accepts of a manifest.
const ACCEPT: &str = "application/vnd.oci.image.index.v1+json, application/vnd.oci.image.manifest.v1+json, \
    application/vnd.docker.distribution.manifest.list.v2+json, application/vnd.docker.distribution.manifest.v2+json";

/// Far away, in one case; the other is none.
pub(crate) const LATENCY: Duration = Duration::from_millis(50);

/// How much is measured.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Plan {
    /// Fewer and more images, each in a repository of its own.
    pub(crate) images: [usize; 2],
    /// Ticks after the first.
    steady_ticks: usize,
    /// Bare loops before the program's ticks, and as many after them, each time besides the first.
    loops: usize,
    /// Runs of a command that ends.
    pub(crate) commands: usize,
}

pub(crate) const FULL: Plan = Plan { images: [500, 5_000], steady_ticks: 4, loops: 2, commands: 7 };
pub(crate) const QUICK: Plan = Plan { images: [100, 1_000], steady_ticks: 2, loops: 1, commands: 3 };

/// A setting, for the table's heading.
pub(crate) fn heading(settings: FakeRegistrySettings) -> String {
    let protocol = if settings.has_tls { "TLS with HTTP/2" } else { "HTTP/1.1" };
    let auth = if settings.has_tokens { "tokens" } else { "no auth" };
    format!("{protocol}, {} ms, {auth}", settings.latency.as_millis())
}

/// Every setting, the plainest first.
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

/// One setting, over fewer and over more images.
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
    let measure = format!("steady tick per image, of {} / of {}", plan.images[1], plan.images[0]);
    rows.push(Row::new(&measure, "x", growth).aim(Aim::Median(FLAT)));
    rows
}

/// The program and its floor over so many images. Times are in milliseconds.
struct Measured {
    images: usize,
    first: f64,
    steady: Samples,
    /// Of clients without a connection.
    first_floor: Samples,
    floor: Samples,
    /// What the first tick asked.
    asked_first: Counts,
    /// Requests of each later tick.
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

/// Ticks of the program, the first and steady ones.
struct Ticks {
    /// What each took, in milliseconds.
    times: Vec<f64>,
    /// What the registry had been asked before the first and after each.
    counts: Vec<Counts>,
    /// Connections at once.
    most_open: usize,
    /// Connections after the last tick.
    kept: usize,
    peak_mib: f64,
}

/// Ticks are counted one by one, so each must be over long before the next begins. `floors` are bare loops in
/// milliseconds.
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
    let folder = TempDir::new().expect("the temp folder takes folders");
    // Nobody is on these images: they stand in the manifest.
    let engine = FakeEngine::start(registry, 0);
    let manifest = watching((0..images).map(|index| registry.reference(index)), &registry.host());
    // Loopback is asked without TLS unless another host alone may be.
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
        assert!(is_answered, "tick {tick} is no measure, it asked {asked:?}; the program said {:?}", said.last());
    }
    let times: Vec<f64> = tick_times(&program).into_iter().take(steady + 1).collect();
    let longest = times.iter().copied().fold(0.0, f64::max);
    assert!(longest < interval.as_secs_f64() * 1e3, "a tick of {longest} ms ran into the next one, after {interval:?}");
    let (kept, most_open) = (registry.open_connections(), registry.take_most_open());
    Ticks { times, counts, most_open, kept, peak_mib: memory_mib(&program, "VmHWM") }
}

/// What makes the program trust the registry's authority. Written here alone.
fn trust(registry: &FakeRegistry, folder: &Path) -> Vec<(&'static str, String)> {
    let Some(pem) = registry.ca_pem() else { return Vec::new() };
    let file = folder.join("authority.pem");
    std::fs::write(&file, pem).expect("the temp folder takes files");
    vec![("SSL_CERT_FILE", file.display().to_string())]
}

/// What the program asks in a steady tick.
fn heads(registry: &FakeRegistry, settings: FakeRegistrySettings, images: usize) -> Vec<Head> {
    let mut headers = vec![("accept".to_owned(), ACCEPT.to_owned())];
    if settings.has_tokens {
        headers.push(("authorization".to_owned(), format!("Bearer {}", registry.issue_token())));
    }
    (0..images).map(|index| Head { url: registry.manifest_url(index), headers: headers.clone() }).collect()
}

/// Bare loops of a client of their own: the first, which makes its connections, and `times` more.
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
            Row::new(&format!("{images} images: steady tick / bare loop, of the medians"), "x", ratio)
                .aim(Aim::Median(1.2)),
            Row::new("  steady tick", "ms", self.steady.clone()),
            Row::new("  bare loop, its connections open", "ms", self.floor.clone()),
            Row::new("  first tick / first bare loop", "x", first_ratio).aim(Aim::Median(1.2)),
            Row::new("  first tick", "ms", Samples::new([self.first])),
            Row::new("  first bare loop, no connection open", "ms", self.first_floor.clone()),
            Row::new("  requests per image, of a steady tick", "", asked).aim(Aim::Exactly(1.0)),
            Row::new("  requests per image, of the first tick", "", per_image(self.asked_first.requests())),
        ];
        if settings.has_tokens {
            let row = Row::new("  token requests per image", "", per_image(self.asked_first.tokens));
            rows.push(row.aim(Aim::AtMost(0.05)));
        }
        let kept = Row::new("  connections kept between ticks", "", Samples::new([count(self.kept)]));
        rows.push(kept.aim(Aim::AtMost(most_connections)));
        rows.push(Row::new("  connections open at once", "", Samples::new([count(self.most_open)])));
        rows.push(Row::new("  connections made in all ticks", "", Samples::new([count(self.connections)])));
        rows.push(Row::new("  memory at its peak", "MiB", Samples::new([self.peak_mib])));
        rows
    }
}

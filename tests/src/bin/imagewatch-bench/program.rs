//! The real program: its requests and connections per poll, its memory after ten polls, and its start time.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use imagewatch_tests::process::Process;
use imagewatch_tests::program::start_imagewatch;
use imagewatch_tests::proxy::Proxy;
use imagewatch_tests::wait::wait_for;
use tokio::time::sleep;

use crate::machine::field;
use crate::report::{Aim, Row, Samples, count};
use crate::world::{IMAGES_F, World};

/// Steady polls after the first.
const TICKS: usize = 10;
/// Much longer than every step here.
const DEADLINE: Duration = Duration::from_mins(3);
/// The log line at the end of a poll.
const TICK_LINE: &str = "export=\"poll\"";

/// Runs `repeats` programs behind a proxy that counts requests.
pub(crate) async fn measure_ticks(world: Arc<World>, repeats: usize) -> Vec<Row> {
    crate::say("counting the program's requests");
    let (mut requests, mut connections) = (Vec::new(), Vec::new());
    let (mut resident, mut peak) = (Vec::new(), Vec::new());
    for _ in 0..repeats {
        let proxy = Proxy::to_registry(&world.host()).await;
        let manifest = world.write_manifest("program", &proxy.host(), "1s");
        let program = start(&world, &manifest);
        let mut before = after_tick(&program, &proxy, 1).await;
        for tick in 2..=TICKS + 1 {
            let after = after_tick(&program, &proxy, tick).await;
            requests.push(after - before);
            before = after;
        }
        connections.push(count(proxy.connections()));
        resident.push(memory_mib(&program, "VmRSS"));
        peak.push(memory_mib(&program, "VmHWM"));
    }
    let [requests, connections, resident, peak] = [requests, connections, resident, peak].map(Samples::new);
    vec![
        Row::new("requests of a steady poll", "", requests).aim(Aim::Exactly(IMAGES_F)),
        Row::new("connections of eleven polls", "", connections).aim(Aim::AtMost(64.0)),
        Row::new("resident memory after ten polls", "MiB", resident).aim(Aim::AtMost(48.0)),
        Row::new("  peak memory", "MiB", peak),
    ]
}

/// Starts `repeats` programs behind a proxy that sees the first request, and the same number directly at the registry.
pub(crate) async fn measure_starts(world: Arc<World>, repeats: usize) -> Vec<Row> {
    crate::say("starting the program");
    let proxy_manifest = |proxy: &Proxy| world.write_manifest("start", &proxy.host(), "5m");
    let direct = world.write_manifest("direct", &world.host(), "5m");
    let (mut first, mut ticked) = (Vec::new(), Vec::new());
    for _ in 0..repeats {
        let proxy = Proxy::to_registry(&world.host()).await;
        let manifest = proxy_manifest(&proxy);
        let begin = Instant::now();
        let program = start(&world, &manifest);
        wait_closely(|| proxy.connections() > 0, &program).await;
        first.push(begin.elapsed().as_secs_f64());
        drop(program);

        let begin = Instant::now();
        let program = start(&world, &direct);
        wait_closely(|| ticks(&program) > 0, &program).await;
        ticked.push(begin.elapsed().as_secs_f64());
    }
    vec![
        Row::new("start to the first request of the first poll", "s", Samples::new(first)).aim(Aim::Median(0.5)),
        Row::new("  start to the end of the first poll", "s", Samples::new(ticked)),
    ]
}

fn start(world: &World, manifest: &Path) -> Process {
    run(&world.docker_host, manifest, &[])
}

/// Starts `imagewatch run` with a log that reports the end of each poll.
pub(crate) fn run(docker_host: &str, manifest: &Path, envs: &[(&str, String)]) -> Process {
    let manifest = manifest.to_str().expect("the temp folder's name is text");
    let args = ["run", "--admin-listen", "127.0.0.1:0", manifest];
    let envs = envs.iter().map(|(name, value)| (*name, value.as_str()));
    let envs: Vec<_> = envs.chain([("IMAGEWATCH_LOG", "info,imagewatch::daemon::session=debug")]).collect();
    start_imagewatch(docker_host, args, &envs)
}

/// The requests until the end of poll number `tick`. The next poll starts almost a second later.
async fn after_tick(program: &Process, proxy: &Proxy, tick: usize) -> f64 {
    wait_for_tick(program, tick).await;
    count(proxy.requests().len())
}

/// Waits until poll number `tick` of a program from [`run`] is complete.
pub(crate) async fn wait_for_tick(program: &Process, tick: usize) {
    wait_for(&format!("poll {tick}"), DEADLINE, || async {
        if ticks(program) >= tick { Ok(()) } else { Err(program.lines().last().cloned()) }
    })
    .await;
}

/// The durations of all polls so far of a program from [`run`], in milliseconds, as the program logs them.
pub(crate) fn tick_times(program: &Process) -> Vec<f64> {
    let lines = program.lines();
    let times = lines.iter().filter(|line| line.contains(TICK_LINE)).map(|line| {
        let word = line.split_whitespace().find_map(|word| word.strip_prefix("elapsed="));
        word.and_then(parse_ms).unwrap_or_else(|| panic!("no time in {line:?}"))
    });
    times.collect()
}

/// Parses a duration in the `Debug` format.
fn parse_ms(text: &str) -> Option<f64> {
    let (number, unit) = text.split_at(text.find(|c: char| c != '.' && !c.is_ascii_digit())?);
    let ms = match unit {
        "s" => 1e3,
        "ms" => 1.0,
        "µs" => 1e-3,
        _ => return None,
    };
    Some(number.parse::<f64>().ok()? * ms)
}

fn ticks(program: &Process) -> usize {
    program.lines().iter().filter(|line| line.contains(TICK_LINE)).count()
}

/// `VmRSS` or `VmHWM`.
pub(crate) fn memory_mib(program: &Process, name: &str) -> f64 {
    let path = format!("/proc/{}/status", program.pid());
    let kib = field(&path, name).and_then(|value| value.strip_suffix(" kB")?.trim().parse::<f64>().ok());
    kib.unwrap_or_else(|| panic!("no {name} in {path}; the program's output: {:?}", program.lines())) / 1024.0
}

/// Checks every millisecond, because the wait itself is measured.
async fn wait_closely(is_so: impl Fn() -> bool, program: &Process) {
    let end = Instant::now() + DEADLINE;
    while !is_so() {
        assert!(Instant::now() < end, "the program did nothing for {DEADLINE:?}; its output: {:?}", program.lines());
        sleep(Duration::from_millis(1)).await;
    }
}

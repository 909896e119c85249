//! Nine containers that are updated at once, alone and while a tenth waits for its health check.

use std::time::{Duration, Instant};

use bollard::models::HealthConfig;
use imagewatch_tests::engine::RunSpec;
use imagewatch_tests::image::ImageSpec;
use imagewatch_tests::proxy::Proxy;
use imagewatch_tests::stage::{Daemon, Stage};
use imagewatch_tests::wait::wait_for;

use crate::report::{Aim, Row, Samples};

const NINE: [&str; 9] = ["n1", "n2", "n3", "n4", "n5", "n6", "n7", "n8", "n9"];
const TENTH: &str = "tenth";
/// Much longer than every step here.
const DEADLINE: Duration = Duration::from_mins(3);

/// The ten containers, watched through a proxy. Holding its requests moves many tags at the same moment.
struct Ten {
    stage: Stage,
    proxy: Proxy,
    daemon: Daemon,
}

/// Measures once. The tenth container is healthy after `tenth_s` seconds.
pub(crate) async fn measure(tenth_s: u32) -> Vec<Row> {
    crate::say("updating nine next to a tenth");
    let ten = Ten::start().await;
    let quick = |role: &'static str, version: &str| (role, ImageSpec::sleeper(&ten.stage.scope.name(version)));
    let one = ten.update(vec![quick(NINE[0], "v1")]).await;
    let alone = ten.update(NINE.iter().map(|role| quick(role, "v2")).collect()).await;
    let wait = format!("trap 'exit 0' TERM; sleep {tenth_s} & wait $!; touch /healthy; sleep 3600 & wait $!");
    let slow = (TENTH, ImageSpec::sleeper(&ten.stage.scope.name("v3")).running(&wait));
    let all = [slow].into_iter().chain(NINE.iter().map(|role| quick(role, "v3"))).collect();
    let beside = ten.update(all).await;
    let (tenth, nine): (Vec<_>, Vec<_>) = beside.into_iter().partition(|(role, _)| *role == TENTH);
    let samples = |times: &[(&str, f64)]| Samples::new(times.iter().map(|(_, time)| *time));
    let (alone, nine) = (samples(&alone), samples(&nine));
    let ratio = Samples::new([nine.max() / alone.max()]);
    vec![
        Row::new("nine next to a slow tenth / nine alone, last to end", "x", ratio).aim(Aim::Median(1.25)),
        Row::new("  nine, from the move of the tags to the end", "s", alone),
        Row::new("  nine while a tenth waits for its health check", "s", nine),
        Row::new("  the tenth", "s", samples(&tenth)),
        Row::new("  one alone", "s", samples(&one)),
    ]
}

impl Ten {
    async fn start() -> Self {
        let stage = Stage::new().await;
        let proxy = Proxy::to_registry(&stage.registry.host()).await;
        // This check never gives up, so the old container does not become unhealthy while it waits for its update.
        let health = HealthConfig {
            test: Some(vec!["CMD-SHELL".to_owned(), "test -e /healthy".to_owned()]),
            interval: Some(1_000_000_000),
            retries: Some(1000),
            ..HealthConfig::default()
        };
        let mut images = Vec::new();
        for role in NINE.into_iter().chain([TENTH]) {
            stage.push(role, "v0").await;
            let image = format!("{}/{}:latest", proxy.host(), stage.scope.name(role));
            let health = (role == TENTH).then(|| health.clone());
            stage.run_as(role, RunSpec { image: image.clone(), health, ..RunSpec::default() }).await;
            images.push(image);
        }
        let manifest = stage.manifest_for(&proxy.host()).config("images", &images.join(" "));
        let daemon = stage.watch(&[stage.write(&manifest, "ten")]);
        daemon.wait_for_more("first seen", NINE.len()).await;
        Self { stage, proxy, daemon }
    }

    /// Moves all of these tags at the same moment. Returns the seconds from there until each container was updated.
    async fn update(&self, images: Vec<(&'static str, ImageSpec)>) -> Vec<(&'static str, f64)> {
        let hold = self.proxy.hold("HEAD /v2/");
        let asked = self.proxy.count("HEAD /v2/");
        wait_for("a poll to be held", DEADLINE, || async {
            let now = self.proxy.count("HEAD /v2/");
            if now > asked + NINE.len() { Ok(()) } else { Err(now) }
        })
        .await;
        for (role, spec) in &images {
            self.stage.push_image(role, spec).await;
        }
        let seen: Vec<usize> = images.iter().map(|(role, _)| self.daemon.count(&self.done(role))).collect();
        drop(hold);
        let begin = Instant::now();
        let mut times = Vec::new();
        wait_for("all updates to be complete", DEADLINE, || {
            for ((role, _), seen) in images.iter().zip(&seen) {
                let is_new = times.iter().all(|(done, _)| done != role);
                if is_new && self.daemon.count(&self.done(role)) > *seen {
                    times.push((*role, begin.elapsed().as_secs_f64()));
                }
            }
            let missing = images.len() - times.len();
            std::future::ready(if missing == 0 { Ok(()) } else { Err((missing, self.daemon.process.lines())) })
        })
        .await;
        times
    }

    fn done(&self, role: &str) -> String {
        format!("recreated {}", self.stage.scope.name(role))
    }
}

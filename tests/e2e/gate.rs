//! Tests when a new container may stay: the health gate, a probe, and the container's hooks. Also tests the state after
//! a failure. The numbers T… are from the list of cases in the design.

use bollard::models::{HealthConfig, HostConfig, RestartPolicy, RestartPolicyNameEnum};
use imagewatch_abi::Digest;
use imagewatch_tests::engine::RunSpec;
use imagewatch_tests::image::ImageSpec;
use imagewatch_tests::program::STATE_DIR;
use imagewatch_tests::wait::wait_for;
use serde_json::{Value, json};

use crate::stage::{Daemon, LONG_TIMEOUT, SHORT_TIMEOUT, Stage, labels, run_to_end, watch_with};

/// A container, and the image that its tag moves to.
struct Row {
    role: &'static str,
    /// The container's settings, without name and image.
    spec: RunSpec,
    old: ImageSpec,
    new: ImageSpec,
}

impl Row {
    fn new(role: &'static str, new: impl Fn(&str) -> ImageSpec) -> Self {
        Self { role, spec: RunSpec::default(), old: ImageSpec::sleeper("old"), new: new("new") }
    }

    fn with_spec(self, spec: RunSpec) -> Self {
        Self { spec, ..self }
    }

    fn from(self, old: ImageSpec) -> Self {
        Self { old, ..self }
    }
}

/// All rows on one engine with one program, which updates them in parallel.
struct Scene {
    stage: Stage,
    daemon: Daemon,
    rows: Vec<Row>,
    /// The id of each row's container before the update.
    ids: Vec<String>,
}

impl Scene {
    async fn start(rows: Vec<Row>) -> Self {
        let stage = Stage::new().await;
        let mut ids = Vec::new();
        for row in &rows {
            stage.push_image(row.role, &named(&stage, row.role, &row.old)).await;
            let spec = RunSpec { image: stage.image(row.role), ..row.spec.clone() };
            ids.push(stage.run_as(row.role, spec).await);
        }
        let manifest = stage.write(&stage.manifest().config("containers", "labelled"), "labelled");
        let envs = [(STATE_DIR, stage.state_dir()), ("IMAGEWATCH_LOG", "info,imagewatch::daemon::effects=debug")];
        let daemon = watch_with(stage.scope.engine().host(), &[manifest], &envs);
        daemon.wait_for_more("first seen", rows.len() - 1).await;
        Self { stage, daemon, rows, ids }
    }

    /// Moves every tag and returns the new digests.
    async fn move_all(&self) -> Vec<Digest> {
        let mut digests = Vec::new();
        for row in &self.rows {
            digests.push(self.stage.push_image(row.role, &named(&self.stage, row.role, &row.new)).await);
        }
        digests
    }

    fn names(&self) -> Vec<String> {
        let mut names: Vec<_> = self.rows.iter().map(|row| self.stage.scope.name(row.role)).collect();
        names.sort();
        names
    }

    /// Waits until the update of `role` has failed, and returns the log line.
    async fn wait_for_failure(&self, role: &str) -> String {
        let name = self.stage.scope.name(role);
        self.daemon.process.wait_for_line(&format!("{name}: pulled, failed {name}: "), LONG_TIMEOUT).await
    }
}

/// An image that no other role and no other scope uses.
fn named(stage: &Stage, role: &str, spec: &ImageSpec) -> ImageSpec {
    let mut spec = spec.clone();
    spec.labels.insert("for".to_owned(), stage.scope.name(role));
    spec
}

fn health_check(test: &[&str]) -> HealthConfig {
    let test = test.iter().map(|word| (*word).to_owned()).collect();
    HealthConfig { test: Some(test), interval: Some(1_000_000_000), ..HealthConfig::default() }
}

fn sick(version: &str) -> ImageSpec {
    let health_command = Some("echo no database; false".to_owned());
    ImageSpec { health_command, ..ImageSpec::sleeper(version) }
}

fn web_with_feature(version: &str) -> ImageSpec {
    let mut spec = ImageSpec::web(version);
    spec.files.insert("www/feature".to_owned(), "yes".to_owned());
    spec
}

fn labelled(pairs: &[(&str, &str)]) -> RunSpec {
    RunSpec { labels: labels(pairs), ..RunSpec::default() }
}

const PROBE: (&str, &str) = ("imagewatch.probe", "http:8080/feature");
const TWO_SECONDS: (&str, &str) = ("imagewatch.health-timeout", "2s");

#[tokio::test(flavor = "multi_thread")]
async fn t21_a_failing_image_is_quarantined_and_the_old_container_runs() {
    let always = RestartPolicy { name: Some(RestartPolicyNameEnum::ALWAYS), ..RestartPolicy::default() };
    let always = HostConfig { restart_policy: Some(always), ..HostConfig::default() };
    let never_ends = health_check(&["CMD-SHELL", "sleep 60"]);
    let expected = [
        ("exits", "it exited with code 1;", "image"),
        ("exits-late", "it exited with code 3;", "image"),
        ("loops", " restarted;", "image"),
        ("unhealthy", "it is unhealthy: no database", "image"),
        ("never-healthy", "after 2 s it is not healthy yet", "host"),
        ("unanswering", "after 2 s its probe does not answer", "image"),
    ];
    let late = "echo too good to last; usleep 500000; exit 3";
    let scene = Scene::start(vec![
        Row::new("exits", ImageSpec::broken),
        Row::new("exits-late", |version| ImageSpec::sleeper(version).running(late)),
        Row::new("loops", ImageSpec::broken).with_spec(RunSpec { host: always, ..RunSpec::default() }),
        Row::new("unhealthy", sick),
        Row::new("never-healthy", ImageSpec::sleeper)
            .with_spec(RunSpec { health: Some(never_ends), ..labelled(&[TWO_SECONDS]) }),
        Row::new("unanswering", ImageSpec::web)
            .from(web_with_feature("old"))
            .with_spec(labelled(&[PROBE, TWO_SECONDS])),
    ])
    .await;
    let new = scene.move_all().await;
    let mut barred = Vec::new();
    for ((role, reason, fault), digest) in expected.iter().zip(&new) {
        let line = scene.wait_for_failure(role).await;
        assert!(line.contains(reason) && line.contains("(runs again as before)"), "{role}: {line}");
        assert!(line.contains("is quarantined"), "{role}: {line}");
        barred.push(json!([scene.stage.scope.name(role), digest, fault]));
    }
    for said in ["its new container said: broken release", "its new container said: too good to last"] {
        assert!(scene.daemon.count(said) > 0, "{said}");
    }

    // The next polls change nothing.
    let (moved, held) = (scene.daemon.count("moved from"), scene.daemon.count("is held"));
    scene.daemon.wait_for_more("is held", held + 2 * scene.rows.len()).await;
    assert_eq!((moved, scene.daemon.count("moved from")), (scene.rows.len(), scene.rows.len()));
    assert_eq!(scene.stage.containers().await, scene.names(), "no other container remains");
    for ((row, id), digest) in scene.rows.iter().zip(&scene.ids).zip(&new) {
        let now = scene.stage.container(row.role).await.expect("the container has its name again");
        assert_eq!((&now.id, now.is_running, now.digests.contains(digest)), (id, true, false), "{}", row.role);
        assert_eq!(now.restart_policy == "always", row.role == "loops", "{}: {}", row.role, now.restart_policy);
    }
    let args = ["quarantine", "list", "--json"];
    let host = scene.stage.scope.engine().host();
    let (code, listed) = run_to_end(host, &args, &[(STATE_DIR, scene.stage.state_dir())]).await;
    let listed: Value = serde_json::from_str(&listed).unwrap_or_else(|error| panic!("{code} {error}: {listed}"));
    let listed = listed["quarantine"].as_array().expect("the quarantine is a list");
    let rows: Vec<_> = listed.iter().map(|row| json!([row["target"], row["digest"], row["fault"]])).collect();
    barred.sort_by_key(Value::to_string);
    assert_eq!(rows, barred);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_container_that_is_as_healthy_as_its_predecessor_stays() {
    let no_check = RunSpec { health: Some(health_check(&["NONE"])), ..RunSpec::default() };
    let scene = Scene::start(vec![
        Row::new("healthy", |version| ImageSpec {
            health_command: Some("true".to_owned()),
            ..ImageSpec::sleeper(version)
        }),
        Row::new("unchecked", sick).with_spec(no_check),
        Row::new("answering", web_with_feature).from(web_with_feature("old")).with_spec(labelled(&[PROBE])),
        Row::new("as-silent", ImageSpec::web).with_spec(labelled(&[PROBE])),
        Row::new("no-worse", sick).from(sick("old")),
    ])
    .await;
    let docker = scene.stage.scope.engine().docker();
    wait_for("the old container to be unhealthy", SHORT_TIMEOUT, || async {
        let found =
            docker.inspect_container(&scene.stage.scope.name("no-worse"), None).await.expect("the container exists");
        let health = found.state.and_then(|state| state.health?.status).map(|status| status.to_string());
        if health.as_deref() == Some("unhealthy") { Ok(()) } else { Err(health) }
    })
    .await;
    let new = scene.move_all().await;
    for (row, digest) in scene.rows.iter().zip(&new) {
        let name = scene.stage.scope.name(row.role);
        scene.daemon.process.wait_for_line(&format!("recreated {name}"), LONG_TIMEOUT).await;
        scene.stage.wait_until_on(row.role, digest, SHORT_TIMEOUT).await;
    }
    assert_eq!(scene.stage.containers().await, scene.names(), "no other container remains");
    assert_eq!(scene.daemon.count("is quarantined"), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pre_update_hook_can_postpone_and_a_post_update_hook_runs() {
    let hooks = labelled(&[
        ("imagewatch.hook.pre-update", "test -e /ready || exit 75"),
        ("imagewatch.hook.post-update", "echo $VERSION > /updated"),
    ]);
    let scene = Scene::start(vec![Row::new("web", ImageSpec::sleeper).with_spec(hooks)]).await;
    let web = scene.stage.scope.name("web");
    let before = scene.stage.container("web").await.expect("the container exists");
    let new = scene.move_all().await;
    let line = scene.wait_for_failure("web").await;
    assert!(line.contains("its imagewatch.hook.pre-update asked to be left alone this time"), "{line}");
    assert!(line.contains("the container was not touched; rolled back, the next poll tries again"), "{line}");
    scene.daemon.wait_for_more("asked to be left alone", 4).await;
    assert_eq!(scene.stage.container("web").await, Some(before), "the container was not stopped");

    scene.stage.scope.exec(&web, &["touch", "/ready"]).await;
    scene.daemon.wait_for_line(&format!("recreated {web}")).await;
    scene.stage.wait_until_on("web", &new[0], SHORT_TIMEOUT).await;
    assert_eq!(scene.stage.scope.exec(&web, &["cat", "/updated"]).await, "new\n");
    assert_eq!((scene.daemon.count("is quarantined"), scene.stage.containers().await), (0, vec![web]));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hanging_hook_ends_at_its_timeout() {
    let limit = ("imagewatch.hook.timeout", "1s");
    let scene = Scene::start(vec![
        Row::new("before", ImageSpec::sleeper)
            .with_spec(labelled(&[limit, ("imagewatch.hook.pre-update", "sleep 600")])),
        Row::new("after", ImageSpec::sleeper)
            .with_spec(labelled(&[limit, ("imagewatch.hook.post-update", "(sleep 600 & sleep 600); true")])),
    ])
    .await;
    let before = scene.stage.container("before").await;
    let new = scene.move_all().await;
    let line = scene.wait_for_failure("before").await;
    let expected = "its imagewatch.hook.pre-update did not end within 1 s; the container was not touched";
    assert!(line.contains(expected), "{line}");
    assert_eq!(scene.stage.container("before").await, before);

    scene.daemon.wait_for_line("replaced, but its imagewatch.hook.post-update did not end within 1 s").await;
    scene.stage.wait_until_on("after", &new[1], SHORT_TIMEOUT).await;
    assert_eq!(scene.stage.containers().await, scene.names(), "no other container remains");
    for role in ["before", "after"] {
        let docker = scene.stage.scope.engine().docker();
        let top = docker.top_processes(&scene.stage.scope.name(role), None).await.expect("the container exists");
        let hanging: Vec<_> =
            top.processes.iter().flatten().filter(|line| line.concat().contains("sleep 600")).collect();
        assert!(hanging.is_empty(), "the processes of the hook of {role} must end too: {hanging:?}");
    }
}

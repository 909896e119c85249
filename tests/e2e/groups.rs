//! Tests containers that need another container or ask to be restarted with it, when the image of that container moves.
//! The numbers T… are from the list of cases in the design.

use std::collections::BTreeMap;

use bollard::models::{HealthConfig, HostConfig};
use imagewatch_tests::engine::{ContainerNow, RunSpec};
use imagewatch_tests::image::ImageSpec;
use imagewatch_tests::program::STATE_DIR;

use crate::stage::{LONG_TIMEOUT, SHORT_TIMEOUT, Stage, labels, run_to_end, watch_with};

/// The service of `web` that the other containers need.
const URL: &str = "http://127.0.0.1:8080/";
/// The same service under the name in the linked container.
const LINKED_URL: &str = "http://store:8080/";

/// `web`, and containers that refer to its id. They have no label of imagewatch, and no manifest watches their image.
struct Group {
    stage: Stage,
    /// Each container by role before the update.
    before: BTreeMap<&'static str, ContainerNow>,
}

impl Group {
    /// Starts the group. `linked` gets the given health check, if there is one.
    async fn start(linked_health: Option<HealthConfig>) -> Self {
        let stage = Stage::new().await;
        stage.push_image("web", &web(&stage, "v1", true)).await;
        stage.push("tool", "t1").await;
        let name = |role: &str| stage.scope.name(role);
        let volumes = vec![format!("{}:/data", name("data"))];
        stage.run_as("web", RunSpec { image: stage.image("web"), volumes, ..RunSpec::default() }).await;
        stage.scope.exec(&name("web"), &["sh", "-c", "echo kept > /data/note"]).await;
        for spec in dependents(&stage, linked_health) {
            stage.scope.run(&spec).await;
        }
        let mut before = BTreeMap::new();
        for role in ["web", "inside", "files", "linked", "further"] {
            before.insert(role, stage.container(role).await.expect("the container was started"));
        }
        Self { stage, before }
    }

    /// The output of `command` in the container of `role`.
    async fn exec(&self, role: &str, command: &[&str]) -> String {
        self.stage.scope.exec(&self.stage.scope.name(role), command).await
    }

    /// Panics unless each container reaches the service that it needs, at version `version`.
    async fn assert_reachable(&self, version: &str) {
        let version = self.stage.scope.name(version);
        assert_eq!(self.exec("inside", &["wget", "-q", "-O", "-", URL]).await, version, "in the network of web");
        assert_eq!(self.exec("linked", &["wget", "-q", "-O", "-", LINKED_URL]).await, version, "by its legacy link");
        assert_eq!(self.exec("files", &["cat", "/data/note"]).await, "kept\n", "with the volumes of web");
        let namespace = |role: &'static str| self.exec(role, &["readlink", "/proc/self/ns/pid"]);
        assert_eq!(namespace("inside").await, namespace("further").await, "with the processes of inside");
    }

    /// The containers now. Panics if another container exists.
    async fn now(&self) -> BTreeMap<&'static str, ContainerNow> {
        let mut now = BTreeMap::new();
        for role in self.before.keys() {
            now.insert(*role, self.stage.container(role).await.expect("the container has its name"));
        }
        let mut names: Vec<_> = self.before.keys().map(|role| self.stage.scope.name(role)).collect();
        names.sort();
        assert_eq!(self.stage.containers().await, names, "no other container remains");
        assert!(now.values().all(|container| container.is_running), "{now:#?}");
        now
    }
}

/// The containers that refer to the id of `web`, directly or through another container.
fn dependents(stage: &Stage, linked_health: Option<HealthConfig>) -> Vec<RunSpec> {
    let name = |role: &str| stage.scope.name(role);
    let inside = RunSpec { network: Some(format!("container:{}", name("web"))), ..RunSpec::default() };
    let files = HostConfig { volumes_from: Some(vec![name("web")]), ..HostConfig::default() };
    let linked = HostConfig { links: Some(vec![format!("{}:store", name("web"))]), ..HostConfig::default() };
    let further = HostConfig { pid_mode: Some(format!("container:{}", name("inside"))), ..HostConfig::default() };
    let specs = [
        ("inside", inside),
        ("files", RunSpec { host: files, ..RunSpec::default() }),
        ("linked", RunSpec { host: linked, health: linked_health, ..RunSpec::default() }),
        ("further", RunSpec { host: further, ..RunSpec::default() }),
    ];
    let complete = |(role, spec): (&str, RunSpec)| RunSpec { name: name(role), image: stage.image("tool"), ..spec };
    specs.into_iter().map(complete).collect()
}

/// A web server. The dependents' health check requests its feature.
fn web(stage: &Stage, version: &str, has_feature: bool) -> ImageSpec {
    let mut spec = ImageSpec::web(&stage.scope.name(version));
    if has_feature {
        spec.files.insert("www/feature".to_owned(), "yes".to_owned());
    }
    spec
}

#[tokio::test(flavor = "multi_thread")]
async fn t17_t18_t19_dependents_are_recreated_in_order() {
    let group = Group::start(None).await;
    let stage = &group.stage;
    group.assert_reachable("v1").await;
    let manifest = stage.write(&stage.manifest().config("images", &stage.image("web")), "one");
    let (host, envs) = (stage.scope.engine().host(), [(STATE_DIR, stage.state_dir())]);
    let daemon = watch_with(host, &[manifest], &envs);
    daemon.wait_for_line("first seen").await;
    let v2 = stage.push_image("web", &web(stage, "v2", true)).await;
    daemon.process.wait_for_line("recreated", LONG_TIMEOUT).await;

    stage.wait_until_on("web", &v2, SHORT_TIMEOUT).await;
    let now = group.now().await;
    for (role, container) in &now {
        assert_ne!(container.id, group.before[role].id, "{role}");
    }
    group.assert_reachable("v2").await;
    for (first, then) in [("web", "inside"), ("web", "files"), ("web", "linked"), ("inside", "further")] {
        assert!(now[first].started_at < now[then].started_at, "{first} before {then}: {now:#?}");
    }

    // T19: then `linked` itself is refreshed, while another program watches `web`.
    let t2 = stage.push("tool", "t2").await;
    let of_linked = stage.manifest().config("images", &stage.image("tool"));
    let of_linked = of_linked.config("grant.containers", &format!("name:{}", stage.scope.name("linked")));
    let of_linked = stage.write(&of_linked, "linked");
    let args = ["refresh", "--manifest", of_linked.to_str().expect("the path is UTF-8")];
    let (code, output) = run_to_end(host, &args, &envs).await;
    assert_eq!(code, 0, "{output}");
    let linked = stage.wait_until_on("linked", &t2, SHORT_TIMEOUT).await;
    assert_ne!(linked.id, now["linked"].id);
    group.assert_reachable("v2").await;
    assert_eq!(group.now().await["web"].id, now["web"].id, "web does not depend on linked");
}

#[tokio::test(flavor = "multi_thread")]
async fn t20_a_failing_dependent_rolls_back_the_whole_group() {
    let health = HealthConfig {
        test: Some(vec!["CMD-SHELL".to_owned(), format!("wget -q -O /dev/null {LINKED_URL}feature")]),
        interval: Some(1_000_000_000),
        retries: Some(1),
        ..HealthConfig::default()
    };
    let group = Group::start(Some(health)).await;
    let stage = &group.stage;
    let manifest = stage.manifest().config("images", &stage.image("web"));
    let daemon = stage.watch(&[stage.write(&manifest, "one")]);
    daemon.wait_for_line("first seen").await;
    stage.push_image("web", &web(stage, "v2", false)).await;
    let line = daemon.process.wait_for_line("is quarantined", LONG_TIMEOUT).await;
    let linked = stage.scope.name("linked");
    assert!(line.contains(&format!("the new container of {linked} did not pass: it is unhealthy")), "{line}");
    assert!(line.contains("runs again as before"), "{line}");

    for (role, container) in group.now().await {
        let before = &group.before[role];
        assert_eq!((&container.id, &container.image_id), (&before.id, &before.image_id), "{role}");
        assert!(container.started_at > before.started_at, "{role} was stopped and started again");
    }
    group.assert_reachable("v1").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn dependents_by_label_are_restarted_and_not_recreated() {
    let stage = Stage::new().await;
    stage.push("web", "v1").await;
    stage.push("tool", "t1").await;
    let project = ("com.docker.compose.project", "shop");
    let image = stage.image("web");
    let web = labels(&[project, ("com.docker.compose.service", "web")]);
    stage.run_as("web", RunSpec { image, labels: web, ..RunSpec::default() }).await;
    let name = stage.scope.name("web");
    for (role, own) in [
        ("named", labels(&[("imagewatch.depends-on", name.as_str())])),
        ("composed", labels(&[project, ("com.docker.compose.depends_on", "db:x:false,web:service_started:true")])),
        ("unmoved", labels(&[project, ("com.docker.compose.depends_on", "web:service_started:false")])),
        ("elsewhere", labels(&[("com.docker.compose.depends_on", "web:service_started:true")])),
    ] {
        let spec = RunSpec { name: stage.scope.name(role), image: stage.image("tool"), ..RunSpec::default() };
        stage.scope.run(&RunSpec { labels: own, ..spec }).await;
    }
    let look = async |role: &str| stage.container(role).await.expect("the container exists");
    let mut before = BTreeMap::new();
    for role in ["named", "composed", "unmoved", "elsewhere"] {
        before.insert(role, look(role).await);
    }

    let daemon = stage.watch(&[stage.write(&stage.manifest().config("images", &stage.image("web")), "one")]);
    daemon.wait_for_line("first seen").await;
    let v2 = stage.push("web", "v2").await;
    daemon.process.wait_for_line(&format!("recreated {name}"), LONG_TIMEOUT).await;
    let web = stage.wait_until_on("web", &v2, SHORT_TIMEOUT).await;
    for (role, is_restarted) in [("named", true), ("composed", true), ("unmoved", false), ("elsewhere", false)] {
        let (now, before) = (look(role).await, &before[role]);
        assert_eq!((&now.id, now.is_running), (&before.id, true), "{role}");
        assert_eq!(now.started_at > web.started_at, is_restarted, "{role}: {now:?} after {web:?}");
        assert_eq!(now.started_at != before.started_at, is_restarted, "{role}");
        assert_eq!(now.restart_policy, before.restart_policy, "{role}");
    }
}

//! Who needs whom: which containers must be made again or restarted together with one, and in which order.
//! Pure; reads inspections.

use serde_json::Value;

use super::ending::volume_sources;
use super::labels::{COMPOSE_PROJECT, COMPOSE_SERVICE, DEPENDS_ON, Labels};

const COMPOSE_DEPENDS_ON: &str = "com.docker.compose.depends_on";

/// The containers that go with one that is made again; each comes after those that it needs.
#[derive(Debug, Default, PartialEq)]
pub struct Dependents {
    /// The one that they go with.
    pub root: Value,
    /// They refer to its id, in their network, process or IPC namespace, their volumes or their links, so
    /// they are made again as well.
    pub recreate: Vec<Value>,
    /// They asked to be restarted with it.
    pub restart: Vec<Value>,
}

impl Dependents {
    /// All of its containers, the root first.
    pub fn containers(&self) -> impl Iterator<Item = &Value> {
        std::iter::once(&self.root).chain(&self.recreate).chain(&self.restart)
    }

    /// Whether `container` is one of them.
    pub fn has(&self, container: &Value) -> bool {
        self.containers().any(|other| other["Id"] == container["Id"])
    }
}

/// How one container needs another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Dependency {
    /// It refers to the other's id.
    SharesNamespace,
    /// It wants to be restarted when the other is.
    RestartsWith,
}

/// Finds the group of `root` among `all` containers.
pub fn dependents_of(root: &Value, all: &[Value]) -> Dependents {
    let recreate = transitive(std::slice::from_ref(root), all, |need| need == Dependency::SharesNamespace);
    let with_root: Vec<Value> = [root.clone()].into_iter().chain(recreate.iter().cloned()).collect();
    let others: Vec<Value> = all.iter().filter(|c| !has(&with_root, c)).cloned().collect();
    // One that is merely restarted takes its namespaces down too, so whoever shares them is restarted after it.
    let mut restart = transitive(&with_root, &others, |_| true);
    restart.retain(|container| container["State"]["Running"] == true);
    Dependents { root: root.clone(), recreate, restart }
}

/// Everything in `all` that needs one of `from`, directly or through others, in an order in which each comes
/// after those that it needs. Needs in a circle are followed once.
fn transitive(from: &[Value], all: &[Value], counts: impl Fn(Dependency) -> bool) -> Vec<Value> {
    let is_needed_by = |needed: &Value, by: &Value| need(by, needed).is_some_and(&counts);
    let mut found: Vec<Value> = Vec::new();
    let mut next = 0;
    loop {
        let needed = match from.get(next) {
            Some(needed) => Some(needed.clone()),
            None => found.get(next - from.len()).cloned(),
        };
        let Some(needed) = needed else { break };
        for container in all {
            if !has(from, container) && !has(&found, container) && is_needed_by(&needed, container) {
                found.push(container.clone());
            }
        }
        next += 1;
    }
    let mut ordered: Vec<Value> = Vec::new();
    while !found.is_empty() {
        let is_free = |c: &Value| !found.iter().any(|other| other["Id"] != c["Id"] && is_needed_by(other, c));
        let position = found.iter().position(is_free).unwrap_or(0);
        ordered.push(found.remove(position));
    }
    ordered
}

fn has(containers: &[Value], container: &Value) -> bool {
    containers.iter().any(|other| other["Id"] == container["Id"])
}

/// How `container` needs `other`.
fn need(container: &Value, other: &Value) -> Option<Dependency> {
    if container["Id"] == other["Id"] {
        return None;
    }
    let host = &container["HostConfig"];
    let namespaces = ["NetworkMode", "PidMode", "IpcMode"].iter().filter_map(|mode| host[*mode].as_str());
    let parents = namespaces.filter_map(|mode| mode.strip_prefix("container:"));
    // `/target:/me/alias`
    let links = texts(&host["Links"]).map(|link| link.split(':').next().unwrap_or(link));
    if parents.chain(volume_sources(container)).chain(links).any(|reference| is_named(other, reference)) {
        return Some(Dependency::SharesNamespace);
    }
    let labels = Labels::of(container);
    if labels.list(DEPENDS_ON).any(|name| is_named(other, name)) || restarts_with(labels, Labels::of(other)) {
        return Some(Dependency::RestartsWith);
    }
    None
}

/// Whether `container` wants `other` to be updated before it, where both are.
pub fn asks_for_order(container: &Value, other: &Value) -> bool {
    let (labels, others) = (Labels::of(container), Labels::of(other));
    labels.list(DEPENDS_ON).any(|name| is_named(other, name)) || compose_dependency(labels, others).is_some()
}

fn restarts_with(labels: Labels<'_>, other: Labels<'_>) -> bool {
    compose_dependency(labels, other) == Some("true")
}

/// What compose wrote of a dependency on `other`: whether to restart with it. Its label has
/// `service:condition:restart`, apart by commas.
fn compose_dependency<'a>(labels: Labels<'a>, other: Labels<'_>) -> Option<&'a str> {
    let project = labels.value(COMPOSE_PROJECT)?;
    let service = other.value(COMPOSE_SERVICE).filter(|_| other.value(COMPOSE_PROJECT) == Some(project))?;
    let entries = labels.value(COMPOSE_DEPENDS_ON)?.split(',').map(|entry| entry.split(':'));
    entries
        .filter_map(|mut states| Some((states.next()?, states.nth(1))))
        .find(|(name, _)| *name == service)?
        .1
        .or(Some(""))
}

fn texts(list: &Value) -> impl Iterator<Item = &str> {
    list.as_array().into_iter().flatten().filter_map(Value::as_str)
}

/// Whether `reference` is the container's id, the beginning of it, or its name.
fn is_named(container: &Value, reference: &str) -> bool {
    let id = container["Id"].as_str().unwrap_or_default();
    let name = container["Name"].as_str().unwrap_or_default().trim_start_matches('/');
    let reference = reference.trim_start_matches('/');
    reference == name || (reference.len() >= 12 && id.starts_with(reference)) || reference == id
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[expect(clippy::needless_pass_by_value, reason = "written in place by each test")]
    fn container(name: &str, host: Value, labels: Value) -> Value {
        json!({
            "Id": format!("{name}-0123456789abcdef"), "Name": format!("/{name}"), "HostConfig": host,
            "Config": { "Labels": labels }, "State": { "Running": true },
        })
    }

    fn names(containers: &[Value]) -> Vec<&str> {
        containers.iter().filter_map(|c| c["Name"].as_str()).map(|name| name.trim_start_matches('/')).collect()
    }

    #[test]
    fn t17_whoever_refers_to_an_id_is_made_again_and_whoever_asks_is_restarted() {
        let id = "a-0123456789abcdef";
        let project = |extra: Value| {
            let mut labels = json!({ COMPOSE_PROJECT: "p" });
            for (key, value) in extra.as_object().into_iter().flatten() {
                labels[key] = value.clone();
            }
            labels
        };
        for (case, host, labels, recreated, restarted) in [
            ("network", json!({ "NetworkMode": format!("container:{id}") }), json!({}), true, false),
            ("network by name", json!({ "NetworkMode": "container:a" }), json!({}), true, false),
            ("pid", json!({ "PidMode": format!("container:{id}") }), json!({}), true, false),
            ("ipc", json!({ "IpcMode": format!("container:{id}") }), json!({}), true, false),
            ("volumes", json!({ "VolumesFrom": ["a:ro"] }), json!({}), true, false),
            ("volumes by short id", json!({ "VolumesFrom": [&id[..12]] }), json!({}), true, false),
            ("legacy link", json!({ "Links": ["/a:/b/database"] }), json!({}), true, false),
            ("our label", json!({}), json!({ DEPENDS_ON: "x, a" }), false, true),
            (
                "compose, restart",
                json!({}),
                project(json!({ COMPOSE_DEPENDS_ON: "x:service_started:false,a:service_healthy:true" })),
                false,
                true,
            ),
            (
                "compose, order only",
                json!({}),
                project(json!({ COMPOSE_DEPENDS_ON: "a:service_healthy:false" })),
                false,
                false,
            ),
            (
                "another project",
                json!({}),
                json!({ COMPOSE_PROJECT: "q", COMPOSE_DEPENDS_ON: "a:service_healthy:true" }),
                false,
                false,
            ),
            ("a name that begins so", json!({ "NetworkMode": "container:ab" }), json!({}), false, false),
            ("nothing", json!({ "NetworkMode": "bridge" }), json!({}), false, false),
        ] {
            let a = container("a", json!({}), project(json!({ COMPOSE_SERVICE: "a" })));
            let b = container("b", host, labels);
            let group = dependents_of(&a, &[a.clone(), b]);
            assert_eq!(
                (names(&group.recreate).len(), names(&group.restart).len()),
                (usize::from(recreated), usize::from(restarted)),
                "{case}"
            );
        }
    }

    #[test]
    fn a_chain_is_followed_and_each_comes_after_what_it_needs() {
        let on = |parent: &str| json!({ "NetworkMode": format!("container:{parent}") });
        let a = container("a", json!({}), json!({}));
        let all = [
            container("d", json!({ "VolumesFrom": ["b", "c"] }), json!({})),
            container("c", on("b"), json!({})),
            container("b", on("a"), json!({})),
            container("r", json!({}), json!({ DEPENDS_ON: "c" })),
            container("s", on("r"), json!({})),
            a.clone(),
        ];
        let group = dependents_of(&a, &all);
        assert_eq!(names(&group.recreate), ["b", "c", "d"]);
        assert_eq!(names(&group.restart), ["r", "s"], "a shared namespace goes down with a restart too");
    }

    #[test]
    fn needs_in_a_circle_come_to_an_end() {
        let a = container("a", json!({}), json!({ DEPENDS_ON: "b" }));
        let b = container("b", json!({}), json!({ DEPENDS_ON: "c" }));
        let c = container("c", json!({}), json!({ DEPENDS_ON: "a,b" }));
        let group = dependents_of(&a, &[a.clone(), b, c]);
        let mut restarted = names(&group.restart);
        restarted.sort_unstable();
        assert_eq!(restarted, ["b", "c"]);
    }

    #[test]
    fn what_rests_is_not_started() {
        let a = container("a", json!({}), json!({}));
        let mut b = container("b", json!({}), json!({ DEPENDS_ON: "a" }));
        b["State"]["Running"] = json!(false);
        let alone = Dependents { root: a.clone(), ..Dependents::default() };
        assert_eq!(dependents_of(&a, &[a.clone(), b]), alone);
    }
}

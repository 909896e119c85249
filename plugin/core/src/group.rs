//! Groups containers that are updated one at a time: the containers of one service. This module uses labels, references
//! and volumes. It makes no requests and places no orders.
//!
//! Containers belong to one service in three cases: they have the same compose project and service; they share a
//! repository and a volume that both can write to; or they have no compose labels and follow the same reference. The
//! relation is transitive: if A belongs with B, and B with C, all three are one group.

use std::collections::BTreeMap;

use imagewatch_abi::{Container, Reference};

const COMPOSE_PROJECT: &str = "com.docker.compose.project";
const COMPOSE_SERVICE: &str = "com.docker.compose.service";

/// Returns the group of each container, by the container's name. The name of a group depends only on its own
/// containers.
pub(crate) fn find_groups(containers: &[&Container]) -> BTreeMap<String, String> {
    let mut groups: BTreeMap<String, String> = BTreeMap::new();
    let mut owners: BTreeMap<String, String> = BTreeMap::new();
    for container in containers {
        let service = service_of(container);
        let own = groups.entry(container.name.clone()).or_insert_with(|| service.clone()).clone();
        for key in shared_keys(container, service) {
            let other = owners.entry(key).or_insert_with(|| own.clone()).clone();
            join(&mut groups, &mut owners, &container.name, &other);
        }
    }
    groups
}

/// Merges the group of container `name` with the group `other`, under the name that sorts first.
fn join(groups: &mut BTreeMap<String, String>, owners: &mut BTreeMap<String, String>, name: &str, other: &str) {
    let Some(own) = groups.get(name).cloned().filter(|own| own != other) else { return };
    let (first, second) = if own.as_str() < other { (own.as_str(), other) } else { (other, own.as_str()) };
    for group in groups.values_mut().chain(owners.values_mut()).filter(|group| *group == second) {
        first.clone_into(group);
    }
}

/// The properties that `container` shares with other containers of the same group.
fn shared_keys(container: &Container, service: String) -> Vec<String> {
    let repository = follows(container).map(|reference| reference.name());
    let volumes = container.writable_mounts.iter();
    let shared = volumes.filter_map(|volume| Some(format!("{} on {volume}", repository.as_ref()?)));
    [service].into_iter().chain(shared).collect()
}

/// The compose service of `container`. Without compose labels, the reference that it follows.
fn service_of(container: &Container) -> String {
    let label = |key: &str| container.labels.get(key).filter(|value| !value.is_empty());
    match (label(COMPOSE_PROJECT), label(COMPOSE_SERVICE)) {
        (Some(project), Some(service)) => format!("compose service {project}/{service}"),
        _ => match follows(container) {
            Some(reference) => format!("containers of {reference}"),
            None => format!("container {}", container.name),
        },
    }
}

fn follows(container: &Container) -> Option<Reference> {
    container.image.parse().ok().map(Reference::with_explicit_tag)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::any_test;

    /// `name image project/service volumes`. `-` stands for an absent value.
    fn container(line: &str) -> Container {
        let words: Vec<&str> = line.split(' ').collect();
        let labels = words[2].split_once('/').map(|(project, service)| {
            [(COMPOSE_PROJECT, project), (COMPOSE_SERVICE, service)]
                .map(|(key, value)| (key.to_owned(), value.to_owned()))
        });
        Container {
            name: words[0].to_owned(),
            image: words[1].to_owned(),
            labels: labels.into_iter().flatten().collect(),
            writable_mounts: words[3..].iter().filter(|word| **word != "-").map(|word| (*word).to_owned()).collect(),
            ..Container::default()
        }
    }

    #[any_test]
    fn f18_f36_only_containers_of_one_service_form_a_group() {
        for (case, lines, expected) in [
            ("replicas of a compose service", vec!["a r/web shop/web -", "b r/web shop/web -"], vec!["a b"]),
            ("two services of a project", vec!["a r/web shop/web -", "b r/web shop/api -"], vec!["a", "b"]),
            ("the same service of two projects", vec!["a r/web one/web -", "b r/web two/web -"], vec!["a", "b"]),
            ("two services on one volume", vec!["a r/cloud c/app data", "b r/cloud c/cron data"], vec!["a b"]),
            (
                "two tags of an image on one volume",
                vec!["a r/cloud:1 c/app data", "b r/cloud:2 c/cron data"],
                vec!["a b"],
            ),
            ("two images on one volume", vec!["a r/cloud c/app data", "b r/backup c/backup data"], vec!["a", "b"]),
            ("no compose, one reference", vec!["a r/web - -", "b r/web:latest - -"], vec!["a b"]),
            ("no compose, two tags", vec!["a r/web:1 - -", "b r/web:2 - -"], vec!["a", "b"]),
            ("with and without compose", vec!["a r/web shop/web -", "b r/web - -"], vec!["a", "b"]),
            ("with and without compose, on one volume", vec!["a r/web shop/web data", "b r/web - data"], vec!["a b"]),
            (
                "connected through a third container",
                vec!["a r/web shop/web x", "b r/web shop/api y", "c r/web shop/cron x y", "d r/web shop/cron -"],
                vec!["a b c d"],
            ),
            ("an image with an invalid reference", vec!["a R!! - -", "b R!! - -"], vec!["a", "b"]),
        ] {
            let containers: Vec<Container> = lines.iter().map(|line| container(line)).collect();
            for order in [containers.iter().collect::<Vec<_>>(), containers.iter().rev().collect()] {
                let mut members: BTreeMap<String, Vec<String>> = BTreeMap::new();
                for (name, group) in find_groups(&order) {
                    members.entry(group).or_default().push(name);
                }
                let mut found: Vec<String> = members.into_values().map(|names| names.join(" ")).collect();
                found.sort();
                assert_eq!(found, expected, "{case}");
            }
        }
    }
}

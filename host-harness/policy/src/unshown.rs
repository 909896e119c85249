//! Explains to the operator why a policy does not see a container. The policy cannot explain it, so the host does.

use globset::Glob;
use imagewatch_abi::{Container, Reference, label};

use super::Grants;
use super::grants::{CONTAINERS_KEY, IMAGES_KEY};

impl Grants {
    /// Returns why the policy does not see `container`, as a lowercase fragment that says what to write. `None` if the
    /// policy sees it.
    pub fn reason_against(&self, container: &Container) -> Option<String> {
        if self.shows(container) {
            return None;
        }
        if !self.has_container(container) {
            let labels = container.labels.iter().map(|(name, value)| (name.as_str(), value.as_str()));
            let not_granted = || format!("config key `{CONTAINERS_KEY}` does not grant it");
            // For example, a misspelled label that was meant to grant it.
            return Some(label::check(labels).err().unwrap_or_else(not_granted));
        }
        let reference = container.image.parse::<Reference>().ok()?.with_explicit_tag();
        Some(match self.images.iter().find_map(|pattern| in_full(pattern, &reference).map(|full| (pattern, full))) {
            Some((pattern, full)) => {
                format!("{pattern:?} in config key `{IMAGES_KEY}` is a short form, which grants nothing; write {full}")
            }
            None => format!("config key `{IMAGES_KEY}` does not grant its image {reference}"),
        })
    }
}

/// Returns the full form of `pattern` if it seems meant to grant `reference`, but lacks the registry, `library/` or the
/// tag.
fn in_full(pattern: &str, reference: &Reference) -> Option<String> {
    let name = reference.name();
    let on_hub = name.strip_prefix("docker.io/");
    let official = on_hub.and_then(|rest| rest.strip_prefix("library/"));
    let hub = |rest: &str| [rest.to_owned(), format!("docker.io/{rest}"), format!("index.docker.io/{rest}")];
    let short = [Some(&*name), on_hub, official].into_iter().flatten().flat_map(hub);
    let glob = Glob::new(pattern).ok()?.compile_matcher();
    let with_tag = |name: &String| format!("{name}:{}", reference.tag_or_latest());
    let is_meant = short.into_iter().any(|short| glob.is_match(with_tag(&short)) || glob.is_match(&short));
    let tag = pattern.rsplit_once(':').map_or("*", |(_, tag)| tag);
    // The text after the colon of a port is not a tag.
    let tag = if tag.contains('/') { "*" } else { tag };
    is_meant.then(|| format!("{name}:{tag}"))
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::super::settings::default_of;
    use super::*;

    const ID: &str = "sha256:0d07a439861c550d07a439861c550d07a439861c550d07a439861c550d07a439";

    fn reason(images: &str, containers: &str, image: &str, labels: &[(&str, &str)]) -> Option<String> {
        let grants = Grants::parse(&[], &|key| match key {
            IMAGES_KEY => images,
            CONTAINERS_KEY => containers,
            _ => default_of(key),
        });
        let labels = labels.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        let container = Container { name: "web".to_owned(), image: image.to_owned(), labels, ..Container::default() };
        grants.expect("good grants").reason_against(&container)
    }

    #[rstest]
    #[case::official("nginx", "nginx", "docker.io/library/nginx:*")]
    #[case::official_with_tag("nginx:1.25", "nginx:1.25", "docker.io/library/nginx:1.25")]
    #[case::official_with_any_tag("nginx:*", "nginx:1.25", "docker.io/library/nginx:*")]
    #[case::without_library("docker.io/nginx:*", "nginx:1.25", "docker.io/library/nginx:*")]
    #[case::with_library("library/nginx", "nginx", "docker.io/library/nginx:*")]
    #[case::index("index.docker.io/library/nginx", "nginx", "docker.io/library/nginx:*")]
    #[case::on_hub("grafana/grafana", "grafana/grafana:11", "docker.io/grafana/grafana:*")]
    #[case::without_tag("ghcr.io/o/app", "ghcr.io/o/app:v1", "ghcr.io/o/app:*")]
    #[case::with_port("r.lan:5000/app", "r.lan:5000/app:v1", "r.lan:5000/app:*")]
    #[case::second_pattern("ghcr.io/* redis", "redis:7", "docker.io/library/redis:*")]
    fn the_reason_for_a_short_form_suggests_the_full_form(
        #[case] images: &str,
        #[case] image: &str,
        #[case] write: &str,
    ) {
        let reason = reason(images, "*", image, &[]).expect("it is not granted");
        assert!(reason.ends_with(&format!("a short form, which grants nothing; write {write}")), "{reason}");
        // The suggested pattern grants the image.
        assert_eq!(self::reason(write, "*", image, &[]), None);
    }

    #[test]
    fn the_reason_against_a_container_names_the_key() {
        for (case, images, containers, image, labels, says) in [
            (
                "no image",
                "",
                "*",
                "nginx",
                [("a", "b")],
                Some("`grant.images` does not grant its image docker.io/library/nginx:latest"),
            ),
            ("another image", "redis", "*", "nginx", [("a", "b")], Some("`grant.images` does not grant")),
            ("another tag", "nginx:1.24", "*", "nginx:1.25", [("a", "b")], Some("`grant.images` does not grant")),
            ("no container", "*", "", "nginx", [("a", "b")], Some("`grant.containers` does not grant it")),
            ("another name", "*", "name:db", "nginx", [("a", "b")], Some("`grant.containers` does not grant it")),
            (
                "a misspelt label",
                "*",
                "label:imagewatch.enable=true",
                "nginx",
                [("imagewatch.enabled", "true")],
                Some("nearest known label is imagewatch.enable"),
            ),
            ("granted", "*", "*", "nginx", [("a", "b")], None),
            ("an image id", "nginx", "*", ID, [("a", "b")], None),
        ] {
            let reason = reason(images, containers, image, &labels);
            assert_eq!(reason.is_some(), says.is_some(), "{case}: {reason:?}");
            assert!(reason.clone().unwrap_or_default().contains(says.unwrap_or_default()), "{case}: {reason:?}");
        }
    }
}

//! What the operator lets a policy touch: images and containers, as patterns in the manifest's
//! config. Whatever the guest says, the host asks here. Hosts are granted in `http::egress`.

use globset::{GlobBuilder, GlobSet, GlobSetBuilder};
use imagewatch_abi::{Container, Reference};

/// Config key of the image patterns.
pub(super) const IMAGES_KEY: &str = "grant.images";

/// Config key of the container patterns.
pub(super) const CONTAINERS_KEY: &str = "grant.containers";

/// A manifest's grants. Nothing is granted that no pattern matches.
#[derive(Debug)]
pub struct Grants {
    images: GlobSet,
    names: GlobSet,
    labels: Vec<(String, String)>,
}

impl Grants {
    /// Reads both keys: `images` are globs over `registry/repository:tag` as Docker writes it in
    /// full (`docker.io/library/nginx:latest`); `containers` are `*`, `name:<glob>` or `label:<key>=<value>`.
    ///
    /// # Errors
    /// The key at fault and what is wrong with its value.
    pub fn parse(images: &str, containers: &str) -> Result<Self, (&'static str, String)> {
        let mut names = Vec::new();
        let mut labels = Vec::new();
        for entry in entries(containers) {
            if entry == "*" {
                names.push("*");
            } else if let Some(name) = entry.strip_prefix("name:") {
                names.push(name);
            } else if let Some((key, value)) = entry.strip_prefix("label:").and_then(|label| label.split_once('=')) {
                labels.push((key.to_owned(), value.to_owned()));
            } else {
                let message = format!("{entry:?} is neither `*`, `name:<pattern>` nor `label:<key>=<value>`");
                return Err((CONTAINERS_KEY, message));
            }
        }
        Ok(Self {
            // A prefix that ends in a slash leaves two.
            images: globs(entries(&images.replace("//", "/"))).map_err(|error| (IMAGES_KEY, error))?,
            names: globs(names.into_iter()).map_err(|error| (CONTAINERS_KEY, error))?,
            labels,
        })
    }

    /// Whether the policy may have `reference` pulled.
    pub fn has_image(&self, reference: &Reference) -> bool {
        self.images.is_match(reference.clone().with_explicit_tag().to_string())
    }

    /// Whether the policy may see and have handled `container`, whatever its image.
    pub fn has_container(&self, container: &Container) -> bool {
        self.names.is_match(&container.name)
            || self.labels.iter().any(|(key, value)| container.labels.get(key) == Some(value))
    }

    /// Whether `container` is granted and runs a granted image. Those whose image is no reference
    /// are shown, so that a policy can say why it does not watch them; they can never be ordered.
    pub fn shows(&self, container: &Container) -> bool {
        self.has_container(container)
            && container.image.parse::<Reference>().map_or(true, |reference| self.has_image(&reference))
    }
}

fn entries(text: &str) -> impl Iterator<Item = &str> {
    text.split([',', ' ', '\t', '\n', '\r']).filter(|entry| !entry.is_empty())
}

fn globs<'a>(patterns: impl Iterator<Item = &'a str>) -> Result<GlobSet, String> {
    let mut set = GlobSetBuilder::new();
    for pattern in patterns {
        let glob = GlobBuilder::new(pattern).build().map_err(|error| error.to_string())?;
        set.add(glob);
    }
    set.build().map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use rstest::rstest;

    use super::*;

    fn container(name: &str, image: &str, label: Option<(&str, &str)>) -> Container {
        Container {
            id: "1".to_owned(),
            name: name.to_owned(),
            image: image.to_owned(),
            image_id: String::new(),
            repo_digests: vec![],
            target_digest: None,
            platform: None,
            labels: label.into_iter().map(|(k, v)| (k.to_owned(), v.to_owned())).collect::<BTreeMap<_, _>>(),
            state: "running".to_owned(),
        }
    }

    #[rstest]
    #[case::nothing_granted("", "nginx", false)]
    #[case::all("*", "nginx", true)]
    #[case::normalised("docker.io/library/nginx:*", "nginx", true)]
    #[case::tag_written_out("docker.io/library/nginx:latest", "nginx", true)]
    #[case::prefix("ghcr.io/o/workspace-template-*", "ghcr.io/o/workspace-template-codex:latest", true)]
    #[case::another_org("ghcr.io/o/*", "ghcr.io/p/a", false)]
    #[case::host_that_only_looks_alike("ghcr.io/*", "ghcr.io.evil.com/o/a", false)]
    #[case::second_of_two("a.io/*, b.io/*", "b.io/x", true)]
    fn images_are_granted_by_pattern(#[case] patterns: &str, #[case] image: &str, #[case] granted: bool) {
        let grants = Grants::parse(patterns, "").expect("patterns");
        assert_eq!(grants.has_image(&image.parse().expect("a reference")), granted);
    }

    #[rstest]
    #[case::nothing_granted("", "ws-1", None, false)]
    #[case::all("*", "ws-1", None, true)]
    #[case::name("name:ws-*", "ws-1", None, true)]
    #[case::name_elsewhere("name:ws-*", "my-ws-1", None, false)]
    #[case::label("label:imagewatch.enable=true", "x", Some(("imagewatch.enable", "true")), true)]
    #[case::label_value("label:imagewatch.enable=true", "x", Some(("imagewatch.enable", "false")), false)]
    fn containers_are_granted_by_name_or_label(
        #[case] patterns: &str,
        #[case] name: &str,
        #[case] label: Option<(&str, &str)>,
        #[case] granted: bool,
    ) {
        let grants = Grants::parse("*", patterns).expect("patterns");
        assert_eq!(grants.has_container(&container(name, "nginx", label)), granted);
    }

    #[test]
    fn a_container_on_an_image_that_is_not_granted_is_not_shown() {
        let grants = Grants::parse("ghcr.io/*", "*").expect("patterns");
        assert!(grants.shows(&container("a", "ghcr.io/o/a:v1", None)));
        assert!(!grants.shows(&container("a", "nginx", None)));
        assert!(grants.shows(&container("a", &format!("sha256:{}", "0".repeat(64)), None)));
    }

    #[rstest]
    #[case::container("", "web", CONTAINERS_KEY)]
    #[case::label_without_value("", "label:x", CONTAINERS_KEY)]
    #[case::glob("[", "", IMAGES_KEY)]
    fn malformed_patterns_name_their_key(#[case] images: &str, #[case] containers: &str, #[case] key: &str) {
        assert_eq!(Grants::parse(images, containers).expect_err("malformed").0, key);
    }
}

//! What a manifest grants to its policy: host functions, strategies, images, containers and hosts.
//!
//! A policy gets only what the manifest grants and its module requests. The host checks every request of a policy here.
//! Only the hosts of HTTP requests are checked by the egress rules of `imagewatch-registry`.

use globset::{Glob, GlobBuilder, GlobSet, GlobSetBuilder};
use imagewatch_abi::label::means_same;
use imagewatch_abi::{Container, Reference, Strategy, host_functions};
use serde::Deserialize;
use serde::de::IntoDeserializer;
use serde::de::value::StrDeserializer;

use super::capabilities::{Capabilities, Need};
use super::settings::default_of;
use imagewatch_base::hosts::AllowedHosts;

/// Config key of the image patterns.
pub(super) const IMAGES_KEY: &str = "grant.images";

/// Config key of the container patterns.
pub(super) const CONTAINERS_KEY: &str = "grant.containers";

/// Config key of the strategies.
pub(super) const STRATEGIES_KEY: &str = "grant.strategies";

/// Config key of the host functions.
pub(super) const FUNCTIONS_KEY: &str = "grant.functions";

/// The grants of a policy. An image, container or host that no pattern matches is not granted.
#[derive(Debug, Clone)]
pub struct Grants {
    pub(super) hosts: AllowedHosts,
    /// Image patterns, as written in the manifest.
    pub(super) images: Vec<String>,
    /// Container patterns, as written in the manifest.
    pub(super) containers: Vec<String>,
    /// Strategies that the policy may order.
    pub(super) strategies: Vec<Strategy>,
    /// Host functions that the module may import.
    pub(super) functions: Vec<String>,
    /// The patterns of the manifest, then those of the module. An image or container must match all of them.
    patterns: Vec<Patterns>,
}

/// Compiled patterns of images and containers, from the manifest or from the module.
#[derive(Debug, Clone)]
struct Patterns {
    images: GlobSet,
    names: GlobSet,
    labels: Vec<(String, String)>,
}

/// A key and what is wrong with its value.
type BadValue = (&'static str, String);

impl Patterns {
    fn parse(images: &[String], containers: &[String]) -> Result<Self, BadValue> {
        let mut names = Vec::new();
        let mut labels = Vec::new();
        for entry in containers {
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
        let images = globs(images.iter().map(String::as_str)).map_err(|error| (IMAGES_KEY, error))?;
        let names = globs(names.into_iter()).map_err(|error| (CONTAINERS_KEY, error))?;
        Ok(Self { images, names, labels })
    }

    fn has_container(&self, container: &Container) -> bool {
        self.names.is_match(&container.name)
            || self
                .labels
                .iter()
                .any(|(key, value)| container.labels.get(key).is_some_and(|actual| means_same(key, actual, value)))
    }

    fn never_has_name(&self, name: &str) -> bool {
        self.labels.is_empty() && !self.names.is_match(name)
    }
}

impl Grants {
    /// Parses the values of the four `grant.` keys, which `value` returns, and the manifest's `allowed_hosts`.
    ///
    /// - Images are globs over the full `registry/repository:tag` (`docker.io/library/nginx:latest`).
    /// - Containers are `*`, `name:<glob>` or `label:<key>=<value>`.
    /// - Strategies and functions are names.
    ///
    /// # Errors
    /// The key with the invalid value, and what is wrong with it.
    pub fn parse<'a>(allowed_hosts: &[String], value: &impl Fn(&str) -> &'a str) -> Result<Self, BadValue> {
        let functions: Vec<String> = owned(value(FUNCTIONS_KEY));
        if let Some(unknown) = functions.iter().find(|name| !host_functions::ALL.contains(&name.as_str())) {
            let message = format!("{unknown:?} is not one of {}", host_functions::ALL.join(", "));
            return Err((FUNCTIONS_KEY, message));
        }
        let hosts = AllowedHosts::parse(allowed_hosts).map_err(|error| (error.key, error.to_string()))?;
        // A variable that ends in a slash can leave two slashes.
        let (images, containers) = (owned(&value(IMAGES_KEY).replace("//", "/")), owned(value(CONTAINERS_KEY)));
        let patterns = vec![Patterns::parse(&images, &containers)?];
        let strategies = entries(value(STRATEGIES_KEY)).map(parse_strategy).collect::<Result<_, _>>()?;
        Ok(Self { hosts, images, containers, strategies, functions, patterns })
    }

    /// Removes everything that the module does not request in `asked`. A request never extends the grants.
    ///
    /// # Errors
    /// A fragment that names the first invalid entry of `asked`.
    pub fn narrow(mut self, asked: &Capabilities) -> Result<Self, String> {
        if let Need::Only(hosts) = &asked.hosts {
            self.hosts = self.hosts.narrow(hosts)?;
        }
        let list = |need: &Need| match need {
            Need::Any => vec!["*".to_owned()],
            Need::Only(patterns) => patterns.clone(),
        };
        let patterns = Patterns::parse(&list(&asked.images), &list(&asked.containers)).map_err(|(_, reason)| reason)?;
        self.patterns.push(patterns);
        self.strategies.retain(|strategy| asked.strategies.contains(strategy));
        self.functions.retain(|function| asked.functions.contains(function));
        Ok(self)
    }

    /// The hosts that the policy may contact.
    pub fn hosts(&self) -> &AllowedHosts {
        &self.hosts
    }

    /// Whether the policy may order a pull of `reference`.
    pub fn has_image(&self, reference: &Reference) -> bool {
        let full = reference.clone().with_explicit_tag().to_string();
        self.patterns.iter().all(|patterns| patterns.images.is_match(&full))
    }

    /// Whether the policy may order `strategy`.
    pub fn has_strategy(&self, strategy: Strategy) -> bool {
        self.strategies.contains(&strategy)
    }

    /// Whether the policy may see and act on `container`. Does not check the image.
    pub fn has_container(&self, container: &Container) -> bool {
        self.patterns.iter().all(|patterns| patterns.has_container(container))
    }

    /// Whether the policy sees `container`: the container and its image must be granted.
    ///
    /// A granted container is also shown if its image is not a reference (for example, an image id). The policy can
    /// then report why it does not watch the container. An order for such a container is never possible.
    pub fn shows(&self, container: &Container) -> bool {
        self.has_container(container)
            && container.image.parse::<Reference>().map_or(true, |reference| self.has_image(&reference))
    }

    /// Whether no container with the name `name` is granted, for any labels.
    pub fn never_has_name(&self, name: &str) -> bool {
        self.patterns.iter().any(|patterns| patterns.never_has_name(name))
    }
}

/// Whether one of the patterns in `granted` matches every text that the pattern `asked` matches.
///
/// The answer is exact for equal patterns, for `*`, and for an `asked` without wildcards. In all other cases it is
/// `false`.
pub(super) fn is_covered(asked: &str, granted: &[String]) -> bool {
    let is_text = !asked.contains(['*', '?', '[', '{', '\\']);
    granted.iter().any(|pattern| {
        let is_pattern = !pattern.starts_with("label:");
        let matches = || Glob::new(pattern).is_ok_and(|glob| glob.compile_matcher().is_match(asked));
        pattern == "*" || pattern == asked || (is_text && is_pattern && matches())
    })
}

fn parse_strategy(name: &str) -> Result<Strategy, BadValue> {
    let deserializer: StrDeserializer<'_, serde::de::value::Error> = name.into_deserializer();
    Strategy::deserialize(deserializer).map_err(|_| {
        (STRATEGIES_KEY, format!("{name:?} is not one of {}", default_of(STRATEGIES_KEY).replace(' ', ", ")))
    })
}

fn entries(text: &str) -> impl Iterator<Item = &str> {
    text.split([',', ' ', '\t', '\n', '\r']).filter(|entry| !entry.is_empty())
}

fn owned(text: &str) -> Vec<String> {
    entries(text).map(str::to_owned).collect()
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

    fn grants(images: &str, containers: &str) -> Result<Grants, BadValue> {
        Grants::parse(&[], &|key| match key {
            IMAGES_KEY => images,
            CONTAINERS_KEY => containers,
            _ => default_of(key),
        })
    }

    fn container(name: &str, image: &str, label: Option<(&str, &str)>) -> Container {
        Container {
            id: "1".to_owned(),
            name: name.to_owned(),
            image: image.to_owned(),
            labels: label.into_iter().map(|(k, v)| (k.to_owned(), v.to_owned())).collect::<BTreeMap<_, _>>(),
            state: "running".to_owned(),
            ..Container::default()
        }
    }

    #[rstest]
    #[case::nothing_granted("", "nginx", false)]
    #[case::all("*", "nginx", true)]
    #[case::normalised("docker.io/library/nginx:*", "nginx", true)]
    #[case::tag_written_out("docker.io/library/nginx:latest", "nginx", true)]
    #[case::prefix("ghcr.io/o/workspace-template-*", "ghcr.io/o/workspace-template-codex:latest", true)]
    #[case::another_org("ghcr.io/o/*", "ghcr.io/p/a", false)]
    #[case::host_with_the_same_prefix("ghcr.io/*", "ghcr.io.evil.com/o/a", false)]
    #[case::second_of_two("a.io/*, b.io/*", "b.io/x", true)]
    fn images_are_granted_by_pattern(#[case] patterns: &str, #[case] image: &str, #[case] granted: bool) {
        let grants = grants(patterns, "").expect("patterns");
        assert_eq!(grants.has_image(&image.parse().expect("a reference")), granted);
    }

    #[rstest]
    #[case::nothing_granted("", "ws-1", None, false)]
    #[case::all("*", "ws-1", None, true)]
    #[case::name("name:ws-*", "ws-1", None, true)]
    #[case::name_elsewhere("name:ws-*", "my-ws-1", None, false)]
    #[case::label("label:imagewatch.enable=true", "x", Some(("imagewatch.enable", "true")), true)]
    #[case::label_value("label:imagewatch.enable=true", "x", Some(("imagewatch.enable", "false")), false)]
    #[case::label_with_equivalent_value("label:imagewatch.enable=true", "x", Some(("imagewatch.enable", "Yes")), true)]
    #[case::label_with_invalid_value("label:imagewatch.enable=true", "x", Some(("imagewatch.enable", "enabled")), false)]
    #[case::foreign_label_compared_exactly("label:com.example=true", "x", Some(("com.example", "True")), false)]
    fn containers_are_granted_by_name_or_label(
        #[case] patterns: &str,
        #[case] name: &str,
        #[case] label: Option<(&str, &str)>,
        #[case] granted: bool,
    ) {
        let grants = grants("*", patterns).expect("patterns");
        assert_eq!(grants.has_container(&container(name, "nginx", label)), granted);
    }

    #[test]
    fn a_container_on_an_image_that_is_not_granted_is_not_shown() {
        let grants = grants("ghcr.io/*", "*").expect("patterns");
        assert!(grants.shows(&container("a", "ghcr.io/o/a:v1", None)));
        assert!(!grants.shows(&container("a", "nginx", None)));
        assert!(grants.shows(&container("a", &format!("sha256:{}", "0".repeat(64)), None)));
    }

    #[rstest]
    #[case::container("", "web", CONTAINERS_KEY)]
    #[case::label_without_value("", "label:x", CONTAINERS_KEY)]
    #[case::glob("[", "", IMAGES_KEY)]
    fn malformed_patterns_name_their_key(#[case] images: &str, #[case] containers: &str, #[case] key: &str) {
        assert_eq!(grants(images, containers).expect_err("malformed").0, key);
    }

    #[rstest]
    #[case::equal("ghcr.io/o/*", "ghcr.io/o/*", true)]
    #[case::text_under_a_pattern("ghcr.io/o/a:v1", "ghcr.io/o/*", true)]
    #[case::all("ghcr.io/*", "*", true)]
    #[case::second("b", "a, b", true)]
    #[case::wider("ghcr.io/*", "ghcr.io/o/*", false)]
    #[case::everything("*", "ghcr.io/*", false)]
    #[case::pattern_under_a_pattern("ghcr.io/o/[ab]", "ghcr.io/o/?ab?", false)]
    #[case::name("name:ws-1", "name:ws-*", true)]
    #[case::labels_have_no_wildcards("label:a=bc", "label:a=b*", false)]
    #[case::nothing("a", "", false)]
    fn is_covered_compares_a_request_with_the_grants(
        #[case] asked: &str,
        #[case] granted: &str,
        #[case] is_within: bool,
    ) {
        assert_eq!(is_covered(asked, &owned(granted)), is_within);
    }

    #[rstest]
    #[case::strategy(STRATEGIES_KEY, "replace, delete")]
    #[case::function(FUNCTIONS_KEY, "http_send, exec")]
    fn errors_about_unknown_names_name_the_key(#[case] key: &str, #[case] value: &str) {
        let parsed = Grants::parse(&[], &|asked| if asked == key { value } else { default_of(asked) });
        let (named, reason) = parsed.expect_err("no such name");
        let unknown = value.rsplit(' ').next().expect("a word");
        assert!(named == key && reason.contains(unknown), "{named}: {reason}");
    }
}

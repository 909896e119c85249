//! What is watched: names from config, or containers found on the engine. Says of a container
//! that cannot be watched why not. Looks up nothing at any registry.

use std::collections::BTreeSet;

use imagewatch_abi::{Container, Containers, Failure, Outcome, Reference, Selector, Strategy, Verdict};

use crate::config::{Config, Watch};
use crate::{Host, gather};

/// The label that opts a container in (`true`) or out (`false`).
const ENABLE_LABEL: &str = "imagewatch.enable";

/// The label that says how a container is handled.
const STRATEGY_LABEL: &str = "imagewatch.strategy";

/// One watched name.
#[derive(Debug, Clone)]
pub(crate) struct Target {
    pub(crate) name: String,
    pub(crate) reference: Reference,
    /// Which containers follow it, among those created from its reference.
    pub(crate) containers: Selector,
    /// As its container's label has it; goes before the manifest's. A label that cannot be read is for the host to refuse.
    pub(crate) strategy: Option<Strategy>,
}

/// All that is to be watched now. Containers that do not run are left alone: nobody runs old code in them.
#[derive(Debug, Default)]
#[expect(clippy::struct_field_names, reason = "the targets of a `Targets` are its targets")]
pub(crate) struct Targets {
    pub(crate) targets: Vec<Target>,
    /// Containers that asked to be watched and cannot be.
    pub(crate) unwatchable: Vec<Outcome>,
    /// Names of containers that would be watched if they ran.
    pub(crate) resting: BTreeSet<String>,
}

impl Targets {
    /// Finds the targets.
    ///
    /// # Errors
    /// When they are containers and the host cannot list them.
    pub(crate) fn find(host: &mut dyn Host, config: &Config) -> Result<Self, Failure> {
        match &config.watch {
            Watch::Listed(listed) => {
                let target = |(name, reference): &(String, Reference)| Target {
                    name: name.clone(),
                    reference: reference.clone(),
                    containers: Selector { name_contains: config.name_contains.clone(), ..Selector::default() },
                    // Many containers may follow it, each with a label of its own.
                    strategy: None,
                };
                Ok(Self { targets: listed.iter().map(target).collect(), ..Self::default() })
            }
            Watch::Containers { all } => {
                let label = (!all).then(|| format!("{ENABLE_LABEL}=true"));
                let Containers { containers } =
                    host.docker_containers(Selector { label, ..Selector::default() }).into_result()?;
                let name_contains = config.name_contains.as_deref().unwrap_or_default();
                let (running, resting): (Vec<_>, Vec<_>) = containers
                    .iter()
                    .filter(|c| has_not_opted_out(c) && c.name.contains(name_contains))
                    .partition(|c| matches!(c.state.as_str(), "running" | "restarting"));
                let resting = gather(resting.into_iter().map(|container| container.name.clone()));
                Ok(Self { resting, ..running.into_iter().collect() })
            }
        }
    }

    /// Only those in `names`.
    ///
    /// # Errors
    /// The first name that is not there.
    pub(crate) fn retain(&mut self, names: &[String]) -> Result<(), String> {
        let is_named = |target: &Target, name: &String| target.name == *name || target.reference.to_string() == *name;
        let is_known = |name: &String| {
            self.targets.iter().any(|target| is_named(target, name))
                || self.unwatchable.iter().any(|o| o.target == *name)
        };
        if let Some(unknown) = names.iter().find(|name| !is_known(name)) {
            return Err(unknown.clone());
        }
        self.targets.retain(|target| names.iter().any(|name| is_named(target, name)));
        self.unwatchable.retain(|outcome| names.contains(&outcome.target));
        Ok(())
    }

    /// Their names, in their order.
    pub(crate) fn names(&self) -> Vec<String> {
        self.targets.iter().map(|target| target.name.clone()).collect()
    }
}

fn has_not_opted_out(container: &Container) -> bool {
    container.labels.get(ENABLE_LABEL).is_none_or(|value| value != "false")
}

impl<'a> FromIterator<&'a Container> for Targets {
    fn from_iter<I: IntoIterator<Item = &'a Container>>(containers: I) -> Self {
        let mut found = Self::default();
        for container in containers {
            match read_reference(container) {
                Ok(reference) => found.targets.push(Target {
                    name: container.name.clone(),
                    reference,
                    containers: Selector { name: Some(container.name.clone()), ..Selector::default() },
                    strategy: read_strategy(container),
                }),
                Err(reason) => found.unwatchable.push(Outcome {
                    reason: Some(reason),
                    container: Some(container.name.clone()),
                    ..Outcome::new(&container.name, Verdict::Unknown)
                }),
            }
        }
        found
    }
}

fn read_strategy(container: &Container) -> Option<Strategy> {
    let label = container.labels.get(STRATEGY_LABEL)?.trim();
    serde_json::from_value(serde_json::Value::from(label)).ok()
}

fn read_reference(container: &Container) -> Result<Reference, String> {
    let reference: Reference = container.image.parse().map_err(|error| format!("{error}"))?;
    if container.repo_digests.is_empty() && reference.digest().is_none() {
        return Err(format!(
            "its image {} came from no registry: it was built or loaded on this machine",
            container.image
        ));
    }
    Ok(reference.with_explicit_tag())
}

//! What is watched: names from config, or containers found on the engine. Says of a container
//! that cannot be watched why not. Looks up nothing at any registry.

use std::cmp::Ordering;
use std::collections::BTreeSet;
use std::rc::Rc;

use imagewatch_abi::label::parse_strategy;
use imagewatch_abi::{Container, Containers, Failure, Outcome, Reference, Selector, Strategy, Verdict};

use crate::config::{Config, Watch};
use crate::running::{reason_against_origin, reference_of};
use crate::update::UpdatePolicy;
use crate::{Host, gather};

/// The label that opts a container in (`true`) or out (`false`).
const ENABLE_LABEL: &str = "imagewatch.enable";
/// Goes before config key `update_policy`.
const UPDATE_POLICY_LABEL: &str = "imagewatch.update-policy";
/// Goes before config key `tag_filter`.
const TAG_FILTER_LABEL: &str = "imagewatch.tag-filter";

/// The label that says how a container is handled.
const STRATEGY_LABEL: &str = "imagewatch.strategy";

/// One watched name.
#[derive(Debug, Clone)]
pub(crate) struct Target {
    pub(crate) name: String,
    /// With the tag that its containers have now: the earliest in use, where it is listed.
    pub(crate) reference: Reference,
    /// With the tag that its containers began on, as far as that is known.
    first: Reference,
    /// Which containers follow it, among those created from its reference.
    pub(crate) containers: Selector,
    /// Which tag it is to follow.
    pub(crate) update: Rc<UpdatePolicy>,
    /// As its container's label has it; goes before the manifest's. A label that cannot be read is for the host to refuse.
    pub(crate) strategy: Option<Strategy>,
    /// Why its container is never updated as it is now.
    pub(crate) blocked: Option<String>,
}

impl Target {
    /// Whether it goes by the tags of its repository.
    pub(crate) fn follows_tags(&self) -> bool {
        self.update.follows_tags() && self.reference.digest().is_none()
    }

    /// Whether containers created from `reference` are its own: it may have brought them there.
    pub(crate) fn has(&self, reference: &Reference) -> bool {
        let is_of_repository = || reference.name() == self.reference.name() && reference.digest().is_none();
        let reaches = || self.update.reaches(self.first.tag_or_latest(), reference.tag_or_latest());
        *reference == self.reference || (self.follows_tags() && is_of_repository() && reaches())
    }

    /// What is known of it is known of these: of its reference, or, when it follows tags, of its repository.
    pub(crate) fn kin(&self) -> String {
        if self.follows_tags() { self.reference.name() } else { self.reference.to_string() }
    }

    /// The same with its present tag, given the references that are in use.
    ///
    /// # Errors
    /// Why its policy cannot go on from the tag that it begins on.
    fn at_present(mut self, in_use: &[Reference]) -> Result<Self, String> {
        if !self.follows_tags() {
            return Ok(self);
        }
        self.update.check_present(self.first.tag_or_latest())?;
        let is_earlier = |one: &Reference, other: &Reference| {
            self.update.compare(one.tag_or_latest(), other.tag_or_latest()) == Some(Ordering::Less)
        };
        let own = in_use.iter().filter(|reference| self.has(reference));
        let earliest = own.reduce(|earliest, other| if is_earlier(other, earliest) { other } else { earliest });
        if let Some(earliest) = earliest.cloned() {
            self.reference = earliest;
        }
        Ok(self)
    }
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
                let containers = Selector { name_contains: config.name_contains.clone(), ..Selector::default() };
                let in_use = if config.update.follows_tags() { in_use(host, &containers)? } else { Vec::new() };
                let mut found = Self::default();
                for (name, reference) in listed {
                    let target = Target {
                        name: name.clone(),
                        reference: reference.clone(),
                        first: reference.clone(),
                        containers: containers.clone(),
                        update: config.update.clone(),
                        // Many containers may follow it, each with a label of its own.
                        strategy: None,
                        blocked: None,
                    };
                    match target.at_present(&in_use) {
                        Ok(target) => found.targets.push(target),
                        Err(reason) => found.unwatchable.push(Outcome {
                            reason: Some(reason),
                            reference: Some(reference.clone()),
                            ..Outcome::new(name, Verdict::Unknown)
                        }),
                    }
                }
                Ok(found)
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
                Ok(Self { resting, ..Self::of_containers(config, &running) })
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

/// The references that containers were created from.
fn in_use(host: &mut dyn Host, containers: &Selector) -> Result<Vec<Reference>, Failure> {
    let listed = host.docker_containers(containers.clone()).into_result()?.containers;
    Ok(listed.iter().filter_map(|container| reference_of(container).ok()).collect())
}

impl Targets {
    fn of_containers(config: &Config, containers: &[&Container]) -> Self {
        let mut found = Self::default();
        for container in containers {
            match read_target(config, container) {
                Ok(target) => found.targets.push(target),
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

fn read_target(config: &Config, container: &Container) -> Result<Target, String> {
    let reference = read_reference(config, container)?;
    let target = Target {
        name: container.name.clone(),
        first: reference.clone(),
        reference,
        containers: Selector { name: Some(container.name.clone()), ..Selector::default() },
        update: read_update_policy(config, container)?,
        strategy: read_strategy(container),
        blocked: reason_against(container),
    };
    target.at_present(&[])
}

fn read_update_policy(config: &Config, container: &Container) -> Result<Rc<UpdatePolicy>, String> {
    let label = |key: &str| container.labels.get(key).map(|value| value.trim()).filter(|value| !value.is_empty());
    let policy = match label(UPDATE_POLICY_LABEL) {
        None => config.update.clone(),
        Some(text) => {
            Rc::new(UpdatePolicy::parse(text).map_err(|why| format!("its label {UPDATE_POLICY_LABEL}: {why}"))?)
        }
    };
    match label(TAG_FILTER_LABEL) {
        None => Ok(policy),
        Some(text) => policy.filtered(text).map(Rc::new).map_err(|why| format!("its label {TAG_FILTER_LABEL}: {why}")),
    }
}

/// How the container is updated, if its label says so.
pub(crate) fn read_strategy(container: &Container) -> Option<Strategy> {
    container.labels.get(STRATEGY_LABEL).and_then(|label| parse_strategy(label))
}

/// Why `container` is never updated as it is now, a lowercase fragment: the host's reason, or a label.
pub(crate) fn reason_against(container: &Container) -> Option<String> {
    container.blocked.clone()
}

fn read_reference(config: &Config, container: &Container) -> Result<Reference, String> {
    let reference = reference_of(container)?;
    match reason_against_origin(config, container).filter(|_| reference.digest().is_none()) {
        Some((_, reason)) => Err(reason.to_owned()),
        None => Ok(reference),
    }
}

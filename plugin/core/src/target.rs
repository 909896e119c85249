//! Determines what is watched: the names in the config, or the containers on the engine. If a container cannot be
//! watched, this module gives the reason. It queries no registry.

use std::cmp::Ordering;
use std::collections::BTreeSet;
use std::rc::Rc;

use imagewatch_abi::label::{self, ENABLE, TAG_FILTER, UPDATE_POLICY, read_yes_no};
use imagewatch_abi::{Container, Containers, Failure, NotWatched, Outcome, Reference, Selector, Strategy, Verdict};

use crate::Host;
use crate::config::{Config, Watch};
use crate::group::find_groups;
use crate::image_match::{Used, reason_against_origin, reference_of, with_references};
use crate::status::{Unwatchable, status_of_unwatchable};
use crate::update::UpdatePolicy;

/// One watched target.
#[derive(Debug, Clone)]
pub(crate) struct Target {
    pub(crate) name: String,
    /// The reference with the tag that its containers have now. For a listed target, this is the earliest tag in use.
    pub(crate) reference: Reference,
    /// The reference with the tag that the target started with.
    first: Reference,
    /// Which of the containers that were created from its reference follow this target.
    pub(crate) containers: Selector,
    /// The platform of its containers, if it is known.
    pub(crate) platform: Option<String>,
    /// The policy that selects the tag to follow.
    pub(crate) update: Rc<UpdatePolicy>,
    /// The strategy from its container's label, which takes precedence over the manifest's strategy. The host refuses a
    /// label that cannot be parsed.
    pub(crate) strategy: Option<Strategy>,
    /// Why its container is never updated with its current settings.
    pub(crate) blocked: Option<String>,
    /// The service of its container. The containers of one service are updated one at a time. `None` for a target from
    /// the config, because its own order handles its containers one at a time.
    pub(crate) group: Option<String>,
}

impl Target {
    /// Whether the target follows the tags of its repository.
    pub(crate) fn follows_tags(&self) -> bool {
        self.update.follows_tags() && self.reference.digest().is_none()
    }

    /// Whether containers created from `reference` belong to this target: an earlier update of the target may have
    /// moved them to that tag.
    pub(crate) fn has(&self, reference: &Reference) -> bool {
        let is_of_repository = || reference.name() == self.reference.name() && reference.digest().is_none();
        let reaches = || self.update.reaches(self.first.tag_or_latest(), reference.tag_or_latest());
        *reference == self.reference || (self.follows_tags() && is_of_repository() && reaches())
    }

    /// The key under which facts about the target are stored: its reference, or its repository if it follows tags.
    pub(crate) fn history_key(&self) -> String {
        if self.follows_tags() { self.reference.name() } else { self.reference.to_string() }
    }

    /// Sets the current tag, given the references that are in use.
    ///
    /// # Errors
    /// Why the update policy cannot continue from the tag that the target started with.
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

/// All targets that are watched now. Containers that do not run are skipped, because no outdated code runs in them.
#[derive(Debug, Default)]
#[expect(clippy::struct_field_names, reason = "the field holds the targets of `Targets`")]
pub(crate) struct Targets {
    pub(crate) targets: Vec<Target>,
    /// Containers that opted in and cannot be watched.
    pub(crate) unwatchable: Vec<Outcome>,
    /// The names of the containers that would be watched if they ran.
    pub(crate) resting: BTreeSet<String>,
    /// Containers that no label or config selects, or that do not run.
    pub(crate) not_watched: Vec<NotWatched>,
}

impl Targets {
    /// Finds the targets.
    ///
    /// # Errors
    /// If the containers on the engine are needed and the host cannot list them.
    pub(crate) fn find(host: &mut dyn Host, config: &Config) -> Result<Self, Failure> {
        match &config.watch {
            Watch::Listed(listed) => {
                let containers = Selector { name_contains: config.name_contains.clone(), ..Selector::default() };
                let in_use = if config.update.follows_tags() { in_use(host, &containers)? } else { Vec::new() };
                let platform = |of: &Reference| {
                    in_use.iter().find(|(used, _)| used.name() == of.name()).and_then(|(_, c)| c.platform.clone())
                };
                let references: Vec<Reference> = in_use.iter().map(|(reference, _)| reference.clone()).collect();
                let mut found = Self::default();
                for (name, reference) in listed {
                    let target = Target {
                        name: name.clone(),
                        reference: reference.clone(),
                        first: reference.clone(),
                        containers: containers.clone(),
                        platform: platform(reference),
                        update: config.update.clone(),
                        // Several containers may follow this target, each with its own label.
                        strategy: None,
                        blocked: None,
                        group: None,
                    };
                    match target.at_present(&references) {
                        Ok(target) => found.targets.push(target),
                        Err(reason) => found.unwatchable.push(Outcome {
                            reference: Some(reference.clone()),
                            reason: Some(reason.clone()),
                            status: Some(status_of_unwatchable(&Unwatchable::Blocked(reason))),
                            ..Outcome::new(name, Verdict::Unknown)
                        }),
                    }
                }
                Ok(found)
            }
            // Lists all containers, not only those with the label. Otherwise a label with a typo or an invalid value
            // could not be reported.
            Watch::Containers { all } => {
                let Containers { containers } = host.docker_containers(Selector::default()).into_result()?;
                Ok(Self::of_containers(config, *all, &containers))
            }
        }
    }

    /// Keeps only the targets in `names`.
    ///
    /// # Errors
    /// The first name that does not exist.
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
        self.not_watched.clear();
        Ok(())
    }

    /// The names of the targets, in order.
    pub(crate) fn names(&self) -> Vec<String> {
        self.targets.iter().map(|target| target.name.clone()).collect()
    }
}

/// The containers that were created from a valid reference, with that reference.
fn in_use(host: &mut dyn Host, containers: &Selector) -> Result<Vec<Used>, Failure> {
    Ok(with_references(host.docker_containers(containers.clone()).into_result()?.containers))
}

impl Targets {
    fn of_containers(config: &Config, all: bool, containers: &[Container]) -> Self {
        let mut found = Self::default();
        let watched = containers.iter().filter(|container| reason_not_to_watch(config, all, container).is_none());
        let groups = find_groups(&watched.collect::<Vec<_>>());
        for container in containers {
            if let Some(reason) = reason_not_to_watch(config, all, container) {
                found.not_watched.push(not_watched(container, reason));
            } else if !is_up(container) {
                found.resting.insert(container.name.clone());
                found
                    .not_watched
                    .push(not_watched(container, format!("it is not running: its state is {}", container.state)));
            } else {
                let group = groups.get(&container.name).cloned();
                match read_target(config, container) {
                    Ok(target) => found.targets.push(Target { group, ..target }),
                    Err(why) => found.unwatchable.push(unwatchable(container, &why)),
                }
            }
        }
        found
    }
}

/// Whether the container runs or is restarting.
pub(crate) fn is_up(container: &Container) -> bool {
    matches!(container.state.as_str(), "running" | "restarting")
}

/// Why `container` is not watched. `None` if it is selected, or if one of its labels cannot be parsed.
fn reason_not_to_watch(config: &Config, all: bool, container: &Container) -> Option<String> {
    let is_selected = || all || container.labels.contains_key(ENABLE) || check_labels(container).is_err();
    let not_labelled = || (!is_selected()).then(|| format!("it has no label {ENABLE}=true"));
    reason_of_name(config, container).or_else(|| opted_out(container)).or_else(not_labelled)
}

/// The reason, as a lowercase fragment, if the config excludes containers with such a name.
pub(crate) fn reason_of_name(config: &Config, container: &Container) -> Option<String> {
    let part = config.name_contains.as_deref().unwrap_or_default();
    let is_meant = container.name.contains(part);
    (!is_meant).then(|| format!("its name does not contain {part:?} (config key `container_name_contains`)"))
}

/// The reason, as a lowercase fragment, if the container's label opts out.
fn opted_out(container: &Container) -> Option<String> {
    let value = container.labels.get(ENABLE)?;
    let says_no = read_yes_no(ENABLE, value) == Ok(false);
    says_no.then(|| format!("its label {ENABLE}={} opts out", value.trim()))
}

fn check_labels(container: &Container) -> Result<(), String> {
    label::check(container.labels.iter().map(|(name, value)| (name.as_str(), value.as_str())))
}

pub(crate) fn not_watched(container: &Container, reason: String) -> NotWatched {
    NotWatched { container: container.name.clone(), image: container.image.clone(), reason }
}

fn unwatchable(container: &Container, why: &Unwatchable) -> Outcome {
    let status = status_of_unwatchable(why);
    Outcome {
        reason: status.reason.clone(),
        container: Some(container.name.clone()),
        status: Some(status),
        ..Outcome::new(&container.name, Verdict::Unknown)
    }
}

fn read_target(config: &Config, container: &Container) -> Result<Target, Unwatchable> {
    check_labels(container).map_err(Unwatchable::Blocked)?;
    let reference = read_reference(config, container)?;
    let target = Target {
        name: container.name.clone(),
        first: reference.clone(),
        reference,
        containers: Selector { name: Some(container.name.clone()), ..Selector::default() },
        platform: container.platform.clone(),
        update: read_update_policy(config, container).map_err(Unwatchable::Blocked)?,
        strategy: read_strategy(container),
        blocked: reason_against(container, read_strategy(container).unwrap_or(config.strategy)),
        group: None,
    };
    target.at_present(&[]).map_err(Unwatchable::Blocked)
}

fn read_update_policy(config: &Config, container: &Container) -> Result<Rc<UpdatePolicy>, String> {
    let label = |key: &str| container.labels.get(key).map(|value| value.trim()).filter(|value| !value.is_empty());
    let policy = match label(UPDATE_POLICY) {
        None => config.update.clone(),
        Some(text) => Rc::new(UpdatePolicy::parse(text).map_err(|why| format!("its label {UPDATE_POLICY}: {why}"))?),
    };
    match label(TAG_FILTER) {
        None => Ok(policy),
        Some(text) => policy.filtered(text).map(Rc::new).map_err(|why| format!("its label {TAG_FILTER}: {why}")),
    }
}

/// The strategy from the container's label, if the label is valid.
pub(crate) fn read_strategy(container: &Container) -> Option<Strategy> {
    container.labels.get(label::STRATEGY).and_then(|text| label::read_strategy(text).ok())
}

/// Why `container` is never updated with its current settings, as a lowercase fragment: the host's reason, or a label.
/// The host's reason applies only to a `strategy` that replaces the container.
pub(crate) fn reason_against(container: &Container, strategy: Strategy) -> Option<String> {
    let of_label = || check_labels(container).err().or_else(|| opted_out(container));
    let replaces = matches!(strategy, Strategy::Replace | Strategy::StartFirst);
    container.blocked.clone().filter(|_| replaces).or_else(of_label)
}

fn read_reference(config: &Config, container: &Container) -> Result<Reference, Unwatchable> {
    let blocked = |reason: String| Unwatchable::Blocked(container.blocked.clone().unwrap_or(reason));
    let reference = reference_of(container).map_err(blocked)?;
    match reason_against_origin(config, container).filter(|_| reference.digest().is_none()) {
        Some((kind, reason)) => Err(Unwatchable::NotPulled(kind, reason)),
        None => Ok(reference),
    }
}

#[cfg(test)]
mod tests;

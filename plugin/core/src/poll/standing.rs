//! Gathers what is known of a container: what its target saw before, what was looked up, and what holds it. A check and
//! a poll that orders build the same facts here.

use std::collections::BTreeMap;

use imagewatch_abi::{Container, Reference, Status, Strategy};

use super::desired_reference::Aim;
use crate::config::{Baseline, Config};
use crate::gate::quarantine::Quarantine;
use crate::image_match::{Used, reason_against_origin, reason_unconfirmed};
use crate::registry::resolve::Lookup;
use crate::state::{Cache, Seen, State};
use crate::status::{Facts, Hold, Image, Remote, Rule, remote_of, status_of};
use crate::target::{Target, is_up, reason_against};

/// Where a target is to go, and how far it came before.
#[derive(Debug)]
pub(super) struct Course<'a> {
    pub(super) target: &'a Target,
    /// The reference that it is to follow.
    pub(super) aim: &'a Reference,
    /// What the aim points to.
    pub(super) remote: Remote<'a>,
    /// Why the aim is not simply the newest tag.
    pub(super) note: Option<&'a Hold>,
    /// The tag that it is on, where the aim is another.
    pub(super) from: Option<Reference>,
    /// What was seen before, at the aim or on the tag that it is on.
    pub(super) seen: Seen,
    /// Whether nothing at all was seen before.
    pub(super) is_first_sight: bool,
    /// Whether an order for it is under way.
    pub(super) is_ordered: bool,
    /// Whether it was brought to what the aim points to before.
    pub(super) is_reached: bool,
}

/// What `aim` points to, as far as it was looked up.
pub(super) fn remote_at<'a>(aim: &'a Aim, lookups: &'a BTreeMap<Reference, Lookup>) -> Remote<'a> {
    match &aim.reference {
        Ok(reference) => remote_of(lookups.get(reference)),
        Err(failure) => Err((failure.message.as_str(), failure.until_ms)),
    }
}

impl<'a> Course<'a> {
    pub(super) fn new(state: &State, target: &'a Target, aim: &'a Aim, remote: Remote<'a>) -> Self {
        let (aim, note) = (aim.reference.as_ref().unwrap_or(&target.reference), aim.note.as_ref());
        let known = state.targets.get(&target.name).cloned();
        let is_first_sight = known.is_none();
        let is_ordered = known.as_ref().is_some_and(|known| known.pending.is_some());
        let present = &target.reference;
        let from = Some(present).filter(|present| *present != aim).cloned();
        // Brought there before, and nevertheless still on the same tag: a strategy left its containers alone, say.
        let is_there = |seen: &Seen| seen.reference == *aim && (from.is_none() || seen.from == from);
        let unseen = || Seen { reference: present.clone(), digest: None, from: None, tried: Vec::new(), pending: None };
        let seen = known.filter(|seen| is_there(seen) || seen.reference == *present).unwrap_or_else(unseen);
        let is_reached = remote.is_ok_and(|remote| seen.digest.as_ref() == Some(remote)) && is_there(&seen);
        Self { target, aim, remote, note, from, seen, is_first_sight, is_ordered, is_reached }
    }

    /// Whether `container` was left as it is by an order for what the aim points to.
    pub(super) fn was_tried(&self, container: &Container) -> bool {
        self.is_reached && self.seen.tried.contains(&container.id)
    }

    /// Whether what was seen before says that the target is to be updated.
    pub(super) fn is_moving(&self) -> bool {
        self.image_as_seen() == Image::Other
    }

    /// Whether what was seen before says that there is nothing to do. The first sight changes nothing.
    fn is_same_as_seen(&self) -> bool {
        self.is_reached || (self.seen.digest.is_none() && self.from.is_none())
    }

    /// What the target runs by all that was seen, where its containers are not known.
    fn image_as_seen(&self) -> Image<'a> {
        match self.remote {
            Err((reason, until_ms)) => Image::NotLookedUp(reason, until_ms),
            Ok(_) if self.is_same_as_seen() => Image::Same,
            Ok(_) => Image::Other,
        }
    }
}

/// One container of a target, or the target itself where its containers are not known.
#[derive(Debug)]
pub(super) struct Standing<'a> {
    pub(super) container: Option<&'a Container>,
    pub(super) facts: Facts<'a>,
    pub(super) rule: Rule,
}

impl Standing<'_> {
    pub(super) fn status(&self) -> Status {
        status_of(&self.facts)
    }
}

/// Where each container of a target stands. There is always one standing, the target's own where no container is known.
#[derive(Debug)]
pub(super) struct Standings<'a> {
    all: Vec<Standing<'a>>,
    leading: usize,
}

impl<'a> Standings<'a> {
    /// Those of `used`, the containers of the course's target.
    pub(super) fn new(ground: (&Config, &Cache, &Quarantine), course: &Course<'a>, used: &[&'a Used]) -> Self {
        let mut all: Vec<_> = used.iter().map(|used| stand(ground, course, Some(used))).collect();
        if all.is_empty() {
            all.push(stand(ground, course, None));
        }
        let mut leading = 0;
        for (index, standing) in all.iter().enumerate() {
            if standing.rule > all[leading].rule {
                leading = index;
            }
        }
        Self { all, leading }
    }

    /// The one that says where the target stands.
    pub(super) fn leading(&self) -> &Standing<'a> {
        &self.all[self.leading]
    }

    /// Whether it is known what the target's containers run.
    pub(super) fn are_compared(&self) -> bool {
        let cannot = |image: &Image<'_>| matches!(image, Image::Local(_) | Image::Incomparable(_));
        self.all.iter().any(|standing| standing.container.is_some() && !cannot(&standing.facts.image))
    }

    /// The containers that run another image.
    pub(super) fn behind(&self) -> impl Iterator<Item = (&'a Container, &Standing<'a>)> {
        let behind = self.all.iter().filter(|standing| standing.facts.image == Image::Other);
        behind.filter_map(|standing| Some((standing.container?, standing)))
    }
}

/// Where `used`, one container of the course's target, stands; or the target itself.
pub(super) fn stand<'a>(
    (config, cache, quarantine): (&Config, &Cache, &Quarantine),
    course: &Course<'a>,
    used: Option<&'a Used>,
) -> Standing<'a> {
    let Course { target, aim, remote, .. } = course;
    let container = used.map(|(_, container)| container);
    let image = match container {
        _ if target.reference.digest().is_some() => Image::Pinned,
        None => course.image_as_seen(),
        Some(container) => match Image::of((config, cache), container, aim, *remote) {
            // What was seen decides where what runs is not known.
            Image::Incomparable(_) if is_by_sight(config, cache, course, container) => Image::Other,
            image => image,
        },
    };
    let strategy = strategy_for(config, target, container);
    let facts = Facts {
        image,
        is_ordered: course.is_ordered,
        blocked: container.map_or_else(|| target.blocked.clone(), |container| reason_against(container, strategy)),
        strategy,
        hold: remote.ok().and_then(|remote| quarantine.hold(&target.name, aim, remote)),
        tag_note: course.note,
        left: container.and_then(|container| left(config, course, container)),
        is_resting: config.baseline == Baseline::Running && container.is_some_and(|container| !is_up(container)),
        leaves_tag: used.map_or(course.from.is_some(), |(reference, _)| reference != *aim),
    };
    Standing { container, rule: Rule::of(&facts), facts }
}

/// Whether a move of the target's tag updates `container` whatever it runs: its image came from the registry, and with
/// `baseline` = `seen` nothing is compared.
fn is_by_sight(config: &Config, cache: &Cache, course: &Course<'_>, container: &Container) -> bool {
    config.baseline == Baseline::Seen
        && course.is_moving()
        && reason_against_origin(config, container).is_none()
        && reason_unconfirmed(cache, container, course.aim).is_none()
}

fn left(config: &Config, course: &Course<'_>, container: &Container) -> Option<&'static str> {
    match config.baseline {
        Baseline::Running => {
            course.was_tried(container).then_some("an update to this image succeeded and left the container as it is")
        }
        Baseline::Seen if course.is_reached => {
            Some("this image was seen before; with `baseline` = `seen` only a newer one is rolled out")
        }
        Baseline::Seen if course.is_same_as_seen() => Some(
            "the first poll only remembers this image; set config key `baseline` to `running` to have it rolled out now",
        ),
        Baseline::Seen => None,
    }
}

/// How orders for `target` are carried out.
pub(super) fn strategy_of(config: &Config, target: &Target) -> Strategy {
    target.strategy.unwrap_or(config.strategy)
}

/// How `container` is updated: a manifest that leaves the containers of a target alone leaves all of them alone, else
/// the container's own label takes precedence.
pub(super) fn strategy_for(config: &Config, target: &Target, container: Option<&Container>) -> Strategy {
    let strategy = strategy_of(config, target);
    let leaves = matches!(strategy, Strategy::Notify | Strategy::PullOnly);
    container.filter(|_| !leaves).and_then(crate::target::read_strategy).unwrap_or(strategy)
}

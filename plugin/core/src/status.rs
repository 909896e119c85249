//! The status of a container: up to date, outdated and about to be updated, or outdated and not updated for a reason.
//! One function decides the status. `poll` acts on it and a check shows it, so that they cannot disagree. This module
//! queries no registry.

use imagewatch_abi::{Container, Digest, Reference, Status, StatusKind, Strategy};

use crate::config::Config;
use crate::image_match::{digests_of, is_running, reason_against_origin, reason_unconfirmed};
use crate::registry::resolve::Lookup;
use crate::state::Cache;

/// The known facts about one container, or about a target whose containers are not known.
#[derive(Debug, Clone)]
pub(crate) struct Facts<'a> {
    /// The image that it runs, compared with the image that its tag points to.
    pub(crate) image: Image<'a>,
    /// Whether an order for its target is running.
    pub(crate) is_ordered: bool,
    /// Why it is never updated with its current settings.
    pub(crate) blocked: Option<String>,
    /// How it is updated.
    pub(crate) strategy: Strategy,
    /// Why it may not yet move to the image that its tag points to.
    pub(crate) hold: Option<Hold>,
    /// Why no order follows although it runs another image: an earlier order already handled the image that its tag
    /// points to.
    pub(crate) left: Option<&'static str>,
    /// Whether it does not run while other containers of its target run and would be updated.
    pub(crate) is_resting: bool,
    /// Whether it leaves its tag for a newer one.
    pub(crate) leaves_tag: bool,
    /// Why the tag to follow may not be the newest one.
    pub(crate) tag_note: Option<&'a Hold>,
}

/// A hold on an update.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Hold {
    pub(crate) kind: StatusKind,
    pub(crate) reason: String,
    pub(crate) until_ms: Option<u64>,
}

impl Hold {
    fn to_status(&self) -> Status {
        Status { until_ms: self.until_ms, ..Status::new(self.kind, self.reason.as_str()) }
    }
}

/// The image that a container runs, compared with the image that its tag points to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Image<'a> {
    /// The same image.
    Same,
    /// The same image under another digest.
    SameInAnotherWrapper,
    /// Another image.
    Other,
    /// An image that was built or loaded on this machine.
    Local(&'static str),
    /// An image that cannot be compared, and why.
    Incomparable(&'static str),
    /// The reference contains a digest, so no comparison is needed.
    Pinned,
    /// The digest of the tag is not known: why, and until when the registry is not queried again.
    NotLookedUp(&'a str, Option<u64>),
}

/// The digest that a tag points to, or why it is not known and until when the registry is not queried again.
pub(crate) type Remote<'a> = Result<&'a Digest, (&'a str, Option<u64>)>;

/// Converts the result of a look-up.
pub(crate) fn remote_of(lookup: Option<&Lookup>) -> Remote<'_> {
    match lookup {
        Some(Ok(digest)) => Ok(digest),
        Some(Err(failure)) => Err((&failure.message, failure.until_ms)),
        None => Err(("was not looked up", None)),
    }
}

impl<'a> Image<'a> {
    /// Compares the image that `container` runs with the image that `aim` points to.
    pub(crate) fn of(
        (config, cache): (&Config, &Cache),
        container: &Container,
        aim: &Reference,
        remote: Remote<'a>,
    ) -> Self {
        if let Some(reason) = reason_against_origin(config, container) {
            return match reason {
                (StatusKind::Local, reason) => Self::Local(reason),
                (_, reason) => Self::Incomparable(reason),
            };
        }
        let remote = match remote {
            Ok(remote) => remote,
            Err((reason, until_ms)) => return Self::NotLookedUp(reason, until_ms),
        };
        let has = digests_of(container, aim);
        if has.contains(remote) {
            Self::Same
        } else if is_running(cache, (container, aim, remote)) {
            Self::SameInAnotherWrapper
        } else if let Some(reason) = reason_unconfirmed(cache, container, aim) {
            Self::Incomparable(reason)
        } else if has.is_empty() {
            Self::Incomparable("the engine has no digest of this repository for the image that it runs")
        } else {
            Self::Other
        }
    }
}

/// The rule that decides the status of a container. If a target has several containers, the container with the last
/// rule in this list determines the target's status.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Rule {
    /// The image was built on this machine.
    Local,
    /// The image cannot be compared.
    Incomparable,
    /// The tag was not looked up.
    NotLookedUp,
    /// The container runs the image that its tag points to.
    UpToDate,
    /// The reference contains a digest.
    Pinned,
    /// The container does not run.
    Resting,
    /// An earlier order already handled the image.
    Left,
    /// The strategy only reports the move.
    Notified,
    /// The container is never updated with its current settings.
    Blocked,
    /// The update is held.
    Held,
    /// The strategy only pulls the image: an order follows, which does not replace the container.
    PullDue,
    /// An order follows, which updates the container.
    Due,
    /// An order for the container is running.
    Ordered,
}

impl Rule {
    /// The first rule that applies.
    pub(crate) fn of(facts: &Facts<'_>) -> Self {
        match &facts.image {
            _ if facts.is_ordered => Self::Ordered,
            Image::Same | Image::SameInAnotherWrapper => Self::UpToDate,
            Image::Local(_) => Self::Local,
            _ if facts.blocked.is_some() => Self::Blocked,
            Image::Pinned => Self::Pinned,
            Image::NotLookedUp(..) => Self::NotLookedUp,
            Image::Incomparable(_) => Self::Incomparable,
            Image::Other if facts.is_resting => Self::Resting,
            Image::Other if facts.strategy == Strategy::Notify => Self::Notified,
            Image::Other if facts.hold.is_some() => Self::Held,
            Image::Other if facts.left.is_some() => Self::Left,
            Image::Other if facts.strategy == Strategy::PullOnly => Self::PullDue,
            Image::Other => Self::Due,
        }
    }

    /// Whether the next poll places an order.
    pub(crate) fn is_due(self) -> bool {
        matches!(self, Self::PullDue | Self::Due)
    }
}

/// The status of a container with these `facts`.
pub(crate) fn status_of(facts: &Facts<'_>) -> Status {
    let blocked = || facts.blocked.clone().unwrap_or_default();
    if let (Rule::UpToDate, Some(note)) = (Rule::of(facts), facts.tag_note) {
        // The container runs the image that its tag points to, but the tag may not be the newest one.
        return note.to_status();
    }
    match (Rule::of(facts), &facts.image, &facts.hold) {
        (Rule::Ordered, ..) => Status::new(StatusKind::Updating, "an order for it is under way"),
        (Rule::Pinned, ..) => Status::new(StatusKind::Pinned, "pinned by digest"),
        (Rule::Blocked, ..) => Status::new(StatusKind::Blocked, blocked()),
        (Rule::UpToDate, Image::SameInAnotherWrapper, _) => {
            Status::new(StatusKind::UpToDate, "up to date: the same image under another digest")
        }
        (Rule::UpToDate, ..) => Status::new(StatusKind::UpToDate, "up to date"),
        (Rule::Local, Image::Local(reason), _) => Status::new(StatusKind::Local, *reason),
        (_, Image::NotLookedUp(reason, until_ms), _) => {
            Status { until_ms: *until_ms, ..Status::new(StatusKind::Unknown, *reason) }
        }
        (_, Image::Incomparable(reason), _) => Status::new(StatusKind::Unknown, *reason),
        (Rule::Resting, ..) => {
            Status::new(StatusKind::NotWatched, "it does not run; it is updated only together with running containers")
        }
        (Rule::Notified, ..) => {
            Status::new(StatusKind::Blocked, "outdated: strategy `notify` does not replace the container")
        }
        (Rule::Held, _, Some(hold)) => hold.to_status(),
        (Rule::Left, ..) if facts.strategy != Strategy::PullOnly => {
            Status::new(StatusKind::Held, facts.left.unwrap_or_default())
        }
        (Rule::Left | Rule::PullDue, ..) => Status::new(
            StatusKind::Blocked,
            "outdated: strategy `pull-only` pulls the image and does not replace the container",
        ),
        _ if facts.leaves_tag => Status::new(StatusKind::UpdateAvailable, "a newer tag is available"),
        _ => Status::new(StatusKind::UpdateAvailable, "the tag points to another image than the one running"),
    }
}

/// Why a container cannot be watched. The reasons are lowercase fragments. They are reported before any look-up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Unwatchable {
    /// The image was built or loaded on this machine, or its origin is unknown.
    NotPulled(StatusKind, &'static str),
    /// The image is not a valid reference, or a label cannot be parsed.
    Blocked(String),
}

/// The status of a container that cannot be watched.
pub(crate) fn status_of_unwatchable(why: &Unwatchable) -> Status {
    match why {
        Unwatchable::NotPulled(kind, reason) => Status::new(*kind, *reason),
        Unwatchable::Blocked(reason) => Status::new(StatusKind::Blocked, reason.as_str()),
    }
}

#[cfg(test)]
mod tests;

//! Where a container stands: up to date, behind and about to be updated, or behind and why not. The one function that
//! says so: `poll` acts on its answer and a check shows it, so that they cannot disagree. Asks nobody.

use imagewatch_abi::{Container, Digest, Reference, Status, StatusKind, Strategy};

use crate::config::Config;
use crate::registry::resolve::Lookup;
use crate::running::{digests_of, is_running, reason_against_origin, reason_unconfirmed};
use crate::state::Cache;

/// What is known of one container, or of a target whose containers are not known.
#[derive(Debug, Clone)]
pub(crate) struct Facts<'a> {
    /// What it runs, compared with what its tag points to.
    pub(crate) image: Image<'a>,
    /// An order for its target is under way.
    pub(crate) is_ordered: bool,
    /// Why it is never updated as it is now.
    pub(crate) blocked: Option<String>,
    /// How it is updated.
    pub(crate) strategy: Strategy,
    /// Why it may not be updated yet to what its tag points to.
    pub(crate) hold: Option<Hold>,
    /// Why no order follows although it runs another image: what its tag points to was dealt with before.
    pub(crate) left: Option<&'static str>,
    /// It does not run, and others of its target do, for which an order would be placed.
    pub(crate) is_resting: bool,
    /// It is to leave its tag for a newer one.
    pub(crate) leaves_tag: bool,
    /// Why the tag that it is to follow is not simply the newest.
    pub(crate) tag_note: Option<&'a Hold>,
}

/// A wait.
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

/// What a container runs, compared with what its tag points to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Image<'a> {
    /// That image.
    Same,
    /// That image, known by another digest.
    SameInAnotherWrapper,
    /// Another one.
    Other,
    /// One that was built or loaded on this machine.
    Local(&'static str),
    /// One that cannot be compared, and why.
    Incomparable(&'static str),
    /// It does not matter: the reference names a digest.
    Pinned,
    /// What the tag points to is not known: why, and until when it is not asked again.
    NotLookedUp(&'a str, Option<u64>),
}

/// The digest that a tag points to, or why it is not known and until when it is not asked again.
pub(crate) type Remote<'a> = Result<&'a Digest, (&'a str, Option<u64>)>;

/// What a look-up found.
pub(crate) fn remote_of(lookup: Option<&Lookup>) -> Remote<'_> {
    match lookup {
        Some(Ok(digest)) => Ok(digest),
        Some(Err(failure)) => Err((&failure.message, failure.until_ms)),
        None => Err(("was not looked up", None)),
    }
}

impl<'a> Image<'a> {
    /// What `container` runs, compared with what `aim` points to.
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

/// The rule that decides where a container stands. Of several containers of one target, the one with the last rule
/// says where the target stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Rule {
    /// Built on this machine.
    Local,
    /// Nothing to compare it with.
    Incomparable,
    /// Its tag was not looked up.
    NotLookedUp,
    /// It runs what its tag points to.
    UpToDate,
    /// Named by digest.
    Pinned,
    /// It does not run.
    Resting,
    /// Dealt with before.
    Left,
    /// Its strategy only tells.
    Notified,
    /// Never updated as it is now.
    Blocked,
    /// Not yet.
    Held,
    /// Its strategy has the image pulled: an order follows, which leaves the container as it is.
    PullDue,
    /// An order follows, which updates it.
    Due,
    /// An order for it is under way.
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

/// Where a container with these `facts` stands.
pub(crate) fn status_of(facts: &Facts<'_>) -> Status {
    let blocked = || facts.blocked.clone().unwrap_or_default();
    if let (Rule::UpToDate, Some(note)) = (Rule::of(facts), facts.tag_note) {
        // It runs what its tag points to; that this is the newest tag cannot be said.
        return note.to_status();
    }
    match (Rule::of(facts), &facts.image, &facts.hold) {
        (Rule::Ordered, ..) => Status::new(StatusKind::Updating, "an order for it is under way"),
        (Rule::Pinned, ..) => Status::new(StatusKind::Pinned, "pinned by digest"),
        (Rule::Blocked, ..) => Status::new(StatusKind::Blocked, blocked()),
        (Rule::UpToDate, Image::SameInAnotherWrapper, _) => {
            Status::new(StatusKind::UpToDate, "up to date: the same image in another wrapper")
        }
        (Rule::UpToDate, ..) => Status::new(StatusKind::UpToDate, "up to date"),
        (Rule::Local, Image::Local(reason), _) => Status::new(StatusKind::Local, *reason),
        (_, Image::NotLookedUp(reason, until_ms), _) => {
            Status { until_ms: *until_ms, ..Status::new(StatusKind::Unknown, *reason) }
        }
        (_, Image::Incomparable(reason), _) => Status::new(StatusKind::Unknown, *reason),
        (Rule::Resting, ..) => {
            Status::new(StatusKind::NotWatched, "it does not run: it is only updated together with containers that do")
        }
        (Rule::Notified, ..) => {
            Status::new(StatusKind::Blocked, "it is behind; strategy `notify` leaves the container as it is")
        }
        (Rule::Held, _, Some(hold)) => hold.to_status(),
        (Rule::Left, ..) if facts.strategy != Strategy::PullOnly => {
            Status::new(StatusKind::Held, facts.left.unwrap_or_default())
        }
        (Rule::Left | Rule::PullDue, ..) => Status::new(
            StatusKind::Blocked,
            "it is behind; strategy `pull-only` pulls the image and leaves the container as it is",
        ),
        _ if facts.leaves_tag => Status::new(StatusKind::UpdateAvailable, "a newer tag is there"),
        _ => Status::new(StatusKind::UpdateAvailable, "the tag points to another image than the one running"),
    }
}

/// Why a container cannot be watched, a lowercase fragment. It is told before anything is looked up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Unwatchable {
    /// Its image was built or loaded on this machine, or perhaps so.
    NotPulled(StatusKind, &'static str),
    /// Its image is no reference, or a label cannot be read.
    Blocked(String),
}

/// Where a container stands that cannot be watched.
pub(crate) fn status_of_unwatchable(why: &Unwatchable) -> Status {
    match why {
        Unwatchable::NotPulled(kind, reason) => Status::new(*kind, *reason),
        Unwatchable::Blocked(reason) => Status::new(StatusKind::Blocked, reason.as_str()),
    }
}

#[cfg(test)]
mod tests;

//! `docker_containers` and `docker_refresh`: what a policy sees of the engine and what it may order.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::{Digest, Failure, Reference};

/// Which containers; every field that is set must match, and none set means all.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Selector {
    /// The whole name, without the leading slash.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// A part of the name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name_contains: Option<String>,
    /// `key=value`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub label: Option<String>,
    /// Not the containers of these names.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub except: Vec<String>,
    /// In an order of a poll: also containers of which nothing reports where their image came from. Absent: they are
    /// left alone, as are those whose image was built on the machine.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub unknown_origin: bool,
}

impl Selector {
    /// Whether it selects a container of this name and these labels. A label is split at its first equals sign.
    pub fn matches(&self, name: &str, labels: &BTreeMap<String, String>) -> bool {
        let has_label = |wanted: &String| {
            let (key, value) = wanted.split_once('=').unwrap_or((wanted, ""));
            labels.get(key).is_some_and(|has| has == value)
        };
        self.name.as_ref().is_none_or(|whole| whole == name)
            && self.name_contains.as_ref().is_none_or(|part| name.contains(part.as_str()))
            && self.label.as_ref().is_none_or(has_label)
            && !self.except.iter().any(|except| except == name)
    }
}

/// What `docker_containers` answers.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Containers {
    /// Stopped ones too, sorted by name.
    pub containers: Vec<Container>,
}

/// One container as the engine shows it. Only what a decision needs: no environment, no contents of mounts.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Container {
    /// The engine's full id.
    pub id: String,
    /// Without the leading slash.
    pub name: String,
    /// The reference it was created from, unparsed: it may also be an image id.
    pub image: String,
    /// The id of the image it runs.
    pub image_id: String,
    /// `repository@digest` of that image, as the engine has them; empty for images built locally.
    #[serde(default)]
    pub repo_digests: Vec<String>,
    /// The digest by which the engine's image store itself names that image, of its index or its manifest; absent
    /// where the store has no such digest (graph drivers). Stays when the tag moves on and `repo_digests` are emptied.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target_digest: Option<Digest>,
    /// The digest of the manifest that the container runs: of an index, the entry for the container's platform. Absent
    /// where the engine does not report it (`ImageManifestDescriptor`, containerd image store only).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub manifest_digest: Option<Digest>,
    /// Where the image came from. Absent: the host does not report it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub origin: Option<ImageOrigin>,
    /// `os/arch[/variant]` of the manifest that the container runs, where the engine reports it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub platform: Option<String>,
    /// Its labels.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    /// The engine's word: `running`, `exited`, `created`, `paused`, …
    pub state: String,
    /// The named volumes and host folders that the container can write to, sorted. Containers that share one of them
    /// and an image are updated together.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub writable_mounts: Vec<String>,
    /// Why the host never replaces this container, a lowercase fragment. Absent: it may be replaced.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub blocked: Option<String>,
}

/// Where an image came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum ImageOrigin {
    /// The engine or this program pulled it from the repository that the container names.
    Registry,
    /// It was built, imported or loaded on this machine.
    Local,
    /// Nothing reports where it came from, or what is reported contradicts itself.
    #[serde(other)]
    Unknown,
}

/// What `docker_refresh` takes.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Orders {
    /// Taken or refused one by one.
    pub orders: Vec<Order>,
}

/// One refresh asked for. Idempotent: containers already on the image are left alone, see `only_outdated`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Order {
    /// Unique among a policy's orders; its report carries it back.
    pub order: String,
    /// The target's name, for reports and people.
    pub target: String,
    /// What to pull, with its tag.
    pub reference: Reference,
    /// The reference that its containers were created from, when that is another: the tag that they leave for the
    /// one in `reference`. Absent: `reference`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<Reference>,
    /// The digest that the tag must have after the pull; absent: whatever it has.
    #[serde(default)]
    pub digest: Option<Digest>,
    /// `os/arch[/variant]` to pull; absent: the engine's default.
    #[serde(default)]
    pub platform: Option<String>,
    /// Whether containers are handled at all; false: pull only.
    pub recreate: bool,
    /// How containers are handled.
    pub strategy: Strategy,
    /// Which containers, among those created from `from`, or else `reference`.
    #[serde(default)]
    pub containers: Selector,
    /// Leave containers alone that already run the pulled image. False only for a manual refresh
    /// with [`Strategy::Remove`], which handles every container of the image.
    #[serde(default = "yes")]
    pub only_outdated: bool,
    /// Orders of one group run one at a time, in the order in which they were placed. The rest of the group is not
    /// touched once an image has failed. Absent: the order depends on no other.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group: Option<String>,
}

/// The default of what is on unless it is said to be off.
pub(crate) fn yes() -> bool {
    true
}

/// What happens to a container whose image moved.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum Strategy {
    /// Swapped for one on the new image, the old one stopped first; restored when a step fails.
    #[default]
    Replace,
    /// Swapped without a gap: the new one runs and is healthy before the old one is stopped. A
    /// container that does not allow it is swapped as by [`Strategy::Replace`].
    StartFirst,
    /// Force-removed; a control plane provisions it again on next use.
    Remove,
    /// Left as it is; its image is pulled.
    PullOnly,
    /// Left as it is, and so is its image; that it moved is said.
    Notify,
}

/// What `docker_refresh` answers: every order is in one of the two.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Placed {
    /// Orders that the host now runs; their reports come with `settle`.
    #[serde(default)]
    pub accepted: Vec<String>,
    /// Orders that are done already.
    #[serde(default)]
    pub reports: Vec<Report>,
}

/// How an order ended.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Report {
    /// The order's id.
    pub order: String,
    /// The order's target.
    #[serde(default)]
    pub target: String,
    /// Whether the image is there now.
    #[serde(default)]
    pub pulled: bool,
    /// Names of the containers replaced or, with [`Strategy::Remove`], removed.
    #[serde(default)]
    pub recreated: Vec<String>,
    /// Containers that could not be handled.
    #[serde(default)]
    pub failed: Vec<ContainerFailure>,
    /// Names of those failed ones that run again as before.
    #[serde(default)]
    pub restored: Vec<String>,
    /// Why the order as a whole did not come off. Set: the move is rolled back and tried again.
    #[serde(default)]
    pub err: Option<Failure>,
    /// The order's reference; a host tells it so that a policy which forgot the order can still bar the digest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reference: Option<Reference>,
    /// The digest that was worked on, where the host knows it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub digest: Option<Digest>,
    /// Whether the order was begun by another run of the host, and this one found out how it ended. The policy may not
    /// know the order any more.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub is_recovered: bool,
}

/// A container that an order could not handle.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct ContainerFailure {
    /// Its name.
    pub container: String,
    /// A lowercase fragment.
    pub reason: String,
    /// Where the fault lies, as far as the host can tell. Absent: nothing is known, and nothing follows from it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fault: Option<Fault>,
    /// The last lines that the failed container logged, oldest first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub log: Vec<String>,
}

/// Where the fault of a [`ContainerFailure`] lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum Fault {
    /// The new image: its container ended, restarted, or was not healthy in time.
    Image,
    /// This machine or its engine: a port is taken, a device is missing, a disk is full, the image cannot be fetched.
    Host,
    /// The container cannot be replaced as it is, and was not touched.
    Refused,
    /// It is left alone for now and tried again with the next poll: one of its own hooks asked for that, it is paused, or
    /// somebody else is at work on it.
    Postponed,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_selector_matches_when_every_set_field_does() {
        let labels = BTreeMap::from([("app".to_owned(), "a=b".to_owned())]);
        let some = |text: &str| Some(text.to_owned());
        for (case, name, name_contains, label, expected) in [
            ("nothing set", None, None, None, true),
            ("whole name", some("ws-1"), None, None, true),
            ("whole name is no part", some("ws"), None, None, false),
            ("part of the name", None, some("s-"), None, true),
            ("other part", None, some("S-"), None, false),
            ("label, split at the first equals sign", None, None, some("app=a=b"), true),
            ("label with another value", None, None, some("app=a"), false),
            ("label without a value is not any value", None, None, some("app"), false),
            ("one of two", some("ws-1"), Some("x".to_owned()), None, false),
        ] {
            let selector = Selector { name, name_contains, label, ..Selector::default() };
            assert_eq!(selector.matches("ws-1", &labels), expected, "{case}");
        }
        for (except, expected) in [("ws-1", false), ("ws", true)] {
            let selector = Selector { except: vec![except.to_owned()], ..Selector::default() };
            assert_eq!(selector.matches("ws-1", &labels), expected, "except {except}");
        }
    }
}

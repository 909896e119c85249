//! `docker_containers` and `docker_refresh`: what a policy sees of the engine, and what it can order.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::{Digest, Failure, Reference};

/// A selection of containers. Every field that is set must match. A selector without fields selects all containers.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Selector {
    /// The exact name, without the leading slash.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// A part of the name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name_contains: Option<String>,
    /// A label, as `key=value`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub label: Option<String>,
    /// The names of containers to exclude.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub except: Vec<String>,
    /// In an order of a poll: also select containers whose image has an unknown origin. Absent: these containers are
    /// skipped, as are containers whose image was built on the machine.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub unknown_origin: bool,
}

impl Selector {
    /// Whether the selector matches a container with this name and these labels. A label is split at its first equals
    /// sign.
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

/// The output of `docker_containers`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Containers {
    /// The containers, sorted by name. Stopped containers are included.
    pub containers: Vec<Container>,
}

/// One container as the engine shows it. It holds only what a decision needs: no environment, no contents of mounts.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Container {
    /// The engine's full id.
    pub id: String,
    /// The name, without the leading slash.
    pub name: String,
    /// The reference from which the container was created, unparsed. It may also be an image id.
    pub image: String,
    /// The id of the image that the container runs.
    pub image_id: String,
    /// The `repository@digest` entries of that image, as the engine shows them. Empty for images that were built
    /// locally.
    #[serde(default)]
    pub repo_digests: Vec<String>,
    /// The digest that the engine's image store itself has for that image: the digest of its index or of its manifest.
    /// Absent if the store has no such digest (graph drivers). The digest stays when the tag moves and the engine
    /// empties `repo_digests`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target_digest: Option<Digest>,
    /// The digest of the manifest that the container runs. For an index, this is the entry for the container's
    /// platform. Absent if the engine does not report it (`ImageManifestDescriptor`, containerd image store only).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub manifest_digest: Option<Digest>,
    /// Where the image came from. Absent: the host does not report it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub origin: Option<ImageOrigin>,
    /// The platform of the manifest that the container runs, as `os/arch[/variant]`. Absent if the engine does not
    /// report it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub platform: Option<String>,
    /// The container's labels.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    /// The state in the engine's words: `running`, `exited`, `created`, `paused`, …
    pub state: String,
    /// The named volumes and host folders that the container can write to, sorted. Containers with the same image that
    /// share one of them are updated together.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub writable_mounts: Vec<String>,
    /// Why the host never replaces this container, as a lowercase fragment. Absent: the container may be replaced.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub blocked: Option<String>,
}

/// Where an image came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum ImageOrigin {
    /// The engine or imagewatch pulled it from the repository that the container names.
    Registry,
    /// The image was built, imported or loaded on this machine.
    Local,
    /// No source reports the origin, or the sources contradict each other.
    #[serde(other)]
    Unknown,
}

/// The input of `docker_refresh`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Orders {
    /// The orders. The host accepts or refuses each order separately.
    pub orders: Vec<Order>,
}

/// A request to refresh one target. It is idempotent: containers that already run the image are skipped, see
/// `only_outdated`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Order {
    /// The order's id, unique among the orders of a policy. The report repeats it.
    pub order: String,
    /// The target's name, for reports and messages.
    pub target: String,
    /// The reference to pull, with its tag.
    pub reference: Reference,
    /// The reference from which the target's containers were created, if it differs: the tag that they leave for the
    /// tag in `reference`. Absent: `reference`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<Reference>,
    /// The digest that the tag must have after the pull. Absent: any digest is accepted.
    #[serde(default)]
    pub digest: Option<Digest>,
    /// The platform to pull, as `os/arch[/variant]`. Absent: the engine's default.
    #[serde(default)]
    pub platform: Option<String>,
    /// Whether containers are recreated. If false, the image is only pulled.
    pub recreate: bool,
    /// How containers are updated.
    pub strategy: Strategy,
    /// The selection among the containers that were created from `from`, or from `reference` if `from` is absent.
    #[serde(default)]
    pub containers: Selector,
    /// Skip containers that already run the pulled image. False only for a manual refresh with [`Strategy::Remove`],
    /// which handles every container of the image.
    #[serde(default = "yes")]
    pub only_outdated: bool,
    /// The orders of one group run one at a time, in the order in which they were placed. After an image fails, the
    /// rest of the group is not touched. Absent: the order does not depend on other orders.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group: Option<String>,
}

/// The default of a flag that is on unless it is switched off.
pub(crate) fn yes() -> bool {
    true
}

/// What happens to a container after its image moved.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum Strategy {
    /// The container is replaced by one with the new image. The old container stops first. If a step fails, the old
    /// container is restored.
    #[default]
    Replace,
    /// The container is replaced without a gap: the old container stops only when the new one runs and is healthy. A
    /// container that does not allow this is updated as with [`Strategy::Replace`].
    StartFirst,
    /// The container is removed by force. A control plane provisions it again on next use.
    Remove,
    /// The image is pulled, and the container is skipped.
    PullOnly,
    /// The move is only reported. The image is not pulled, and the container is skipped.
    Notify,
}

/// The output of `docker_refresh`. Every order is in one of the two lists.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct OrdersAccepted {
    /// The ids of the orders that the host now runs. Their reports arrive with `settle`.
    #[serde(default)]
    pub accepted: Vec<String>,
    /// The reports of the orders that are already complete.
    #[serde(default)]
    pub reports: Vec<Report>,
}

/// The result of an order.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Report {
    /// The order's id.
    pub order: String,
    /// The order's target.
    #[serde(default)]
    pub target: String,
    /// Whether the image is now present.
    #[serde(default)]
    pub pulled: bool,
    /// The names of the containers that were replaced or, with [`Strategy::Remove`], removed.
    #[serde(default)]
    pub recreated: Vec<String>,
    /// The containers that could not be updated.
    #[serde(default)]
    pub failed: Vec<ContainerFailure>,
    /// The names of the failed containers that run again as before.
    #[serde(default)]
    pub restored: Vec<String>,
    /// Why the whole order failed. If set, the move is rolled back and tried again.
    #[serde(default)]
    pub err: Option<Failure>,
    /// The order's reference. With it, a policy that no longer knows the order can still quarantine the digest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reference: Option<Reference>,
    /// The digest of the order, if the host knows it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub digest: Option<Digest>,
    /// Whether an earlier run of the host started the order, and this run determined its result. The policy may no
    /// longer know the order.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub is_recovered: bool,
}

/// A container that an order could not update.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct ContainerFailure {
    /// The container's name.
    pub container: String,
    /// What failed, as a lowercase fragment.
    pub reason: String,
    /// The cause, if the host can determine it. Absent: the cause is unknown, and the policy draws no conclusion.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fault: Option<Fault>,
    /// The last lines that the failed container logged, oldest first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub log: Vec<String>,
}

/// Where a [`ContainerFailure`] was caused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum Fault {
    /// The new image caused it: its container exited, restarted, or did not become healthy in time.
    Image,
    /// This machine or its engine caused it: a port is taken, a device is missing, a disk is full, or the image cannot
    /// be fetched.
    Host,
    /// The container cannot be replaced with its current settings. It was not touched.
    Refused,
    /// The container is skipped for now, and the next poll tries again. One of its hooks asked for that, it is paused,
    /// or another program is changing it.
    Postponed,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_selector_matches_when_every_set_field_matches() {
        let labels = BTreeMap::from([("app".to_owned(), "a=b".to_owned())]);
        let some = |text: &str| Some(text.to_owned());
        for (case, name, name_contains, label, expected) in [
            ("no field set", None, None, None, true),
            ("whole name", some("ws-1"), None, None, true),
            ("whole name does not match a part", some("ws"), None, None, false),
            ("part of the name", None, some("s-"), None, true),
            ("another part", None, some("S-"), None, false),
            ("label, split at the first equals sign", None, None, some("app=a=b"), true),
            ("label with another value", None, None, some("app=a"), false),
            ("label without a value matches the empty value only", None, None, some("app"), false),
            ("one of two fields matches", some("ws-1"), Some("x".to_owned()), None, false),
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

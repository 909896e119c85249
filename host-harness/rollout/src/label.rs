//! The journal of record: what a transaction says of itself in a label of each container that it makes.
//! Labels are written together with their container and outlive this program, its disk and its memory, so a
//! transaction can always be told from the engine alone. Asks the engine nothing.

use imagewatch_abi::{Digest, Reference};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::health::PriorHealth;

/// The label on every container that a transaction made. Labels cannot be changed, so it stays on those that
/// succeeded; what it says is then history.
pub const LABEL: &str = imagewatch_abi::label::TRANSACTION;

const NEW: &str = "new";
const OLD: &str = "old";
const HELPER: &str = "helper";
const ID_LENGTH: usize = 8;

/// What a transaction knows of one container that it makes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TransactionLabel {
    /// The transaction's id, eight hex digits.
    pub transaction: String,
    /// The container's own part in it.
    #[serde(rename = "part")]
    pub state: MemberState,
    /// The name of the container that the transaction is about.
    pub root: String,
    /// The other parts, each after those that it needs. Only on the root's container.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub others: Vec<MemberState>,
    /// How the swap goes.
    pub swap: SwapMode,
    /// How long a container without a health check must stay up.
    pub stable_for_ms: u64,
    /// On whose behalf.
    pub origin: OrderRef,
    /// Whose it is: the state folder of the program, see [`Journal::owner`](super::journal::Journal::owner).
    #[serde(default)]
    pub owner: String,
    /// This is the container from before, made again because it went when it was stopped.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub is_restored: bool,
}

/// One container that a transaction is about, as it was before.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct MemberState {
    /// Its name, before and after.
    pub name: String,
    /// Its id, before.
    pub old: String,
    /// The id of the image that it ran.
    pub old_image: String,
    /// What is done with it.
    #[serde(rename = "handling")]
    pub action: MemberAction,
    /// Whether it ran.
    pub was_running: bool,
    /// Its restart policy, in the engine's words.
    pub policy: Value,
    /// What it suffered from already, so that the same does not count against its successor.
    #[serde(default, rename = "was_ill")]
    pub prior_health: Option<PriorHealth>,
    /// Besides the root: whether it comes to run the new image too, since it writes to a volume of another part that does.
    #[serde(default, rename = "is_member", skip_serializing_if = "std::ops::Not::not")]
    pub is_companion: bool,
    /// It and the parts up to the next one that leads are left running until those before have passed.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub leads: bool,
}

/// What a transaction does with a container.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum MemberAction {
    /// Swaps it for a new one.
    Recreate,
    /// Stops it before and starts it after.
    Restart,
}

/// How the swap goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SwapMode {
    /// The old one is stopped before the new one is started.
    StopFirst,
    /// The new one is healthy before the old one is stopped.
    StartFirst,
    /// The old one is the updater itself: the new one, once it runs, does the rest.
    Handover,
}

/// On whose behalf a transaction runs, so that a recovery can report to the right policy.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct OrderRef {
    /// The manifest's name.
    pub manifest: String,
    /// The target's name.
    pub target: String,
    /// The target's reference.
    pub reference: Option<Reference>,
    /// The tag that is left, when it is another.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<Reference>,
    /// The digest that is moved to.
    pub digest: Option<Digest>,
    /// The order's id.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub order: Option<String>,
    /// How many images before the present one are kept; none: all of them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub keep_images: Option<usize>,
}

impl TransactionLabel {
    /// Reads the label's value; none for one that this version cannot read, which is then left alone.
    pub fn parse(label: &str) -> Option<Self> {
        serde_json::from_str(label).ok()
    }

    /// All that are written down here: the container's own part first.
    pub fn states(&self) -> impl Iterator<Item = &MemberState> {
        std::iter::once(&self.state).chain(&self.others)
    }

    /// The label's value.
    #[expect(clippy::missing_panics_doc, reason = "it never does")]
    pub fn to_label(&self) -> String {
        serde_json::to_string(self).expect("facts have string keys only")
    }
}

impl MemberState {
    /// The new container's name until it takes over.
    pub fn temporary_name(&self, transaction: &str) -> String {
        format!("{}.{transaction}.{NEW}", self.name)
    }

    /// The old container's name from then on.
    pub fn aside_name(&self, transaction: &str) -> String {
        format!("{}.{transaction}.{OLD}", self.name)
    }

    /// The name of the helper that replaces an updater.
    pub fn helper_name(&self, transaction: &str) -> String {
        format!("{}.{transaction}.{HELPER}", self.name)
    }
}

/// Whether `name` is one that a transaction gives out while it works.
pub fn is_working_name(name: &str) -> bool {
    usual_name(name).is_some()
}

/// The name that a container with a working name has before or after, and whether it is the old one; none for any
/// other name.
pub fn usual_name(name: &str) -> Option<(&str, bool)> {
    let (rest, mark) = name.rsplit_once('.')?;
    let (container, transaction) = rest.rsplit_once('.')?;
    let is_id = transaction.len() == ID_LENGTH && transaction.bytes().all(|b| b.is_ascii_hexdigit());
    (matches!(mark, NEW | OLD | HELPER) && is_id && !container.is_empty()).then_some((container, mark == OLD))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_that_a_transaction_gives_out_are_working_names() {
        for (name, expected) in [
            ("web.0a1b2c3d.new", true),
            ("web.0a1b2c3d.old", true),
            ("web.0a1b2c3d.helper", true),
            ("a.b.0a1b2c3d.old", true),
            ("web", false),
            ("web.new", false),
            ("web.0a1b2c3.new", false),
            ("web.0a1b2c3x.new", false),
            (".0a1b2c3d.new", false),
            ("web.0a1b2c3d.newer", false),
        ] {
            assert_eq!(is_working_name(name), expected, "{name}");
        }
    }

    #[test]
    fn what_is_written_is_read_again_and_foreign_text_is_nothing() {
        let facts = TransactionLabel {
            transaction: "0a1b2c3d".to_owned(),
            state: MemberState {
                name: "web".to_owned(),
                old: "id".to_owned(),
                old_image: "sha256:1".to_owned(),
                action: MemberAction::Recreate,
                was_running: true,
                policy: serde_json::json!({ "Name": "always" }),
                prior_health: None,
                is_companion: false,
                leads: false,
            },
            root: "web".to_owned(),
            others: Vec::new(),
            swap: SwapMode::StopFirst,
            stable_for_ms: 10_000,
            origin: OrderRef::default(),
            owner: String::new(),
            is_restored: false,
        };
        assert_eq!(TransactionLabel::parse(&facts.to_label()), Some(facts.clone()));
        assert_eq!(facts.state.temporary_name("0a1b2c3d"), "web.0a1b2c3d.new");
        assert_eq!(TransactionLabel::parse("true"), None);
    }
}

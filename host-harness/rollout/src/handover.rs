//! The updater updates itself: it starts its successor and waits to be stopped by it, so that there is no moment at
//! which nobody could bring the other back. The successor stops its predecessor, shows that it can work in its place,
//! and only then removes it and takes its name; else it starts it again. Where the two cannot run side by side, see
//! `helper`. Knows how to find the container that this program runs in.

use std::time::Duration;

use imagewatch_abi::{Fault, Report};
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};
use tracing::{info, warn};

use super::Rollout;
use super::ending::{Member, Transaction, facts_of, name_of, tolerate_fixed_policy};
use super::journal::{Claim, JournalEntry, JournalHandle};
use super::label::{LABEL, MemberState, SwapMode, TransactionLabel};
use super::labels::UPDATER;
use super::plan::{endpoints, fixed_host_port, has_static_address};
use super::recovery::{report_of, transaction_of};
use super::step_error::StepError;
use imagewatch_abi::label::parse_yes_no;
use imagewatch_engine::{Engine, EngineError, Listed};

/// How long a successor may take to stop its predecessor.
const TAKES_OVER_TIMEOUT: Duration = Duration::from_mins(2);
const LOOK_EVERY: Duration = Duration::from_millis(500);
const ID_LENGTH: usize = 64;

/// The id of the container that this program runs in; none when it runs in none. A host name can be anything, so
/// the mounts that an engine makes for each container are asked, and then the control group.
pub fn own_container_id() -> Option<String> {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    find_id(&read("/proc/self/mountinfo"), &read("/proc/self/cgroup"))
}

fn find_id(mountinfo: &str, cgroup: &str) -> Option<String> {
    let hostnames = mountinfo.lines().filter(|line| line.contains("/hostname"));
    let roots = hostnames.filter_map(|line| line.split(' ').nth(3));
    roots.chain(cgroup.lines()).find_map(id_in)
}

/// The last part of a path that is a container's id, with what engines write around it.
fn id_in(path: &str) -> Option<String> {
    let states = path.split(['/', ':', '-', '.']);
    let is_id = |state: &&str| state.len() == ID_LENGTH && state.bytes().all(|b| b.is_ascii_hexdigit());
    states.rev().find(is_id).map(str::to_owned)
}

/// Another updater that runs on this engine, by name; one updater and its successor count as one.
///
/// # Errors
/// When the containers cannot be listed.
pub async fn other_updater(engine: &dyn Engine, own_id: Option<&str>) -> Result<Option<String>, EngineError> {
    let listed = engine.list().await?;
    let handover = |container: &Listed| {
        let facts = TransactionLabel::parse(container.labels().get(LABEL)?)?;
        (facts.swap == SwapMode::Handover).then_some(facts.state.old)
    };
    let own = own_id.and_then(|own| listed.iter().find(|container| container.id == own));
    let predecessor = own.and_then(handover);
    let other = listed.iter().find(|container| {
        // A value that cannot be read is assumed to mark one: two updaters on one engine work against each other.
        let is_updater = container.labels().get(UPDATER).is_some_and(|value| parse_yes_no(value) != Some(false));
        let is_partner = predecessor.as_ref() == Some(&container.id)
            || (own_id.is_some() && handover(container).as_deref() == own_id);
        is_updater && container.state == "running" && Some(container.id.as_str()) != own_id && !is_partner
    });
    Ok(other.map(|container| container.name().to_owned()))
}

/// Why an updater cannot run beside its successor, to be read after "which"; `None` if it can.
pub(super) fn reason_against_handover(own: &Value, has_dependents: bool) -> Option<&'static str> {
    if own["HostConfig"]["AutoRemove"] == true {
        Some("was created with --rm")
    } else if fixed_host_port(&own["HostConfig"]["PortBindings"]).is_some() {
        Some("publishes a host port")
    } else if endpoints(own).any(|(_, endpoint)| has_static_address(endpoint)) {
        Some("has a fixed address")
    } else {
        has_dependents.then_some("has containers that need it")
    }
}

/// Whether `other` was started to take the place of the updater `own`, and runs.
pub(super) fn is_successor_of(own: &Value, other: &Value) -> bool {
    let is_its = |facts: TransactionLabel| facts.swap == SwapMode::Handover && own["Id"] == facts.state.old.as_str();
    other["State"]["Running"] == true && facts_of(other).is_some_and(is_its)
}

/// An updater that rests while its successor shows whether it can work.
#[derive(Debug)]
pub struct Predecessor {
    state: MemberState,
    /// The update as this program's own container tells it.
    transaction: Transaction,
}

impl Rollout {
    /// Waits for a started successor to stop this program. Returns only when it does not.
    pub(super) async fn await_successor(&self, new: &str) -> Result<(), StepError> {
        let until = Instant::now() + TAKES_OVER_TIMEOUT;
        loop {
            let inspection = match self.engine.inspect_container(new).await {
                Ok(inspection) => inspection,
                // It may be stopping us at this very moment: to give up for want of one answer would end both.
                Err(error) if !error.is_gone() && Instant::now() < until => {
                    sleep(LOOK_EVERY).await;
                    continue;
                }
                Err(error) => return Err(StepError::engine("watch the successor", &error)),
            };
            let state = &inspection["State"];
            let is_restarted = inspection["RestartCount"].as_u64().unwrap_or(0) > 0 || state["Restarting"] == true;
            if state["Running"] != true || is_restarted {
                let reason = format!("the new updater exited with code {}", state["ExitCode"]);
                return Err(StepError::of(Fault::Image, reason));
            }
            if Instant::now() >= until {
                let reason = format!("the new updater did not take over within {} s", TAKES_OVER_TIMEOUT.as_secs());
                return Err(StepError::of(Fault::Image, reason));
            }
            sleep(LOOK_EVERY).await;
        }
    }

    /// At the start of a program: if it is a successor, its predecessor rests. To be called before anything that the
    /// predecessor holds is wanted. Then either [`Self::promote`] or [`Self::restore_predecessor`] is to follow.
    ///
    /// # Errors
    /// A step that the engine did not do; the predecessor goes on. Whoever is started next begins it again.
    pub async fn stop_predecessor(&self) -> Result<Option<Predecessor>, EngineError> {
        let Some(own) = &self.own_id else { return Ok(None) };
        let Some(inspection) = self.find(own).await? else { return Ok(None) };
        let Some(facts) = facts_of(&inspection).filter(|facts| facts.swap == SwapMode::Handover) else {
            return Ok(None);
        };
        let member = Member { state: facts.state.clone(), new: Some(own.clone()) };
        let (state, transaction) = (facts.state.clone(), transaction_of(&facts, vec![member]));
        if self.find(&state.old).await?.is_none() {
            if name_of(&inspection) == state.temporary_name(&transaction.id) {
                self.engine.rename(own, &state.name).await?;
            }
            return Ok(None);
        }
        info!(container = %state.name, "taking over from the updater before this one");
        let predecessor = Predecessor { state, transaction };
        let rested = async {
            self.suspend_restart_policy(&predecessor.state).await?;
            self.stop(&predecessor.state.old).await
        };
        match rested.await {
            Ok(()) => Ok(Some(predecessor)),
            Err(error) => {
                self.restore_predecessor(&predecessor, &error.to_string()).await;
                Err(error)
            }
        }
    }

    /// This program works: its predecessor goes, and it has its name.
    ///
    /// # Errors
    /// The first step that the engine did not do; the predecessor can still be brought back.
    pub async fn promote(&self, predecessor: &Predecessor) -> Result<(), EngineError> {
        let Predecessor { state, transaction } = predecessor;
        let Some(own) = &self.own_id else { return Ok(()) };
        self.take_name(own, state, &transaction.id).await?;
        let (record, mut entry) = match self.journal.claim(&transaction.id) {
            Claim::Acquired(record, entry) => (Some(record), entry),
            Claim::Missing | Claim::Held => (None, Box::default()),
        };
        let report = self.commit(transaction, &mut entry, record.as_ref()).await?;
        self.put_report(transaction, Some(report));
        if let Some(record) = record {
            record.close();
        }
        info!(container = %state.name, "took the place of the updater before this one");
        Ok(())
    }

    /// From an old container, stopped by now, to the one that this program runs in.
    pub(super) async fn take_name(&self, own: &str, state: &MemberState, transaction: &str) -> Result<(), EngineError> {
        if let Some(old) = self.find(&state.old).await?
            && name_of(&old) == state.name
        {
            self.engine.rename(&state.old, &state.aside_name(transaction)).await?;
        }
        let inspection = self.engine.inspect_container(own).await?;
        if name_of(&inspection) == state.temporary_name(transaction) {
            self.engine.rename(own, &state.name).await?;
        }
        Ok(())
    }

    /// This program cannot work, for `reason`, and is about to end: its predecessor goes on, and finds that written down.
    pub async fn restore_predecessor(&self, predecessor: &Predecessor, reason: &str) {
        let Predecessor { state, transaction } = predecessor;
        warn!(container = %state.name, %reason, "cannot take over; the updater before this one goes on");
        if let Claim::Acquired(record, entry) = self.journal.claim(&transaction.id) {
            let step_error =
                StepError::of(Fault::Host, format!("the new updater could not work: it failed to {reason}"));
            let entry = JournalEntry { failure: Some(step_error.as_failure(&state.name)), ..*entry };
            if let Err(error) = record.write(&entry) {
                warn!(container = %state.name, %error, "the journal cannot be written; the updater before will not know why");
            }
        }
        let brought_back = async {
            if let Some(own) = &self.own_id {
                // Started again by the engine, this program would only do the same again.
                tolerate_fixed_policy(self.engine.set_restart_policy(own, &json!({ "Name": "no" })).await)?;
            }
            let old = self.engine.inspect_container(&state.old).await?;
            self.restore_restart_policy(state, &state.old, &old).await?;
            self.engine.start(&state.old).await
        };
        if let Err(error) = brought_back.await {
            warn!(container = %state.name, %error, "the updater before this one could not be started again");
        }
    }

    /// Whether this program runs in the new container of `transaction`.
    pub(super) fn is_successor(&self, transaction: &Transaction) -> bool {
        let own = self.own_id.as_ref();
        own.is_some() && transaction.root().new.as_ref() == own
    }

    /// Ends a transaction whose program is gone and whose new container is this program's own, which nobody else would
    /// start again: as it runs, it stays.
    ///
    /// # Errors
    /// A step that the engine did not do; or the old one runs, which then is the one to end it.
    pub(super) async fn stay(
        &self,
        transaction: &Transaction,
        entry: &mut JournalEntry,
        record: Option<&JournalHandle>,
    ) -> Result<Report, EngineError> {
        let Member { state, new: Some(own) } = transaction.root() else { return Ok(report_of(transaction)) };
        let old = self.find(&state.old).await?.unwrap_or_default();
        if old["State"]["Running"] == true && name_of(&old) == state.name {
            return Err(EngineError::Conflict { message: format!("the updater before, {}, runs", state.name) });
        }
        self.take_name(own, state, &transaction.id).await?;
        let inspection = self.engine.inspect_container(own).await?;
        self.restore_restart_policy(state, own, &inspection).await?;
        self.commit(transaction, entry, record).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn t40_the_own_container_is_found_by_what_its_engine_mounts_into_it() {
        let id = "0123456789abcdef".repeat(4);
        let docker = format!("1 2 8:1 /var/lib/docker/containers/{id}/hostname /etc/hostname rw - ext4 /dev/vda rw");
        let podman =
            format!("1 2 0:2 /containers/overlay-containers/{id}/userdata/hostname /etc/hostname rw - tmpfs tmpfs rw");
        for (case, mountinfo, cgroup, expected) in [
            ("docker", docker.as_str(), "0::/", Some(&id)),
            ("podman", podman.as_str(), "", Some(&id)),
            ("cgroup v1", "", &format!("12:pids:/docker/{id}"), Some(&id)),
            ("systemd's cgroup", "", &format!("0::/system.slice/docker-{id}.scope"), Some(&id)),
            ("no container", "1 2 8:1 / / rw - ext4 /dev/vda rw", "0::/user.slice", None),
            ("a host name file of one's own", "1 2 8:1 /home/me/hostname /etc/hostname rw", "", None),
        ] {
            assert_eq!(find_id(mountinfo, cgroup).as_ref(), expected, "{case}");
        }
    }
}

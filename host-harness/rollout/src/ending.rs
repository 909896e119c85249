//! The two ways in which a transaction ends: forwards, and the old containers go; or back, and the new ones go and
//! the very same old ones run again. Both can be begun any number of times, by the transaction itself or by
//! somebody who finds it half done: each step looks first whether it is still to be done.

mod again;
mod lasting;

use std::ops::Range;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::{Instant, sleep};
use tracing::debug;

use super::Rollout;
use super::journal::{JournalEntry, Snapshot};
use super::label::{self, MemberAction, MemberState, OrderRef, SwapMode};
use imagewatch_engine::EngineError;

/// How long an engine that is away is waited for to bring a container back; less than a shutdown waits.
const RESTORE_FOR: Duration = Duration::from_secs(20);
const RETRY_EVERY: Duration = Duration::from_millis(500);
/// For the engine to remove what it has begun to remove.
const GONE_TIMEOUT: Duration = Duration::from_secs(30);
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// A transaction as far as it is known, by itself or from labels.
#[derive(Debug, Clone, PartialEq)]
pub struct Transaction {
    /// Eight hex digits.
    pub id: String,
    /// How the swap goes.
    pub swap: SwapMode,
    /// The root first, then each after those that it needs.
    pub members: Vec<Member>,
    /// How long a container without a health check must stay up.
    pub stable_for: Duration,
    /// On whose behalf.
    pub origin: OrderRef,
    /// Whose it is.
    pub owner: String,
}

/// One container of a transaction, before and after.
#[derive(Debug, Clone, PartialEq)]
pub struct Member {
    /// Before.
    pub state: MemberState,
    /// The id of the new one, once there is one.
    pub new: Option<String>,
}

impl Transaction {
    /// The container that it is about.
    pub fn root(&self) -> &Member {
        &self.members[0]
    }

    /// Whether the member `index` comes to run the new image; the others stay on theirs.
    pub(super) fn is_updated(&self, index: usize) -> bool {
        index == 0 || self.members[index].state.is_companion
    }

    /// The members in the order in which they are swapped: each range is stopped and started as a whole, after those before
    /// it have passed.
    pub(super) fn stages(&self) -> Vec<Range<usize>> {
        let leads = (1..self.members.len()).filter(|index| self.members[*index].state.leads);
        let starts: Vec<usize> = std::iter::once(0).chain(leads).collect();
        let ends = starts.iter().skip(1).copied().chain([self.members.len()]);
        starts.iter().copied().zip(ends).map(|(start, end)| start..end).collect()
    }
}

impl Rollout {
    /// Forwards: what rested is started, then the old containers go, those first that need others.
    ///
    /// # Errors
    /// The first step that the engine did not do; to be begun again.
    pub(super) async fn finish(&self, transaction: &Transaction) -> Result<(), EngineError> {
        let resting = transaction.members.iter().filter(|member| member.state.action == MemberAction::Restart);
        for member in resting.filter(|member| member.state.was_running) {
            gone_is_fine(self.engine.start(&member.state.old).await)?;
        }
        for member in transaction.members.iter().rev().filter(|member| member.state.action == MemberAction::Recreate) {
            if transaction.swap != SwapMode::StopFirst {
                self.stop(&member.state.old).await?;
            }
            self.remove(&member.state.old).await?;
        }
        Ok(())
    }

    /// Back, and again while the engine is away, as long as a shutdown waits.
    ///
    /// # Errors
    /// As [`Self::roll_back`]; a later recovery goes on.
    pub(super) async fn roll_back_with_retry(
        &self,
        transaction: &Transaction,
        known: &JournalEntry,
    ) -> Result<Vec<String>, EngineError> {
        let until = Instant::now() + RESTORE_FOR;
        loop {
            match self.roll_back(transaction, known).await {
                Err(error) if Instant::now() < until => {
                    debug!(%error, "not restored yet");
                    sleep(RETRY_EVERY).await;
                }
                ended => return ended,
            }
        }
    }

    /// Back: the new containers rest, the old ones get their names, policies, networks and life back, the new ones go.
    /// The root's new one goes last, for its label holds what has to be known for all of this. Where an old one is gone
    /// for good its new one stays, see `lasting`.
    /// Returns what could not be brought back, and why.
    ///
    /// # Errors
    /// The first step that the engine did not do; to be begun again.
    async fn roll_back(&self, transaction: &Transaction, known: &JournalEntry) -> Result<Vec<String>, EngineError> {
        let lasting = self.lasting(transaction, known).await?;
        for member in transaction.members.iter().rev().filter(|member| !lasting.contains(member)) {
            self.park_new(transaction, member).await?;
        }
        if known.is_stopping {
            let is_touched = |member: &&Member| !known.untouched.contains(&member.state.old);
            for member in transaction.members.iter().filter(is_touched) {
                self.await_stop(transaction, member).await?;
            }
        }
        let mut problems = Vec::new();
        let mut back = Vec::new();
        for index in (0..transaction.members.len()).filter(|index| !lasting.contains(&&transaction.members[*index])) {
            match self.restore_name(transaction, index, known).await? {
                Ok(id) => back.push((index, id)),
                Err(problem) => problems.push(problem),
            }
        }
        for (index, id) in back {
            self.start_and_verify(transaction, index, &id, known).await?;
        }
        for member in &lasting {
            problems.push(self.keep_new(transaction, member).await?);
        }
        let going = transaction.members.iter().rev().filter(|member| !lasting.contains(member));
        for new in going.filter_map(|member| member.new.as_ref()) {
            self.remove(new).await?;
        }
        Ok(problems)
    }

    /// An engine goes on with a stop whose asker died. A container that still runs then is not back: it is about to
    /// end. Asking once more waits for that. One that has its policy still was not asked to stop, and one that was
    /// started since is back already.
    async fn await_stop(&self, transaction: &Transaction, member: &Member) -> Result<(), EngineError> {
        let Some(inspection) = self.find(&member.state.old).await? else { return Ok(()) };
        // Who asks is not stopping, and would not come back to start itself.
        if self.is_own(&inspection) {
            return Ok(());
        }
        let has_policy = is_restarted_by_engine(&inspection["HostConfig"]["RestartPolicy"]);
        let was_asked = member.state.action == MemberAction::Restart || !has_policy;
        if transaction.swap != SwapMode::StopFirst || inspection["State"]["Running"] != true || !was_asked {
            return Ok(());
        }
        let new = match &transaction.root().new {
            Some(new) => self.find(new).await?,
            None => None,
        };
        if new.is_some_and(|new| was_started_since(&inspection, &new)) {
            return Ok(());
        }
        self.stop(&member.state.old).await?;
        if inspection["HostConfig"]["AutoRemove"] == true {
            self.wait_until_gone(&member.state.old).await?;
        }
        Ok(())
    }

    /// Before an old container starts, its successor must not hold its ports, its addresses or its name.
    async fn park_new(&self, transaction: &Transaction, member: &Member) -> Result<(), EngineError> {
        let Some(new) = &member.new else { return Ok(()) };
        let Some(inspection) = self.find(new).await? else { return Ok(()) };
        if inspection["State"]["Running"] == true {
            // One that ends again and again is started by the engine in the middle of its being stopped, which then
            // takes all of its grace period, and leaves an endpoint in its network for good.
            if is_restarted_by_engine(&inspection["HostConfig"]["RestartPolicy"]) {
                tolerate_fixed_policy(self.engine.set_restart_policy(new, &json!({ "Name": "no" })).await)?;
            }
            self.stop(new).await?;
        }
        if name_of(&inspection) == member.state.name {
            gone_is_fine(self.engine.rename(new, &member.state.temporary_name(&transaction.id)).await)?;
        }
        Ok(())
    }

    /// The id under which the old container is there again, or why it is not.
    async fn restore_name(
        &self,
        transaction: &Transaction,
        index: usize,
        known: &JournalEntry,
    ) -> Result<Result<String, String>, EngineError> {
        let Member { state, new } = &transaction.members[index];
        let Some(inspection) = self.find(&state.old).await? else {
            let is_new_there = match new {
                Some(new) => self.find(new).await?.is_some(),
                None => false,
            };
            // Where both are gone somebody took the service down, unless they went by themselves.
            let snapshot = known.snapshot_of(&state.old);
            return match snapshot.filter(|snapshot| is_new_there || snapshot.goes_when_stopped()) {
                Some(snapshot) => self.recreate_removed(transaction, index, snapshot).await.map(Ok),
                None => Ok(Err(format!("{} is gone, and nothing is left to make it from", state.name))),
            };
        };
        let aside = state.aside_name(&transaction.id);
        if name_of(&inspection) == aside
            && let Err(error) = self.engine.rename(&state.old, &state.name).await
        {
            let owner = self.find(&state.name).await?.filter(|owner| owner["Id"] != state.old.as_str());
            let is_stranger = |owner: &Value| {
                !transaction.members.iter().any(|member| owner["Id"] == member.new.as_deref().unwrap_or_default())
            };
            if !owner.is_some_and(|owner| is_stranger(&owner)) {
                return Err(error);
            }
            return Ok(Err(format!(
                "somebody else took the name {}; the container from before is {aside}",
                state.name
            )));
        }
        Ok(Ok(state.old.clone()))
    }

    /// Policy, networks and life of an old container, as they were. One that cannot be started now, because somebody
    /// took its port say, is tried again with each poll.
    async fn start_and_verify(
        &self,
        transaction: &Transaction,
        index: usize,
        id: &str,
        known: &JournalEntry,
    ) -> Result<(), EngineError> {
        let state = &transaction.members[index].state;
        let Some(inspection) = self.find(id).await? else { return Ok(()) };
        // A start that fails may take endpoints away, this one or one before.
        let mut before = Snapshot { container: inspection.clone(), image: Value::Null };
        if let Some(networks) = known.networks.get(&state.old) {
            before.container["NetworkSettings"]["Networks"] = networks.clone();
        }
        let snapshot = known.snapshot_of(&state.old).unwrap_or(&before);
        if state.action == MemberAction::Recreate {
            self.restore_restart_policy(state, id, &inspection).await?;
            self.reconnect(transaction, id, &inspection, snapshot).await?;
        }
        if !state.was_running || inspection["State"]["Running"] == true || self.engine.start(id).await.is_ok() {
            return Ok(());
        }
        sleep(RETRY_EVERY).await;
        let inspection = self.engine.inspect_container(id).await?;
        self.reconnect(transaction, id, &inspection, snapshot).await?;
        self.engine.start(id).await
    }

    /// Gives a container the policy that the old one had.
    pub(super) async fn restore_restart_policy(
        &self,
        state: &MemberState,
        id: &str,
        inspection: &Value,
    ) -> Result<(), EngineError> {
        if inspection["HostConfig"]["RestartPolicy"]["Name"] == state.policy["Name"] {
            return Ok(());
        }
        tolerate_fixed_policy(self.engine.set_restart_policy(id, &state.policy).await)
    }

    /// Gives a container the networks back that it has no longer.
    async fn reconnect(
        &self,
        transaction: &Transaction,
        id: &str,
        inspection: &Value,
        before: &Snapshot,
    ) -> Result<(), EngineError> {
        let has = &inspection["NetworkSettings"]["Networks"];
        let had = before.container["NetworkSettings"]["Networks"].as_object();
        if had.is_none_or(|had| had.keys().all(|network| !has[network].is_null())) {
            return Ok(());
        }
        let plan = self.plan_again(transaction, before).await?;
        let created = plan.body["NetworkingConfig"]["EndpointsConfig"].as_object().cloned().unwrap_or_default();
        for (network, endpoint) in created.into_iter().chain(plan.networks_to_connect) {
            if has[&network].is_null() {
                self.engine.connect_network(&network, id, &endpoint).await?;
            }
        }
        Ok(())
    }

    /// The new containers go, and nobody else is touched.
    ///
    /// # Errors
    /// The first one that the engine did not remove.
    pub(super) async fn discard(&self, transaction: &Transaction) -> Result<(), EngineError> {
        for member in transaction.members.iter().rev() {
            self.park_new(transaction, member).await?;
            if let Some(new) = &member.new {
                self.remove(new).await?;
            }
        }
        Ok(())
    }

    /// Takes a container's restart policy away, so that a restart of the engine does not wake it.
    pub(super) async fn suspend_restart_policy(&self, state: &MemberState) -> Result<(), EngineError> {
        if !is_restarted_by_engine(&state.policy) {
            return Ok(());
        }
        tolerate_fixed_policy(self.engine.set_restart_policy(&state.old, &json!({ "Name": "no" })).await)
    }

    /// Stops a container; one that is gone is stopped. An answer that does not come is not taken for one.
    pub(super) async fn stop(&self, container: &str) -> Result<(), EngineError> {
        let stopped = gone_is_fine(self.engine.stop(container).await);
        match stopped {
            Err(error @ EngineError::Timeout { .. }) => match self.find(container).await? {
                Some(inspection) if inspection["State"]["Running"] == true => Err(error),
                _ => Ok(()),
            },
            stopped => stopped,
        }
    }

    /// Removes a container, never its volumes; returns when it is gone.
    ///
    /// # Errors
    /// The engine did not do it.
    pub async fn remove(&self, container: &str) -> Result<(), EngineError> {
        match self.engine.remove(container, true).await {
            Err(EngineError::Conflict { message }) if message.contains("already in progress") => {
                self.wait_until_gone(container).await
            }
            removed => gone_is_fine(removed),
        }
    }

    pub(super) async fn wait_until_gone(&self, container: &str) -> Result<(), EngineError> {
        let until = Instant::now() + GONE_TIMEOUT;
        while self.find(container).await?.is_some() {
            if Instant::now() >= until {
                return Err(EngineError::Timeout { action: format!("remove {container}"), limit: GONE_TIMEOUT });
            }
            sleep(LOOK_EVERY).await;
        }
        Ok(())
    }

    /// The inspection of a container that may be gone.
    pub(super) async fn find(&self, container: &str) -> Result<Option<Value>, EngineError> {
        match self.engine.inspect_container(container).await {
            Err(error) if error.is_gone() => Ok(None),
            found => found.map(Some),
        }
    }
}

/// The facts in a container's label, if it was made by a transaction.
pub(super) fn facts_of(inspection: &Value) -> Option<label::TransactionLabel> {
    label::TransactionLabel::parse(inspection["Config"]["Labels"][label::LABEL].as_str()?)
}

/// The containers whose volumes a container uses, written as `id[:mode]`.
pub(super) fn volume_sources(container: &Value) -> impl Iterator<Item = &str> {
    let sources = container["HostConfig"]["VolumesFrom"].as_array().into_iter().flatten().filter_map(Value::as_str);
    sources.map(|source| source.split(':').next().unwrap_or(source))
}

/// Whether a container was started after another one was created, by whole seconds of the engine's own clock.
fn was_started_since(container: &Value, created: &Value) -> bool {
    let seconds = |time: &Value| time.as_str().and_then(|time| time.get(..19)).map(str::to_owned);
    match (seconds(&container["State"]["StartedAt"]), seconds(&created["Created"])) {
        (Some(started), Some(created)) => started > created,
        _ => false,
    }
}

fn is_restarted_by_engine(policy: &Value) -> bool {
    !matches!(policy["Name"].as_str(), None | Some("" | "no"))
}

/// A container's id.
pub(super) fn id_of(inspection: &Value) -> String {
    inspection["Id"].as_str().unwrap_or_default().to_owned()
}

/// A container's name, without the slash.
pub(super) fn name_of(inspection: &Value) -> &str {
    inspection["Name"].as_str().unwrap_or_default().trim_start_matches('/')
}

pub(super) fn gone_is_fine(result: Result<(), EngineError>) -> Result<(), EngineError> {
    match result {
        Err(error) if error.is_gone() => Ok(()),
        other => other,
    }
}

/// One created with --rm has none to change, and Podman before 5.1 has no such call; neither restarts it.
pub(super) fn tolerate_fixed_policy(result: Result<(), EngineError>) -> Result<(), EngineError> {
    match result {
        Err(EngineError::Conflict { message }) if message.contains("AutoRemove") => Ok(()),
        Err(EngineError::NotFound { .. } | EngineError::Refused { status: 405, .. }) => Ok(()),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_container_that_was_started_since_is_told_by_the_second() {
        for (started, created, expected) in [
            ("2026-11-21T12:00:05.1Z", "2026-11-21T12:00:01.999999999Z", true),
            ("2026-11-21T12:00:01.9Z", "2026-11-21T12:00:01.1Z", false),
            ("2026-11-21T11:59:59Z", "2026-11-21T12:00:01Z", false),
            ("", "2026-11-21T12:00:01Z", false),
        ] {
            let container = json!({ "State": { "StartedAt": started } });
            assert_eq!(was_started_since(&container, &json!({ "Created": created })), expected, "{started} {created}");
        }
    }
}

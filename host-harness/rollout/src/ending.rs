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

use super::Replacer;
use super::facts::{self, Handling, Origin, Part, Swap};
use super::journal::{Entry, Snapshot};
use imagewatch_engine::EngineError;

/// How long an engine that is away is waited for to bring a container back; less than a shutdown waits.
const RESTORE_FOR: Duration = Duration::from_secs(20);
const RETRY_EVERY: Duration = Duration::from_millis(500);
/// For the engine to remove what it has begun to remove.
const GONE_WITHIN: Duration = Duration::from_secs(30);
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// A transaction as far as it is known, by itself or from labels.
#[derive(Debug, Clone, PartialEq)]
pub struct Transaction {
    /// Eight hex digits.
    pub id: String,
    /// How the swap goes.
    pub swap: Swap,
    /// The root first, then each after those that it needs.
    pub sides: Vec<Side>,
    /// How long a container without a health check must stay up.
    pub stable_for: Duration,
    /// On whose behalf.
    pub origin: Origin,
    /// Whose it is.
    pub owner: String,
}

/// One container of a transaction, before and after.
#[derive(Debug, Clone, PartialEq)]
pub struct Side {
    /// Before.
    pub part: Part,
    /// The id of the new one, once there is one.
    pub new: Option<String>,
}

impl Transaction {
    /// The container that it is about.
    pub fn root(&self) -> &Side {
        &self.sides[0]
    }

    /// Whether the side `index` comes to run the new image; the others stay on theirs.
    pub(super) fn is_updated(&self, index: usize) -> bool {
        index == 0 || self.sides[index].part.is_member
    }

    /// The sides in the order in which they are swapped: each range is stopped and started as a whole, after those before
    /// it have passed.
    pub(super) fn stages(&self) -> Vec<Range<usize>> {
        let leads = (1..self.sides.len()).filter(|index| self.sides[*index].part.leads);
        let starts: Vec<usize> = std::iter::once(0).chain(leads).collect();
        let ends = starts.iter().skip(1).copied().chain([self.sides.len()]);
        starts.iter().copied().zip(ends).map(|(start, end)| start..end).collect()
    }
}

impl Replacer {
    /// Forwards: what rested is started, then the old containers go, those first that need others.
    ///
    /// # Errors
    /// The first step that the engine did not do; to be begun again.
    pub(super) async fn finish(&self, transaction: &Transaction) -> Result<(), EngineError> {
        let resting = transaction.sides.iter().filter(|side| side.part.handling == Handling::Restart);
        for side in resting.filter(|side| side.part.was_running) {
            gone_is_fine(self.engine.start(&side.part.old).await)?;
        }
        for side in transaction.sides.iter().rev().filter(|side| side.part.handling == Handling::Recreate) {
            if transaction.swap != Swap::StopFirst {
                self.stop(&side.part.old).await?;
            }
            self.remove(&side.part.old).await?;
        }
        Ok(())
    }

    /// Back, and again while the engine is away, as long as a shutdown waits.
    ///
    /// # Errors
    /// As [`Self::abort`]; a later recovery goes on.
    pub(super) async fn abort_patiently(
        &self,
        transaction: &Transaction,
        known: &Entry,
    ) -> Result<Vec<String>, EngineError> {
        let until = Instant::now() + RESTORE_FOR;
        loop {
            match self.abort(transaction, known).await {
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
    async fn abort(&self, transaction: &Transaction, known: &Entry) -> Result<Vec<String>, EngineError> {
        let lasting = self.lasting(transaction, known).await?;
        for side in transaction.sides.iter().rev().filter(|side| !lasting.contains(side)) {
            self.put_aside_new(transaction, side).await?;
        }
        if known.is_stopping {
            let is_touched = |side: &&Side| !known.untouched.contains(&side.part.old);
            for side in transaction.sides.iter().filter(is_touched) {
                self.await_stop(transaction, side).await?;
            }
        }
        let mut problems = Vec::new();
        let mut back = Vec::new();
        for index in (0..transaction.sides.len()).filter(|index| !lasting.contains(&&transaction.sides[*index])) {
            match self.give_name_back(transaction, index, known).await? {
                Ok(id) => back.push((index, id)),
                Err(problem) => problems.push(problem),
            }
        }
        for (index, id) in back {
            self.bring_up(transaction, index, &id, known).await?;
        }
        for side in &lasting {
            problems.push(self.let_new_stay(transaction, side).await?);
        }
        let going = transaction.sides.iter().rev().filter(|side| !lasting.contains(side));
        for new in going.filter_map(|side| side.new.as_ref()) {
            self.remove(new).await?;
        }
        Ok(problems)
    }

    /// An engine goes on with a stop whose asker died. A container that still runs then is not back: it is about to
    /// end. Asking once more waits for that. One that has its policy still was not asked to stop, and one that was
    /// started since is back already.
    async fn await_stop(&self, transaction: &Transaction, side: &Side) -> Result<(), EngineError> {
        let Some(inspection) = self.find(&side.part.old).await? else { return Ok(()) };
        // Who asks is not stopping, and would not come back to start itself.
        if self.is_own(&inspection) {
            return Ok(());
        }
        let has_policy = is_restarted_by_engine(&inspection["HostConfig"]["RestartPolicy"]);
        let was_asked = side.part.handling == Handling::Restart || !has_policy;
        if transaction.swap != Swap::StopFirst || inspection["State"]["Running"] != true || !was_asked {
            return Ok(());
        }
        let new = match &transaction.root().new {
            Some(new) => self.find(new).await?,
            None => None,
        };
        if new.is_some_and(|new| was_started_since(&inspection, &new)) {
            return Ok(());
        }
        self.stop(&side.part.old).await?;
        if inspection["HostConfig"]["AutoRemove"] == true {
            self.wait_until_gone(&side.part.old).await?;
        }
        Ok(())
    }

    /// Before an old container starts, its successor must not hold its ports, its addresses or its name.
    async fn put_aside_new(&self, transaction: &Transaction, side: &Side) -> Result<(), EngineError> {
        let Some(new) = &side.new else { return Ok(()) };
        let Some(inspection) = self.find(new).await? else { return Ok(()) };
        if inspection["State"]["Running"] == true {
            // One that ends again and again is started by the engine in the middle of its being stopped, which then
            // takes all of its grace period, and leaves an endpoint in its network for good.
            if is_restarted_by_engine(&inspection["HostConfig"]["RestartPolicy"]) {
                tolerate_fixed_policy(self.engine.set_restart_policy(new, &json!({ "Name": "no" })).await)?;
            }
            self.stop(new).await?;
        }
        if name_of(&inspection) == side.part.name {
            gone_is_fine(self.engine.rename(new, &side.part.temporary_name(&transaction.id)).await)?;
        }
        Ok(())
    }

    /// The id under which the old container is there again, or why it is not.
    async fn give_name_back(
        &self,
        transaction: &Transaction,
        index: usize,
        known: &Entry,
    ) -> Result<Result<String, String>, EngineError> {
        let Side { part, new } = &transaction.sides[index];
        let Some(inspection) = self.find(&part.old).await? else {
            let is_new_there = match new {
                Some(new) => self.find(new).await?.is_some(),
                None => false,
            };
            // Where both are gone somebody took the service down, unless they went by themselves.
            let snapshot = known.snapshot_of(&part.old);
            return match snapshot.filter(|snapshot| is_new_there || snapshot.goes_when_stopped()) {
                Some(snapshot) => self.make_again(transaction, index, snapshot).await.map(Ok),
                None => Ok(Err(format!("{} is gone, and nothing is left to make it from", part.name))),
            };
        };
        let aside = part.aside_name(&transaction.id);
        if name_of(&inspection) == aside
            && let Err(error) = self.engine.rename(&part.old, &part.name).await
        {
            let owner = self.find(&part.name).await?.filter(|owner| owner["Id"] != part.old.as_str());
            let is_stranger = |owner: &Value| {
                !transaction.sides.iter().any(|side| owner["Id"] == side.new.as_deref().unwrap_or_default())
            };
            if !owner.is_some_and(|owner| is_stranger(&owner)) {
                return Err(error);
            }
            return Ok(Err(format!("somebody else took the name {}; the container from before is {aside}", part.name)));
        }
        Ok(Ok(part.old.clone()))
    }

    /// Policy, networks and life of an old container, as they were. One that cannot be started now, because somebody
    /// took its port say, is tried again with each poll.
    async fn bring_up(
        &self,
        transaction: &Transaction,
        index: usize,
        id: &str,
        known: &Entry,
    ) -> Result<(), EngineError> {
        let part = &transaction.sides[index].part;
        let Some(inspection) = self.find(id).await? else { return Ok(()) };
        // A start that fails may take endpoints away, this one or one before.
        let mut before = Snapshot { container: inspection.clone(), image: Value::Null };
        if let Some(networks) = known.networks.get(&part.old) {
            before.container["NetworkSettings"]["Networks"] = networks.clone();
        }
        let snapshot = known.snapshot_of(&part.old).unwrap_or(&before);
        if part.handling == Handling::Recreate {
            self.rearm(part, id, &inspection).await?;
            self.reconnect(transaction, id, &inspection, snapshot).await?;
        }
        if !part.was_running || inspection["State"]["Running"] == true || self.engine.start(id).await.is_ok() {
            return Ok(());
        }
        sleep(RETRY_EVERY).await;
        let inspection = self.engine.inspect_container(id).await?;
        self.reconnect(transaction, id, &inspection, snapshot).await?;
        self.engine.start(id).await
    }

    /// Gives a container the policy that the old one had.
    pub(super) async fn rearm(&self, part: &Part, id: &str, inspection: &Value) -> Result<(), EngineError> {
        if inspection["HostConfig"]["RestartPolicy"]["Name"] == part.policy["Name"] {
            return Ok(());
        }
        tolerate_fixed_policy(self.engine.set_restart_policy(id, &part.policy).await)
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
        for side in transaction.sides.iter().rev() {
            self.put_aside_new(transaction, side).await?;
            if let Some(new) = &side.new {
                self.remove(new).await?;
            }
        }
        Ok(())
    }

    /// Takes a container's restart policy away, so that a restart of the engine does not wake it.
    pub(super) async fn disarm(&self, part: &Part) -> Result<(), EngineError> {
        if !is_restarted_by_engine(&part.policy) {
            return Ok(());
        }
        tolerate_fixed_policy(self.engine.set_restart_policy(&part.old, &json!({ "Name": "no" })).await)
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
        let until = Instant::now() + GONE_WITHIN;
        while self.find(container).await?.is_some() {
            if Instant::now() >= until {
                return Err(EngineError::Timeout { action: format!("remove {container}"), limit: GONE_WITHIN });
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
pub(super) fn facts_of(inspection: &Value) -> Option<facts::Facts> {
    facts::Facts::parse(inspection["Config"]["Labels"][facts::LABEL].as_str()?)
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

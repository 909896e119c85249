//! One manifest's policy with what it remembers: hands state, cache and quarantine in and takes
//! them back, one call at a time, and notes what happened. A call that faults changes nothing. Knows no
//! schedule and runs no orders.

pub(crate) mod pending;
mod policy_state;
mod quarantine;

use std::sync::Arc;

use imagewatch_abi::{
    Failure, NotWatched, Order, Outcome, PollInput, PollMode, PollOutput, RefreshInput, RefreshOutput, Report,
    SettleInput, SettleOutput, Verdict, exports,
};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::daemon::effects::GrantedHost;
use crate::store::Store;
use imagewatch_base::clock::now_ms;
use imagewatch_base::text::sanitize_line;
use imagewatch_policy::transcript::Recorder;
use imagewatch_policy::{CallError, FaultKind, LoadedPlugin, PluginManifest, Record, StateKeeping, call};

use policy_state::PolicyState;
use quarantine::QuarantineCache;

/// A policy at work. `Debug` shows neither state nor cache.
pub struct Session {
    /// Its manifest.
    pub manifest: Arc<PluginManifest>,
    /// Its module.
    pub plugin: Arc<LoadedPlugin>,
    effects: Arc<GrantedHost>,
    memory: PolicyState,
    /// Opaque; holds tokens, so it is shown nowhere.
    cache: Value,
    quarantine: QuarantineCache,
    store: Arc<Store>,
    record: Arc<Record>,
    recorder: Option<Arc<Recorder>>,
    /// That the store does not take the history was reported.
    is_history_reported: bool,
}

impl std::fmt::Debug for Session {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Session").field("manifest", &self.manifest.name).finish_non_exhaustive()
    }
}

impl Session {
    /// A policy that knows what is quarantined in `store`, and if `keeping` says so what it has seen before.
    pub fn new(
        manifest: Arc<PluginManifest>,
        plugin: Arc<LoadedPlugin>,
        effects: Arc<GrantedHost>,
        store: Arc<Store>,
        record: Arc<Record>,
        keeping: StateKeeping,
    ) -> Self {
        let quarantine = QuarantineCache::new(store.clone(), &manifest.name);
        let memory = PolicyState::new(store.clone(), &manifest.name, keeping);
        Self {
            manifest,
            plugin,
            effects,
            memory,
            cache: Value::Null,
            quarantine,
            store,
            record,
            recorder: None,
            is_history_reported: false,
        }
    }

    /// The same, with every call taken down.
    #[must_use]
    pub fn recorded(self, recorder: Arc<Recorder>) -> Self {
        recorder.note_policy(&self.manifest, &self.plugin.info.sha256);
        Self { recorder: Some(recorder), ..self }
    }

    /// Goes on with another policy, or another manifest. What was seen and ordered stays. What was learnt of registries,
    /// refused logins and who wants to be left alone among it, stays with the module that learnt it: it is that one's
    /// own, and holds tokens.
    pub fn swap(&mut self, manifest: Arc<PluginManifest>, plugin: Arc<LoadedPlugin>, effects: Arc<GrantedHost>) {
        self.memory.keep(manifest.host.state);
        if plugin.info.sha256 != self.plugin.info.sha256 {
            self.cache = Value::Null;
        }
        (self.manifest, self.plugin, self.effects) = (manifest, plugin, effects);
        if let Some(recorder) = &self.recorder {
            recorder.note_policy(&self.manifest, &self.plugin.info.sha256);
        }
    }

    /// What its policy can make happen.
    pub fn effects(&self) -> Arc<GrantedHost> {
        self.effects.clone()
    }

    /// What the policy remembers; opaque.
    pub fn state(&self) -> Value {
        self.memory.read()
    }

    /// One tick over the targets in `only`, or all. Returns what the policy says and the orders to run now.
    ///
    /// # Errors
    /// A fault of the policy; nothing was ordered.
    pub async fn poll(
        &mut self,
        only: Option<Vec<String>>,
        in_flight: Vec<String>,
        mode: PollMode,
    ) -> Result<(PollOutput, Vec<Order>), CallError> {
        self.effects.set_in_flight(&in_flight);
        // Polling again what is pending belongs to the poll before.
        if only.is_none() {
            self.effects.begin_poll();
        }
        self.effects.report_suppressed();
        self.effects.deferred().begin_call();
        let input = PollInput {
            now_ms: now_ms(),
            state: self.memory.read(),
            cache: self.cache.clone(),
            only,
            in_flight,
            mode,
            quarantine: self.quarantine.read(),
        };
        let called = self.call(exports::POLL, input).await;
        self.effects.deferred().end_call();
        let (mut output, orders): (PollOutput, _) = called?;
        sanitize_all(&mut output.outcomes, &mut output.err);
        self.cache = std::mem::take(&mut output.cache);
        self.complete(&mut output, mode);
        // A check changes nothing, whatever the policy says.
        let changed = output.quarantine.take().filter(|_| mode == PollMode::Watch);
        if mode == PollMode::Watch {
            self.quarantine.write(changed);
            self.memory.write(std::mem::take(&mut output.state));
            self.note(&output.outcomes);
        }
        Ok((output, orders))
    }

    /// Adds what the host kept from the policy to the containers that it does not watch.
    fn complete(&self, output: &mut PollOutput, mode: PollMode) {
        let unshown = self.effects.take_unshown();
        if mode == PollMode::Watch && !output.outcomes.is_empty() {
            output.not_watched.clear();
            return;
        }
        output.not_watched.extend(unshown);
        output.not_watched.sort();
        for NotWatched { container, image, reason } in &mut output.not_watched {
            (*container, *image, *reason) = (sanitize_line(container), sanitize_line(image), sanitize_line(reason));
        }
    }

    /// Hands in the reports of orders that ended.
    ///
    /// # Errors
    /// A fault of the policy; the reports were not taken.
    pub async fn settle(&mut self, reports: Vec<Report>) -> Result<SettleOutput, CallError> {
        let mut reports = reports;
        // What a container logs may hold secrets, and says nothing that a decision needs.
        reports.iter_mut().flat_map(|report| &mut report.failed).for_each(|failure| failure.log.clear());
        let (now_ms, state, quarantine) = (now_ms(), self.memory.read(), self.quarantine.read());
        let input = SettleInput { now_ms, state, reports, quarantine };
        let (mut output, _): (SettleOutput, _) = self.call(exports::SETTLE, input).await?;
        sanitize_all(&mut output.outcomes, &mut output.err);
        // Before all else: what failed stays barred if the program is killed now.
        self.quarantine.write(output.quarantine.take());
        self.memory.write(std::mem::take(&mut output.state));
        self.note(&output.outcomes);
        Ok(output)
    }

    /// Orders a manual refresh of `targets`, or all, beside the orders `in_flight`. Returns what the policy says and the
    /// orders to run now.
    ///
    /// # Errors
    /// A fault of the policy; nothing was ordered.
    pub async fn refresh(
        &mut self,
        targets: Option<Vec<String>>,
        recreate: bool,
        in_flight: &[String],
    ) -> Result<(RefreshOutput, Vec<Order>), CallError> {
        self.effects.set_in_flight(in_flight);
        let input = RefreshInput { now_ms: now_ms(), state: self.memory.read(), targets, recreate };
        let (mut output, orders): (RefreshOutput, _) = self.call(exports::REFRESH, input).await?;
        sanitize_all(&mut output.outcomes, &mut output.err);
        for name in &mut output.known_targets {
            *name = sanitize_line(name);
        }
        self.memory.write(std::mem::take(&mut output.state));
        self.note(&output.outcomes);
        Ok((output, orders))
    }

    /// Puts what happened into the history; that nothing did, or that nothing is known, is no event.
    fn note(&mut self, outcomes: &[Outcome]) {
        let is_event = |outcome: &&Outcome| {
            matches!(
                outcome.verdict,
                Verdict::Seeded
                    | Verdict::Moved
                    | Verdict::Held
                    | Verdict::Committed
                    | Verdict::RolledBack
                    | Verdict::Refreshed
                    | Verdict::Failed
            )
        };
        let events: Vec<&Outcome> = outcomes.iter().filter(is_event).collect();
        if events.is_empty() {
            // That nothing was written says nothing about the disk.
            return;
        }
        let manifest = &self.manifest.name;
        match self.store.record_history(manifest, &events, now_ms()) {
            Ok(()) if std::mem::take(&mut self.is_history_reported) => {
                tracing::info!(manifest, "the history is written again");
            }
            Ok(()) => {}
            Err(error) if self.is_history_reported => tracing::debug!(manifest, "failed again to {error}"),
            Err(error) => {
                self.is_history_reported = true;
                tracing::warn!(manifest, "failed to {error}; the history lacks what happens until that works again");
            }
        }
    }

    async fn call<I, O>(&self, export: &'static str, input: I) -> Result<(O, Vec<Order>), CallError>
    where
        I: Serialize + Send + 'static,
        O: Serialize + DeserializeOwned + Send + 'static,
    {
        let (manifest, plugin, effects) = (self.manifest.clone(), self.plugin.clone(), self.effects.clone());
        let recorder = self.recorder.clone();
        self.effects.take_placed();
        let called = tokio::task::spawn_blocking(move || match recorder {
            None => call(&plugin.compiled, export, &input, effects),
            Some(recorder) => recorder.call(&manifest.name, &plugin.compiled, export, &input, effects),
        });
        let panicked =
            |error| CallError { export, kind: FaultKind::Host, reason: format!("the host panicked: {error}") };
        let called = called.await.map_err(panicked).flatten();
        let (output, cost) = called.inspect_err(|fault| self.record.fault(fault))?;
        tracing::debug!(manifest = self.manifest.name, export, elapsed = ?cost.elapsed, fuel = cost.fuel, "policy called");
        Ok((output, self.effects.take_placed()))
    }
}

/// What a policy says is shown to people and kept for them: each of it is one line.
fn sanitize_all(outcomes: &mut [Outcome], err: &mut Option<Failure>) {
    for outcome in outcomes {
        let status = outcome.status.as_mut().map(|status| &mut status.reason);
        let names = [&mut outcome.order, &mut outcome.container, &mut outcome.reason].into_iter().chain(status);
        for text in names.flatten().chain([&mut outcome.target]) {
            *text = sanitize_line(text);
        }
    }
    if let Some(failure) = err {
        failure.message = sanitize_line(&failure.message);
        failure.key = failure.key.as_deref().map(sanitize_line);
    }
}

#[cfg(test)]
mod canary;
#[cfg(test)]
mod hostile;
#[cfg(test)]
mod hostile_memory;
#[cfg(test)]
mod recorded;
#[cfg(test)]
pub(crate) mod scene;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod unshown;

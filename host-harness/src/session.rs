//! One manifest's policy with what it remembers: hands state, cache and quarantine in and takes
//! them back, one call at a time. A call that faults changes nothing. Knows no schedule and runs no orders.

mod quarantine;

use std::sync::Arc;

use imagewatch_abi::{
    Order, PollInput, PollMode, PollOutput, RefreshInput, RefreshOutput, Report, SettleInput, SettleOutput, exports,
};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::clock::now_ms;
use crate::effects::ManifestEffects;
use crate::plugin::{CallError, FaultKind, LoadedPlugin, PluginManifest, Record, call};
use crate::store::Store;

use quarantine::KeptQuarantine;

/// A policy at work. `Debug` shows neither state nor cache.
pub struct Session {
    /// Its manifest.
    pub manifest: Arc<PluginManifest>,
    /// Its module.
    pub plugin: Arc<LoadedPlugin>,
    effects: Arc<ManifestEffects>,
    /// Opaque; the policy's own.
    pub state: Value,
    /// Opaque; holds tokens, so it is shown nowhere.
    cache: Value,
    quarantine: KeptQuarantine,
    record: Arc<Record>,
}

impl std::fmt::Debug for Session {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Session").field("manifest", &self.manifest.name).finish_non_exhaustive()
    }
}

impl Session {
    /// A policy that remembers nothing yet but what is quarantined in `store`.
    pub fn new(
        manifest: Arc<PluginManifest>,
        plugin: Arc<LoadedPlugin>,
        effects: Arc<ManifestEffects>,
        store: Arc<Store>,
        record: Arc<Record>,
    ) -> Self {
        let quarantine = KeptQuarantine::new(store, &manifest.name);
        Self { manifest, plugin, effects, state: Value::Null, cache: Value::Null, quarantine, record }
    }

    /// Goes on with another policy, or another manifest. What was seen and ordered stays; what was learnt of registries
    /// does not, since it is the former policy's own, and holds tokens that this one may not be granted.
    pub fn swap(&mut self, manifest: Arc<PluginManifest>, plugin: Arc<LoadedPlugin>, effects: Arc<ManifestEffects>) {
        (self.manifest, self.plugin, self.effects) = (manifest, plugin, effects);
        self.cache = Value::Null;
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
        let input = PollInput {
            now_ms: now_ms(),
            state: self.state.clone(),
            cache: self.cache.clone(),
            only,
            in_flight,
            mode,
            quarantine: self.quarantine.read(),
        };
        let (mut output, orders): (PollOutput, _) = self.call(exports::POLL, input).await?;
        self.quarantine.write(output.quarantine.take());
        self.state = output.state.clone();
        self.cache = output.cache.clone();
        Ok((output, orders))
    }

    /// Hands in the reports of orders that ended.
    ///
    /// # Errors
    /// A fault of the policy; the reports were not taken.
    pub async fn settle(&mut self, reports: Vec<Report>) -> Result<SettleOutput, CallError> {
        let mut reports = reports;
        // What a container logs may hold secrets, and says nothing that a decision needs.
        reports.iter_mut().flat_map(|report| &mut report.failed).for_each(|failure| failure.log.clear());
        let (now_ms, state, quarantine) = (now_ms(), self.state.clone(), self.quarantine.read());
        let input = SettleInput { now_ms, state, reports, quarantine };
        let (mut output, _): (SettleOutput, _) = self.call(exports::SETTLE, input).await?;
        // Before all else: what failed stays barred if the program is killed now.
        self.quarantine.write(output.quarantine.take());
        self.state = output.state.clone();
        Ok(output)
    }

    /// Orders a manual refresh of `targets`, or all. Returns what the policy says and the orders to run now.
    ///
    /// # Errors
    /// A fault of the policy; nothing was ordered.
    pub async fn refresh(
        &mut self,
        targets: Option<Vec<String>>,
        recreate: bool,
    ) -> Result<(RefreshOutput, Vec<Order>), CallError> {
        let input = RefreshInput { now_ms: now_ms(), state: self.state.clone(), targets, recreate };
        let (output, orders): (RefreshOutput, _) = self.call(exports::REFRESH, input).await?;
        self.state = output.state.clone();
        Ok((output, orders))
    }

    async fn call<I, O>(&self, export: &'static str, input: I) -> Result<(O, Vec<Order>), CallError>
    where
        I: Serialize + Send + 'static,
        O: DeserializeOwned + Send + 'static,
    {
        let (plugin, effects) = (self.plugin.clone(), self.effects.clone());
        self.effects.take_placed();
        let called = tokio::task::spawn_blocking(move || call(&plugin.compiled, export, &input, effects)).await;
        let panicked =
            |error| CallError { export, kind: FaultKind::Host, reason: format!("the host panicked: {error}") };
        let (output, cost) = called.map_err(panicked).flatten().inspect_err(|fault| self.record.fault(fault))?;
        tracing::debug!(manifest = self.manifest.name, export, elapsed = ?cost.elapsed, fuel = cost.fuel, "policy called");
        Ok((output, self.effects.take_placed()))
    }
}

#[cfg(test)]
mod hostile;
#[cfg(test)]
pub(crate) mod scene;
#[cfg(test)]
mod tests;

//! The health gate: whether a new container may stay. Looks, waits and judges; changes nothing.
//!
//! What is judged is the new container's own, effective health check, which its image may have brought; without
//! one, that it runs and stays up. It ends with the first sign of failure, not at the end of the wait.

mod probe;

use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio::time::{Instant, sleep};
use tracing::warn;

use super::labels::{Labels, PROBE, Probe};
use imagewatch_base::text::sanitize_line;
use imagewatch_engine::{Engine, EngineError};

/// No wait for a health check is shorter, unless a label says otherwise.
const SHORTEST: Duration = Duration::from_mins(1);
const LOOK_EVERY: Duration = Duration::from_millis(200);
/// An engine that does not answer for so long is away.
const PATIENCE: u32 = 25;
/// The engine's defaults for a health check.
const INTERVAL: Duration = Duration::from_secs(30);
const TIMEOUT: Duration = Duration::from_secs(30);
const RETRIES: u64 = 3;

/// What a container must show.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HealthGate {
    /// How long it must stay up when it has no health check.
    pub stable_for: Duration,
    /// How long it may take to be healthy; none: what its health check allows.
    pub limit: Option<Duration>,
    /// What must answer as well.
    pub probe: Option<Probe>,
    /// What its predecessor suffered from already: in that it need not be better.
    pub prior_health: Option<PriorHealth>,
    /// Podman without systemd never runs a health check; one that does not begin is then none.
    pub is_podman: bool,
}

/// What one look at a container says.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Verdict {
    /// Not yet; what is missing.
    Wait(&'static str),
    /// All is well, but that its probe does not answer yet.
    Silent,
    Pass,
    Fail(String),
}

/// Why a container did not pass.
#[derive(Debug)]
pub enum GateError {
    /// It failed, as its engine says, or it never answered its probe; how.
    Failed(String),
    /// The wait ended before the engine had said whether it is healthy; what was missing.
    Undecided(String),
    /// It could not be looked at.
    Engine(EngineError),
}

impl HealthGate {
    /// The gate of a container, with its own labels.
    ///
    /// # Errors
    /// Names the label that cannot be read.
    pub fn of(
        inspection: &Value,
        stable_for: Duration,
        prior_health: Option<PriorHealth>,
        is_podman: bool,
    ) -> Result<Self, String> {
        let labels = Labels::of(inspection);
        Ok(Self {
            stable_for: labels.stable_for()?.unwrap_or(stable_for),
            limit: labels.health_timeout()?,
            probe: labels.probe()?,
            prior_health,
            is_podman,
        })
    }

    /// Waits until the started `container` passes.
    ///
    /// # Errors
    /// At the first sign that it does not.
    pub async fn wait(&self, engine: &dyn Engine, container: &str) -> Result<(), GateError> {
        let start = Instant::now();
        // Since when it is up: an engine that was restarted, or somebody by hand, starts it anew.
        let mut up_since = start;
        let mut started_at: Option<Value> = None;
        let (mut misses, mut was_away) = (0, false);
        loop {
            let inspection = match engine.inspect_container(container).await {
                Ok(inspection) => inspection,
                Err(error) if !error.is_gone() && misses < PATIENCE => {
                    misses += 1;
                    was_away = true;
                    sleep(LOOK_EVERY).await;
                    continue;
                }
                Err(error) if error.is_gone() => return Err(GateError::Failed("it is gone".to_owned())),
                Err(error) => return Err(GateError::Engine(error)),
            };
            misses = 0;
            let now = &inspection["State"]["StartedAt"];
            if !self.is_podman && is_up(&inspection) && started_at.as_ref().is_some_and(|before| before != now) {
                (started_at, up_since) = (None, Instant::now());
            }
            was_away &= inspection["State"]["Running"] != true;
            let first = started_at.get_or_insert_with(|| now.clone());
            let mut judgement = self.judge(&inspection, first, up_since.elapsed());
            if was_away && matches!(judgement, Verdict::Fail(_)) && is_ended_by_engine(&inspection) {
                let reason = "it was restarted, and the container ended with it".to_owned();
                return Err(GateError::Engine(EngineError::Unavailable { host: "its address".to_owned(), reason }));
            }
            if judgement == Verdict::Pass
                && let Some(probe) = self.probe.as_ref().filter(|_| self.prior_health.is_none())
                && !probe::answers(engine, probe, &inspection).await
            {
                judgement = Verdict::Silent;
            }
            match judgement {
                Verdict::Pass => return Ok(()),
                Verdict::Fail(reason) => return Err(GateError::Failed(reason)),
                Verdict::Wait(_) | Verdict::Silent if start.elapsed() < self.longest(&inspection) => {
                    sleep(LOOK_EVERY).await;
                }
                Verdict::Wait(missing) => {
                    return Err(GateError::Undecided(format!("after {} s {missing}", start.elapsed().as_secs())));
                }
                // The predecessor answered, and this one has run for long enough to do so too.
                Verdict::Silent => {
                    let reason = format!("after {} s its probe does not answer", start.elapsed().as_secs());
                    return Err(GateError::Failed(reason));
                }
            }
        }
    }

    /// One look, so long after the start.
    fn judge(&self, inspection: &Value, started_at: &Value, elapsed: Duration) -> Verdict {
        let is_late = elapsed >= self.stable_for;
        if self.prior_health == Some(PriorHealth::Restarting) {
            return if is_late { Verdict::Pass } else { Verdict::Wait("it is being watched") };
        }
        if let Some(reason) = exited(inspection, started_at) {
            return Verdict::Fail(reason);
        }
        if self.prior_health == Some(PriorHealth::Unhealthy) && is_late {
            return Verdict::Pass;
        }
        match self.health(inspection, elapsed) {
            Some("healthy") => Verdict::Pass,
            Some("unhealthy") if self.prior_health != Some(PriorHealth::Unhealthy) => {
                Verdict::Fail(format!("it is unhealthy{}", last_check(inspection)))
            }
            Some(_) => Verdict::Wait("it is not healthy yet"),
            None if is_late => Verdict::Pass,
            None => Verdict::Wait("it has not been up for long enough"),
        }
    }

    /// The engine's word on its health; none without a health check.
    fn health<'a>(&self, inspection: &'a Value, elapsed: Duration) -> Option<&'a str> {
        let health = &inspection["State"]["Health"];
        let status =
            health["Status"].as_str().filter(|status| has_check(inspection) && !matches!(*status, "" | "none"))?;
        let has_begun = health["Log"].as_array().is_some_and(|log| !log.is_empty());
        let check = &inspection["Config"]["Healthcheck"];
        let is_overdue = elapsed > span(check, "StartPeriod", Duration::ZERO) + 2 * span(check, "Interval", INTERVAL);
        let never_begins = self.is_podman && status == "starting" && !has_begun && is_overdue;
        (!never_begins).then_some(status)
    }

    /// The end of the wait: a label's, or else not before the engine must have said whether the container is healthy.
    fn longest(&self, inspection: &Value) -> Duration {
        if !has_check(inspection) {
            // Less than it is to stay up nobody can pass.
            return self.limit.map_or(self.stable_for + SHORTEST, |limit| limit.max(self.stable_for));
        }
        self.limit.unwrap_or_else(|| time_to_decide(&inspection["Config"]["Healthcheck"]))
    }
}

/// How long the engine may take to call a container unhealthy: so many checks in a row must fail. One more may begin
/// within the start period, where its failure does not count.
fn time_to_decide(check: &Value) -> Duration {
    let retries = check["Retries"].as_u64().filter(|retries| *retries > 0).unwrap_or(RETRIES);
    let checks = u32::try_from(retries).unwrap_or(u32::MAX).saturating_add(1);
    let one = span(check, "Interval", INTERVAL).saturating_add(span(check, "Timeout", TIMEOUT));
    span(check, "StartPeriod", Duration::ZERO).saturating_add(one.saturating_mul(checks)).max(SHORTEST)
}

/// What a container suffers from; a successor that suffers from the same is no worse.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PriorHealth {
    /// Its health check says so.
    Unhealthy,
    /// It ends again and again.
    Restarting,
    /// Its probe gets no answer, perhaps not from here.
    Silent,
}

/// What a container suffers from before it is replaced.
pub fn illness(inspection: &Value) -> Option<PriorHealth> {
    let state = &inspection["State"];
    if state["Restarting"] == true {
        Some(PriorHealth::Restarting)
    } else {
        (state["Health"]["Status"] == "unhealthy").then_some(PriorHealth::Unhealthy)
    }
}

/// As [`illness`], and asks its probe: an image is not to blame for an answer that did not come before either.
pub(super) async fn illness_or_silence(engine: &dyn Engine, inspection: &Value) -> Option<PriorHealth> {
    let ill = illness(inspection);
    let probe = Labels::of(inspection).probe().ok().flatten();
    let probe = probe.filter(|_| ill.is_none() && inspection["State"]["Running"] == true);
    let Some(probe) = probe else { return ill };
    if probe::answers_some_time(engine, &probe, inspection).await {
        return None;
    }
    let container = super::ending::name_of(inspection);
    warn!(%container, "does not answer its probe before the update, so that does not count after it either");
    Some(PriorHealth::Silent)
}

/// Why the probe of a container that runs can never be answered, as a lowercase fragment.
pub(super) async fn reason_against_probe(engine: &dyn Engine, inspection: &Value) -> Option<String> {
    let state = &inspection["State"];
    Labels::of(inspection).value(PROBE)?;
    if state["Running"] != true || state["Restarting"] == true || probe::can_be_asked(engine, inspection).await {
        return None;
    }
    Some(format!(
        "its label {PROBE} asks at an address, and it has none on any network; give it a health check instead"
    ))
}

/// Whether it runs, and did not come to that by ending before: the engine counts how often it restarts one.
fn is_up(inspection: &Value) -> bool {
    let state = &inspection["State"];
    let restarts = inspection["RestartCount"].as_u64().unwrap_or(0);
    state["Running"] == true && state["Restarting"] != true && restarts == 0
}

/// Whether it may have ended only since its engine did: killed, or of an end that the engine did not see.
fn is_ended_by_engine(inspection: &Value) -> bool {
    let state = &inspection["State"];
    let is_killed = matches!(state["ExitCode"].as_u64(), Some(0 | 137 | 143 | 255));
    state["Running"] != true
        && state["OOMKilled"] != true
        && inspection["RestartCount"].as_u64() == Some(0)
        && is_killed
}

fn has_check(inspection: &Value) -> bool {
    let test = inspection["Config"]["Healthcheck"]["Test"].as_array();
    test.is_some_and(|test| test.first().is_some_and(|word| word != "NONE" && word != ""))
}

/// How a container that was started is no longer up.
fn exited(inspection: &Value, started_at: &Value) -> Option<String> {
    let state = &inspection["State"];
    let code = &state["ExitCode"];
    let error = state["Error"].as_str().filter(|error| !error.is_empty());
    let error = error.map(|error| format!(" ({})", sanitize_line(error))).unwrap_or_default();
    let restarts = inspection["RestartCount"].as_u64().unwrap_or(0);
    if state["OOMKilled"] == true {
        Some("it ran out of memory".to_owned())
    } else if state["Restarting"] == true {
        Some(format!("it exited with code {code}{error} and is being restarted"))
    } else if restarts > 0 || state["StartedAt"] != *started_at {
        // Once it is up again, the code is that of nobody.
        Some("it exited and was restarted".to_owned())
    } else if state["Running"] != true {
        Some(format!("it exited with code {code}{error}"))
    } else {
        None
    }
}

/// What the last health check said, for people.
fn last_check(inspection: &Value) -> String {
    let output = inspection["State"]["Health"]["Log"].as_array().and_then(|log| log.last()?["Output"].as_str());
    let line = output.and_then(|output| output.trim().lines().next()).unwrap_or_default();
    let line: String = sanitize_line(line).chars().take(200).collect();
    if line.is_empty() { line } else { format!(": {line}") }
}

/// A duration of a health check, which the engine counts in nanoseconds and leaves out where it is the default.
fn span(check: &Value, field: &str, default: Duration) -> Duration {
    check[field].as_u64().filter(|ns| *ns > 0).map_or(default, Duration::from_nanos)
}

#[cfg(test)]
mod tests;

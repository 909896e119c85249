//! One actor per manifest: tick, trigger, settle, reload, shut down; one plugin call at a time. Orders run
//! beside it, so that no tick waits for Docker and no manifest for another.

mod reload;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use imagewatch_abi::{Failure, FailureCode, Order, Outcome, PollMode, PollOutput, Report};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::{Id, JoinSet};
use tokio::time::{Instant, sleep_until, timeout};
use tracing::{debug, error, info, warn};

use crate::daemon::session::Session;
use crate::daemon::session::pending::{keep_known, replace_outcomes};
use crate::daemon::unwatched::explain;
use imagewatch_base::clock::now_ms;
use imagewatch_policy::CallError;
use imagewatch_rollout::orders::{Batch, OrderContext, run_order};

pub use reload::{Prepare, Prepared, ReloadReply, ReloadRequest, Reloads};

use reload::Loading;

/// How long orders under way may take to come to a safe end when the program stops. Longer than
/// Docker's own 10 s for a container that does not heed SIGTERM.
pub const SHUTDOWN_GRACE: Duration = Duration::from_secs(25);

const BEFORE_FIRST_POLL: &str = "its first poll is not over";

/// A policy is not polled more often, whatever it says: what it asks of registries counts against somebody's quota.
const MIN_INTERVAL: Duration = Duration::from_millis(100);

/// The longest wait after faults of a policy in a row, where its own interval is not longer.
const LONGEST_AFTER_FAULT: Duration = Duration::from_mins(5);

/// What a manifest's actor can be asked.
#[derive(Debug)]
pub struct RefreshRequest {
    /// Names of targets; none means all.
    pub targets: Option<Vec<String>>,
    /// Whether containers are handled.
    pub recreate: bool,
    /// Gets the answer once every order has ended.
    pub reply: oneshot::Sender<RefreshReply>,
}

/// How a manual refresh ended.
#[derive(Debug, Clone, Default)]
pub struct RefreshReply {
    /// Of every order.
    pub reports: Vec<Report>,
    /// Of targets that were not ordered.
    pub outcomes: Vec<Outcome>,
    /// What may be asked for, when a name was not known.
    pub known_targets: Vec<String>,
    /// Why nothing was ordered.
    pub err: Option<Failure>,
}

/// What is known of a manifest from outside.
#[derive(Debug, Clone, Default)]
pub struct Status {
    /// Why it is not ready; none when its first tick is over or polling is off by config.
    pub not_ready: Option<String>,
    /// What the last poll that came off said of each target.
    pub outcomes: Vec<Outcome>,
    /// When that was, milliseconds since 1970.
    pub at_ms: u64,
}

impl Status {
    /// Of an actor that has not polled yet.
    pub fn before_first_poll() -> Self {
        Self { not_ready: Some(BEFORE_FIRST_POLL.to_owned()), ..Self::default() }
    }

    fn is_before_first_poll(&self) -> bool {
        self.not_ready.as_deref() == Some(BEFORE_FIRST_POLL)
    }
}

/// The actor.
pub struct Watch {
    session: Session,
    orders: OrderContext,
    requests: mpsc::Receiver<RefreshRequest>,
    status: watch::Sender<Status>,
    running: JoinSet<Report>,
    /// Orders by the task that runs them.
    ids: BTreeMap<Id, Order>,
    /// Ends what a dead program left half done; at most one at a time.
    recovering: JoinSet<Vec<Report>>,
    /// Reports that the policy could not take yet.
    unsettled: Vec<Report>,
    waiting: Vec<Waiting>,
    /// Targets for which a registry's answer is pending: polled again when it is there.
    pending: Vec<String>,
    /// What came while the policy was polled.
    meanwhile: Meanwhile,
    reloads: Reloads,
    loading: Loading,
    /// Polls in a row that ended with a fault of the policy, and when it is polled again after that.
    faults: u32,
    not_before: Option<Instant>,
    /// It was said why nothing is watched.
    is_silence_explained: bool,
}

/// Twice as long with each of `faults` in a row: a policy that computes until it is ended would do nothing else, and keep
/// others from computing.
fn wait_after_fault(interval: Duration, faults: u32) -> Duration {
    interval.saturating_mul(1 << faults.min(16)).min(interval.max(LONGEST_AFTER_FAULT))
}

/// Taken up as soon as a poll is over, which waits for no registry from then on.
#[derive(Debug, Default)]
struct Meanwhile {
    requests: Vec<RefreshRequest>,
    ended: Vec<Ended>,
}

type Ended = Result<(Id, Report), tokio::task::JoinError>;

/// A manual refresh whose orders are not all done.
struct Waiting {
    orders: BTreeSet<String>,
    so_far: RefreshReply,
    reply: oneshot::Sender<RefreshReply>,
}

impl std::fmt::Debug for Watch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Watch").field("manifest", &self.session.manifest.name).finish_non_exhaustive()
    }
}

impl Watch {
    /// An actor for `session`; it takes `requests` and `reloads`, and tells `status`.
    pub fn new(
        session: Session,
        orders: OrderContext,
        requests: mpsc::Receiver<RefreshRequest>,
        status: watch::Sender<Status>,
        reloads: Reloads,
    ) -> Self {
        Self {
            session,
            orders,
            requests,
            status,
            running: JoinSet::new(),
            ids: BTreeMap::new(),
            recovering: JoinSet::new(),
            unsettled: Vec::new(),
            waiting: Vec::new(),
            pending: Vec::new(),
            meanwhile: Meanwhile::default(),
            reloads,
            loading: Loading::default(),
            faults: 0,
            is_silence_explained: false,
            not_before: None,
        }
    }

    /// Runs until cancelled; then lets orders under way end, for at most [`SHUTDOWN_GRACE`].
    pub async fn run(mut self) {
        let mut next_poll = Instant::now();
        if !self.is_polling() {
            self.say_disabled();
        }
        let failures = self.orders.rollout.failures_before(&self.orders.manifest);
        self.settle(failures).await;
        loop {
            tokio::select! {
                biased;
                () = self.orders.shutdown.cancelled() => break,
                Some(ended) = self.running.join_next_with_id() => self.on_order_finished(ended).await,
                Some(tended) = self.recovering.join_next() => self.on_recovered(tended).await,
                Some(request) = self.requests.recv() => self.refresh(request).await,
                Some(request) = self.reloads.requests.recv() => self.take_reload(request),
                Some(prepared) = self.loading.task.join_next() => {
                    if self.take_prepared(prepared) {
                        (self.faults, self.not_before) = (0, None);
                        // The tick that is due stays due, unless this policy wants it earlier.
                        next_poll = next_poll.min(Instant::now() + self.interval());
                        // What was under way went with the policy that asked it.
                        if !std::mem::take(&mut self.pending).is_empty() {
                            next_poll = Instant::now();
                        }
                    }
                }
                () = self.session.answered(), if !self.pending.is_empty() => {
                    if !self.poll_pending().await {
                        next_poll = Instant::now();
                    }
                }
                () = sleep_until(next_poll) => next_poll = Instant::now() + self.tick().await,
            }
            self.catch_up().await;
        }
        self.shut_down().await;
    }

    fn say_disabled(&self) {
        let manifest = &self.session.manifest;
        let key = manifest.shown_key("enabled");
        warn!(manifest = %manifest.name, "polling is off: {key} not `true`; a manual refresh works");
        self.status.send_replace(Status::default());
    }

    /// Beside the poll, since a health check may have to be waited for.
    fn recover_in_background(&mut self) {
        if !self.recovering.is_empty() {
            return;
        }
        let orders = self.orders.clone();
        self.recovering.spawn(async move {
            orders.rollout.tend(&orders.manifest, &*orders.is_granted).await.unwrap_or_else(|error| {
                debug!(manifest = orders.manifest, %error, "did not look for what was left half done");
                Vec::new()
            })
        });
    }

    async fn on_recovered(&mut self, tended: Result<Vec<Report>, tokio::task::JoinError>) {
        match tended {
            Ok(reports) => self.settle(reports).await,
            Err(panic) => error!(
                manifest = self.session.manifest.name,
                "failed to end what was left half done: {panic}; please report it"
            ),
        }
    }

    /// One tick; the time until the next. Where polling is off, what was left half done is ended all the same.
    async fn tick(&mut self) -> Duration {
        self.recover_in_background();
        let is_early = self.not_before.is_some_and(|at| Instant::now() < at);
        if self.is_polling() && !is_early { self.poll().await } else { self.interval() }
    }

    fn is_polling(&self) -> bool {
        self.session.plugin.description.enabled
    }

    fn interval(&self) -> Duration {
        Duration::from_millis(self.session.plugin.description.interval_ms).max(MIN_INTERVAL)
    }

    /// Says once why nothing is watched, and again when something was watched meanwhile.
    fn explain_silence(&mut self, output: &PollOutput) {
        let is_silent = output.outcomes.is_empty();
        if is_silent && !self.is_silence_explained {
            warn!("{}", explain(&self.session.manifest.name, &output.not_watched));
        }
        self.is_silence_explained = is_silent;
    }

    async fn poll(&mut self) -> Duration {
        self.settle(Vec::new()).await;
        let interval = self.interval();
        let manifest = self.session.manifest.name.clone();
        let polled = self.ask(None).await;
        let mut news = None;
        let (not_ready, next) = match polled {
            Err(fault) => (Some(fault.to_string()), self.wait_after(&fault, interval)),
            Ok((output, orders)) => {
                (self.faults, self.not_before) = (0, None);
                let next = Duration::from_millis(output.next_poll_ms).max(MIN_INTERVAL);
                self.start(orders);
                if output.err.is_none() && self.status.borrow().is_before_first_poll() {
                    info!(manifest, targets = output.outcomes.len(), "watching; polled again in {next:?}");
                }
                if output.err.is_none() {
                    self.explain_silence(&output);
                    self.pending.clone_from(&output.pending);
                }
                // A poll that came to nothing has nothing newer to say.
                news = output.err.is_none().then_some((output.outcomes, output.pending));
                let failure = output.err.map(|failure| {
                    warn!(manifest, "failed to poll: {failure}; tried again in {next:?}");
                    failure.message
                });
                (failure, next)
            }
        };
        self.status.send_modify(|status| {
            status.not_ready = not_ready;
            if let Some((outcomes, pending)) = news {
                status.outcomes = keep_known(outcomes, &pending, &status.outcomes);
                status.at_ms = now_ms();
            }
        });
        next
    }

    /// Polls the targets again for which an answer was pending. Whether that came off; else all are to be polled.
    async fn poll_pending(&mut self) -> bool {
        let only = std::mem::take(&mut self.pending);
        match self.ask(Some(only.clone())).await {
            Err(fault) => {
                let interval = self.interval();
                self.wait_after(&fault, interval);
                true
            }
            // One of them is gone meanwhile, say.
            Ok((output, _)) if output.err.is_some() => false,
            Ok((output, orders)) => {
                self.start(orders);
                self.pending.clone_from(&output.pending);
                self.status.send_modify(|status| {
                    let outcomes = keep_known(output.outcomes, &output.pending, &status.outcomes);
                    replace_outcomes(&mut status.outcomes, &only, outcomes);
                });
                true
            }
        }
    }

    /// Polls, and notes what comes meanwhile: from then on the poll waits for no registry any more.
    async fn ask(&mut self, only: Option<Vec<String>>) -> Result<(PollOutput, Vec<Order>), CallError> {
        let (in_flight, effects) = (self.in_flight(), self.session.effects());
        let polled = self.session.poll(only, in_flight, PollMode::Watch);
        tokio::pin!(polled);
        loop {
            tokio::select! {
                biased;
                polled = &mut polled => return polled,
                Some(request) = self.requests.recv() => self.meanwhile.requests.push(request),
                Some(ended) = self.running.join_next_with_id() => self.meanwhile.ended.push(ended),
            }
            effects.deferred().hurry();
        }
    }

    async fn catch_up(&mut self) {
        let Meanwhile { requests, ended } = std::mem::take(&mut self.meanwhile);
        for ended in ended {
            self.on_order_finished(ended).await;
        }
        for request in requests {
            self.refresh(request).await;
        }
    }

    /// Says that a poll ended with `fault`, after which the policy is left alone for a while; when the next tick is due.
    fn wait_after(&mut self, fault: &CallError, interval: Duration) -> Duration {
        let next = wait_after_fault(interval, self.faults);
        self.faults = self.faults.saturating_add(1);
        self.not_before = Some(Instant::now() + next);
        self.pending.clear();
        error!(manifest = self.session.manifest.name, "failed to {fault}; tried again in {next:?}");
        interval
    }

    async fn refresh(&mut self, request: RefreshRequest) {
        let answered = self.session.refresh(request.targets, request.recreate, &self.in_flight()).await;
        let (output, orders) = match answered {
            Err(fault) => {
                let _ =
                    request.reply.send(RefreshReply { err: Some(fault_failure(&fault)), ..RefreshReply::default() });
                return;
            }
            Ok(answered) => answered,
        };
        let so_far = RefreshReply {
            outcomes: output.outcomes,
            known_targets: output.known_targets,
            err: output.err,
            reports: Vec::new(),
        };
        let ids = orders.iter().map(|order| order.order.clone()).collect();
        self.waiting.push(Waiting { orders: ids, so_far, reply: request.reply });
        self.start(orders);
        self.answer_done();
    }

    fn start(&mut self, orders: Vec<Order>) {
        let batch = Arc::new(Batch::new(&self.orders.services, orders.clone()));
        for order in orders {
            let (context, running, batch) = (self.orders.clone(), order.clone(), batch.clone());
            let task = self.running.spawn(async move { run_order(&context, &running, &batch).await });
            self.ids.insert(task.id(), order);
        }
    }

    /// An order's task ended. One that panicked is reported as failed, so that it is rolled back.
    async fn on_order_finished(&mut self, ended: Ended) {
        let (id, report) = match ended {
            Ok((id, report)) => (id, Some(report)),
            Err(error) => (error.id(), None),
        };
        let Some(order) = self.ids.remove(&id) else { return };
        let report = report.unwrap_or_else(|| {
            error!(order = order.order, "the order's task panicked; please report it");
            let failure = Failure::retryable(FailureCode::Other, "the host panicked over this order; please report it");
            Report { order: order.order.clone(), target: order.target, err: Some(failure), ..Report::default() }
        });
        for waiting in &mut self.waiting {
            if waiting.orders.remove(&report.order) {
                waiting.so_far.reports.push(report.clone());
            }
        }
        let mut reports = self.orders.rollout.failures_before(&self.orders.manifest);
        reports.push(report);
        self.settle(reports).await;
        // Only now: what the answer tells can be read in the history and the quarantine.
        self.answer_done();
    }

    fn answer_done(&mut self) {
        for waiting in self.waiting.extract_if(.., |waiting| waiting.orders.is_empty()) {
            // Nobody waits any more when the client went away; the refresh was done all the same.
            let _ = waiting.reply.send(waiting.so_far);
        }
    }

    /// Hands the policy `reports` and those that it could not take before.
    async fn settle(&mut self, reports: Vec<Report>) {
        self.unsettled.extend(reports);
        if self.unsettled.is_empty() {
            return;
        }
        let manifest = self.session.manifest.name.clone();
        match self.session.settle(self.unsettled.clone()).await {
            Err(fault) => error!(manifest, "failed to {fault}; tried again at the next poll"),
            Ok(output) => {
                if let Some(failure) = output.err {
                    error!(manifest, "failed to settle: {failure}");
                }
                for report in self.unsettled.drain(..) {
                    self.orders.rollout.settled(&manifest, &report.target);
                }
            }
        }
    }

    fn in_flight(&self) -> Vec<String> {
        let running = self.ids.values().map(|order| order.order.clone());
        let unsettled = self.unsettled.iter().map(|report| report.order.clone());
        // What another run of this program began is not lost: it is ended beside the polls, and then reported.
        let begun_before = self.orders.rollout.journal.open_orders(&self.orders.manifest);
        let all: BTreeSet<String> = running.chain(unsettled).chain(begun_before).collect();
        all.into_iter().collect()
    }

    async fn shut_down(&mut self) {
        self.requests.close();
        if !self.running.is_empty() {
            info!(
                manifest = self.session.manifest.name,
                orders = self.running.len(),
                "waiting for orders under way to end"
            );
        }
        let all_ended = async {
            while let Some(ended) = self.running.join_next_with_id().await {
                self.on_order_finished(ended).await;
            }
        };
        if timeout(SHUTDOWN_GRACE, all_ended).await.is_err() {
            let left: Vec<&str> = self.ids.values().map(|order| order.target.as_str()).collect();
            warn!(
                manifest = self.session.manifest.name,
                "stopped without waiting for {}: what is half done is ended when imagewatch is started again",
                left.join(", ")
            );
        }
    }
}

fn fault_failure(fault: &CallError) -> Failure {
    Failure::retryable(FailureCode::Other, format!("failed to {fault}"))
}

#[cfg(test)]
mod tests;

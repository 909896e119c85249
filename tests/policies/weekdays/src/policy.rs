//! The decisions: which version is due for a container, whether it may move now, and what a report means. All requests
//! go through [`Host`]. The same answers produce the same bytes.

mod ask;
mod config;

use imagewatch_abi::{
    Answer, Containers, DescribeOutput, Failure, FailureCode, Fault, HttpBatch, HttpResponses, LogLevel, LogLine,
    Order, Orders, OrdersAccepted, Outcome, PollInput, PollMode, PollOutput, Quarantined, Reference, RefreshInput,
    RefreshOutput, Report, Selector, SettleInput, SettleOutput, Strategy, Verdict,
};

use self::ask::{Tags, Target, find_targets};
use self::config::Config;
use crate::day::Days;

/// The host functions and the config.
pub trait Host {
    /// The value of `key` in the manifest's config.
    fn config(&self, key: &str) -> Option<String>;
    /// Sends a batch of requests.
    fn http_send(&mut self, batch: HttpBatch) -> Answer<HttpResponses>;
    /// Lists the containers that match the selector.
    fn docker_containers(&mut self, selector: Selector) -> Answer<Containers>;
    /// Places orders to refresh containers.
    fn docker_refresh(&mut self, orders: Orders) -> Answer<OrdersAccepted>;
    /// Writes a line to the host's log.
    fn log(&mut self, line: LogLine);
}

/// Describes the policy, and whether its config is usable.
pub fn describe(host: &dyn Host) -> DescribeOutput {
    config::describe(host)
}

/// Runs one tick. State and cache are returned without changes.
pub fn poll(host: &mut dyn Host, input: PollInput) -> PollOutput {
    let mut quarantine = input.quarantine.clone();
    let config = Config::parse(host);
    let next_poll_ms = config.as_ref().map_or(300_000, |config| config.interval_ms);
    let (outcomes, err) = match config.and_then(|config| tick(host, &config, &input, &mut quarantine)) {
        Ok(outcomes) => (outcomes, None),
        Err(failure) => (Vec::new(), Some(failure)),
    };
    let quarantine = (quarantine != input.quarantine).then_some(quarantine);
    let (state, cache) = (input.state, input.cache);
    PollOutput { state, cache, next_poll_ms, outcomes, quarantine, err, ..PollOutput::default() }
}

fn tick(
    host: &mut dyn Host,
    config: &Config,
    input: &PollInput,
    quarantine: &mut Vec<Quarantined>,
) -> Result<Vec<Outcome>, Failure> {
    let (mut targets, mut outcomes) = find_targets(host, config.is_for_all)?;
    if let Some(only) = &input.only {
        retain_named(&mut targets, &mut outcomes, only)?;
    }
    let (pending, open): (Vec<_>, Vec<_>) = targets.iter().partition(|target| pending_order(target, input).is_some());
    outcomes.extend(
        pending
            .into_iter()
            .map(|target| Outcome { order: pending_order(target, input), ..target.outcome(Verdict::Pending) }),
    );
    let tags = Tags::look_up(host, &open);
    let mut orders = Vec::new();
    for target in open {
        let outcome = decide(target, &tags, &config.days, input.now_ms, quarantine);
        if let (Verdict::Moved, PollMode::Watch, Some(to)) = (outcome.verdict, input.mode, &outcome.reference) {
            orders.push(build_order(target, to.clone(), true));
        }
        outcomes.push(outcome);
    }
    for outcome in &outcomes {
        log(host, outcome);
    }
    let (_, ended) = place(host, &orders, quarantine, input.now_ms);
    outcomes.extend(ended);
    Ok(outcomes)
}

/// The core of the policy: decides about one container.
fn decide(target: &Target, tags: &Tags, days: &Days, now_ms: u64, quarantine: &[Quarantined]) -> Outcome {
    let says = |verdict, reason| Outcome { reason, ..target.outcome(verdict) };
    let tags = match tags.of(target) {
        Ok(tags) => tags,
        Err(reason) => return says(Verdict::Unknown, Some(reason)),
    };
    let Some(to) = target.version.newer_minor(tags) else {
        let major = target.version.newer_major(tags);
        return says(Verdict::Unchanged, major.map(|major| format!("skipped: {major} is another major version")));
    };
    let reference = target.at(to);
    let is_quarantined = |entry: &&Quarantined| entry.target == target.name && entry.reference == reference;
    let (verdict, because) = if let Some(entry) = quarantine.iter().find(is_quarantined) {
        (Verdict::Held, format!(": failed before, {}", entry.reason))
    } else if let Some(wait) = days.why_to_wait(now_ms) {
        (Verdict::Held, format!(": {wait}"))
    } else {
        (Verdict::Moved, String::new())
    };
    Outcome { reference: Some(reference), ..says(verdict, Some(format!("from {} to {to}{because}", target.version))) }
}

/// Builds an order. Its id is `web@1.5.0`: no container has an `@` in its name, and the same move always has the same
/// id.
fn build_order(target: &Target, to: Reference, recreate: bool) -> Order {
    Order {
        order: format!("{}@{}", target.name, to.tag_or_latest()),
        target: target.name.clone(),
        reference: to,
        from: Some(target.reference.clone()),
        digest: None,
        platform: None,
        recreate,
        strategy: Strategy::Replace,
        containers: Selector { name: Some(target.name.clone()), ..Selector::default() },
        only_outdated: true,
        group: None,
    }
}

/// The name of the container in an order id.
fn container_of(order: &str) -> &str {
    order.rsplit_once('@').map_or(order, |(container, _)| container)
}

fn pending_order(target: &Target, input: &PollInput) -> Option<String> {
    input.in_flight.iter().find(|order| container_of(order) == target.name).cloned()
}

/// Places orders. Returns the ids that the host accepted, and the outcomes of the other orders.
fn place(
    host: &mut dyn Host,
    orders: &[Order],
    quarantine: &mut Vec<Quarantined>,
    now_ms: u64,
) -> (Vec<String>, Vec<Outcome>) {
    if orders.is_empty() {
        return (Vec::new(), Vec::new());
    }
    let (placed, refusal) = match host.docker_refresh(Orders { orders: orders.to_vec() }) {
        Answer::Ok(placed) => (placed, Failure::retryable(FailureCode::Other, "the host did not accept the order")),
        Answer::Err(failure) => (OrdersAccepted::default(), failure),
    };
    let is_refused = |order: &&Order| {
        !placed.accepted.contains(&order.order) && placed.reports.iter().all(|report| report.order != order.order)
    };
    let refused = orders.iter().filter(is_refused).map(|order| Report {
        order: order.order.clone(),
        err: Some(refusal.clone()),
        ..Report::default()
    });
    let reports: Vec<_> = placed.reports.iter().cloned().chain(refused).collect();
    let outcomes = reports.iter().map(|report| settle_report(host, report, quarantine, now_ms)).collect();
    (placed.accepted, outcomes)
}

/// Processes the reports of ended orders.
pub fn settle(host: &mut dyn Host, input: SettleInput) -> SettleOutput {
    let mut quarantine = input.quarantine.clone();
    let settled = |report| settle_report(host, report, &mut quarantine, input.now_ms);
    let outcomes = input.reports.iter().map(settled).collect();
    let quarantine = (quarantine != input.quarantine).then_some(quarantine);
    SettleOutput { state: input.state, outcomes, quarantine, err: None }
}

/// A version that failed on a container is quarantined for it. So it is tried once and not in every poll.
fn settle_report(host: &mut dyn Host, report: &Report, quarantine: &mut Vec<Quarantined>, now_ms: u64) -> Outcome {
    let target = container_of(&report.order);
    let (verdict, reason) = match (&report.err, report.failed.first()) {
        (Some(failure), _) => (Verdict::RolledBack, failure.message.clone()),
        (None, Some(failed)) => (Verdict::RolledBack, format!("{}: {}", failed.container, failed.reason)),
        (None, None) if report.recreated.is_empty() => (Verdict::Committed, "pulled".to_owned()),
        (None, None) => (Verdict::Committed, format!("recreated {}", report.recreated.join(" "))),
    };
    let fault = report.failed.iter().find_map(|failed| failed.fault).filter(|fault| *fault != Fault::Postponed);
    let has_succeeded = verdict == Verdict::Committed && !report.recreated.is_empty();
    if has_succeeded || fault.is_some() {
        quarantine.retain(|entry| entry.target != target);
    }
    if let (Some(fault), Some(reference), Some(digest)) = (fault, &report.reference, &report.digest) {
        quarantine.push(Quarantined {
            target: target.to_owned(),
            reference: reference.clone(),
            digest: digest.clone(),
            fault,
            cause: None,
            reason: reason.clone(),
            count: 1,
            first_ms: now_ms,
            last_ms: now_ms,
            until_ms: None,
        });
    }
    let outcome = Outcome {
        reference: report.reference.clone(),
        digest: report.digest.clone(),
        order: Some(report.order.clone()),
        reason: Some(reason),
        ..Outcome::new(target, verdict)
    };
    log(host, &outcome);
    outcome
}

/// A manual refresh: a due version is ordered on any day, even if it is quarantined.
pub fn refresh(host: &mut dyn Host, input: RefreshInput) -> RefreshOutput {
    let mut known_targets = Vec::new();
    let output = refresh_now(host, &input, &mut known_targets).unwrap_or_else(|failure| RefreshOutput {
        known_targets,
        err: Some(failure),
        ..RefreshOutput::default()
    });
    RefreshOutput { state: input.state, ..output }
}

fn refresh_now(
    host: &mut dyn Host,
    input: &RefreshInput,
    known_targets: &mut Vec<String>,
) -> Result<RefreshOutput, Failure> {
    let config = Config::parse(host)?;
    let (mut targets, mut outcomes) = find_targets(host, config.is_for_all)?;
    if let Some(names) = &input.targets {
        known_targets.extend(targets.iter().map(|target| target.name.clone()));
        retain_named(&mut targets, &mut outcomes, names)?;
    }
    let tags = Tags::look_up(host, &targets.iter().collect::<Vec<_>>());
    let mut orders = Vec::new();
    for target in &targets {
        match tags.of(target).map(|tags| target.version.newer_minor(tags)) {
            Ok(Some(to)) => orders.push(build_order(target, target.at(to), input.recreate)),
            Ok(None) => outcomes.push(target.outcome(Verdict::Unchanged)),
            Err(reason) => outcomes.push(Outcome { reason: Some(reason), ..target.outcome(Verdict::Unknown) }),
        }
    }
    // The operator sees the result of a manual refresh. Failures are not quarantined.
    let (orders, ended) = place(host, &orders, &mut Vec::new(), input.now_ms);
    outcomes.extend(ended);
    Ok(RefreshOutput { orders, outcomes, ..RefreshOutput::default() })
}

fn retain_named(targets: &mut Vec<Target>, outcomes: &mut Vec<Outcome>, names: &[String]) -> Result<(), Failure> {
    let is_known = |name: &&String| {
        targets.iter().any(|target| target.name == **name) || outcomes.iter().any(|outcome| outcome.target == **name)
    };
    if let Some(unknown) = names.iter().find(|name| !is_known(name)) {
        return Err(Failure::permanent(FailureCode::UnknownTarget, format!("unknown target {unknown:?}")));
    }
    targets.retain(|target| names.contains(&target.name));
    outcomes.retain(|outcome| names.contains(&outcome.target));
    Ok(())
}

fn log(host: &mut dyn Host, outcome: &Outcome) {
    let (level, word) = match outcome.verdict {
        Verdict::Unchanged | Verdict::Pending => return,
        Verdict::Held => (LogLevel::Debug, "held, "),
        Verdict::Moved => (LogLevel::Info, "moves "),
        Verdict::Unknown | Verdict::RolledBack => (LogLevel::Warn, ""),
        _ => (LogLevel::Info, ""),
    };
    let reason = outcome.reason.as_deref().unwrap_or_default();
    host.log(LogLine { level, message: format!("{}: {word}{reason}", outcome.target) });
}

#[cfg(test)]
mod tests;

//! The config keys. The default policy also has all of them except `days`. Without `days`, one manifest works for both.

use imagewatch_abi::{ABI_VERSION, ConfigKey, DescribeOutput, Failure, parse_duration_ms};

use super::Host;
use crate::day::Days;

/// Every key that the policy reads: name, type, default, description.
const KEYS: [[&str; 4]; 3] = [
    [
        "containers",
        "`labelled` or `all`",
        "labelled",
        "Watch the running containers with label `imagewatch.enable=true`, or all running containers except those with `imagewatch.enable=false`.",
    ],
    [
        "days",
        "list of `mon tue wed thu fri sat sun`, or `none`",
        "mon tue wed thu fri",
        "The days on which containers may move, in UTC. `none` freezes everything.",
    ],
    ["interval", "duration (`ms`, `s`, `m`, `h`)", "5m", "Time between two polls."],
];

/// A validated config.
pub(super) struct Config {
    pub(super) days: Days,
    pub(super) interval_ms: u64,
    pub(super) is_for_all: bool,
}

impl Config {
    /// Parses every key. An empty value counts as absent.
    pub(super) fn parse(host: &dyn Host) -> Result<Self, Failure> {
        let text = |key: &str| host.config(key).filter(|value| !value.is_empty());
        let is_for_all = match text("containers").as_deref() {
            None | Some("labelled") => false,
            Some("all") => true,
            Some(other) => return Err(Failure::config("containers", format!("{other:?} is neither labelled nor all"))),
        };
        let days = text("days").map_or_else(|| Ok(Days::WEEKDAYS), |days| Days::parse(&days));
        let days = days.map_err(|reason| Failure::config("days", reason))?;
        let interval = text("interval").unwrap_or_else(|| "5m".to_owned());
        let interval_ms = parse_duration_ms(&interval)
            .ok_or_else(|| Failure::config("interval", format!("{interval:?} is not a duration such as 5m")))?;
        Ok(Self { days, interval_ms, is_for_all })
    }
}

pub(super) fn describe(host: &dyn Host) -> DescribeOutput {
    let config = Config::parse(host);
    let keys = KEYS.map(|key| key.map(str::to_owned));
    DescribeOutput {
        name: "weekdays".to_owned(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        abi: ABI_VERSION,
        config_keys: keys.map(|[key, kind, default, doc]| ConfigKey { key, kind, default, doc }).to_vec(),
        enabled: config.is_ok(),
        interval_ms: config.as_ref().map_or(0, |config| config.interval_ms),
        err: config.err(),
        ..DescribeOutput::default()
    }
}

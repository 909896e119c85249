//! The config keys that the host itself reads: their table, and the values of one manifest. Enforces none of them.

use std::time::Duration;

use imagewatch_abi::{MAX_BATCH, parse_duration_ms};

use super::grants::{CONTAINERS_KEY, FUNCTIONS_KEY, IMAGES_KEY, STRATEGIES_KEY};

/// Config key that lets a module go without a hash.
pub(super) const ALLOW_UNHASHED_KEY: &str = "host.allow_unhashed";

/// Config key of the public key for signatures.
pub(super) const SIGNATURE_KEY: &str = "host.signature_key";

/// The `host.` keys.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostSettings {
    /// For one request, body included.
    pub http_timeout: Duration,
    /// For the pull of one order.
    pub pull_timeout: Duration,
    /// How long a replaced container without a health check must stay up.
    pub stable_for: Duration,
    /// How many images before the present one are kept of each repository; none: all.
    pub keep_images: Option<usize>,
    /// What one call of the policy may use.
    pub limits: CallLimits,
    /// The largest body of a registry's answer.
    pub max_response_bytes: usize,
    /// Whether a module may go without a hash.
    pub allow_unhashed: bool,
    /// The minisign public key that a module must be signed with; empty: none.
    pub signature_key: String,
    /// Whether what the policy has seen outlives the process.
    pub state: StateKeeping,
    /// Requests under way at once to one registry.
    pub connections: usize,
    /// See `http::egress`.
    pub insecure_registries: String,
    /// See `http::egress`.
    pub auth_realms: String,
}

/// What one call of a policy may use. Who goes beyond is ended, and the call has not happened; of log lines the rest is dropped.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CallLimits {
    /// Instructions, about.
    pub fuel: u64,
    /// Calls of `http_send`, `docker_containers` and `docker_refresh` together.
    pub host_calls: u64,
    /// What goes to host functions and comes back from them, together.
    pub host_bytes: usize,
    /// Requests in one `http_send`.
    pub batch: usize,
    /// Orders in all `docker_refresh` together.
    pub orders: usize,
    /// The output.
    pub output_bytes: usize,
    /// Log lines.
    pub log_lines: u64,
    /// Time of the call.
    pub call: Duration,
    /// Deadline of one `http_send`.
    pub http_send: Duration,
    /// Deadline of one `docker_containers`.
    pub docker_containers: Duration,
}

/// Whether a policy's state outlives the process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StateKeeping {
    /// In the store: what moves while nobody watches is noticed afterwards.
    Persisted,
    /// Until the process ends: the first poll seeds, as in the seed system.
    Memory,
}

/// The keys that the host reads, as `(key, type, default, meaning)`; policies declare their own.
pub const HOST_KEYS: [(&str, &str, &str, &str); 25] = [
    (
        IMAGES_KEY,
        "list of patterns",
        "",
        "Images that may be pulled, written in full (`docker.io/library/nginx:*`); nothing else is, and a container on another image is not seen.",
    ),
    (
        CONTAINERS_KEY,
        "list of `*`, `name:<pattern>`, `label:<key>=<value>`",
        "",
        "Containers that may be seen and handled; no other is.",
    ),
    (
        STRATEGIES_KEY,
        "list of strategies",
        "replace start-first remove pull-only notify",
        "Strategies that may be ordered; any other is refused. A container's own label still takes precedence.",
    ),
    (
        FUNCTIONS_KEY,
        "list of host functions",
        "http_send docker_containers docker_refresh host_log",
        "Host functions that the module may import; one that imports another is not compiled.",
    ),
    ("host.http_timeout", "duration", "10s", "Deadline of one registry request, body included."),
    (
        "host.connections",
        "number",
        "48",
        "Requests under way at once to one registry. Over HTTP/1.1 as many connections are kept, and at most 2¼ \
         times as many open for a moment; over HTTP/2 it is one.",
    ),
    (
        "host.pull_timeout",
        "duration",
        "5m",
        "How long a pull may go without data; how long it takes as a whole is not limited.",
    ),
    (
        "host.stable_for",
        "duration",
        "10s",
        "How long a replaced container without a health check must stay up before the old one is removed.",
    ),
    (
        "host.keep_images",
        "number, or `all`",
        "all",
        "How many images before the present one are kept of each repository, of those that were replaced here; older ones that nothing uses are removed.",
    ),
    ("host.fuel", "instructions", "5000000000", "What one call of the policy may compute before it is ended."),
    ("host.max_host_calls", "number", "200", "Calls of host functions in one call of the policy, log lines aside."),
    (
        "host.max_host_bytes",
        "bytes",
        "67108864",
        "What one call gives to host functions and gets from them, together; an answer of a registry that finds no room is a failed request.",
    ),
    (
        "host.max_batch",
        "number",
        "512",
        "Requests in one `http_send`, 512 at most; a larger one is refused. The built-in policy sends as many as that.",
    ),
    (
        "host.max_orders",
        "number",
        "10000",
        "Orders that one call may place, and of a manifest that may be under way at once.",
    ),
    ("host.max_output_bytes", "bytes", "16777216", "The output of one call, its state included."),
    (
        "host.max_response_bytes",
        "bytes",
        "4194304",
        "A manifest, or a page of a tag list, that a registry answers; a larger one is a failed request. Tokens and errors have 64 KiB.",
    ),
    (
        "host.max_log_lines",
        "number",
        "1000",
        "Log lines of the policy in one minute, and of one call; the rest is dropped, counted, and reported once a minute.",
    ),
    (
        "host.call_timeout",
        "duration",
        "30m",
        "Time of one call, host functions included, after which it may call none; that ends it.",
    ),
    (
        "host.http_send_timeout",
        "duration",
        "5m",
        "Deadline of one `http_send`, waiting for a free connection included; what has come by then counts.",
    ),
    ("host.docker_containers_timeout", "duration", "30s", "Deadline of one `docker_containers`."),
    (ALLOW_UNHASHED_KEY, "bool", "false", "Load a module without a `hash` beside its `path`: for who is writing one."),
    (
        SIGNATURE_KEY,
        "minisign public key",
        "",
        "The module must be signed with this key, in a file `<module>.minisig` beside it.",
    ),
    (
        "host.state",
        "`persisted`, or `memory`",
        "persisted",
        "Whether what was seen outlives the program; with `memory` a move that happens while it is down goes unnoticed.",
    ),
    (
        "host.insecure_registries",
        "list of hosts, or `loopback`",
        "loopback",
        "Registries that may be asked over plain HTTP; `loopback` stands for every loopback address.",
    ),
    (
        "host.auth_realms",
        "list of `registry=host`",
        "",
        "Token servers on another host than their registry that may be given its credential, and be on a private network.",
    ),
];

/// What `key` is when a manifest does not say.
pub(super) fn default_of(key: &str) -> &'static str {
    HOST_KEYS.iter().find(|known| known.0 == key).map_or("", |known| known.2)
}

impl Default for HostSettings {
    fn default() -> Self {
        Self::parse(&|key| default_of(key)).expect("the defaults in HOST_KEYS are good values")
    }
}

/// A key and what is wrong with its value.
type BadValue = (&'static str, String);

impl HostSettings {
    /// From the values of a manifest, [`default_of`] where it has none.
    pub(super) fn parse<'a>(value: &impl Fn(&str) -> &'a str) -> Result<Self, BadValue> {
        let duration = |key| {
            parse_duration(value(key)).ok_or_else(|| {
                (key, format!("{:?} is no duration; expected for example `500ms`, `10s` or `5m`", value(key)))
            })
        };
        let at_most = |key, most: u64| {
            let number = value(key).parse().ok().filter(|number| (1..=most).contains(number));
            number.ok_or_else(|| (key, format!("{:?} is no number from 1 to {most}", value(key))))
        };
        let bytes = |key| at_most(key, 1 << 31).map(as_usize);
        Ok(Self {
            http_timeout: duration("host.http_timeout")?,
            pull_timeout: duration("host.pull_timeout")?,
            stable_for: duration("host.stable_for")?,
            keep_images: match value("host.keep_images") {
                "all" => None,
                number => Some(
                    number
                        .parse()
                        .map_err(|_| ("host.keep_images", format!("{number:?} is neither a number nor `all`")))?,
                ),
            },
            limits: CallLimits {
                fuel: at_most("host.fuel", 1 << 53)?,
                host_calls: at_most("host.max_host_calls", 1 << 32)?,
                host_bytes: bytes("host.max_host_bytes")?,
                batch: as_usize(at_most("host.max_batch", MAX_BATCH as u64)?),
                orders: as_usize(at_most("host.max_orders", 1 << 31)?),
                output_bytes: bytes("host.max_output_bytes")?,
                log_lines: at_most("host.max_log_lines", 1 << 32)?,
                call: duration("host.call_timeout")?,
                http_send: duration("host.http_send_timeout")?,
                docker_containers: duration("host.docker_containers_timeout")?,
            },
            max_response_bytes: bytes("host.max_response_bytes")?,
            allow_unhashed: match value(ALLOW_UNHASHED_KEY) {
                "true" => true,
                "false" => false,
                other => return Err((ALLOW_UNHASHED_KEY, format!("{other:?} is neither `true` nor `false`"))),
            },
            signature_key: value(SIGNATURE_KEY).to_owned(),
            state: match value("host.state") {
                "persisted" => StateKeeping::Persisted,
                "memory" => StateKeeping::Memory,
                other => return Err(("host.state", format!("{other:?} is neither `persisted` nor `memory`"))),
            },
            connections: as_usize(at_most("host.connections", 1024)?),
            insecure_registries: value("host.insecure_registries").to_owned(),
            auth_realms: value("host.auth_realms").to_owned(),
        })
    }
}

/// Of numbers that were checked to fit.
fn as_usize(number: u64) -> usize {
    usize::try_from(number).unwrap_or(usize::MAX)
}

/// At most a day.
fn parse_duration(text: &str) -> Option<Duration> {
    parse_duration_ms(text).filter(|ms| *ms <= 86_400_000).map(Duration::from_millis)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn defaults_are_as_documented() {
        let host = HostSettings::default();
        assert_eq!(host.http_timeout, Duration::from_secs(10));
        assert_eq!(host.pull_timeout, Duration::from_secs(300));
        assert_eq!(host.insecure_registries, "loopback");
        assert_eq!(host.limits.batch, MAX_BATCH);
        assert!(!host.allow_unhashed && host.signature_key.is_empty());
    }

    #[test]
    fn a_limit_that_is_none_names_its_key() {
        for (key, bad) in [
            ("host.fuel", "0"),
            ("host.max_batch", "513"),
            ("host.max_host_calls", "-1"),
            ("host.max_output_bytes", "1 MB"),
            ("host.http_send_timeout", "25h"),
            ("host.allow_unhashed", "yes"),
        ] {
            let parsed = HostSettings::parse(&|asked| if asked == key { bad } else { default_of(asked) });
            let (named, reason) = parsed.expect_err("no such value");
            assert!(named == key && reason.contains(bad), "{key}: {named}: {reason}");
        }
    }
}

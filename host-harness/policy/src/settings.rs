//! The config keys that the host reads: the table of keys, and the parsed values of one manifest.

use std::time::Duration;

use imagewatch_abi::{MAX_BATCH, parse_duration_ms};

use super::grants::{CONTAINERS_KEY, FUNCTIONS_KEY, IMAGES_KEY, STRATEGIES_KEY};

/// Config key that allows a module without a hash.
pub(super) const ALLOW_UNHASHED_KEY: &str = "host.allow_unhashed";

/// Config key for the public key of signatures.
pub(super) const SIGNATURE_KEY: &str = "host.signature_key";

/// The values of the `host.` keys of one manifest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostSettings {
    /// Deadline of one registry request, including the response body.
    pub http_timeout: Duration,
    /// How long the pull of one order may go without receiving data.
    pub pull_timeout: Duration,
    /// How long a replaced container without a health check must stay up.
    pub stable_for: Duration,
    /// How many previous images of each repository are kept. `None` keeps all.
    pub keep_images: Option<usize>,
    /// Limits of one policy call.
    pub limits: CallLimits,
    /// Maximum size in bytes of a manifest, or of one page of a tag list, from a registry.
    pub max_response_bytes: usize,
    /// Whether a module without a hash is loaded.
    pub allow_unhashed: bool,
    /// The minisign public key that must have signed the module. If empty, no signature is required.
    pub signature_key: String,
    /// Whether the state of the policy persists across restarts.
    pub state: StateKeeping,
    /// Maximum number of concurrent requests to one registry.
    pub connections: usize,
    /// Registries that may be contacted over plain HTTP, as written. The egress rules of `imagewatch-registry` parse
    /// it.
    pub insecure_registries: String,
    /// Token servers of registries, as written. The egress rules of `imagewatch-registry` parse it.
    pub auth_realms: String,
}

/// Limits of one policy call. A call that exceeds a limit is aborted and has no effect. Only log lines over the limit
/// are dropped instead.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CallLimits {
    /// Fuel: approximately the number of instructions.
    pub fuel: u64,
    /// Calls of `http_send`, `docker_containers` and `docker_refresh` in total.
    pub host_calls: u64,
    /// Bytes passed to host functions and received from them, in total.
    pub host_bytes: usize,
    /// Requests in one `http_send`.
    pub batch: usize,
    /// Orders in all calls of `docker_refresh` in total.
    pub orders: usize,
    /// Size of the output in bytes.
    pub output_bytes: usize,
    /// Number of log lines.
    pub log_lines: u64,
    /// Duration of the call, including host functions.
    pub call: Duration,
    /// Deadline of one `http_send`.
    pub http_send: Duration,
    /// Deadline of one `docker_containers`.
    pub docker_containers: Duration,
}

/// Whether the state of a policy persists across restarts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StateKeeping {
    /// The store keeps the state. A tag that moves while imagewatch is not running is noticed at the next start.
    Persisted,
    /// The state exists until the process ends. The first poll after a start records what it sees, and changes nothing.
    Memory,
}

/// The keys that the host reads, as `(key, type, default, description)`. Policies declare their own keys.
///
/// `docs/configuration.md` shows the same table; a test compares them.
pub const HOST_KEYS: [(&str, &str, &str, &str); 25] = [
    (
        IMAGES_KEY,
        "list of patterns",
        "",
        "Images that the policy may have pulled, written in full (`docker.io/library/nginx:*`). No other image is pulled, and the policy does not see containers on other images.",
    ),
    (
        CONTAINERS_KEY,
        "list of `*`, `name:<pattern>`, `label:<key>=<value>`",
        "",
        "Containers that the policy may see and act on. It does not see any other container.",
    ),
    (
        STRATEGIES_KEY,
        "list of strategies",
        "replace start-first remove pull-only notify",
        "Strategies that the policy may order. Others are refused. A container's own label still takes precedence.",
    ),
    (
        FUNCTIONS_KEY,
        "list of host functions",
        "http_send docker_containers docker_refresh host_log",
        "Host functions that the module may import. A module that imports another one is not compiled.",
    ),
    ("host.http_timeout", "duration", "10s", "Deadline of one registry request, including the response body."),
    (
        "host.connections",
        "number",
        "48",
        "Maximum number of concurrent requests to one registry. With HTTP/1.1, that many connections stay open, and \
         briefly up to 2¼ times as many. With HTTP/2, it is one connection.",
    ),
    (
        "host.pull_timeout",
        "duration",
        "5m",
        "How long a pull may go without receiving data. The total duration of a pull is not limited.",
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
        "How many previous images of each repository are kept, besides the current one. It counts images that imagewatch replaced. Older ones are removed if nothing uses them.",
    ),
    (
        "host.fuel",
        "instructions",
        "5000000000",
        "Maximum number of instructions in one policy call. A call that exceeds it is aborted.",
    ),
    (
        "host.max_host_calls",
        "number",
        "200",
        "Maximum number of host function calls in one policy call. Log lines do not count.",
    ),
    (
        "host.max_host_bytes",
        "bytes",
        "67108864",
        "Maximum number of bytes that one policy call passes to host functions and receives from them, in total. If a registry's response does not fit, its request fails.",
    ),
    (
        "host.max_batch",
        "number",
        "512",
        "Maximum number of requests in one `http_send`, at most 512. A larger batch is refused. The built-in policy sends batches of up to 512.",
    ),
    (
        "host.max_orders",
        "number",
        "10000",
        "Maximum number of orders that one policy call may place. Also the maximum number of orders of a manifest in progress.",
    ),
    (
        "host.max_output_bytes",
        "bytes",
        "16777216",
        "Maximum size of the output of one policy call, including its state.",
    ),
    (
        "host.max_response_bytes",
        "bytes",
        "4194304",
        "Maximum size of an image manifest or of one page of a tag list from a registry. If it is larger, the request fails. For tokens and errors, the limit is 64 KiB.",
    ),
    (
        "host.max_log_lines",
        "number",
        "1000",
        "Maximum number of log lines of the policy in one minute, and in one call. Further lines are dropped and counted. The count is reported once a minute.",
    ),
    (
        "host.call_timeout",
        "duration",
        "30m",
        "Maximum duration of one policy call, including host functions. A host function call after this time aborts the policy call.",
    ),
    (
        "host.http_send_timeout",
        "duration",
        "5m",
        "Deadline of one `http_send`, including the wait for a free connection. Responses that arrive in time are returned.",
    ),
    ("host.docker_containers_timeout", "duration", "30s", "Deadline of one `docker_containers`."),
    (
        ALLOW_UNHASHED_KEY,
        "bool",
        "false",
        "Load a module without a `hash` next to its `path`. Use this only while you develop a policy.",
    ),
    (
        SIGNATURE_KEY,
        "minisign public key",
        "",
        "If set, the module must be signed with this key. The signature is in the file `<module>.minisig` next to the module.",
    ),
    (
        "host.state",
        "`persisted`, or `memory`",
        "persisted",
        "Whether the state of the policy persists across restarts. With `memory`, a tag that moves while imagewatch is not running goes unnoticed.",
    ),
    (
        "host.insecure_registries",
        "list of hosts, or `loopback`",
        "loopback",
        "Registries that may be contacted over plain HTTP. `loopback` means every loopback address.",
    ),
    (
        "host.auth_realms",
        "list of `registry=host`",
        "",
        "Token servers on another host than their registry. They may receive the credential of the registry, and may be on a private network.",
    ),
];

/// The default value of `key`. Empty for an unknown key.
pub(super) fn default_of(key: &str) -> &'static str {
    HOST_KEYS.iter().find(|known| known.0 == key).map_or("", |known| known.2)
}

impl Default for HostSettings {
    fn default() -> Self {
        Self::parse(&|key| default_of(key)).expect("the defaults in HOST_KEYS are valid values")
    }
}

/// A key and what is wrong with its value.
type BadValue = (&'static str, String);

impl HostSettings {
    /// Parses the values that `value` returns for each key.
    ///
    /// # Errors
    /// The key with the invalid value, and what is wrong with it.
    pub(super) fn parse<'a>(value: &impl Fn(&str) -> &'a str) -> Result<Self, BadValue> {
        let duration = |key| {
            parse_duration(value(key)).ok_or_else(|| {
                (key, format!("{:?} is not a duration; expected for example `500ms`, `10s` or `5m`", value(key)))
            })
        };
        let at_most = |key, most: u64| {
            let number = value(key).parse().ok().filter(|number| (1..=most).contains(number));
            number.ok_or_else(|| (key, format!("{:?} is not a number from 1 to {most}", value(key))))
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

/// Converts a number that was already checked to fit.
fn as_usize(number: u64) -> usize {
    usize::try_from(number).unwrap_or(usize::MAX)
}

/// Parses a duration of at most one day.
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
    fn an_invalid_value_is_reported_with_its_key() {
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

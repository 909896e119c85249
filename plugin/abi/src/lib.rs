//! What crosses the boundary between a policy plugin and its host, and nothing else: the serde
//! types of every call, and the names of exports and host functions.
//!
//! All of it is UTF-8 JSON: `snake_case` keys, unknown fields ignored when reading, no integer above
//! 2^53, so that a Go, Python or Node control plane can speak it as easily as the Rust host.
//! This crate takes no decision and does no I/O.

mod answer;
mod calls;
mod digest;
mod docker;
mod duration;
mod http;
pub mod label;
mod reference;
mod status;

pub use answer::{Answer, Failure, FailureCode, PullCause};
pub use calls::{
    ConfigKey, DescribeOutput, DescribedTarget, LogLevel, LogLine, NotWatched, Outcome, PollInput, PollMode,
    PollOutput, Quarantined, RefreshInput, RefreshOutput, SettleInput, SettleOutput, Verdict,
};
pub use digest::{Digest, DigestError, short_digest};
pub use docker::{
    Container, ContainerFailure, Containers, Fault, ImageOrigin, Order, Orders, Placed, Report, Selector, Strategy,
};
pub use duration::parse_duration_ms;
pub use http::{HttpBatch, HttpRequest, HttpResponse, HttpResponses, Method, ReadBody};
pub use reference::{Reference, ReferenceError, is_loopback_host, is_tag};
pub use status::{Status, StatusKind};

/// The version of everything in this crate. A host refuses a plugin that declares another one.
pub const ABI_VERSION: u32 = 1;

/// Name of the wasm custom section in which a plugin declares its ABI version, as decimal ASCII.
/// A host reads it without compiling or running the module.
pub const ABI_SECTION: &str = "imagewatch.abi";

/// The wasm import module of the host functions, as Extism fixes it.
pub const HOST_NAMESPACE: &str = "extism:host/user";

/// At most so many requests go into one [`HttpBatch`], so that guest memory stays flat.
pub const MAX_BATCH: usize = 512;

/// Config keys with this prefix are read by the host; a plugin may read them too, and never rejects them.
pub const HOST_KEY_PREFIX: &str = "host.";

/// Config keys with this prefix are the operator's grants, enforced by the host.
pub const GRANT_KEY_PREFIX: &str = "grant.";

/// Names of the functions that a plugin exports.
pub mod exports {
    /// No input, [`DescribeOutput`](crate::DescribeOutput) out. Calls no host function.
    pub const DESCRIBE: &str = "describe";
    /// One tick: [`PollInput`](crate::PollInput) in, [`PollOutput`](crate::PollOutput) out.
    pub const POLL: &str = "poll";
    /// Reports of ended orders: [`SettleInput`](crate::SettleInput) in, [`SettleOutput`](crate::SettleOutput) out.
    pub const SETTLE: &str = "settle";
    /// The manual path: [`RefreshInput`](crate::RefreshInput) in, [`RefreshOutput`](crate::RefreshOutput) out.
    pub const REFRESH: &str = "refresh";
    /// All of them, sorted; a plugin that lacks one is refused.
    pub const ALL: [&str; 4] = [DESCRIBE, POLL, REFRESH, SETTLE];
}

/// Names of the functions that a host provides in [`HOST_NAMESPACE`].
pub mod host_functions {
    /// [`HttpBatch`](crate::HttpBatch) in, [`Answer`](crate::Answer) of [`HttpResponses`](crate::HttpResponses) out.
    pub const HTTP_SEND: &str = "http_send";
    /// [`Selector`](crate::Selector) in, [`Answer`](crate::Answer) of [`Containers`](crate::Containers) out.
    pub const DOCKER_CONTAINERS: &str = "docker_containers";
    /// [`Orders`](crate::Orders) in, [`Answer`](crate::Answer) of [`Placed`](crate::Placed) out.
    pub const DOCKER_REFRESH: &str = "docker_refresh";
    /// [`LogLine`](crate::LogLine) in, nothing out.
    pub const HOST_LOG: &str = "host_log";
    /// All of them, sorted.
    pub const ALL: [&str; 4] = [DOCKER_CONTAINERS, DOCKER_REFRESH, HOST_LOG, HTTP_SEND];
}

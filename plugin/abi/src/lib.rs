//! The interface between a policy plugin and its host. It defines the serde types of every call, and the names of the
//! exports and of the host functions.
//!
//! All data is JSON in UTF-8. Keys are in `snake_case`. A reader ignores unknown fields. No integer exceeds 2^53, so
//! that a control plane in Go, Python or Node can read and write the data as easily as the Rust host.
//!
//! This crate makes no decisions and performs no I/O.

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
    Container, ContainerFailure, Containers, Fault, ImageOrigin, Order, Orders, OrdersAccepted, Report, Selector,
    Strategy,
};
pub use duration::parse_duration_ms;
pub use http::{HttpBatch, HttpRequest, HttpResponse, HttpResponses, Method, ReadBody};
pub use reference::{Reference, ReferenceError, is_loopback_host, is_tag};
pub use status::{Status, StatusKind};

/// The version of everything in this crate. A host refuses a plugin that declares another version.
pub const ABI_VERSION: u32 = 1;

/// The name of the wasm custom section in which a plugin declares its ABI version, as decimal ASCII. A host reads the
/// section without compiling or running the module.
pub const ABI_SECTION: &str = "imagewatch.abi";

/// The wasm import module of the host functions. Extism defines this name.
pub const HOST_NAMESPACE: &str = "extism:host/user";

/// The maximum number of requests in one [`HttpBatch`]. The limit keeps guest memory flat.
pub const MAX_BATCH: usize = 512;

/// The prefix of the config keys that the host reads. A plugin may read them too, and never rejects them.
pub const HOST_KEY_PREFIX: &str = "host.";

/// The prefix of the config keys that hold the operator's grants. The host enforces them.
pub const GRANT_KEY_PREFIX: &str = "grant.";

/// The names of the functions that a plugin exports.
pub mod exports {
    /// Takes no input and returns [`DescribeOutput`](crate::DescribeOutput). Calls no host function.
    pub const DESCRIBE: &str = "describe";
    /// One tick. Takes [`PollInput`](crate::PollInput) and returns [`PollOutput`](crate::PollOutput).
    pub const POLL: &str = "poll";
    /// Takes reports of ended orders in [`SettleInput`](crate::SettleInput) and returns
    /// [`SettleOutput`](crate::SettleOutput).
    pub const SETTLE: &str = "settle";
    /// A manual refresh. Takes [`RefreshInput`](crate::RefreshInput) and returns
    /// [`RefreshOutput`](crate::RefreshOutput).
    pub const REFRESH: &str = "refresh";
    /// All exports, sorted by name. A host refuses a plugin that lacks one of them.
    pub const ALL: [&str; 4] = [DESCRIBE, POLL, REFRESH, SETTLE];
}

/// The names of the functions that a host provides in [`HOST_NAMESPACE`].
pub mod host_functions {
    /// Takes [`HttpBatch`](crate::HttpBatch) and returns an [`Answer`](crate::Answer) with
    /// [`HttpResponses`](crate::HttpResponses).
    pub const HTTP_SEND: &str = "http_send";
    /// Takes [`Selector`](crate::Selector) and returns an [`Answer`](crate::Answer) with
    /// [`Containers`](crate::Containers).
    pub const DOCKER_CONTAINERS: &str = "docker_containers";
    /// Takes [`Orders`](crate::Orders) and returns an [`Answer`](crate::Answer) with
    /// [`OrdersAccepted`](crate::OrdersAccepted).
    pub const DOCKER_REFRESH: &str = "docker_refresh";
    /// Takes [`LogLine`](crate::LogLine) and returns nothing.
    pub const HOST_LOG: &str = "host_log";
    /// All host functions, sorted by name.
    pub const ALL: [&str; 4] = [DOCKER_CONTAINERS, DOCKER_REFRESH, HOST_LOG, HTTP_SEND];
}

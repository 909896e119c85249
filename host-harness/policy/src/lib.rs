//! Policies: reads a manifest, checks and compiles its module, and calls it.
//!
//! This crate has no effects on registries or containers. It passes each request of a policy to an implementation of
//! [`Effects`].

mod archive;
mod capabilities;
#[cfg(test)]
mod compared;
mod compile_cache;
#[cfg(any(test, feature = "testing"))]
pub mod dump;
mod effort;
mod expand;
mod fault;
mod functions;
#[cfg(test)]
mod generated;
mod grants;
#[cfg(any(test, feature = "testing"))]
pub mod inline;
mod inspect;
mod instance;
mod kernel;
mod linking;
mod loader;
mod log_quota;
mod manifest;
mod quota;
mod record;
mod reload;
mod settings;
pub mod transcript;
mod unshown;
mod verify;

pub use archive::{PolicyArchive, RollbackError, RolledBack, roll_back};
pub use capabilities::{CAPABILITIES_SECTION, Capabilities, Compared, Need};
pub use fault::{Denied, FaultKind};
pub use functions::Effects;
pub use grants::Grants;
pub use inspect::{ModuleInfo, inspect};
pub use instance::{CallCost, CallError, Compiled, call, call_bytes};
pub use loader::{LoadedPlugin, PluginError, Validated, compile, load, load_module, read_module, validate};
pub use log_quota::LogQuota;
pub use manifest::{ManifestError, PluginManifest, WasmSource};
pub use record::{LastEvent, LoadResult, PolicyStats, Record, Running};
pub use reload::{FileWatch, LOAD_TIMEOUT, Loaded, ReadManifest, Reloader, files_of, settled};
pub use settings::{CallLimits, HOST_KEYS, HostSettings, StateKeeping};

//! The plugin room: reads a manifest, checks and compiles its module, and calls it. Does no effect
//! itself: what a plugin asks for goes to an [`Effects`].

mod capabilities;
#[cfg(test)]
mod compared;
mod compiling;
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
mod kept;
mod kernel;
mod linking;
mod loader;
mod log_quota;
mod manifest;
mod meter;
mod record;
mod reload;
mod settings;
pub mod transcript;
mod trust;
mod unshown;

pub use capabilities::{CAPABILITIES_SECTION, Capabilities, Compared, Need};
pub use fault::{Denied, FaultKind};
pub use functions::Effects;
pub use grants::Grants;
pub use inspect::{ModuleInfo, inspect};
pub use instance::{CallCost, CallError, Compiled, call, call_bytes};
pub use kept::{Kept, RollbackError, RolledBack, roll_back};
pub use loader::{Admitted, LoadedPlugin, PluginError, admit, compile, load, load_module, read_module};
pub use log_quota::LogQuota;
pub use manifest::{ManifestError, PluginManifest, WasmSource};
pub use record::{LoadResult, Noted, Record, Recorded, Running};
pub use reload::{FileWatch, LOAD_TIMEOUT, Loaded, ReadManifest, Reloader, files_of, settled};
pub use settings::{CallLimits, HOST_KEYS, HostSettings, StateKeeping};

//! The plugin room: reads a manifest, checks and compiles its module, and calls it. Does no effect
//! itself: what a plugin asks for goes to an [`Effects`].

mod expand;
mod functions;
mod grants;
mod inspect;
mod instance;
mod loader;
mod manifest;

pub use functions::Effects;
pub use grants::Grants;
pub use inspect::{ModuleInfo, inspect};
pub use instance::{CallCost, CallError, call, call_bytes};
pub use loader::{LoadedPlugin, PluginError, load, load_module};
pub use manifest::{HOST_KEYS, HostSettings, ManifestError, PluginManifest, StateKeeping, WasmSource};

//! From a manifest to a policy that can be called: read once, compare the hash, check imports and
//! ABI, and only then compile, describe and check the config. Swaps and keeps nothing.

use std::sync::Arc;

use extism::{CompiledPlugin, DebugOptions, PluginBuilder};
use imagewatch_abi::{
    ABI_VERSION, Answer, Containers, DescribeOutput, Failure, FailureCode, HttpBatch, HttpResponses, LogLine, Orders,
    Placed, Selector, exports,
};
use thiserror::Error;

use super::functions::{Effects, host_functions};
use super::inspect::{ModuleInfo, inspect, sha256_hex};
use super::instance::{CallError, call};
use super::manifest::{DEFAULT_MEMORY_PAGES, HostSettings, ManifestError, PluginManifest, WasmSource};

/// The policy that is built into this program, for manifests of its own only.
static EMBEDDED: &[u8] = include_bytes!(env!("IMAGEWATCH_PLUGIN_WASM"));

/// A policy that can be called.
pub struct LoadedPlugin {
    /// Compiled once; every call gets a fresh instance.
    pub compiled: Arc<CompiledPlugin>,
    /// What the module says of itself.
    pub info: ModuleInfo,
    /// What it says of its config.
    pub description: DescribeOutput,
}

impl std::fmt::Debug for LoadedPlugin {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LoadedPlugin")
            .field("info", &self.info)
            .field("description", &self.description)
            .finish_non_exhaustive()
    }
}

/// Why a manifest's policy cannot be used.
#[derive(Debug, Error)]
pub enum PluginError {
    /// The manifest itself.
    #[error(transparent)]
    Manifest(#[from] ManifestError),
    /// The module cannot be read.
    #[error(
        "read policy {wasm} of manifest {manifest}: {source}; build it with `cargo xtask plugin`, or correct `path`"
    )]
    Unreadable {
        /// The manifest's file.
        manifest: String,
        /// The module's file.
        wasm: String,
        /// Why.
        source: std::io::Error,
    },
    /// The module is refused; it was not compiled, or not kept.
    #[error("load policy {wasm} of manifest {manifest}: {reason}")]
    Refused {
        /// The manifest's file.
        manifest: String,
        /// The module's file.
        wasm: String,
        /// Why, and what to do.
        reason: String,
    },
}

/// Loads the policy of `manifest`. Compiling takes a second or so: call it off the runtime.
///
/// # Errors
/// [`PluginError`].
pub fn load(manifest: &PluginManifest) -> Result<LoadedPlugin, PluginError> {
    let shown = shown(&manifest.wasm);
    let refused =
        |reason: String| PluginError::Refused { manifest: manifest.path.clone(), wasm: shown.clone(), reason };
    let wasm = match &manifest.wasm {
        WasmSource::Embedded => EMBEDDED.to_vec(),
        WasmSource::File(path) => std::fs::read(path).map_err(|source| PluginError::Unreadable {
            manifest: manifest.path.clone(),
            wasm: shown.clone(),
            source,
        })?,
    };
    let sha256 = sha256_hex(&wasm);
    if let Some(hash) = manifest.hash.as_ref().filter(|hash| !hash.eq_ignore_ascii_case(&sha256)) {
        return Err(refused(format!(
            "its sha256 is {sha256}, the manifest's `hash` is {hash}; if the change is yours, update `hash`"
        )));
    }
    let info = inspect(&wasm).map_err(refused)?;
    info.admit().map_err(refused)?;
    let module = manifest_of(manifest, wasm);
    let compiled = compile(module, manifest.host.fuel).map_err(refused)?;
    let description = describe(&compiled).map_err(|error| refused(error.to_string()))?;
    if description.abi != ABI_VERSION {
        return Err(refused(format!("it describes itself as ABI {}, its section says {ABI_VERSION}", description.abi)));
    }
    manifest.check_keys(&description.config_keys)?;
    if let Some(failure) = &description.err {
        let key = failure.key.as_deref().unwrap_or("?");
        return Err(manifest.bad_key(key, &failure.message).into());
    }
    Ok(LoadedPlugin { compiled, info, description })
}

/// Loads a module without a manifest, granted nothing, to look at it: its description is that of
/// an empty config.
///
/// # Errors
/// A fragment saying why it is refused.
pub fn load_module(wasm: Vec<u8>) -> Result<DescribeOutput, String> {
    inspect(&wasm)?.admit()?;
    let manifest = extism::Manifest::new([extism::Wasm::data(wasm)]);
    let compiled = compile(manifest, HostSettings::default().fuel)?;
    describe(&compiled).map_err(|error| error.to_string())
}

fn shown(wasm: &WasmSource) -> String {
    match wasm {
        WasmSource::Embedded => "(built in)".to_owned(),
        WasmSource::File(path) => path.display().to_string(),
    }
}

fn manifest_of(manifest: &PluginManifest, wasm: Vec<u8>) -> extism::Manifest {
    let mut built = extism::Manifest::new([extism::Wasm::data(wasm)]).disallow_all_hosts();
    built.memory.max_pages = Some(manifest.memory_pages);
    built.config = manifest.config.clone();
    built
}

fn compile(mut manifest: extism::Manifest, fuel: u64) -> Result<Arc<CompiledPlugin>, String> {
    manifest.memory.max_pages.get_or_insert(DEFAULT_MEMORY_PAGES);
    manifest.memory.max_var_bytes = Some(0);
    manifest.memory.max_http_response_bytes = Some(0);
    // Extism reads these from its own environment variables, and a dump of the guest's memory holds tokens.
    let no_dumps = DebugOptions { coredump: None, memdump: None, ..DebugOptions::default() };
    PluginBuilder::new(manifest)
        .with_wasi(true)
        .with_functions(host_functions())
        .with_cache_disabled()
        .with_debug_options(no_dumps)
        .with_fuel_limit(fuel)
        .compile()
        .map(Arc::new)
        .map_err(|error| format!("it cannot be compiled: {error:#}"))
}

fn describe(compiled: &CompiledPlugin) -> Result<DescribeOutput, CallError> {
    call(compiled, exports::DESCRIBE, &serde_json::json!({}), Arc::new(Nothing)).map(|(description, _)| description)
}

/// The effects of a policy that is only being described: none.
struct Nothing;

fn nothing<T>() -> Answer<T> {
    Answer::Err(Failure::lasting(FailureCode::Denied, "a policy does nothing while it describes itself"))
}

impl Effects for Nothing {
    fn http_send(&self, _: HttpBatch) -> Answer<HttpResponses> {
        nothing()
    }
    fn docker_containers(&self, _: Selector) -> Answer<Containers> {
        nothing()
    }
    fn docker_refresh(&self, _: Orders) -> Answer<Placed> {
        nothing()
    }
    fn log(&self, _: LogLine) {}
}

#[cfg(test)]
mod tests;

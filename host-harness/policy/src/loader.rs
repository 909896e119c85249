//! Loads the policy of a manifest.
//!
//! The module is read once. Its hash, signature, imports, ABI version and capabilities are checked before it is
//! compiled. After compilation, the policy describes itself, and the config is checked against the description.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read};
use std::path::Path;
use std::sync::{Arc, OnceLock};

use imagewatch_abi::{
    ABI_VERSION, Answer, Containers, DescribeOutput, Failure, FailureCode, HttpBatch, HttpResponses, LogLine, Orders,
    OrdersAccepted, Selector, SettleInput, SettleOutput, exports,
};
use serde_json::Value;
use thiserror::Error;

use super::effort::MAX_MODULE_BYTES;
use super::functions::Effects;
use super::grants::Grants;
use super::inspect::{ModuleInfo, check_size, inspect, sha256_hex};
use super::instance::{CallError, Compiled, call};
use super::manifest::{DEFAULT_MEMORY_PAGES, ManifestError, PluginManifest, WasmSource};
use super::settings::{CallLimits, HostSettings};
use super::verify;
use imagewatch_base::text::Untrusted;

/// A page of WebAssembly memory.
const PAGE_BYTES: u64 = 64 * 1024;

/// The policy that is built into this program.
static EMBEDDED: &[u8] = include_bytes!(env!("IMAGEWATCH_PLUGIN_WASM"));

/// A policy that can be called.
pub struct LoadedPlugin {
    /// The compiled module. Every call gets a fresh instance.
    pub compiled: Compiled,
    /// What the module's bytes declare.
    pub info: ModuleInfo,
    /// The grants of the policy: what the manifest grants and the module requests.
    pub grants: Grants,
    /// The policy's answer to `describe`.
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
    /// The manifest is invalid.
    #[error(transparent)]
    Manifest(#[from] ManifestError),
    /// The module cannot be read.
    #[error(
        "read policy {wasm} of manifest {manifest}: {source}; build it with `cargo xtask plugin`, or correct `path`"
    )]
    Unreadable {
        /// The manifest file.
        manifest: String,
        /// The module file.
        wasm: String,
        /// The operating system's error.
        source: io::Error,
    },
    /// The module is refused, before or after compilation.
    #[error("load policy {wasm} of manifest {manifest}: {reason}")]
    Refused {
        /// The manifest file.
        manifest: String,
        /// The module file.
        wasm: String,
        /// Why it is refused, and what to do. May quote the module.
        reason: Untrusted,
    },
}

/// A module that passed all checks and may be compiled.
#[derive(Debug)]
pub struct Validated {
    /// The bytes that were checked.
    pub wasm: Vec<u8>,
    /// What the module's bytes declare.
    pub info: ModuleInfo,
    grants: Grants,
}

/// Loads the policy of `manifest`. Blocks for about a second to compile, so do not call it on an async runtime thread.
///
/// # Errors
/// The manifest or the module cannot be used.
pub fn load(manifest: &PluginManifest) -> Result<LoadedPlugin, PluginError> {
    compile(manifest, validate(manifest)?)
}

/// Reads the module of `manifest` once, and makes all checks that do not need compilation.
///
/// # Errors
/// The module cannot be read, or a check refuses it.
pub fn validate(manifest: &PluginManifest) -> Result<Validated, PluginError> {
    let wasm = match &manifest.wasm {
        WasmSource::Embedded => EMBEDDED.to_vec(),
        WasmSource::File(path) => read_module(path).map_err(|source| PluginError::Unreadable {
            manifest: manifest.path.clone(),
            wasm: shown(&manifest.wasm),
            source,
        })?,
    };
    check(manifest, wasm).map_err(|reason| refused(manifest, reason))
}

/// Reads the module at `path`. If the file is larger than a module may be, it returns only the first bytes, and a later
/// check refuses them.
///
/// # Errors
/// The file cannot be read.
pub fn read_module(path: &Path) -> io::Result<Vec<u8>> {
    let mut wasm = Vec::new();
    File::open(path)?.take(MAX_MODULE_BYTES + 1).read_to_end(&mut wasm)?;
    Ok(wasm)
}

fn check(manifest: &PluginManifest, wasm: Vec<u8>) -> Result<Validated, String> {
    static EMBEDDED_SHA256: OnceLock<String> = OnceLock::new();
    check_size(wasm.len() as u64)?;
    verify::check(manifest, &wasm, &sha256_hex(&wasm), EMBEDDED_SHA256.get_or_init(|| sha256_hex(EMBEDDED)))?;
    let info = inspect(&wasm)?;
    let capabilities = info.validate()?;
    capabilities.fits(&manifest.grants)?;
    let grants = manifest.grants.clone().narrow(capabilities)?;
    Ok(Validated { wasm, info, grants })
}

/// Compiles a validated module, calls its `describe`, and checks the config of `manifest`.
///
/// # Errors
/// The module cannot be compiled, does not describe itself correctly, or the config is invalid.
pub fn compile(manifest: &PluginManifest, validated: Validated) -> Result<LoadedPlugin, PluginError> {
    let Validated { wasm, info, grants } = validated;
    let refused = |reason: String| refused(manifest, reason);
    let limits = manifest.host.limits.clone();
    let compiled = compile_module(&wasm, manifest.config.clone(), manifest.memory_pages, limits).map_err(refused)?;
    let description = describe(&compiled).map_err(|error| refused(error.to_string()))?;
    if description.abi != ABI_VERSION {
        let described = description.abi;
        return Err(refused(format!("it describes itself as ABI {described}, but its section says {ABI_VERSION}")));
    }
    manifest.check_keys(&description.config_keys)?;
    if let Some(failure) = &description.err {
        let key = failure.key.as_deref().unwrap_or("?");
        return Err(manifest.bad_key(key, &failure.message).into());
    }
    Ok(LoadedPlugin { compiled, info, grants, description })
}

impl LoadedPlugin {
    /// The name and version that the policy declares.
    pub fn title(&self) -> Untrusted {
        Untrusted::new(format!("{} {}", self.description.name, self.description.version))
    }

    /// Checks whether the policy can use `state`, which another policy or another version may have written.
    ///
    /// It calls `settle` with the state and without reports.
    ///
    /// # Errors
    /// A fragment that reads after "failed to", with the reason.
    pub fn can_read(&self, state: &Value) -> Result<(), String> {
        let input = SettleInput { state: state.clone(), ..SettleInput::default() };
        let called = call::<_, SettleOutput>(&self.compiled, exports::SETTLE, &input, Arc::new(Nothing));
        match called.map_err(|fault| fault.to_string())?.0.err {
            Some(failure) => Err(format!("continue from the existing state: {failure}")),
            None => Ok(()),
        }
    }
}

/// Loads a module without a manifest, to inspect it. The policy gets no grants and an empty config.
///
/// # Errors
/// A fragment with the reason why the module is refused.
pub fn load_module(wasm: &[u8]) -> Result<DescribeOutput, String> {
    inspect(wasm)?.validate()?;
    let compiled = compile_module(wasm, BTreeMap::new(), DEFAULT_MEMORY_PAGES, HostSettings::default().limits)?;
    describe(&compiled).map_err(|error| error.to_string())
}

fn refused(manifest: &PluginManifest, reason: String) -> PluginError {
    PluginError::Refused {
        manifest: manifest.path.clone(),
        wasm: shown(&manifest.wasm),
        reason: Untrusted::new(reason),
    }
}

fn shown(wasm: &WasmSource) -> String {
    match wasm {
        WasmSource::Embedded => "(built in)".to_owned(),
        WasmSource::File(path) => path.display().to_string(),
    }
}

fn compile_module(
    wasm: &[u8],
    config: BTreeMap<String, String>,
    memory_pages: u32,
    limits: CallLimits,
) -> Result<Compiled, String> {
    #[cfg(test)]
    COMPILATIONS.with(|count| count.set(count.get() + 1));
    let memory_bytes = usize::try_from(u64::from(memory_pages) * PAGE_BYTES).unwrap_or(usize::MAX);
    Compiled::new(wasm, config, memory_bytes, limits)
}

#[cfg(test)]
thread_local! {
    /// How often this thread has started a compilation.
    static COMPILATIONS: std::cell::Cell<usize> = const { std::cell::Cell::new(0) };
}

fn describe(compiled: &Compiled) -> Result<DescribeOutput, CallError> {
    call(compiled, exports::DESCRIBE, &serde_json::json!({}), Arc::new(Nothing)).map(|(description, _)| description)
}

/// Effects that refuse every request, for calls that must have no effects.
struct Nothing;

fn nothing<T>() -> Answer<T> {
    Answer::Err(Failure::permanent(
        FailureCode::Denied,
        "a policy may not use host functions while it describes itself",
    ))
}

impl Effects for Nothing {
    fn http_send(&self, _: HttpBatch, _: usize) -> Answer<HttpResponses> {
        nothing()
    }
    fn docker_containers(&self, _: Selector) -> Answer<Containers> {
        nothing()
    }
    fn docker_refresh(&self, _: Orders) -> Answer<OrdersAccepted> {
        nothing()
    }
    fn log(&self, _: LogLine) {}
}

#[cfg(test)]
mod tests;

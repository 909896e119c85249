//! From a manifest to a policy that can be called: read once, check hash and signature, imports, ABI and capabilities,
//! and only then compile, describe and check the config. Swaps and keeps nothing.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read};
use std::path::Path;
use std::sync::{Arc, OnceLock};

use imagewatch_abi::{
    ABI_VERSION, Answer, Containers, DescribeOutput, Failure, FailureCode, HttpBatch, HttpResponses, LogLine, Orders,
    Placed, Selector, SettleInput, SettleOutput, exports,
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
use super::trust;
use imagewatch_base::text::Untrusted;

/// A page of WebAssembly memory.
const PAGE_BYTES: u64 = 64 * 1024;

/// The policy that is built into this program, for manifests of its own only.
static EMBEDDED: &[u8] = include_bytes!(env!("IMAGEWATCH_PLUGIN_WASM"));

/// A policy that can be called.
pub struct LoadedPlugin {
    /// Compiled once; every call gets a fresh instance.
    pub compiled: Compiled,
    /// What the module says of itself.
    pub info: ModuleInfo,
    /// What it may have: what the manifest grants, or of that what the module asks for.
    pub grants: Grants,
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
        source: io::Error,
    },
    /// The module is refused; it was not compiled, or not kept.
    #[error("load policy {wasm} of manifest {manifest}: {reason}")]
    Refused {
        /// The manifest's file.
        manifest: String,
        /// The module's file.
        wasm: String,
        /// Why, and what to do. Quotes the module.
        reason: Untrusted,
    },
}

/// A module that may be compiled. Its bytes are those that were checked.
#[derive(Debug)]
pub struct Admitted {
    /// The file's bytes.
    pub wasm: Vec<u8>,
    /// What the module says of itself.
    pub info: ModuleInfo,
    grants: Grants,
}

/// Loads the policy of `manifest`. Compiling takes a second or so: call it off the runtime.
///
/// # Errors
/// [`PluginError`].
pub fn load(manifest: &PluginManifest) -> Result<LoadedPlugin, PluginError> {
    compile(manifest, admit(manifest)?)
}

/// Reads the module of `manifest`, once, and checks all that can be checked without compiling it.
///
/// # Errors
/// [`PluginError`].
pub fn admit(manifest: &PluginManifest) -> Result<Admitted, PluginError> {
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

/// The bytes of the module at `path`; of a file that is too large for one, the first ones.
///
/// # Errors
/// When it cannot be read.
pub fn read_module(path: &Path) -> io::Result<Vec<u8>> {
    let mut wasm = Vec::new();
    File::open(path)?.take(MAX_MODULE_BYTES + 1).read_to_end(&mut wasm)?;
    Ok(wasm)
}

fn check(manifest: &PluginManifest, wasm: Vec<u8>) -> Result<Admitted, String> {
    static EMBEDDED_SHA256: OnceLock<String> = OnceLock::new();
    check_size(wasm.len() as u64)?;
    trust::check(manifest, &wasm, &sha256_hex(&wasm), EMBEDDED_SHA256.get_or_init(|| sha256_hex(EMBEDDED)))?;
    let info = inspect(&wasm)?;
    let capabilities = info.admit()?;
    capabilities.fits(&manifest.grants)?;
    let grants = manifest.grants.clone().narrow(capabilities)?;
    Ok(Admitted { wasm, info, grants })
}

/// Compiles what was admitted, and lets it describe itself.
///
/// # Errors
/// [`PluginError`].
pub fn compile(manifest: &PluginManifest, admitted: Admitted) -> Result<LoadedPlugin, PluginError> {
    let Admitted { wasm, info, grants } = admitted;
    let refused = |reason: String| refused(manifest, reason);
    let limits = manifest.host.limits.clone();
    let compiled = compile_module(&wasm, manifest.config.clone(), manifest.memory_pages, limits).map_err(refused)?;
    let description = describe(&compiled).map_err(|error| refused(error.to_string()))?;
    if description.abi != ABI_VERSION {
        return Err(refused(format!("it describes itself as ABI {}, its section says {ABI_VERSION}", description.abi)));
    }
    manifest.check_keys(&description.config_keys)?;
    if let Some(failure) = &description.err {
        let key = failure.key.as_deref().unwrap_or("?");
        return Err(manifest.bad_key(key, &failure.message).into());
    }
    Ok(LoadedPlugin { compiled, info, grants, description })
}

impl LoadedPlugin {
    /// Its name and version, as the module says.
    pub fn title(&self) -> Untrusted {
        Untrusted::new(format!("{} {}", self.description.name, self.description.version))
    }

    /// Whether it can go on from `state`, which another policy or another version of it may have written: it is given
    /// that with nothing to settle.
    ///
    /// # Errors
    /// A fragment saying why not.
    pub fn can_read(&self, state: &Value) -> Result<(), String> {
        let input = SettleInput { state: state.clone(), ..SettleInput::default() };
        let called = call::<_, SettleOutput>(&self.compiled, exports::SETTLE, &input, Arc::new(Nothing));
        match called.map_err(|fault| fault.to_string())?.0.err {
            Some(failure) => Err(format!("go on from the state that is there: {failure}")),
            None => Ok(()),
        }
    }
}

/// Loads a module without a manifest, granted nothing, to look at it: its description is that of
/// an empty config.
///
/// # Errors
/// A fragment saying why it is refused.
pub fn load_module(wasm: &[u8]) -> Result<DescribeOutput, String> {
    inspect(wasm)?.admit()?;
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
    /// How often this thread has begun to compile.
    static COMPILATIONS: std::cell::Cell<usize> = const { std::cell::Cell::new(0) };
}

fn describe(compiled: &Compiled) -> Result<DescribeOutput, CallError> {
    call(compiled, exports::DESCRIBE, &serde_json::json!({}), Arc::new(Nothing)).map(|(description, _)| description)
}

/// The effects of a policy that is only being described: none.
struct Nothing;

fn nothing<T>() -> Answer<T> {
    Answer::Err(Failure::lasting(FailureCode::Denied, "a policy does nothing while it describes itself"))
}

impl Effects for Nothing {
    fn http_send(&self, _: HttpBatch, _: usize) -> Answer<HttpResponses> {
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

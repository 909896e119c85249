//! Reads a wasm module without compiling or running it: imports, exports, declared ABI version and capabilities.
//!
//! It refuses bytes that are not a valid module, and modules that import forbidden functions.

use std::collections::BTreeSet;

use imagewatch_abi::{ABI_SECTION, ABI_VERSION, HOST_NAMESPACE, exports, host_functions};
use serde::Serialize;
use sha2::{Digest as _, Sha256};
use wasmparser::{ExternalKind, Parser, Payload, TypeRef, ValidPayload, Validator, WasmFeatures};

use super::capabilities::{CAPABILITIES_SECTION, Capabilities};
use super::effort::{Effort, MAX_MODULE_BYTES};
use imagewatch_base::text::Untrusted;

/// Import module of Extism's own functions.
pub(super) const EXTISM_NAMESPACE: &str = "extism:host/env";

/// The Extism functions that a policy may import. They exchange bytes with the host and read the config. Extism's
/// functions for HTTP and for variables are not among them.
const EXTISM_FUNCTIONS: [&str; 15] = [
    "alloc",
    "config_get",
    "error_set",
    "free",
    "input_length",
    "input_load_u64",
    "input_load_u8",
    "input_offset",
    "length",
    "length_unsafe",
    "load_u64",
    "load_u8",
    "output_set",
    "store_u64",
    "store_u8",
];

pub(super) const WASI_NAMESPACE: &str = "wasi_snapshot_preview1";

/// The WASI functions that Rust's standard library needs. They give a policy neither files nor a clock.
const WASI_FUNCTIONS: [&str; 4] = ["environ_get", "environ_sizes_get", "fd_write", "proc_exit"];

/// The WebAssembly features that compilers use for policies today. Garbage collection, threads, exceptions and 64-bit
/// memories are not allowed, because each of them would be another way to use unlimited memory.
const FEATURES: WasmFeatures = WasmFeatures::WASM2.union(WasmFeatures::EXTENDED_CONST).union(WasmFeatures::TAIL_CALL);

/// Maximum number of elements that all tables of a module declare as their maximum, in total. It limits tables before
/// they are created.
const MAX_TABLE_ELEMENTS: u64 = 100_000;

/// What a module's bytes declare.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ModuleInfo {
    /// Size of the file in bytes.
    pub size_bytes: usize,
    /// SHA-256 of the file in hex. The manifest's `hash` is compared with it.
    pub sha256: String,
    /// The ABI version, if the module has a custom section with one.
    pub abi: Option<u32>,
    /// The requested capabilities, if the module has a custom section with them.
    pub capabilities: Option<Capabilities>,
    /// Exported functions, sorted.
    pub exports: Vec<Untrusted>,
    /// Imports as `module name`, sorted.
    pub imports: Vec<Untrusted>,
}

impl ModuleInfo {
    /// Imports that a policy must not have.
    pub fn foreign_imports(&self) -> Vec<&Untrusted> {
        self.imports.iter().filter(|import| !is_allowed(import.raw())).collect()
    }

    /// Exports that a policy must have, but this module lacks.
    pub fn missing_exports(&self) -> Vec<&'static str> {
        exports::ALL.into_iter().filter(|export| !self.exports.iter().any(|has| has.raw() == *export)).collect()
    }

    /// Checks imports, exports, ABI version and capabilities. Returns the requested capabilities.
    ///
    /// # Errors
    /// A fragment with the reason why the module must not be compiled, and what to do.
    pub fn validate(&self) -> Result<&Capabilities, String> {
        if let Some(import) = self.foreign_imports().first() {
            return Err(format!(
                "it imports `{import}`, which a policy must not use; build it for wasm32-wasip1 with only \
                 imagewatch-abi"
            ));
        }
        if let Some(export) = self.missing_exports().first() {
            return Err(format!("it does not export `{export}`; a policy must export {}", exports::ALL.join(", ")));
        }
        match self.abi {
            Some(ABI_VERSION) => self.validate_capabilities(),
            Some(other) => Err(format!(
                "it is built for ABI {other}, but this host uses ABI {ABI_VERSION}; use a policy and a host of the \
                 same release"
            )),
            None => Err(format!(
                "it declares no ABI version; a policy must have a custom section `{ABI_SECTION}` with `{ABI_VERSION}`"
            )),
        }
    }

    /// Checks that the module declares its capabilities, and that it imports only declared functions.
    fn validate_capabilities(&self) -> Result<&Capabilities, String> {
        let Some(capabilities) = &self.capabilities else {
            return Err(format!(
                "it does not declare its capabilities; a policy must have a custom section `{CAPABILITIES_SECTION}` \
                 (docs/configuration.md, Limits)"
            ));
        };
        let imported = self.imports.iter().filter_map(|import| import.raw().split_once(' '));
        let mut functions = imported.filter(|(module, _)| *module == HOST_NAMESPACE).map(|(_, name)| name);
        match functions.find(|name| !capabilities.functions.iter().any(|declared| declared == name)) {
            None => Ok(capabilities),
            Some(name) => {
                Err(format!("it imports `{name}`, which its section `{CAPABILITIES_SECTION}` does not declare"))
            }
        }
    }
}

fn is_allowed(import: &str) -> bool {
    match import.split_once(' ') {
        Some((EXTISM_NAMESPACE, name)) => EXTISM_FUNCTIONS.contains(&name),
        Some((WASI_NAMESPACE, name)) => WASI_FUNCTIONS.contains(&name),
        Some((HOST_NAMESPACE, name)) => host_functions::ALL.contains(&name),
        _ => false,
    }
}

/// Reads `wasm` and validates all of it, like the compiler does.
///
/// # Errors
/// A fragment with the reason why it is not a valid module.
pub fn inspect(wasm: &[u8]) -> Result<ModuleInfo, String> {
    let mut info = ModuleInfo {
        size_bytes: wasm.len(),
        sha256: sha256_hex(wasm),
        abi: None,
        capabilities: None,
        exports: Vec::new(),
        imports: Vec::new(),
    };
    if !wasm.starts_with(b"\0asm") {
        return Err("it does not start like a wasm module".to_owned());
    }
    check_size(wasm.len() as u64)?;
    let mut validator = Validator::new_with_features(FEATURES);
    let mut effort = Effort::default();
    let mut seen = BTreeSet::new();
    let mut table_elements = 0_u64;
    for payload in Parser::new(0).parse_all(wasm) {
        let payload = payload.map_err(|error| broken(&error))?;
        if let ValidPayload::Func(function, body) = validator.payload(&payload).map_err(|error| broken(&error))? {
            effort.add(function, &body)?;
        }
        if let Payload::CustomSection(section) = &payload
            && let name @ (ABI_SECTION | CAPABILITIES_SECTION) = section.name()
        {
            // With two sections, an audit and the host could read different ones.
            if !seen.insert(name.to_owned()) {
                return Err(format!("it has two sections `{name}`"));
            }
            note_section(&mut info, name, section.data())?;
        }
        if let Payload::TableSection(tables) = &payload {
            for table in tables.clone() {
                let most = table.map_err(|error| broken(&error))?.ty.maximum.unwrap_or(u64::MAX);
                table_elements = table_elements.saturating_add(most);
            }
        }
        note(&mut info, payload).map_err(|error| broken(&error))?;
    }
    if table_elements > MAX_TABLE_ELEMENTS {
        return Err(format!("its tables may grow beyond {MAX_TABLE_ELEMENTS} elements; declare a smaller maximum"));
    }
    info.exports.sort();
    info.imports.sort();
    Ok(info)
}

fn note_section(info: &mut ModuleInfo, name: &str, data: &[u8]) -> Result<(), String> {
    if name == ABI_SECTION {
        info.abi = std::str::from_utf8(data).ok().and_then(|text| text.trim().parse().ok());
        return Ok(());
    }
    let read = serde_json::from_slice(data);
    info.capabilities = Some(read.map_err(|error| format!("its section `{name}` is malformed: {error}"))?);
    Ok(())
}

fn note(info: &mut ModuleInfo, payload: Payload<'_>) -> Result<(), wasmparser::BinaryReaderError> {
    match payload {
        Payload::ImportSection(imports) => {
            for import in imports.into_imports() {
                let import = import?;
                let kind = if matches!(import.ty, TypeRef::Func(_)) { "" } else { " (not a function)" };
                info.imports.push(Untrusted::new(format!("{} {}{kind}", import.module, import.name)));
            }
        }
        Payload::ExportSection(exports) => {
            for export in exports {
                let export = export?;
                if export.kind == ExternalKind::Func {
                    info.exports.push(Untrusted::new(export.name));
                }
            }
        }
        _ => {}
    }
    Ok(())
}

/// Checks the size of a module.
///
/// # Errors
/// A fragment that says that the module is too large.
pub(super) fn check_size(bytes: u64) -> Result<(), String> {
    if bytes <= MAX_MODULE_BYTES {
        return Ok(());
    }
    Err(format!("it is larger than {MAX_MODULE_BYTES} bytes, the limit for a policy"))
}

pub(super) fn broken(error: &wasmparser::BinaryReaderError) -> String {
    format!("it is not a valid wasm module: {error}")
}

/// SHA-256 of `bytes` in lower-case hex.
pub(super) fn sha256_hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    Sha256::digest(bytes).iter().fold(String::new(), |mut text, byte| {
        // Writing to a string cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

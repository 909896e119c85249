//! Reads a wasm module without compiling or running it: imports, exports, declared ABI version.
//! Refuses what is no module, or imports what no policy may have.

use imagewatch_abi::{ABI_SECTION, ABI_VERSION, HOST_NAMESPACE, exports, host_functions};
use serde::Serialize;
use sha2::{Digest as _, Sha256};
use wasmparser::{ExternalKind, Parser, Payload, TypeRef, Validator};

/// Import module of Extism's own functions.
const EXTISM_NAMESPACE: &str = "extism:host/env";

/// Of Extism's functions only those that move bytes in and out and read the config: no HTTP, no variables.
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

const WASI_NAMESPACE: &str = "wasi_snapshot_preview1";

/// What Rust's standard library cannot do without: they give a policy neither files nor a clock.
const WASI_FUNCTIONS: [&str; 4] = ["environ_get", "environ_sizes_get", "fd_write", "proc_exit"];

/// What a module says of itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ModuleInfo {
    /// Size of the file.
    pub size_bytes: usize,
    /// SHA-256 of the file in hex: what a manifest's `hash` is compared with.
    pub sha256: String,
    /// The ABI version in its custom section, if it has one.
    pub abi: Option<u32>,
    /// Exported functions, sorted.
    pub exports: Vec<String>,
    /// Imports as `module name`, sorted.
    pub imports: Vec<String>,
}

impl ModuleInfo {
    /// Imports that no policy may have.
    pub fn foreign_imports(&self) -> Vec<&str> {
        self.imports.iter().map(String::as_str).filter(|import| !is_allowed(import)).collect()
    }

    /// Exports that a policy must have and this one lacks.
    pub fn missing_exports(&self) -> Vec<&'static str> {
        exports::ALL.into_iter().filter(|export| !self.exports.iter().any(|has| has == export)).collect()
    }

    /// Whether a host may compile it, or why not: a fragment that says what to do.
    pub fn admit(&self) -> Result<(), String> {
        if let Some(import) = self.foreign_imports().first() {
            return Err(format!(
                "it imports `{import}`, which no policy may have; build it for wasm32-wasip1 against imagewatch-abi alone"
            ));
        }
        if let Some(export) = self.missing_exports().first() {
            return Err(format!("it does not export `{export}`; a policy exports {}", exports::ALL.join(", ")));
        }
        match self.abi {
            Some(ABI_VERSION) => Ok(()),
            Some(other) => Err(format!(
                "it is built for ABI {other}, this host speaks ABI {ABI_VERSION}; use the policy and the host of one release"
            )),
            None => Err(format!(
                "it declares no ABI version; a policy has a custom section `{ABI_SECTION}` with `{ABI_VERSION}`"
            )),
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

/// Reads `wasm`, checking all of it as the compiler will.
///
/// # Errors
/// A fragment saying why it is no valid module.
pub fn inspect(wasm: &[u8]) -> Result<ModuleInfo, String> {
    let mut info = ModuleInfo {
        size_bytes: wasm.len(),
        sha256: sha256_hex(wasm),
        abi: None,
        exports: Vec::new(),
        imports: Vec::new(),
    };
    if !wasm.starts_with(b"\0asm") {
        return Err("it does not start as a wasm module does".to_owned());
    }
    Validator::new().validate_all(wasm).map_err(|error| broken(&error))?;
    for payload in Parser::new(0).parse_all(wasm) {
        note(&mut info, payload.map_err(|error| broken(&error))?).map_err(|error| broken(&error))?;
    }
    info.exports.sort();
    info.imports.sort();
    Ok(info)
}

fn note(info: &mut ModuleInfo, payload: Payload<'_>) -> Result<(), wasmparser::BinaryReaderError> {
    match payload {
        Payload::ImportSection(imports) => {
            for import in imports.into_imports() {
                let import = import?;
                let kind = if matches!(import.ty, TypeRef::Func(_)) { "" } else { " (no function)" };
                info.imports.push(format!("{} {}{kind}", import.module, import.name));
            }
        }
        Payload::ExportSection(exports) => {
            for export in exports {
                let export = export?;
                if export.kind == ExternalKind::Func {
                    info.exports.push(export.name.to_owned());
                }
            }
        }
        Payload::CustomSection(section) if section.name() == ABI_SECTION => {
            info.abi = std::str::from_utf8(section.data()).ok().and_then(|text| text.trim().parse().ok());
        }
        _ => {}
    }
    Ok(())
}

fn broken(error: &wasmparser::BinaryReaderError) -> String {
    format!("it is no valid wasm module: {error}")
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

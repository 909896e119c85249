//! Checks that a module is the one that the operator configured: its hash, and its signature if a key is configured.
//!
//! These checks come before all checks of the module's content.

use std::path::{Path, PathBuf};

use minisign_verify::{PublicKey, Signature};

use super::manifest::{PluginManifest, WasmSource};
use super::settings::{ALLOW_UNHASHED_KEY, SIGNATURE_KEY};

/// Checks the module of `manifest`. Its hash is `sha256`. `embedded` is the hash of the built-in module, which needs no
/// hash in the manifest.
///
/// # Errors
/// A fragment with what is wrong and what to do.
pub(super) fn check(manifest: &PluginManifest, wasm: &[u8], sha256: &str, embedded: &str) -> Result<(), String> {
    check_hash(manifest, sha256, embedded)?;
    match &manifest.wasm {
        WasmSource::File(path) if !manifest.host.signature_key.is_empty() => {
            check_signature(&manifest.host.signature_key, path, wasm)
        }
        _ => Ok(()),
    }
}

fn check_hash(manifest: &PluginManifest, sha256: &str, embedded: &str) -> Result<(), String> {
    match &manifest.hash {
        Some(hash) if hash.eq_ignore_ascii_case(sha256) => Ok(()),
        Some(hash) => Err(format!(
            "its sha256 is {sha256}, but the manifest's `hash` is {hash}; if you trust the new module, update `hash`"
        )),
        None if sha256 == embedded || manifest.host.allow_unhashed => Ok(()),
        None => Err(format!(
            "it is not the built-in module, and the manifest has no `hash` for it; if you trust it, add \
             \"hash\": \"{sha256}\" next to its `path`; while you develop it, set config key `{ALLOW_UNHASHED_KEY}`"
        )),
    }
}

fn check_signature(key: &str, module: &Path, wasm: &[u8]) -> Result<(), String> {
    let key = PublicKey::from_base64(key)
        .map_err(|error| format!("config key `{SIGNATURE_KEY}` is not a minisign public key: {error}"))?;
    let path = signature_path(module);
    let shown = path.display();
    let text = std::fs::read_to_string(&path).map_err(|error| {
        format!(
            "its signature {shown} cannot be read: {error}; `{SIGNATURE_KEY}` requires one: sign it with `minisign -S`"
        )
    })?;
    let signature =
        Signature::decode(&text).map_err(|error| format!("{shown} is not a minisign signature: {error}"))?;
    key.verify(wasm, &signature, false)
        .map_err(|error| format!("its signature {shown} does not match `{SIGNATURE_KEY}` and this file: {error}"))
}

/// The path of the signature, `<module>.minisig`. `minisign -S` writes it there.
pub(super) fn signature_path(module: &Path) -> PathBuf {
    let mut name = module.as_os_str().to_owned();
    name.push(".minisig");
    name.into()
}

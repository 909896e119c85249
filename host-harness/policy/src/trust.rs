//! Whether a module's bytes are the ones that the operator means: its hash, and its signature where a key is configured.
//! Looks at bytes only; what they hold is judged elsewhere, and only after this.

use std::path::{Path, PathBuf};

use minisign_verify::{PublicKey, Signature};

use super::manifest::{PluginManifest, WasmSource};
use super::settings::{ALLOW_UNHASHED_KEY, SIGNATURE_KEY};

/// Checks the module of `manifest`, whose hash is `sha256`; `embedded` is that of the one built in, which needs neither.
///
/// # Errors
/// A fragment that says what is wrong and what to do.
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
            "its sha256 is {sha256}, the manifest's `hash` is {hash}; if the change is yours, update `hash`"
        )),
        None if sha256 == embedded || manifest.host.allow_unhashed => Ok(()),
        None => Err(format!(
            "it is not the module built in, and the manifest has no `hash` for it; if you trust it, write \
             \"hash\": \"{sha256}\" beside its `path`; while you write one, set config key `{ALLOW_UNHASHED_KEY}`"
        )),
    }
}

fn check_signature(key: &str, module: &Path, wasm: &[u8]) -> Result<(), String> {
    let key = PublicKey::from_base64(key)
        .map_err(|error| format!("config key `{SIGNATURE_KEY}` is no minisign public key: {error}"))?;
    let path = signature_path(module);
    let shown = path.display();
    let text = std::fs::read_to_string(&path).map_err(|error| {
        format!("its signature {shown} cannot be read: {error}; sign it with `minisign -S`, since `{SIGNATURE_KEY}` asks for that")
    })?;
    let signature = Signature::decode(&text).map_err(|error| format!("{shown} is no minisign signature: {error}"))?;
    key.verify(wasm, &signature, false)
        .map_err(|error| format!("its signature {shown} is not that of `{SIGNATURE_KEY}` over this file: {error}"))
}

/// `<module>.minisig`, where `minisign -S` puts it.
pub(super) fn signature_path(module: &Path) -> PathBuf {
    let mut name = module.as_os_str().to_owned();
    name.push(".minisig");
    name.into()
}

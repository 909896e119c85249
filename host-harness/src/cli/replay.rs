//! The command that tries a policy on a transcript: needs neither an engine nor a registry nor the state folder.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde_json::json;

use crate::daemon::AppError;
use imagewatch_base::text::Untrusted;
use imagewatch_policy::transcript::{PolicyLine, Replayed, Transcript, play};
use imagewatch_policy::{HOST_KEYS, PluginError, PluginManifest, inspect, load, load_module, read_module};

/// What is to be tried on what.
#[derive(Debug, Clone)]
pub struct ReplayRequest {
    /// The transcript.
    pub file: PathBuf,
    /// The module to try.
    pub plugin: PathBuf,
    /// Which of the transcript's manifests; none: the only one.
    pub manifest: Option<String>,
    /// Config that goes before the recorded one.
    pub config: Vec<(String, String)>,
}

/// Plays the transcript through the module. Blocks.
///
/// # Errors
/// When the transcript or the module cannot be used.
pub fn replay(request: &ReplayRequest) -> Result<Replayed, AppError> {
    let transcript = Transcript::read(&request.file, request.manifest.as_deref())?;
    let manifest = manifest_for(request, &transcript.policy)?;
    let plugin = load(&manifest)?;
    Ok(play(&transcript, &plugin))
}

/// A manifest for the module with the recorded config, as far as the module knows its keys. It grants all: nothing is
/// touched.
fn manifest_for(request: &ReplayRequest, recorded: &PolicyLine) -> Result<PluginManifest, AppError> {
    let shown = request.plugin.display().to_string();
    let refused = |reason: String| PluginError::Refused {
        manifest: recorded.manifest.clone(),
        wasm: shown.clone(),
        reason: Untrusted::new(reason),
    };
    let wasm = read_module(&request.plugin).map_err(|source| PluginError::Unreadable {
        manifest: recorded.manifest.clone(),
        wasm: shown.clone(),
        source,
    })?;
    let sha256 = inspect(&wasm).map_err(refused)?.sha256;
    let known = load_module(&wasm).map_err(refused)?.config_keys;
    let is_known = |key: &str| HOST_KEYS.iter().any(|host| host.0 == key) || known.iter().any(|known| known.key == key);
    let recorded_config = recorded.config.iter().filter(|(key, _)| is_known(key));
    let mut config: BTreeMap<&str, &str> = recorded_config.map(|(key, value)| (key.as_str(), value.as_str())).collect();
    config.extend(request.config.iter().map(|(key, value)| (key.as_str(), value.as_str())));
    config.extend([("grant.images", "*"), ("grant.containers", "*")]);
    // It is tried, not trusted: no signature is asked for, and nothing that it asks for is refused.
    for key in ["grant.functions", "grant.strategies", "host.signature_key"] {
        config.remove(key);
    }
    // Variables were expanded when it was recorded, and are not to be again.
    let config: BTreeMap<&str, String> =
        config.into_iter().map(|(key, value)| (key, value.replace('$', "$$"))).collect();
    let text = json!({
        "wasm": [{"path": request.plugin, "hash": sha256}],
        "allowed_hosts": ["*"],
        "config": config,
    });
    let path = format!("(replay of {})", request.file.display());
    Ok(PluginManifest::parse(&recorded.manifest, &path, &text.to_string(), &|_| None).map_err(PluginError::from)?)
}

//! `plugin replay`: tries a policy on a transcript. It uses no engine, no registry and no state folder.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde_json::json;

use crate::daemon::AppError;
use imagewatch_base::text::Untrusted;
use imagewatch_policy::transcript::{PolicyLine, Replayed, Transcript, play};
use imagewatch_policy::{HOST_KEYS, PluginError, PluginManifest, inspect, load, load_module, read_module};

/// The arguments of a replay.
#[derive(Debug, Clone)]
pub struct ReplayRequest {
    /// The transcript file.
    pub file: PathBuf,
    /// The wasm file of the policy to try.
    pub plugin: PathBuf,
    /// The name of the recorded manifest. May be `None` if the transcript contains only one.
    pub manifest: Option<String>,
    /// Config values that take precedence over the recorded ones.
    pub config: Vec<(String, String)>,
}

/// Replays the transcript with the module. Blocks.
///
/// # Errors
/// The transcript or the module cannot be used.
pub fn replay(request: &ReplayRequest) -> Result<Replayed, AppError> {
    let transcript = Transcript::read(&request.file, request.manifest.as_deref())?;
    let manifest = manifest_for(request, &transcript.policy)?;
    let plugin = load(&manifest)?;
    Ok(play(&transcript, &plugin))
}

/// Creates a manifest for the module with the recorded config, without keys that the module does not know.
///
/// The manifest grants everything, because a replay has no effects.
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
    // A replay has no effects. So it requires no signature and refuses no capability.
    for key in ["grant.functions", "grant.strategies", "host.signature_key"] {
        config.remove(key);
    }
    // The recorded values have their variables already expanded. Escape `$` so that they are not expanded again.
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

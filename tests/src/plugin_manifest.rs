//! Writes the Extism manifest of a test: the plugin, its settings, and the hosts that it may reach. This module knows
//! no setting by name.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use serde_json::json;

use crate::components;
use crate::image::sha256;

/// Writes `bytes` to `path` by a rename, as files are deployed.
pub fn deploy(path: &Path, bytes: &[u8]) {
    let staged = path.with_extension("staged");
    fs::write(&staged, bytes).expect("the test's folder is writable");
    fs::rename(&staged, path).expect("a rename within one folder succeeds");
}

/// The SHA-256 in lower-case hex, as in manifests.
pub fn hash_of(bytes: &[u8]) -> String {
    sha256(bytes).to_string().trim_start_matches("sha256:").to_owned()
}

/// A builder for an Extism manifest.
#[derive(Debug, Clone)]
pub struct PluginManifest {
    /// The plugin's file.
    pub wasm: PathBuf,
    /// The SHA-256 that the file must have, in lower-case hex. `None` skips the check.
    pub hash: Option<String>,
    /// The settings. Extism passes them to the plugin as strings.
    pub config: BTreeMap<String, String>,
    /// The hosts that the plugin may reach, as `host` or `host:port`.
    pub allowed_hosts: Vec<String>,
}

impl PluginManifest {
    /// A manifest for the built-in policy, from `$IMAGEWATCH_PLUGIN_WASM` or the target folder.
    pub fn new() -> Self {
        Self { wasm: components::plugin_wasm(), hash: None, config: BTreeMap::new(), allowed_hosts: Vec::new() }
    }

    /// Uses the current content of the file `wasm` as the module, pinned by its hash.
    #[must_use]
    pub fn module(self, wasm: &Path) -> Self {
        let hash = hash_of(&fs::read(wasm).expect("the module can be read"));
        Self { wasm: wasm.to_owned(), hash: Some(hash), ..self }
    }

    /// Adds or replaces one setting.
    #[must_use]
    pub fn config(mut self, key: &str, value: &str) -> Self {
        self.config.insert(key.to_owned(), value.to_owned());
        self
    }

    /// Removes one setting. A policy refuses keys that it does not know.
    #[must_use]
    pub fn without(mut self, key: &str) -> Self {
        self.config.remove(key);
        self
    }

    /// Allows one more host.
    #[must_use]
    pub fn allow_host(mut self, host: &str) -> Self {
        self.allowed_hosts.push(host.to_owned());
        self
    }

    /// Writes `folder/name.json` by a rename, as files are deployed, and returns its path.
    pub fn write(&self, folder: &Path, name: &str) -> PathBuf {
        let mut wasm = json!({"path": self.wasm});
        if let Some(hash) = &self.hash {
            wasm["hash"] = json!(hash);
        }
        let manifest = json!({"wasm": [wasm], "config": self.config, "allowed_hosts": self.allowed_hosts});
        let path = folder.join(format!("{name}.json"));
        deploy(&path, manifest.to_string().as_bytes());
        path
    }
}

impl Default for PluginManifest {
    fn default() -> Self {
        Self::new()
    }
}

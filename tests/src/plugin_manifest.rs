//! Writes the Extism manifest of a test: which plugin, with which settings, towards which hosts.
//! Knows no setting by name.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use serde_json::json;

use crate::components;
use crate::image::sha256;

/// Writes `bytes` to `path` as files are deployed: by renaming over.
pub fn deploy(path: &Path, bytes: &[u8]) {
    let staged = path.with_extension("staged");
    fs::write(&staged, bytes).expect("the test's folder takes files");
    fs::rename(&staged, path).expect("a rename within one folder works");
}

/// SHA-256 in lower-case hex, as manifests have it.
pub fn hash_of(bytes: &[u8]) -> String {
    sha256(bytes).to_string().trim_start_matches("sha256:").to_owned()
}

/// An Extism manifest in the making.
#[derive(Debug, Clone)]
pub struct PluginManifest {
    /// The plugin's file.
    pub wasm: PathBuf,
    /// The lower-case hex SHA-256 that the file must have; `None` leaves it unchecked.
    pub hash: Option<String>,
    /// The settings, which Extism hands to the plugin as strings.
    pub config: BTreeMap<String, String>,
    /// The hosts that the plugin may reach, as `host` or `host:port`.
    pub allowed_hosts: Vec<String>,
}

impl PluginManifest {
    /// For the project's own plugin, from `$IMAGEWATCH_PLUGIN_WASM` or the target folder.
    pub fn new() -> Self {
        Self { wasm: components::plugin_wasm(), hash: None, config: BTreeMap::new(), allowed_hosts: Vec::new() }
    }

    /// Runs the module that is in the file `wasm` now, and no other.
    #[must_use]
    pub fn module(self, wasm: &Path) -> Self {
        let hash = hash_of(&fs::read(wasm).expect("the module is there"));
        Self { wasm: wasm.to_owned(), hash: Some(hash), ..self }
    }

    /// Adds or replaces one setting.
    #[must_use]
    pub fn config(mut self, key: &str, value: &str) -> Self {
        self.config.insert(key.to_owned(), value.to_owned());
        self
    }

    /// Removes one setting: a policy refuses keys that it does not know.
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

    /// Writes `folder/name.json` by renaming over it, as files are deployed, and returns its path.
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

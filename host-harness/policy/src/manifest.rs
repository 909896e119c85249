//! Reads and checks an Extism manifest: the module, its config, and what the operator grants.
//!
//! Extism's format allows no additional fields. So the settings of the host are in `config`, under `host.` and
//! `grant.`. The same file loads in any Extism host.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use extism_manifest::Wasm;
use imagewatch_abi::{ConfigKey, GRANT_KEY_PREFIX, HOST_KEY_PREFIX};
use thiserror::Error;

use super::expand::{Environment, expand};
use super::grants::Grants;
use super::settings::{HOST_KEYS, HostSettings, default_of};
use imagewatch_base::hosts::ALLOWED_HOSTS;

/// The default memory limit of a policy: 64 MiB in pages of 64 KiB.
pub(super) const DEFAULT_MEMORY_PAGES: u32 = 1024;

/// A manifest that can be loaded.
#[derive(Debug)]
pub struct PluginManifest {
    /// The file name without the extension. Logs and responses use it to name the manifest.
    pub name: String,
    /// The path of the file, for messages.
    pub path: String,
    /// The location of the module.
    pub wasm: WasmSource,
    /// The SHA-256 in hex that the module must have.
    pub hash: Option<String>,
    /// The memory limit of the policy in pages of 64 KiB.
    pub memory_pages: u32,
    /// The config that the policy gets. Variables are expanded.
    pub config: BTreeMap<String, String>,
    /// Patterns of the hosts that the policy may contact. The part after a `/` is ignored.
    pub allowed_hosts: Vec<String>,
    /// What the manifest grants. A policy gets less if its module requests less.
    pub grants: Grants,
    /// The settings of the host.
    pub host: HostSettings,
    /// The full text of the file.
    pub text: String,
    /// The config values as written in the file, for messages.
    written: BTreeMap<String, String>,
}

/// The location of a module.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WasmSource {
    /// A file. A relative path is relative to the working directory, as in every Extism host.
    File(PathBuf),
    /// The module that is built into this program.
    Embedded,
}

/// Why a manifest cannot be used.
#[derive(Debug, Error)]
pub enum ManifestError {
    /// The file cannot be read.
    #[error("read manifest {path}: {source}; check the path")]
    Unreadable {
        /// The file.
        path: String,
        /// The operating system's error.
        source: std::io::Error,
    },
    /// The file is not an Extism manifest that imagewatch can use.
    #[error("parse manifest {path}: {reason}")]
    Malformed {
        /// The file.
        path: String,
        /// What is wrong, and where.
        reason: String,
    },
    /// A config key is unknown, or its value is invalid.
    #[error("use manifest {path}: config key `{key}`{written}: {reason}")]
    BadKey {
        /// The file.
        path: String,
        /// The key.
        key: String,
        /// The value as written, if it contains variables. Otherwise empty.
        written: String,
        /// What is wrong.
        reason: String,
    },
}

impl PluginManifest {
    /// Reads the manifest file at `path`. `env` returns the values of environment variables.
    ///
    /// # Errors
    /// The file cannot be read, or the manifest is invalid.
    pub fn read(path: &Path, env: Environment<'_>) -> Result<Self, ManifestError> {
        let shown = path.display().to_string();
        let text = std::fs::read_to_string(path)
            .map_err(|source| ManifestError::Unreadable { path: shown.clone(), source })?;
        Self::parse(&Self::name_of(path), &shown, &text, env)
    }

    /// The name of the manifest at `path`: the file name without the extension.
    pub fn name_of(path: &Path) -> String {
        path.file_stem().map_or_else(|| path.display().to_string(), |stem| stem.to_string_lossy().into_owned())
    }

    /// Parses the manifest `name` from `text`. `path` is only for messages. `env` returns the values of environment
    /// variables.
    ///
    /// # Errors
    /// The manifest is invalid.
    pub fn parse(name: &str, path: &str, text: &str, env: Environment<'_>) -> Result<Self, ManifestError> {
        let malformed = |reason: String| ManifestError::Malformed { path: path.to_owned(), reason };
        let raw: extism_manifest::Manifest =
            serde_json::from_str(text).map_err(|error| malformed(error.to_string()))?;
        if raw.allowed_paths.is_some_and(|paths| !paths.is_empty()) {
            return Err(malformed(
                "`allowed_paths` gives a policy access to files, which is not allowed; remove it".to_owned(),
            ));
        }
        if raw.timeout_ms.is_some() {
            return Err(malformed(
                "`timeout_ms` does not limit host functions; limit the policy with config key `host.fuel`".to_owned(),
            ));
        }
        let (wasm, hash) = single_module(raw.wasm).map_err(malformed)?;
        let mut config = BTreeMap::new();
        for (key, value) in &raw.config {
            let expanded = expand(value, env).map_err(|reason| bad_key(path, &raw.config, key, &reason))?;
            config.insert(key.clone(), expanded);
        }
        let hosts = raw.allowed_hosts.unwrap_or_default().into_iter().map(|host| expand(&host, env));
        let allowed_hosts: Vec<String> =
            hosts.collect::<Result<_, _>>().map_err(|reason| malformed(format!("`allowed_hosts`: {reason}")))?;
        // An empty value counts as absent.
        let value = |key: &str| match config.get(key).map(|value| value.trim()) {
            None | Some("") => default_of(key),
            Some(value) => value,
        };
        let bad = |key: &str, reason: String| bad_key(path, &raw.config, key, &reason);
        if let Some(unknown) =
            config.keys().find(|key| is_host_key(key) && !HOST_KEYS.iter().any(|known| known.0 == key.as_str()))
        {
            let known: Vec<&str> = HOST_KEYS.iter().map(|key| key.0).collect();
            return Err(bad(unknown, format!("is unknown; the host reads {}", known.join(", "))));
        }
        let grants = Grants::parse(&allowed_hosts, &value).map_err(|(key, reason)| match key {
            // `allowed_hosts` is not a config key. The reason names it.
            ALLOWED_HOSTS => malformed(reason),
            _ => bad(key, reason),
        })?;
        let host = HostSettings::parse(&value).map_err(|(key, reason)| bad(key, reason))?;
        Ok(Self {
            name: name.to_owned(),
            path: path.to_owned(),
            wasm,
            hash,
            memory_pages: raw.memory.max_pages.unwrap_or(DEFAULT_MEMORY_PAGES),
            allowed_hosts,
            grants,
            host,
            text: text.to_owned(),
            written: raw.config,
            config,
        })
    }

    /// Returns this manifest with the built-in module.
    #[must_use]
    pub fn with_embedded(self) -> Self {
        Self { wasm: WasmSource::Embedded, ..self }
    }

    /// Returns this manifest with the module in the file at `path`.
    #[must_use]
    pub fn with_file(self, path: &Path) -> Self {
        Self { wasm: WasmSource::File(path.to_owned()), ..self }
    }

    /// Checks that the host or the policy reads each config key. `known` are the keys of the policy.
    ///
    /// # Errors
    /// Names the first unknown key, and the keys that the policy reads.
    pub fn check_keys(&self, known: &[ConfigKey]) -> Result<(), ManifestError> {
        let is_known = |key: &String| is_host_key(key) || known.iter().any(|known| known.key == *key);
        match self.config.keys().find(|key| !is_known(key)) {
            None => Ok(()),
            Some(key) => {
                let known: Vec<&str> = known.iter().map(|key| key.key.as_str()).collect();
                Err(self.bad_key(key, &format!("is unknown; the policy reads {}", known.join(", "))))
            }
        }
    }

    /// Names config key `key` and its value for a message. If the value contains variables, it adds the value as
    /// written.
    pub fn shown_key(&self, key: &str) -> String {
        let value = self.config.get(key).map_or("", String::as_str);
        format!("config key `{key}`{} is {value:?},", written_as(&self.written, key))
    }

    /// Returns an error about `key`. If its value contains variables, the error shows the value as written.
    pub fn bad_key(&self, key: &str, reason: &str) -> ManifestError {
        bad_key(&self.path, &self.written, key, reason)
    }
}

fn bad_key(path: &str, written: &BTreeMap<String, String>, key: &str, reason: &str) -> ManifestError {
    ManifestError::BadKey {
        path: path.to_owned(),
        key: key.to_owned(),
        written: written_as(written, key),
        reason: reason.to_owned(),
    }
}

fn written_as(written: &BTreeMap<String, String>, key: &str) -> String {
    let with_variables = written.get(key).filter(|value| value.contains("${"));
    with_variables.map(|value| format!(" (written as {value})")).unwrap_or_default()
}

fn is_host_key(key: &str) -> bool {
    key.starts_with(HOST_KEY_PREFIX) || key.starts_with(GRANT_KEY_PREFIX)
}

fn single_module(mut modules: Vec<Wasm>) -> Result<(WasmSource, Option<String>), String> {
    match (modules.pop(), modules.is_empty()) {
        (Some(Wasm::File { path, meta }), true) => Ok((WasmSource::File(path), meta.hash)),
        (Some(_), true) => Err("`wasm` must name a file by `path`; data and URLs are not supported".to_owned()),
        _ => Err("`wasm` must have exactly one module".to_owned()),
    }
}

#[cfg(test)]
mod tests;

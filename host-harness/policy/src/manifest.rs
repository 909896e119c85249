//! An Extism manifest, read and checked: which module, its config, and what the operator grants.
//! Extism's own format allows no fields of ours, so what the host reads stands in `config` under
//! `host.` and `grant.`, and the same file loads in any Extism host.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use extism_manifest::Wasm;
use imagewatch_abi::{ConfigKey, GRANT_KEY_PREFIX, HOST_KEY_PREFIX};
use thiserror::Error;

use super::expand::{Environment, expand};
use super::grants::Grants;
use super::settings::{HOST_KEYS, HostSettings, default_of};
use imagewatch_base::hosts::ALLOWED_HOSTS;

/// Memory of a policy unless the manifest says otherwise: 64 MiB in pages of 64 KiB.
pub(super) const DEFAULT_MEMORY_PAGES: u32 = 1024;

/// A manifest that can be loaded.
#[derive(Debug)]
pub struct PluginManifest {
    /// The file's name without its ending; names the manifest in logs and answers.
    pub name: String,
    /// For messages.
    pub path: String,
    /// Where the module is.
    pub wasm: WasmSource,
    /// SHA-256 in hex that the module must have.
    pub hash: Option<String>,
    /// The guest's memory limit in pages of 64 KiB.
    pub memory_pages: u32,
    /// Given to the guest, variables expanded.
    pub config: BTreeMap<String, String>,
    /// Hosts that may be asked, as patterns; what stands after a `/` does not count.
    pub allowed_hosts: Vec<String>,
    /// All that a policy may have. What it does get is narrower where its module asks for less.
    pub grants: Grants,
    /// What the host itself reads.
    pub host: HostSettings,
    /// The file's whole text.
    pub text: String,
    /// Config values as written, for messages.
    written: BTreeMap<String, String>,
}

/// Where a module comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WasmSource {
    /// A file; relative to the working directory, as in every Extism host.
    File(PathBuf),
    /// The one built into this program.
    Embedded,
}

/// Why a manifest cannot be used. Names the file, and the key where there is one.
#[derive(Debug, Error)]
pub enum ManifestError {
    /// It cannot be read.
    #[error("read manifest {path}: {source}; check the path")]
    Unreadable {
        /// The file.
        path: String,
        /// Why.
        source: std::io::Error,
    },
    /// It is no Extism manifest.
    #[error("parse manifest {path}: {reason}")]
    Malformed {
        /// The file.
        path: String,
        /// Where and why.
        reason: String,
    },
    /// One value cannot be used.
    #[error("use manifest {path}: config key `{key}`{written}: {reason}")]
    BadKey {
        /// The file.
        path: String,
        /// The key.
        key: String,
        /// The value as written, when variables made it something else.
        written: String,
        /// What is wrong.
        reason: String,
    },
}

impl PluginManifest {
    /// Reads the file at `path`.
    ///
    /// # Errors
    /// [`ManifestError`].
    pub fn read(path: &Path, env: Environment<'_>) -> Result<Self, ManifestError> {
        let shown = path.display().to_string();
        let text = std::fs::read_to_string(path)
            .map_err(|source| ManifestError::Unreadable { path: shown.clone(), source })?;
        Self::parse(&Self::name_of(path), &shown, &text, env)
    }

    /// The name of the manifest at `path`: its file's, without the ending.
    pub fn name_of(path: &Path) -> String {
        path.file_stem().map_or_else(|| path.display().to_string(), |stem| stem.to_string_lossy().into_owned())
    }

    /// Reads the manifest `name` from `text`; `path` is for messages.
    ///
    /// # Errors
    /// [`ManifestError`].
    pub fn parse(name: &str, path: &str, text: &str, env: Environment<'_>) -> Result<Self, ManifestError> {
        let malformed = |reason: String| ManifestError::Malformed { path: path.to_owned(), reason };
        let raw: extism_manifest::Manifest =
            serde_json::from_str(text).map_err(|error| malformed(error.to_string()))?;
        if raw.allowed_paths.is_some_and(|paths| !paths.is_empty()) {
            return Err(malformed("`allowed_paths` gives a policy files, which none may have; remove it".to_owned()));
        }
        if raw.timeout_ms.is_some() {
            return Err(malformed(
                "`timeout_ms` does not bound host functions; bound the policy with config key `host.fuel`".to_owned(),
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
        // An empty value is an absent one.
        let value = |key: &str| match config.get(key).map(|value| value.trim()) {
            None | Some("") => default_of(key),
            Some(value) => value,
        };
        let bad = |key: &str, reason: String| bad_key(path, &raw.config, key, &reason);
        if let Some(unknown) =
            config.keys().find(|key| is_host_key(key) && !HOST_KEYS.iter().any(|known| known.0 == key.as_str()))
        {
            let known: Vec<&str> = HOST_KEYS.iter().map(|key| key.0).collect();
            return Err(bad(unknown, format!("is not known; the host reads {}", known.join(", "))));
        }
        let grants = Grants::parse(&allowed_hosts, &value).map_err(|(key, reason)| match key {
            // It stands beside `config`, not in it; the reason names it.
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

    /// The same with the module that is built into this program.
    #[must_use]
    pub fn with_embedded(self) -> Self {
        Self { wasm: WasmSource::Embedded, ..self }
    }

    /// The same with the module in the file at `path`.
    #[must_use]
    pub fn with_file(self, path: &Path) -> Self {
        Self { wasm: WasmSource::File(path.to_owned()), ..self }
    }

    /// Refuses config keys that neither the host nor the policy reads.
    ///
    /// # Errors
    /// Names the first one and what there is.
    pub fn check_keys(&self, known: &[ConfigKey]) -> Result<(), ManifestError> {
        let is_known = |key: &String| is_host_key(key) || known.iter().any(|known| known.key == *key);
        match self.config.keys().find(|key| !is_known(key)) {
            None => Ok(()),
            Some(key) => {
                let known: Vec<&str> = known.iter().map(|key| key.key.as_str()).collect();
                Err(self.bad_key(key, &format!("is not known; the policy reads {}", known.join(", "))))
            }
        }
    }

    /// Config key `key` with its value, and as written when variables made it something else.
    pub fn shown_key(&self, key: &str) -> String {
        let value = self.config.get(key).map_or("", String::as_str);
        format!("config key `{key}`{} is {value:?},", written_as(&self.written, key))
    }

    /// An error about `key`, with the value as written when variables made it something else.
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
        (Some(_), true) => Err("`wasm` must name a file by `path`; data and URLs are not taken".to_owned()),
        _ => Err("`wasm` must have exactly one module".to_owned()),
    }
}

#[cfg(test)]
mod tests;

//! An Extism manifest, read and checked: which module, its config, and what the operator grants.
//! Extism's own format allows no fields of ours, so what the host reads stands in `config` under
//! `host.` and `grant.`, and the same file loads in any Extism host.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use extism::Wasm;
use imagewatch_abi::{ConfigKey, GRANT_KEY_PREFIX, HOST_KEY_PREFIX, parse_duration_ms};
use thiserror::Error;

use super::expand::{Environment, expand};
use super::grants::{CONTAINERS_KEY, Grants, IMAGES_KEY};

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
    /// Images and containers that may be touched.
    pub grants: Grants,
    /// What the host itself reads.
    pub host: HostSettings,
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

/// The `host.` keys.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostSettings {
    /// For one request, body included.
    pub http_timeout: Duration,
    /// For the pull of one order.
    pub pull_timeout: Duration,
    /// How long a replaced container without a health check must stay up.
    pub stable_for: Duration,
    /// How many images before the present one are kept of each repository; none: all.
    pub keep_images: Option<usize>,
    /// Instructions, about, that one call of the guest may take.
    pub fuel: u64,
    /// Requests under way at once to one registry.
    pub connections: usize,
    /// Whether what the policy has seen outlives the process.
    pub state: StateKeeping,
    /// See `http::egress`.
    pub insecure_registries: String,
    /// See `http::egress`.
    pub auth_realms: String,
}

/// Whether a policy's state outlives the process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StateKeeping {
    /// In the store: what moves while nobody watches is noticed afterwards.
    Persisted,
    /// Until the process ends: the first poll seeds, as in the seed system.
    Memory,
}

/// The keys that the host reads, as `(key, type, default, meaning)`; policies declare their own.
pub const HOST_KEYS: [(&str, &str, &str, &str); 11] = [
    (
        IMAGES_KEY,
        "list of patterns",
        "",
        "Images that may be pulled, written in full (`docker.io/library/nginx:*`); nothing else is.",
    ),
    (
        CONTAINERS_KEY,
        "list of `*`, `name:<pattern>`, `label:<key>=<value>`",
        "",
        "Containers that may be seen and handled; no other is.",
    ),
    ("host.http_timeout", "duration", "10s", "Deadline of one registry request, body included."),
    (
        "host.connections",
        "number",
        "28",
        "Requests under way at once to one registry; with those being made or kept at most 2¼ times as many \
         connections are open over HTTP/1.1, and one over HTTP/2.",
    ),
    ("host.pull_timeout", "duration", "5m", "Deadline of one pull."),
    (
        "host.stable_for",
        "duration",
        "10s",
        "How long a replaced container without a health check must stay up before the old one is removed.",
    ),
    (
        "host.keep_images",
        "number, or `all`",
        "all",
        "How many images before the present one are kept of each repository; older ones that nothing uses are removed.",
    ),
    ("host.fuel", "instructions", "5000000000", "What one call of the policy may compute before it is ended."),
    (
        "host.state",
        "`persisted`, or `memory`",
        "persisted",
        "Whether what was seen outlives the program; with `memory` a move that happens while it is down goes unnoticed.",
    ),
    (
        "host.insecure_registries",
        "list of hosts, or `loopback`",
        "loopback",
        "Registries that may be asked over plain HTTP; `loopback` stands for every loopback address.",
    ),
    (
        "host.auth_realms",
        "list of `registry=host`",
        "",
        "Token servers on another host than their registry that may be given its credential, and be on a private network.",
    ),
];

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
        let name = path.file_stem().map_or_else(|| shown.clone(), |stem| stem.to_string_lossy().into_owned());
        Self::parse(&name, &shown, &text, env)
    }

    /// Reads the manifest `name` from `text`; `path` is for messages.
    ///
    /// # Errors
    /// [`ManifestError`].
    pub fn parse(name: &str, path: &str, text: &str, env: Environment<'_>) -> Result<Self, ManifestError> {
        let malformed = |reason: String| ManifestError::Malformed { path: path.to_owned(), reason };
        let raw: extism::Manifest = serde_json::from_str(text).map_err(|error| malformed(error.to_string()))?;
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
        let allowed_hosts =
            hosts.collect::<Result<_, _>>().map_err(|reason| malformed(format!("`allowed_hosts`: {reason}")))?;
        let value = |key: &str| config.get(key).map_or("", |value| value.trim());
        let bad = |key: &str, reason: String| bad_key(path, &raw.config, key, &reason);
        if let Some(unknown) =
            config.keys().find(|key| is_host_key(key) && !HOST_KEYS.iter().any(|known| known.0 == key.as_str()))
        {
            let known: Vec<&str> = HOST_KEYS.iter().map(|key| key.0).collect();
            return Err(bad(unknown, format!("is not known; the host reads {}", known.join(", "))));
        }
        let grants =
            Grants::parse(value(IMAGES_KEY), value(CONTAINERS_KEY)).map_err(|(key, reason)| bad(key, reason))?;
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
            written: raw.config,
            config,
        })
    }

    /// The same with the module that is built into this program.
    #[must_use]
    pub fn with_embedded(self) -> Self {
        Self { wasm: WasmSource::Embedded, ..self }
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

impl Default for HostSettings {
    fn default() -> Self {
        Self::parse(&|_| "").expect("the defaults in HOST_KEYS are good values")
    }
}

impl HostSettings {
    fn parse<'a>(value: &impl Fn(&str) -> &'a str) -> Result<Self, (&'static str, String)> {
        let or = |key: &'static str| {
            let default = HOST_KEYS.iter().find(|known| known.0 == key).map_or("", |known| known.2);
            Some(value(key)).filter(|value| !value.is_empty()).unwrap_or(default)
        };
        let duration = |key| {
            parse_duration(or(key)).ok_or_else(|| {
                (key, format!("{:?} is no duration; expected for example `500ms`, `10s` or `5m`", or(key)))
            })
        };
        let connections = or("host.connections").parse().ok().filter(|number| (1..=1024).contains(number));
        let fuel = or("host.fuel").parse().ok().filter(|fuel| *fuel > 0);
        Ok(Self {
            http_timeout: duration("host.http_timeout")?,
            pull_timeout: duration("host.pull_timeout")?,
            stable_for: duration("host.stable_for")?,
            keep_images: match or("host.keep_images") {
                "all" => None,
                number => Some(
                    number
                        .parse()
                        .map_err(|_| ("host.keep_images", format!("{number:?} is neither a number nor `all`")))?,
                ),
            },
            state: match or("host.state") {
                "persisted" => StateKeeping::Persisted,
                "memory" => StateKeeping::Memory,
                other => return Err(("host.state", format!("{other:?} is neither `persisted` nor `memory`"))),
            },
            fuel: fuel.ok_or_else(|| ("host.fuel", format!("{:?} is no positive number", or("host.fuel"))))?,
            connections: connections.ok_or_else(|| {
                ("host.connections", format!("{:?} is no number from 1 to 1024", or("host.connections")))
            })?,
            insecure_registries: or("host.insecure_registries").to_owned(),
            auth_realms: or("host.auth_realms").to_owned(),
        })
    }
}

/// At most a day.
fn parse_duration(text: &str) -> Option<Duration> {
    parse_duration_ms(text).filter(|ms| *ms <= 86_400_000).map(Duration::from_millis)
}

#[cfg(test)]
mod tests;

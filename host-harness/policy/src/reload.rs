//! Reloads a manifest's policy when its files change.
//!
//! It watches the folders of the files, waits until writes stop, then reads, checks and compiles. It caches the last
//! two valid policies, so that a rollback needs no compilation. The caller swaps the running policy.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use notify::{Event, EventKind, RecommendedWatcher, RecursiveMode, Watcher};
use tokio::sync::Notify;
use tokio::time::{Instant, timeout_at};

use super::loader::{LoadedPlugin, PluginError, compile, validate};
use super::manifest::{ManifestError, PluginManifest, WasmSource};
use super::verify::signature_path;

/// Files are read after this time without changes, because a half-copied file is not a valid policy.
const DEBOUNCE: Duration = Duration::from_millis(400);

/// Files are read at the latest after this time, even if they still change.
const MAX_DEBOUNCE: Duration = Duration::from_secs(2);

/// How long the compilation and `describe` of a policy may take, at the start and at a reload. The default policy takes
/// 0.1 s. The most complex module that passes the checks takes a few seconds.
pub const LOAD_TIMEOUT: Duration = Duration::from_secs(30);

/// Number of cached policies: the current one and the previous one.
const RECENT: usize = 2;

/// A manifest with its loaded policy.
#[derive(Debug, Clone)]
pub struct Loaded {
    /// The manifest.
    pub manifest: Arc<PluginManifest>,
    /// Its policy.
    pub plugin: Arc<LoadedPlugin>,
}

impl Loaded {
    /// Whether it was loaded from the same manifest text, and from a module with the hash `sha256`.
    pub fn is_same(&self, manifest: &PluginManifest, sha256: &str) -> bool {
        self.manifest.text == manifest.text && self.plugin.info.sha256 == sha256
    }
}

/// Reads a manifest again.
pub type ReadManifest = Box<dyn Fn() -> Result<PluginManifest, ManifestError> + Send + Sync>;

/// Loads one manifest repeatedly, with a cache of the last two policies.
pub struct Reloader {
    read: ReadManifest,
    /// The cached policies. The newest is at the end.
    recent: Mutex<Vec<Loaded>>,
}

impl std::fmt::Debug for Reloader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Reloader").field("recent", &self.recent).finish_non_exhaustive()
    }
}

impl Reloader {
    /// Creates a reloader for the manifest that `read` reads.
    pub fn new(read: ReadManifest) -> Self {
        Self { read, recent: Mutex::default() }
    }

    /// Loads the current files, and returns the policy and the bytes of its module. Blocks while the module is
    /// compiled, unless the same files are in the cache.
    ///
    /// # Errors
    /// The manifest or the module cannot be used.
    pub fn load(&self) -> Result<(Loaded, Vec<u8>), PluginError> {
        self.load_told(|_| ())
    }

    /// Like [`Self::load`], but calls `is_read` with the manifest before it reads the module.
    ///
    /// # Errors
    /// The manifest or the module cannot be used.
    pub fn load_told(&self, is_read: impl FnOnce(&PluginManifest)) -> Result<(Loaded, Vec<u8>), PluginError> {
        let manifest = (self.read)()?;
        is_read(&manifest);
        let validated = validate(&manifest)?;
        let known = self.recent().iter().find(|loaded| loaded.is_same(&manifest, &validated.info.sha256)).cloned();
        let wasm = validated.wasm.clone();
        let loaded = if let Some(loaded) = known {
            loaded
        } else {
            let plugin = Arc::new(compile(&manifest, validated)?);
            Loaded { manifest: Arc::new(manifest), plugin }
        };
        let mut recent = self.recent();
        recent.retain(|known| !known.is_same(&loaded.manifest, &loaded.plugin.info.sha256));
        if recent.len() == RECENT {
            recent.remove(0);
        }
        recent.push(loaded.clone());
        Ok((loaded, wasm))
    }

    fn recent(&self) -> MutexGuard<'_, Vec<Loaded>> {
        self.recent.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Returns the files of a manifest's policy: manifest, module and signature. Empty for the built-in module.
pub fn files_of(manifest: &PluginManifest) -> Vec<PathBuf> {
    match &manifest.wasm {
        WasmSource::Embedded => Vec::new(),
        WasmSource::File(module) => vec![PathBuf::from(&manifest.path), module.clone(), signature_path(module)],
    }
}

/// Waits for a change, then until there are no changes for 400 ms, but at most 2 s.
pub async fn settled(changed: &Notify) {
    changed.notified().await;
    let latest = Instant::now() + MAX_DEBOUNCE;
    while timeout_at(latest.min(Instant::now() + DEBOUNCE), changed.notified()).await.is_ok() {}
}

/// By manifest: the watched files, and the notification for their changes.
type Followed = BTreeMap<String, (Vec<PathBuf>, Arc<Notify>)>;

/// Watches files for changes. It watches their folders, because deployments replace files by renaming.
pub struct FileWatch {
    watcher: Mutex<RecommendedWatcher>,
    followed: Arc<Mutex<Followed>>,
}

impl std::fmt::Debug for FileWatch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("FileWatch").field("followed", &self.followed).finish_non_exhaustive()
    }
}

impl FileWatch {
    /// Creates a watcher without files.
    ///
    /// # Errors
    /// The operating system refused the watcher.
    pub fn new() -> notify::Result<Self> {
        let followed: Arc<Mutex<Followed>> = Arc::default();
        let told = followed.clone();
        let watcher = notify::recommended_watcher(move |event: notify::Result<Event>| {
            let followed = told.lock().unwrap_or_else(PoisonError::into_inner);
            for (files, changed) in followed.values() {
                if is_about(event.as_ref().ok(), files) {
                    changed.notify_one();
                }
            }
        })?;
        Ok(Self { watcher: Mutex::new(watcher), followed })
    }

    /// Notifies `changed` when one of `files` changes. Replaces the files that were watched for `manifest` before.
    ///
    /// # Errors
    /// A fragment that names a folder that cannot be watched. The other folders are watched.
    pub fn follow(&self, manifest: &str, files: &[PathBuf], changed: Arc<Notify>) -> Result<(), String> {
        let absolute = |file: &PathBuf| std::path::absolute(file).unwrap_or_else(|_| file.clone());
        let files: Vec<PathBuf> = files.iter().map(absolute).collect();
        let folders: Vec<PathBuf> = files.iter().filter_map(|file| file.parent().map(Path::to_owned)).collect();
        // Release this lock before the watcher is used. The watcher waits for its own thread, which may wait for this
        // lock.
        self.followed.lock().unwrap_or_else(PoisonError::into_inner).insert(manifest.to_owned(), (files, changed));
        let mut watcher = self.watcher.lock().unwrap_or_else(PoisonError::into_inner);
        let mut failed = Ok(());
        for folder in folders {
            if let Err(error) = watcher.watch(&folder, RecursiveMode::NonRecursive) {
                failed = Err(format!("watch folder {}: {error}", folder.display()));
            }
        }
        failed
    }
}

/// Whether an event may be a change of one of `files`.
///
/// An error (`None`) counts as a change. In Kubernetes volumes, the link `..data` changes instead of the file. A read
/// access is not a change.
fn is_about(event: Option<&Event>, files: &[PathBuf]) -> bool {
    let Some(event) = event else { return true };
    if matches!(event.kind, EventKind::Access(_)) {
        return false;
    }
    let is_one = |path: &PathBuf| {
        let is_link = path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(".."));
        files.iter().any(|file| file == path || (is_link && file.parent() == path.parent()))
    };
    event.paths.is_empty() || event.paths.iter().any(is_one)
}

#[cfg(test)]
mod tests;

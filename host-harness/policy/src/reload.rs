//! When to load a manifest's policy again, and the loading: follows the folders of its files, waits until they are quiet,
//! reads and checks and compiles. Keeps the last two that were good, so that going back costs no compilation. Swaps
//! nothing: who runs the policy does.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use notify::{Event, EventKind, RecommendedWatcher, RecursiveMode, Watcher};
use tokio::sync::Notify;
use tokio::time::{Instant, timeout_at};

use super::loader::{LoadedPlugin, PluginError, admit, compile};
use super::manifest::{ManifestError, PluginManifest, WasmSource};
use super::trust::signature_path;

/// Files are read once nothing was written for so long: a copy in the middle is no policy.
const QUIET: Duration = Duration::from_millis(400);

/// A folder that is never quiet is read all the same.
const LATEST: Duration = Duration::from_secs(2);

/// How long a policy may take to be compiled and to describe itself, at the start and at a reload. The default policy takes
/// 0.1 s, the hardest one that may be compiled some seconds.
pub const LOAD_TIMEOUT: Duration = Duration::from_secs(30);

/// The one at work and the one before.
const RECENT: usize = 2;

/// A manifest with its policy.
#[derive(Debug, Clone)]
pub struct Loaded {
    /// The manifest.
    pub manifest: Arc<PluginManifest>,
    /// Its policy.
    pub plugin: Arc<LoadedPlugin>,
}

impl Loaded {
    /// Whether it comes from that manifest's bytes, and from the module with the hash `sha256`.
    pub fn is_same(&self, manifest: &PluginManifest, sha256: &str) -> bool {
        self.manifest.text == manifest.text && self.plugin.info.sha256 == sha256
    }
}

/// Reads a manifest anew.
pub type ReadManifest = Box<dyn Fn() -> Result<PluginManifest, ManifestError> + Send + Sync>;

/// Loads one manifest, as often as asked.
pub struct Reloader {
    read: ReadManifest,
    /// The last one at the end.
    recent: Mutex<Vec<Loaded>>,
}

impl std::fmt::Debug for Reloader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Reloader").field("recent", &self.recent).finish_non_exhaustive()
    }
}

impl Reloader {
    /// Loads what `read` reads.
    pub fn new(read: ReadManifest) -> Self {
        Self { read, recent: Mutex::default() }
    }

    /// Loads the files as they are now, and returns the module's bytes with that. Blocks for as long as a compilation
    /// takes, unless the same bytes were loaded lately.
    ///
    /// # Errors
    /// [`PluginError`].
    pub fn load(&self) -> Result<(Loaded, Vec<u8>), PluginError> {
        self.load_told(|_| ())
    }

    /// The same, and tells of the manifest before its module is read.
    ///
    /// # Errors
    /// [`PluginError`].
    pub fn load_told(&self, is_read: impl FnOnce(&PluginManifest)) -> Result<(Loaded, Vec<u8>), PluginError> {
        let manifest = (self.read)()?;
        is_read(&manifest);
        let admitted = admit(&manifest)?;
        let known = self.recent().iter().find(|loaded| loaded.is_same(&manifest, &admitted.info.sha256)).cloned();
        let wasm = admitted.wasm.clone();
        let loaded = if let Some(loaded) = known {
            loaded
        } else {
            let plugin = Arc::new(compile(&manifest, admitted)?);
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

/// The files that a manifest's policy comes from; none of the built-in manifest, which has the embedded one.
pub fn files_of(manifest: &PluginManifest) -> Vec<PathBuf> {
    match &manifest.wasm {
        WasmSource::Embedded => Vec::new(),
        WasmSource::File(module) => vec![PathBuf::from(&manifest.path), module.clone(), signature_path(module)],
    }
}

/// Waits until something changed and then until it is quiet.
pub async fn settled(changed: &Notify) {
    changed.notified().await;
    let latest = Instant::now() + LATEST;
    while timeout_at(latest.min(Instant::now() + QUIET), changed.notified()).await.is_ok() {}
}

/// Followed files by the manifest they belong to, and who is told.
type Followed = BTreeMap<String, (Vec<PathBuf>, Arc<Notify>)>;

/// Follows files by their folders, since files are deployed by renaming over them.
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
    /// Follows nothing yet.
    ///
    /// # Errors
    /// The system's word.
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

    /// From now on `changed` is told of changes of `files`, those of `manifest`, in place of the ones before.
    ///
    /// # Errors
    /// A fragment naming the folder that cannot be watched; the others are.
    pub fn follow(&self, manifest: &str, files: &[PathBuf], changed: Arc<Notify>) -> Result<(), String> {
        let absolute = |file: &PathBuf| std::path::absolute(file).unwrap_or_else(|_| file.clone());
        let files: Vec<PathBuf> = files.iter().map(absolute).collect();
        let folders: Vec<PathBuf> = files.iter().filter_map(|file| file.parent().map(Path::to_owned)).collect();
        // The watcher waits for its own thread, which may wait for this lock: so it is not held longer.
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

/// Whether an event may be about one of `files`. Of an error, yes. Where volumes of Kubernetes are, it is the link
/// `..data` that moves. Reading is no change, ours least of all.
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

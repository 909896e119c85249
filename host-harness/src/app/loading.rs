//! Loads manifests, at the start and again while the program runs: a manifest with its policy, what that may have,
//! and what its orders are carried out with. Starts and swaps nothing.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio::sync::{Notify, Semaphore};
use tracing::warn;

use super::{AppError, DEFAULT_MANIFEST};
use crate::effects::{Adapters, ManifestEffects};
use crate::http::egress::EgressRules;
use crate::orders::{OrderContext, ProgressObserver, RefusedLogins};
use crate::plugin::{FileWatch, Kept, Loaded, LoadedPlugin, PluginError, PluginManifest, Record, Reloader, files_of};
use crate::replace::Replacer;
use crate::watch::{Prepare, Prepared};

/// A manifest that can be used.
#[derive(Debug)]
pub(super) struct Ready {
    pub(super) manifest: Arc<PluginManifest>,
    pub(super) plugin: Arc<LoadedPlugin>,
    pub(super) rules: EgressRules,
    pub(super) record: Arc<Record>,
    pub(super) reloader: Arc<Reloader>,
    /// The module's bytes, until they are kept.
    pub(super) wasm: Vec<u8>,
}

/// Loads the manifest at `source`, or the built-in one, for the first time.
pub(super) fn load_manifest(source: Option<PathBuf>) -> Result<Ready, AppError> {
    let reloader = Reloader::new(Box::new(move || match &source {
        Some(path) => PluginManifest::read(path, &variable),
        None => PluginManifest::parse("generic", "(built in)", DEFAULT_MANIFEST, &variable)
            .map(PluginManifest::with_embedded),
    }));
    let (Loaded { manifest, plugin }, wasm) = reloader.load()?;
    let rules = egress_rules(&manifest, &plugin)?;
    let record = Arc::new(Record::default());
    record.loaded(&plugin);
    Ok(Ready { manifest, plugin, rules, record, reloader: Arc::new(reloader), wasm })
}

/// Hosts as far as they are granted and asked for.
fn egress_rules(manifest: &PluginManifest, plugin: &LoadedPlugin) -> Result<EgressRules, PluginError> {
    let host = &manifest.host;
    EgressRules::parse(plugin.grants.hosts(), &host.insecure_registries, &host.auth_realms)
        .map_err(|error| manifest.bad_key(error.key, &error.to_string()).into())
}

/// A manifest's variable. One is our own, since a manifest cannot ask: the platform that the seed
/// system pulls on Apple Silicon, whose images have no other.
pub(super) fn variable(name: &str) -> Option<String> {
    let is_apple_silicon = cfg!(all(target_os = "macos", target_arch = "aarch64"));
    match name {
        "IMAGEWATCH_APPLE_SILICON_PLATFORM" => is_apple_silicon.then(|| "linux/amd64".to_owned()),
        _ => std::env::var(name).ok(),
    }
}

/// What all manifests of a command work with.
#[derive(Clone)]
pub(super) struct Tools {
    pub(super) adapters: Adapters,
    pub(super) replacer: Arc<Replacer>,
    pub(super) turns: Arc<Semaphore>,
    pub(super) progress: ProgressObserver,
    pub(super) refused: Arc<RefusedLogins>,
}

impl Tools {
    pub(super) fn orders(&self, manifest: &PluginManifest, plugin: &Arc<LoadedPlugin>) -> OrderContext {
        let plugin = plugin.clone();
        OrderContext {
            manifest: manifest.name.clone(),
            replacer: self.replacer.clone(),
            turns: self.turns.clone(),
            credentials: super::look_up_in(self.adapters.credentials.clone()),
            refused: self.refused.clone(),
            pull_timeout: manifest.host.pull_timeout,
            stable_for: manifest.host.stable_for,
            keep_images: manifest.host.keep_images,
            progress: self.progress.clone(),
            shutdown: self.adapters.cancel.clone(),
            is_granted: Arc::new(move |container| plugin.grants.has_container(container)),
        }
    }

    /// How the files of `ready` are loaded again. `files` then follows those that the manifest names by then, and tells
    /// `changed`; what was at work is kept in `state_dir`.
    pub(super) fn prepare(
        self,
        ready: &Ready,
        state_dir: &Path,
        files: Option<Arc<FileWatch>>,
        changed: Arc<Notify>,
    ) -> Prepare {
        let (reloader, record) = (ready.reloader.clone(), ready.record.clone());
        let kept = Kept::new(state_dir, &ready.manifest.name);
        Arc::new(move |running_manifest, running_plugin| {
            let (loaded, wasm) = reloader.load().map_err(|error| error.to_string())?;
            crate::memory::release_unused();
            if loaded.is_same(running_manifest, &running_plugin.info.sha256) {
                return Ok(None);
            }
            let rules = egress_rules(&loaded.manifest, &loaded.plugin).map_err(|error| error.to_string())?;
            let Loaded { manifest, plugin } = loaded;
            let effects =
                ManifestEffects::new(manifest.clone(), plugin.clone(), rules, self.adapters.clone(), record.clone());
            let orders = self.orders(&manifest, &plugin);
            let accepted = keep_once_accepted(kept.clone(), &manifest, &wasm);
            let (files, changed, followed) = (files.clone(), changed.clone(), manifest.clone());
            let accepted = Box::new(move || {
                accepted();
                follow(files.as_deref(), &followed, changed);
            });
            Ok(Some(Prepared { manifest, plugin, effects: Arc::new(effects), orders, accepted }))
        })
    }
}

/// Writes the files down now, and says that they are those at work when that is called. Without them there is no way back
/// but by hand, which is no reason not to go on.
pub(super) fn keep_once_accepted(kept: Kept, manifest: &PluginManifest, wasm: &[u8]) -> impl FnOnce() + Send + use<> {
    let name = manifest.name.clone();
    let staged = kept.stage(manifest, wasm);
    move || {
        if let Err(error) = staged.and_then(|()| kept.accept()) {
            warn!(
                manifest = name,
                "failed to keep the policy for `plugin rollback`: {error}; is the state folder's disk full?"
            );
        }
    }
}

/// Follows the files that `manifest` comes from, if files can be followed here.
pub(super) fn follow(files: Option<&FileWatch>, manifest: &PluginManifest, changed: Arc<Notify>) {
    if let Some(files) = files
        && let Err(error) = files.follow(&manifest.name, &files_of(manifest), changed)
    {
        warn!(manifest = manifest.name, "failed to {error}; reload it with SIGHUP or by the admin API");
    }
}

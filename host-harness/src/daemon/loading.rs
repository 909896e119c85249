//! Loads manifests, at the start and again while the program runs: a manifest with its policy, what that may have,
//! and what it is called and its orders are carried out with. Starts and swaps nothing.

use std::fmt::Display;
use std::path::PathBuf;
use std::sync::Arc;

use tokio::sync::Notify;
use tokio::time::timeout;
use tracing::{info, warn};

use super::AppError;
use crate::daemon::effects::{Adapters, GrantedHost};
use crate::daemon::session::Session;
use crate::daemon::watch::{Prepare, Prepared};
use imagewatch_policy::{
    FileWatch, LOAD_TIMEOUT, Loaded, LoadedPlugin, ManifestError, PluginError, PluginManifest, PolicyArchive, Record,
    Reloader, StateKeeping, files_of,
};
use imagewatch_registry::egress::EgressRules;
use imagewatch_rollout::Rollout;
use imagewatch_rollout::orders::{OrderContext, ProgressObserver, RefusedLogins, Services};
use imagewatch_rollout::slots::Slots;

/// The manifest that is used when none is named, and its name.
const DEFAULT_MANIFEST: &str = include_str!("../../../manifests/generic.json");
const BUILT_IN: &str = "generic";

/// A manifest that can be used.
#[derive(Debug)]
pub(crate) struct LoadedManifest {
    pub(crate) manifest: Arc<PluginManifest>,
    pub(crate) plugin: Arc<LoadedPlugin>,
    pub(crate) rules: EgressRules,
    pub(crate) reloader: Arc<Reloader>,
    /// The module's bytes, until they are kept.
    pub(crate) wasm: Vec<u8>,
}

impl LoadedManifest {
    /// Says in the log what is at work from now on.
    pub(crate) fn say_loaded(&self) {
        let (policy, sha256) = (self.plugin.title(), &self.plugin.info.sha256);
        let sha256 = sha256.get(..12).unwrap_or(sha256);
        info!(manifest = %self.manifest.name, %policy, %sha256, "loaded");
    }
}

/// Where a manifest comes from. Displayed as in messages: by its path.
#[derive(Debug, Clone)]
pub(crate) enum Source {
    /// The one that is used when none is named; its module is the one built in.
    BuiltIn,
    File(PathBuf),
}

impl Source {
    fn read(&self) -> Result<PluginManifest, ManifestError> {
        match self {
            Self::BuiltIn => PluginManifest::parse(BUILT_IN, "(built in)", DEFAULT_MANIFEST, &variable)
                .map(PluginManifest::with_embedded),
            Self::File(path) => PluginManifest::read(path, &variable),
        }
    }

    /// The name of the manifest there, also when it cannot be read.
    pub(crate) fn name(&self) -> String {
        match self {
            Self::BuiltIn => BUILT_IN.to_owned(),
            Self::File(path) => PluginManifest::name_of(path),
        }
    }

    /// As a name that no other has.
    pub(crate) fn absolute(&self) -> String {
        match self {
            Self::BuiltIn => self.name(),
            Self::File(path) => std::path::absolute(path).as_ref().unwrap_or(path).display().to_string(),
        }
    }

    /// What to follow for a change, as far as the manifest says what it comes from.
    pub(crate) fn files(&self) -> Vec<PathBuf> {
        let Self::File(path) = self else { return Vec::new() };
        self.read().map_or_else(|_| vec![path.clone()], |manifest| files_of(&manifest))
    }
}

impl Display for Source {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::BuiltIn => f.write_str(BUILT_IN),
            Self::File(path) => path.display().fmt(f),
        }
    }
}

/// Loads the manifest at `source`, where blocking disturbs nobody. A compilation cannot be interrupted: one that takes too
/// long, of the little that may be compiled at all, goes on and its result is dropped.
pub(crate) async fn load(source: Source) -> Result<LoadedManifest, AppError> {
    let shown = source.to_string();
    let loaded = tokio::task::spawn_blocking(move || {
        let reloader = Reloader::new(Box::new(move || source.read()));
        let (Loaded { manifest, plugin }, wasm) = reloader.load()?;
        let rules = egress_rules(&manifest, &plugin)?;
        Ok(LoadedManifest { manifest, plugin, rules, reloader: Arc::new(reloader), wasm })
    });
    let loaded = timeout(LOAD_TIMEOUT, loaded).await;
    super::memory::release_unused();
    match loaded {
        Ok(Ok(loaded)) => loaded,
        Ok(Err(panic)) => Err(AppError::Panicked(shown, panic.to_string())),
        Err(_) => Err(AppError::TooSlow(shown, LOAD_TIMEOUT)),
    }
}

/// Hosts as far as they are granted and asked for.
fn egress_rules(manifest: &PluginManifest, plugin: &LoadedPlugin) -> Result<EgressRules, PluginError> {
    let host = &manifest.host;
    EgressRules::over(plugin.grants.hosts().clone(), &host.insecure_registries, &host.auth_realms)
        .map_err(|error| manifest.bad_key(error.key, &error.to_string()).into())
}

/// A manifest's variable. One is our own, since a manifest cannot ask: the platform that the seed
/// system pulls on Apple Silicon, whose images have no other.
pub(crate) fn variable(name: &str) -> Option<String> {
    let is_apple_silicon = cfg!(all(target_os = "macos", target_arch = "aarch64"));
    match name {
        "IMAGEWATCH_APPLE_SILICON_PLATFORM" => is_apple_silicon.then(|| "linux/amd64".to_owned()),
        _ => std::env::var(name).ok(),
    }
}

/// What all manifests of a command work with.
#[derive(Clone)]
pub(crate) struct Deps {
    pub(crate) adapters: Adapters,
    pub(crate) rollout: Arc<Rollout>,
    pub(crate) slots: Slots,
    pub(crate) services: Services,
    pub(crate) progress: ProgressObserver,
    pub(crate) refused: Arc<RefusedLogins>,
}

impl Deps {
    pub(crate) fn orders(&self, manifest: &PluginManifest, plugin: &Arc<LoadedPlugin>) -> OrderContext {
        let plugin = plugin.clone();
        OrderContext {
            manifest: manifest.name.clone(),
            rollout: self.rollout.clone(),
            slots: self.slots.share(),
            services: self.services.clone(),
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

    /// What calls the policy of `ready`; `record` takes down how that goes.
    pub(crate) fn session(&self, ready: &LoadedManifest, record: &Arc<Record>, keeping: StateKeeping) -> Session {
        let LoadedManifest { manifest, plugin, rules, .. } = ready;
        let (adapters, store) = (self.adapters.clone(), self.adapters.store.clone());
        let effects = GrantedHost::new(manifest.clone(), plugin.clone(), rules.clone(), adapters, record.clone());
        Session::new(manifest.clone(), plugin.clone(), Arc::new(effects), store, record.clone(), keeping)
    }

    /// How the files of `ready` are loaded again. `following` follows those that the manifest names by then, and until
    /// they are accepted those at work as well; what was at work is `kept`.
    pub(crate) fn prepare(
        self,
        ready: &LoadedManifest,
        record: Arc<Record>,
        kept: PolicyArchive,
        following: FileFollower,
    ) -> Prepare {
        let reloader = ready.reloader.clone();
        Arc::new(move |running_manifest, running_plugin| {
            // What mends a refused one may be put where nothing is at work yet.
            let follow = |read: &_| following.follow(&[files_of(running_manifest), files_of(read)].concat());
            let (loaded, wasm) = reloader.load_told(follow).map_err(|error| error.to_string())?;
            super::memory::release_unused();
            if loaded.is_same(running_manifest, &running_plugin.info.sha256) {
                return Ok(None);
            }
            let rules = egress_rules(&loaded.manifest, &loaded.plugin).map_err(|error| error.to_string())?;
            let Loaded { manifest, plugin } = loaded;
            let effects =
                GrantedHost::new(manifest.clone(), plugin.clone(), rules, self.adapters.clone(), record.clone());
            let orders = self.orders(&manifest, &plugin);
            let accepted = keep_once_accepted(kept.clone(), &manifest, &wasm);
            let (following, files) = (following.clone(), files_of(&manifest));
            let accepted = Box::new(move || {
                accepted();
                following.follow(&files);
            });
            Ok(Some(Prepared { manifest, plugin, effects: Arc::new(effects), orders, accepted }))
        })
    }
}

/// Writes the files down now, and says that they are those at work when that is called. Without them there is no way back
/// but by hand, which is no reason not to go on.
pub(crate) fn keep_once_accepted(
    kept: PolicyArchive,
    manifest: &PluginManifest,
    wasm: &[u8],
) -> impl FnOnce() + Send + use<> {
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

/// Follows the files of one manifest, if files can be followed here.
#[derive(Clone)]
pub(crate) struct FileFollower {
    pub(crate) manifest: String,
    pub(crate) files: Option<Arc<FileWatch>>,
    /// Is told of changes.
    pub(crate) changed: Arc<Notify>,
}

impl FileFollower {
    /// Follows these, in place of those before.
    pub(crate) fn follow(&self, files: &[PathBuf]) {
        if let Some(watch) = &self.files
            && let Err(error) = watch.follow(&self.manifest, files, self.changed.clone())
        {
            warn!(manifest = self.manifest, "failed to {error}; reload it with SIGHUP or by the admin API");
        }
    }
}

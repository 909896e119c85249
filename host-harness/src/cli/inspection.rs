//! `plugin inspect` shows a module. `plugin rollback` restores the files of the previous policy.
//!
//! Neither command needs a running imagewatch, and neither disturbs one.

use std::path::{Path, PathBuf};

use imagewatch_abi::DescribeOutput;
use serde::Serialize;

use crate::daemon::AppError;
use crate::daemon::loading::variable;
use crate::daemon::state_folder::StateFolder;
use imagewatch_base::text::Untrusted;
use imagewatch_policy::{
    Compared, ModuleInfo, PluginError, PluginManifest, RolledBack, inspect, load, load_module, read_module, roll_back,
};

/// The result of `plugin inspect`: the module, what it requests, what a manifest grants, and whether it would load.
#[derive(Debug, Serialize)]
pub struct Inspected {
    /// The module's file.
    pub file: String,
    /// What the module's bytes declare.
    pub module: ModuleInfo,
    /// The requested capabilities next to the granted ones. `None` without a manifest, or if the module declares
    /// nothing.
    pub capabilities: Option<Vec<Compared>>,
    /// Why the module would not load, or `None` if it would.
    pub refused: Option<Untrusted>,
    /// The module's answer to `describe`, or `None` if it would not load.
    pub description: Option<DescribeOutput>,
}

/// Inspects the module in `file`, loaded as `manifest` says. Without a manifest, nothing is granted to the module.
///
/// # Errors
/// A file cannot be read, or `file` is not a wasm module.
pub fn inspect_module(file: &Path, manifest: Option<&Path>) -> Result<Inspected, AppError> {
    let shown = file.display().to_string();
    let wasm =
        read_module(file).map_err(|source| AppError::Inspect(format!("read {shown}: {source}; check the path")))?;
    let module =
        inspect(&wasm).map_err(|reason| AppError::NoModule { file: shown.clone(), reason: Untrusted::new(reason) })?;
    let manifest = manifest.map(|path| PluginManifest::read(path, &variable)).transpose().map_err(PluginError::from)?;
    let (capabilities, described) = match manifest {
        None => (None, load_module(&wasm)),
        Some(manifest) => {
            let asked = module.capabilities.as_ref().map(|asked| asked.compare(&manifest.grants));
            let loaded = load(&manifest.with_file(file)).map(|loaded| loaded.description);
            (asked, loaded.map_err(|error| format!("failed to {error}")))
        }
    };
    let (description, refused) = match described {
        Ok(description) => (Some(description), None),
        Err(reason) => (None, Some(Untrusted::new(reason))),
    };
    Ok(Inspected { file: shown, module, capabilities, refused, description })
}

/// Restores the files of the previous policy of manifest `name`. A running imagewatch loads them automatically.
///
/// # Errors
/// No previous policy exists, or a file cannot be written.
pub fn roll_back_policy(state_dir: Option<&Path>, name: &str) -> Result<RolledBack, AppError> {
    let folder: PathBuf = StateFolder::path_of(state_dir)?;
    Ok(roll_back(&folder, name)?)
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use tempfile::TempDir;

    use super::*;
    use crate::cli::render::module_portrait;
    use imagewatch_policy::inline::{ASKS_FOR_ALL, Inline};

    #[test]
    fn inspect_shows_requested_next_to_granted_capabilities() {
        let folder = TempDir::new().expect("a folder");
        let (module, manifest) = (folder.path().join("p.wasm"), folder.path().join("m.json"));
        let capabilities = ASKS_FOR_ALL.replace(r#""hosts": "any""#, r#""hosts": ["ghcr.io", "evil.io"]"#);
        let policy = Inline { capabilities, ..Inline::default() };
        std::fs::write(&module, policy.build()).expect("a file");
        let config = json!({"host.allow_unhashed": "true", "grant.images": "ghcr.io/*"});
        let text =
            |hosts: &[&str]| json!({"wasm": [{"path": "x"}], "allowed_hosts": hosts, "config": config}).to_string();
        std::fs::write(&manifest, text(&["ghcr.io"])).expect("a file");

        let inspected = inspect_module(&module, Some(&manifest)).expect("it can be read");
        let portrait = module_portrait(&inspected);
        for part in [
            "asks     hosts: ghcr.io evil.io  <- not granted: evil.io\n  granted  hosts: ghcr.io\n",
            "asks     images: whatever is granted\n  granted  images: ghcr.io/*\n",
            "refused  failed to load policy",
        ] {
            assert!(portrait.contains(part), "{part} in\n{portrait}");
        }
        let shown = json!(inspected);
        assert_eq!(shown["capabilities"][2]["beyond"], json!(["evil.io"]), "{shown}");

        std::fs::write(&manifest, text(&["*"])).expect("a file");
        let inspected = inspect_module(&module, Some(&manifest)).expect("it can be read");
        assert_eq!(
            (inspected.refused, inspected.description.map(|policy| policy.name)),
            (None, Some("inline".to_owned()))
        );
        let alone = module_portrait(&inspect_module(&module, None).expect("it can be read"));
        assert!(alone.contains("asks     hosts: ghcr.io evil.io\n"), "{alone}");
    }
}

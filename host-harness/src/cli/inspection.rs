//! `plugin inspect` and `plugin rollback`: a module looked at, and the files of the policy before put back. Neither needs a
//! running program, nor disturbs one.

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

/// A module, what it asks for beside what a manifest grants, and whether it would be loaded.
#[derive(Debug, Serialize)]
pub struct Inspected {
    /// The module's file.
    pub file: String,
    /// What it says of itself.
    pub module: ModuleInfo,
    /// What it asks for beside what is granted; none without a manifest, or when it declares nothing.
    pub capabilities: Option<Vec<Compared>>,
    /// Why it is not loaded.
    pub refused: Option<Untrusted>,
    /// What it is, once loaded.
    pub description: Option<DescribeOutput>,
}

/// Looks at the module in `file`: as `manifest` would have it, or granted nothing.
///
/// # Errors
/// When a file cannot be read, or is no module at all.
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

/// Puts the files of the policy before of manifest `name` back; a running program loads them by itself.
///
/// # Errors
/// When there are none, or a file cannot be written.
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
    fn what_a_module_asks_for_stands_beside_what_the_manifest_grants() {
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

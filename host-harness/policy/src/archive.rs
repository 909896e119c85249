//! Copies of the files of the current and the previous policy, in the state folder.
//!
//! [`roll_back`] restores them to their original paths. A running imagewatch then loads them automatically. This module
//! does not check the policies.

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::inspect::sha256_hex;
use super::manifest::{PluginManifest, WasmSource};
use super::verify::signature_path;

/// Name of the folder in the state folder. It has one subfolder for each manifest.
const FOLDER: &str = "plugins";
const CURRENT: &str = "current";
const PREVIOUS: &str = "previous";
const NEXT: &str = "next";

/// Files of an archived policy.
const MODULE: &str = "module.wasm";
const MANIFEST: &str = "manifest.json";
const ORIGIN: &str = "origin.json";
/// The module's signature. Exists only if the module had one.
const SIGNATURE: &str = "module.wasm.minisig";

/// Why a rollback failed.
#[derive(Debug, Error)]
pub enum RollbackError {
    /// No policy of a manifest with this name was ever in use.
    #[error("roll back {name}: no policy of a manifest with this name is archived; archived manifests: {known}")]
    Unknown {
        /// The requested manifest.
        name: String,
        /// The names of the archived manifests.
        known: String,
    },
    /// Only the current policy is archived.
    #[error("roll back {name}: its files already are those of the only policy that was ever in use")]
    NoOther {
        /// The requested manifest.
        name: String,
    },
    /// The operating system refused to read or write a file.
    #[error("roll back {name}: {file}: {source}; check the permissions of the file and its folder")]
    Refused {
        /// The requested manifest.
        name: String,
        /// The file that could not be read or written.
        file: String,
        /// The operating system's error.
        source: io::Error,
    },
}

/// The restored files.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct RolledBack {
    /// The manifest's name.
    pub manifest: String,
    /// The restored manifest file.
    pub manifest_file: PathBuf,
    /// The restored module file.
    pub module_file: PathBuf,
    /// SHA-256 of the module in hex.
    pub sha256: String,
}

/// The original paths of the files, as absolute paths.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Origin {
    manifest: PathBuf,
    module: PathBuf,
}

/// The archived files of one manifest.
#[derive(Debug, Clone)]
pub struct PolicyArchive {
    folder: PathBuf,
}

impl PolicyArchive {
    /// Returns the archive of the manifest `name` in the state folder. Reads and writes nothing.
    pub fn new(state_dir: &Path, name: &str) -> Self {
        Self { folder: state_dir.join(FOLDER).join(name) }
    }

    /// Saves the files of a policy that may come into use soon. Does nothing for the built-in module, which has no
    /// file.
    ///
    /// # Errors
    /// A file cannot be read or written.
    pub fn stage(&self, manifest: &PluginManifest, wasm: &[u8]) -> io::Result<()> {
        let WasmSource::File(module) = &manifest.wasm else { return Ok(()) };
        let origin = Origin { manifest: std::path::absolute(&manifest.path)?, module: std::path::absolute(module)? };
        let next = self.folder.join(NEXT);
        remove_if_there(&next)?;
        fs::create_dir_all(&next)?;
        match fs::read(signature_path(module)) {
            Ok(signature) => fs::write(next.join(SIGNATURE), signature)?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
        fs::write(next.join(MODULE), wasm)?;
        fs::write(next.join(MANIFEST), &manifest.text)?;
        fs::write(next.join(ORIGIN), serde_json::to_vec(&origin)?)
    }

    /// Makes the staged policy the current one. The former current policy becomes the previous one, unless both have
    /// the same files. Does nothing if no policy is staged.
    ///
    /// # Errors
    /// A folder cannot be renamed or removed.
    pub fn accept(&self) -> io::Result<()> {
        let [next, current, previous] = [NEXT, CURRENT, PREVIOUS].map(|name| self.folder.join(name));
        if !next.exists() {
            return Ok(());
        }
        if has_same_files(&next, &current) {
            return fs::remove_dir_all(&next);
        }
        if current.exists() {
            remove_if_there(&previous)?;
            fs::rename(&current, &previous)?;
        }
        fs::rename(&next, &current)
    }
}

fn remove_if_there(folder: &Path) -> io::Result<()> {
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

fn has_same_files(a: &Path, b: &Path) -> bool {
    let is_same = |name: &&str| matches!((fs::read(a.join(name)), fs::read(b.join(name))), (Ok(a), Ok(b)) if a == b);
    let has_same_signature = fs::read(a.join(SIGNATURE)).ok() == fs::read(b.join(SIGNATURE)).ok();
    has_same_signature && [MODULE, MANIFEST, ORIGIN].iter().all(is_same)
}

/// Restores the files of the last policy of manifest `name` that worked, to their original paths.
///
/// If the files differ from those of the current policy, it restores the files of the current policy. Otherwise, it
/// restores those of the previous policy. A second rollback undoes the first one.
///
/// # Errors
/// [`RollbackError`]. No file is partially written then, but the module may be restored and the manifest not.
pub fn roll_back(state_dir: &Path, name: &str) -> Result<RolledBack, RollbackError> {
    let folder = state_dir.join(FOLDER).join(name);
    let is_plain = Path::new(name).components().count() == 1 && !name.starts_with('.');
    let current = folder.join(CURRENT);
    if !is_plain || !current.exists() {
        return Err(RollbackError::Unknown { name: name.to_owned(), known: known(state_dir) });
    }
    let refused = |file: &Path, source: io::Error| RollbackError::Refused {
        name: name.to_owned(),
        file: file.display().to_string(),
        source,
    };
    let read_origin = |folder: &Path| -> Result<Origin, RollbackError> {
        let file = folder.join(ORIGIN);
        let bytes = fs::read(&file).map_err(|source| refused(&file, source))?;
        serde_json::from_slice(&bytes).map_err(|error| refused(&file, error.into()))
    };
    let mut chosen = current;
    let mut origin = read_origin(&chosen)?;
    if is_in_place(&chosen, &origin) {
        chosen = folder.join(PREVIOUS);
        if !chosen.exists() {
            return Err(RollbackError::NoOther { name: name.to_owned() });
        }
        origin = read_origin(&chosen)?;
    }
    let read = |file: &str| fs::read(chosen.join(file)).map_err(|source| refused(&chosen.join(file), source));
    let (module, manifest) = (read(MODULE)?, read(MANIFEST)?);
    if let Ok(signature) = fs::read(chosen.join(SIGNATURE)) {
        let file = signature_path(&origin.module);
        write_over(&file, &signature).map_err(|source| refused(&file, source))?;
    }
    write_over(&origin.module, &module).map_err(|source| refused(&origin.module, source))?;
    write_over(&origin.manifest, &manifest).map_err(|source| refused(&origin.manifest, source))?;
    Ok(RolledBack {
        manifest: name.to_owned(),
        manifest_file: origin.manifest,
        module_file: origin.module,
        sha256: sha256_hex(&module),
    })
}

fn is_in_place(kept: &Path, origin: &Origin) -> bool {
    let is_same = |name: &str, file: &Path| matches!((fs::read(kept.join(name)), fs::read(file)), (Ok(kept), Ok(there)) if kept == there);
    is_same(MODULE, &origin.module) && is_same(MANIFEST, &origin.manifest)
}

/// Replaces `file` atomically. The permissions of the file stay the same. A file that already has these bytes is not
/// touched.
///
/// A symbolic link is replaced by a file. Its target does not change, because the target may be a release of somebody
/// else.
fn write_over(file: &Path, bytes: &[u8]) -> io::Result<()> {
    if fs::read(file).is_ok_and(|there| there == bytes) {
        return Ok(());
    }
    let mut staged = file.as_os_str().to_owned();
    staged.push(".rollback");
    let staged = PathBuf::from(staged);
    let mut written = fs::File::create(&staged)?;
    if let Ok(there) = fs::metadata(file) {
        written.set_permissions(there.permissions())?;
    }
    written.write_all(bytes)?;
    written.sync_all()?;
    fs::rename(&staged, file)
}

fn known(state_dir: &Path) -> String {
    let entries = fs::read_dir(state_dir.join(FOLDER)).into_iter().flatten().flatten();
    let mut names: Vec<String> = entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    if names.is_empty() { "none".to_owned() } else { names.join(", ") }
}

#[cfg(test)]
mod tests {
    use std::fs::Permissions;
    use std::os::unix::fs::{PermissionsExt as _, symlink};

    use tempfile::TempDir;

    use super::*;

    struct Sandbox {
        folder: TempDir,
    }

    impl Sandbox {
        fn new() -> Self {
            Self { folder: TempDir::new().expect("a folder") }
        }

        fn file(&self, name: &str) -> PathBuf {
            self.folder.path().join(name)
        }

        fn write(&self, module: &str, manifest: &str) -> PluginManifest {
            let text =
                format!(r#"{{"wasm": [{{"path": {:?}}}], "config": {{"a": "{manifest}"}}}}"#, self.file("p.wasm"));
            fs::write(self.file("p.wasm"), module).expect("a file");
            fs::write(self.file("apps.json"), &text).expect("a file");
            PluginManifest::read(&self.file("apps.json"), &|_| None).expect("a good manifest")
        }

        /// Writes and archives the files, as if the policy had been loaded and is in use now.
        fn run(&self, module: &str, manifest: &str) {
            let kept = PolicyArchive::new(self.folder.path(), "apps");
            kept.stage(&self.write(module, manifest), module.as_bytes()).expect("written");
            kept.accept().expect("renamed");
        }

        fn module(&self) -> String {
            fs::read_to_string(self.file("p.wasm")).expect("a file")
        }

        fn roll_back(&self) -> Result<RolledBack, RollbackError> {
            roll_back(self.folder.path(), "apps")
        }
    }

    #[test]
    fn a_rollback_restores_both_files_and_a_second_one_undoes_it() {
        let place = Sandbox::new();
        place.run("one", "1");
        place.run("two", "2");
        place.run("two", "2");
        let back = place.roll_back().expect("a previous policy exists");
        assert_eq!((place.module(), back.sha256), ("one".to_owned(), sha256_hex(b"one")));
        assert!(fs::read_to_string(place.file("apps.json")).expect("a file").contains(r#""a": "1""#));
        place.run("one", "1");
        place.roll_back().expect("a previous policy exists");
        assert_eq!(place.module(), "two");
    }

    #[test]
    fn a_rollback_restores_the_signature_of_the_module() {
        let place = Sandbox::new();
        for version in ["one", "two"] {
            fs::write(place.file("p.wasm.minisig"), format!("signature of {version}")).expect("a file");
            place.run(version, "1");
        }
        place.roll_back().expect("a previous policy exists");
        let signature = fs::read_to_string(place.file("p.wasm.minisig")).expect("a file");
        assert_eq!((place.module(), signature), ("one".to_owned(), "signature of one".to_owned()));
    }

    #[test]
    fn files_that_never_worked_are_replaced_by_the_current_ones() {
        let place = Sandbox::new();
        place.run("one", "1");
        place.write("broken", "1");
        place.roll_back().expect("the current policy is archived");
        assert_eq!(place.module(), "one");
        let again = place.roll_back().expect_err("no other policy is archived").to_string();
        assert!(again.contains("only policy"), "{again}");
    }

    #[test]
    fn a_rollback_keeps_file_modes_and_the_targets_of_links() {
        let place = Sandbox::new();
        place.run("one", "1");
        place.run("two", "2");
        fs::set_permissions(place.file("apps.json"), Permissions::from_mode(0o600)).expect("the test owns the file");
        fs::rename(place.file("p.wasm"), place.file("release-2.wasm")).expect("renamed");
        symlink(place.file("release-2.wasm"), place.file("p.wasm")).expect("a link");
        place.roll_back().expect("a previous policy exists");
        let mode = fs::metadata(place.file("apps.json")).expect("a file").permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        assert_eq!(fs::read_to_string(place.file("release-2.wasm")).expect("a file"), "two");
        assert_eq!(place.module(), "one");
    }

    #[test]
    fn an_unknown_name_is_refused_with_the_archived_names() {
        let place = Sandbox::new();
        place.run("one", "1");
        for name in ["web", "../apps", "", "."] {
            let error = roll_back(place.folder.path(), name).expect_err("not archived").to_string();
            assert!(error.contains("archived manifests: apps"), "{name}: {error}");
        }
    }
}

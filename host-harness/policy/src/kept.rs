//! The files of the policy at work and of the one before, in the state folder, so that going back is one command: it puts
//! the files back where they came from, and whoever follows them loads them. Judges no module.

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::inspect::sha256_hex;
use super::manifest::{PluginManifest, WasmSource};
use super::trust::signature_path;

/// The folder in the state folder; below it one for each manifest.
const FOLDER: &str = "plugins";
const CURRENT: &str = "current";
const PREVIOUS: &str = "previous";
const NEXT: &str = "next";

/// Files of a kept policy.
const MODULE: &str = "module.wasm";
const MANIFEST: &str = "manifest.json";
const ORIGIN: &str = "origin.json";
/// Beside the module where one was there.
const SIGNATURE: &str = "module.wasm.minisig";

/// Why nothing was put back.
#[derive(Debug, Error)]
pub enum RollbackError {
    /// No policy of that name was ever at work.
    #[error("roll back {name}: no policy of a manifest of that name was kept; there are: {known}")]
    Unknown {
        /// What was asked for.
        name: String,
        /// What there is.
        known: String,
    },
    /// Only the present one is known.
    #[error("roll back {name}: its files are those of the only policy that was ever at work")]
    NoOther {
        /// What was asked for.
        name: String,
    },
    /// The system refused.
    #[error("roll back {name}: {file}: {source}; check who may write there")]
    Refused {
        /// What was asked for.
        name: String,
        /// The file at fault.
        file: String,
        /// The system's word.
        source: io::Error,
    },
}

/// What was put back.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct RolledBack {
    /// The manifest's name.
    pub manifest: String,
    /// Its file.
    pub manifest_file: PathBuf,
    /// The module's file.
    pub module_file: PathBuf,
    /// Of the module.
    pub sha256: String,
}

/// Where the files belong, as absolute paths.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Origin {
    manifest: PathBuf,
    module: PathBuf,
}

/// What is kept of one manifest.
#[derive(Debug, Clone)]
pub struct Kept {
    folder: PathBuf,
}

impl Kept {
    /// What is kept of the manifest `name` in the state folder.
    pub fn new(state_dir: &Path, name: &str) -> Self {
        Self { folder: state_dir.join(FOLDER).join(name) }
    }

    /// Writes down the files of a policy that may be at work soon. The module that is built in comes from no file.
    ///
    /// # Errors
    /// The system's word.
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

    /// The policy last staged is at work now; the one until now is the previous one, unless it is the same.
    ///
    /// # Errors
    /// The system's word.
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
    let is_signed_alike = fs::read(a.join(SIGNATURE)).ok() == fs::read(b.join(SIGNATURE)).ok();
    is_signed_alike && [MODULE, MANIFEST, ORIGIN].iter().all(is_same)
}

/// Puts the files of the last policy of manifest `name` that worked back where they came from: that of the one at work, if
/// they are others by now, else that of the one before. Twice is there and back.
///
/// # Errors
/// [`RollbackError`]; nothing is half written then, though the module may be back and the manifest not.
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

/// Readers see the old file or the new one, and may what they might before. One that is as it should be already is left
/// alone. A link gives way to a file: what it leads to is somebody's release.
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

    struct Place {
        folder: TempDir,
    }

    impl Place {
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

        /// As when it was loaded and is at work now.
        fn run(&self, module: &str, manifest: &str) {
            let kept = Kept::new(self.folder.path(), "apps");
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
    fn the_files_before_come_back_module_and_manifest_and_twice_is_there_and_back() {
        let place = Place::new();
        place.run("one", "1");
        place.run("two", "2");
        place.run("two", "2");
        let back = place.roll_back().expect("there is one before");
        assert_eq!((place.module(), back.sha256), ("one".to_owned(), sha256_hex(b"one")));
        assert!(fs::read_to_string(place.file("apps.json")).expect("a file").contains(r#""a": "1""#));
        place.run("one", "1");
        place.roll_back().expect("there is one before");
        assert_eq!(place.module(), "two");
    }

    #[test]
    fn a_signature_comes_back_with_its_module() {
        let place = Place::new();
        for version in ["one", "two"] {
            fs::write(place.file("p.wasm.minisig"), format!("signature of {version}")).expect("a file");
            place.run(version, "1");
        }
        place.roll_back().expect("there is one before");
        let signature = fs::read_to_string(place.file("p.wasm.minisig")).expect("a file");
        assert_eq!((place.module(), signature), ("one".to_owned(), "signature of one".to_owned()));
    }

    #[test]
    fn files_that_never_worked_give_way_to_those_at_work() {
        let place = Place::new();
        place.run("one", "1");
        place.write("broken", "1");
        place.roll_back().expect("the one at work");
        assert_eq!(place.module(), "one");
        let again = place.roll_back().expect_err("nothing else is known").to_string();
        assert!(again.contains("only policy"), "{again}");
    }

    #[test]
    fn a_file_keeps_who_may_read_it_and_what_a_link_leads_to_stays() {
        let place = Place::new();
        place.run("one", "1");
        place.run("two", "2");
        fs::set_permissions(place.file("apps.json"), Permissions::from_mode(0o600)).expect("it is ours");
        fs::rename(place.file("p.wasm"), place.file("release-2.wasm")).expect("renamed");
        symlink(place.file("release-2.wasm"), place.file("p.wasm")).expect("a link");
        place.roll_back().expect("there is one before");
        let mode = fs::metadata(place.file("apps.json")).expect("a file").permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        assert_eq!(fs::read_to_string(place.file("release-2.wasm")).expect("a file"), "two");
        assert_eq!(place.module(), "one");
    }

    #[test]
    fn a_name_that_is_not_kept_is_refused_with_those_that_are() {
        let place = Place::new();
        place.run("one", "1");
        for name in ["web", "../apps", "", "."] {
            let error = roll_back(place.folder.path(), name).expect_err("not kept").to_string();
            assert!(error.contains("there are: apps"), "{name}: {error}");
        }
    }
}

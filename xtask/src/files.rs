//! Where things are: the workspace, the build folder, and writes that keep a file's time when nothing changed.

use std::{
    fs,
    path::{Path, PathBuf},
};

use crate::error::{Context as _, Result};

/// The workspace's folder. Cargo tells it when it runs us; a binary started by hand falls back to where it was built.
pub(crate) fn workspace() -> PathBuf {
    let package =
        std::env::var_os("CARGO_MANIFEST_DIR").map_or_else(|| env!("CARGO_MANIFEST_DIR").into(), PathBuf::from);
    package.parent().map_or_else(|| package.clone(), Path::to_path_buf)
}

/// Where builds go, absolute: `CARGO_TARGET_DIR`, or `target` in the workspace.
pub(crate) fn target(workspace: &Path) -> PathBuf {
    workspace.join(std::env::var_os("CARGO_TARGET_DIR").unwrap_or_else(|| "target".into()))
}

/// Writes `bytes` unless the file has them already, in one step (rename). True when it was written.
pub(crate) fn write_if_changed(file: &Path, bytes: &[u8]) -> Result<bool> {
    if fs::read(file).is_ok_and(|old| old == bytes) {
        return Ok(false);
    }
    let folder = file.parent().expect("every file that we write has a folder");
    fs::create_dir_all(folder).context(|| format!("create {}", folder.display()))?;
    let beside = file.with_extension(format!("{}.new", std::process::id()));
    fs::write(&beside, bytes).context(|| format!("write {}", beside.display()))?;
    fs::rename(&beside, file).context(|| format!("rename {} into place", beside.display()))?;
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_with_the_same_bytes_is_not_touched() {
        let folder = std::env::temp_dir().join(format!("xtask-files-{}", std::process::id()));
        let file = folder.join("deep/plugin.wasm");
        assert!(write_if_changed(&file, b"one").expect("a fresh folder"));
        assert!(!write_if_changed(&file, b"one").expect("the same bytes"));
        assert!(write_if_changed(&file, b"two").expect("other bytes"));
        assert_eq!(fs::read(&file).expect("it was written"), b"two");
        fs::remove_dir_all(folder).expect("it is ours");
    }
}

//! Builds the policy plugin and puts it in the one place where the host's build and the tests look for it.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use crate::{
    error::{Context as _, Result},
    files,
    process::{self, capture},
    say::say,
    toolchain::{Toolchain, WASI},
};

/// What cargo calls the result.
const BUILT: &str = "wasm32-wasip1/plugin/imagewatch_plugin.wasm";

/// Builds it, below `target`, and returns the file's absolute path. The file's bytes and time change only when the
/// plugin did, so that the host, which embeds it, is not built again for nothing.
pub(crate) fn build(toolchain: &Toolchain, workspace: &Path, target: &Path) -> Result<PathBuf> {
    let mut cargo = toolchain.cargo_wasm("build", WASI);
    process::run(cargo.args(["-p", "imagewatch-plugin", "--profile", "plugin"]).current_dir(workspace))?;
    let built = target.join(BUILT);
    let bytes = fs::read(&built).context(|| format!("read {}", built.display()))?;
    let file = target.join("plugin/imagewatch.wasm");
    let news = if files::write_if_changed(&file, &bytes)? { "new" } else { "unchanged" };
    let digest = capture(Command::new("sha256sum").arg(&file));
    let digest = digest.as_deref().and_then(|line| line.split(' ').next()).unwrap_or("unknown, no sha256sum here");
    say!("xtask: plugin: {} ({news}), {} bytes, sha256 {digest}", file.display(), bytes.len());
    Ok(file)
}

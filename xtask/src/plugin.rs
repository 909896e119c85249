//! Builds the policies and puts them in the one place where the host's build and the tests look for them.

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

/// The built policies, as absolute paths.
pub(crate) struct Policies {
    /// The default one, which the host embeds.
    pub(crate) imagewatch: PathBuf,
    /// The small one of the tests.
    pub(crate) weekdays: PathBuf,
}

/// Builds both below `target`.
pub(crate) fn build(toolchain: &Toolchain, workspace: &Path, target: &Path) -> Result<Policies> {
    let build = |package, name| build_one(toolchain, workspace, target, package, name);
    Ok(Policies {
        imagewatch: build("imagewatch-plugin", "imagewatch")?,
        weekdays: build("imagewatch-weekdays", "weekdays")?,
    })
}

/// The file's bytes and time change only when the policy did, so that the host, which embeds it, is not built again for
/// nothing. Each is built by a command of its own: one may not choose the features of what the other depends on.
fn build_one(toolchain: &Toolchain, workspace: &Path, target: &Path, package: &str, name: &str) -> Result<PathBuf> {
    let mut cargo = toolchain.cargo_wasm("build", WASI);
    process::run(cargo.args(["-p", package, "--profile", "plugin"]).current_dir(workspace))?;
    let built = target.join(WASI).join("plugin").join(package.replace('-', "_")).with_extension("wasm");
    let bytes = fs::read(&built).context(|| format!("read {}", built.display()))?;
    let file = target.join("plugin").join(name).with_extension("wasm");
    let news = if files::write_if_changed(&file, &bytes)? { "new" } else { "unchanged" };
    let digest = capture(Command::new("sha256sum").arg(&file));
    let digest = digest.as_deref().and_then(|line| line.split(' ').next()).unwrap_or("unknown, no sha256sum here");
    say!("xtask: plugin: {} ({news}), {} bytes, sha256 {digest}", file.display(), bytes.len());
    Ok(file)
}

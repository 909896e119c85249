//! Builds the policies and puts them in the one place where the host's build and the tests look for them.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use crate::{
    error::{Context as _, Result},
    files, packages,
    process::{self, capture},
    say::say,
    toolchain::{Toolchain, WASI},
};

/// What rustc lets a module of ours use, and no more: with `--all-features` the result is refused by wasmtime.
const WASM_OPT: [&str; 7] = [
    "-Oz",
    "--enable-bulk-memory",
    "--enable-multivalue",
    "--enable-mutable-globals",
    "--enable-nontrapping-float-to-int",
    "--enable-reference-types",
    "--enable-sign-ext",
];

/// The built policies, as absolute paths.
pub(crate) struct Policies {
    /// The default one, which the host embeds.
    pub(crate) imagewatch: PathBuf,
    /// The small one of the tests.
    pub(crate) weekdays: PathBuf,
}

/// Builds both below `target`.
pub(crate) fn build(toolchain: &Toolchain, workspace: &Path, target: &Path) -> Result<Policies> {
    let wasm_opt = packages::provide_wasm_opt()?;
    let build = |package, name| {
        let built = build_one(toolchain, workspace, target, package)?;
        shrink(&wasm_opt, &built, &target.join("plugin").join(name).with_extension("wasm"))
    };
    Ok(Policies {
        imagewatch: build("imagewatch-plugin", "imagewatch")?,
        weekdays: build("imagewatch-weekdays", "weekdays")?,
    })
}

/// Each is built by a command of its own: one may not choose the features of what the other depends on.
fn build_one(toolchain: &Toolchain, workspace: &Path, target: &Path, package: &str) -> Result<PathBuf> {
    let mut cargo = toolchain.cargo_wasm("build", WASI);
    process::run(cargo.args(["-p", package, "--profile", "plugin"]).current_dir(workspace))?;
    Ok(target.join(WASI).join("plugin").join(package.replace('-', "_")).with_extension("wasm"))
}

/// The file's bytes and time change only when the policy did, so that the host, which embeds it, is not built again for
/// nothing.
fn shrink(wasm_opt: &Path, built: &Path, file: &Path) -> Result<PathBuf> {
    let bytes = fs::read(built).context(|| format!("read {}", built.display()))?;
    let is_new = files::write_if_changed(&file.with_extension("built.wasm"), &bytes)? || !file.is_file();
    if is_new {
        let shrunk = file.with_extension("shrunk.wasm");
        process::run(Command::new(wasm_opt).args(WASM_OPT).arg(built).arg("-o").arg(&shrunk))?;
        fs::rename(&shrunk, file).context(|| format!("rename {} into place", shrunk.display()))?;
    }
    let size = fs::metadata(file).context(|| format!("read {}", file.display()))?.len();
    let digest = capture(Command::new("sha256sum").arg(file));
    let digest = digest.as_deref().and_then(|line| line.split(' ').next()).unwrap_or("unknown, no sha256sum here");
    let news = if is_new { "new" } else { "unchanged" };
    say!("xtask: plugin: {} ({news}), {size} bytes, sha256 {digest}", file.display());
    Ok(file.to_owned())
}

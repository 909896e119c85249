//! `cargo xtask lint`: what must hold of the text of every commit.

use super::{layers, rules, snippets};
use crate::{
    error::Result,
    process,
    session::{NATIVE, Session},
    stages::Stages,
    toolchain::WASI,
};

const DENY_WARNINGS: [&str; 3] = ["--", "-D", "warnings"];

/// Runs every check, whichever fails. Builds the plugin first, as the host embeds it.
pub(crate) fn lint() -> Result<()> {
    let mut stages = Stages::new();
    let session = Session::open(&mut stages)?;
    stages.check("format", || process::run(session.cargo("fmt").args(["--all", "--check"])))?;
    stages.check("file lengths", || rules::check_lengths(session.workspace()))?;
    stages.check("code on pages", || snippets::check_snippets(session.workspace()))?;
    stages.check("layers of the program", || layers::check_layers(&session.workspace().join("host-harness/src")))?;
    stages.check("who depends on whom", || rules::check_dependencies(&session))?;
    stages.check("clippy", || {
        // xtask too: it is in the workspace, only the plugin builds for nothing but wasm.
        let mut cargo = session.cargo("clippy");
        process::run(cargo.args(NATIVE).arg("--all-targets").args(DENY_WARNINGS))
    })?;
    stages.check("clippy of the policies", || {
        let mut cargo = session.cargo_wasm("clippy", WASI);
        process::run(cargo.args(["-p", "imagewatch-plugin", "-p", "imagewatch-weekdays"]).args(DENY_WARNINGS))
    })?;
    stages.check("documentation", || {
        let mut cargo = session.cargo("doc");
        // With the examples: like the tests of clippy's stage they bring the dependencies for development in, without
        // which all dependencies would be checked once more, with other features.
        cargo.args(NATIVE).args(["--no-deps", "--lib", "--examples"]);
        // Not imagewatch itself, whose pages would take the place of the library's.
        cargo.args(["--bin", "imagewatch-demo", "--bin", "imagewatch-bench", "--bin", "xtask"]);
        process::run(cargo.env("RUSTDOCFLAGS", "-D warnings"))
    })?;
    stages.finish()
}

//! The verbs: which stages each has, in which order. How a stage works is in the other modules.

mod layers;
mod lint;
mod rules;
mod snippets;
mod test;

use crate::{
    engine::Release,
    error::Result,
    process,
    session::{NATIVE, Session, WITHOUT_XTASK},
    stages::Stages,
};
pub(crate) use {lint::lint, test::test};

/// Everything that the other verbs need, and nothing more.
pub(crate) fn setup() -> Result<()> {
    let mut stages = Stages::new();
    let mut session = Session::open(&mut stages)?;
    session.add_packages(&mut stages).map(drop)
}

/// Only the plugin.
pub(crate) fn plugin() -> Result<()> {
    Session::open(&mut Stages::new()).map(drop)
}

/// The demonstration, in the dev profile: its dependencies are optimised there too, and it builds faster.
pub(crate) fn demo(arguments: &[String]) -> Result<()> {
    with_engine("imagewatch-demo", "debug", arguments)
}

/// The measurements.
pub(crate) fn bench(arguments: &[String]) -> Result<()> {
    with_engine("imagewatch-bench", "release", arguments)
}

/// Builds the host and a program of the tests' package, and runs that against an engine.
fn with_engine(name: &'static str, profile: &str, arguments: &[String]) -> Result<()> {
    let mut stages = Stages::new();
    let mut session = Session::open(&mut stages)?;
    let mut build = session.cargo("build");
    build.args(["-p", "imagewatch", "-p", "imagewatch-tests", "--bin", "imagewatch", "--bin", name]);
    if profile == "release" {
        build.arg("--release");
    }
    stages.need("build", || process::run(&mut build))?;
    session.use_binary_of(profile);
    let _engine = session.add_engine(&mut stages, Release::System)?;
    let arguments = arguments.strip_prefix(["--".to_owned()].as_slice()).unwrap_or(arguments);
    stages.need(name, || process::run(session.program(&session.built(profile, name)).args(arguments)))
}

/// Builds the binary that the end-to-end tests start, with the features that the tests' own build has.
fn build_binary(session: &mut Session) -> Result<()> {
    // With the tests: cargo chooses the dependencies' features with those of the tests then, as the next stage
    // does, and builds wasmtime once instead of twice.
    process::run(session.cargo("build").args(NATIVE).args(WITHOUT_XTASK).args(["--bin", "imagewatch", "--tests"]))?;
    session.use_binary_of("debug");
    Ok(())
}

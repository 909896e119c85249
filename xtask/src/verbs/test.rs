//! `cargo xtask test`: the workspace against a real engine, xtask itself, the decisions as wasm under Node, and the
//! built policies under other control planes.

use super::build_binary;
use crate::{
    bindgen,
    control_planes::ControlPlanes,
    error::Result,
    packages, process,
    session::{NATIVE, Session, WITHOUT_XTASK},
    stages::Stages,
    toolchain::BARE,
};

const RUNNER: &str = "CARGO_TARGET_WASM32_UNKNOWN_UNKNOWN_RUNNER";

/// Runs every test, or with filters only the workspace's that match one. Every stage runs, whichever fails.
pub(crate) fn test(filters: &[String]) -> Result<()> {
    let mut stages = Stages::new();
    let mut session = Session::open(&mut stages)?;
    let is_all = filters.is_empty();
    // Before the long builds, so that a missing Node is told at once.
    let runner = if is_all { Some(stages.need("wasm test runner", || bindgen::provide(&session))?) } else { None };
    if is_all {
        let planes = ControlPlanes::new(&session);
        stages.check("policies under Python", || planes.play_in_python())?;
        stages.check("policies under Node", || planes.play_in_node())?;
    }
    stages.check("Podman", packages::provide_podman)?;
    stages.need("build", || build_binary(&mut session))?;
    let engine = session.add_engine(&mut stages)?;
    stages.check("workspace tests", || {
        let mut cargo = session.cargo("test");
        cargo.args(NATIVE).args(WITHOUT_XTASK).arg("--no-fail-fast");
        process::run(cargo.arg("--").args(filters.iter().filter(|word| *word != "--")))
    })?;
    drop(engine);
    if let Some(runner) = runner {
        stages.check("tests of xtask and of the plugin's glue", || {
            process::run(session.cargo("test").args(["-p", "xtask", "-p", "imagewatch-plugin"]))
        })?;
        stages.check("core tests as wasm under Node", || {
            let mut cargo = session.cargo_wasm("test", BARE);
            // --tests leaves the doc tests out: they have no wasm-bindgen entry point.
            process::run(cargo.args(["-p", "imagewatch-core", "--tests"]).env(RUNNER, runner))
        })?;
        stages.check("the same bytes everywhere", || ControlPlanes::new(&session).compare())?;
    }
    stages.finish()
}

//! `cargo xtask test`: the workspace against real engines, xtask itself, the decisions as wasm under Node, and the
//! built policies under other control planes.

use super::build_binary;
use crate::{
    bindgen,
    control_planes::ControlPlanes,
    engine::{self, Release},
    error::{Result, failed},
    packages, process,
    say::say,
    session::{NATIVE, Session, WITHOUT_XTASK},
    stages::Stages,
    toolchain::BARE,
};

const RUNNER: &str = "CARGO_TARGET_WASM32_UNKNOWN_UNKNOWN_RUNNER";

/// The end-to-end modules that CI runs on the modern engine too: those that read facts of images, replace or recover. The
/// others run there in a full run only, to save time.
const ON_MODERN_ENGINE: [&str; 18] = [
    "canary::",
    "commands::",
    "connection::",
    "failing::",
    "faults::",
    "filtered::",
    "first_use::",
    "gate::",
    "groups::",
    "image_facts::",
    "itself::",
    "killed::t23_t25_a_kill_at_any_event",
    "labels::",
    "moving::",
    "pulls::f01",
    "pulls::k6",
    "services::",
    "steps::",
];

/// What the command line asks for.
#[derive(Debug, Default, PartialEq, Eq)]
struct Options {
    /// Every end-to-end test on every engine.
    is_full: bool,
    /// The only engine to test on.
    engine: Option<Release>,
    /// Parts of test names, and options of the test program.
    filters: Vec<String>,
}

impl Options {
    fn parse(arguments: &[String]) -> Result<Self> {
        let mut options = Self::default();
        let mut rest = arguments.iter();
        while let Some(argument) = rest.next() {
            match argument.as_str() {
                "--full" => options.is_full = true,
                "--engine" => {
                    let name = rest.next().map(String::as_str).unwrap_or_default();
                    options.engine = Some(Release::parse(name).map_or_else(|| unknown_engine(name), Ok)?);
                }
                "--" => options.filters.extend(rest.by_ref().cloned()),
                _ => options.filters.push(argument.clone()),
            }
        }
        Ok(options)
    }

    /// The engines to run on, each with whether every end-to-end test runs there.
    fn passes(&self) -> Vec<(Release, bool)> {
        let every = |release| (release, true);
        match self.engine {
            Some(release) => vec![every(release)],
            None if self.is_full => Release::ALL.map(every).into(),
            None if !self.filters.is_empty() => vec![every(Release::System)],
            None => vec![every(Release::System), (Release::ModernContainerd, false)],
        }
    }

    /// Whether the tests that need no engine run too.
    fn is_whole(&self) -> bool {
        self.filters.is_empty() && self.engine.is_none()
    }
}

fn unknown_engine<T>(name: &str) -> Result<T> {
    let names = Release::ALL.map(Release::name).join(", ");
    failed(format!("--engine {name:?} is unknown; the engines are {names}"))
}

/// Runs every test, or with filters only the workspace's that match one. A failed stage does not stop the next one.
pub(crate) fn test(arguments: &[String]) -> Result<()> {
    let options = Options::parse(arguments)?;
    let mut passes = options.passes();
    if let Some(host) = engine::find_existing() {
        if options.is_full || options.engine.is_some() {
            return failed(format!("--full and --engine start engines, and one answers at {host} already: stop it"));
        }
        say!("xtask: all tests run on the engine at {host}, which answers already");
        passes.truncate(1);
    }
    let mut stages = Stages::new();
    let mut session = Session::open(&mut stages)?;
    // Before the long builds, so that a missing Node is reported at once.
    let runner =
        if options.is_whole() { Some(stages.need("wasm test runner", || bindgen::provide(&session))?) } else { None };
    if options.is_whole() {
        let planes = ControlPlanes::new(&session);
        stages.check("policies under Python", || planes.play_in_python())?;
        stages.check("policies under Node", || planes.play_in_node())?;
    }
    stages.check("Podman", packages::provide_podman)?;
    stages.need("build", || build_binary(&mut session))?;
    for (release, is_every) in passes {
        test_on(&mut session, &mut stages, release, is_every, &options)?;
    }
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

/// The workspace's tests on one engine, which is stopped afterwards. Unit tests run on the first engine of a run only.
fn test_on(
    session: &mut Session,
    stages: &mut Stages,
    release: Release,
    is_every: bool,
    options: &Options,
) -> Result<()> {
    let _engine = session.add_engine(stages, release)?;
    let stage = match release {
        Release::System => "workspace tests on the system's engine",
        Release::Modern => "end-to-end tests on a modern engine, graph driver",
        Release::ModernContainerd => "end-to-end tests on a modern engine, containerd store",
    };
    stages.check(stage, || {
        let mut cargo = session.cargo("test");
        cargo.args(NATIVE).args(WITHOUT_XTASK).arg("--no-fail-fast");
        if release != Release::System {
            cargo.args(["--test", "e2e"]);
        }
        cargo.arg("--").args(&options.filters);
        if !is_every {
            cargo.args(ON_MODERN_ENGINE);
        }
        process::run(&mut cargo)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<Options> {
        Options::parse(&line.split_whitespace().map(str::to_owned).collect::<Vec<_>>())
    }

    #[test]
    fn the_command_line_chooses_engines_and_tests() {
        let (system, modern, containerd) = (Release::System, Release::Modern, Release::ModernContainerd);
        for (name, line, passes, filters, is_whole) in [
            ("the lane of CI", "", vec![(system, true), (containerd, false)], "", true),
            ("everything", "--full", vec![(system, true), (modern, true), (containerd, true)], "", true),
            ("one engine", "--engine modern", vec![(modern, true)], "", false),
            ("some tests", "gate:: -- --nocapture", vec![(system, true)], "gate:: --nocapture", false),
            ("both", "--engine modern-containerd f03", vec![(containerd, true)], "f03", false),
        ] {
            let options = parse(line).expect(name);
            assert_eq!((options.passes(), options.filters.join(" ")), (passes, filters.to_owned()), "{name}");
            assert_eq!(options.is_whole(), is_whole, "{name}");
        }
        for line in ["--engine", "--engine docker"] {
            let error = parse(line).expect_err(line).to_string();
            assert!(error.contains("system, modern, modern-containerd"), "{error}");
        }
    }
}

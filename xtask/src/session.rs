//! What every verb that builds the host works with: folders, toolchain, the built plugin, and the environment that
//! its children get.

use std::{
    ffi::{OsStr, OsString},
    path::{Path, PathBuf},
    process::Command,
};

use crate::{
    engine::{self, Engine, Release},
    error::Result,
    files, packages,
    plugin::{self, Policies},
    stages::Stages,
    toolchain::{self, Toolchain},
};

/// The rooms of the workspace that build for the machine we are on. One choice of packages and features for the stages of
/// lint and test: with another, cargo would build the dependencies once more.
pub(crate) const NATIVE: [&str; 5] =
    ["--workspace", "--features", "imagewatch-abi/schema", "--exclude", "imagewatch-plugin"];
pub(crate) const WITHOUT_XTASK: [&str; 2] = ["--exclude", "xtask"];

/// A chosen toolchain and the built policies.
pub(crate) struct Session {
    workspace: PathBuf,
    target: PathBuf,
    toolchain: Toolchain,
    policies: Policies,
    environment: Vec<(&'static str, OsString)>,
}

impl Session {
    /// Chooses the toolchain and builds the policies.
    pub(crate) fn open(stages: &mut Stages) -> Result<Self> {
        let workspace = files::workspace();
        let target = files::target(&workspace);
        let toolchain = stages.need("toolchain", toolchain::choose)?;
        let policies = stages.need("plugin", || plugin::build(&toolchain, &workspace, &target))?;
        let environment = vec![
            ("IMAGEWATCH_PLUGIN_WASM", policies.imagewatch.clone().into()),
            ("IMAGEWATCH_WEEKDAYS_WASM", policies.weekdays.clone().into()),
        ];
        Ok(Self { workspace, target, toolchain, policies, environment })
    }

    /// Finds or installs the system programs that the tests start, and those for an engine when none answers.
    /// Returns the address of the engine that does.
    pub(crate) fn add_packages(&mut self, stages: &mut Stages) -> Result<Option<String>> {
        stages.need("system packages", || {
            let existing = engine::find_existing();
            let programs = packages::provide(existing.is_none())?;
            self.set("IMAGEWATCH_BUSYBOX", programs.busybox);
            self.set("IMAGEWATCH_DOCKER_REGISTRY", programs.docker_registry);
            Ok(if programs.is_new { engine::find_existing() } else { existing })
        })
    }

    /// Finds an engine or starts one of `release`; it lives as long as the returned value. Engines that the tests start
    /// themselves are of the same release.
    pub(crate) fn add_engine(&mut self, stages: &mut Stages, release: Release) -> Result<Engine> {
        let existing = self.add_packages(stages)?;
        let is_private = existing.is_none();
        let engine = stages.need("engine", || engine::provide(existing, &self.target, release))?;
        self.set("DOCKER_HOST", engine.host());
        if is_private {
            self.set("PATH", release.search_path(&self.target)?);
            self.set("IMAGEWATCH_DOCKERD_OPTIONS", release.store_options().join(" "));
        }
        Ok(engine)
    }

    /// Tells the children where the imagewatch binary of this profile folder (`debug`, `release`) is.
    pub(crate) fn use_binary_of(&mut self, profile: &str) {
        self.set("IMAGEWATCH_BIN", self.built(profile, "imagewatch"));
    }

    /// A binary that cargo has built.
    pub(crate) fn built(&self, profile: &str, name: &str) -> PathBuf {
        self.target.join(profile).join(name)
    }

    /// The built policies.
    pub(crate) fn policies(&self) -> &Policies {
        &self.policies
    }

    /// The workspace's folder.
    pub(crate) fn workspace(&self) -> &Path {
        &self.workspace
    }

    /// The build folder.
    pub(crate) fn target(&self) -> &Path {
        &self.target
    }

    /// A cargo command for this machine, with the children's environment.
    pub(crate) fn cargo(&self, subcommand: &str) -> Command {
        self.equip(self.toolchain.cargo(subcommand))
    }

    /// A cargo command for a wasm target, with the children's environment.
    pub(crate) fn cargo_wasm(&self, subcommand: &str, target: &str) -> Command {
        self.equip(self.toolchain.cargo_wasm(subcommand, target))
    }

    /// A program, with the children's environment.
    pub(crate) fn program(&self, file: &Path) -> Command {
        self.equip(Command::new(file))
    }

    fn equip(&self, mut command: Command) -> Command {
        command.current_dir(&self.workspace);
        command.envs(self.environment.iter().map(|(name, value)| (name, value)));
        command
    }

    fn set(&mut self, name: &'static str, value: impl AsRef<OsStr>) {
        self.environment.push((name, value.as_ref().to_owned()));
    }
}

//! Runs the real `imagewatch` binary as an operator would: arguments, environment, output, signals, exit code.

use std::env;
use std::ffi::OsStr;
use std::path::PathBuf;
use std::process::Command;

use tempfile::TempDir;

use crate::components;
use crate::process::Process;

/// The program's file, for a test that runs it in a container.
pub fn imagewatch() -> PathBuf {
    components::imagewatch()
}

/// The variable that names the state folder, which only one `imagewatch run` may have.
pub const STATE_DIR: &str = "IMAGEWATCH_STATE_DIR";

/// Starts `imagewatch` with `args` against the engine at `docker_host` (`unix:///…`).
/// Its environment holds that, `PATH`, `HOME` and `envs`, and nothing of the test's own; its state folder
/// is its own and goes with it, unless `envs` names one in [`STATE_DIR`].
/// It is killed when the returned [`Process`] is dropped.
pub fn start_imagewatch<Arg: AsRef<OsStr>>(
    docker_host: &str,
    args: impl IntoIterator<Item = Arg>,
    envs: &[(&str, &str)],
) -> Process {
    let kept = ["PATH", "HOME"].into_iter().filter_map(|name| Some((name, env::var_os(name)?)));
    let mut command = Command::new(components::imagewatch());
    command.args(args).env_clear().envs(kept).env("DOCKER_HOST", docker_host).envs(envs.iter().copied());
    let is_named = envs.iter().any(|(name, _)| *name == STATE_DIR);
    let folder = (!is_named).then(|| TempDir::new().expect("the temp folder takes folders"));
    command.envs(folder.iter().map(|folder| (STATE_DIR, folder.path())));
    Process::start_in(command, folder)
}

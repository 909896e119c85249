//! Runs the real `imagewatch` binary as an operator does: arguments, environment, output, signals, exit code.

use std::env;
use std::ffi::OsStr;
use std::path::PathBuf;
use std::process::Command;

use tempfile::TempDir;

use crate::components;
use crate::process::Process;

/// The path of the program, for a test that runs it in a container.
pub fn imagewatch() -> PathBuf {
    components::imagewatch()
}

/// The variable for the state folder. Only one `imagewatch run` may use a state folder.
pub const STATE_DIR: &str = "IMAGEWATCH_STATE_DIR";

/// Starts `imagewatch` with `args` against the engine at `docker_host` (`unix:///…`).
/// The program's environment contains only `DOCKER_HOST`, `PATH`, `HOME` and `envs`. The program gets a temporary state
/// folder, unless `envs` sets [`STATE_DIR`].
/// Dropping the returned [`Process`] kills the program.
pub fn start_imagewatch<Arg: AsRef<OsStr>>(
    docker_host: &str,
    args: impl IntoIterator<Item = Arg>,
    envs: &[(&str, &str)],
) -> Process {
    let kept = ["PATH", "HOME"].into_iter().filter_map(|name| Some((name, env::var_os(name)?)));
    let mut command = Command::new(components::imagewatch());
    command.args(args).env_clear().envs(kept).env("DOCKER_HOST", docker_host).envs(envs.iter().copied());
    let is_named = envs.iter().any(|(name, _)| *name == STATE_DIR);
    let folder = (!is_named).then(|| TempDir::new().expect("the temp folder is writable"));
    command.envs(folder.iter().map(|folder| (STATE_DIR, folder.path())));
    Process::start_in(command, folder)
}

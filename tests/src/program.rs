//! Runs the real `imagewatch` binary as an operator would: arguments, environment, output, signals, exit code.

use std::env;
use std::ffi::OsStr;
use std::process::Command;

use crate::components;
use crate::process::Process;

/// Starts `imagewatch` with `args` against the engine at `docker_host` (`unix:///…`).
/// Its environment holds that, `PATH`, `HOME` and `envs`, and nothing of the test's own.
/// It is killed when the returned [`Process`] is dropped.
pub fn start_imagewatch<Arg: AsRef<OsStr>>(
    docker_host: &str,
    args: impl IntoIterator<Item = Arg>,
    envs: &[(&str, &str)],
) -> Process {
    let kept = ["PATH", "HOME"].into_iter().filter_map(|name| Some((name, env::var_os(name)?)));
    let mut command = Command::new(components::imagewatch());
    command.args(args).env_clear().envs(kept).env("DOCKER_HOST", docker_host).envs(envs.iter().copied());
    Process::start(command)
}
